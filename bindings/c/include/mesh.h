// libmesh: a service mesh without the sidecar. Generated from mesh-ffi by cbindgen; do not edit.
//
// The rules, for every function here:
//
//  1. Handles are opaque pointers, freed with their `*_free` exactly once. `*_free(NULL)` does nothing.
//  2. mesh, mesh_guard, mesh_inbound_check, mesh_cq, mesh_buf, mesh_config and mesh_error may be used by several
//     threads at once. Every other handle may move between threads and is used by one at a time. `*_cancel` is for
//     any thread.
//  3. A fallible function returns a mesh_code (MESH_OK is 0) and takes a last parameter `mesh_error **err`,
//     which may be NULL. `*err` is written only on failure, every other out-parameter only on MESH_OK.
//     There is no last error in thread-local storage, and errno means nothing.
//  4. Text in: pointer and length, UTF-8, no NUL needed. Header values and bodies are bytes. What is passed
//     in need only live until the function returns. Text out: borrowed from the handle it came from, valid
//     until that is freed, and followed by a NUL byte.
//  5. The library frees its own memory and never the caller's. A function borrows the handles it is given;
//     an op of mesh_cq_exchange that says `taken over` owns them from then on.
//  6. Structs that start with `struct_size` are made with MESH_INIT(type). An old program works with a
//     newer library, and a newer one with an old library as long as it does not use what is new.
//  7. Constants grow at the end: have a default branch, and ignore events of unknown kind.
//  8. A failure never aborts the program and nothing unwinds into it. Running out of memory does abort.
//  9. The library runs the program's code only inside mesh_cq_exchange and mesh_cq_run, on the calling
//     thread. Its own threads block all signals.
// 10. Signal handlers, SIGPIPE, environment, locale, umask, working directory, stdout and stderr are the
//     program's and are left alone.
// 11. In a child of fork(), a handle that had started threads before returns MESH_E_FORKED; `*_free` leaks it
//     on purpose, because its threads and sockets are the parent's. Open a new mesh in the child.
// 12. The shared library is never unloaded; dlclose is harmless.


#ifndef MESH_H
#define MESH_H

#include <stddef.h>
#include <stdint.h>

// A struct with its size set and everything else zero: `mesh_call_info info = MESH_INIT(mesh_call_info);`
#ifdef __cplusplus
#define MESH_INIT(type) ([] { type zero{}; zero.struct_size = (uint32_t)sizeof(type); return zero; }())
#define MESH_OPTIONS_INIT \
  ([] { mesh_options zero = MESH_INIT(mesh_options); zero.abi_version = MESH_ABI_VERSION; return zero; }())
#define MESH_STR(literal) mesh_str { "" literal, sizeof(literal) - 1 }
#define MESH_BYTES(pointer, length) mesh_bytes { (const uint8_t *)(pointer), (length) }
#else
#define MESH_INIT(type) ((type){ .struct_size = (uint32_t)sizeof(type) })
#define MESH_OPTIONS_INIT \
  ((mesh_options){ .struct_size = (uint32_t)sizeof(mesh_options), .abi_version = MESH_ABI_VERSION })
// Text from a string literal; mesh_strz() takes any C string.
#define MESH_STR(literal) ((mesh_str){ "" literal, sizeof(literal) - 1 })
#define MESH_BYTES(pointer, length) ((mesh_bytes){ (const uint8_t *)(pointer), (length) })
#endif
// No headers, no body, no trailers.
#define MESH_NONE MESH_BYTES(NULL, 0)


// Success.
#define MESH_OK 0

// A pointer is NULL, text is not UTF-8, a number is out of range, or a handle was already used up.
#define MESH_E_INVALID_ARGUMENT 101

// The program was compiled against another major version of this header.
#define MESH_E_ABI 102

// A field, flag, op or format this version of the library does not know.
#define MESH_E_UNSUPPORTED 103

// The tag is still in use by an operation in flight, or a write to the same body is.
#define MESH_E_BUSY 104

// A signal arrived while waiting and `MESH_WAIT_INTR` is set. The work was cancelled.
#define MESH_E_INTERRUPTED 105

// A defect inside the library, such as a caught panic.
#define MESH_E_INTERNAL 199

// A configuration document was refused; nothing changed. See the `diagnostics` of the error's JSON.
#define MESH_E_CONFIG 201

// A configuration file could not be read.
#define MESH_E_CONFIG_IO 202

// No route matches the request.
#define MESH_E_NO_ROUTE 301

// A route names a cluster that does not exist.
#define MESH_E_NO_CLUSTER 302

// The cluster has no endpoint that may be used now.
#define MESH_E_NO_ENDPOINT 303

// The request itself is malformed.
#define MESH_E_BAD_REQUEST 304

// The connection could not be opened.
#define MESH_E_CONNECT 401

// The connection was not open in time.
#define MESH_E_CONNECT_TIMEOUT 402

// The TLS handshake failed for a reason other than the peer's identity.
#define MESH_E_TLS 403

// The peer's certificate does not carry an expected SPIFFE ID or, of a server of the web, its host name.
#define MESH_E_PEER_IDENTITY 404

// The peer closed the connection before any byte of the response.
#define MESH_E_CONNECTION_CLOSED 405

// The peer reset the stream or the connection.
#define MESH_E_RESET 406

// The peer spoke malformed HTTP.
#define MESH_E_PROTOCOL 407

// The whole request ran out of time.
#define MESH_E_TIMEOUT 408

// One attempt ran out of time and no retry was left.
#define MESH_E_ATTEMPT_TIMEOUT 409

// A body is larger than its limit.
#define MESH_E_BODY_TOO_LARGE 410

// The call was cancelled, or the other side no longer wants the body.
#define MESH_E_CANCELLED 411

// A concurrency limit is full.
#define MESH_E_OVERLOADED 501

// A circuit breaker is open on every usable endpoint.
#define MESH_E_CIRCUIT_OPEN 502

