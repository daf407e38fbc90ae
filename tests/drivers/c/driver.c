// The C driver of the scenario corpus: blocking calls, one thread per request of a group. The protocol is
// in tests/src/driver.rs.
#include <mesh.h>
#include <pthread.h>
#include <time.h>

#include "json.h"

enum { MAX_GROUP = 64, MAX_JOB = 64 << 20 };

typedef struct {
  mesh *mesh;
  json *call;
  char *line;  // the outcome, when done
  size_t length;
} task;

static void die(mesh_error *err) {
  fprintf(stderr, "%s: %s\n", mesh_error_name(err).ptr, mesh_error_message(err).ptr);
  exit(1);
}

#define MUST(call)          \
  do {                      \
    mesh_error *err = NULL; \
    if (call) die(err);     \
  } while (0)

static mesh_bytes from_hex(const char *hex) {
  size_t length = strlen(hex) / 2;
  uint8_t *bytes = malloc(length + 1);
  for (size_t i = 0; i < length; i++) {
    char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
    bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
  }
  return (mesh_bytes){bytes, length};
}

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void print_text(FILE *out, const char *name, mesh_str text) {
  if (!text.len) return;
  fprintf(out, ",\"%s\":", name);
  json_print(out, text.ptr, text.len);
}

// A packed header list as pairs.
static void print_packed(FILE *out, const char *name, mesh_bytes block) {
  fprintf(out, ",\"%s\":[", name);
  uint32_t count = 0, entry[4];
  if (block.len) memcpy(&count, block.ptr, sizeof(count));
  for (uint32_t i = 0; i < count; i++) {
    memcpy(entry, block.ptr + sizeof(count) + i * sizeof(entry), sizeof(entry));
    fputs(i ? ",[" : "[", out);
    json_print(out, (const char *)block.ptr + entry[0], entry[1]);
    fputc(',', out);
    json_print(out, (const char *)block.ptr + entry[2], entry[3]);
    fputc(']', out);
  }
  fputc(']', out);
}

static mesh_request *make_request(task *task) {
  json *call = task->call, *value;
  mesh_request *request = NULL;
  MUST(mesh_request_new(task->mesh, mesh_strz(json_text(call, "method")), mesh_strz(json_text(call, "url")), &request, &err));
  value = json_get(call, "headers");
  for (json *pair = value ? value->first : NULL; pair; pair = pair->next) {
    const char *text = pair->first->next->text;
    MUST(mesh_request_header_add(request, mesh_strz(pair->first->text), MESH_BYTES(text, strlen(text)), &err));
  }
  if ((value = json_get(call, "timeout_ms")))
    MUST(mesh_request_set_timeout(request, (int64_t)value->number * 1000000, &err));
  if ((value = json_get(call, "idempotent")))
    MUST(mesh_request_set_idempotent(request, value->type == 't', &err));
  if ((value = json_get(call, "body"))) MUST(mesh_request_body_copy(request, from_hex(value->text), &err));
  return request;
}

typedef struct {
  mesh_body *body;
  json *chunk;
} upload;

// Writes until the end, or until the other side wants no more: the call's outcome says why.
static void *write_chunks(void *argument) {
  upload *upload = argument;
  mesh_code code = MESH_OK;
  for (json *chunk = upload->chunk; chunk && code == MESH_OK; chunk = chunk->next)
    code = mesh_body_write(upload->body, from_hex(chunk->text), NULL);
  if (code == MESH_OK) mesh_body_end(upload->body, MESH_NONE, NULL);
  mesh_body_free(upload->body);
  return NULL;
}

static void print_error(FILE *out, mesh_error *err) {
  fputs(",\"error\":", out);
  json_print(out, mesh_error_name(err).ptr, mesh_error_name(err).len);
  mesh_str attempts = mesh_error_detail(err, MESH_STR("attempts"));
  fprintf(out, ",\"attempts\":%s", attempts.len ? attempts.ptr : "0");
  print_text(out, "cluster", mesh_error_detail(err, MESH_STR("cluster")));
  print_text(out, "endpoint", mesh_error_detail(err, MESH_STR("endpoint")));
  mesh_error_free(err);
}

