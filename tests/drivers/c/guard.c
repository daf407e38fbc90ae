// The C driver of the guard story: each attempt of each call ends as the job says.
#include <mesh.h>
#include <time.h>

#include "json.h"

enum { MAX_JOB = 1 << 20 };

static const char *const OUTCOMES[] = {"",          "success",     "rejected",  "failed",
                                       "transient", "unprocessed", "throttled", "timed_out"};

static void die(mesh_error *err) {
  fprintf(stderr, "%s: %s\n", mesh_error_name(err).ptr, mesh_error_message(err).ptr);
  exit(1);
}

#define MUST(call)          \
  do {                      \
    mesh_error *err = NULL; \
    if (call) die(err);     \
  } while (0)

static int32_t outcome_of(const json *name) {
  for (int32_t i = 1; name && i <= MESH_GUARD_TIMED_OUT; i++)
    if (!strcmp(name->text, OUTCOMES[i])) return i;
  return MESH_GUARD_FAILED;
}

static void pause_ns(int64_t length) {
  struct timespec left = {length / 1000000000, length % 1000000000};
  while (nanosleep(&left, &left)) {
  }
}

static void one(const mesh *m, json *call) {
  mesh_guard *guard = NULL;
  mesh_guard_call *run = NULL;
  mesh_guard_options options = MESH_INIT(mesh_guard_options);
  mesh_guard_step step = {0};
  mesh_error *err = NULL;
  json *idempotent = json_get(call, "idempotent"), *attempt = json_get(call, "attempts")->first;
  if (idempotent && idempotent->type != 'n')
    options.flags = idempotent->type == 't' ? MESH_GUARD_IDEMPOTENT : MESH_GUARD_NOT_IDEMPOTENT;
  MUST(mesh_guard_open(m, mesh_strz(json_text(call, "guard")), &guard, &err));
  MUST(mesh_guard_begin(guard, &options, &run, &err));
  int32_t outcome = MESH_GUARD_READY;
  int attempts = 0;
  const char *result = "own";
  while (mesh_guard_next(run, outcome, -1, &step, &err) == MESH_OK && step.action != MESH_GUARD_STOP) {
    if (step.action == MESH_GUARD_WAIT) {
      pause_ns(step.time_ns);
      outcome = MESH_GUARD_READY;
      continue;
    }
    attempts++;
    outcome = outcome_of(attempt);
    attempt = attempt ? attempt->next : NULL;
  }
  if (err) result = mesh_error_name(err).ptr;
  else if (outcome == MESH_GUARD_SUCCESS) result = "success";
  printf("{\"attempts\":%d,\"result\":\"%s\"}\n", attempts, result);
  mesh_error_free(err);
  mesh_guard_end(run);
  mesh_guard_free(guard);
}

int main(void) {
  static char text[MAX_JOB];
  text[fread(text, 1, sizeof(text) - 1, stdin)] = 0;
  const char *at = text;
  json *job = json_value(&at);
  mesh_config *config = NULL;
  mesh *m = NULL;
  mesh_buf *page = NULL;
  MUST(mesh_config_load_file(mesh_strz(json_text(job, "config")), &config, &err));
  MUST(mesh_open(NULL, config, &m, &err));
  mesh_config_free(config);
  for (json *call = json_get(job, "calls")->first; call; call = call->next) one(m, call);
  MUST(mesh_metrics(m, MESH_METRICS_PROMETHEUS, &page, &err));
  mesh_bytes bytes = mesh_buf_bytes(page);
  printf("{\"metrics\":");
  json_print(stdout, (const char *)bytes.ptr, bytes.len);
  printf("}\n");
  mesh_buf_free(page);
  mesh_free(m);
  return 0;
}
