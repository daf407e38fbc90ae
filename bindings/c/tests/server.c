// The server: handlers, queue events, what a request tells, and what is passed on to onward calls.
#include <math.h>
#include <poll.h>

#include "world.h"

static mesh_inbound *kept;
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

static void call_onward(world *w, mesh_inbound *inbound, mesh_inbound *parent) {
  mesh_request *request = request_to(w, "GET", "http://echo/trace");
  if (parent) MUST(mesh_request_set_parent(request, parent, &err));
  mesh_response *response = NULL;
  MUST(mesh_call(w->mesh, request, &response, &err));
  char body[256];
  size_t length = read_all(response, body, sizeof(body));
  mesh_response_free(response);
  mesh_request_free(request);
  MUST(mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_BYTES(body, length), &err));
}

static int32_t answer(void *userdata, mesh_inbound *inbound) {
  world *w = userdata;
  char text[512];
  if (path_is(inbound, "/nothing")) return MESH_HANDLED;
  if (path_is(inbound, "/keep")) {
    pthread_mutex_lock(&kept_lock);
    kept = inbound;
    pthread_mutex_unlock(&kept_lock);
    return MESH_KEEP;
  }
  if (path_is(inbound, "/onward")) {
    call_onward(w, inbound, NULL);
    MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_NONE, &err));
    return MESH_HANDLED;
  }
  if (path_is(inbound, "/claims")) {
    mesh_str claims = mesh_inbound_claims_json(inbound);
    CHECK(mesh_inbound_header(inbound, MESH_STR("authorization"), 0).ptr == NULL);
    MUST(mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_BYTES(claims.ptr, claims.len), &err));
    return MESH_HANDLED;
  }
  if (path_is(inbound, "/trace")) {
    snprintf(text, sizeof(text), "%s %d", mesh_inbound_trace_id(inbound).ptr, mesh_inbound_remaining_ns(inbound) > 0);
    MUST(mesh_inbound_respond(inbound, 200, MESH_NONE, bytes_of(text), &err));
    return MESH_HANDLED;
  }
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_respond(inbound, 99, MESH_NONE, MESH_NONE, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_respond(inbound, 100, MESH_NONE, MESH_NONE, &err));
  char body[256];
  read_inbound(inbound, body, sizeof(body));
  snprintf(text, sizeof(text), "%s|%s|%s|%s|%s|%s", mesh_inbound_method(inbound).ptr, mesh_inbound_path(inbound).ptr,
           mesh_inbound_authority(inbound).ptr, mesh_inbound_peer_id(inbound).ptr, mesh_inbound_local_address(inbound).ptr, body);
  CHECK(strncmp(mesh_inbound_remote_address(inbound).ptr, "127.0.0.1:", 10) == 0);
  CHECK(mesh_inbound_trace_id(inbound).len == 32);
  CHECK(mesh_inbound_id(inbound) > 0);
  size_t found = 0, count = mesh_inbound_header_count(inbound);
  for (size_t i = 0; i < count; i++) {
    mesh_str name;
    mesh_bytes value;
    MUST(mesh_inbound_header_at(inbound, i, &name, &value, &err));
    found += same(name, "x-one") && same_bytes(value, "1");
  }
  CHECK(found == 1);
  uint32_t packed_count;
  memcpy(&packed_count, mesh_inbound_headers_packed(inbound).ptr, 4);
  CHECK(packed_count == count);
  CHECK(mesh_inbound_trailers_packed(inbound).len == 0);
  MUST(mesh_inbound_header_add(inbound, MESH_STR("x-answer"), bytes_of("a"), &err));
  MUST(mesh_inbound_header_add(inbound, MESH_STR("x-answer"), bytes_of("b"), &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_header_add(inbound, MESH_STR(""), bytes_of("b"), &err));
  MUST(mesh_inbound_respond(inbound, 201, MESH_NONE, bytes_of(text), &err));
  return MESH_HANDLED;
}

