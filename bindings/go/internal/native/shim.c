#include "shim.h"

#include <string.h>

static mesh_bytes bytes_at(const uint8_t *block, size_t len) {
  return (mesh_bytes){.ptr = len ? block : NULL, .len = len};
}

static mesh_code build(const go_call *call, const uint8_t *block, mesh_request *request, mesh_body **body,
                       mesh_error **err) {
  const uint8_t *headers = block + call->method_len + call->target_len;
  mesh_code code = mesh_request_headers_packed(request, bytes_at(headers, call->headers_len), err);
  if (code == MESH_OK && call->timeout_ns >= 0) code = mesh_request_set_timeout(request, call->timeout_ns, err);
  if (code == MESH_OK && call->idempotent >= 0) code = mesh_request_set_idempotent(request, call->idempotent, err);
  if (code == MESH_OK && call->detached) code = mesh_request_set_detached(request, 1, err);
  if (code == MESH_OK && call->parent) code = mesh_request_set_parent(request, call->parent, err);
  if (code == MESH_OK && call->body_len)
    code = mesh_request_body_copy(request, bytes_at(headers + call->headers_len, call->body_len), err);
  if (code == MESH_OK && call->stream_length != GO_NO_STREAM)
    code = mesh_request_body_stream(request, call->stream_length, body, err);
  return code;
}

static mesh_code one_op(const mesh_cq *cq, const mesh_op *op, mesh_error **err) {
  size_t none = 0;
  return mesh_cq_exchange(cq, op, 1, sizeof(*op), NULL, 0, 0, &none, 0, err);
}

mesh_code go_submit(const go_call *call, const uint8_t *block, mesh_body **body, mesh_error **err) {
  mesh_str method = {.ptr = (const char *)block, .len = call->method_len};
  mesh_str target = {.ptr = (const char *)block + call->method_len, .len = call->target_len};
  mesh_request *request = NULL;
  mesh_body *stream = NULL;
  mesh_code code = mesh_request_new(call->mesh, method, target, &request, err);
  if (code == MESH_OK) code = build(call, block, request, &stream, err);
  if (code == MESH_OK) {
    mesh_op op = {.kind = MESH_OP_SUBMIT, .tag = call->tag, .handle = request};
    code = one_op(call->cq, &op, err);
  }
  if (code != MESH_OK) {
    mesh_request_free(request);
    mesh_body_free(stream);
    return code;
  }
  *body = stream;
  return MESH_OK;
}

static void fill(go_event *out, const mesh_event *event) {
  memset(out, 0, sizeof(*out));
  out->event = *event;
  if (event->code != MESH_OK) return;
  if (event->kind == MESH_EV_ANSWERED) {
    out->headers = mesh_response_headers_packed(event->handle);
    out->trailers = mesh_response_trailers_packed(event->handle);
  } else if (event->kind == MESH_EV_DONE) {
    const mesh_response *response = event->handle;
    out->headers = mesh_response_headers_packed(response);
    out->info.struct_size = sizeof(out->info);
    mesh_response_info(response, &out->info, NULL);
  } else if (event->kind == MESH_EV_INBOUND || event->kind == MESH_EV_ADMITTED) {
    const mesh_inbound *inbound = event->handle;
    out->headers = mesh_inbound_headers_packed(inbound);
    out->method = mesh_inbound_method(inbound);
    out->path = mesh_inbound_path(inbound);
    out->authority = mesh_inbound_authority(inbound);
    out->peer_id = mesh_inbound_peer_id(inbound);
    out->claims = mesh_inbound_claims_json(inbound);
    out->trace_id = mesh_inbound_trace_id(inbound);
    out->remote = mesh_inbound_remote_address(inbound);
    out->local = mesh_inbound_local_address(inbound);
    out->remaining_ns = mesh_inbound_remaining_ns(inbound);
  } else if (event->kind == MESH_EV_BODY_WANTED) {
    out->remaining_ns = mesh_body_wanted_remaining_ns(event->handle);
  }
}

mesh_code go_take(const mesh_cq *cq, mesh_event *scratch, go_event *events, size_t *count, mesh_error **err) {
  size_t taken = 0;
  mesh_code code = mesh_cq_exchange(cq, NULL, 0, 0, scratch, GO_BATCH, sizeof(*scratch), &taken, 0, err);
  if (code != MESH_OK) return code;
  for (size_t i = 0; i < taken; i++) fill(&events[i], &scratch[i]);
  *count = taken;
  return MESH_OK;
}

mesh_code go_read(const mesh_cq *cq, int32_t kind, void *handle, uint64_t tag, mesh_buf *used, mesh_error **err) {
  mesh_buf_free(used);
  mesh_op op = {.kind = kind, .tag = tag, .handle = handle};
  return one_op(cq, &op, err);
}

mesh_code go_write(const mesh_cq *cq, mesh_body *body, uint64_t tag, const uint8_t *data, size_t len, mesh_error **err) {
  mesh_op op = {.kind = MESH_OP_BODY_WRITE, .tag = tag, .handle = body, .data = bytes_at(data, len)};
  return one_op(cq, &op, err);
}

mesh_code go_end(const mesh_cq *cq, mesh_body *body, const uint8_t *trailers, size_t len, mesh_error **err) {
  mesh_op op = {.kind = MESH_OP_BODY_END, .handle = body, .headers = bytes_at(trailers, len)};
  return one_op(cq, &op, err);
}

