// Cancelling a blocking call from another thread, and closing under one.
#include "world.h"

static int32_t answer(void *userdata, mesh_inbound *inbound) {
  (void)userdata;
  stay_while_held();
  mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_NONE, NULL);
  return MESH_HANDLED;
}

static void *cancel_inside(void *request) {
  wait_for_held();
  mesh_request_cancel(request);
  return NULL;
}

static void *close_inside(void *m) {
  wait_for_held();
  MUST(mesh_close(m, 5 * SECOND, &err));
  return NULL;
}

static void a_call_ends_when_its_request_is_cancelled(world *w) {
  mesh_request *request = request_to(w, "GET", "http://echo/");
  hold();
  pthread_t thread;
  pthread_create(&thread, NULL, cancel_inside, request);
  mesh_response *response = NULL;
  MUST_FAIL(MESH_E_CANCELLED, mesh_call(w->mesh, request, &response, &err));
  let_go();
  pthread_join(thread, NULL);
  mesh_request_free(request);
}

static void a_request_cancelled_before_is_never_sent(world *w) {
  mesh_request *request = request_to(w, "GET", "http://echo/");
  mesh_request_cancel(request);
  mesh_response *response = NULL;
  MUST_FAIL(MESH_E_CANCELLED, mesh_call(w->mesh, request, &response, &err));
  mesh_request_free(request);
  mesh_request_cancel(NULL);
  mesh_response_cancel(NULL);
}

static void a_call_ends_when_the_mesh_closes(world *w) {
  mesh_request *request = request_to(w, "GET", "http://echo/");
  hold();
  pthread_t thread;
  pthread_create(&thread, NULL, close_inside, w->mesh);
  mesh_response *response = NULL;
  mesh_code code = mesh_call(w->mesh, request, &response, NULL);
  let_go();
  CHECK(code == MESH_E_CLOSED || code == MESH_E_CANCELLED);
  CHECK(response == NULL);
  pthread_join(thread, NULL);
  mesh_request_free(request);
}

int main(void) {
  world w;
  world_open(&w, answer, NULL, 2);
  a_call_ends_when_its_request_is_cancelled(&w);
  a_request_cancelled_before_is_never_sent(&w);
  a_call_ends_when_the_mesh_closes(&w);
  world_close(&w);
  return report("cancel");
}
