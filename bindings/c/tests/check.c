// The inbound side for a program that keeps its own server: begin, head, end.
#include <pthread.h>
#include <unistd.h>

#include "harness.h"

static const int64_t SECOND = 1000000000;

static const char CONFIG[] =
    "version: 1\n"
    "listeners:\n"
    "  - { name: own, health: { path: /healthz } }\n"
    "  - { name: narrow, concurrency: { max_requests: 1, queue: { max_requests: 9, max_wait: 100s } } }\n"
    "  - { name: bodies }\n"
    "clusters: [ { name: nowhere, endpoints: [ { address: \"127.0.0.1:1\" } ] } ]\n"
    // The key is the one that RFC 8037 A.1 publishes.
    "policy:\n"
    "  access: { rules: [ { name: admin, action: deny, paths: [ /admin* ] },\n"
    "      { name: internal, action: deny, hosts: [ admin.internal ] } ] }\n"
    "  rate_limits: [ { name: few, listeners: [ own ], match: { path: { exact: /few } },\n"
    "      max_tokens: 1, tokens_per_fill: 1, fill_interval: 1h } ]\n"
    "  checks: [ { name: opa, cluster: nowhere, listeners: [ narrow, bodies ], failure: open, timeout: 1s,\n"
    "      match: { path: { exact: /order } },\n"
    "      with_request_body: { max_request_bytes: 4, timeout: 60s } } ]\n"
    "  end_users:\n"
    "    - name: test\n"
    "      issuer: test\n"
    "      require_expiration: false\n"
    "      jwks: { inline: '{\"keys\": [{\"kty\": \"OKP\", \"crv\": \"Ed25519\","
    " \"x\": \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}' }\n";

static mesh *open_mesh(void) {
  mesh_config *config = NULL;
  mesh *m = NULL;
  mesh_options options = MESH_OPTIONS_INIT;
  options.worker_threads = 2;
  MUST(mesh_config_parse(bytes_of(CONFIG), MESH_STR("check.yaml"), &config, &err));
  MUST(mesh_open(&options, config, &m, &err));
  mesh_config_free(config);
  return m;
}

static mesh_inbound_check *door_of(const mesh *m, const char *listener) {
  mesh_inbound_check *door = NULL;
  MUST(mesh_inbound_check_open(m, mesh_strz(listener), &door, &err));
  return door;
}

static mesh_received get(const char *target) {
  mesh_received received = MESH_INIT(mesh_received);
  received.method = MESH_STR("GET");
  received.target = mesh_strz(target);
  received.authority = MESH_STR("shop");
  received.remote_address = MESH_STR("127.0.0.9:4711");
  received.local_address = MESH_STR("127.0.0.1:80");
  return received;
}

// A packed block of one header, `count` times; `block` has room for it.
static mesh_bytes same_headers(uint8_t *block, uint32_t count, const char *name, const char *value) {
  uint32_t name_length = (uint32_t)strlen(name), value_length = (uint32_t)strlen(value), start = 4 + 16 * count;
  uint32_t entry[4] = {start, name_length, start + name_length, value_length};
  memcpy(block, &count, 4);
  for (uint32_t i = 0; i < count; i++) memcpy(block + 4 + 16 * i, entry, 16);
  memcpy(block + start, name, name_length);
  memcpy(block + start + name_length, value, value_length);
  return MESH_BYTES(block, start + name_length + value_length);
}

static mesh_bytes one_header(uint8_t *block, const char *name, const char *value) {
  return same_headers(block, 1, name, value);
}

static mesh_inbound *admitted(const mesh_inbound_check *door, const mesh_received *received) {
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  MUST(mesh_inbound_begin(door, received, NULL, 0, &inbound, &answer, NULL, &err));
  CHECK(answer == NULL);
  if (!CHECK(inbound != NULL)) exit(1);
  return inbound;
}

// The status with which the mesh answers; 0 when it admits.
static int answered(const mesh_inbound_check *door, const mesh_received *received, char *body, size_t size) {
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  MUST(mesh_inbound_begin(door, received, NULL, 0, &inbound, &answer, NULL, &err));
  CHECK((inbound == NULL) != (answer == NULL));
  int status = mesh_response_status(answer);
  mesh_bytes whole = mesh_response_body(answer);
  size_t used = 0;
  for (mesh_buf *chunk = NULL; answer; mesh_buf_free(chunk)) {
    MUST(mesh_response_read(answer, &chunk, &err));
    if (!chunk) break;
    mesh_bytes bytes = mesh_buf_bytes(chunk);
    if (used + bytes.len < size) memcpy(body + used, bytes.ptr, bytes.len), used += bytes.len;
  }
  if (size) body[used] = 0;
  CHECK(size == 0 || (whole.len == used && memcmp(whole.ptr, body, used) == 0));
  mesh_response_free(answer);
  mesh_inbound_free(inbound);
  return status;
}

