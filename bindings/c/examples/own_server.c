// A program that keeps its own server, here a very small one for HTTP/1.1: own_server mesh.yaml port.
// Each request is shown to the mesh before it is answered: mesh_inbound_begin, mesh_inbound_head, mesh_inbound_end.
#include <arpa/inet.h>
#include <mesh.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_HEAD = 8192, MAX_HEADERS = 64 };

static volatile sig_atomic_t stopping;

static void on_signal(int number) {
  (void)number;
  stopping = 1;
}

static int fail(mesh_error *err) {
  fprintf(stderr, "%s: %s\n", mesh_error_name(err).ptr, mesh_error_message(err).ptr);
  mesh_error_free(err);
  return 1;
}

// Packs the header lines from `line` on; false: this small server does not understand them.
static int pack(char *line, uint8_t *block, size_t size, mesh_bytes *packed) {
  uint32_t entries[4 * MAX_HEADERS], count = 0, used = 0;
  static char text[MAX_HEAD];
  for (char *end; (end = strstr(line, "\r\n")) && end != line; line = end + 2) {
    char *colon = memchr(line, ':', (size_t)(end - line));
    if (!colon || count == MAX_HEADERS) return 0;
    char *value = colon + 1 + strspn(colon + 1, " \t");
    uint32_t name_length = (uint32_t)(colon - line), value_length = (uint32_t)(end - value);
    uint32_t entry[] = {used, name_length, used + name_length, value_length};
    memcpy(entries + 4 * count++, entry, sizeof(entry));
    memcpy(text + used, line, name_length);
    memcpy(text + used + name_length, value, value_length);
    used += name_length + value_length;
  }
  uint32_t start = 4 + 16 * count;  // offsets count from the start of the block
  if (start + used > size) return 0;
  for (uint32_t i = 0; i < count; i++) entries[4 * i] += start, entries[4 * i + 2] += start;
  memcpy(block, &count, 4);
  memcpy(block + 4, entries, 16 * count);
  memcpy(block + start, text, used);
  *packed = MESH_BYTES(block, start + used);
  return 1;
}

static void send_head(int fd, const mesh_response *head, size_t body_length) {
  dprintf(fd, "HTTP/1.1 %d Mesh\r\nconnection: close\r\ncontent-length: %zu\r\n", mesh_response_status(head), body_length);
  mesh_str name;
  mesh_bytes value;
  for (size_t i = 0; i < mesh_response_header_count(head); i++)
    if (mesh_response_header_at(head, i, &name, &value, NULL) == MESH_OK && strcmp(name.ptr, "content-length") != 0 &&
        strcmp(name.ptr, "connection") != 0)
      dprintf(fd, "%s: %.*s\r\n", name.ptr, (int)value.len, (const char *)value.ptr);
  dprintf(fd, "\r\n");
}

// The mesh has answered: what it says is sent as it is.
static void pass_on(int fd, mesh_response *answer) {
  mesh_bytes body = mesh_response_body(answer);
  send_head(fd, answer, body.len);
  dprintf(fd, "%.*s", (int)body.len, (const char *)body.ptr);
  mesh_response_free(answer);
}

// What the program is for. The caller and the end user are known, and the path is the one that was judged.
static void hello(int fd, mesh_inbound *inbound) {
  char body[512];
  mesh_str peer = mesh_inbound_peer_id(inbound), claims = mesh_inbound_claims_json(inbound);
  int length = snprintf(body, sizeof(body), "hello, %.100s %.200s at %.100s\n", peer.len ? peer.ptr : "whoever you are",
                        claims.len ? claims.ptr : "without a token", mesh_inbound_path(inbound).ptr);
  mesh_response *head;
  mesh_error *err;
  if (mesh_inbound_head(inbound, 200, MESH_NONE, &head, &err)) {
    fail(err);
  } else {
    send_head(fd, head, (size_t)length);
    mesh_response_free(head);
    if (write(fd, body, (size_t)length) == length)
      mesh_inbound_end(inbound, 0, (uint64_t)length, MESH_NONE, NULL, NULL);
  }
  mesh_inbound_free(inbound);
}

static void serve(int fd, const struct sockaddr_in *peer, const mesh_inbound_check *check) {
  static char head[MAX_HEAD];
  static uint8_t block[2 * MAX_HEAD];
  char method[16], target[2048], remote[64];
  size_t used = 0;
  ssize_t got;
  head[0] = 0;
  while (!strstr(head, "\r\n\r\n") && used < sizeof(head) - 1 && (got = read(fd, head + used, sizeof(head) - 1 - used)) > 0)
    head[used += (size_t)got] = 0;
  mesh_received received = MESH_INIT(mesh_received);
  char *line = strstr(head, "\r\n");
  if (!line || sscanf(head, "%15s %2047s HTTP/1.1", method, target) != 2 || !pack(line + 2, block, sizeof(block), &received.headers)) {
    dprintf(fd, "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    return;
  }
  snprintf(remote, sizeof(remote), "%s:%d", inet_ntoa(peer->sin_addr), ntohs(peer->sin_port));
  received.method = mesh_strz(method);
  received.target = mesh_strz(target);  // as it came: what is judged is what was sent
  received.remote_address = mesh_strz(remote);
  mesh_inbound *inbound;
  mesh_response *answer;
  mesh_error *err;
  if (mesh_inbound_begin(check, &received, NULL, 0, &inbound, &answer, NULL, &err)) {
    fail(err);
    dprintf(fd, "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
  } else if (answer) {
    pass_on(fd, answer);
  } else {
    hello(fd, inbound);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  mesh_error *err = NULL;
  mesh_config *config;
  mesh *mesh;
  mesh_inbound_check *check;
  if (mesh_config_load_file(mesh_strz(argv[1]), &config, &err)) return fail(err);
  if (mesh_open(NULL, config, &mesh, &err)) return fail(err);
  if (mesh_inbound_check_open(mesh, MESH_STR("inbound"), &check, &err)) return fail(err);
  struct sigaction action = {.sa_handler = on_signal};  // without SA_RESTART: it ends accept()
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  signal(SIGPIPE, SIG_IGN);

  int door = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(door, (struct sockaddr *)&address, sizeof(address)) || listen(door, 64)) return 1;
  printf("listening on 127.0.0.1:%s\n", argv[2]);
  fflush(stdout);
  while (!stopping) {
    struct sockaddr_in peer;
    socklen_t length = sizeof(peer);
    int fd = accept(door, (struct sockaddr *)&peer, &length);
    if (fd < 0) continue;
    serve(fd, &peer, check);
    close(fd);
  }
  close(door);
  mesh_close(mesh, 1000000000, NULL);
  mesh_inbound_check_free(check);
  mesh_free(mesh);
  mesh_config_free(config);
  return 0;
}
