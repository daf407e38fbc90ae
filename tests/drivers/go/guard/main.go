// Command guard is the Go driver of the guard story: each attempt of each call ends as the job says.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"syscall"

	"libmesh.dev/mesh"
)

type call struct {
	Guard      string
	Idempotent *bool
	Attempts   []string
}

type line struct {
	Attempts int    `json:"attempts"`
	Result   string `json:"result"`
}

var outcomes = map[string]error{
	"success":     nil,
	"rejected":    &mesh.Error{Kind: mesh.KindDenied},
	"failed":      io.ErrNoProgress,
	"transient":   syscall.ECONNRESET,
	"unprocessed": syscall.ECONNREFUSED,
	"throttled":   &mesh.Error{Kind: "rate_limited"},
}

func main() {
	var job struct {
		Config string
		Calls  []call
	}
	if err := json.NewDecoder(os.Stdin).Decode(&job); err != nil {
		log.Fatal(err)
	}
	m, err := mesh.Open(job.Config)
	if err != nil {
		log.Fatal(err)
	}
	out := json.NewEncoder(os.Stdout)
	for _, call := range job.Calls {
		if err := out.Encode(one(m, call)); err != nil {
			log.Fatal(err)
		}
	}
	page := httptest.NewRecorder()
	m.MetricsHandler().ServeHTTP(page, httptest.NewRequest("GET", "/", nil))
	if err := out.Encode(map[string]string{"metrics": page.Body.String()}); err != nil {
		log.Fatal(err)
	}
	if err := m.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func one(m *mesh.Mesh, call call) line {
	guard, err := m.Guard(call.Guard)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if call.Idempotent != nil {
		ctx = mesh.WithIdempotent(ctx, *call.Idempotent)
	}
	attempts := 0
	var last error
	err = guard.Run(ctx, func(ctx context.Context) error {
		outcome := call.Attempts[attempts]
		attempts++
		if outcome == "timed_out" {
			<-ctx.Done()
			last = ctx.Err()
		} else {
			last = outcomes[outcome]
		}
		return last
	})
	var refused *mesh.Error
	switch {
	case err == nil:
		return line{attempts, "success"}
	case err != last && errors.As(err, &refused):
		return line{attempts, string(refused.Kind)}
	}
	return line{attempts, "own"}
}