static double counted(const mesh *m, const char *name, const char *label) {
  mesh_buf *page = NULL;
  MUST(mesh_metrics(m, MESH_METRICS_PROMETHEUS, &page, &err));
  double sum = 0;
  char *text = strndup((const char *)mesh_buf_bytes(page).ptr, mesh_buf_bytes(page).len), *rest = text;
  for (char *line; (line = strtok_r(rest, "\n", &rest));)
    if (strncmp(line, name, strlen(name)) == 0 && strstr(line, label)) sum += atof(strrchr(line, ' '));
  free(text);
  mesh_buf_free(page);
  return sum;
}

static void a_request_begins_gets_a_head_and_ends(const mesh *m, const mesh_inbound_check *door) {
  mesh_received received = get("/books/../books?page=2");
  mesh_inbound *inbound = admitted(door, &received);
  CHECK(same(mesh_inbound_path(inbound), "/books?page=2"));
  CHECK(same(mesh_inbound_method(inbound), "GET") && same(mesh_inbound_authority(inbound), "shop"));
  CHECK(same(mesh_inbound_remote_address(inbound), "127.0.0.9:4711"));
  CHECK(mesh_inbound_trace_id(inbound).len == 32 && mesh_inbound_id(inbound) > 0);
  CHECK(mesh_inbound_header(inbound, MESH_STR("x-request-id"), 0).len > 0);
  mesh_response *head = NULL;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_end(inbound, 0, 0, MESH_NONE, NULL, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_NONE, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_head(inbound, 100, MESH_NONE, &head, &err));
  uint8_t block[128];
  MUST(mesh_inbound_head(inbound, 404, one_header(block, "x-kind", "none"), &head, &err));
  CHECK(mesh_response_status(head) == 404);
  CHECK(same_bytes(mesh_response_header(head, MESH_STR("x-kind"), 0), "none"));
  MUST_FAIL(MESH_E_BAD_REQUEST, mesh_inbound_head(inbound, 200, MESH_NONE, &head, &err));
  mesh_response_free(head);
  CHECK(counted(m, "istio_requests_total", "response_code=\"404\"") == 0);
  mesh_buf *sent = NULL;
  MUST(mesh_inbound_end(inbound, 12, 345, one_header(block, "x-end", "1"), &sent, &err));
  CHECK(mesh_buf_bytes(sent).len > 20);
  mesh_buf_free(sent);
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_end(inbound, 0, 0, MESH_NONE, NULL, &err));
  mesh_inbound_free(inbound);
  CHECK(counted(m, "istio_requests_total", "response_code=\"404\"") == 1);
  CHECK(counted(m, "istio_response_bytes_sum", "response_code=\"404\"") == 345);
  CHECK(counted(m, "istio_request_bytes_sum", "response_code=\"404\"") == 12);
}

static void what_breaks_off_or_is_given_up_is_counted_so(const mesh *m, const mesh_inbound_check *door) {
  mesh_received received = get("/");
  mesh_inbound_free(admitted(door, &received));
  CHECK(counted(m, "istio_requests_total", "response_flags=\"DC\"") == 1);
  mesh_inbound *inbound = admitted(door, &received);
  mesh_response *head = NULL;
  MUST(mesh_inbound_head(inbound, 200, MESH_NONE, &head, &err));
  mesh_response_free(head);
  MUST(mesh_inbound_fail(inbound, 0, 7, MESH_STR("the disk is full"), &err));
  mesh_inbound_free(inbound);
  CHECK(counted(m, "libmesh_requests_in_flight", "inbound") == 0);
}

