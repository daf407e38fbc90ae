// One mesh that is client and server at once: a listener on a free port of 127.0.0.1, a cluster that
// points to it, and threads that run its queue with the handler of the test.
#ifndef WORLD_H
#define WORLD_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"

enum { MAX_RUNNERS = 4 };

typedef struct world {
  int port;
  mesh *mesh;
  mesh_cq *server;
  mesh_listener *listener;
  pthread_t runners[MAX_RUNNERS];
  int runner_count;
} world;

static const int64_t SECOND = 1000000000;

static inline int free_port(void) {
  struct sockaddr_in address = {0};
  socklen_t length = sizeof(address);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || getsockname(fd, (struct sockaddr *)&address, &length))
    exit(1);
  close(fd);
  return ntohs(address.sin_port);
}

// Hosts: `echo` is the listener, `dead` an endpoint nobody listens on.
static inline mesh_config *world_config(int port, int dead) {
  char text[2048];
  snprintf(text, sizeof(text),
           "version: 1\n"
           "node: { service: test }\n"
           "clusters:\n"
           "  - name: echo\n"
           "    connect_timeout: 10s\n"
           // Answers are broken off on purpose; that must not keep the next test out.
           "    circuit_breaker: { consecutive_failures: 0, min_requests: 0 }\n"
           "    endpoints: [ { address: \"127.0.0.1:%d\" } ]\n"
           "  - name: dead\n"
           "    endpoints: [ { address: \"127.0.0.1:%d\" } ]\n"
           "routes:\n"
           "  - hosts: [echo]\n"
           "    rules: [ { name: all, timeout: 120s, backends: [ { cluster: echo } ] } ]\n"
           "  - hosts: [dead]\n"
           "    rules: [ { backends: [ { cluster: dead } ] } ]\n"
           "listeners:\n"
           "  - { name: inbound, address: \"127.0.0.1:%d\" }\n"
           // The key is the one that RFC 8037 A.1 publishes.
           "policy:\n"
           "  end_users:\n"
           "    - name: test\n"
           "      issuer: test\n"
           "      require_expiration: false\n"
           "      jwks: { inline: '{\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\","
           " \"x\": \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}' }\n",
           port, dead, port);
  mesh_config *config = NULL;
  MUST(mesh_config_parse(bytes_of(text), MESH_STR("world.yaml"), &config, &err));
  return config;
}

static inline void *run_queue(void *cq) {
  mesh_code code = mesh_cq_run(cq, -1, NULL);
  CHECK(code == MESH_OK);
  return NULL;
}

// Without a handler nothing is served.
static inline void world_open(world *w, mesh_handler handler, void *userdata, int runners) {
  memset(w, 0, sizeof(*w));
  w->port = free_port();
  mesh_config *config = world_config(w->port, free_port());
  mesh_options options = MESH_OPTIONS_INIT;
  options.worker_threads = 2;
  options.seed = 7;
  MUST(mesh_open(&options, config, &w->mesh, &err));
  mesh_config_free(config);
  if (!handler) return;
  MUST(mesh_cq_new(w->mesh, NULL, &w->server, &err));
  MUST(mesh_serve(w->mesh, MESH_STR("inbound"), w->server, handler, userdata, &w->listener, &err));
  for (w->runner_count = 0; w->runner_count < runners; w->runner_count++)
    pthread_create(&w->runners[w->runner_count], NULL, run_queue, w->server);
}

static inline void world_close(world *w) {
  MUST(mesh_close(w->mesh, 5 * SECOND, &err));
  for (int i = 0; i < w->runner_count; i++) pthread_join(w->runners[i], NULL);
  mesh_listener_free(w->listener);
  mesh_cq_free(w->server);
  mesh_free(w->mesh);
}

static inline mesh_request *request_to(world *w, const char *method, const char *target) {
  mesh_request *request = NULL;
  MUST(mesh_request_new(w->mesh, mesh_strz(method), mesh_strz(target), &request, &err));
  return request;
}

// Reads to the end into `out` and terminates it; tells the length.
static inline size_t read_all(mesh_response *response, char *out, size_t size) {
  size_t used = 0;
  for (;;) {
    mesh_buf *chunk = NULL;
    MUST(mesh_response_read(response, &chunk, &err));
    if (!chunk) break;
    mesh_bytes bytes = mesh_buf_bytes(chunk);
    if (used + bytes.len < size) memcpy(out + used, bytes.ptr, bytes.len);
    used += bytes.len;
    mesh_buf_free(chunk);
  }
  out[used < size ? used : size - 1] = 0;
  return used;
}

// A whole GET: the status, and the body in `out`.
static inline int get(world *w, const char *target, char *out, size_t size) {
  mesh_request *request = request_to(w, "GET", target);
  mesh_response *response = NULL;
  MUST(mesh_call(w->mesh, request, &response, &err));
  int status = mesh_response_status(response);
  read_all(response, out, size);
  mesh_response_free(response);
  mesh_request_free(request);
  return status;
}

// The request's body, up to `size - 1` bytes.
static inline size_t read_inbound(mesh_inbound *inbound, char *out, size_t size) {
  size_t used = 0;
  for (;;) {
    mesh_buf *chunk = NULL;
    if (mesh_inbound_read(inbound, &chunk, NULL) != MESH_OK || !chunk) break;
    mesh_bytes bytes = mesh_buf_bytes(chunk);
    if (used + bytes.len < size) memcpy(out + used, bytes.ptr, bytes.len);
    used += bytes.len;
    mesh_buf_free(chunk);
  }
  out[used < size ? used : size - 1] = 0;
  return used;
}

// A handler that the test holds until it lets it go, so that no clock decides what is cut short.
static int is_held, held_count;

static inline void hold(void) { __atomic_store_n(&is_held, 1, __ATOMIC_SEQ_CST); }

static inline void stay_while_held(void) {
  __atomic_add_fetch(&held_count, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&is_held, __ATOMIC_SEQ_CST)) usleep(1000);
  __atomic_sub_fetch(&held_count, 1, __ATOMIC_SEQ_CST);
}

static inline void wait_for_held(void) {
  while (!__atomic_load_n(&held_count, __ATOMIC_SEQ_CST)) usleep(1000);
}

// Whoever comes later is not held.
static inline void let_go(void) {
  __atomic_store_n(&is_held, 0, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&held_count, __ATOMIC_SEQ_CST)) usleep(1000);
}

static inline int path_is(mesh_inbound *inbound, const char *path) { return same(mesh_inbound_path(inbound), path); }

#endif