// A rate limit is exceeded.
#define MESH_E_RATE_LIMITED 503

// Policy refused the request.
#define MESH_E_DENIED 504

// A remote check refused the request.
#define MESH_E_CHECK_DENIED 505

// A remote check failed and its rule fails closed.
#define MESH_E_CHECK_FAILED 506

// Credentials are missing or not valid.
#define MESH_E_UNAUTHENTICATED 507

// A global rate limit could not be asked and fails closed.
#define MESH_E_LIMIT_FAILED 508

// The mesh or the listener is draining and takes no new work.
#define MESH_E_DRAINING 601

// The mesh was closed.
#define MESH_E_CLOSED 602

// The process forked after the mesh started; the handle belongs to the parent.
#define MESH_E_FORKED 603

// Another call may succeed where this one failed, and sending again is safe.
#define MESH_ERR_RETRIABLE 1

// Nothing that was sent can have been acted on: even a POST may be sent again.
#define MESH_ERR_NOT_SENT 2

// Time ran out.
#define MESH_ERR_TIMEOUT 4

// The caller, or a signal, ended it.
#define MESH_ERR_CANCELLED 8

// A policy refused it: limit, breaker, access.
#define MESH_ERR_POLICY 16

// The handle is of no more use: closed or forked.
#define MESH_ERR_FATAL 32

// All kinds together, for `mesh_live_handles`.
#define MESH_HANDLE_ANY 0

// `mesh`
#define MESH_HANDLE_MESH 1

// `mesh_config`
#define MESH_HANDLE_CONFIG 2

// `mesh_cq`
#define MESH_HANDLE_CQ 3

// `mesh_request`
#define MESH_HANDLE_REQUEST 4

// `mesh_response`
#define MESH_HANDLE_RESPONSE 5

// `mesh_body`
#define MESH_HANDLE_BODY 6

// `mesh_buf`
#define MESH_HANDLE_BUF 7

// `mesh_inbound`
#define MESH_HANDLE_INBOUND 8

// `mesh_listener`
#define MESH_HANDLE_LISTENER 9

// `mesh_error`
#define MESH_HANDLE_ERROR 10

// `mesh_guard`
#define MESH_HANDLE_GUARD 11

// `mesh_guard_call`
#define MESH_HANDLE_GUARD_CALL 12

// `mesh_inbound_check`
#define MESH_HANDLE_INBOUND_CHECK 13

// `mesh_body_wanted`
#define MESH_HANDLE_BODY_WANTED 14

// The version of this interface. Library and header fit when they are equal.
#define MESH_ABI_VERSION 1

// A signal handler that runs during a blocking call ends it with `MESH_E_INTERRUPTED`. Without it,
// blocking calls go on waiting.
#define MESH_WAIT_INTR 1

// The Prometheus text format, for `mesh_metrics`.
#define MESH_METRICS_PROMETHEUS 0

// Send `handle`, a `mesh_request` (taken over). `arg` > 0: also read up to about that many bytes of the
// response's body first, so that a small answer needs no read. Completes with `MESH_EV_DONE`.
#define MESH_OP_SUBMIT 1

// Read the next chunk of `handle`, a `mesh_response`. Completes with `MESH_EV_CHUNK`.
#define MESH_OP_READ 2

// Read the next chunk of `handle`, a `mesh_inbound`. Completes with `MESH_EV_CHUNK`.
#define MESH_OP_INBOUND_READ 3

// Write `data` (copied) to `handle`, a `mesh_body`. One at a time per body. Completes with `MESH_EV_WRITTEN`.
#define MESH_OP_BODY_WRITE 4

// End `handle`, a `mesh_body` (taken over); `headers` are packed trailers or empty. No completion.
#define MESH_OP_BODY_END 5

// Answer `handle`, a `mesh_inbound` (taken over), with status `arg`, packed `headers` and body `data`.
// No completion.
#define MESH_OP_RESPOND 6

// Cancel the operation in flight on this queue whose tag is `tag`; it completes with
// `MESH_E_CANCELLED`, unless it completes by itself first. No completion of its own.
#define MESH_OP_CANCEL 7

// Free `handle`, whose type is `arg` (`MESH_HANDLE_*`: request, response, body, buf, inbound, error).
// No completion.
#define MESH_OP_RELEASE 8

// `MESH_OP_SUBMIT` is complete. OK: `handle` is a `mesh_response`, `arg` its status. Else: `code`, and
// `handle` is a `mesh_error`.
#define MESH_EV_DONE 1

// A read is complete. OK: `handle` is a `mesh_buf` and `data` its bytes, or `MESH_EVF_END` is set and
// `handle` is NULL. Else: `code`, and `handle` is a `mesh_error`.
#define MESH_EV_CHUNK 2

// `MESH_OP_BODY_WRITE` is complete: the next chunk may be written. Not OK: `handle` is a `mesh_error`.
#define MESH_EV_WRITTEN 3

// A request arrived: `handle` is a `mesh_inbound`, `tag` the listener's, `arg` its id.
#define MESH_EV_INBOUND 4

// The peer of the request with id `arg` went away before the answer. Its handle is still to be freed.
// May arrive after it was: ignore unknown ids.
#define MESH_EV_INBOUND_GONE 5

// `mesh_cq_wake` was called (several calls may give one event).
#define MESH_EV_WAKE 6

// `mesh_inbound_begin` or `mesh_body_wanted_give` had to wait, and the request was admitted: `handle` is a
// `mesh_inbound`, `arg` its id. Else: `code`, and `handle` is a `mesh_error`.
#define MESH_EV_ADMITTED 7

// As `MESH_EV_ADMITTED`, and the mesh answered: `handle` is a `mesh_response`, `arg` its status, `data` its body.
#define MESH_EV_ANSWERED 8

// `mesh_inbound_begin` had to wait, and then a check wants to know the body: `handle` is a `mesh_body_wanted`, `arg` how
// many bytes of it.
#define MESH_EV_BODY_WANTED 9