static void a_request_tells_what_it_is(world *w) {
  mesh_request *request = request_to(w, "PUT", "http://echo/a/b?c=d");
  MUST(mesh_request_header_add(request, MESH_STR("x-one"), bytes_of("1"), &err));
  MUST(mesh_request_body_copy(request, bytes_of("payload"), &err));
  mesh_response *response = NULL;
  MUST(mesh_call(w->mesh, request, &response, &err));
  CHECK(mesh_response_status(response) == 201);
  CHECK(same_bytes(mesh_response_header(response, MESH_STR("x-answer"), 0), "a"));
  CHECK(same_bytes(mesh_response_header(response, MESH_STR("x-answer"), 1), "b"));
  char body[512], expected[512];
  read_all(response, body, sizeof(body));
  snprintf(expected, sizeof(expected), "PUT|/a/b?c=d|echo||127.0.0.1:%d|payload", w->port);
  if (!CHECK(strcmp(body, expected) == 0)) fprintf(stderr, "got %s\n", body);
  mesh_response_free(response);
  mesh_request_free(request);
  char address[32];
  snprintf(address, sizeof(address), "127.0.0.1:%d", w->port);
  CHECK(same(mesh_listener_address(w->listener), address));
}

// Signed with that key; it never ends.
#define TOKEN_WITHOUT_ITS_LAST                                                        \
  "Bearer eyJhbGciOiJFZERTQSJ9."                                                   \
  "eyJpc3MiOiJ0ZXN0Iiwic3ViIjoiYWxpY2UiLCJyb2xlcyI6WyJidXllciJdfQ." \
  "qnK8n_zhP12pdUiei9JG2g9cUuKddrMM2OGMl-jYsHfBo6f_eKGO5dFE_YLM-wO-kWCo441_6XGjMOt_c7D6B"

static int claims_of(world *w, const char *token, char *body, size_t size) {
  mesh_request *request = request_to(w, "GET", "http://echo/claims");
  if (token) MUST(mesh_request_header_add(request, MESH_STR("authorization"), bytes_of(token), &err));
  mesh_response *response = NULL;
  MUST(mesh_call(w->mesh, request, &response, &err));
  int status = mesh_response_status(response);
  read_all(response, body, size);
  mesh_response_free(response);
  mesh_request_free(request);
  return status;
}

static void claims_come_from_a_verified_token_or_not_at_all(world *w) {
  char body[512];
  CHECK(claims_of(w, NULL, body, sizeof(body)) == 200 && body[0] == 0);
  CHECK(claims_of(w, TOKEN_WITHOUT_ITS_LAST "A", body, sizeof(body)) == 200);
  CHECK(strcmp(body, "{\"iss\":\"test\",\"sub\":\"alice\",\"roles\":[\"buyer\"]}") == 0);
  CHECK(claims_of(w, TOKEN_WITHOUT_ITS_LAST "Q", body, sizeof(body)) == 401);
}

static void no_answer_is_a_500(world *w) {
  char body[256];
  CHECK(get(w, "http://echo/nothing", body, sizeof(body)) == 500);
}

// Traces are compared with the one the test sends.
static void an_onward_call_continues_trace_and_deadline(world *w) {
  const char *trace = "0af7651916cd43dd8448eb211c80319c";
  mesh_request *request = request_to(w, "GET", "http://echo/onward");
  MUST(mesh_request_header_add(request, MESH_STR("traceparent"), bytes_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), &err));
  mesh_response *response = NULL;
  MUST(mesh_call(w->mesh, request, &response, &err));
  char body[256];
  read_all(response, body, sizeof(body));
  // What this client sends is the mesh's business; what counts is that both hops saw the same trace.
  (void)trace;
  CHECK(strlen(body) == 34 && body[33] == '1');
  mesh_response_free(response);
  mesh_request_free(request);
}

static void *answer_kept(void *unused) {
  (void)unused;
  mesh_inbound *inbound = NULL;
  while (!inbound) {
    usleep(1000);
    pthread_mutex_lock(&kept_lock);
    inbound = kept;
    kept = NULL;
    pthread_mutex_unlock(&kept_lock);
  }
  MUST(mesh_inbound_respond(inbound, 202, MESH_NONE, bytes_of("later"), &err));
  mesh_inbound_free(inbound);
  return NULL;
}

static void a_handler_may_keep_the_request_and_answer_later(world *w) {
  pthread_t thread;
  pthread_create(&thread, NULL, answer_kept, NULL);
  char body[64];
  CHECK(get(w, "http://echo/keep", body, sizeof(body)) == 202);
  CHECK(strcmp(body, "later") == 0);
  pthread_join(thread, NULL);
}

