package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// transport is the client side as net/http wants it. It may be used by many goroutines.
type transport struct{ mesh *Mesh }

// Transport sends requests through the mesh. The host of the URL is a service of the configuration; the
// scheme does not matter, because whether a connection speaks TLS is the configuration's to say.
//
// Redirects and cookies are the http.Client's. Retries are the mesh's.
func (m *Mesh) Transport() http.RoundTripper { return &transport{mesh: m} }

// Client is an http.Client with that transport. It follows no redirects: between services they are
// answers like any other.
func (m *Mesh) Client() *http.Client {
	return &http.Client{
		Transport:     m.Transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	up := newUpload(req)
	resp, err := t.roundTrip(req, up)
	if err != nil {
		up.stop()
		return nil, err
	}
	return resp, nil
}

func (t *transport) roundTrip(req *http.Request, up *upload) (*http.Response, error) {
	ctx := req.Context()
	if ctx.Err() != nil {
		return nil, contextError(ctx, false)
	}
	call, err := newCall(req, up)
	if err != nil {
		return nil, err
	}
	queue, err := t.mesh.started()
	if err != nil {
		return nil, err
	}
	op := queue.begin()
	if err := up.send(op, call, inboundOf(ctx)); err != nil {
		return nil, err
	}
	event, err := op.wait(ctx, req.Cancel)
	if err != nil {
		return nil, err
	}
	if event.Failure != nil {
		return nil, callError(ctx, event.Failure, up)
	}
	return response(req, event, newDownload(queue, ctx, event.Response, responseEnd(event.Response, up))), nil
}

// newCall packs a request; req is not changed.
func newCall(req *http.Request, up *upload) (*native.Call, error) {
	target, err := target(req)
	if err != nil {
		return nil, err
	}
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	ctx := req.Context()
	call := &native.Call{Method: len(method), Target: len(target), Idempotent: idempotence(ctx), Stream: native.NoStream}
	if ctx.Value(detachedKey) == true {
		call.Detached = 1
	}
	call.Timeout = -1
	if deadline, ok := ctx.Deadline(); ok {
		call.Timeout = int64(max(time.Until(deadline), 0))
	}
	block := make([]byte, 0, 512) // bytes; a usual request with a traceparent and a few headers fits
	block = append(append(block, method...), target...)
	block = packFields(block, requestFields(req))
	call.Heads = len(block) - len(method) - len(target)
	if call.Block, err = up.inline(block); err != nil {
		return nil, err
	}
	if up.streams() {
		call.Stream = up.length
	}
	return call, nil
}

func target(req *http.Request) (string, error) {
	u := req.URL
	switch {
	case u == nil:
		return "", errors.New("mesh: the request has no URL")
	case req.Header == nil:
		return "", errors.New("mesh: the request has no Header map")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("mesh: unsupported scheme %q", u.Scheme)
	case u.Host == "":
		return "", errors.New("mesh: no host in the URL of the request")
	}
	path := u.RequestURI()
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("mesh: the URL has no path but %q", path)
	}
	return u.Scheme + "://" + u.Host + path, nil
}

func requestFields(req *http.Request) []field {
	fields := fieldsOf(req.Header, notSent)
	if len(req.Trailer) > 0 {
		names := make([]string, 0, len(req.Trailer))
		for name := range req.Trailer {
			names = append(names, name)
		}
		fields = append(fields, field{"Trailer", strings.Join(names, ",")})
	}
	return fields
}

// notSent are header fields that net/http takes from elsewhere in the request, and so do we.
var notSent = map[string]bool{"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true}

// callError tells why a call failed. A body of the request that could not be read is the reason before
// any other, and so is the end of the context.
func callError(ctx context.Context, failed *native.Failure, up *upload) error {
	e := fromNative(failed)
	if err := up.failure(); err != nil {
		e.cause = err
	} else if ctx.Err() != nil && (e.cancelled || e.timeout) {
		e.cause = context.Cause(ctx)
	}
	return e
}

func response(req *http.Request, event *native.Event, body *download) *http.Response {
	status := int(event.Number)
	header := unpack(event.Headers)
	resp := &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: contentLength(header), Request: req,
		Trailer: announced(header), Body: body,
	}
	if report, ok := req.Context().Value(reportKey).(*Report); ok {
		*report = Report(event.Info)
	}
	body.trailer = func(trailer http.Header) {
		if len(trailer) > 0 {
			resp.Trailer = trailer
		}
	}
	body.expect(resp.ContentLength, resp.Trailer)
	empty := resp.ContentLength == 0 && len(resp.Trailer) == 0
	if empty || req.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified {
		_ = body.Close()
		resp.Body = http.NoBody
		if req.Method != http.MethodHead {
			resp.ContentLength = 0
		}
	}
	return resp
}

// contentLength is -1 when unknown.
func contentLength(header http.Header) int64 {
	length, err := strconv.ParseUint(strings.TrimSpace(header.Get("Content-Length")), 10, 63)
	if err != nil {
		return -1
	}
	return int64(length)
}

// announced are the trailers to come, without values, taken out of the header as net/http does.
func announced(header http.Header) http.Header {
	names := header["Trailer"]
	if len(names) == 0 {
		return nil
	}
	delete(header, "Trailer")
	trailer := http.Header{}
	for _, list := range names {
		for name := range strings.SplitSeq(list, ",") {
			trailer[http.CanonicalHeaderKey(strings.TrimSpace(name))] = nil
		}
	}
	return trailer
}
