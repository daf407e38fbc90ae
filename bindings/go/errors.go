package mesh

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// Kind says what went wrong, by the name that logs and metrics of every language use.
type Kind string

// Kinds a program is likely to look for; the list is not complete.
const (
	KindConfig       Kind = "config"        // the configuration was refused; nothing changed
	KindConfigIO     Kind = "config_io"     // the configuration file could not be read
	KindNoRoute      Kind = "no_route"      // no route matches the request
	KindNoEndpoint   Kind = "no_endpoint"   // the cluster has no endpoint that may be used now
	KindConnect      Kind = "connect"       // the connection could not be opened
	KindTLS          Kind = "tls"           // the handshake failed
	KindPeerIdentity Kind = "peer_identity" // the peer is not who it has to be
	KindReset        Kind = "reset"         // the peer reset the stream or the connection
	KindTimeout      Kind = "timeout"       // the whole request ran out of time
	KindCancelled    Kind = "cancelled"     // the caller ended it
	KindOverloaded   Kind = "overloaded"    // a concurrency limit is full
	KindCircuitOpen  Kind = "circuit_open"  // a breaker is open on every usable endpoint
	KindDenied       Kind = "denied"        // policy refused it
	KindDraining     Kind = "draining"      // the mesh is draining
	KindClosed       Kind = "closed"        // the mesh was closed
)

// Error is why a call or a function of this package failed. A response with status 500 is no error.
type Error struct {
	Kind    Kind
	Message string // for people; not stable
	Sent    bool   // the request, or part of it, may have been acted on
	// Retriable says that another try may succeed and is safe. The mesh has already made its own.
	Retriable  bool
	Attempts   int // tries that were made
	Route      string
	Cluster    string
	Endpoint   string        // address of the last one tried
	RetryAfter time.Duration // what the peer asked for; 0: nothing

	timeout, cancelled bool
	cause              error
}

var _ net.Error = (*Error)(nil)

func (e *Error) Error() string {
	text := "mesh: " + e.Message
	if e.Message == "" {
		text = "mesh: " + string(e.Kind)
	}
	switch {
	case e.Endpoint != "":
		text += fmt.Sprintf(" (cluster %s, endpoint %s, attempts %d)", e.Cluster, e.Endpoint, e.Attempts)
	case e.Cluster != "":
		text += fmt.Sprintf(" (cluster %s)", e.Cluster)
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Timeout tells whether time ran out.
func (e *Error) Timeout() bool { return e.timeout }

// Temporary is part of net.Error.
func (e *Error) Temporary() bool { return e.Retriable }

// Unwrap is the end of the context, or the failure of the request's own body, that caused it.
func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is find context.DeadlineExceeded and context.Canceled, also when the mesh was the one
// to notice.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.timeout
	case context.Canceled:
		return e.cancelled
	}
	return false
}

func fromNative(f *native.Failure) *Error {
	attempts, _ := strconv.Atoi(f.Details["attempts"])
	wait, _ := strconv.ParseInt(f.Details["retry_after_ms"], 10, 64)
	return &Error{
		Kind: Kind(f.Name), Message: f.Message,
		Sent:      f.Flags&native.FlagNotSent == 0,
		Retriable: f.Flags&native.FlagRetriable != 0,
		Attempts:  attempts, RetryAfter: time.Duration(wait) * time.Millisecond,
		Route: f.Details["route"], Cluster: f.Details["cluster"], Endpoint: f.Details["endpoint"],
		timeout: f.Flags&native.FlagTimeout != 0, cancelled: f.Flags&native.FlagCancelled != 0,
	}
}

// asError keeps nil an untyped nil.
func asError(f *native.Failure) error {
	if f == nil {
		return nil
	}
	return fromNative(f)
}

func closedError() *Error { return &Error{Kind: KindClosed, Message: "the mesh was closed"} }

// contextError is the end of a context as an Error. sent tells whether the call was under way.
func contextError(ctx context.Context, sent bool) *Error {
	late := ctx.Err() == context.DeadlineExceeded
	e := &Error{Kind: KindCancelled, Message: "the call was cancelled", Sent: sent, cause: context.Cause(ctx)}
	e.cancelled = !late
	if late {
		e.Kind, e.Message, e.timeout = KindTimeout, "the call ran out of time", true
	}
	return e
}