static void the_mesh_answers_what_it_refuses_and_what_is_its_own(const mesh_inbound_check *door) {
  static const char *const spellings[] = {"/admin", "//admin", "/%61dmin", "/a/../admin", "/admin/%2e%2e/admin"};
  char body[128];
  for (size_t i = 0; i < sizeof(spellings) / sizeof(*spellings); i++) {
    mesh_received received = get(spellings[i]);
    CHECK(answered(door, &received, NULL, 0) == 403);
  }
  mesh_received received = get("/healthz");
  CHECK(answered(door, &received, body, sizeof(body)) == 200 && strcmp(body, "SERVING\n") == 0);
  received = get("/few");
  CHECK(answered(door, &received, NULL, 0) == 0);
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  MUST(mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  CHECK(inbound == NULL && mesh_response_status(answer) == 429);
  CHECK(mesh_response_header(answer, MESH_STR("retry-after"), 0).len > 0);
  mesh_response_free(answer);
}

// Signed with that key; it never ends.
#define TOKEN_WITHOUT_ITS_LAST                                                        \
  "Bearer eyJhbGciOiJFZERTQSJ9."                                                      \
  "eyJpc3MiOiJ0ZXN0Iiwic3ViIjoiYWxpY2UiLCJyb2xlcyI6WyJidXllciJdfQ."                   \
  "qnK8n_zhP12pdUiei9JG2g9cUuKddrMM2OGMl-jYsHfBo6f_eKGO5dFE_YLM-wO-kWCo441_6XGjMOt_c7D6B"

static void claims_of_a_verified_token_are_readable(const mesh_inbound_check *door) {
  uint8_t block[512];
  mesh_received received = get("/");
  received.headers = one_header(block, "authorization", TOKEN_WITHOUT_ITS_LAST "A");
  mesh_inbound *inbound = admitted(door, &received);
  CHECK(same(mesh_inbound_claims_json(inbound), "{\"iss\":\"test\",\"sub\":\"alice\",\"roles\":[\"buyer\"]}"));
  CHECK(mesh_inbound_header(inbound, MESH_STR("authorization"), 0).ptr == NULL);
  mesh_inbound_free(inbound);
  received.headers = one_header(block, "authorization", TOKEN_WITHOUT_ITS_LAST "Q");
  CHECK(answered(door, &received, NULL, 0) == 401);
}

static void a_body_that_a_check_wants_has_to_be_handed_over(const mesh *m) {
  mesh_inbound_check *door = door_of(m, "bodies");
  CHECK(mesh_inbound_check_body_limit(door) == 4);
  uint8_t block[128];
  mesh_received received = get("/order");
  received.method = MESH_STR("POST");
  received.headers = one_header(block, "content-length", "9");
  CHECK(answered(door, &received, NULL, 0) == 400);
  received.body = bytes_of("12345");
  CHECK(answered(door, &received, NULL, 0) == 413);
  // The policy server is down, and the check fails open.
  received.headers = one_header(block, "content-length", "4");
  received.body = bytes_of("1234");
  received.flags = MESH_RECEIVED_WHOLE_BODY;
  CHECK(answered(door, &received, NULL, 0) == 0);
  mesh_inbound_check_free(door);
}

static void the_authority_counts_whatever_a_host_field_says(const mesh_inbound_check *door) {
  uint8_t block[128];
  mesh_received received = get("/");
  received.http_version = 20;
  received.headers = one_header(block, "host", "public.example");
  received.authority = MESH_STR("admin.internal");
  CHECK(answered(door, &received, NULL, 0) == 403);
  received.headers = one_header(block, "host", "admin.internal");
  received.authority = MESH_STR("public.example");
  mesh_inbound *inbound = admitted(door, &received);
  CHECK(same(mesh_inbound_authority(inbound), "public.example"));
  CHECK(same_bytes(mesh_inbound_header(inbound, MESH_STR("host"), 0), "public.example"));
  mesh_inbound_free(inbound);
  // Nobody knows which one is meant.
  received.headers = same_headers(block, 2, "host", "public.example");
  CHECK(answered(door, &received, NULL, 0) == 400);
}

static void an_answer_has_what_was_added_and_one_that_fails_early_is_a_500(const mesh *m, const mesh_inbound_check *door) {
  uint8_t block[128];
  mesh_received received = get("/");
  received.remote_address = MESH_STR("[fe80::1%eth0]:4711");  // of a zone; there is none in the address itself
  mesh_inbound *inbound = admitted(door, &received);
  CHECK(same(mesh_inbound_remote_address(inbound), "[fe80::1]:4711"));
  MUST(mesh_inbound_header_add(inbound, MESH_STR("x-kind"), bytes_of("second"), &err));
  mesh_response *head = NULL;
  MUST(mesh_inbound_head(inbound, 200, one_header(block, "x-kind", "first"), &head, &err));
  CHECK(same_bytes(mesh_response_header(head, MESH_STR("x-kind"), 0), "first"));
  CHECK(same_bytes(mesh_response_header(head, MESH_STR("x-kind"), 1), "second"));
  mesh_response_free(head);
  MUST(mesh_inbound_end(inbound, 0, 0, MESH_NONE, NULL, &err));
  mesh_inbound_free(inbound);

  inbound = admitted(door, &received);
  MUST(mesh_inbound_fail(inbound, 0, 0, MESH_STR("it broke"), &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_fail(inbound, 0, 0, MESH_STR("it broke"), &err));
  mesh_inbound_free(inbound);
  CHECK(counted(m, "istio_requests_total", "response_code=\"500\"") == 1);
}

static void requests_of_two_checks_have_two_numbers(const mesh *m, const mesh_inbound_check *door) {
  mesh_inbound_check *other = door_of(m, "own");
  mesh_received received = get("/");
  mesh_inbound *first = admitted(door, &received), *second = admitted(other, &received);
  CHECK(mesh_inbound_id(first) != mesh_inbound_id(second));
  mesh_inbound_free(first);
  mesh_inbound_free(second);
  mesh_inbound_check_free(other);
}

static mesh_received post(const char *target) {
  mesh_received received = get(target);
  received.method = MESH_STR("POST");
  received.http_version = 20;
  return received;
}

static mesh_body_wanted *wanted_of(const mesh_inbound_check *door, const mesh_received *received) {
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  mesh_body_wanted *wanted = NULL;
  MUST(mesh_inbound_begin(door, received, NULL, 0, &inbound, &answer, &wanted, &err));
  if (!CHECK(wanted != NULL && inbound == NULL && answer == NULL)) exit(1);
  return wanted;
}

// The status with which the mesh answers what was handed over; 0 when it admits.
static int given(const mesh_body_wanted *wanted, const char *body, uint32_t flags) {
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  MUST(mesh_body_wanted_give(wanted, bytes_of(body), flags, NULL, 0, &inbound, &answer, &err));
  CHECK((inbound == NULL) != (answer == NULL));
  int status = mesh_response_status(answer);
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_body_wanted_give(wanted, MESH_NONE, 0, NULL, 0, &inbound, &answer, &err));
  mesh_inbound_free(inbound);
  mesh_response_free(answer);
  return status;
}

static void a_body_is_asked_for_once_a_check_wants_it(const mesh *m) {
  mesh_inbound_check *door = door_of(m, "bodies");
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  mesh_body_wanted *wanted = NULL;
  mesh_received received = post("/chat");  // no check is about it
  MUST(mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, &wanted, &err));
  CHECK(inbound != NULL && answer == NULL && wanted == NULL);
  mesh_inbound_free(inbound);
  received = post("/admin");
  MUST(mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, &wanted, &err));
  CHECK(inbound == NULL && mesh_response_status(answer) == 403 && wanted == NULL);
  mesh_response_free(answer);

  received = post("/order");
  static const struct {
    const char *body;
    uint32_t flags;
    int status;
  } cases[] = {{"1234", MESH_RECEIVED_WHOLE_BODY, 0}, {"12345", 0, 413}, {"12", 0, 400}};
  for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
    wanted = wanted_of(door, &received);
    CHECK(mesh_body_wanted_limit(wanted) == 4);
    CHECK(mesh_body_wanted_remaining_ns(wanted) <= INT64_C(60000000000));  // what the check grants
    CHECK(given(wanted, cases[i].body, cases[i].flags) == cases[i].status);
    mesh_body_wanted_free(wanted);
  }
  uint8_t block[128];
  received.headers = one_header(block, "x-envoy-expected-rq-timeout-ms", "500");
  wanted = wanted_of(door, &received);
  CHECK(mesh_body_wanted_remaining_ns(wanted) >= 0);
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_body_wanted_give(wanted, MESH_NONE, 4, NULL, 0, &inbound, &answer, &err));
  mesh_config *config = NULL;
  mesh *other = NULL;
  mesh_cq *others = NULL;
  MUST(mesh_config_parse(bytes_of("version: 1"), MESH_STR("other.yaml"), &config, &err));
  MUST(mesh_open(NULL, config, &other, &err));
  mesh_config_free(config);
  MUST(mesh_cq_new(other, NULL, &others, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_body_wanted_give(wanted, MESH_NONE, 0, others, 0, &inbound, &answer, &err));
  mesh_cq_free(others);
  mesh_free(other);
  CHECK(given(wanted, "", MESH_RECEIVED_LATE) == 504);
  mesh_body_wanted_free(wanted);

  double before = counted(m, "istio_requests_total", "response_flags=\"DC\"");
  received = post("/order");
  mesh_body_wanted_free(wanted_of(door, &received));
  CHECK(counted(m, "istio_requests_total", "response_flags=\"DC\"") == before + 1);
  CHECK(counted(m, "libmesh_requests_in_flight", "inbound") == 0);
  mesh_inbound_check_free(door);
}

