// The blocking client.
#include <signal.h>
#include <sys/time.h>

#include "world.h"

static int32_t answer(void *userdata, mesh_inbound *inbound) {
  (void)userdata;
  char body[4096];
  if (path_is(inbound, "/slow")) usleep(400 * 1000);
  if (path_is(inbound, "/held")) stay_while_held();
  if (path_is(inbound, "/refuse")) {
    MUST(mesh_inbound_respond(inbound, 418, MESH_NONE, bytes_of("teapot"), &err));
    return MESH_HANDLED;
  }
  size_t length = read_inbound(inbound, body, sizeof(body));
  mesh_bytes tag = mesh_inbound_header(inbound, MESH_STR("X-Tag"), 1);
  MUST(mesh_inbound_header_add(inbound, MESH_STR("x-method"), MESH_BYTES(mesh_inbound_method(inbound).ptr, mesh_inbound_method(inbound).len), &err));
  if (tag.ptr) MUST(mesh_inbound_header_add(inbound, MESH_STR("x-tag"), tag, &err));
  mesh_code code = mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_BYTES(body, length), NULL);
  CHECK(code == MESH_OK || code == MESH_E_CANCELLED);
  return MESH_HANDLED;
}

static void a_post_comes_back_with_headers_and_body(world *w) {
  mesh_request *request = request_to(w, "POST", "http://echo/say?x=1");
  MUST(mesh_request_header_add(request, MESH_STR("x-tag"), bytes_of("one"), &err));
  MUST(mesh_request_header_add(request, MESH_STR("x-tag"), bytes_of("two"), &err));
  MUST(mesh_request_body_copy(request, bytes_of("hello"), &err));
  MUST(mesh_request_set_idempotent(request, 1, &err));
  MUST(mesh_request_set_detached(request, 1, &err));
  MUST(mesh_request_set_timeout(request, 5 * SECOND, &err));
  mesh_response *response = NULL;
  MUST(mesh_call(w->mesh, request, &response, &err));
  CHECK(mesh_response_status(response) == 200);
  CHECK(same_bytes(mesh_response_header(response, MESH_STR("X-METHOD"), 0), "POST"));
  CHECK(same_bytes(mesh_response_header(response, MESH_STR("x-tag"), 0), "two"));
  CHECK(mesh_response_header(response, MESH_STR("x-tag"), 1).ptr == NULL);
  char body[64];
  CHECK(read_all(response, body, sizeof(body)) == 5 && strcmp(body, "hello") == 0);
  mesh_buf *chunk = (mesh_buf *)0x1;
  MUST(mesh_response_read(response, &chunk, &err));
  CHECK(chunk == NULL);
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_call(w->mesh, request, &response, &err));  // sent once only
  mesh_call_info info = MESH_INIT(mesh_call_info);
  MUST(mesh_response_info(response, &info, &err));
  CHECK(info.attempts == 1 && info.revision > 0);
  CHECK(same(info.cluster, "echo") && info.peer_id.len == 0);
  char endpoint[32];
  snprintf(endpoint, sizeof(endpoint), "127.0.0.1:%d", w->port);
  CHECK(same(info.endpoint, endpoint));
  info = MESH_INIT(mesh_call_info);
  info.struct_size = 8;  // an older program
  MUST(mesh_response_info(response, &info, &err));
  CHECK(info.attempts == 1 && info.revision == 0);
  mesh_response_free(response);
  mesh_request_free(request);
}

static void headers_come_packed_and_one_by_one_alike(world *w) {
  mesh_request *request = request_to(w, "GET", "http://echo/");
  mesh_response *response = NULL;
  // A packed list of one header, x-tag twice: count, then (name, value) offsets and lengths, then text.
  const char *text = "x-tagab";
  uint32_t head[9] = {2, 36, 5, 41, 1, 36, 5, 42, 1};
  char block[36 + 7];
  memcpy(block, head, 36);
  memcpy(block + 36, text, 7);
  MUST(mesh_request_headers_packed(request, MESH_BYTES(block, sizeof(block)), &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_request_headers_packed(request, MESH_BYTES(block, 20), &err));
  MUST(mesh_call(w->mesh, request, &response, &err));
  CHECK(same_bytes(mesh_response_header(response, MESH_STR("x-tag"), 0), "b"));
  mesh_bytes packed = mesh_response_headers_packed(response);
  uint32_t count, entry[4];
  memcpy(&count, packed.ptr, 4);
  CHECK(count == mesh_response_header_count(response) && count > 1);
  for (uint32_t i = 0; i < count; i++) {
    mesh_str name;
    mesh_bytes value;
    MUST(mesh_response_header_at(response, i, &name, &value, &err));
    memcpy(entry, packed.ptr + 4 + 16 * i, 16);
    CHECK(name.ptr == (const char *)packed.ptr + entry[0] && name.len == entry[1] && name.ptr[name.len] == 0);
    CHECK(value.ptr == packed.ptr + entry[2] && value.len == entry[3] && value.ptr[value.len] == 0);
  }
  mesh_str name;
  mesh_bytes value;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_response_header_at(response, count, &name, &value, &err));
  CHECK(mesh_response_trailers_packed(response).len == 0);
  mesh_response_free(response);  // unread: releases the connection all the same
  mesh_request_free(request);
}