static void a_listener_must_be_of_the_configuration(world *w) {
  mesh_listener *listener = NULL;
  mesh_error *error = NULL;
  CHECK(mesh_serve(w->mesh, MESH_STR("nowhere"), w->server, answer, w, &listener, &error) != MESH_OK);
  CHECK(strstr(mesh_error_message(error).ptr, "nowhere") != NULL);
  mesh_error_free(error);
  error = NULL;
  CHECK(mesh_forward(w->mesh, MESH_STR("nowhere"), &listener, &error) != MESH_OK);
  mesh_error_free(error);
  world other;
  world_open(&other, NULL, NULL, 0);
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_serve(other.mesh, MESH_STR("inbound"), w->server, answer, w, &listener, &err));
  mesh_free(other.mesh);
  CHECK(listener == NULL);
}

// The same, on a queue.

static mesh_event next(mesh_cq *cq, const mesh_op *ops, size_t count) {
  mesh_event event = {0};
  size_t got = 0;
  MUST(mesh_cq_exchange(cq, ops, count, sizeof(mesh_op), &event, 1, sizeof(event), &got, 10 * SECOND, &err));
  CHECK(got == 1);
  return event;
}

typedef struct caller {
  world *w;
  const char *target;
  int64_t timeout;
  int status;
  mesh_code code;
  char body[64];
} caller;

static void *call_in_thread(void *argument) {
  caller *c = argument;
  mesh_request *request = request_to(c->w, "POST", c->target);
  MUST(mesh_request_body_copy(request, bytes_of("question"), &err));
  if (c->timeout) MUST(mesh_request_set_timeout(request, c->timeout, &err));
  mesh_response *response = NULL;
  c->code = mesh_call(c->w->mesh, request, &response, NULL);
  if (response) {
    c->status = mesh_response_status(response);
    read_all(response, c->body, sizeof(c->body));
  }
  mesh_response_free(response);
  mesh_request_free(request);
  return NULL;
}

static void requests_arrive_as_events_and_are_answered_by_ops(void) {
  world w;
  world_open(&w, NULL, NULL, 0);
  mesh_cq *cq = NULL;
  MUST(mesh_cq_new(w.mesh, NULL, &cq, &err));
  mesh_listen_options options = MESH_INIT(mesh_listen_options);
  options.tag = 77;
  MUST(mesh_listen(w.mesh, MESH_STR("inbound"), cq, &options, &w.listener, &err));

  caller c = {&w, "http://echo/q", 0, 0, 0, ""};
  pthread_t thread;
  pthread_create(&thread, NULL, call_in_thread, &c);
  mesh_event event = next(cq, NULL, 0);
  CHECK(event.kind == MESH_EV_INBOUND && event.tag == 77);
  mesh_inbound *inbound = event.handle;
  CHECK((uint64_t)event.arg == mesh_inbound_id(inbound));
  mesh_op read = {.kind = MESH_OP_INBOUND_READ, .tag = 5, .handle = inbound};
  event = next(cq, &read, 1);
  CHECK(event.kind == MESH_EV_CHUNK && event.tag == 5 && same_bytes(event.data, "question"));
  mesh_buf_free(event.handle);
  event = next(cq, &read, 1);
  CHECK(event.flags & MESH_EVF_END);

  // Active on this thread: a request made now continues the trace.
  MUST(mesh_inbound_activate(inbound, &err));
  MUST(mesh_inbound_deactivate(inbound, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_inbound_deactivate(inbound, &err));
  MUST(mesh_inbound_activate(inbound, &err));  // ended by freeing the request

  mesh_op respond = {.kind = MESH_OP_RESPOND, .handle = inbound, .arg = 203, .data = bytes_of("answer")};
  size_t got;
  MUST(mesh_cq_exchange(cq, &respond, 1, sizeof(respond), NULL, 0, 0, &got, 0, &err));
  pthread_join(thread, NULL);
  CHECK(c.code == MESH_OK && c.status == 203 && strcmp(c.body, "answer") == 0);

  // A caller that gives up is noticed.
  c = (caller){&w, "http://echo/q", 3 * SECOND, 0, 0, ""};
  pthread_create(&thread, NULL, call_in_thread, &c);
  event = next(cq, NULL, 0);
  CHECK(event.kind == MESH_EV_INBOUND);
  inbound = event.handle;
  int64_t id = event.arg;
  pthread_join(thread, NULL);
  CHECK(c.code == MESH_E_TIMEOUT);
  event = next(cq, NULL, 0);
  CHECK(event.kind == MESH_EV_INBOUND_GONE && event.tag == 77 && event.arg == id);
  MUST_FAIL(MESH_E_CANCELLED, mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_NONE, &err));
  mesh_inbound_free(inbound);

  // A stopped queue takes nothing more.
  mesh_cq_stop(cq);
  c = (caller){&w, "http://echo/q", 0, 0, 0, ""};
  call_in_thread(&c);
  CHECK(c.code == MESH_OK && c.status == 503);

  world_close(&w);
  mesh_cq_free(cq);
}

