// Package native is libmesh as Go types: every call into C is here, and nothing else.
//
// It decides nothing. Invariants: C keeps no Go pointer after a call returned; every handle is freed
// exactly once, by whoever the comment of its function says.
package native

/*
#cgo noescape go_submit
#cgo nocallback go_submit
#cgo noescape go_take
#cgo nocallback go_take
#cgo noescape go_read
#cgo nocallback go_read
#cgo noescape go_write
#cgo nocallback go_write
#cgo noescape go_end
#cgo nocallback go_end
#cgo noescape go_respond
#cgo nocallback go_respond
#cgo noescape go_respond_stream
#cgo nocallback go_respond_stream
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"encoding/json"
	"syscall"
	"unsafe"
)

// Handles of libmesh. Each is C memory.
type (
	Config   C.mesh_config
	Mesh     C.mesh
	Queue    C.mesh_cq
	Response C.mesh_response
	Body     C.mesh_body
	Buf      C.mesh_buf
	Inbound  C.mesh_inbound
	Listener C.mesh_listener
)

// Failure is what a mesh_error tells.
type Failure struct {
	Code        int32             `json:"code"`
	Name        string            `json:"name"`
	Message     string            `json:"message"`
	Flags       uint32            `json:"flags"`
	Details     map[string]string `json:"details"`
	Diagnostics []json.RawMessage `json:"diagnostics"`
}

// Flags of a Failure, and codes this binding looks at.
const (
	FlagRetriable = C.MESH_ERR_RETRIABLE
	FlagNotSent   = C.MESH_ERR_NOT_SENT
	FlagTimeout   = C.MESH_ERR_TIMEOUT
	FlagCancelled = C.MESH_ERR_CANCELLED
	FlagPolicy    = C.MESH_ERR_POLICY

	CodeCancelled = C.MESH_E_CANCELLED
	CodeClosed    = C.MESH_E_CLOSED
)

// ABIMatches tells whether the library that was loaded is the one this package was compiled for.
func ABIMatches() bool { return C.mesh_abi_version() == C.MESH_ABI_VERSION }

// Version is the release of the library that was loaded.
func Version() string { return C.GoString(C.mesh_version()) }

// LiveHandles counts the handles of all kinds that this process holds.
func LiveHandles() int { return int(C.mesh_live_handles(C.MESH_HANDLE_ANY)) }

// LoadFile reads and checks a configuration file.
func LoadFile(path string) (*Config, *Failure) { return parse(nil, path) }

// Parse checks a configuration document. origin names it in diagnostics.
func Parse(text, origin string) (*Config, *Failure) {
	if text == "" {
		text = "\n" // nil means a file
	}
	return parse(unsafe.StringData(text), origin, len(text))
}

func parse(text *byte, origin string, length ...int) (*Config, *Failure) {
	name := C.CString(origin)
	defer C.free(unsafe.Pointer(name))
	size := 0
	for _, n := range length {
		size = n
	}
	var config *C.mesh_config
	var err *C.mesh_error
	if C.go_parse((*C.uint8_t)(text), C.size_t(size), name, &config, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return (*Config)(config), nil
}

// Free frees the configuration.
func (c *Config) Free() { C.mesh_config_free((*C.mesh_config)(c)) }

// Open opens a mesh. Zero threads: as many as the library likes; zero seed: a random one.
func Open(config *Config, threads uint32, seed uint64) (*Mesh, *Failure) {
	var mesh *C.mesh
	var err *C.mesh_error
	if C.go_open((*C.mesh_config)(config), C.uint32_t(threads), C.uint64_t(seed), &mesh, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return (*Mesh)(mesh), nil
}

// Reload replaces the configuration and tells the new revision.
func (m *Mesh) Reload(config *Config) (uint64, *Failure) {
	var revision C.uint64_t
	var err *C.mesh_error
	if C.mesh_reload((*C.mesh)(m), (*C.mesh_config)(config), &revision, &err) != C.MESH_OK {
		return 0, failure(err)
	}
	return uint64(revision), nil
}

// Status is the status document, JSON.
func (m *Mesh) Status() ([]byte, *Failure) {
	var buf *C.mesh_buf
	var err *C.mesh_error
	if C.mesh_status_json((*C.mesh)(m), &buf, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return taken(buf), nil
}

// Metrics is the page in the Prometheus text format.
func (m *Mesh) Metrics() ([]byte, *Failure) {
	var buf *C.mesh_buf
	var err *C.mesh_error
	if C.mesh_metrics((*C.mesh)(m), C.MESH_METRICS_PROMETHEUS, &buf, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return taken(buf), nil
}

// SetServing says whether new requests are wanted.
func (m *Mesh) SetServing(serving bool) *Failure {
	var word C.int32_t
	if serving {
		word = 1
	}
	var err *C.mesh_error
	if C.mesh_set_serving((*C.mesh)(m), word, &err) != C.MESH_OK {
		return failure(err)
	}
	return nil
}

// Drain blocks for at most grace nanoseconds.
func (m *Mesh) Drain(grace int64) *Failure {
	var err *C.mesh_error
	if C.mesh_drain((*C.mesh)(m), C.int64_t(grace), &err) != C.MESH_OK {
		return failure(err)
	}
	return nil
}

// Close blocks for at most timeout nanoseconds.
func (m *Mesh) Close(timeout int64) *Failure {
	var err *C.mesh_error
	if C.mesh_close((*C.mesh)(m), C.int64_t(timeout), &err) != C.MESH_OK {
		return failure(err)
	}
	return nil
}

// Free frees the mesh.
func (m *Mesh) Free() { C.mesh_free((*C.mesh)(m)) }

// Listen opens a listener. Its requests arrive on queue under tag; with a nil queue they are forwarded
// by the routes of the configuration.
func (m *Mesh) Listen(name string, queue *Queue, tag uint64) (*Listener, *Failure) {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	var listener *C.mesh_listener
	var err *C.mesh_error
	code := C.go_listen((*C.mesh)(m), text, (*C.mesh_cq)(queue), C.uint64_t(tag), &listener, &err)
	if code != C.MESH_OK {
		return nil, failure(err)
	}
	return (*Listener)(listener), nil
}

// Address is where it listens.
func (l *Listener) Address() string { return text(C.mesh_listener_address((*C.mesh_listener)(l))) }

// Wait blocks until the listener is closed.
func (l *Listener) Wait() { C.mesh_listener_wait((*C.mesh_listener)(l), nil) }

// Free frees the handle; the listener goes on.
func (l *Listener) Free() { C.mesh_listener_free((*C.mesh_listener)(l)) }

// NewQueue makes a completion queue and starts the mesh.
func NewQueue(m *Mesh) (*Queue, *Failure) {
	var queue *C.mesh_cq
	var err *C.mesh_error
	if C.mesh_cq_new((*C.mesh)(m), nil, &queue, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return (*Queue)(queue), nil
}

// DupFD is an own descriptor, for the caller to close, that is readable while events wait.
func (q *Queue) DupFD() (int, error) {
	fd, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(C.mesh_cq_fd((*C.mesh_cq)(q))), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// Wake makes the descriptor readable.
func (q *Queue) Wake() { C.mesh_cq_wake((*C.mesh_cq)(q)) }

// Free frees the queue. Nobody may be inside one of its functions.
func (q *Queue) Free() { C.mesh_cq_free((*C.mesh_cq)(q)) }

// Free frees the response, wherever its body is; a read in flight completes as cancelled.
func (r *Response) Free() { C.mesh_response_free((*C.mesh_response)(r)) }

// Trailers are the packed trailers, copied; empty before the end of the body.
func (r *Response) Trailers() []byte {
	return copied(C.mesh_response_trailers_packed((*C.mesh_response)(r)))
}

// Free frees the body; before its end this breaks it off.
func (b *Body) Free() { C.mesh_body_free((*C.mesh_body)(b)) }

// Free frees the buffer.
func (b *Buf) Free() { C.mesh_buf_free((*C.mesh_buf)(b)) }

// Free frees the request; without an answer the peer gets a 500.
func (i *Inbound) Free() { C.mesh_inbound_free((*C.mesh_inbound)(i)) }

// Trailers are the packed trailers, copied; empty before the end of the body.
func (i *Inbound) Trailers() []byte {
	return copied(C.mesh_inbound_trailers_packed((*C.mesh_inbound)(i)))
}

// Respond answers. block is packed headers and then the body.
func (i *Inbound) Respond(status int, block []byte, headers int) *Failure {
	var err *C.mesh_error
	code := C.go_respond((*C.mesh_inbound)(i), C.uint16_t(status), first(block), C.size_t(headers),
		C.size_t(len(block)-headers), &err)
	if code != C.MESH_OK {
		return failure(err)
	}
	return nil
}

// RespondStream sends the head and returns the writing end of the body.
func (i *Inbound) RespondStream(status int, headers []byte, length int64) (*Body, *Failure) {
	var body *C.mesh_body
	var err *C.mesh_error
	code := C.go_respond_stream((*C.mesh_inbound)(i), C.uint16_t(status), first(headers), C.size_t(len(headers)),
		C.int64_t(length), &body, &err)
	if code != C.MESH_OK {
		return nil, failure(err)
	}
	return (*Body)(body), nil
}

func failure(err *C.mesh_error) *Failure {
	if err == nil {
		return &Failure{Name: "internal", Message: "libmesh failed without saying why"}
	}
	defer C.mesh_error_free(err)
	told := &Failure{}
	if json.Unmarshal([]byte(text(C.mesh_error_json(err))), told) != nil {
		told.Code, told.Flags = int32(C.mesh_error_code(err)), uint32(C.mesh_error_flags(err))
		told.Name, told.Message = text(C.mesh_error_name(err)), text(C.mesh_error_message(err))
	}
	return told
}

func text(s C.mesh_str) string { return string(view(unsafe.Pointer(s.ptr), s.len)) }

func copied(b C.mesh_bytes) []byte { return append([]byte(nil), view(unsafe.Pointer(b.ptr), b.len)...) }

func taken(buf *C.mesh_buf) []byte {
	defer C.mesh_buf_free(buf)
	return copied(C.mesh_buf_bytes(buf))
}

// view is C memory as a slice; it lives as long as the handle it came from.
func view(at unsafe.Pointer, length C.size_t) []byte {
	if at == nil || length == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(at), int(length))
}

func first(b []byte) *C.uint8_t { return (*C.uint8_t)(unsafe.SliceData(b)) }