// `MESH_EV_CHUNK`: the body has ended.
#define MESH_EVF_END 1

// `MESH_EV_DONE`, `MESH_EV_ANSWERED`: `data` is the whole body, borrowed from the response.
#define MESH_EVF_WHOLE_BODY 2

// Return value of a handler: the request is done with; the library frees it (and answers 500 if the
// handler did not answer).
#define MESH_HANDLED 0

// Return value of a handler: it keeps the handle, answers later, and frees it.
#define MESH_KEEP 1

// For `mesh_received.flags` and `mesh_body_wanted_give`: `body` is all of the body.
#define MESH_RECEIVED_WHOLE_BODY 1

// For `mesh_body_wanted_give`: its time passed before there was enough of the body.
#define MESH_RECEIVED_LATE 2

// Not an outcome: start an attempt, the first one or the one after a wait.
#define MESH_GUARD_READY 0

// It worked.
#define MESH_GUARD_SUCCESS 1

// It was answered "no" (not found, not valid): the caller's fault, the callee is well.
#define MESH_GUARD_REJECTED 2

// It failed, and would fail again.
#define MESH_GUARD_FAILED 3

// It failed, may work another time, and may have acted.
#define MESH_GUARD_TRANSIENT 4

// It failed, may work another time, and is known not to have acted.
#define MESH_GUARD_UNPROCESSED 5

// "Too many": not acted on, and no sign of ill health.
#define MESH_GUARD_THROTTLED 6

// It was given up at the limit of its attempt; it may have acted.
#define MESH_GUARD_TIMED_OUT 7

// Nothing was learned: the program gave it up, or refused it itself.
#define MESH_GUARD_IGNORED 8

// Run the function, and give it up after `time_ns` (-1: no limit); then tell its outcome.
#define MESH_GUARD_PROCEED 1

// Wait `time_ns`, then say `MESH_GUARD_READY`.
#define MESH_GUARD_WAIT 2

// The call is over; the outcome of the last attempt is its result.
#define MESH_GUARD_STOP 3

// For `mesh_guard_options.flags`: doing it twice does no harm, whatever the configuration says.
#define MESH_GUARD_IDEMPOTENT 1

// For `mesh_guard_options.flags`: doing it twice does harm, whatever the configuration says.
#define MESH_GUARD_NOT_IDEMPOTENT 2

// One service mesh engine. Thread-safe.
typedef struct mesh mesh;

// The writing end of a streamed body.
typedef struct mesh_body mesh_body;

// A request that goes on once its body was handed over: see `mesh_inbound_begin`. One thread at a time.
typedef struct mesh_body_wanted mesh_body_wanted;

// Counted bytes: a chunk of a body, a metrics page, a status document. Thread-safe.
typedef struct mesh_buf mesh_buf;

// A checked configuration document, for `mesh_open` and `mesh_reload`.
typedef struct mesh_config mesh_config;

// A completion queue: submit operations, take completions and arrivals. Thread-safe; one per event
// loop or per worker thread is usual.
typedef struct mesh_cq mesh_cq;

// Why a call failed. Free it with `mesh_error_free`.
typedef struct mesh_error mesh_error;

// A guard of the configuration. Thread-safe; a reload reaches it.
typedef struct mesh_guard mesh_guard;

// One call under a guard, of one thread at a time.
typedef struct mesh_guard_call mesh_guard_call;

// A request to be answered. One thread at a time.
typedef struct mesh_inbound mesh_inbound;

// What the mesh asks of each request that the program's own server receives. Thread-safe; a reload reaches it.
typedef struct mesh_inbound_check mesh_inbound_check;

// An open listener.
typedef struct mesh_listener mesh_listener;

// A request. One thread at a time, except `mesh_request_cancel`.
typedef struct mesh_request mesh_request;

// A response. One thread at a time, except `mesh_response_cancel`.
typedef struct mesh_response mesh_response;

// Text by pointer and length. In: need not end with NUL, must be UTF-8; `{NULL, 0}` is empty text.
// Out: borrowed from the handle it came from, and followed by a NUL byte so that it can be printed.
typedef struct {
  // First byte.
  const char *ptr;
  // Bytes, without a terminator.
  size_t len;
} mesh_str;

// Result of every fallible function: `MESH_OK` or one of the `MESH_E_*` codes. The list grows at the
// end; keep a default branch.
typedef int32_t mesh_code;

// Bytes by pointer and length: bodies, header values, packed headers. `{NULL, 0}` is empty.
typedef struct {
  // First byte.
  const uint8_t *ptr;
  // How many.
  size_t len;
} mesh_bytes;

// How to open a mesh. Start from `MESH_OPTIONS_INIT`.
typedef struct {
  // Size of this struct.
  uint32_t struct_size;
  // `MESH_ABI_VERSION` of the header the program was compiled with.
  uint32_t abi_version;
  // `MESH_WAIT_INTR` or 0.
  uint32_t flags;
  // Threads; 0: one per core, at most four.
  uint32_t worker_threads;
  // Seed of every random choice, for reproducible tests; 0: from the system.
  uint64_t seed;
} mesh_options;

// How a call went. Fill in with `mesh_response_info`. The text is borrowed from the response.
typedef struct {
  // Size of this struct.
  uint32_t struct_size;
  // Attempts made, the first included.
  uint32_t attempts;
  // Revision of the configuration it ran on.
  uint64_t revision;
  // Route rule.
  mesh_str route;
  // Cluster.
  mesh_str cluster;
  // Address of the endpoint that answered.
  mesh_str endpoint;
  // SPIFFE ID the endpoint proved; empty without mTLS.
  mesh_str peer_id;
} mesh_call_info;

