// Open, start, reload, look, close: in every order that a program may try.
#include <signal.h>
#include <stdbool.h>
#include <time.h>

#include "world.h"

static void options_of_another_age_are_understood_or_refused(void) {
  mesh_config *config = world_config(1, 2);
  mesh *m = NULL;
  mesh_options options = MESH_OPTIONS_INIT;
  options.abi_version = MESH_ABI_VERSION + 1;
  MUST_FAIL(MESH_E_ABI, mesh_open(&options, config, &m, &err));
  options = MESH_OPTIONS_INIT;
  options.flags = 1u << 31;
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_open(&options, config, &m, &err));
  options = MESH_OPTIONS_INIT;
  options.struct_size = 8;  // an older program, which knew only the first two fields
  MUST(mesh_open(&options, config, &m, &err));
  mesh_free(m);
  options.struct_size = 0;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_open(&options, config, &m, &err));
  struct { mesh_options known; uint64_t unknown; } newer = { MESH_OPTIONS_INIT, 0 };
  newer.known.struct_size = sizeof(newer);
  MUST(mesh_open(&newer.known, config, &m, &err));
  mesh_free(m);
  newer.unknown = 1;
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_open(&newer.known, config, &m, &err));
  mesh_config_free(config);
}

static void a_mesh_starts_closes_and_frees_in_any_order(void) {
  world w;
  world_open(&w, NULL, NULL, 0);
  mesh_free(w.mesh);  // never started
  world_open(&w, NULL, NULL, 0);
  MUST(mesh_start(w.mesh, &err));
  MUST(mesh_start(w.mesh, &err));
  mesh_free(w.mesh);  // never closed: its threads end a moment later
  usleep(300 * 1000);
  world_open(&w, NULL, NULL, 0);
  MUST(mesh_start(w.mesh, &err));
  MUST(mesh_close(w.mesh, SECOND, &err));
  MUST(mesh_close(w.mesh, SECOND, &err));
  MUST_FAIL(MESH_E_CLOSED, mesh_start(w.mesh, &err));
  mesh_cq *cq = NULL;
  MUST_FAIL(MESH_E_CLOSED, mesh_cq_new(w.mesh, NULL, &cq, &err));
  mesh_free(w.mesh);
}

static void status_and_metrics_are_text(void) {
  world w;
  world_open(&w, NULL, NULL, 0);
  mesh_buf *page = NULL;
  MUST(mesh_status_json(w.mesh, &page, &err));
  mesh_bytes bytes = mesh_buf_bytes(page);
  CHECK(bytes.len > 2 && bytes.ptr[0] == '{' && bytes.ptr[bytes.len] == 0);
  mesh_buf *part = NULL;
  MUST(mesh_buf_slice(page, 1, 1, &part, &err));
  CHECK(mesh_buf_bytes(part).ptr == bytes.ptr + 1 && mesh_buf_bytes(part).len == 1);
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_buf_slice(page, bytes.len, 1, &part, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_buf_slice(page, SIZE_MAX, 2, &part, &err));
  mesh_buf_free(page);
  CHECK(*mesh_buf_bytes(part).ptr == '"');  // a slice outlives what it was cut from
  mesh_buf_free(part);
  MUST(mesh_metrics(w.mesh, MESH_METRICS_PROMETHEUS, &page, &err));
  CHECK(mesh_buf_bytes(page).ptr[mesh_buf_bytes(page).len] == 0);
  mesh_buf_free(page);
  MUST_FAIL(MESH_E_UNSUPPORTED, mesh_metrics(w.mesh, 99, &page, &err));
  MUST(mesh_close(w.mesh, 10000000000, &err));
  mesh_free(w.mesh);
}

static void a_reload_gives_a_new_revision(void) {
  world w;
  world_open(&w, NULL, NULL, 0);
  mesh_config *config = world_config(w.port, 3);
  uint64_t first = 0, second = 0;
  MUST(mesh_reload(w.mesh, config, &first, &err));
  MUST(mesh_reload(w.mesh, config, NULL, &err));
  MUST(mesh_reload(w.mesh, config, &second, &err));
  CHECK(first > 0 && second >= first);
  mesh_config_free(config);
  MUST(mesh_drain(w.mesh, 0, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_drain(w.mesh, -1, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_close(w.mesh, -1, &err));
  MUST(mesh_close(w.mesh, 10000000000, &err));
  mesh_free(w.mesh);
}

// Status is NUL-terminated.
static bool says(const mesh *mesh, const char *word) {
  mesh_buf *json = NULL;
  MUST(mesh_status_json(mesh, &json, &err));
  bool found = strstr((const char *)mesh_buf_bytes(json).ptr, word) != NULL;
  mesh_buf_free(json);
  return found;
}

static void a_program_may_say_that_it_is_not_serving(void) {
  world w;
  world_open(&w, NULL, NULL, 0);
  CHECK(says(w.mesh, "\"serving\":true"));
  MUST(mesh_set_serving(w.mesh, 0, &err));
  CHECK(says(w.mesh, "\"serving\":false"));
  MUST(mesh_set_serving(w.mesh, 1, &err));
  CHECK(says(w.mesh, "\"serving\":true"));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_set_serving(w.mesh, 2, &err));
  MUST(mesh_close(w.mesh, 10000000000, &err));
  mesh_free(w.mesh);
}

static void versions_can_be_asked_for(void) {
  CHECK(mesh_abi_version() == MESH_ABI_VERSION);
  CHECK(strchr(mesh_version(), '.') != NULL);
}

static void freeing_nothing_does_nothing(void) {
  mesh_free(NULL);
  mesh_config_free(NULL);
  mesh_cq_free(NULL);
  mesh_request_free(NULL);
  mesh_response_free(NULL);
  mesh_body_free(NULL);
  mesh_buf_free(NULL);
  mesh_inbound_free(NULL);
  mesh_listener_free(NULL);
  mesh_error_free(NULL);
  CHECK(mesh_live_handles(MESH_HANDLE_ANY) == 0);
  CHECK(mesh_live_handles(-1) == 0 && mesh_live_handles(1000) == 0);
}

int main(void) {
  versions_can_be_asked_for();
  freeing_nothing_does_nothing();
  options_of_another_age_are_understood_or_refused();
  a_mesh_starts_closes_and_frees_in_any_order();
  status_and_metrics_are_text();
  a_reload_gives_a_new_revision();
  a_program_may_say_that_it_is_not_serving();
  return report("lifecycle");
}
