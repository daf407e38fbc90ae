package mesh

import (
	"bufio"
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
	in    *inbound
	body  *countedBody

	wroteHead bool
	written   int64
	failed    error // the peer is gone
	isOver    bool  // finished, or hijacked
}

func newCheckedWriter(w http.ResponseWriter, in *inbound, body *countedBody) *checkedWriter {
	checked := &checkedWriter{ResponseWriter: w, in: in, body: body}
	checked.outer = checked
	if _, ok := w.(http.Hijacker); ok {
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

// tell shows the head to the engine and makes its changes. A header that is set to nil, which asks the server for
// something, and trailers stay as they are.
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
	packed, failed := w.in.native.Head(status, packFields(nil, fieldsOf(header, skip)))
	if failed != nil {
		return // a status or a header that HTTP does not know: the server says so
	}
	sent := unpack(packed)
	for name, values := range sent {
		if !slices.Equal(header[name], values) {
			header[name] = values
		}
	}
	maps.DeleteFunc(header, func(name string, values []string) bool {
		_, stays := sent[http.CanonicalHeaderKey(name)]
		return !stays && !skip[name] && len(values) > 0
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
	n, err := io.Copy(w.ResponseWriter, src)
	w.sent(n, err)
	return n, err
}

func (w *checkedWriter) sent(n int64, err error) {
	w.written += n
	if err != nil && err != http.ErrBodyNotAllowed && err != http.ErrContentLength {
		w.failed = err
	}
}

// Flush implements http.Flusher.
func (w *checkedWriter) Flush() {
	if !w.wroteHead {
		w.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
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
	if !w.wroteHead {
		_, _ = w.in.native.Head(http.StatusInternalServerError, nil)
	}
	w.in.native.Fail(w.body.read, w.written, "the handler panicked")
}

// hijackableWriter is for servers whose connections can be taken over: HTTP/1.
type hijackableWriter struct{ *checkedWriter }

// Hijack implements http.Hijacker. The request ends with the connection.
func (w *hijackableWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := w.ResponseWriter.(http.Hijacker).Hijack()
	if err != nil {
		return conn, buffer, err
	}
	w.isOver = true
	if !w.wroteHead {
		_, _ = w.in.native.Head(http.StatusSwitchingProtocols, nil)
	}
	if w.in.acquire() {
		conn = &takenConn{Conn: conn, writer: w.checkedWriter}
	}
	return conn, buffer, nil
}

// takenConn is a connection that a handler took over.
type takenConn struct {
	net.Conn
	writer *checkedWriter
	once   sync.Once
}

// Close implements net.Conn.
func (c *takenConn) Close() error {
	c.once.Do(func() {
		w := c.writer
		_, _ = w.in.native.End(w.body.read, w.written, nil)
		w.in.release()
	})
	return c.Conn.Close()
}
