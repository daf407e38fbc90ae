// Many GETs at once from one epoll loop: epoll mesh.yaml http://reviews/reviews/0 100
#include <mesh.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>

enum { BATCH = 64 };

static int fail(mesh_error *err) {
  fprintf(stderr, "%s: %s\n", mesh_error_name(err).ptr, mesh_error_message(err).ptr);
  mesh_error_free(err);
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  mesh_error *err = NULL;
  mesh_config *config;
  mesh *mesh;
  mesh_cq *queue;
  if (mesh_config_load_file(mesh_strz(argv[1]), &config, &err)) return fail(err);
  if (mesh_open(NULL, config, &mesh, &err)) return fail(err);
  if (mesh_cq_new(mesh, NULL, &queue, &err)) return fail(err);

  size_t got, left = strtoul(argv[3], NULL, 10), ok = 0;
  for (size_t i = 0; i < left; i++) {
    mesh_request *request;
    if (mesh_request_new(mesh, MESH_STR("GET"), mesh_strz(argv[2]), &request, &err)) return fail(err);
    // The queue owns the request now; small answers come with their body.
    mesh_op submit = {.kind = MESH_OP_SUBMIT, .tag = i, .handle = request, .arg = 64 * 1024};
    if (mesh_cq_exchange(queue, &submit, 1, sizeof(submit), NULL, 0, 0, &got, 0, &err)) return fail(err);
  }

  int loop = epoll_create1(0);
  struct epoll_event interest = {.events = EPOLLIN}, ready;
  epoll_ctl(loop, EPOLL_CTL_ADD, mesh_cq_fd(queue), &interest);
  while (left > 0 && epoll_wait(loop, &ready, 1, -1) >= 0) {
    mesh_event events[BATCH];
    mesh_op frees[BATCH];
    if (mesh_cq_exchange(queue, NULL, 0, 0, events, BATCH, sizeof(mesh_event), &got, 0, &err)) return fail(err);
    for (size_t i = 0; i < got; i++, left--) {
      ok += events[i].code == MESH_OK && events[i].arg == 200;
      frees[i] = (mesh_op){.kind = MESH_OP_RELEASE, .handle = events[i].handle,
                           .arg = events[i].code == MESH_OK ? MESH_HANDLE_RESPONSE : MESH_HANDLE_ERROR};
    }
    size_t none;
    if (mesh_cq_exchange(queue, frees, got, sizeof(mesh_op), NULL, 0, 0, &none, 0, &err)) return fail(err);
  }
  printf("%zu answered with 200\n", ok);
  mesh_close(mesh, 1000000000, NULL);
  mesh_cq_free(queue);
  mesh_free(mesh);
  mesh_config_free(config);
  return 0;
}
