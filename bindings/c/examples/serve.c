// Serve the listener `inbound` of a configuration: serve mesh.yaml. SIGINT or SIGTERM ends it.
#include <mesh.h>
#include <signal.h>
#include <stdio.h>

static mesh_cq *queue;
static volatile sig_atomic_t stopping;

static void on_signal(int number) {
  (void)number;
  stopping = 1;
  mesh_cq_wake(queue);  // safe in a signal handler
}

static int fail(mesh_error *err) {
  fprintf(stderr, "%s: %s\n", mesh_error_name(err).ptr, mesh_error_message(err).ptr);
  mesh_error_free(err);
  return 1;
}

// Calls made in here with mesh_call continue the caller's trace and deadline by themselves.
static int32_t hello(void *userdata, mesh_inbound *inbound) {
  (void)userdata;
  char body[256];
  mesh_str peer = mesh_inbound_peer_id(inbound);
  int length = snprintf(body, sizeof(body), "hello, %.150s\n", peer.len ? peer.ptr : "whoever you are");
  mesh_inbound_header_add(inbound, MESH_STR("content-type"), MESH_BYTES("text/plain", 10), NULL);
  mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_BYTES(body, (size_t)length), NULL);
  return MESH_HANDLED;
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  mesh_error *err = NULL;
  mesh_config *config;
  mesh *mesh;
  mesh_listener *listener;
  if (mesh_config_load_file(mesh_strz(argv[1]), &config, &err)) return fail(err);
  if (mesh_open(NULL, config, &mesh, &err)) return fail(err);
  if (mesh_cq_new(mesh, NULL, &queue, &err)) return fail(err);
  if (mesh_serve(mesh, MESH_STR("inbound"), queue, hello, NULL, &listener, &err)) return fail(err);
  printf("listening on %s\n", mesh_listener_address(listener).ptr);
  fflush(stdout);
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);

  while (!stopping)
    if (mesh_cq_run(queue, -1, &err)) return fail(err);

  mesh_drain(mesh, 1000000000, NULL);
  mesh_close(mesh, 1000000000, NULL);
  mesh_listener_free(listener);
  mesh_cq_free(queue);
  mesh_free(mesh);
  mesh_config_free(config);
  return 0;
}
