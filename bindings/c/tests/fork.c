// fork(): the child is told, never hangs, and does not disturb the parent.
#include <signal.h>
#include <sys/wait.h>

#include "world.h"

static int32_t answer(void *userdata, mesh_inbound *inbound) {
  (void)userdata;
  MUST(mesh_inbound_respond(inbound, 200, MESH_NONE, bytes_of("parent"), &err));
  return MESH_HANDLED;
}

// The child tells its number of failed checks by a pipe; its exit status is a leak checker's.
static int in_child(int (*body)(void *), void *argument) {
  int ends[2];
  if (pipe(ends)) exit(1);
  pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a hang is a failure
    unsigned char failed = (unsigned char)body(argument);
    if (write(ends[1], &failed, 1) != 1) _exit(1);
    _exit(0);
  }
  close(ends[1]);
  unsigned char failed = 99;
  if (read(ends[0], &failed, 1) != 1) failed = 98;
  close(ends[0]);
  waitpid(child, NULL, 0);
  return failed;
}

typedef struct inherited {
  world *w;
  mesh_cq *cq;
  mesh_request *request;
  mesh_response *response;
} inherited;

static int use_what_the_parent_started(void *argument) {
  inherited *i = argument;
  int before = failed_count;
  mesh_event event;
  size_t got;
  mesh_buf *buf = NULL;
  mesh_cq *cq = NULL;
  mesh_listener *listener = NULL;
  mesh_response *response = NULL;
  MUST_FAIL(MESH_E_FORKED, mesh_start(i->w->mesh, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_call(i->w->mesh, i->request, &response, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_response_read(i->response, &buf, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_cq_exchange(i->cq, NULL, 0, 0, &event, 1, sizeof(event), &got, -1, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_cq_run(i->cq, -1, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_cq_new(i->w->mesh, NULL, &cq, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_serve(i->w->mesh, MESH_STR("inbound"), i->cq, answer, NULL, &listener, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_status_json(i->w->mesh, &buf, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_drain(i->w->mesh, 0, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_close(i->w->mesh, SECOND, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_listener_wait(i->w->listener, &err));
  mesh_cq_wake(i->cq);  // must not wake the parent
  mesh_request_cancel(i->request);
  mesh_response_free(i->response);
  mesh_request_free(i->request);
  mesh_cq_free(i->cq);
  mesh_listener_free(i->w->listener);
  mesh_free(i->w->mesh);
  return failed_count - before;
}

// A guard needs no thread of the mesh, but its calls hold locks and places all the same.
typedef struct guarded {
  mesh *mesh;
  mesh_guard *guard;
  mesh_guard_call *call;
} guarded;

static int use_a_guard_of_the_parent(void *argument) {
  guarded *g = argument;
  int before = failed_count;
  mesh_guard_call *call = NULL;
  mesh_guard *guard = NULL;
  mesh_guard_step step;
  MUST_FAIL(MESH_E_FORKED, mesh_guard_open(g->mesh, MESH_STR("inventory"), &guard, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_guard_begin(g->guard, NULL, &call, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_guard_next(g->call, MESH_GUARD_READY, -1, &step, &err));
  mesh_guard_end(g->call);
  mesh_guard_free(g->guard);
  mesh_free(g->mesh);
  return failed_count - before;
}

static int use_a_guard_that_had_no_call(void *argument) {
  int before = failed_count;
  mesh_guard_call *call = NULL;
  MUST(mesh_guard_begin(argument, NULL, &call, &err));
  mesh_guard_end(call);
  return failed_count - before;
}

static void a_child_is_refused_a_guard_that_the_parent_used(void) {
  static const char text[] =
      "version: 1\nguards: [{ name: inventory, concurrency_limit: { max_requests: 1 } }]\n";
  guarded g = {0};
  mesh_config *config = NULL;
  MUST(mesh_config_parse(bytes_of(text), MESH_STR("guards.yaml"), &config, &err));
  MUST(mesh_open(NULL, config, &g.mesh, &err));
  mesh_config_free(config);
  MUST(mesh_guard_open(g.mesh, MESH_STR("inventory"), &g.guard, &err));
  CHECK(in_child(use_a_guard_that_had_no_call, g.guard) == 0);
  MUST(mesh_guard_begin(g.guard, NULL, &g.call, &err));
  CHECK(in_child(use_a_guard_of_the_parent, &g) == 0);
  // The place is still the parent's.
  mesh_guard_call *second = NULL;
  MUST_FAIL(MESH_E_OVERLOADED, mesh_guard_begin(g.guard, NULL, &second, &err));
  mesh_guard_end(g.call);
  MUST(mesh_guard_begin(g.guard, NULL, &second, &err));
  mesh_guard_end(second);
  mesh_guard_free(g.guard);
  MUST(mesh_close(g.mesh, 5 * SECOND, &err));
  mesh_free(g.mesh);
}

// Of the program's own server: the check, and a request that the parent has begun.
typedef struct checked {
  mesh *mesh;
  mesh_inbound_check *door;
  mesh_inbound *inbound;
} checked;

static mesh_received a_get(void) {
  mesh_received received = MESH_INIT(mesh_received);
  received.method = MESH_STR("GET");
  received.target = MESH_STR("/");
  return received;
}

static int use_a_check_of_the_parent(void *argument) {
  checked *c = argument;
  int before = failed_count;
  mesh_received received = a_get();
  mesh_inbound_check *door = NULL;
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  MUST_FAIL(MESH_E_FORKED, mesh_inbound_check_open(c->mesh, MESH_STR("own"), &door, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_inbound_begin(c->door, &received, NULL, 0, &inbound, &answer, NULL, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_inbound_head(c->inbound, 200, MESH_NONE, &answer, &err));
  MUST_FAIL(MESH_E_FORKED, mesh_inbound_end(c->inbound, 0, 0, MESH_NONE, NULL, &err));
  CHECK(mesh_inbound_check_body_limit(c->door) == 0);
  mesh_inbound_free(c->inbound);
  mesh_inbound_check_free(c->door);
  mesh_free(c->mesh);
  return failed_count - before;
}

static void a_child_is_refused_a_check_that_the_parent_used(void) {
  static const char text[] = "version: 1\nlisteners: [{ name: own, concurrency: { max_requests: 1, queue: { max_requests: 0 } } }]\n";
  checked c = {0};
  mesh_config *config = NULL;
  mesh_received received = a_get();
  mesh_response *answer = NULL, *head = NULL;
  MUST(mesh_config_parse(bytes_of(text), MESH_STR("own.yaml"), &config, &err));
  MUST(mesh_open(NULL, config, &c.mesh, &err));
  mesh_config_free(config);
  MUST(mesh_inbound_check_open(c.mesh, MESH_STR("own"), &c.door, &err));
  MUST(mesh_inbound_begin(c.door, &received, NULL, 0, &c.inbound, &answer, NULL, &err));
  CHECK(in_child(use_a_check_of_the_parent, &c) == 0);
  // The place is still the parent's, and the request can be ended.
  mesh_inbound *second = NULL;
  MUST(mesh_inbound_begin(c.door, &received, NULL, 0, &second, &answer, NULL, &err));
  CHECK(second == NULL && mesh_response_status(answer) == 503);
  mesh_response_free(answer);
  MUST(mesh_inbound_head(c.inbound, 200, MESH_NONE, &head, &err));
  mesh_response_free(head);
  MUST(mesh_inbound_end(c.inbound, 0, 0, MESH_NONE, NULL, &err));
  mesh_inbound_free(c.inbound);
  mesh_inbound_check_free(c.door);
  MUST(mesh_close(c.mesh, 5 * SECOND, &err));
  mesh_free(c.mesh);
}

static int open_a_new_one(void *argument) {
  world *parent = argument;
  int before = failed_count;
  mesh_config *config = world_config(parent->port, 2);
  mesh *m = NULL;
  MUST(mesh_open(NULL, config, &m, &err));
  mesh_config_free(config);
  world child = {.mesh = m, .port = parent->port};
  char body[32];
  CHECK(get(&child, "http://echo/", body, sizeof(body)) == 200);
  CHECK(strcmp(body, "parent") == 0);
  MUST(mesh_close(m, 5 * SECOND, &err));
  mesh_free(m);
  return failed_count - before;
}

static int use_one_that_was_never_started(void *argument) {
  int before = failed_count;
  char body[32];
  CHECK(get(argument, "http://echo/", body, sizeof(body)) == 200);
  MUST(mesh_close(((world *)argument)->mesh, 5 * SECOND, &err));
  return failed_count - before;
}

static void a_child_is_refused_what_the_parent_started(world *w) {
  inherited i = {.w = w, .request = request_to(w, "GET", "http://echo/")};
  MUST(mesh_cq_new(w->mesh, NULL, &i.cq, &err));
  mesh_request *request = request_to(w, "GET", "http://echo/");
  MUST(mesh_call(w->mesh, request, &i.response, &err));
  CHECK(in_child(use_what_the_parent_started, &i) == 0);
  // The parent goes on, on the same connections and queues.
  mesh_event event;
  size_t got = 9;
  MUST(mesh_cq_exchange(i.cq, NULL, 0, 0, &event, 1, sizeof(event), &got, 0, &err));
  CHECK(got == 0);
  char body[32];
  CHECK(read_all(i.response, body, sizeof(body)) == 6);
  CHECK(get(w, "http://echo/", body, sizeof(body)) == 200);
  mesh_response_free(i.response);
  mesh_request_free(i.request);
  mesh_request_free(request);
  mesh_cq_free(i.cq);
}

int main(void) {
  world w, fresh;
  world_open(&w, answer, NULL, 2);
  world_open(&fresh, NULL, NULL, 0);
  mesh_free(fresh.mesh);
  fresh = (world){.port = w.port};
  mesh_config *config = world_config(w.port, 2);
  MUST(mesh_open(NULL, config, &fresh.mesh, &err));
  mesh_config_free(config);
  a_child_is_refused_what_the_parent_started(&w);
  a_child_is_refused_a_guard_that_the_parent_used();
  a_child_is_refused_a_check_that_the_parent_used();
  CHECK(in_child(open_a_new_one, &w) == 0);
  CHECK(in_child(use_one_that_was_never_started, &fresh) == 0);
  char body[32];
  CHECK(get(&fresh, "http://echo/", body, sizeof(body)) == 200);
  CHECK(get(&w, "http://echo/", body, sizeof(body)) == 200);
  MUST(mesh_close(fresh.mesh, 5 * SECOND, &err));
  mesh_free(fresh.mesh);
  world_close(&w);
  return report("fork");
}
