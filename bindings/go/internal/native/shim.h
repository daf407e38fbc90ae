// One C call per step of a request, instead of one per function of mesh.h: a call from Go into C costs
// about 70 ns, and Go may not pass C a struct that holds Go pointers.
//
// Rules of this file: `block` and every other `const uint8_t *` may point to Go memory and is only read
// until the function returns. Handles are C memory. Nothing here blocks, except go_listen.
#ifndef MESH_GO_SHIM_H
#define MESH_GO_SHIM_H

#include <mesh.h>

enum { GO_BATCH = 64 };  // Events taken per call; 36 waited per wake-up at 64 requests in flight.

// A request. The bytes of `block` are, one after the other: method, target, packed headers, body.
typedef struct {
  const mesh *mesh;
  const mesh_cq *cq;
  const mesh_inbound *parent;  // NULL: no parent.
  uint64_t tag;
  int64_t timeout_ns;     // Negative: none of the caller's.
  int64_t stream_length;  // GO_NO_STREAM, or the size of a body that is streamed (-1: unknown).
  size_t method_len, target_len, headers_len, body_len;
  int32_t idempotent;
  int32_t detached;
} go_call;
enum { GO_NO_STREAM = -2 };

// Makes and submits the request. `*body` is set for a streamed body. On failure nothing is left over.
mesh_code go_submit(const go_call *call, const uint8_t *block, mesh_body **body, mesh_error **err);

// An event with all that is read from its handle anyway.
typedef struct {
  mesh_event event;
  mesh_bytes headers, trailers;
  mesh_call_info info;
  mesh_str method, path, authority, peer_id, claims, trace_id, remote, local;
  int64_t remaining_ns;
} go_event;

// Takes up to GO_BATCH events without waiting. `scratch` and `events` hold GO_BATCH each.
mesh_code go_take(const mesh_cq *cq, mesh_event *scratch, go_event *events, size_t *count, mesh_error **err);

// Asks for the next chunk of a response (MESH_OP_READ) or request (MESH_OP_INBOUND_READ), and frees the
// one before it (or NULL).
mesh_code go_read(const mesh_cq *cq, int32_t kind, void *handle, uint64_t tag, mesh_buf *used, mesh_error **err);

// Writes to a body. Completes with MESH_EV_WRITTEN.
mesh_code go_write(const mesh_cq *cq, mesh_body *body, uint64_t tag, const uint8_t *data, size_t len, mesh_error **err);

// Ends a body, which is taken over, with packed trailers.
mesh_code go_end(const mesh_cq *cq, mesh_body *body, const uint8_t *trailers, size_t len, mesh_error **err);

// A request that the program's own server received. The bytes of its block are, one after the other: method, target,
// authority, packed headers, body, remote address, local address, certificates, server name.
typedef struct {
  const mesh_inbound_check *check;
  const mesh_cq *cq;
  uint64_t tag;
  size_t method_len, target_len, authority_len, headers_len, body_len, remote_len, local_len, certificates_len, name_len;
  uint32_t flags, http_version;
} go_received;

// Admits or answers it, or asks for its body: `outcome` is as the event that tells it later, or of kind 0: it will come.
mesh_code go_begin(const go_received *received, const uint8_t *block, go_event *outcome, mesh_error **err);

// Goes on with the body, and tells as go_begin does.
mesh_code go_give(const mesh_body_wanted *wanted, const uint8_t *body, size_t body_len, uint32_t flags, const mesh_cq *cq,
                  uint64_t tag, go_event *outcome, mesh_error **err);

// The head of an answer by the program's own server; `*head` and its packed headers.
mesh_code go_head(const mesh_inbound *inbound, uint16_t status, const uint8_t *headers, size_t headers_len,
                  mesh_response **head, mesh_bytes *packed, mesh_error **err);

// The end of such an answer; `*sent` is NULL or the trailers as they are to be sent.
mesh_code go_finish(const mesh_inbound *inbound, uint64_t request_bytes, uint64_t response_bytes,
                    const uint8_t *trailers, size_t trailers_len, mesh_buf **sent, mesh_error **err);

// Cancels the operation with this tag.
mesh_code go_cancel(const mesh_cq *cq, uint64_t tag);

// Answers a request in one go. `block` is packed headers, then the body.
mesh_code go_respond(const mesh_inbound *inbound, uint16_t status, const uint8_t *block, size_t headers_len,
                     size_t body_len, mesh_error **err);

// Sends the head of an answer; its body follows.
mesh_code go_respond_stream(const mesh_inbound *inbound, uint16_t status, const uint8_t *headers, size_t headers_len,
                            int64_t length, mesh_body **body, mesh_error **err);

// Opens what a listener or a configuration needs; text may be Go memory.
mesh_code go_parse(const uint8_t *text, size_t text_len, const char *origin, mesh_config **config, mesh_error **err);
mesh_code go_open(const mesh_config *config, uint32_t worker_threads, uint64_t seed, mesh **mesh, mesh_error **err);
mesh_code go_listen(const mesh *mesh, const char *name, const mesh_cq *cq, uint64_t tag, mesh_listener **listener,
                    mesh_error **err);

#endif
