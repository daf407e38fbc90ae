// A peer that resets in the middle of a large upload: an error, never SIGPIPE.
#include <signal.h>

#include "world.h"

enum { ROUNDS = 20, UPLOAD = 8 * 1024 * 1024 };

static void *reset_everybody(void *argument) {
  int listener = *(int *)argument;
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) return NULL;
    char some[1024];
    if (read(fd, some, sizeof(some)) < 0) perror("read");
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(fd);
  }
}

int main(void) {
  signal(SIGPIPE, SIG_DFL);
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t length = sizeof(address);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 16) ||
      getsockname(listener, (struct sockaddr *)&address, &length))
    return 1;
  pthread_t thread;
  pthread_create(&thread, NULL, reset_everybody, &listener);

  world w = {.port = ntohs(address.sin_port)};
  mesh_config *config = world_config(w.port, 2);
  MUST(mesh_open(NULL, config, &w.mesh, &err));
  mesh_config_free(config);
  char *upload = calloc(1, UPLOAD);
  for (int i = 0; i < ROUNDS; i++) {
    mesh_request *request = request_to(&w, "POST", "http://echo/");
    MUST(mesh_request_body_copy(request, MESH_BYTES(upload, UPLOAD), &err));
    mesh_response *response = NULL;
    mesh_error *error = NULL;
    mesh_code code = mesh_call(w.mesh, request, &response, &error);
    CHECK(code != MESH_OK && response == NULL);
    CHECK(code >= MESH_E_NO_ROUTE && code < MESH_E_DRAINING);
    mesh_error_free(error);
    mesh_request_free(request);
  }
  free(upload);
  MUST(mesh_close(w.mesh, 5 * SECOND, &err));
  mesh_free(w.mesh);
  shutdown(listener, SHUT_RDWR);
  pthread_join(thread, NULL);
  close(listener);
  return report("reset");
}
