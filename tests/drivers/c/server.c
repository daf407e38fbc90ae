// The C server of the stories: says hello to the peer; under /claims, who the end user is and how often it was called.
// server mesh.yaml
#include <mesh.h>
#include <stdio.h>
#include <string.h>

static int fail(mesh_error *err) {
  fprintf(stderr, "%s: %s\n", mesh_error_name(err).ptr, mesh_error_message(err).ptr);
  mesh_error_free(err);
  return 1;
}

// One thread runs the queue.
static unsigned calls;

static int32_t tell_claims(mesh_inbound *inbound) {
  static char body[16 * 1024];
  mesh_str claims = mesh_inbound_claims_json(inbound);
  if (claims.len == 0) claims = MESH_STR("null");
  int length = snprintf(body, sizeof(body), "{\"calls\":%u,\"claims\":%.*s}", ++calls, (int)claims.len, claims.ptr);
  mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_BYTES(body, (size_t)length), NULL);
  return MESH_HANDLED;
}

static int32_t hello(void *userdata, mesh_inbound *inbound) {
  (void)userdata;
  mesh_str path = mesh_inbound_path(inbound);
  if (path.len == 7 && memcmp(path.ptr, "/claims", 7) == 0) return tell_claims(inbound);
  char body[512];
  mesh_str peer = mesh_inbound_peer_id(inbound);
  int length = snprintf(body, sizeof(body), "hello %.*s", (int)(peer.len < 400 ? peer.len : 400), peer.ptr ? peer.ptr : "");
  mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_BYTES(body, (size_t)length), NULL);
  return MESH_HANDLED;
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  mesh_error *err = NULL;
  mesh_config *config;
  mesh *mesh;
  mesh_cq *queue;
  mesh_listener *listener;
  if (mesh_config_load_file(mesh_strz(argv[1]), &config, &err)) return fail(err);
  if (mesh_open(NULL, config, &mesh, &err)) return fail(err);
  if (mesh_cq_new(mesh, NULL, &queue, &err)) return fail(err);
  if (mesh_serve(mesh, MESH_STR("inbound"), queue, hello, NULL, &listener, &err)) return fail(err);
  return mesh_cq_run(queue, -1, &err) ? fail(err) : 0;
}
