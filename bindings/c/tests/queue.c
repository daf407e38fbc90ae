// The completion queue: one descriptor, exactly one completion each.
#include <errno.h>
#include <poll.h>
#include <signal.h>

#include "world.h"

enum { CALLS = 60 };  // all at once: as many connections as a slow checker opens within the connect timeout

static int32_t answer(void *userdata, mesh_inbound *inbound) {
  (void)userdata;
  if (path_is(inbound, "/slow")) usleep(600 * 1000);
  if (path_is(inbound, "/held")) stay_while_held();
  if (path_is(inbound, "/slower")) usleep(4000 * 1000);  // longer than a checker on a busy machine stands still
  if (path_is(inbound, "/large")) {
    static char large[300 * 1024];
    mesh_code code = mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_BYTES(large, sizeof(large)), NULL);
    CHECK(code == MESH_OK);
    return MESH_HANDLED;
  }
  char body[1024];
  size_t length = read_inbound(inbound, body, sizeof(body));
  mesh_code code = mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_BYTES(body, length), NULL);
  CHECK(code == MESH_OK || code == MESH_E_CANCELLED);
  return MESH_HANDLED;
}

static size_t exchange(mesh_cq *cq, const mesh_op *ops, size_t count, mesh_event *events, size_t capacity, int64_t wait) {
  size_t got = 0;
  MUST(mesh_cq_exchange(cq, ops, count, sizeof(mesh_op), events, capacity, sizeof(mesh_event), &got, wait, &err));
  return got;
}

static mesh_event one(mesh_cq *cq, const mesh_op *ops, size_t count) {
  mesh_event event = {0};
  CHECK(exchange(cq, ops, count, &event, 1, 10 * SECOND) == 1);
  return event;
}

static mesh_op submit(world *w, uint64_t tag, const char *method, const char *target, int64_t ahead) {
  mesh_op op = {.kind = MESH_OP_SUBMIT, .tag = tag, .handle = request_to(w, method, target), .arg = ahead};
  return op;
}

static mesh_op release(void *handle, int32_t kind) {
  mesh_op op = {.kind = MESH_OP_RELEASE, .handle = handle, .arg = kind};
  return op;
}

static int readable(mesh_cq *cq) {
  struct pollfd fd = {.fd = mesh_cq_fd(cq), .events = POLLIN};
  return poll(&fd, 1, 0) == 1;
}

static void many_calls_complete_once_each(world *w, mesh_cq *cq) {
  static mesh_op ops[CALLS];
  static int done[CALLS];
  for (int i = 0; i < CALLS; i++) {
    ops[i] = submit(w, i, "POST", "http://echo/x", 64 * 1024);
    MUST(mesh_request_body_copy(ops[i].handle, bytes_of("ping"), &err));
  }
  mesh_event events[64];
  size_t got = exchange(cq, ops, CALLS, events, 64, 0), total = 0;
  while (total < CALLS) {
    mesh_op frees[64];
    size_t count = 0;
    for (size_t i = 0; i < got; i++) {
      done[events[i].tag]++;
      int answered = events[i].kind == MESH_EV_DONE && events[i].code == MESH_OK;
      if (!CHECK(answered)) {
        fprintf(stderr, "%s\n", mesh_error_json(events[i].handle).ptr);
        exit(1);
      }
      CHECK(events[i].arg == 200 && (events[i].flags & MESH_EVF_WHOLE_BODY) && same_bytes(events[i].data, "ping"));
      frees[count++] = release(events[i].handle, MESH_HANDLE_RESPONSE);
      total++;
    }
    got = exchange(cq, frees, count, events, total < CALLS ? 64 : 0, 10 * SECOND);
  }
  int once = 1;
  for (int i = 0; i < CALLS; i++) once &= done[i] == 1;
  CHECK(once);
  CHECK(exchange(cq, NULL, 0, events, 64, 0) == 0);
  CHECK(!readable(cq));
}

static void the_descriptor_is_readable_while_an_event_waits(world *w, mesh_cq *cq) {
  CHECK(!readable(cq));
  mesh_op ops[2] = {submit(w, 1, "GET", "http://echo/a", 1024), submit(w, 2, "GET", "http://echo/b", 1024)};
  mesh_event event;
  CHECK(exchange(cq, ops, 2, NULL, 0, 0) == 0);
  for (int i = 0; i < 2; i++) {
    struct pollfd fd = {.fd = mesh_cq_fd(cq), .events = POLLIN};
    CHECK(poll(&fd, 1, 10000) == 1);
    CHECK(exchange(cq, NULL, 0, &event, 1, 0) == 1);
    mesh_response_free(event.handle);
  }
  CHECK(!readable(cq));
}

