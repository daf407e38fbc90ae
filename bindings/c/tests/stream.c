// Bodies that do not fit in memory, in both directions.
#include "world.h"

enum { CHUNK = 64 * 1024, CHUNKS = 64 };

static char chunk_bytes[CHUNK];

static int32_t answer(void *userdata, mesh_inbound *inbound) {
  size_t *written = userdata;
  mesh_body *body = NULL;
  if (path_is(inbound, "/count")) {
    size_t total = 0;
    mesh_buf *chunk = NULL;
    while (mesh_inbound_read(inbound, &chunk, NULL) == MESH_OK && chunk) {
      total += mesh_buf_bytes(chunk).len;
      mesh_buf_free(chunk);
    }
    char text[32];
    snprintf(text, sizeof(text), "%zu", total);
    MUST(mesh_inbound_respond(inbound, 200, MESH_NONE, bytes_of(text), &err));
    return MESH_HANDLED;
  }
  if (path_is(inbound, "/broken")) {
    MUST(mesh_inbound_respond_stream(inbound, 200, MESH_NONE, 10 * CHUNK, &body, &err));
    MUST(mesh_body_write(body, MESH_BYTES(chunk_bytes, CHUNK), &err));
    mesh_body_free(body);  // breaks off
    return MESH_HANDLED;
  }
  int forever = path_is(inbound, "/forever");
  MUST(mesh_inbound_respond_stream(inbound, 200, MESH_NONE, -1, &body, &err));
  for (int i = 0; forever || i < CHUNKS; i++) {
    mesh_code code = mesh_body_write(body, MESH_BYTES(chunk_bytes, CHUNK), NULL);
    if (code != MESH_OK) {
      CHECK(forever && (code == MESH_E_CANCELLED || code == MESH_E_CLOSED));
      break;
    }
    __atomic_add_fetch(written, CHUNK, __ATOMIC_SEQ_CST);
  }
  if (!forever) {
    MUST(mesh_body_end(body, MESH_NONE, &err));
    MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_body_write(body, bytes_of("late"), &err));
    MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_body_end(body, MESH_NONE, &err));
  }
  mesh_body_free(body);
  return MESH_HANDLED;
}

static mesh_response *call(world *w, const char *target) {
  mesh_request *request = request_to(w, "GET", target);
  mesh_response *response = NULL;
  MUST(mesh_call(w->mesh, request, &response, &err));
  mesh_request_free(request);
  return response;
}

static void a_long_answer_arrives_whole(world *w) {
  mesh_response *response = call(w, "http://echo/long");
  char none[1];
  CHECK(read_all(response, none, sizeof(none)) == (size_t)CHUNK * CHUNKS);
  mesh_response_free(response);
}

static void a_reader_that_stops_stops_the_writer(world *w, size_t *written) {
  __atomic_store_n(written, 0, __ATOMIC_SEQ_CST);
  mesh_response *response = call(w, "http://echo/forever");
  // Loopback sockets hold some megabytes, as the kernel pleases; then the writer must stand still.
  const size_t more_than_sockets_hold = (size_t)256 * 1024 * 1024;
  size_t before = 0, now = 0;
  while (now == 0 || (now != before && now < more_than_sockets_hold)) {
    before = now;
    usleep(300 * 1000);
    now = __atomic_load_n(written, __ATOMIC_SEQ_CST);
  }
  CHECK(now < more_than_sockets_hold);
  mesh_response_free(response);  // the writer now sees MESH_E_CANCELLED
}

static void a_broken_off_answer_is_an_error_not_an_end(world *w) {
  mesh_request *request = request_to(w, "GET", "http://echo/broken");
  mesh_response *response = NULL;
  mesh_code code = mesh_call(w->mesh, request, &response, NULL);
  mesh_request_free(request);
  if (!response) {  // broken off before even the head had left
    CHECK(code != MESH_OK);
    return;
  }
  size_t total = 0;
  for (int reads = 0; reads < 1000; reads++) {
    mesh_buf *chunk = NULL;
    code = mesh_response_read(response, &chunk, NULL);
    if (code != MESH_OK || !chunk) break;
    total += mesh_buf_bytes(chunk).len;
    mesh_buf_free(chunk);
  }
  CHECK(code != MESH_OK);
  CHECK(total <= CHUNK);
  mesh_buf *chunk = NULL;
  MUST_FAIL(code, mesh_response_read(response, &chunk, &err));  // and it stays one
  mesh_response_free(response);
}

static void *write_upload(void *body) {
  for (int i = 0; i < CHUNKS; i++) MUST(mesh_body_write(body, MESH_BYTES(chunk_bytes, CHUNK), &err));
  MUST(mesh_body_end(body, MESH_NONE, &err));
  mesh_body_free(body);
  return NULL;
}

static void a_long_request_is_written_from_another_thread(world *w, int64_t length) {
  mesh_request *request = request_to(w, "POST", "http://echo/count");
  mesh_body *body = NULL;
  MUST(mesh_request_body_stream(request, length, &body, &err));
  pthread_t writer;
  pthread_create(&writer, NULL, write_upload, body);
  mesh_response *response = NULL;
  MUST(mesh_call(w->mesh, request, &response, &err));
  pthread_join(writer, NULL);
  char text[32], expected[32];
  read_all(response, text, sizeof(text));
  snprintf(expected, sizeof(expected), "%d", CHUNK * CHUNKS);
  CHECK(strcmp(text, expected) == 0);
  mesh_response_free(response);
  mesh_request_free(request);
}

static void a_read_can_be_cancelled(world *w) {
  mesh_response *response = call(w, "http://echo/forever");
  mesh_response_cancel(response);
  mesh_buf *chunk = NULL;
  MUST_FAIL(MESH_E_CANCELLED, mesh_response_read(response, &chunk, &err));
  mesh_response_free(response);
}

int main(void) {
  world w;
  size_t written = 0;
  world_open(&w, answer, &written, 2);
  a_long_answer_arrives_whole(&w);
  a_reader_that_stops_stops_the_writer(&w, &written);
  a_broken_off_answer_is_an_error_not_an_end(&w);
  a_long_request_is_written_from_another_thread(&w, -1);
  a_long_request_is_written_from_another_thread(&w, CHUNK * CHUNKS);
  a_read_can_be_cancelled(&w);
  world_close(&w);
  return report("stream");
}
