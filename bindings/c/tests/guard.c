// Guards: a function of the program under the mesh's policy, step by step.
#include "harness.h"

#define MS 1000000LL

static const char CONFIG[] =
    "version: 1\n"
    "guards:\n"
    "  - { name: inventory, timeout: 30s, attempt_timeout: 2s, idempotent: true,\n"
    "      retry: { attempts: 2, base: 1ms, max: 1ms } }\n"
    "  - { name: payment, retry: { attempts: 2, base: 1ms, max: 1ms },\n"
    "      circuit_breaker: { consecutive_failures: 0, min_requests: 0 } }\n"
    "  - { name: narrow, concurrency_limit: { max_requests: 1 } }\n";

static mesh *open_mesh(const char *text) {
  mesh_config *config = NULL;
  mesh *m = NULL;
  MUST(mesh_config_parse(bytes_of(text), MESH_STR("guards.yaml"), &config, &err));
  MUST(mesh_open(NULL, config, &m, &err));
  mesh_config_free(config);
  return m;
}

static mesh_guard *guard_of(const mesh *m, const char *name) {
  mesh_guard *guard = NULL;
  MUST(mesh_guard_open(m, mesh_strz(name), &guard, &err));
  return guard;
}

// Runs a whole call whose attempts end as `script` says. Gives the code of the end and the attempts made.
static mesh_code run(const mesh_guard *guard, const mesh_guard_options *options, const int32_t *script, uint32_t *attempts) {
  mesh_guard_call *call = NULL;
  mesh_guard_step step = {0};
  MUST(mesh_guard_begin(guard, options, &call, &err));
  int32_t outcome = MESH_GUARD_READY;
  mesh_code code;
  *attempts = 0;
  while ((code = mesh_guard_next(call, outcome, -1, &step, NULL)) == MESH_OK && step.action != MESH_GUARD_STOP) {
    *attempts = step.attempts;
    outcome = step.action == MESH_GUARD_PROCEED ? *script++ : MESH_GUARD_READY;
  }
  mesh_guard_end(call);
  return code;
}

static void a_function_is_tried_until_it_works(const mesh *m) {
  mesh_guard *guard = guard_of(m, "inventory");
  mesh_guard_call *call = NULL;
  mesh_guard_step step = {0};
  MUST(mesh_guard_begin(guard, NULL, &call, &err));
  mesh_guard_free(guard);  // its calls go on
  MUST(mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err));
  CHECK(step.action == MESH_GUARD_PROCEED && step.attempts == 1);
  CHECK(step.time_ns > 0 && step.time_ns <= 2000 * MS);
  MUST(mesh_guard_next(call, MESH_GUARD_TRANSIENT, -1, &step, &err));
  CHECK(step.action == MESH_GUARD_WAIT && step.time_ns <= MS);
  MUST(mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err));
  CHECK(step.action == MESH_GUARD_PROCEED && step.attempts == 2);
  MUST(mesh_guard_next(call, MESH_GUARD_THROTTLED, 7 * MS, &step, &err));
  CHECK(step.action == MESH_GUARD_WAIT && step.time_ns == 7 * MS);
  MUST(mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err));
  MUST(mesh_guard_next(call, MESH_GUARD_SUCCESS, -1, &step, &err));
  CHECK(step.action == MESH_GUARD_STOP && step.attempts == 3 && same(step.reason, "success"));
  // The call is over, whatever is said now.
  MUST(mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err));
  CHECK(step.action == MESH_GUARD_STOP);
  mesh_guard_end(call);
}

static void what_may_have_acted_is_repeated_only_when_somebody_says_so(const mesh *m) {
  mesh_guard *guard = guard_of(m, "payment");
  const int32_t transient[] = {MESH_GUARD_TRANSIENT, MESH_GUARD_TRANSIENT, MESH_GUARD_TRANSIENT};
  const int32_t unprocessed[] = {MESH_GUARD_UNPROCESSED, MESH_GUARD_UNPROCESSED, MESH_GUARD_SUCCESS};
  mesh_guard_options options = MESH_INIT(mesh_guard_options);
  uint32_t attempts;
  CHECK(run(guard, NULL, transient, &attempts) == MESH_OK && attempts == 1);
  CHECK(run(guard, NULL, unprocessed, &attempts) == MESH_OK && attempts == 3);
  options.flags = MESH_GUARD_IDEMPOTENT;
  CHECK(run(guard, &options, transient, &attempts) == MESH_OK && attempts == 3);
  options.flags = 4;
  mesh_guard_call *call = NULL;
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_guard_begin(guard, &options, &call, &err));
  options = (mesh_guard_options)MESH_INIT(mesh_guard_options);
  options.timeout_ns = -1;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_guard_begin(guard, &options, &call, &err));
  mesh_guard_free(guard);
}