// One completion or arrival.
typedef struct {
  // `MESH_EV_*`. Ignore kinds you do not know.
  int32_t kind;
  // `MESH_OK` or `MESH_E_*`.
  mesh_code code;
  // The tag of the op, or of the listener.
  uint64_t tag;
  // `MESH_EVF_*`.
  uint32_t flags;
  // Zero.
  uint32_t reserved;
  // Owned by the receiver; its type follows from `kind` and `code`.
  void *handle;
  // Bytes that `handle` owns.
  mesh_bytes data;
  // A number; its meaning follows from `kind`.
  int64_t arg;
} mesh_event;

// Takes an event that `mesh_cq_run` met and that belongs to no handler. What `event->handle` is, is
// the callback's to free.
typedef void (*mesh_event_callback)(void *userdata, const mesh_event *event);

// How to make a queue. Start from `MESH_INIT`.
typedef struct {
  // Size of this struct.
  uint32_t struct_size;
  // Zero.
  uint32_t flags;
  // Takes the events that `mesh_cq_run` meets; NULL: it frees them.
  mesh_event_callback on_event;
  // Given to `on_event`.
  void *userdata;
} mesh_cq_options;

// One thing to do. Zero it, then set what its kind uses.
typedef struct {
  // `MESH_OP_*`.
  int32_t kind;
  // Zero.
  uint32_t flags;
  // The caller's number for the completion: any value not in flight on this queue.
  uint64_t tag;
  // What it is about.
  void *handle;
  // Bytes to send.
  mesh_bytes data;
  // Packed headers or trailers.
  mesh_bytes headers;
  // A number; its meaning follows from `kind`.
  int64_t arg;
} mesh_op;

// Answers a request; runs on a thread of the host. Must return normally: no `longjmp`, no exception.
typedef int32_t (*mesh_handler)(void *userdata, mesh_inbound *inbound);

// How requests of a listener arrive. Start from `MESH_INIT`.
typedef struct {
  // Size of this struct.
  uint32_t struct_size;
  // Requests that may wait to be taken from the queue; more are refused with 503. 0: 1024.
  uint32_t max_pending;
  // Tag of this listener's events.
  uint64_t tag;
  // Runs for each request, on the thread that takes it; NULL: requests arrive as `MESH_EV_INBOUND`.
  mesh_handler handler;
  // Given to the handler. Must stay valid until `mesh_close` returned.
  void *userdata;
} mesh_listen_options;

// A request that the program's own server received. Start from `MESH_INIT(mesh_received)`.
typedef struct {
  // Size of this struct.
  uint32_t struct_size;
  // `MESH_RECEIVED_WHOLE_BODY` or 0.
  uint32_t flags;
  // 10, 11, 20 or 30; 0: HTTP/1.1.
  uint32_t http_version;
  // Zero.
  uint32_t reserved;
  // HTTP method.
  mesh_str method;
  // Path and query as they came, not decoded: what is judged is what was sent.
  mesh_str target;
  // `:authority` of HTTP/2, which counts more than a header `host`; empty: that header.
  mesh_str authority;
  // All headers, packed.
  mesh_bytes headers;
  // The beginning of the body, where a check may want it: see `mesh_inbound_check_body_limit`. Not looked at if
  // `mesh_inbound_begin` is to ask for it.
  mesh_bytes body;
  // The peer's socket, such as `10.0.0.7:51234`; empty: not known.
  mesh_str remote_address;
  // The server's socket.
  mesh_str local_address;
  // Certificates (DER, the peer's own first, one after the other) whose key the peer proved to hold in a TLS
  // handshake with the server. They are verified here, by the mesh's roots; one that the mesh does not know makes
  // no identity.
  mesh_bytes peer_certificates;
  // The server name the peer asked for in that handshake.
  mesh_str server_name;
} mesh_received;

// What a program says about one call. Start from `MESH_INIT(mesh_guard_options)`.
typedef struct {
  // Size of this struct.
  uint32_t struct_size;
  // `MESH_GUARD_IDEMPOTENT`, `MESH_GUARD_NOT_IDEMPOTENT` or 0.
  uint32_t flags;
  // The program's own bound; 0: none.
  int64_t timeout_ns;
  // The request that is served by it; NULL: the one that is active on this thread.
  const mesh_inbound *parent;
} mesh_guard_options;

// What to do next.
typedef struct {
  // `MESH_GUARD_PROCEED`, `MESH_GUARD_WAIT` or `MESH_GUARD_STOP`.
  int32_t action;
  // Attempts started so far.
  uint32_t attempts;
  // With PROCEED the time the attempt has (-1: no limit), with WAIT how long to wait, else 0.
  int64_t time_ns;
  // With STOP why there is no further attempt, as metrics name it. Borrowed from the call.
  mesh_str reason;
} mesh_guard_step;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

#if defined(MESH_PANIC_INJECTION)
// Makes the guard of the named function panic on every call until disarmed with NULL.
// Only in builds with the feature `panic-injection`.
void mesh_test_panic_in(const char *function);
#endif

// The `mesh_str` of a NUL-terminated string. NULL gives empty text.
mesh_str mesh_strz(const char *text);

// The `MESH_E_*` code. `MESH_OK` for NULL.
mesh_code mesh_error_code(const mesh_error *error);

// `MESH_ERR_*` bits. 0 for NULL.
uint32_t mesh_error_flags(const mesh_error *error);

// Stable name, such as `no_route` or `timeout`: for logs, metric labels and comparisons.
mesh_str mesh_error_name(const mesh_error *error);

// What to tell a person. Not stable; never holds a secret. A refused configuration lists every finding.
mesh_str mesh_error_message(const mesh_error *error);

// A fact by key, empty when unknown. Keys: `route`, `cluster`, `endpoint`, `attempts`,
// `retry_after_ms`, `cause`, `os_errno`; for configurations `file`, `line`, `column`, `path`, `hint`
// of the first finding.
mesh_str mesh_error_detail(const mesh_error *error, mesh_str key);

// How many facts there are.
size_t mesh_error_detail_count(const mesh_error *error);

