package mesh

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"sync"

	"libmesh.dev/mesh/internal/native"
)

// download is a body being read: of a response, or of a request that arrived. Not reading stops the peer.
// Close may come from another goroutine than Read.
type download struct {
	queue   *queue
	ctx     context.Context
	trailer func(http.Header) // told at the end
	stop    chan struct{}     // closed by Close
	leaked  runtime.Cleanup   // for who forgets Close

	reading sync.Mutex // one Read at a time

	mu   sync.Mutex // guards the rest; never held while waiting
	held *held
	rest []byte // unread part of held.buf: C memory
	left int64  // bytes to come until the end is known without asking; negative: ask
	err  error  // what Read says from now on
}

// held is what has to be given back.
type held struct {
	source source // nil: given back
	buf    *native.Buf
	end    func()
}

func (h *held) giveBack() {
	if h.source == nil {
		return
	}
	if h.buf != nil {
		h.buf.Free()
	}
	h.source, h.buf = nil, nil
	h.end()
}

// source is the handle that the chunks come from.
type source interface {
	Ask(*native.Queue, uint64, *native.Buf) *native.Failure
	Trailers() []byte
}

func newDownload(q *queue, ctx context.Context, from source, end func()) *download {
	d := &download{queue: q, ctx: ctx, held: &held{source: from, end: end}, stop: make(chan struct{}), left: -1}
	d.leaked = runtime.AddCleanup(d, (*held).giveBack, d.held)
	return d
}

// expect says how long the body is, -1 for unknown, and which trailers follow. A body of known length
// without trailers ends with its last byte, and nobody has to ask for the end.
func (d *download) expect(length int64, trailer http.Header) {
	if len(trailer) == 0 {
		d.left = length
	}
}

// responseEnd frees a response and ends what is left of its request's body.
func responseEnd(r *native.Response, up *upload) func() {
	return func() {
		r.Free()
		up.stop()
	}
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if n, err, ready := d.buffered(p); ready {
		return n, err
	}
	event, err := d.next()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.take(event, err)
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	if n > 0 {
		return n, nil
	}
	return 0, d.err
}

// buffered reads what is here already.
func (d *download) buffered(p []byte) (int, error, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == 0 && len(d.rest) == 0 && d.err == nil {
		d.finish(io.EOF)
	}
	if d.err != nil {
		return 0, d.err, true
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil, n > 0
}

// next waits for the next chunk.
func (d *download) next() (*native.Event, error) {
	op := d.queue.begin()
	if err := d.ask(op); err != nil {
		return nil, err
	}
	return op.wait(d.ctx, d.stop)
}

func (d *download) ask(op *op) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		d.queue.end(op.tag)
		return d.err
	}
	return op.submit(func(_ *native.Mesh, queue *native.Queue) *native.Failure {
		used := d.held.buf
		d.held.buf, d.rest = nil, nil // freed by Ask, whatever comes of it
		return d.held.source.Ask(queue, op.tag, used)
	})
}

// take makes a completion the state of the body.
func (d *download) take(event *native.Event, err error) {
	switch {
	case d.err != nil: // closed meanwhile
		if event != nil {
			event.Discard()
		}
	case err != nil:
		d.finish(err)
	case event.Failure != nil:
		d.finish(d.explain(event.Failure))
	case event.End:
		if d.trailer != nil {
			d.trailer(unpack(d.held.source.Trailers()))
		}
		d.finish(io.EOF)
	default:
		d.held.buf, d.rest = event.Buf, event.Data
		if d.left >= 0 {
			d.left = max(d.left-int64(len(event.Data)), 0)
		}
	}
}

func (d *download) explain(failed *native.Failure) error {
	e := fromNative(failed)
	if d.ctx.Err() != nil {
		e.cause = context.Cause(d.ctx)
	}
	return e
}

// finish gives everything back. The lock is held.
func (d *download) finish(err error) {
	if d.err == nil {
		d.err = err
	}
	d.rest = nil
	d.leaked.Stop()
	d.held.giveBack()
}

// Close implements io.Closer. Before the end of the body it gives the connection up.
func (d *download) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.stop:
	default:
		close(d.stop)
	}
	if d.err == nil || d.err == io.EOF {
		d.finish(errBodyClosed)
		d.err = errBodyClosed
	}
	return nil
}

var (
	errBodyClosed = errors.New("mesh: read on a closed body")
	background    = context.Background()
)
