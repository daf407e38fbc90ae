// GET one URL through the mesh: get mesh.yaml http://reviews/reviews/0
#include <mesh.h>
#include <stdio.h>

static int fail(mesh_error *err) {
  fprintf(stderr, "%s: %s\n", mesh_error_name(err).ptr, mesh_error_message(err).ptr);
  mesh_error_free(err);
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  mesh_error *err = NULL;
  mesh_config *config;
  mesh *mesh;
  mesh_request *request;
  mesh_response *response;
  if (mesh_config_load_file(mesh_strz(argv[1]), &config, &err)) return fail(err);
  if (mesh_open(NULL, config, &mesh, &err)) return fail(err);
  if (mesh_request_new(mesh, MESH_STR("GET"), mesh_strz(argv[2]), &request, &err)) return fail(err);
  if (mesh_call(mesh, request, &response, &err)) return fail(err);

  fprintf(stderr, "HTTP %d\n", mesh_response_status(response));
  mesh_buf *chunk;
  while (mesh_response_read(response, &chunk, &err) == MESH_OK && chunk) {
    fwrite(mesh_buf_bytes(chunk).ptr, 1, mesh_buf_bytes(chunk).len, stdout);
    mesh_buf_free(chunk);
  }
  mesh_response_free(response);
  mesh_request_free(request);
  mesh_close(mesh, 1000000000, NULL);
  mesh_free(mesh);
  mesh_config_free(config);
  return err ? fail(err) : 0;
}