static void a_cut_attempt_is_the_guards_error(const mesh *m) {
  mesh_guard *guard = guard_of(m, "payment");
  mesh_guard_call *call = NULL;
  mesh_guard_step step = {0};
  MUST(mesh_guard_begin(guard, NULL, &call, &err));
  MUST(mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err));
  MUST_FAIL(MESH_E_ATTEMPT_TIMEOUT, mesh_guard_next(call, MESH_GUARD_TIMED_OUT, -1, &step, &err));
  mesh_guard_end(call);
  mesh_guard_free(guard);
}

static void above_the_limit_and_given_up(const mesh *m) {
  mesh_guard *guard = guard_of(m, "narrow");
  mesh_guard_call *call = NULL, *second = NULL;
  mesh_guard_step step = {0};
  MUST(mesh_guard_begin(guard, NULL, &call, &err));
  MUST_FAIL(MESH_E_OVERLOADED, mesh_guard_begin(guard, NULL, &second, &err));
  MUST(mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err));
  mesh_guard_end(call);  // in the middle of an attempt
  MUST(mesh_guard_begin(guard, NULL, &call, &err));
  mesh_guard_end(call);
  mesh_guard_free(guard);
}

static void an_open_breaker_refuses_with_a_hint(const mesh *m) {
  mesh_guard *guard = guard_of(m, "narrow");
  const int32_t failed[] = {MESH_GUARD_FAILED};
  uint32_t attempts;
  for (int i = 0; i < 5; i++) CHECK(run(guard, NULL, failed, &attempts) == MESH_OK && attempts == 1);
  mesh_guard_call *call = NULL;
  mesh_guard_step step = {0};
  mesh_error *err = NULL;
  MUST(mesh_guard_begin(guard, NULL, &call, &err));
  CHECK(mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err) == MESH_E_CIRCUIT_OPEN);
  CHECK(mesh_error_flags(err) & MESH_ERR_NOT_SENT);
  CHECK(mesh_error_detail(err, MESH_STR("retry_after_ms")).len > 0);
  mesh_error_free(err);
  mesh_guard_end(call);
  mesh_guard_free(guard);
}

static void steps_out_of_order_are_refused(const mesh *m) {
  mesh_guard *guard = guard_of(m, "inventory");
  mesh_guard_call *call = NULL;
  mesh_guard_step step = {0};
  MUST(mesh_guard_begin(guard, NULL, &call, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_guard_next(call, MESH_GUARD_SUCCESS, -1, &step, &err));
  MUST(mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_guard_next(call, MESH_GUARD_READY, -1, &step, &err));
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_guard_next(call, 99, -1, &step, &err));
  MUST(mesh_guard_next(call, MESH_GUARD_SUCCESS, -1, &step, &err));
  CHECK(step.action == MESH_GUARD_STOP);
  mesh_guard_end(call);
  mesh_guard_free(guard);
}

static void an_unknown_name_and_a_closed_mesh_are_refused(mesh *m) {
  mesh_guard *guard = NULL;
  mesh_guard_call *call = NULL;
  MUST_FAIL(MESH_E_CONFIG, mesh_guard_open(m, MESH_STR("nobody"), &guard, &err));
  guard = guard_of(m, "inventory");
  MUST(mesh_close(m, 5000 * MS, &err));
  MUST_FAIL(MESH_E_CLOSED, mesh_guard_begin(guard, NULL, &call, &err));
  mesh_free(m);
  mesh_guard_free(guard);
}

static void errors_of_the_mesh_speak_for_themselves(void) {
  CHECK(mesh_guard_outcome_of(MESH_STR("connect"), MESH_ERR_NOT_SENT) == MESH_GUARD_UNPROCESSED);
  CHECK(mesh_guard_outcome_of(MESH_STR("reset"), 0) == MESH_GUARD_TRANSIENT);
  CHECK(mesh_guard_outcome_of(MESH_STR("rate_limited"), MESH_ERR_NOT_SENT) == MESH_GUARD_THROTTLED);
  CHECK(mesh_guard_outcome_of(MESH_STR("circuit_open"), MESH_ERR_NOT_SENT) == MESH_GUARD_IGNORED);
  CHECK(mesh_guard_outcome_of(MESH_STR("what is this"), 0) == MESH_GUARD_FAILED);
}

int main(void) {
  errors_of_the_mesh_speak_for_themselves();
  mesh *m = open_mesh(CONFIG);
  a_function_is_tried_until_it_works(m);
  what_may_have_acted_is_repeated_only_when_somebody_says_so(m);
  a_cut_attempt_is_the_guards_error(m);
  above_the_limit_and_given_up(m);
  an_open_breaker_refuses_with_a_hint(m);
  steps_out_of_order_are_refused(m);
  an_unknown_name_and_a_closed_mesh_are_refused(m);
  return report("guard");
}
