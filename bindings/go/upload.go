package mesh

import (
	"fmt"
	"io"
	"net/http"
	"sync"

	"libmesh.dev/mesh/internal/native"
)

// upload is the body of a request on its way out. Invariant: the body is closed exactly once, on every
// path, and nothing reads it after that was asked for.
type upload struct {
	body    io.ReadCloser
	length  int64 // -1: unknown
	trailer http.Header
	known   bool // the length, and that reading does not block: net/http made the body from memory

	stopped chan struct{}
	once    sync.Once
	inlined bool

	mu  sync.Mutex
	err error // why the body could not be read
}

func newUpload(req *http.Request) *upload {
	u := &upload{body: req.Body, length: req.ContentLength, trailer: req.Trailer, stopped: make(chan struct{})}
	if u.body == nil || u.body == http.NoBody {
		u.length, u.inlined = 0, len(req.Trailer) == 0
		if u.body == nil {
			u.body = http.NoBody
		}
		return u
	}
	if u.length == 0 {
		u.length = -1 // net/http: 0 with a body means unknown
	}
	u.known = req.GetBody != nil && u.length > 0 && len(req.Trailer) == 0
	return u
}

// inline appends a small body that is in memory already; such a request can be sent again.
func (u *upload) inline(block []byte) ([]byte, error) {
	if !u.known || u.length > memoryLimit {
		return block, nil
	}
	u.inlined = true
	head := len(block)
	block = append(block, make([]byte, u.length)...)
	if _, err := io.ReadFull(u.body, block[head:]); err != nil {
		return nil, fmt.Errorf("mesh: the body is shorter than ContentLength %d: %w", u.length, err)
	}
	if n, _ := u.body.Read(make([]byte, 1)); n > 0 {
		return nil, fmt.Errorf("mesh: the body is longer than ContentLength %d", u.length)
	}
	u.stop()
	return block, nil
}

func (u *upload) streams() bool { return !u.inlined }

// send submits the call and begins to send the body.
func (u *upload) send(o *op, call *native.Call, parent *inbound) error {
	call.Tag = o.tag
	if parent != nil && parent.acquire() {
		defer parent.release()
		call.Parent = parent.native
	}
	var body *native.Body
	err := o.submit(func(mesh *native.Mesh, queue *native.Queue) (failed *native.Failure) {
		body, failed = queue.Submit(mesh, call)
		return failed
	})
	if err == nil && body != nil {
		go u.run(o.q, body)
	}
	return err
}

// run sends the body, chunk by chunk, as fast as the other side reads it.
func (u *upload) run(q *queue, body *native.Body) {
	defer u.stop()
	w := &bodyWriter{queue: q, body: body, stop: u.stopped}
	chunk := chunks.Get().(*[]byte)
	defer chunks.Put(chunk)
	var total int64
	for {
		n, err := u.body.Read(*chunk)
		total += int64(n)
		if u.length >= 0 && total > u.length {
			err = fmt.Errorf("mesh: the body is longer than ContentLength %d", u.length)
		} else if n > 0 && w.write((*chunk)[:n]) != nil {
			w.abort() // nobody wants it any more; the call says why
			return
		}
		if err == io.EOF && total < u.length {
			err = fmt.Errorf("mesh: the body has %d bytes of ContentLength %d: %w", total, u.length, io.ErrUnexpectedEOF)
		}
		switch err {
		case nil:
		case io.EOF:
			_ = w.end(u.trailer)
			return
		default:
			u.fail(err)
			w.abort()
			return
		}
	}
}

// stop ends the sending and closes the body.
func (u *upload) stop() {
	u.once.Do(func() {
		close(u.stopped)
		_ = u.body.Close()
	})
}

func (u *upload) fail(err error) {
	select {
	case <-u.stopped: // closed under the reader: no failure of the body
		return
	default:
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// bodyWriter writes a body that is streamed: of a request, or of an answer. One goroutine at a time.
type bodyWriter struct {
	queue *queue
	body  *native.Body // nil: ended
	stop  <-chan struct{}
}

// write waits while the other side is behind.
func (w *bodyWriter) write(chunk []byte) error {
	op := w.queue.begin()
	err := op.submit(func(_ *native.Mesh, queue *native.Queue) *native.Failure {
		return queue.Write(w.body, op.tag, chunk)
	})
	if err != nil {
		return err
	}
	event, err := op.wait(background, w.stop)
	if err != nil {
		return err
	}
	return asError(event.Failure)
}

// end ends the body as complete.
func (w *bodyWriter) end(trailer http.Header) error {
	m := w.queue.mesh
	if !m.enter() {
		w.abort()
		return closedError()
	}
	failed := w.queue.native.End(w.body, packFields(nil, fieldsOf(trailer, nil)))
	m.leave()
	if failed != nil {
		w.abort()
		return fromNative(failed)
	}
	w.body = nil
	return nil
}

// abort breaks the body off.
func (w *bodyWriter) abort() {
	w.body.Free()
	w.body = nil
}

var chunks = sync.Pool{New: func() any { chunk := make([]byte, chunkSize); return &chunk }}

const (
	chunkSize   = 32 << 10 // bytes, as io.Copy
	inlineLimit = 64 << 10 // bytes; one chunk of a stream
	// A body that is in memory is handed over whole up to this many bytes, so that it can be sent again; the
	// engine keeps only the first 64 KiB of a stream.
	memoryLimit = 1 << 20
)