// The fact at `index`.
mesh_code mesh_error_detail_at(const mesh_error *error,
                               size_t index,
                               mesh_str *key,
                               mesh_str *value,
                               mesh_error **err);

// All of it as one JSON object: `code`, `name`, `message`, `flags`, `details`, and for a refused
// configuration `diagnostics`: objects of `severity`, `file`, `line`, `column`, `path`, `message`,
// `expected`, `hint`.
mesh_str mesh_error_json(const mesh_error *error);

// Frees it. NULL is fine.
void mesh_error_free(mesh_error *error);

// The bytes, valid until the buffer is freed. Status and metrics are also NUL-terminated.
mesh_bytes mesh_buf_bytes(const mesh_buf *buf);

// A second buffer over a part of the same bytes, without a copy. Free both.
mesh_code mesh_buf_slice(const mesh_buf *buf, size_t offset, size_t len, mesh_buf **slice, mesh_error **err);

// Frees it. NULL is fine.
void mesh_buf_free(mesh_buf *buf);

// Handles of a kind (`MESH_HANDLE_*`, `MESH_HANDLE_ANY` for all) that the program holds now. For
// finding leaks: after freeing everything it is 0.
size_t mesh_live_handles(int32_t kind);

// Checks a document (YAML or JSON). `origin` names it in diagnostics; relative paths in it are
// relative to the directory of `origin`. No thread, no network.
//
// On `MESH_E_CONFIG` the error's message and JSON list everything that is wrong, with line and column.
mesh_code mesh_config_parse(mesh_bytes text, mesh_str origin, mesh_config **config, mesh_error **err);

// Reads and checks a file. A mesh opened from it reads it again and then follows its changes.
mesh_code mesh_config_load_file(mesh_str path, mesh_config **config, mesh_error **err);

// Frees it. NULL is fine. A mesh opened from it does not need it any more.
void mesh_config_free(mesh_config *config);

// The ABI version of the library that was loaded.
uint32_t mesh_abi_version(void);

// The release version of the library that was loaded, such as `0.1.0`. Static text.
const char *mesh_version(void);

// Opens a mesh. Cheap: no thread and no socket until first use. `options` may be NULL.
mesh_code mesh_open(const mesh_options *options, const mesh_config *config, mesh **mesh, mesh_error **err);

// Starts the threads now instead of at first use. Again is fine.
mesh_code mesh_start(const mesh *mesh, mesh_error **err);

// Replaces the configuration, all or nothing, and tells its revision (`revision` may be NULL). Calls
// in flight finish on the old one. On an error the old one stays.
mesh_code mesh_reload(const mesh *mesh, const mesh_config *config, uint64_t *revision, mesh_error **err);

// What a support engineer asks for, as one JSON object.
mesh_code mesh_status_json(const mesh *mesh, mesh_buf **json, mesh_error **err);

// All metrics in `format`, now only `MESH_METRICS_PROMETHEUS`.
mesh_code mesh_metrics(const mesh *mesh, int32_t format, mesh_buf **page, mesh_error **err);

// Says whether new requests are wanted: 1 yes (as at first), 0 no. Callers within the mesh learn it from the
// next response and go elsewhere while they can; what still comes is served.
mesh_code mesh_set_serving(const mesh *mesh, int32_t serving, mesh_error **err);

// Lame duck: listeners say so to their peers, take no new connection and finish what is in flight,
// for at most `grace_ns`. Blocks.
mesh_code mesh_drain(const mesh *mesh, int64_t grace_ns, mesh_error **err);

// Ends all calls and listeners and joins the threads, for at most `timeout_ns`. Operations in flight
// complete with `MESH_E_CLOSED`; queues are stopped. Again is fine. `mesh_free` comes after.
mesh_code mesh_close(const mesh *mesh, int64_t timeout_ns, mesh_error **err);

// Frees the handle; a mesh that was not closed is closed without waiting. NULL is fine. In a forked
// child it leaks on purpose: the threads and sockets are the parent's.
void mesh_free(mesh *mesh);

// Tells the library that this process is a child made without `fork()` of libc (a raw `clone`). Not
// needed after `fork()`, which is noticed. Handles made before return `MESH_E_FORKED` from here on.
void mesh_after_fork_child(void);

// Starts a request. `target` is an absolute URI whose authority is the logical service, such as
// `http://reviews/reviews/0`; routes decide where it goes.
//
// Made while an inbound request is active on this thread (in a handler, or after
// `mesh_inbound_activate`), it continues that request's trace and deadline.
mesh_code mesh_request_new(const mesh *mesh,
                           mesh_str method,
                           mesh_str target,
                           mesh_request **request,
                           mesh_error **err);

// Adds a header. Repeating a name adds a second value.
mesh_code mesh_request_header_add(const mesh_request *request,
                                  mesh_str name,
                                  mesh_bytes value,
                                  mesh_error **err);

// Adds a whole packed header list (see `mesh_response_headers_packed` for the layout).
mesh_code mesh_request_headers_packed(const mesh_request *request, mesh_bytes block, mesh_error **err);

// The caller's total timeout. The smallest of it, the route's, and what is left of the inbound
// request's deadline counts.
mesh_code mesh_request_set_timeout(const mesh_request *request, int64_t timeout_ns, mesh_error **err);

// Says whether sending it twice does no harm: 1 yes, 0 no, -1 as the method says (the default).
mesh_code mesh_request_set_idempotent(const mesh_request *request, int32_t idempotent, mesh_error **err);

// Says whether it goes on when the inbound request it belongs to runs out of time: 1 yes, 0 no (the default).
// For what is sent and not waited for; it stays in the trace.
mesh_code mesh_request_set_detached(const mesh_request *request, int32_t detached, mesh_error **err);

// Makes it continue the trace and deadline of `inbound`, whichever request is active on the thread.
mesh_code mesh_request_set_parent(const mesh_request *request, const mesh_inbound *inbound, mesh_error **err);