static void a_body_is_read_chunk_by_chunk(world *w, mesh_cq *cq) {
  mesh_op op = submit(w, 7, "GET", "http://echo/large", 0);
  mesh_event event = one(cq, &op, 1);
  CHECK(event.kind == MESH_EV_DONE && event.tag == 7 && event.flags == 0);
  mesh_response *response = event.handle;
  size_t total = 0;
  for (;;) {
    mesh_op read = {.kind = MESH_OP_READ, .tag = 8, .handle = response};
    event = one(cq, &read, 1);
    CHECK(event.kind == MESH_EV_CHUNK && event.tag == 8 && event.code == MESH_OK);
    if (event.flags & MESH_EVF_END) break;
    CHECK(event.data.ptr == mesh_buf_bytes(event.handle).ptr);
    total += event.data.len;
    mesh_buf_free(event.handle);
  }
  CHECK(event.handle == NULL && total == 300 * 1024);
  mesh_response_free(response);
  // Reading ahead less than the body keeps what was read.
  op = submit(w, 9, "GET", "http://echo/large", 1000);
  event = one(cq, &op, 1);
  CHECK(!(event.flags & MESH_EVF_WHOLE_BODY));
  char none[1];
  CHECK(read_all(event.handle, none, 1) == 300 * 1024);
  mesh_response_free(event.handle);
}

static void a_request_body_is_written_when_there_is_room(world *w, mesh_cq *cq) {
  mesh_op op = submit(w, 1, "POST", "http://echo/x", 1024);
  mesh_body *body = NULL;
  MUST(mesh_request_body_stream(op.handle, -1, &body, &err));
  CHECK(exchange(cq, &op, 1, NULL, 0, 0) == 0);
  for (int i = 0; i < 10; i++) {
    mesh_op write = {.kind = MESH_OP_BODY_WRITE, .tag = 2, .handle = body, .data = bytes_of("0123456789")};
    mesh_event event = one(cq, &write, 1);
    CHECK(event.kind == MESH_EV_WRITTEN && event.tag == 2 && event.code == MESH_OK);
  }
  mesh_op end = {.kind = MESH_OP_BODY_END, .handle = body};
  mesh_event event = one(cq, &end, 1);
  CHECK(event.kind == MESH_EV_DONE && event.tag == 1 && event.code == MESH_OK);
  CHECK(event.data.len == 100);
  mesh_response_free(event.handle);
}

static void failures_arrive_as_completions(world *w, mesh_cq *cq) {
  mesh_op op = submit(w, 5, "GET", "http://nobody-knows-this/", 0);
  mesh_event event = one(cq, &op, 1);
  CHECK(event.kind == MESH_EV_DONE && event.tag == 5 && event.code == MESH_E_NO_ROUTE);
  CHECK(mesh_error_code(event.handle) == MESH_E_NO_ROUTE);
  mesh_error_free(event.handle);
}

static void a_cancelled_call_completes_once_and_at_once(world *w, mesh_cq *cq) {
  hold();
  mesh_op ops[2] = {submit(w, 6, "GET", "http://echo/held", 0), {.kind = MESH_OP_CANCEL, .tag = 6}};
  mesh_event event = one(cq, ops, 2);
  let_go();
  CHECK(event.kind == MESH_EV_DONE && event.tag == 6 && event.code == MESH_E_CANCELLED);
  CHECK(mesh_error_flags(event.handle) & MESH_ERR_CANCELLED);
  mesh_error_free(event.handle);
  mesh_op cancel = {.kind = MESH_OP_CANCEL, .tag = 6};
  CHECK(exchange(cq, &cancel, 1, &event, 1, SECOND / 2) == 0);  // nothing in flight: no event
}

static void a_tag_in_flight_cannot_be_used_again(world *w, mesh_cq *cq) {
  hold();
  mesh_op ops[2] = {submit(w, 6, "GET", "http://echo/held", 0), submit(w, 6, "GET", "http://echo/a", 0)};
  mesh_event event = one(cq, ops, 2);
  CHECK(event.tag == 6 && event.code == MESH_E_BUSY);
  mesh_error_free(event.handle);
  mesh_op cancel = {.kind = MESH_OP_CANCEL, .tag = 6};
  event = one(cq, &cancel, 1);
  let_go();
  CHECK(event.tag == 6 && event.code == MESH_E_CANCELLED);
  mesh_error_free(event.handle);
}