static void *end_it(void *inbound) {
  mesh_inbound_free(inbound);
  return NULL;
}

static mesh_event next(const mesh_cq *cq) {
  mesh_event event;
  size_t got = 0;
  while (got == 0) MUST(mesh_cq_exchange(cq, NULL, 0, 0, &event, 1, sizeof(event), &got, -1, &err));
  return event;
}

static void who_has_to_wait_blocks_or_arrives_on_the_queue(const mesh *m) {
  mesh_inbound_check *door = door_of(m, "narrow");
  mesh_cq *cq = NULL;
  MUST(mesh_cq_new(m, NULL, &cq, &err));
  mesh_received received = get("/");
  mesh_inbound *first = admitted(door, &received);
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  MUST(mesh_inbound_begin(door, &received, cq, 42, &inbound, &answer, NULL, &err));
  CHECK(inbound == NULL && answer == NULL);
  mesh_inbound_free(first);
  mesh_event event = next(cq);
  CHECK(event.kind == MESH_EV_ADMITTED && event.code == MESH_OK && event.tag == 42);
  CHECK(event.arg == (int64_t)mesh_inbound_id(event.handle));
  first = event.handle;

  MUST(mesh_inbound_begin(door, &received, cq, 43, &inbound, &answer, NULL, &err));
  mesh_op cancel = {.kind = MESH_OP_CANCEL, .tag = 43};
  size_t got = 0;
  MUST(mesh_cq_exchange(cq, &cancel, 1, sizeof(cancel), NULL, 0, 0, &got, 0, &err));
  event = next(cq);
  CHECK(event.kind == MESH_EV_ADMITTED && event.code == MESH_E_CANCELLED && event.tag == 43);
  mesh_error_free(event.handle);

  mesh_body_wanted *wanted = NULL;
  mesh_received order = post("/order");
  MUST(mesh_inbound_begin(door, &order, cq, 44, &inbound, &answer, &wanted, &err));
  CHECK(inbound == NULL && answer == NULL && wanted == NULL);
  mesh_inbound_free(first);
  event = next(cq);
  CHECK(event.kind == MESH_EV_BODY_WANTED && event.code == MESH_OK && event.tag == 44 && event.arg == 4);
  CHECK(given(event.handle, "12345", 0) == 413);
  mesh_body_wanted_free(event.handle);
  first = admitted(door, &received);

  pthread_t other;
  pthread_create(&other, NULL, end_it, first);
  mesh_inbound_free(admitted(door, &received));
  pthread_join(other, NULL);
  mesh_cq_free(cq);
  mesh_inbound_check_free(door);
}

