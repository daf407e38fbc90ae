// The C++ wrapper, without exceptions: a call to an endpoint that is not there, and every handle freed.
#include "harness.h"
#include "mesh.hpp"

int main() {
  {
    auto refused = libmesh::config::parse("version: 1\nnope: 1\n", "bad.yaml");
    CHECK(!refused && refused.error().name() == "config" && refused.error().detail("file") == "bad.yaml");
    auto config = libmesh::config::parse(
        "version: 1\n"
        "clusters: [ { name: a, endpoints: [ { address: \"127.0.0.1:1\" } ] } ]\n"
        "routes: [ { hosts: [a], rules: [ { backends: [ { cluster: a } ] } ] } ]\n");
    if (!CHECK(static_cast<bool>(config))) return 1;
    auto mesh = libmesh::mesh::open(*config);
    if (!CHECK(static_cast<bool>(mesh))) return 1;
    auto response = mesh->get("http://a/");
    CHECK(!response && response.error().code() == MESH_E_CONNECT && response.error().not_sent());
    auto unknown = mesh->get("http://b/");
    CHECK(!unknown && unknown.error().name() == "no_route");
    auto request = mesh->new_request("POST", "http://a/");
    CHECK(request && request->header("x-a", "b") && !request->header("x a", "b") && request->body("hello"));
    mesh->close();
  }
  return report("cpp");
}
