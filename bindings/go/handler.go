package mesh

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// Handler is next behind what the listener of that name demands, for a program that keeps its own http.Server:
// access rules, end users, limits, checks, telemetry, trace and deadline, as [Mesh.Listen] has them. The listener
// needs no address. What is refused is answered without next.
//
// Next sees the request as it was judged: the path in one spelling, headers with the changes of checks. A ServeMux
// belongs inside, as next, because it routes by what it sees. PeerID, Claims and TraceID of the request's context
// work as with Listen; the identity is that of the certificate of r.TLS, verified by the mesh's own roots whatever
// the server's tls.Config says.
func (m *Mesh) Handler(listener string, next http.Handler) (http.Handler, error) {
	if next == nil {
		next = http.DefaultServeMux
	}
	if !m.enter() {
		return nil, closedError()
	}
	defer m.leave()
	m.mu.Lock()
	defer m.mu.Unlock()
	check, ok := m.checks[listener]
	if !ok {
		opened, failed := m.native.OpenCheck(listener)
		if failed != nil {
			return nil, fromNative(failed)
		}
		check, m.checks[listener] = opened, opened
	}
	return &checkedHandler{mesh: m, check: check, next: next}, nil
}

// checkedHandler decides nothing: the engine admits a request or answers it.
type checkedHandler struct {
	mesh  *Mesh
	check *native.Check // the mesh's
	next  http.Handler
}

// ServeHTTP implements http.Handler.
func (h *checkedHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(r.Context()) // the server's own stays as it is
	outcome, err := h.begin(w, r)
	if err != nil {
		status := http.StatusServiceUnavailable
		if e, ok := err.(*Error); ok && e.Kind == kindInvalid {
			status = http.StatusBadRequest
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	if outcome.Inbound == nil {
		passOn(w, outcome)
		return
	}
	in := &inbound{native: outcome.Inbound, refs: 1, facts: outcome.Facts, cancel: func() {}}
	defer in.release()
	ctx := context.WithValue(r.Context(), inboundKey, in)
	if in.facts.Remaining >= 0 {
		var late context.CancelFunc
		ctx, late = context.WithTimeout(ctx, time.Duration(in.facts.Remaining))
		defer late()
	}
	body := &countedBody{ReadCloser: r.Body}
	answer := newCheckedWriter(w, r.Context(), in, body)
	defer answer.abandon()
	if req, err := judged(r.WithContext(ctx), in, unpack(outcome.Headers), body); err == nil {
		h.next.ServeHTTP(answer.outer, req)
	} else {
		http.Error(answer.outer, http.StatusText(http.StatusBadRequest), http.StatusBadRequest)
	}
	answer.finish()
}

// begin asks the engine, and reads the body if the engine asks for it.
func (h *checkedHandler) begin(w http.ResponseWriter, r *http.Request) (*native.Event, error) {
	queue, err := h.mesh.started()
	if err != nil {
		return nil, err
	}
	received := received(r)
	ctx := r.Context()
	outcome, err := ask(ctx, queue, func(q *native.Queue, tag uint64) (*native.Event, *native.Failure) {
		received.Tag = tag
		return h.check.Begin(q, received)
	})
	if err != nil || outcome.Wanted == nil {
		return outcome, err
	}
	defer outcome.Wanted.Free()
	body, flags := beginning(w, r, outcome)
	if flags == native.Late {
		ctx = context.WithoutCancel(ctx) // net/http takes the end of the wait for the end of the connection
	}
	return ask(ctx, queue, func(q *native.Queue, tag uint64) (*native.Event, *native.Failure) {
		return outcome.Wanted.Give(q, tag, body, flags)
	})
}

// ask is one question to the engine, and the wait for the answer if there is one.
func ask(
	ctx context.Context, queue *queue, question func(*native.Queue, uint64) (*native.Event, *native.Failure),
) (*native.Event, error) {
	op := queue.begin()
	var outcome *native.Event
	err := op.submit(func(_ *native.Mesh, q *native.Queue) (failed *native.Failure) {
		outcome, failed = question(q, op.tag)
		return failed
	})
	if err != nil {
		return nil, err
	}
	if outcome != nil {
		queue.end(op.tag)
		return outcome, nil
	}
	outcome, err = op.wait(ctx, nil)
	if err == nil && outcome.Failure != nil {
		err = fromNative(outcome.Failure)
	}
	return outcome, err
}

func received(r *http.Request) *native.Received {
	target := r.RequestURI
	if target == "" { // a request that no server received: a test's
		target = r.URL.RequestURI()
	}
	fields := slices.DeleteFunc(fieldsOf(r.Header, nil), func(f field) bool {
		return strings.HasPrefix(f.name, ":") // net/http keeps :protocol there
	})
	for _, coding := range r.TransferEncoding {
		fields = append(fields, field{"Transfer-Encoding", coding})
	}
	certificates, name := peerOf(r)
	parts := [9][]byte{
		[]byte(r.Method), []byte(target), []byte(r.Host), packFields(nil, fields), nil,
		addressOf(r.RemoteAddr), localAddress(r), certificates, []byte(name),
	}
	received := &native.Received{HTTPVersion: uint32(r.ProtoMajor*10 + r.ProtoMinor)}
	if r.Body == nil || r.Body == http.NoBody {
		r.Body, received.Flags = http.NoBody, native.WholeBody
	}
	for i, part := range parts {
		received.Lengths[i] = len(part)
	}
	received.Block = bytes.Join(parts[:], nil)
	return received
}

// peerOf is what the client of a TLS connection proved, for the engine to verify.
func peerOf(r *http.Request) (certificates []byte, name string) {
	if r.TLS == nil || !r.TLS.HandshakeComplete {
		return nil, ""
	}
	for _, certificate := range r.TLS.PeerCertificates {
		certificates = append(certificates, certificate.Raw...)
	}
	return certificates, r.TLS.ServerName
}

func localAddress(r *http.Request) []byte {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return addressOf(local.String())
	}
	return nil
}

// addressOf is an address with a port, or nothing: of a Unix socket there is none. A zone names an interface of this
// host, and is no part of an address that rules know.
func addressOf(text string) []byte {
	address, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil
	}
	return []byte(netip.AddrPortFrom(address.Addr().WithZone(""), address.Port()).String())
}

