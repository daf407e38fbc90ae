// NULL for every pointer argument, all at once and one at a time.
#include "functions.h"
#include "world.h"

static void all_at_once_is_refused_or_harmless(void) {
#define FALLIBLE(function, arguments) MUST_FAIL(MESH_E_INVALID_ARGUMENT, function arguments);
#define PLAIN(function, arguments) \
  (void)function arguments;        \
  CHECK(1);
  ALL_FUNCTIONS
#undef FALLIBLE
#undef PLAIN
}

#define REFUSED(call) MUST_FAIL(MESH_E_INVALID_ARGUMENT, call)

static int32_t probe(void *userdata, mesh_inbound *in) {
  (void)userdata;
  mesh_str name;
  mesh_bytes value;
  mesh_body *body = NULL;
  REFUSED(mesh_inbound_read(in, NULL, &err));
  REFUSED(mesh_inbound_header_at(in, 0, NULL, &value, &err));
  REFUSED(mesh_inbound_header_at(in, 0, &name, NULL, &err));
  REFUSED(mesh_inbound_header_add(in, (mesh_str){NULL, 1}, MESH_NONE, &err));
  REFUSED(mesh_inbound_header_add(in, MESH_STR("a"), MESH_BYTES(NULL, 1), &err));
  REFUSED(mesh_inbound_respond(in, 200, MESH_BYTES(NULL, 1), MESH_NONE, &err));
  REFUSED(mesh_inbound_respond(in, 200, MESH_NONE, MESH_BYTES(NULL, 1), &err));
  REFUSED(mesh_inbound_respond_stream(in, 200, MESH_NONE, -1, NULL, &err));
  REFUSED(mesh_inbound_respond_stream(in, 200, MESH_BYTES(NULL, 1), -1, &body, &err));
  REFUSED(mesh_body_write(body, MESH_NONE, &err));
  MUST(mesh_inbound_respond_stream(in, 200, MESH_NONE, -1, &body, &err));
  REFUSED(mesh_body_write(body, MESH_BYTES(NULL, 1), &err));
  REFUSED(mesh_body_end(body, MESH_BYTES(NULL, 1), &err));
  MUST(mesh_body_write(body, bytes_of("fine"), &err));
  MUST(mesh_body_end(body, MESH_NONE, NULL));
  mesh_body_free(body);
  return MESH_HANDLED;
}

static void one_at_a_time_is_refused(void) {
  world w;
  world_open(&w, probe, NULL, 1);
  mesh_config *config = world_config(1, 2);
  mesh *m = NULL;
  mesh_buf *buf = NULL;
  mesh_request *request = NULL;
  mesh_response *response = NULL;
  mesh_body *body = NULL;
  mesh_listener *listener = NULL;
  mesh_event event;
  mesh_op op = {0};
  size_t got;
  mesh_str none = {NULL, 1};

  REFUSED(mesh_config_parse(bytes_of("version: 1\n"), MESH_STR("x"), NULL, &err));
  REFUSED(mesh_config_parse(bytes_of("version: 1\n"), none, &config, &err));
  REFUSED(mesh_config_load_file(none, &config, &err));
  REFUSED(mesh_open(NULL, NULL, &m, &err));
  REFUSED(mesh_open(NULL, config, NULL, &err));
  REFUSED(mesh_reload(w.mesh, NULL, NULL, &err));
  REFUSED(mesh_reload(NULL, config, NULL, &err));
  REFUSED(mesh_status_json(w.mesh, NULL, &err));
  REFUSED(mesh_metrics(w.mesh, 0, NULL, &err));
  REFUSED(mesh_request_new(w.mesh, MESH_STR("GET"), MESH_STR("http://echo/"), NULL, &err));
  REFUSED(mesh_request_new(w.mesh, none, MESH_STR("http://echo/"), &request, &err));
  REFUSED(mesh_request_new(w.mesh, MESH_STR("GET"), none, &request, &err));
  REFUSED(mesh_request_new(NULL, MESH_STR("GET"), MESH_STR("http://echo/"), &request, &err));
  request = request_to(&w, "GET", "http://echo/");
  REFUSED(mesh_request_header_add(request, none, MESH_NONE, &err));
  REFUSED(mesh_request_header_add(request, MESH_STR("a"), MESH_BYTES(NULL, 1), &err));
  REFUSED(mesh_request_headers_packed(request, MESH_BYTES(NULL, 1), &err));
  REFUSED(mesh_request_set_parent(request, NULL, &err));
  REFUSED(mesh_request_body_copy(request, MESH_BYTES(NULL, 1), &err));
  REFUSED(mesh_request_body_stream(request, -1, NULL, &err));
  REFUSED(mesh_call(w.mesh, request, NULL, &err));
  REFUSED(mesh_call(w.mesh, NULL, &response, &err));
  REFUSED(mesh_call(NULL, request, &response, &err));
  REFUSED(mesh_cq_new(w.mesh, NULL, NULL, &err));
  REFUSED(mesh_cq_exchange(w.server, NULL, 1, sizeof(op), &event, 1, sizeof(event), &got, 0, &err));
  REFUSED(mesh_cq_exchange(w.server, NULL, 0, 0, NULL, 1, sizeof(event), &got, 0, &err));
  REFUSED(mesh_cq_exchange(w.server, NULL, 0, 0, &event, 1, sizeof(event), NULL, 0, &err));
  REFUSED(mesh_listen(w.mesh, none, w.server, NULL, &listener, &err));
  REFUSED(mesh_listen(w.mesh, MESH_STR("inbound"), NULL, NULL, &listener, &err));
  REFUSED(mesh_listen(w.mesh, MESH_STR("inbound"), w.server, NULL, NULL, &err));
  REFUSED(mesh_serve(w.mesh, MESH_STR("inbound"), w.server, NULL, NULL, &listener, &err));
  REFUSED(mesh_serve(w.mesh, MESH_STR("inbound"), w.server, probe, NULL, NULL, &err));
  REFUSED(mesh_forward(w.mesh, MESH_STR("inbound"), NULL, &err));

  MUST(mesh_call(w.mesh, request, &response, &err));
  mesh_str name;
  mesh_bytes value;
  REFUSED(mesh_response_header_at(response, 0, NULL, &value, &err));
  REFUSED(mesh_response_header_at(response, 0, &name, NULL, &err));
  CHECK(mesh_response_header(response, none, 0).ptr == NULL);
  REFUSED(mesh_response_read(response, NULL, &err));
  REFUSED(mesh_response_info(response, NULL, &err));
  char text[16];
  CHECK(read_all(response, text, sizeof(text)) == 4);
  REFUSED(mesh_buf_slice(NULL, 0, 0, &buf, &err));
  MUST(mesh_status_json(w.mesh, &buf, NULL));
  REFUSED(mesh_buf_slice(buf, 0, 0, NULL, &err));
  mesh_buf_free(buf);

  mesh_error *error = NULL;
  CHECK(mesh_open(NULL, NULL, NULL, &error) == MESH_E_INVALID_ARGUMENT);
  REFUSED(mesh_error_detail_at(error, 0, NULL, &name, &err));
  REFUSED(mesh_error_detail_at(error, 0, &name, NULL, &err));
  CHECK(mesh_error_detail(error, none).len == 0);
  mesh_error_free(error);

  CHECK(m == NULL && body == NULL && listener == NULL);
  mesh_response_free(response);
  mesh_request_free(request);
  mesh_config_free(config);
  world_close(&w);
}

int main(void) {
  one_at_a_time_is_refused();
  all_at_once_is_refused_or_harmless();  // last: it says that the process forked
  return report("null");
}