// The next bytes of a block.
static mesh_bytes cut(const uint8_t **block, size_t len) {
  mesh_bytes part = bytes_at(*block, len);
  *block += len;
  return part;
}

static mesh_str cut_text(const uint8_t **block, size_t len) {
  mesh_bytes part = cut(block, len);
  return (mesh_str){.ptr = (const char *)part.ptr, .len = part.len};
}

// What was decided at once, as the event that would tell it.
static void settled(go_event *outcome, uint64_t tag, mesh_inbound *inbound, mesh_response *answer,
                    mesh_body_wanted *wanted) {
  mesh_event event = {.tag = tag};
  if (inbound) {
    event.kind = MESH_EV_ADMITTED;
    event.handle = inbound;
  } else if (answer) {
    event.kind = MESH_EV_ANSWERED;
    event.handle = answer;
    event.arg = mesh_response_status(answer);
    event.data = mesh_response_body(answer);
  } else if (wanted) {
    event.kind = MESH_EV_BODY_WANTED;
    event.handle = wanted;
    event.arg = (int64_t)mesh_body_wanted_limit(wanted);
  }
  fill(outcome, &event);
}

mesh_code go_begin(const go_received *received, const uint8_t *block, go_event *outcome, mesh_error **err) {
  mesh_received request = MESH_INIT(mesh_received);
  request.flags = received->flags;
  request.http_version = received->http_version;
  request.method = cut_text(&block, received->method_len);
  request.target = cut_text(&block, received->target_len);
  request.authority = cut_text(&block, received->authority_len);
  request.headers = cut(&block, received->headers_len);
  request.body = cut(&block, received->body_len);
  request.remote_address = cut_text(&block, received->remote_len);
  request.local_address = cut_text(&block, received->local_len);
  request.peer_certificates = cut(&block, received->certificates_len);
  request.server_name = cut_text(&block, received->name_len);
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  mesh_body_wanted *wanted = NULL;
  mesh_code code =
      mesh_inbound_begin(received->check, &request, received->cq, received->tag, &inbound, &answer, &wanted, err);
  settled(outcome, received->tag, inbound, answer, wanted);
  return code;
}

mesh_code go_give(const mesh_body_wanted *wanted, const uint8_t *body, size_t body_len, uint32_t flags, const mesh_cq *cq,
                  uint64_t tag, go_event *outcome, mesh_error **err) {
  mesh_inbound *inbound = NULL;
  mesh_response *answer = NULL;
  mesh_code code = mesh_body_wanted_give(wanted, bytes_at(body, body_len), flags, cq, tag, &inbound, &answer, err);
  settled(outcome, tag, inbound, answer, NULL);
  return code;
}

mesh_code go_head(const mesh_inbound *inbound, uint16_t status, const uint8_t *headers, size_t headers_len,
                  mesh_response **head, mesh_bytes *packed, mesh_error **err) {
  mesh_code code = mesh_inbound_head(inbound, status, bytes_at(headers, headers_len), head, err);
  if (code == MESH_OK) *packed = mesh_response_headers_packed(*head);
  return code;
}

mesh_code go_finish(const mesh_inbound *inbound, uint64_t request_bytes, uint64_t response_bytes,
                    const uint8_t *trailers, size_t trailers_len, mesh_buf **sent, mesh_error **err) {
  return mesh_inbound_end(inbound, request_bytes, response_bytes, bytes_at(trailers, trailers_len), sent, err);
}

mesh_code go_cancel(const mesh_cq *cq, uint64_t tag) {
  mesh_op op = {.kind = MESH_OP_CANCEL, .tag = tag};
  return one_op(cq, &op, NULL);
}

mesh_code go_respond(const mesh_inbound *inbound, uint16_t status, const uint8_t *block, size_t headers_len,
                     size_t body_len, mesh_error **err) {
  mesh_bytes body = bytes_at(block + headers_len, body_len);
  return mesh_inbound_respond(inbound, status, bytes_at(block, headers_len), body, err);
}

mesh_code go_respond_stream(const mesh_inbound *inbound, uint16_t status, const uint8_t *headers, size_t headers_len,
                            int64_t length, mesh_body **body, mesh_error **err) {
  return mesh_inbound_respond_stream(inbound, status, bytes_at(headers, headers_len), length, body, err);
}

mesh_code go_parse(const uint8_t *text, size_t text_len, const char *origin, mesh_config **config, mesh_error **err) {
  if (text) return mesh_config_parse(bytes_at(text, text_len), mesh_strz(origin), config, err);
  return mesh_config_load_file(mesh_strz(origin), config, err);
}

mesh_code go_open(const mesh_config *config, uint32_t worker_threads, uint64_t seed, mesh **mesh, mesh_error **err) {
  mesh_options options = MESH_OPTIONS_INIT;
  options.worker_threads = worker_threads;
  options.seed = seed;
  return mesh_open(&options, config, mesh, err);
}

mesh_code go_listen(const mesh *mesh, const char *name, const mesh_cq *cq, uint64_t tag, mesh_listener **listener,
                    mesh_error **err) {
  mesh_listen_options options = MESH_INIT(mesh_listen_options);
  options.tag = tag;
  return cq ? mesh_listen(mesh, mesh_strz(name), cq, &options, listener, err)
            : mesh_forward(mesh, mesh_strz(name), listener, err);
}
