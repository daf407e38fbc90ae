package mesh

import (
	"net/http"
	"strconv"
	"strings"
	"sync"

	"libmesh.dev/mesh/internal/native"
)

// responseWriter is the answer to one request. A small answer leaves in one call; one that is flushed or
// grows is streamed, and writing waits while the peer is behind.
type responseWriter struct {
	mesh   *Mesh
	in     *inbound
	method string
	header http.Header

	mu       sync.Mutex // a handler that lets its writer escape must not crash the process
	status   int        // 0: no head yet
	fields   []field    // the header when it was written
	trailers []string   // names announced then
	length   int64      // declared; -1: not
	written  int64
	buffer   []byte
	stream   *bodyWriter
	err      error // what Write says from now on
}

func newResponseWriter(m *Mesh, in *inbound, req *http.Request) *responseWriter {
	return &responseWriter{mesh: m, in: in, method: req.Method, header: http.Header{}, length: -1}
}

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Informational statuses are left out.
func (w *responseWriter) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(status)
}

func (w *responseWriter) writeHeader(status int) {
	if w.status != 0 || w.err != nil || status >= 100 && status <= 199 {
		return
	}
	if status < 100 || status > 999 {
		panic("mesh: invalid status " + strconv.Itoa(status))
	}
	w.status = status
	w.length = contentLength(w.header)
	for _, list := range w.header["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			w.trailers = append(w.trailers, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	skip := map[string]bool{"Content-Length": true, "Transfer-Encoding": true}
	for _, name := range w.trailers {
		skip[name] = true
	}
	w.fields = fieldsOf(w.header, skip)
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(http.StatusOK)
	if w.err != nil {
		return 0, w.err
	}
	if !w.bodyAllowed() {
		return 0, http.ErrBodyNotAllowed
	}
	w.written += int64(len(p))
	if w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength
	}
	if w.method == http.MethodHead {
		return len(p), nil
	}
	if w.stream == nil && len(w.buffer)+len(p) <= bufferLimit {
		w.buffer = append(w.buffer, p...)
		return len(p), nil
	}
	if w.flush(p); w.err == nil && len(p) > 0 {
		w.send(p)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// Flush implements http.Flusher.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *responseWriter) FlushError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(http.StatusOK)
	if w.err == nil && w.method != http.MethodHead && w.bodyAllowed() {
		w.flush(nil)
	}
	return w.err
}

// EnableFullDuplex implements http.ResponseController: it always is.
func (w *responseWriter) EnableFullDuplex() error { return nil }

// flush sends the head and what is buffered; next is what comes after it.
func (w *responseWriter) flush(next []byte) {
	if w.stream == nil {
		w.begin(next)
	}
	if w.err == nil && len(w.buffer) > 0 {
		w.send(w.buffer)
		w.buffer = nil
	}
}

func (w *responseWriter) begin(next []byte) {
	if len(w.buffer) > 0 {
		next = w.buffer
	}
	w.sniff(next)
	body, failed := w.in.native.RespondStream(w.status, packFields(nil, w.fields), w.length)
	if failed != nil {
		w.fail(failed)
		return
	}
	w.stream = &bodyWriter{queue: w.mesh.queue, body: body}
}

// send writes in chunks; each is copied, and waits until there is room for it.
func (w *responseWriter) send(p []byte) {
	for len(p) > 0 && w.err == nil {
		n := min(len(p), inlineLimit)
		if err := w.stream.write(p[:n]); err != nil {
			w.err = err
			w.in.cancel() // the peer is gone
		}
		p = p[n:]
	}
}

// finish completes the answer, after the handler returned.
func (w *responseWriter) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(http.StatusOK)
	if w.err == nil && w.method != http.MethodHead && w.bodyAllowed() && w.written < w.length {
		w.flush(nil) // it promised more: the peer must not take this for the whole
		w.breakOff()
	}
	trailer := w.trailer()
	if w.err == nil && w.stream == nil && len(trailer) > 0 && w.bodyAllowed() {
		w.flush(nil)
	}
	switch {
	case w.stream != nil && w.err != nil:
		w.breakOff()
	case w.stream != nil:
		_ = w.stream.end(trailer)
		w.stream = nil
	case w.err == nil:
		w.answer()
	}
	w.over()
}

// answer sends head and body in one go.
func (w *responseWriter) answer() {
	w.sniff(w.buffer)
	fields := w.fields
	if length := max(w.length, w.written); w.method == http.MethodHead && length > 0 {
		fields = append(fields, field{"Content-Length", strconv.FormatInt(length, 10)})
	}
	head := packFields(nil, fields)
	if failed := w.in.native.Respond(w.status, append(head, w.buffer...), len(head)); failed != nil {
		w.fail(failed)
	}
}

// abort breaks the answer off; without a head yet, the peer gets a 500.
func (w *responseWriter) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breakOff()
	w.over()
}

func (w *responseWriter) breakOff() {
	if w.stream != nil {
		w.stream.abort()
		w.stream = nil
	}
	w.over()
}

// over makes every later use fail.
func (w *responseWriter) over() {
	if w.err == nil {
		w.err = http.ErrHandlerTimeout
	}
}

func (w *responseWriter) fail(failed *native.Failure) {
	w.err = fromNative(failed)
	if failed.Code == native.CodeCancelled {
		w.in.cancel()
	}
}

func (w *responseWriter) trailer() http.Header {
	trailer := http.Header{}
	for _, name := range w.trailers {
		if values := w.header[name]; len(values) > 0 {
			trailer[name] = values
		}
	}
	for name, values := range w.header {
		if bare, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			trailer[bare] = values
		}
	}
	return trailer
}

// sniff names the type of the body as net/http does, when the handler did not.
func (w *responseWriter) sniff(start []byte) {
	if len(start) == 0 {
		return
	}
	for _, name := range []string{"Content-Type", "Content-Encoding"} {
		if _, set := w.header[name]; set {
			return
		}
	}
	w.fields = append(w.fields, field{"Content-Type", http.DetectContentType(start)})
}

func (w *responseWriter) bodyAllowed() bool {
	return w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// bufferLimit is how much of an answer waits for its end before it is streamed.
const bufferLimit = 32 << 10 // bytes
