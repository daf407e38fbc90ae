package native

// #include <stdlib.h>
// #include "shim.h"
import "C"

import "unsafe"

// Call is a request to submit.
type Call struct {
	Parent     *Inbound // nil: none
	Tag        uint64
	Timeout    int64 // nanoseconds; negative: none
	Stream     int64 // NoStream, or the size of a streamed body, -1 for unknown
	Idempotent int32 // 1, 0, or -1 for what the method says
	Detached   int32 // 1: the deadline of the parent is not inherited
	// Block is method, target, packed headers and body in a row; the numbers are their lengths.
	Block                 []byte
	Method, Target, Heads int
}

// NoStream says that a body is part of the block.
const NoStream = C.GO_NO_STREAM

// Submit sends a request; it completes with a Done event. Returns the writing end of a streamed body.
func (q *Queue) Submit(mesh *Mesh, c *Call) (*Body, *Failure) {
	call := C.go_call{
		mesh: (*C.mesh)(mesh), cq: (*C.mesh_cq)(q), parent: (*C.mesh_inbound)(c.Parent),
		tag: C.uint64_t(c.Tag), timeout_ns: C.int64_t(c.Timeout), stream_length: C.int64_t(c.Stream),
		method_len: C.size_t(c.Method), target_len: C.size_t(c.Target), headers_len: C.size_t(c.Heads),
		body_len:   C.size_t(len(c.Block) - c.Method - c.Target - c.Heads),
		idempotent: C.int32_t(c.Idempotent),
		detached:   C.int32_t(c.Detached),
	}
	var body *C.mesh_body
	var err *C.mesh_error
	if C.go_submit(&call, first(c.Block), &body, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return (*Body)(body), nil
}

// Ask asks for the next chunk and frees the one before it, if any; completes with a Chunk event.
func (r *Response) Ask(q *Queue, tag uint64, used *Buf) *Failure {
	return q.read(C.MESH_OP_READ, unsafe.Pointer(r), tag, used)
}

// Ask asks for the next chunk and frees the one before it, if any; completes with a Chunk event.
func (i *Inbound) Ask(q *Queue, tag uint64, used *Buf) *Failure {
	return q.read(C.MESH_OP_INBOUND_READ, unsafe.Pointer(i), tag, used)
}

func (q *Queue) read(kind C.int32_t, handle unsafe.Pointer, tag uint64, used *Buf) *Failure {
	var err *C.mesh_error
	if C.go_read((*C.mesh_cq)(q), kind, handle, C.uint64_t(tag), (*C.mesh_buf)(used), &err) != C.MESH_OK {
		return failure(err)
	}
	return nil
}

// Write copies data into a body; completes with a Written event.
func (q *Queue) Write(b *Body, tag uint64, data []byte) *Failure {
	var err *C.mesh_error
	code := C.go_write((*C.mesh_cq)(q), (*C.mesh_body)(b), C.uint64_t(tag), first(data), C.size_t(len(data)), &err)
	if code != C.MESH_OK {
		return failure(err)
	}
	return nil
}

// End ends a body with packed trailers. On success the handle is gone.
func (q *Queue) End(b *Body, trailers []byte) *Failure {
	var err *C.mesh_error
	if C.go_end((*C.mesh_cq)(q), (*C.mesh_body)(b), first(trailers), C.size_t(len(trailers)), &err) != C.MESH_OK {
		return failure(err)
	}
	return nil
}

// Cancel cancels the operation with this tag, if it is in flight.
func (q *Queue) Cancel(tag uint64) { C.go_cancel((*C.mesh_cq)(q), C.uint64_t(tag)) }

// Event is a completion or an arrival. What it holds is the receiver's.
type Event struct {
	Kind     int
	Tag      uint64
	Failure  *Failure // nil: it went well
	Response *Response
	Buf      *Buf
	Inbound  *Inbound
	Wanted   *Wanted
	Data     []byte // bytes of Buf or Response: C memory, gone when it is freed
	End      bool
	Number   int64 // status, id of an inbound request, or bytes that are wanted
	Headers  []byte
	Trailers []byte
	Info     Info
	Facts    Facts
}

// Kinds of events.
const (
	Done        = C.MESH_EV_DONE
	Chunk       = C.MESH_EV_CHUNK
	Written     = C.MESH_EV_WRITTEN
	Arrived     = C.MESH_EV_INBOUND
	InboundGone = C.MESH_EV_INBOUND_GONE
	Admitted    = C.MESH_EV_ADMITTED
	Answered    = C.MESH_EV_ANSWERED
	BodyWanted  = C.MESH_EV_BODY_WANTED
)

// Info is how a call went.
type Info struct {
	Attempts                         int
	Revision                         uint64
	Route, Cluster, Endpoint, PeerID string
}

// Facts are what an inbound request is.
type Facts struct {
	Method, Path, Authority, PeerID, Claims, TraceID, Remote, Local string
	Remaining                                                       int64 // nanoseconds; negative: no deadline
}

// Batch is where events are received: C memory, for one reader.
type Batch struct {
	scratch *C.mesh_event
	events  *C.go_event
}

// NewBatch allocates.
func NewBatch() *Batch {
	return &Batch{
		scratch: (*C.mesh_event)(C.calloc(C.GO_BATCH, C.sizeof_mesh_event)),
		events:  (*C.go_event)(C.calloc(C.GO_BATCH, C.sizeof_go_event)),
	}
}

// Free frees.
func (b *Batch) Free() {
	C.free(unsafe.Pointer(b.scratch))
	C.free(unsafe.Pointer(b.events))
}

// Take gives each event that waits, up to a batch, to sink and tells how many there were.
func (q *Queue) Take(b *Batch, sink func(*Event)) (int, *Failure) {
	var count C.size_t
	var err *C.mesh_error
	if C.go_take((*C.mesh_cq)(q), b.scratch, b.events, &count, &err) != C.MESH_OK {
		return 0, failure(err)
	}
	for i := range unsafe.Slice(b.events, int(count)) {
		sink(event(&unsafe.Slice(b.events, int(count))[i]))
	}
	return int(count), nil
}

func event(c *C.go_event) *Event {
	e := &Event{Kind: int(c.event.kind), Tag: uint64(c.event.tag), Number: int64(c.event.arg)}
	if c.event.code != C.MESH_OK {
		e.Failure = failure((*C.mesh_error)(c.event.handle))
		return e
	}
	switch c.event.kind {
	case C.MESH_EV_DONE:
		e.Response = (*Response)(c.event.handle)
		e.Headers = copied(c.headers)
		e.Info = Info{
			Attempts: int(c.info.attempts), Revision: uint64(c.info.revision), Route: text(c.info.route),
			Cluster: text(c.info.cluster), Endpoint: text(c.info.endpoint), PeerID: text(c.info.peer_id),
		}
	case C.MESH_EV_CHUNK:
		e.Buf, e.End = (*Buf)(c.event.handle), c.event.flags&C.MESH_EVF_END != 0
		e.Data = view(unsafe.Pointer(c.event.data.ptr), c.event.data.len)
	case C.MESH_EV_ANSWERED:
		e.Response = (*Response)(c.event.handle)
		e.Headers, e.Trailers = copied(c.headers), copied(c.trailers)
		e.Data = view(unsafe.Pointer(c.event.data.ptr), c.event.data.len)
	case C.MESH_EV_BODY_WANTED:
		e.Wanted, e.Facts.Remaining = (*Wanted)(c.event.handle), int64(c.remaining_ns)
	case C.MESH_EV_INBOUND, C.MESH_EV_ADMITTED:
		e.Inbound, e.Headers = (*Inbound)(c.event.handle), copied(c.headers)
		e.Facts = Facts{
			Method: text(c.method), Path: text(c.path), Authority: text(c.authority), PeerID: text(c.peer_id),
			Claims: text(c.claims), TraceID: text(c.trace_id), Remote: text(c.remote), Local: text(c.local),
			Remaining: int64(c.remaining_ns),
		}
	}
	return e
}

// Discard frees what an event holds.
func (e *Event) Discard() {
	if e.Response != nil {
		e.Response.Free()
	}
	if e.Buf != nil {
		e.Buf.Free()
	}
	if e.Inbound != nil {
		e.Inbound.Free()
	}
	if e.Wanted != nil {
		e.Wanted.Free()
	}
}