static void a_status_of_the_app_is_not_an_error(world *w) {
  char body[64];
  CHECK(get(w, "http://echo/refuse", body, sizeof(body)) == 418);
  CHECK(strcmp(body, "teapot") == 0);
}

static void failures_have_their_code_name_and_flags(world *w) {
  mesh_response *response = NULL;
  mesh_error *error = NULL;
  mesh_request *request = request_to(w, "GET", "http://nobody-knows-this/");
  CHECK(mesh_call(w->mesh, request, &response, &error) == MESH_E_NO_ROUTE);
  CHECK(same(mesh_error_name(error), "no_route"));
  CHECK(mesh_error_flags(error) & MESH_ERR_NOT_SENT);
  CHECK(!(mesh_error_flags(error) & MESH_ERR_RETRIABLE));
  mesh_error_free(error);
  mesh_request_free(request);

  request = request_to(w, "GET", "http://dead/");
  error = NULL;
  CHECK(mesh_call(w->mesh, request, &response, &error) == MESH_E_CONNECT);
  CHECK((mesh_error_flags(error) & (MESH_ERR_NOT_SENT | MESH_ERR_RETRIABLE)) == (MESH_ERR_NOT_SENT | MESH_ERR_RETRIABLE));
  mesh_error_free(error);
  mesh_request_free(request);

  // Time enough to be sent on a machine that stands still for a while.
  hold();
  request = request_to(w, "POST", "http://echo/held");
  MUST(mesh_request_set_timeout(request, 3 * SECOND, &err));
  error = NULL;
  CHECK(mesh_call(w->mesh, request, &response, &error) == MESH_E_TIMEOUT);
  CHECK(mesh_error_flags(error) & MESH_ERR_TIMEOUT);
  CHECK(!(mesh_error_flags(error) & MESH_ERR_NOT_SENT));
  mesh_error_free(error);
  mesh_request_free(request);
  let_go();
  CHECK(response == NULL);
}

static void malformed_requests_are_refused_at_once(world *w) {
  mesh_request *request = NULL;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_request_new(w->mesh, MESH_STR("GE T"), MESH_STR("http://echo/"), &request, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_request_new(w->mesh, MESH_STR("GET"), MESH_STR("http://echo/ x"), &request, &err));
  CHECK(request == NULL);
  request = request_to(w, "GET", "http://echo/");
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_request_header_add(request, MESH_STR("no good"), bytes_of("x"), &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_request_header_add(request, MESH_STR("x"), bytes_of("a\nb"), &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_request_set_timeout(request, -1, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_request_set_idempotent(request, 2, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_request_set_detached(request, 2, &err));
  world other;
  world_open(&other, NULL, NULL, 0);
  mesh_response *response = NULL;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_call(other.mesh, request, &response, &err));
  mesh_free(other.mesh);
  mesh_request_free(request);
}

static void on_alarm(int number) { (void)number; }

// Again and again: the first one may come before the wait has begun.
static void alarms_each_50_ms(int on) {
  struct itimerval timer = {{0, 50 * 1000 * on}, {0, 50 * 1000 * on}};
  setitimer(ITIMER_REAL, &timer, NULL);
}

static void a_signal_is_waited_through_unless_asked_for(world *w) {
  struct sigaction action = {0};
  action.sa_handler = on_alarm;
  sigaction(SIGALRM, &action, NULL);
  char body[64];
  alarms_each_50_ms(1);
  CHECK(get(w, "http://echo/slow", body, sizeof(body)) == 200);
  alarms_each_50_ms(0);

  mesh_config *config = world_config(w->port, 2);
  mesh_options options = MESH_OPTIONS_INIT;
  options.flags = MESH_WAIT_INTR;
  mesh *m = NULL;
  MUST(mesh_open(&options, config, &m, &err));
  mesh_config_free(config);
  mesh_request *request = NULL;
  MUST(mesh_request_new(m, MESH_STR("GET"), MESH_STR("http://echo/held"), &request, &err));
  mesh_response *response = NULL;
  hold();
  alarms_each_50_ms(1);
  MUST_FAIL(MESH_E_INTERRUPTED, mesh_call(m, request, &response, &err));
  alarms_each_50_ms(0);
  let_go();
  mesh_request_free(request);
  MUST(mesh_close(m, SECOND, &err));
  mesh_free(m);
}

int main(void) {
  world w;
  world_open(&w, answer, NULL, 2);
  a_post_comes_back_with_headers_and_body(&w);
  headers_come_packed_and_one_by_one_alike(&w);
  a_status_of_the_app_is_not_an_error(&w);
  failures_have_their_code_name_and_flags(&w);
  malformed_requests_are_refused_at_once(&w);
  a_signal_is_waited_through_unless_asked_for(&w);
  world_close(&w);
  return report("call");
}
