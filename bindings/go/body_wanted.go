package mesh

import (
	"bytes"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// beginning reads as much of a body as the engine asked for, one byte more if there is one, and tells what that is.
// Whoever reads the body afterwards misses nothing. It is read no longer than the caller waits, where the server has
// read deadlines; otherwise as long as the server lets it.
func beginning(w http.ResponseWriter, r *http.Request, wanted *native.Event) (body []byte, flags uint32) {
	var isLate atomic.Bool
	if wanted.Facts.Remaining >= 0 {
		timer := time.AfterFunc(time.Duration(wanted.Facts.Remaining), func() {
			isLate.Store(true)
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // ends a read that waits
		})
		defer timer.Stop()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, wanted.Number+1))
	switch {
	case err != nil && isLate.Load():
		return nil, native.Late
	case err != nil:
		return body, 0 // the engine says that it broke off
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	if int64(len(body)) <= wanted.Number {
		flags = native.WholeBody
	}
	return body, flags
}
