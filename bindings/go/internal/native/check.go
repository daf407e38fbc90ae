package native

// #include <stdlib.h>
// #include "shim.h"
import "C"

import "unsafe"

// Check is what the mesh asks of each request that the program's own server receives: C memory.
type Check C.mesh_inbound_check

// Wanted is a request that goes on once its body is there: C memory.
type Wanted C.mesh_body_wanted

// What is said of a body: that what was handed over is all of it, or that the caller waits no longer for more.
const (
	WholeBody = C.MESH_RECEIVED_WHOLE_BODY
	Late      = C.MESH_RECEIVED_LATE
)

// Received is a request of the program's own server.
type Received struct {
	Tag         uint64
	HTTPVersion uint32 // 10, 11 or 20
	Flags       uint32
	// Block is method, target, authority, packed headers, body, remote and local address, certificates and server
	// name in a row; Lengths are theirs.
	Block   []byte
	Lengths [9]int
}

// OpenCheck is the listener of that name as a check.
func (m *Mesh) OpenCheck(name string) (*Check, *Failure) {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	var check *C.mesh_inbound_check
	var err *C.mesh_error
	if C.mesh_inbound_check_open((*C.mesh)(m), C.mesh_strz(text), &check, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return (*Check)(check), nil
}

// Free frees the check; its requests go on.
func (c *Check) Free() { C.mesh_inbound_check_free((*C.mesh_inbound_check)(c)) }

// Begin admits a request, answers it or asks for its body, as the event tells; nil: the event arrives on the queue.
func (c *Check) Begin(q *Queue, r *Received) (*Event, *Failure) {
	l := r.Lengths
	received := C.go_received{
		check: (*C.mesh_inbound_check)(c), cq: (*C.mesh_cq)(q), tag: C.uint64_t(r.Tag),
		method_len: C.size_t(l[0]), target_len: C.size_t(l[1]), authority_len: C.size_t(l[2]), headers_len: C.size_t(l[3]),
		body_len: C.size_t(l[4]), remote_len: C.size_t(l[5]), local_len: C.size_t(l[6]), certificates_len: C.size_t(l[7]),
		name_len: C.size_t(l[8]), flags: C.uint32_t(r.Flags), http_version: C.uint32_t(r.HTTPVersion),
	}
	var outcome C.go_event
	var err *C.mesh_error
	if C.go_begin(&received, first(r.Block), &outcome, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return settled(&outcome), nil
}

// Give goes on with a body, as Begin does.
func (w *Wanted) Give(q *Queue, tag uint64, body []byte, flags uint32) (*Event, *Failure) {
	var outcome C.go_event
	var err *C.mesh_error
	code := C.go_give((*C.mesh_body_wanted)(w), first(body), C.size_t(len(body)), C.uint32_t(flags), (*C.mesh_cq)(q),
		C.uint64_t(tag), &outcome, &err)
	if code != C.MESH_OK {
		return nil, failure(err)
	}
	return settled(&outcome), nil
}

// Free frees it; a request that did not go on was given up.
func (w *Wanted) Free() { C.mesh_body_wanted_free((*C.mesh_body_wanted)(w)) }

func settled(outcome *C.go_event) *Event {
	if outcome.event.kind == 0 {
		return nil
	}
	return event(outcome)
}

// Head tells the head of the program's answer; returns its headers, packed, as they are to be sent.
func (i *Inbound) Head(status int, headers []byte) ([]byte, *Failure) {
	var head *C.mesh_response
	var packed C.mesh_bytes
	var err *C.mesh_error
	code := C.go_head((*C.mesh_inbound)(i), C.uint16_t(status), first(headers), C.size_t(len(headers)), &head, &packed, &err)
	if code != C.MESH_OK {
		return nil, failure(err)
	}
	defer C.mesh_response_free(head)
	return copied(packed), nil
}

// End says that the answer was sent; returns its trailers, packed, as they are to be sent.
func (i *Inbound) End(requestBytes, responseBytes int64, trailers []byte) ([]byte, *Failure) {
	var sent *C.mesh_buf
	var err *C.mesh_error
	code := C.go_finish((*C.mesh_inbound)(i), C.uint64_t(requestBytes), C.uint64_t(responseBytes), first(trailers),
		C.size_t(len(trailers)), &sent, &err)
	if code != C.MESH_OK {
		return nil, failure(err)
	}
	if sent == nil {
		return nil, nil
	}
	return taken(sent), nil
}

// Fail says that the answer broke off.
func (i *Inbound) Fail(requestBytes, responseBytes int64, reason string) {
	text := C.CString(reason)
	defer C.free(unsafe.Pointer(text))
	C.mesh_inbound_fail((*C.mesh_inbound)(i), C.uint64_t(requestBytes), C.uint64_t(responseBytes), C.mesh_strz(text), nil)
}