static void a_batch_that_is_not_understood_does_nothing(world *w, mesh_cq *cq) {
  mesh_op ops[2] = {submit(w, 1, "GET", "http://echo/a", 0), {.kind = 99}};
  mesh_event event;
  size_t got;
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_cq_exchange(cq, ops, 2, sizeof(mesh_op), &event, 1, sizeof(event), &got, 0, &err));
  ops[1] = (mesh_op){.kind = MESH_OP_READ};
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_cq_exchange(cq, ops, 2, sizeof(mesh_op), &event, 1, sizeof(event), &got, 0, &err));
  ops[1] = (mesh_op){.kind = MESH_OP_RELEASE, .arg = MESH_HANDLE_MESH};
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_cq_exchange(cq, ops, 2, sizeof(mesh_op), &event, 1, sizeof(event), &got, 0, &err));
  ops[1] = (mesh_op){.kind = MESH_OP_CANCEL, .flags = 1};
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_cq_exchange(cq, ops, 2, sizeof(mesh_op), &event, 1, sizeof(event), &got, 0, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_cq_exchange(cq, ops, 2, 8, &event, 1, sizeof(event), &got, 0, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_cq_exchange(cq, ops, 1, sizeof(mesh_op), &event, 1, 8, &got, 0, &err));
  mesh_request_free(ops[0].handle);  // still ours
}

static mesh_cq *to_wake;
static void wake(int number) {
  (void)number;
  mesh_cq_wake(to_wake);
}

static void a_wake_ends_a_wait_also_from_a_signal_handler(mesh_cq *cq) {
  to_wake = cq;
  mesh_cq_wake(cq);
  CHECK(readable(cq));
  mesh_event event = one(cq, NULL, 0);
  CHECK(event.kind == MESH_EV_WAKE);
  CHECK(!readable(cq));
  struct sigaction action = {0};
  action.sa_handler = wake;
  sigaction(SIGALRM, &action, NULL);
  alarm(1);
  event = one(cq, NULL, 0);
  CHECK(event.kind == MESH_EV_WAKE);
}

static void a_queue_frees_what_nobody_took(world *w) {
  mesh_cq *cq = NULL;
  mesh_cq_options options = MESH_INIT(mesh_cq_options);
  MUST(mesh_cq_new(w->mesh, &options, &cq, &err));
  mesh_op ops[3] = {submit(w, 1, "GET", "http://echo/a", 1024), submit(w, 2, "GET", "http://nobody-knows-this/", 0),
                    submit(w, 3, "GET", "http://echo/slow", 0)};
  CHECK(exchange(cq, ops, 3, NULL, 0, 0) == 0);
  usleep(100 * 1000);
  mesh_cq_free(cq);
}

static int seen_by_callback;
static void on_event(void *userdata, const mesh_event *event) {
  CHECK(userdata == &seen_by_callback && event->kind == MESH_EV_DONE);
  seen_by_callback++;
  mesh_response_free(event->handle);
  mesh_cq_stop(to_wake);
}

static void run_gives_completions_to_the_callback(world *w) {
  mesh_cq_options options = MESH_INIT(mesh_cq_options);
  options.on_event = on_event;
  options.userdata = &seen_by_callback;
  mesh_cq *cq = NULL;
  MUST(mesh_cq_new(w->mesh, &options, &cq, &err));
  to_wake = cq;
  mesh_op op = submit(w, 1, "GET", "http://echo/a", 1024);
  CHECK(exchange(cq, &op, 1, NULL, 0, 0) == 0);
  MUST(mesh_cq_run(cq, 10 * SECOND, &err));
  CHECK(seen_by_callback == 1);
  mesh_cq_free(cq);
}

static void closing_completes_what_is_in_flight(world *w, mesh_cq *cq) {
  mesh_op op = submit(w, 11, "GET", "http://echo/slower", 0);
  mesh_event event;
  CHECK(exchange(cq, &op, 1, &event, 1, 0) == 0);
  MUST(mesh_close(w->mesh, 5 * SECOND, &err));
  event = one(cq, NULL, 0);
  CHECK(event.kind == MESH_EV_DONE && event.tag == 11 && event.code == MESH_E_CLOSED);
  if (event.code != MESH_OK) mesh_error_free(event.handle);
  CHECK(exchange(cq, NULL, 0, &event, 1, -1) == 0);  // stopped: does not wait
}

int main(void) {
  world w;
  world_open(&w, answer, NULL, 3);
  mesh_cq *cq = NULL;
  MUST(mesh_cq_new(w.mesh, NULL, &cq, &err));
  many_calls_complete_once_each(&w, cq);
  the_descriptor_is_readable_while_an_event_waits(&w, cq);
  a_body_is_read_chunk_by_chunk(&w, cq);
  a_request_body_is_written_when_there_is_room(&w, cq);
  failures_arrive_as_completions(&w, cq);
  a_cancelled_call_completes_once_and_at_once(&w, cq);
  a_tag_in_flight_cannot_be_used_again(&w, cq);
  a_batch_that_is_not_understood_does_nothing(&w, cq);
  a_wake_ends_a_wait_also_from_a_signal_handler(cq);
  a_queue_frees_what_nobody_took(&w);
  run_gives_completions_to_the_callback(&w);
  closing_completes_what_is_in_flight(&w, cq);
  mesh_cq_free(cq);
  world_close(&w);
  return report("queue");
}