static void a_full_queue_refuses(void) {
  world w;
  world_open(&w, NULL, NULL, 0);
  mesh_cq *cq = NULL;
  MUST(mesh_cq_new(w.mesh, NULL, &cq, &err));
  mesh_listen_options options = MESH_INIT(mesh_listen_options);
  options.max_pending = 1;
  MUST(mesh_listen(w.mesh, MESH_STR("inbound"), cq, &options, &w.listener, &err));
  caller first = {&w, "http://echo/1", 5 * SECOND, 0, 0, ""}, second = {&w, "http://echo/2", 5 * SECOND, 0, 0, ""};
  pthread_t thread;
  pthread_create(&thread, NULL, call_in_thread, &first);
  struct pollfd queued = {.fd = mesh_cq_fd(cq), .events = POLLIN};
  CHECK(poll(&queued, 1, 20000) == 1);
  call_in_thread(&second);
  CHECK(second.code == MESH_OK && second.status == 503);
  pthread_join(thread, NULL);
  CHECK(first.code == MESH_E_TIMEOUT);
  mesh_cq_free(cq);  // with the request that nobody took still in it
  world_close(&w);
}

static void a_drain_ends_the_listener(world *w) {
  MUST(mesh_drain(w->mesh, SECOND, &err));
  MUST(mesh_listener_wait(w->listener, &err));
}

// What the program says of its load reaches a caller that asks.
static void a_caller_that_asks_is_told_the_load(world *w) {
  MUST(mesh_load_report_set(w->mesh, MESH_STR("utilization"), 0.7, &err));
  MUST(mesh_load_report_set(w->mesh, MESH_STR("queue_depth"), 4, &err));
  MUST(mesh_load_report_set(w->mesh, MESH_STR("gpu"), 0.5, &err));
  MUST(mesh_load_report_set(w->mesh, MESH_STR("gpu"), (double)NAN, &err));
  MUST_FAIL(MESH_E_BAD_REQUEST, mesh_load_report_set(w->mesh, MESH_STR("cpu"), -1, &err));
  for (int asks = 0; asks < 2; asks++) {
    mesh_request *request = request_to(w, "GET", "http://echo/trace");
    if (asks) MUST(mesh_request_header_add(request, MESH_STR("endpoint-load-metrics-format"), bytes_of("text"), &err));
    mesh_response *response = NULL;
    MUST(mesh_call(w->mesh, request, &response, &err));
    mesh_bytes told = mesh_response_header(response, MESH_STR("endpoint-load-metrics"), 0);
    char text[512] = "";
    if (told.len < sizeof(text)) memcpy(text, told.ptr ? (const char *)told.ptr : "", told.len);
    CHECK((strstr(text, "application_utilization=0.7") != NULL) == asks);
    CHECK((strstr(text, "named_metrics.queue_depth=4") != NULL) == asks);
    CHECK(strstr(text, "gpu") == NULL);
    mesh_response_free(response);
    mesh_request_free(request);
  }
}

int main(void) {
  world w;
  world_open(&w, answer, &w, 3);
  a_request_tells_what_it_is(&w);
  claims_come_from_a_verified_token_or_not_at_all(&w);
  no_answer_is_a_500(&w);
  an_onward_call_continues_trace_and_deadline(&w);
  a_handler_may_keep_the_request_and_answer_later(&w);
  a_listener_must_be_of_the_configuration(&w);
  a_caller_that_asks_is_told_the_load(&w);
  a_drain_ends_the_listener(&w);
  world_close(&w);
  requests_arrive_as_events_and_are_answered_by_ops();
  a_full_queue_refuses();
  return report("server");
}
