package mesh

import (
	"context"
	"encoding/json"
)

type contextKey int

const (
	inboundKey contextKey = iota
	reportKey
	idempotentKey
	detachedKey
)

// PeerID is the SPIFFE ID that the sender of a request proved with its certificate, given the request's
// context; empty without mTLS. A header is never an identity.
func PeerID(ctx context.Context) string {
	if in := inboundOf(ctx); in != nil {
		return in.facts.PeerID
	}
	return ""
}

// Claims are what a verified token says of the end user a request is made for, given the request's context:
// a JSON object, to be unmarshalled into a type of the program's own; nil without a token, or where the
// listener asks for none. A token that was not verified never reaches a handler.
func Claims(ctx context.Context) json.RawMessage {
	if in := inboundOf(ctx); in != nil && in.facts.Claims != "" {
		return json.RawMessage(in.facts.Claims)
	}
	return nil
}

// TraceID is the trace a request belongs to, 32 hexadecimal digits, given the request's context.
func TraceID(ctx context.Context) string {
	if in := inboundOf(ctx); in != nil {
		return in.facts.TraceID
	}
	return ""
}

// Report tells how a call went.
type Report struct {
	Attempts int    // tries that were made
	Revision uint64 // of the configuration it ran on
	Route    string
	Cluster  string
	Endpoint string // address of the one that answered
	PeerID   string // SPIFFE ID it proved; empty without mTLS
}

// WithReport makes a call with the returned context fill in report when its response arrives.
func WithReport(ctx context.Context, report *Report) context.Context {
	return context.WithValue(ctx, reportKey, report)
}

// WithIdempotent says whether sending a request with the returned context twice does no harm. Otherwise
// the method says it: GET, HEAD, OPTIONS, TRACE, PUT and DELETE do none.
func WithIdempotent(ctx context.Context, idempotent bool) context.Context {
	return context.WithValue(ctx, idempotentKey, idempotent)
}

// WithDetached makes a call with the returned context go on when the request being served runs out of time:
// its deadline is not inherited. For what is sent and not waited for; it stays in the trace. A deadline of
// the context itself still counts.
func WithDetached(ctx context.Context) context.Context {
	return context.WithValue(ctx, detachedKey, true)
}

func inboundOf(ctx context.Context) *inbound {
	in, _ := ctx.Value(inboundKey).(*inbound)
	return in
}

// idempotence as libmesh takes it.
func idempotence(ctx context.Context) int32 {
	switch ctx.Value(idempotentKey) {
	case true:
		return 1
	case false:
		return 0
	}
	return -1
}