// judged is the request as it was judged. A path that Go does not read is an error: the handler never sees another one
// than the rules did.
func judged(r *http.Request, in *inbound, header http.Header, body io.ReadCloser) (*http.Request, error) {
	delete(header, "Host")
	r.Host = in.facts.Authority
	delete(header, "Transfer-Encoding") // net/http has it in TransferEncoding
	r.Header = header
	if r.Body != http.NoBody {
		r.Body = body
	}
	if path := in.facts.Path; path != r.URL.RequestURI() {
		target, err := url.ParseRequestURI(path)
		if err != nil {
			return nil, err
		}
		r.URL, r.RequestURI = target, path
	}
	return r, nil
}

// passOn sends an answer of the mesh as it is.
func passOn(w http.ResponseWriter, answer *native.Event) {
	defer answer.Discard()
	header := w.Header()
	header["Content-Type"] = nil // net/http would guess one
	for name, values := range unpack(answer.Headers) {
		header[name] = values
	}
	for name, values := range unpack(answer.Trailers) {
		header[http.TrailerPrefix+name] = values
	}
	w.WriteHeader(int(answer.Number))
	_, _ = w.Write(answer.Data)
}

// kindInvalid is the engine's word for a request that HTTP does not know.
const kindInvalid Kind = "invalid_argument"

// countedBody counts what the handler read.
type countedBody struct {
	io.ReadCloser
	read int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	return n, err
}

// trailersOf are the trailers that a handler set: announced by `Trailer`, or by name with http.TrailerPrefix.
func trailersOf(header http.Header) http.Header {
	trailers := http.Header{}
	for _, list := range header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if values := header[name]; len(values) > 0 {
				trailers[name] = values
			}
		}
	}
	for name, values := range header {
		if bare, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			trailers[bare] = values
		}
	}
	return trailers
}