static void print_response(FILE *out, mesh_response *response) {
  mesh_call_info info = MESH_INIT(mesh_call_info);
  MUST(mesh_response_info(response, &info, &err));
  fprintf(out, ",\"status\":%d,\"attempts\":%u", mesh_response_status(response), info.attempts);
  print_text(out, "cluster", info.cluster);
  print_text(out, "endpoint", info.endpoint);
  print_packed(out, "headers", mesh_response_headers_packed(response));
  fputs(",\"body\":\"", out);
  mesh_error *err = NULL;
  mesh_buf *chunk = NULL;
  while (mesh_response_read(response, &chunk, &err) == MESH_OK && chunk) {
    mesh_bytes bytes = mesh_buf_bytes(chunk);
    for (size_t i = 0; i < bytes.len; i++) fprintf(out, "%02x", bytes.ptr[i]);
    mesh_buf_free(chunk);
  }
  fputc('"', out);
  if (err) print_text(out, "body_error", mesh_error_name(err));
  mesh_error_free(err);
  print_packed(out, "trailers", mesh_response_trailers_packed(response));
}

static void *run(void *argument) {
  task *task = argument;
  FILE *out = open_memstream(&task->line, &task->length);
  int64_t started = now_ms();
  fprintf(out, "{\"id\":%d", (int)json_get(task->call, "id")->number);
  mesh_request *request = make_request(task);
  mesh_response *response = NULL;
  mesh_error *err = NULL;
  json *chunks = json_get(task->call, "chunks");
  upload upload = {NULL, chunks ? chunks->first : NULL};
  pthread_t writer;
  if (upload.chunk) {
    MUST(mesh_request_body_stream(request, -1, &upload.body, &err));
    pthread_create(&writer, NULL, write_chunks, &upload);
  }
  if (mesh_call(task->mesh, request, &response, &err)) {
    print_error(out, err);
  } else {
    print_response(out, response);
  }
  mesh_response_free(response);
  mesh_request_free(request);
  if (upload.chunk) pthread_join(writer, NULL);
  fprintf(out, ",\"ms\":%lld}", (long long)(now_ms() - started));
  fclose(out);
  return NULL;
}

static void run_group(mesh *mesh, json *group) {
  task tasks[MAX_GROUP];
  pthread_t threads[MAX_GROUP];
  int count = 0;
  int64_t pause = (int64_t)json_get(group, "pause_ms")->number;
  struct timespec wait = {pause / 1000, pause % 1000 * 1000000};
  nanosleep(&wait, NULL);
  for (json *call = json_get(group, "requests")->first; call && count < MAX_GROUP; call = call->next, count++) {
    tasks[count] = (task){.mesh = mesh, .call = call};
    pthread_create(&threads[count], NULL, run, &tasks[count]);
  }
  for (int i = 0; i < count; i++) {
    pthread_join(threads[i], NULL);
    puts(tasks[i].line);
    free(tasks[i].line);
  }
}

int main(void) {
  char *text = malloc(MAX_JOB);
  size_t length = fread(text, 1, MAX_JOB - 1, stdin);
  text[length] = 0;
  const char *at = text;
  json *job = json_value(&at);

  mesh_config *config = NULL;
  mesh *mesh = NULL;
  MUST(mesh_config_load_file(mesh_strz(json_text(job, "config")), &config, &err));
  MUST(mesh_open(NULL, config, &mesh, &err));
  mesh_config_free(config);
  for (json *group = json_get(job, "groups")->first; group; group = group->next) run_group(mesh, group);

  mesh_buf *page = NULL;
  MUST(mesh_metrics(mesh, MESH_METRICS_PROMETHEUS, &page, &err));
  fputs("{\"metrics\":", stdout);
  json_print(stdout, (const char *)mesh_buf_bytes(page).ptr, mesh_buf_bytes(page).len);
  puts("}");
  mesh_buf_free(page);
  mesh_close(mesh, 1000000000, NULL);
  mesh_free(mesh);
  return 0;
}