static void nonsense_is_refused(const mesh *m, const mesh_inbound_check *door) {
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  mesh_inbound_check *none = NULL;
  MUST_FAIL(MESH_E_CONFIG, mesh_inbound_check_open(m, MESH_STR("nowhere"), &none, &err));
  mesh_received received = get("/");
  received.method = MESH_STR("");
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  received = get("a b");
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  received = get("/");
  received.remote_address = MESH_STR("somewhere");
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  received = get("/");
  received.peer_certificates = bytes_of("no certificate");
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  received = get("/");
  received.http_version = 12;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  received = get("/");
  received.flags = 2;
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  CHECK(inbound == NULL && answer == NULL);
}

static void a_closed_mesh_admits_nobody(mesh *m, const mesh_inbound_check *door) {
  mesh_received received = get("/");
  mesh_inbound *late = admitted(door, &received);
  MUST(mesh_close(m, 5 * SECOND, &err));
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  MUST_FAIL(MESH_E_CLOSED, mesh_inbound_begin(door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  mesh_inbound_free(late);
}

int main(void) {
  mesh *m = open_mesh();
  mesh_inbound_check *door = door_of(m, "own");
  a_request_begins_gets_a_head_and_ends(m, door);
  what_breaks_off_or_is_given_up_is_counted_so(m, door);
  the_mesh_answers_what_it_refuses_and_what_is_its_own(door);
  claims_of_a_verified_token_are_readable(door);
  the_authority_counts_whatever_a_host_field_says(door);
  an_answer_has_what_was_added_and_one_that_fails_early_is_a_500(m, door);
  requests_of_two_checks_have_two_numbers(m, door);
  a_body_that_a_check_wants_has_to_be_handed_over(m);
  a_body_is_asked_for_once_a_check_wants_it(m);
  who_has_to_wait_blocks_or_arrives_on_the_queue(m);
  nonsense_is_refused(m, door);
  a_closed_mesh_admits_nobody(m, door);
  mesh_inbound_check_free(door);
  mesh_free(m);
  return report("check");
}