// Sets the body to a copy of `body`. Such a request can be retried.
mesh_code mesh_request_body_copy(const mesh_request *request, mesh_bytes body, mesh_error **err);

// Makes the body a stream and returns its writing end. `length` is its size, or -1 for unknown.
// With `mesh_call`, write from another thread: the call blocks until the response's head.
mesh_code mesh_request_body_stream(const mesh_request *request,
                                   int64_t length,
                                   mesh_body **body,
                                   mesh_error **err);

// Sends the request and blocks until the head of the response, or the error, is there. The request
// stays the caller's to free and cannot be sent again.
mesh_code mesh_call(const mesh *mesh,
                    const mesh_request *request,
                    mesh_response **response,
                    mesh_error **err);

// Ends the call, and the reading of its response, with `MESH_E_CANCELLED`. Any thread, any time before
// the handle is freed. NULL is fine.
void mesh_request_cancel(const mesh_request *request);

// Frees it. Does not end a call in flight. NULL is fine.
void mesh_request_free(mesh_request *request);

// Writes a chunk (copied) and waits while the reader is behind. `MESH_E_CANCELLED`: the other side no
// longer wants the body; the call's own outcome says why.
mesh_code mesh_body_write(const mesh_body *body, mesh_bytes chunk, mesh_error **err);

// Ends the body, with packed `trailers` or an empty block. The handle is still to be freed.
mesh_code mesh_body_end(const mesh_body *body, mesh_bytes trailers, mesh_error **err);

// Frees it. Before the end, this breaks the body off: the peer sees an aborted transfer. NULL is fine.
void mesh_body_free(mesh_body *body);

// HTTP status; 0 for NULL.
uint16_t mesh_response_status(const mesh_response *response);

// The whole body, where it is in memory already: an answer of `mesh_inbound_begin`, or `MESH_EVF_WHOLE_BODY`. Else
// `ptr` is NULL. Borrowed from the response; reading it is possible as well.
mesh_bytes mesh_response_body(const mesh_response *response);

// The `nth` (from 0) value of a header, by name in any case. `ptr` is NULL when there is none.
mesh_bytes mesh_response_header(const mesh_response *response, mesh_str name, size_t nth);

// How many headers; 0 for NULL.
size_t mesh_response_header_count(const mesh_response *response);

// The header at `index`. Duplicates are kept.
mesh_code mesh_response_header_at(const mesh_response *response,
                                  size_t index,
                                  mesh_str *name,
                                  mesh_bytes *value,
                                  mesh_error **err);

// All headers in one block: `uint32_t count`, then per header `uint32_t name_offset, name_length,
// value_offset, value_length`, then the text. Offsets count from the start of the block; numbers are
// in native byte order. Borrowed from the response.
mesh_bytes mesh_response_headers_packed(const mesh_response *response);

// The trailers in the same layout; empty until the end of the body was read (an answer of `mesh_inbound_begin` has
// them at once), or without trailers.
mesh_bytes mesh_response_trailers_packed(const mesh_response *response);

// Blocks until the next chunk of the body. `*chunk` is NULL at the end. Not reading stops the peer.
mesh_code mesh_response_read(const mesh_response *response, mesh_buf **chunk, mesh_error **err);

// How the call went: attempts, endpoint, the peer's identity. `info` starts from `MESH_INIT`.
mesh_code mesh_response_info(const mesh_response *response, mesh_call_info *info, mesh_error **err);

// Ends reads in flight and to come with `MESH_E_CANCELLED`. Any thread. NULL is fine.
void mesh_response_cancel(const mesh_response *response);

// Frees it, wherever its body is. NULL is fine.
void mesh_response_free(mesh_response *response);

// Makes a queue and starts the mesh. `options` may be NULL.
mesh_code mesh_cq_new(const mesh *mesh, const mesh_cq_options *options, mesh_cq **cq, mesh_error **err);

// A descriptor that is readable while events wait: for epoll, libuv, asyncio. Only the library reads
// and writes it, and closes it in `mesh_cq_free`. -1 for NULL.
int mesh_cq_fd(const mesh_cq *cq);

// Submits `op_count` operations, then takes up to `event_capacity` events into `events`, waiting for the
// first one: `timeout_ns` 0 does not wait, negative waits for ever. `*event_count` tells how many; it may
// be 0 early, after a handler ran. Strides are `sizeof(mesh_op)` and `sizeof(mesh_event)` of the caller.
//
// A batch with an unknown op is refused before anything is done. Any other failure of an op is told by
// its completion. After `MESH_E_INTERRUPTED` the ops are under way all the same.
mesh_code mesh_cq_exchange(const mesh_cq *cq,
                           const mesh_op *ops,
                           size_t op_count,
                           size_t op_stride,
                           mesh_event *events,
                           size_t event_capacity,
                           size_t event_stride,
                           size_t *event_count,
                           int64_t timeout_ns,
                           mesh_error **err);

// Runs the handlers of arriving requests, and the queue's callback, on this thread until `timeout_ns`
// passed (negative: for ever), `mesh_cq_wake` was called (ends one run), or `mesh_cq_stop` or
// `mesh_close` (end all). Several threads may run the same queue.
mesh_code mesh_cq_run(const mesh_cq *cq, int64_t timeout_ns, mesh_error **err);

// Makes one wait on the queue return, with `MESH_EV_WAKE`. Any thread, and signal handlers. NULL is fine.
void mesh_cq_wake(const mesh_cq *cq);

// Makes every wait on the queue return, now and later. Events that wait can still be taken; requests
// that arrive are refused. NULL is fine.
void mesh_cq_stop(const mesh_cq *cq);

// Frees it. Operations in flight are cancelled and events that wait are freed. No thread may be inside
// `mesh_cq_exchange` or `mesh_cq_run`. NULL is fine.
void mesh_cq_free(mesh_cq *cq);

