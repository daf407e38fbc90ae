package native

/*
#cgo noescape mesh_guard_next
#cgo nocallback mesh_guard_next
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import "unsafe"

// Handles of guards. Each is C memory.
type (
	Guard     C.mesh_guard
	GuardCall C.mesh_guard_call
)

// What an attempt of a guarded function came to, and what its guard says to it.
const (
	GuardReady       = C.MESH_GUARD_READY
	GuardSuccess     = C.MESH_GUARD_SUCCESS
	GuardRejected    = C.MESH_GUARD_REJECTED
	GuardFailed      = C.MESH_GUARD_FAILED
	GuardTransient   = C.MESH_GUARD_TRANSIENT
	GuardUnprocessed = C.MESH_GUARD_UNPROCESSED
	GuardThrottled   = C.MESH_GUARD_THROTTLED
	GuardTimedOut    = C.MESH_GUARD_TIMED_OUT
	GuardIgnored     = C.MESH_GUARD_IGNORED

	GuardProceed = C.MESH_GUARD_PROCEED
	GuardWait    = C.MESH_GUARD_WAIT
	GuardStop    = C.MESH_GUARD_STOP
)

// GuardStep is what to do next.
type GuardStep struct {
	Action   int32
	Attempts int
	Time     int64 // nanoseconds; negative: no limit
}

// OpenGuard is the guard that the configuration calls name.
func (m *Mesh) OpenGuard(name string) (*Guard, *Failure) {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	var guard *C.mesh_guard
	var err *C.mesh_error
	if C.mesh_guard_open((*C.mesh)(m), C.mesh_strz(text), &guard, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return (*Guard)(guard), nil
}

// Free frees the guard; its calls go on.
func (g *Guard) Free() { C.mesh_guard_free((*C.mesh_guard)(g)) }

// Begin begins a call. idempotent is -1 for what the configuration says; timeout 0 is none; parent is the
// request being served, or nil.
func (g *Guard) Begin(idempotent int32, timeout int64, parent *Inbound) (*GuardCall, *Failure) {
	options := C.mesh_guard_options{
		struct_size: C.uint32_t(unsafe.Sizeof(C.mesh_guard_options{})),
		timeout_ns:  C.int64_t(timeout),
		parent:      (*C.mesh_inbound)(parent),
	}
	switch idempotent {
	case 1:
		options.flags = C.MESH_GUARD_IDEMPOTENT
	case 0:
		options.flags = C.MESH_GUARD_NOT_IDEMPOTENT
	}
	var call *C.mesh_guard_call
	var err *C.mesh_error
	if C.mesh_guard_begin((*C.mesh_guard)(g), &options, &call, &err) != C.MESH_OK {
		return nil, failure(err)
	}
	return (*GuardCall)(call), nil
}

// Next tells how the attempt ended, and retryAfter (nanoseconds, negative: none), and is told what to do.
func (c *GuardCall) Next(outcome int32, retryAfter int64) (GuardStep, *Failure) {
	var step C.mesh_guard_step
	var err *C.mesh_error
	if C.mesh_guard_next((*C.mesh_guard_call)(c), C.int32_t(outcome), C.int64_t(retryAfter), &step, &err) != C.MESH_OK {
		return GuardStep{}, failure(err)
	}
	return GuardStep{Action: int32(step.action), Attempts: int(step.attempts), Time: int64(step.time_ns)}, nil
}

// ReportLoad says one thing about the load of this process; NaN takes it back.
func (m *Mesh) ReportLoad(name string, value float64) *Failure {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	var err *C.mesh_error
	if C.mesh_load_report_set((*C.mesh)(m), C.mesh_strz(text), C.double(value), &err) != C.MESH_OK {
		return failure(err)
	}
	return nil
}

// GuardOutcomeOf is what an error of the mesh, by its name, means for the guard of the function that got it.
func GuardOutcomeOf(name string, notSent bool) int32 {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	flags := C.uint32_t(0)
	if notSent {
		flags = C.MESH_ERR_NOT_SENT
	}
	return int32(C.mesh_guard_outcome_of(C.mesh_strz(text), flags))
}

// End ends the call and frees it.
func (c *GuardCall) End() { C.mesh_guard_end((*C.mesh_guard_call)(c)) }
