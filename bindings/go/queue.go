package mesh

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// queue is where all work of a mesh is submitted and completes. One goroutine, woken by Go's netpoller
// when the queue's descriptor is readable, hands completions to the goroutines that wait. So no
// operating system thread waits in C, however many calls are in flight.
type queue struct {
	mesh    *Mesh
	native  *native.Queue
	file    *os.File
	arrive  func(*native.Event)
	closing atomic.Bool
	inC     chan struct{} // a place for each goroutine inside C: each holds a thread if the system is slow
	done    chan struct{} // the reader has ended

	mu    sync.Mutex
	slots []slot
	free  []uint32
}

// slot is a place in the table from tags to waiting goroutines. A tag is index and generation, a number,
// never a pointer: C keeps it for as long as it likes.
type slot struct {
	generation uint32
	waiter     chan *native.Event // nil: nobody waits any more
	taken      bool
}

// op is an operation in flight.
type op struct {
	q    *queue
	tag  uint64
	done chan *native.Event
}

func newQueue(m *Mesh, arrive func(*native.Event)) (*queue, error) {
	handle, failed := native.NewQueue(m.native)
	if failed != nil {
		return nil, fromNative(failed)
	}
	fd, err := handle.DupFD()
	if err != nil {
		handle.Free()
		return nil, err
	}
	q := &queue{mesh: m, native: handle, arrive: arrive, done: make(chan struct{}), inC: make(chan struct{}, inCLimit)}
	q.file = os.NewFile(uintptr(fd), "mesh-queue")
	go q.read()
	return q, nil
}

// begin takes a place in the table.
func (q *queue) begin() *op {
	done := make(chan *native.Event, 1)
	q.mu.Lock()
	defer q.mu.Unlock()
	var index uint32
	if last := len(q.free) - 1; last >= 0 {
		index, q.free = q.free[last], q.free[:last]
	} else {
		index = uint32(len(q.slots))
		q.slots = append(q.slots, slot{})
	}
	s := &q.slots[index]
	s.generation++
	s.waiter, s.taken = done, true
	return &op{q: q, tag: uint64(s.generation)<<32 | uint64(index), done: done}
}

// end gives the place back and tells who waited, if anyone.
func (q *queue) end(tag uint64) chan *native.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	index := uint32(tag)
	if int(index) >= len(q.slots) {
		return nil
	}
	s := &q.slots[index]
	if !s.taken || s.generation != uint32(tag>>32) {
		return nil
	}
	waiter := s.waiter
	s.waiter, s.taken = nil, false
	q.free = append(q.free, index)
	return waiter
}

// abandon makes the completion be thrown away. False: it is in the channel, or about to be.
func (q *queue) abandon(tag uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := &q.slots[uint32(tag)]
	if !s.taken || s.generation != uint32(tag>>32) {
		return false
	}
	s.waiter = nil
	return true
}

// submit runs start, which must not block, with the handles held open. On failure the op is over.
func (o *op) submit(start func(*native.Mesh, *native.Queue) *native.Failure) error {
	m := o.q.mesh
	o.q.inC <- struct{}{}
	defer func() { <-o.q.inC }()
	if !m.enter() {
		o.q.end(o.tag)
		return closedError()
	}
	failed := start(m.native, o.q.native)
	m.leave()
	if failed != nil {
		o.q.end(o.tag)
		return fromNative(failed)
	}
	return nil
}

// wait waits for the completion, or for the end of ctx or stop, which cancels the operation.
func (o *op) wait(ctx context.Context, stop <-chan struct{}) (*native.Event, error) {
	select {
	case event := <-o.done:
		return event, nil
	case <-ctx.Done():
	case <-stop:
	}
	if ctx.Err() == context.DeadlineExceeded {
		// The engine has the same deadline and knows more: which endpoint, how many attempts.
		late := time.NewTimer(engineGrace)
		defer late.Stop()
		select {
		case event := <-o.done:
			if event.Failure != nil {
				return event, nil
			}
			event.Discard() // too late
			return nil, contextError(ctx, true)
		case <-late.C:
		}
	}
	o.cancel()
	if ctx.Err() == nil {
		return nil, &Error{Kind: KindCancelled, Message: "the call was cancelled", Sent: true, cancelled: true}
	}
	return nil, contextError(ctx, true)
}

// cancel cancels the operation and forgets its completion.
func (o *op) cancel() {
	if m := o.q.mesh; m.enter() {
		o.q.native.Cancel(o.tag)
		m.leave()
	}
	if !o.q.abandon(o.tag) {
		(<-o.done).Discard()
	}
}

// read is the goroutine that takes events. It ends when the mesh has closed and nothing waits any more.
func (q *queue) read() {
	defer close(q.done)
	batch := native.NewBatch()
	defer batch.Free()
	if conn, err := q.file.SyscallConn(); err == nil {
		_ = conn.Read(func(uintptr) bool { return q.harvest(batch) })
	}
}

// harvest takes all events and tells whether that was the end.
func (q *queue) harvest(batch *native.Batch) bool {
	for {
		count, failed := q.native.Take(batch, q.deliver)
		if failed != nil {
			return true
		}
		if count == 0 {
			return q.closing.Load()
		}
	}
}

func (q *queue) deliver(event *native.Event) {
	switch event.Kind {
	case native.Done, native.Chunk, native.Written, native.Admitted, native.Answered, native.BodyWanted:
		if waiter := q.end(event.Tag); waiter != nil {
			waiter <- event
		} else {
			event.Discard()
		}
	case native.Arrived, native.InboundGone:
		q.arrive(event)
	default:
		event.Discard()
	}
}

// failLeftovers completes what was submitted after the reader had ended. Only when nothing more can be.
func (q *queue) failLeftovers() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.slots {
		s := &q.slots[i]
		if s.taken && s.waiter != nil {
			s.waiter <- &native.Event{Failure: &native.Failure{
				Code: native.CodeClosed, Name: string(KindClosed), Message: "the mesh was closed",
			}}
		}
		s.waiter, s.taken = nil, false
	}
}

// stop ends the reader, after the mesh has closed.
func (q *queue) stop() {
	q.closing.Store(true)
	q.native.Wake()
	<-q.done
	_ = q.file.Close()
}

// engineGrace is how long a call whose context has run out waits for the engine to say the same.
const engineGrace = 50 * time.Millisecond

// inCLimit is how many goroutines submit at once. None waits there, so a few per core are plenty.
const inCLimit = 16