// Opens the listener of that name; its requests arrive on `cq`. `options` may be NULL.
mesh_code mesh_listen(const mesh *mesh,
                      mesh_str name,
                      const mesh_cq *cq,
                      const mesh_listen_options *options,
                      mesh_listener **listener,
                      mesh_error **err);

// Opens the listener of that name and has `handler` answer its requests. Handlers run inside
// `mesh_cq_run` on the threads that call it, each as the active request of its thread, so calls made
// in them continue its trace and deadline.
mesh_code mesh_serve(const mesh *mesh,
                     mesh_str name,
                     const mesh_cq *cq,
                     mesh_handler handler,
                     void *userdata,
                     mesh_listener **listener,
                     mesh_error **err);

// Opens the listener of that name as an ingress: its requests are routed by `routes` of the
// configuration. No code of the host is involved.
mesh_code mesh_forward(const mesh *mesh, mesh_str name, mesh_listener **listener, mesh_error **err);

// Where it listens, such as `127.0.0.1:8080`.
mesh_str mesh_listener_address(const mesh_listener *listener);

// Blocks until the listener is closed: by `mesh_drain`, `mesh_close`, or a configuration without it.
mesh_code mesh_listener_wait(const mesh_listener *listener, mesh_error **err);

// Frees the handle. The listener goes on until `mesh_drain` or `mesh_close`. NULL is fine.
void mesh_listener_free(mesh_listener *listener);

// Its number, unique in this process: what `MESH_EV_INBOUND_GONE` names it by. 0 for NULL.
uint64_t mesh_inbound_id(const mesh_inbound *inbound);

// HTTP method.
mesh_str mesh_inbound_method(const mesh_inbound *inbound);

// Path and query.
mesh_str mesh_inbound_path(const mesh_inbound *inbound);

// Authority (HTTP/2) or Host (HTTP/1.1).
mesh_str mesh_inbound_authority(const mesh_inbound *inbound);

// SPIFFE ID the peer proved with its certificate; empty without mTLS. A header is never an identity.
mesh_str mesh_inbound_peer_id(const mesh_inbound *inbound);

// Claims of the end user's token, once it was verified: a JSON object, as the issuer wrote it, each name once. Empty
// when the request came without a token, or the listener asks for none.
mesh_str mesh_inbound_claims_json(const mesh_inbound *inbound);

// Trace it belongs to: 32 hexadecimal digits.
mesh_str mesh_inbound_trace_id(const mesh_inbound *inbound);

// Address of the peer's socket.
mesh_str mesh_inbound_remote_address(const mesh_inbound *inbound);

// Address of our socket.
mesh_str mesh_inbound_local_address(const mesh_inbound *inbound);

// Nanoseconds until the caller stops waiting; 0 when it has, -1 without a deadline.
int64_t mesh_inbound_remaining_ns(const mesh_inbound *inbound);

// The `nth` (from 0) value of a header, by name in any case. `ptr` is NULL when there is none.
mesh_bytes mesh_inbound_header(const mesh_inbound *inbound, mesh_str name, size_t nth);

// How many headers; 0 for NULL.
size_t mesh_inbound_header_count(const mesh_inbound *inbound);

// The header at `index`. Duplicates are kept.
mesh_code mesh_inbound_header_at(const mesh_inbound *inbound,
                                 size_t index,
                                 mesh_str *name,
                                 mesh_bytes *value,
                                 mesh_error **err);

// All headers in one block; layout as `mesh_response_headers_packed`.
mesh_bytes mesh_inbound_headers_packed(const mesh_inbound *inbound);

// Trailers of the request, once its body was read to the end; same layout.
mesh_bytes mesh_inbound_trailers_packed(const mesh_inbound *inbound);

// Blocks until the next chunk of the body. `*chunk` is NULL at the end.
mesh_code mesh_inbound_read(const mesh_inbound *inbound, mesh_buf **chunk, mesh_error **err);

// Frees it. Without an answer the peer gets a 500; of one that `mesh_inbound_begin` admitted, the answer was given up,
// and what its peer gets is the program's own server's to say. NULL is fine.
void mesh_inbound_free(mesh_inbound *inbound);

// Adds a header to the answer to come.
mesh_code mesh_inbound_header_add(const mesh_inbound *inbound,
                                  mesh_str name,
                                  mesh_bytes value,
                                  mesh_error **err);

// Answers in one go. `headers` is a packed list or empty; `body` is copied. `MESH_E_CANCELLED`: the
// peer is gone. The handle is still to be freed.
mesh_code mesh_inbound_respond(const mesh_inbound *inbound,
                               uint16_t status,
                               mesh_bytes headers,
                               mesh_bytes body,
                               mesh_error **err);

// Sends the head now and returns the writing end of the body. `length` is its size, or -1 for unknown.
mesh_code mesh_inbound_respond_stream(const mesh_inbound *inbound,
                                      uint16_t status,
                                      mesh_bytes headers,
                                      int64_t length,
                                      mesh_body **body,
                                      mesh_error **err);

// The listener of that name as a check: it needs no address. Its requests meet the access rules, end users, limits
// and checks of the configuration.
mesh_code mesh_inbound_check_open(const mesh *mesh,
                                  mesh_str name,
                                  mesh_inbound_check **check,
                                  mesh_error **err);

// Frees the check; its requests go on. NULL is fine.
void mesh_inbound_check_free(mesh_inbound_check *check);

// How many bytes of a body the checks of the configuration in force want to know; 0: none. For servers that hand it
// over with each request: one byte more if there are more. A request whose body a check wants and does not get is
// answered 400.
size_t mesh_inbound_check_body_limit(const mesh_inbound_check *check);

