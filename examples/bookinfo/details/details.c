// details: the facts of a book. A plain C program; certificates, access rules, traces, metrics and the
// farewell when it is drained are the mesh's.
#include <mesh.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char PREFIX[] = "/details/";

static int32_t answer(mesh_inbound *inbound, uint16_t status, const char *body) {
  mesh_inbound_header_add(inbound, MESH_STR("content-type"), MESH_BYTES("application/json", 16), NULL);
  mesh_inbound_respond(inbound, status, MESH_NONE, MESH_BYTES(body, strlen(body)), NULL);
  return MESH_HANDLED;
}

static int32_t details(void *userdata, mesh_inbound *inbound) {
  (void)userdata;
  mesh_str path = mesh_inbound_path(inbound);
  char *end = NULL;
  if (path.len < sizeof(PREFIX) || strncmp(path.ptr, PREFIX, sizeof(PREFIX) - 1) != 0)
    return answer(inbound, 404, "{\"error\":\"not found\"}");
  long id = strtol(path.ptr + sizeof(PREFIX) - 1, &end, 10);
  if (*end != '\0') return answer(inbound, 400, "{\"error\":\"please provide a numeric product id\"}");

  char body[256];
  snprintf(body, sizeof(body),
           "{\"id\":%ld,\"author\":\"William Shakespeare\",\"year\":1595,\"type\":\"paperback\",\"pages\":200,"
           "\"publisher\":\"PublisherA\",\"language\":\"English\",\"ISBN-10\":\"1234567890\"}",
           id);
  return answer(inbound, 200, body);
}

// Says why a call of the library failed, and exits.
static int fail(mesh_error *err) {
  fprintf(stderr, "%s: %s\n", mesh_error_name(err).ptr, mesh_error_message(err).ptr);
  mesh_error_free(err);
  exit(1);
}

static void *work(void *queue) {
  mesh_error *err = NULL;
  if (mesh_cq_run(queue, -1, &err)) fail(err);  // returns after mesh_cq_stop
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s CONFIG\n", argv[0]);
    return 2;
  }
  mesh_error *err = NULL;
  mesh_config *config;
  mesh *mesh;
  mesh_cq *queue;
  mesh_listener *listener;
  if (mesh_config_load_file(mesh_strz(argv[1]), &config, &err)) return fail(err);
  if (mesh_open(NULL, config, &mesh, &err)) return fail(err);
  if (mesh_cq_new(mesh, NULL, &queue, &err)) return fail(err);
  if (mesh_serve(mesh, MESH_STR("inbound"), queue, details, NULL, &listener, &err)) return fail(err);
  printf("details on %s\n", mesh_listener_address(listener).ptr);
  fflush(stdout);

  pthread_t worker;
  if (pthread_create(&worker, NULL, work, queue) != 0) return 1;
  if (mesh_listener_wait(listener, &err)) return fail(err);  // drained: POST /drain on the admin page
  mesh_cq_stop(queue);
  pthread_join(worker, NULL);

  mesh_listener_free(listener);
  mesh_cq_free(queue);
  if (mesh_close(mesh, 1000000000, &err)) return fail(err);
  mesh_free(mesh);
  mesh_config_free(config);
  puts("details has left");
  return 0;
}
