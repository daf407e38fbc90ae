package mesh

import (
	"context"
	"log"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// Server answers the requests of one listener of the configuration. Connections, mTLS and policy are the
// mesh's; a request that the handler sees has passed all of it.
type Server struct {
	mesh     *Mesh
	handler  http.Handler
	listener *native.Listener
	address  string
	base     context.Context
	cancel   context.CancelFunc

	mu     sync.Mutex
	active map[int64]*inbound // by id, until answered
	closed bool
}

// Listen opens the listener of that name and has handler (http.DefaultServeMux when nil) answer its
// requests, each on its own goroutine. It returns when the listener is open.
func (m *Mesh) Listen(name string, handler http.Handler) (*Server, error) {
	if handler == nil {
		handler = http.DefaultServeMux
	}
	return m.listen(name, handler)
}

// Forward opens the listener of that name as an ingress: its requests are routed by the configuration and
// no code of the program is involved.
func (m *Mesh) Forward(name string) (*Server, error) { return m.listen(name, nil) }

func (m *Mesh) listen(name string, handler http.Handler) (*Server, error) {
	queue, err := m.started()
	if err != nil {
		return nil, err
	}
	s := &Server{mesh: m, handler: handler, active: map[int64]*inbound{}}
	s.base, s.cancel = context.WithCancel(context.WithValue(background, meshServerKey{}, s))
	m.mu.Lock()
	m.listeners++
	tag := m.listeners
	m.servers[tag] = s // before the first request can arrive
	m.mu.Unlock()
	if err := s.open(name, queue, tag); err != nil {
		m.mu.Lock()
		delete(m.servers, tag)
		m.mu.Unlock()
		s.cancel()
		return nil, err
	}
	return s, nil
}

func (s *Server) open(name string, queue *queue, tag uint64) error {
	m := s.mesh
	if !m.enter() {
		return closedError()
	}
	defer m.leave()
	from := queue.native
	if s.handler == nil {
		from = nil
	}
	listener, failed := m.native.Listen(name, from, tag)
	if failed != nil {
		return fromNative(failed)
	}
	s.listener, s.address = listener, listener.Address()
	return nil
}

// Addr is where it listens, such as 127.0.0.1:9080.
func (s *Server) Addr() string { return s.address }

// Port is the port of Addr.
func (s *Server) Port() int {
	_, text, _ := net.SplitHostPort(s.address)
	port, _ := strconv.Atoi(text)
	return port
}

// Wait returns when the listener is closed: after Shutdown, or Drain or Close of the mesh.
func (s *Server) Wait() {
	if s.mesh.enter() {
		defer s.mesh.leave()
		s.listener.Wait()
	}
}

// Shutdown lets what is in flight finish and closes the listener. Listeners of a mesh drain together, so
// this is Drain of its mesh.
func (s *Server) Shutdown(ctx context.Context) error { return s.mesh.Drain(ctx) }

// Close cancels the context of every request in flight and refuses new ones with 503. The port closes
// with Drain or Close of the mesh.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	return nil
}

// arrive takes the events of listeners, on the reader's goroutine.
func (m *Mesh) arrive(event *native.Event) {
	m.mu.Lock()
	s := m.servers[event.Tag]
	m.mu.Unlock()
	switch {
	case event.Kind == native.InboundGone:
		if s != nil {
			s.gone(event.Number)
		}
	case s == nil || !s.accept(event):
		_ = event.Inbound.Respond(http.StatusServiceUnavailable, nil, 0)
		event.Discard()
	}
}

func (s *Server) accept(event *native.Event) bool {
	ctx, cancel := context.WithCancel(s.base)
	in := &inbound{native: event.Inbound, refs: 1, facts: event.Facts, cancel: cancel}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		cancel()
		return false
	}
	s.active[event.Number] = in
	s.mu.Unlock()
	go s.serve(ctx, event, in)
	return true
}

func (s *Server) gone(id int64) {
	s.mu.Lock()
	in := s.active[id]
	s.mu.Unlock()
	if in != nil {
		in.cancel()
	}
}

// serve is one request from arrival to answer.
func (s *Server) serve(ctx context.Context, event *native.Event, in *inbound) {
	defer in.release()
	defer in.cancel()
	defer func() {
		s.mu.Lock()
		delete(s.active, event.Number)
		s.mu.Unlock()
	}()
	if in.facts.Remaining >= 0 {
		var late context.CancelFunc
		ctx, late = context.WithTimeout(ctx, time.Duration(in.facts.Remaining))
		defer late()
	}
	req, body, err := s.request(ctx, event, in)
	if err != nil {
		_ = in.native.Respond(http.StatusBadRequest, nil, 0)
		return
	}
	defer body.Close()
	w := newResponseWriter(s.mesh, in, req)
	defer w.finish()
	defer func() {
		if cause := recover(); cause != nil {
			w.abort()
			if cause != http.ErrAbortHandler {
				log.Printf("mesh: panic serving %s: %v\n%s", in.facts.Remote, cause, debug.Stack())
			}
		}
	}()
	s.handler.ServeHTTP(w, req)
}

func (s *Server) request(ctx context.Context, event *native.Event, in *inbound) (*http.Request, *download, error) {
	target, err := url.ParseRequestURI(in.facts.Path)
	if err != nil {
		return nil, nil, err
	}
	ctx = context.WithValue(ctx, inboundKey, in)
	if local, err := net.ResolveTCPAddr("tcp", in.facts.Local); err == nil {
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, local)
	}
	header := unpack(event.Headers)
	delete(header, "Host")
	body := newDownload(s.mesh.queue, ctx, event.Inbound, func() {})
	req := &http.Request{
		Method: in.facts.Method, URL: target, RequestURI: in.facts.Path, Host: in.facts.Authority,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: contentLength(header), Trailer: announced(header),
		RemoteAddr: in.facts.Remote, Body: body,
	}
	if req.ContentLength < 0 && header["Transfer-Encoding"] == nil && usuallyEmpty[req.Method] {
		req.ContentLength = 0
	}
	if te := header["Transfer-Encoding"]; te != nil {
		req.TransferEncoding = te
		delete(header, "Transfer-Encoding")
	}
	body.expect(contentLength(header), req.Trailer)
	req = req.WithContext(ctx)
	body.trailer = func(trailer http.Header) {
		if len(trailer) > 0 {
			req.Trailer = trailer
		}
	}
	return req, body, nil
}

// usuallyEmpty are methods whose requests have no body unless they say so.
var usuallyEmpty = map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "DELETE": true, "TRACE": true}

type meshServerKey struct{}

// inbound is a request that arrived. Its handle lives until the handler has ended and no call that
// continues its trace is being submitted.
type inbound struct {
	facts  native.Facts
	cancel context.CancelFunc

	mu     sync.Mutex
	native *native.Inbound
	refs   int
}

// acquire keeps the handle until release, unless it is gone.
func (in *inbound) acquire() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.refs == 0 {
		return false
	}
	in.refs++
	return true
}

func (in *inbound) release() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.refs--; in.refs == 0 {
		in.native.Free()
		in.native = nil
	}
}
