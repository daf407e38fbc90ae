package mesh

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// checkedWriter is the writer of the program's own server, which is told what the handler answers. The head passes
// through the engine; of the body only the length.
type checkedWriter struct {
	http.ResponseWriter
	outer http.ResponseWriter // what the handler gets: this, or this with Hijack
	gone  context.Context     // the server's: ends when the peer goes
	in    *inbound
	body  *countedBody

	wroteHead bool
	written   int64
	failed    error // the peer is gone
	isOver    bool  // finished, or hijacked
}

func newCheckedWriter(w http.ResponseWriter, gone context.Context, in *inbound, body *countedBody) *checkedWriter {
	checked := &checkedWriter{ResponseWriter: w, gone: gone, in: in, body: body}
	checked.outer = checked
	if canHijack(w) {
		checked.outer = &hijackableWriter{checked}
	}
	return checked
}

// WriteHeader implements http.ResponseWriter.
func (w *checkedWriter) WriteHeader(status int) {
	if status >= 100 && status <= 199 && status != http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	if w.wroteHead {
		w.ResponseWriter.WriteHeader(status) // the server says that it is superfluous
		return
	}
	w.wroteHead = true
	w.tell(status)
	w.ResponseWriter.WriteHeader(status)
}

// tell shows the head to the engine and makes its changes, in the spelling of the handler. A header that is set to nil,
// which asks the server for something, and trailers stay as they are.
func (w *checkedWriter) tell(status int) {
	header := w.Header()
	skip := map[string]bool{}
	for name := range trailersOf(header) {
		skip[name] = true
	}
	for name := range header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			skip[name] = true
		}
	}
	if !w.in.acquire() {
		return // the handler has let its writer escape
	}
	defer w.in.release()
	fields := fieldsOf(header, skip)
	packed, failed := w.in.native.Head(status, packFields(nil, fields))
	if failed != nil { // HTTP cannot carry some of it, which the server mends or leaves out
		packed, failed = w.in.native.Head(status, packFields(nil, sendable(fields)))
	}
	if failed != nil {
		return // a status that HTTP does not know: the server says so
	}
	put(header, unpack(packed), skip)
}

// put makes header what is to be sent.
func put(header, sent http.Header, skip map[string]bool) {
	spelled := map[string]string{}
	for name := range header {
		if canonical := http.CanonicalHeaderKey(name); canonical != name && !skip[name] {
			spelled[canonical] = name
		}
	}
	stays := map[string]bool{}
	for canonical, values := range sent {
		name := cmp.Or(spelled[canonical], canonical)
		stays[name] = true
		if !slices.Equal(header[name], values) {
			header[name] = values
		}
	}
	maps.DeleteFunc(header, func(name string, values []string) bool {
		return !stays[name] && !skip[name] && len(values) > 0
	})
}

// Write implements http.ResponseWriter.
func (w *checkedWriter) Write(p []byte) (int, error) {
	if !w.wroteHead {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent(int64(n), err)
	return n, err
}

// ReadFrom implements io.ReaderFrom, so that the server may send a file without copying it.
func (w *checkedWriter) ReadFrom(src io.Reader) (int64, error) {
	if !w.wroteHead {
		w.WriteHeader(http.StatusOK)
	}
	own := &copySource{Reader: src}
	if !isKernels(src) {
		src = own
	}
	n, err := io.Copy(w.ResponseWriter, src)
	if own.isToBlame(err) {
		w.sent(n, nil) // the peer is still there
	} else {
		w.sent(n, err)
	}
	return n, err
}

func (w *checkedWriter) sent(n int64, err error) {
	if w.in.facts.Method != http.MethodHead { // its body stays here
		w.written += n
	}
	if err != nil && err != http.ErrBodyNotAllowed && err != http.ErrContentLength {
		w.failed = err
	}
}

// Flush implements http.Flusher.
func (w *checkedWriter) Flush() { _ = w.FlushError() }

// FlushError is for http.ResponseController.
func (w *checkedWriter) FlushError() error {
	if !w.wroteHead {
		w.WriteHeader(http.StatusOK)
	}
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		w.failed = err
	}
	return err
}

// CloseNotify implements http.CloseNotifier, which frameworks still ask for without looking whether it is there.
func (w *checkedWriter) CloseNotify() <-chan bool {
	if notifier, ok := w.ResponseWriter.(http.CloseNotifier); ok {
		return notifier.CloseNotify()
	}
	gone := make(chan bool, 1)
	context.AfterFunc(w.gone, func() { gone <- true })
	return gone
}

// Unwrap is for http.ResponseController.
func (w *checkedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// finish is the end of the handler, and of the answer unless the connection was taken over.
func (w *checkedWriter) finish() {
	if w.isOver {
		return
	}
	if !w.wroteHead {
		w.WriteHeader(http.StatusOK)
	}
	w.isOver = true
	if w.failed != nil {
		return // given up: the handle is freed without an end
	}
	trailers := trailersOf(w.Header())
	sent, failed := w.in.native.End(w.body.read, w.written, packFields(nil, fieldsOf(trailers, nil)))
	if failed != nil || len(trailers) == 0 {
		return
	}
	for name, values := range unpack(sent) {
		if _, set := trailers[name]; !set {
			w.Header()[http.TrailerPrefix+name] = values
		}
	}
}

// abandon tells that the answer broke off, when the handler ended by a panic; the server sees that as ever.
func (w *checkedWriter) abandon() {
	if w.isOver {
		return
	}
	w.isOver = true
	if w.failed != nil {
		return // given up: that is why
	}
	w.in.native.Fail(w.body.read, w.written, "the handler panicked")
}

// hijackableWriter is for servers whose connections can be taken over: HTTP/1.
type hijackableWriter struct{ *checkedWriter }

// canHijack looks where http.ResponseController looks.
func canHijack(w http.ResponseWriter) bool {
	for {
		switch inner := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = inner.Unwrap()
		default:
			return false
		}
	}
}

// Hijack implements http.Hijacker. The request ends with the connection.
func (w *hijackableWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return conn, buffer, err
	}
	w.isOver = true
	if !w.wroteHead {
		_, _ = w.in.native.Head(http.StatusSwitchingProtocols, nil)
	}
	if w.in.acquire() {
		taken := &takenConn{Conn: conn, writer: w.checkedWriter}
		if half, ok := conn.(halfCloser); ok {
			return takenHalfCloser{taken, half}, buffer, nil
		}
		return taken, buffer, nil
	}
	return conn, buffer, nil
}

// takenConn is a connection that a handler took over.
type takenConn struct {
	net.Conn
	writer *checkedWriter
	once   sync.Once
}

// takenHalfCloser is one that can end its own half first: TCP and TLS.
type takenHalfCloser struct {
	*takenConn
	halfCloser
}

type halfCloser interface{ CloseWrite() error }

// Close implements net.Conn.
func (c *takenConn) Close() error {
	c.once.Do(func() {
		w := c.writer
		_, _ = w.in.native.End(w.body.read, w.written, nil)
		w.in.release()
	})
	return c.Conn.Close()
}