// Admits a request, or answers it. Exactly one is set, the others NULL: `*inbound`, to be answered by the program
// (`mesh_inbound_head`, then `mesh_inbound_end`); or `*answer`, to be sent as it is: status, headers,
// `mesh_response_body` and trailers; or `*wanted`, for `mesh_body_wanted_give`.
//
// `wanted` is NULL for a server that hands the body over with the request. With it a body that is not whole already
// is asked for once a check wants to know it: whoever is refused without it, or meets no such check, is not read.
//
// Most requests are decided at once, on this thread. For one that has to wait (for a policy server, or for room):
// without a `cq` this call blocks; with one all results are NULL, and the outcome arrives there under `tag`:
// `MESH_EV_ADMITTED`, `MESH_EV_ANSWERED` or `MESH_EV_BODY_WANTED`. `MESH_OP_CANCEL` ends the wait.
mesh_code mesh_inbound_begin(const mesh_inbound_check *check,
                             const mesh_received *received,
                             const mesh_cq *cq,
                             uint64_t tag,
                             mesh_inbound **inbound,
                             mesh_response **answer,
                             mesh_body_wanted **wanted,
                             mesh_error **err);

// Tells the head of the program's answer, and gives it back as it is to be sent: headers are added and taken away.
// `headers` come before those of `mesh_inbound_header_add`.
// `status` is a final one, or 101. Once. Free `*head` when it was sent.
mesh_code mesh_inbound_head(const mesh_inbound *inbound,
                            uint16_t status,
                            mesh_bytes headers,
                            mesh_response **head,
                            mesh_error **err);

// The answer was sent: `response_bytes` of body, then packed `trailers` or none; `request_bytes` of the request's
// body were read. `*sent` (NULL, if the caller does not care) becomes the trailers as they are to be sent, packed,
// or NULL without any. The handle is still to be freed; freed without this, the answer was given up.
mesh_code mesh_inbound_end(const mesh_inbound *inbound,
                           uint64_t request_bytes,
                           uint64_t response_bytes,
                           mesh_bytes trailers,
                           mesh_buf **sent,
                           mesh_error **err);

// The answer broke off after `response_bytes` of its body, and the peer saw it. `reason` is for the log. Before
// `mesh_inbound_head` it counts as a 500, which the program's own server answers then.
mesh_code mesh_inbound_fail(const mesh_inbound *inbound,
                            uint64_t request_bytes,
                            uint64_t response_bytes,
                            mesh_str reason,
                            mesh_error **err);

// How many bytes of the body checks want to know. Read one more if there are more. 0 for NULL.
size_t mesh_body_wanted_limit(const mesh_body_wanted *wanted);

// Nanoseconds until it is too late, which is when to stop reading (`MESH_RECEIVED_LATE`): the caller waits no longer, or
// took longer than the check grants (`with_request_body.timeout`). 0 when it is, -1 for NULL.
int64_t mesh_body_wanted_remaining_ns(const mesh_body_wanted *wanted);

// Goes on as `mesh_inbound_begin` does. `flags`: `MESH_RECEIVED_WHOLE_BODY` if `body` is all of it, `MESH_RECEIVED_LATE`
// if it is too late, else 0: there is more. Once. The handle is still to be freed; freed without this, the
// request was given up.
mesh_code mesh_body_wanted_give(const mesh_body_wanted *wanted,
                                mesh_bytes body,
                                uint32_t flags,
                                const mesh_cq *cq,
                                uint64_t tag,
                                mesh_inbound **inbound,
                                mesh_response **answer,
                                mesh_error **err);

// Frees it. NULL is fine.
void mesh_body_wanted_free(mesh_body_wanted *wanted);

// Makes `inbound` the active request of this thread: requests made from now on continue its trace and
// deadline. Handlers of `mesh_serve` run like this. Pair with `mesh_inbound_deactivate`.
mesh_code mesh_inbound_activate(const mesh_inbound *inbound, mesh_error **err);

// Ends what `mesh_inbound_activate` began, on the same thread.
mesh_code mesh_inbound_deactivate(const mesh_inbound *inbound, mesh_error **err);

// The guard that the configuration calls `name`.
mesh_code mesh_guard_open(const mesh *mesh, mesh_str name, mesh_guard **guard, mesh_error **err);

// Frees the guard; its calls go on. NULL is fine.
void mesh_guard_free(mesh_guard *guard);

// Begins a call: takes its place under the limit, or fails with `MESH_E_OVERLOADED`. Then alternate
// `mesh_guard_next` and what it says. `options` may be NULL.
mesh_code mesh_guard_begin(const mesh_guard *guard,
                           const mesh_guard_options *options,
                           mesh_guard_call **call,
                           mesh_error **err);

// Tells how the attempt ended (or `MESH_GUARD_READY` to start one) and what to do next. `retry_after_ns`
// is the wait the callee asked for, -1 when it asked for none. Fails when the guard refuses an attempt
// (`MESH_E_CIRCUIT_OPEN`, `MESH_E_TIMEOUT`) or was the one to end it (`MESH_E_ATTEMPT_TIMEOUT`): the call is
// over then, and the error is its result.
mesh_code mesh_guard_next(mesh_guard_call *call,
                          int32_t outcome,
                          int64_t retry_after_ns,
                          mesh_guard_step *step,
                          mesh_error **err);

// What an error of the mesh that the function itself got means for its guard: a `MESH_GUARD_*` outcome.
// `name` is the error's name, `flags` its flags.
int32_t mesh_guard_outcome_of(mesh_str name, uint32_t flags);

// Ends the call and frees it. Before its end it was given up. NULL is fine.
void mesh_guard_end(mesh_guard_call *call);

// Says one thing about the load of this process, until it is said anew: `utilization` (1.0: all it can; balancers
// weigh by this), `cpu`, `memory`, `queue_depth`, or a name of your own. NaN takes it back. Responses tell it to
// callers that ask (`listeners[].load_reports`), with the rates and requests in flight that the mesh counts.
mesh_code mesh_load_report_set(const mesh *mesh,
                               mesh_str name,
                               double value,
                               mesh_error **err);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MESH_H */
