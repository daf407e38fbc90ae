package mesh

import (
	"bytes"
	"io"
	"net/http"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// beginning reads as much of a body as the engine asked for, one byte more if there is one, and tells what that is.
// Whoever reads the body afterwards misses nothing. It is read until it is too late, where the server has read
// deadlines; otherwise as long as the server lets it.
func beginning(w http.ResponseWriter, r *http.Request, wanted *native.Event) (body []byte, flags uint32) {
	late := lateAfter(w, time.Duration(wanted.Facts.Remaining))
	body, err := io.ReadAll(io.LimitReader(r.Body, wanted.Number+1))
	rest := io.Reader(r.Body)
	isLate := late.stop()
	switch {
	case err != nil && isLate:
		return nil, native.Late // no read waits any more: the server closes the connection after the answer
	case err != nil: // the engine says that it broke off
		rest = brokenOff{err}
	case isLate: // all the same, all of it was there
		late.forgive()
		fallthrough
	default:
		if int64(len(body)) <= wanted.Number {
			flags = native.WholeBody
		}
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), rest), r.Body}
	return body, flags
}

// lateness ends a read that waits for too long.
type lateness struct {
	controller *http.ResponseController
	timer      *time.Timer
	done       chan struct{}
}

func lateAfter(w http.ResponseWriter, remaining time.Duration) *lateness {
	late := &lateness{controller: http.NewResponseController(w), done: make(chan struct{})}
	late.timer = time.AfterFunc(remaining, func() {
		defer close(late.done)
		_ = late.controller.SetReadDeadline(time.Unix(1, 0))
	})
	return late
}

// stop says whether it was too late. Afterwards nothing touches the writer any more.
func (l *lateness) stop() bool {
	if l.timer.Stop() {
		return false
	}
	<-l.done
	return true
}

// forgive lets reads wait again.
func (l *lateness) forgive() { _ = l.controller.SetReadDeadline(time.Time{}) }

// brokenOff is what is left of a body that cannot be read on.
type brokenOff struct{ err error }

func (b brokenOff) Read([]byte) (int, error) { return 0, b.err }
