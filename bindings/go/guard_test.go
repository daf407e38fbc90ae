package mesh_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"libmesh.dev/mesh"
)

const guards = `
version: 1
guards:
  - { name: inventory, timeout: 30s, idempotent: true, retry: { attempts: 2, base: 1ms, max: 1ms } }
  - { name: payment, retry: { attempts: 2, base: 1ms, max: 1ms }, circuit_breaker: { min_requests: 0 } }
  - { name: cut, timeout: 30s, attempt_timeout: 20ms, idempotent: true, retry: { attempts: 1, base: 1ms, max: 1ms } }
  - { name: patient, timeout: 48h, idempotent: true, retry: { attempts: 5, base: 10h, max: 10h } }
  - { name: narrow, concurrency_limit: { max_requests: 1 } }
`

func guard(t *testing.T, m *mesh.Mesh, name string) *mesh.Guard {
	t.Helper()
	g, err := m.Guard(name)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// failing gives err for the first n calls, then succeeds; it counts.
func failing(tries *int, n int, err error) func(context.Context) error {
	return func(context.Context) error {
		*tries++
		if *tries <= n {
			return err
		}
		return nil
	}
}

func kindOf(err error) mesh.Kind {
	var e *mesh.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

func TestAGuardedFunctionIsTriedUntilItWorks(t *testing.T) {
	m := open(t, guards)
	tries := 0
	answer, err := mesh.Do(context.Background(), guard(t, m, "inventory"), func(ctx context.Context) (int, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the function does not know its deadline")
		}
		return 7, failing(&tries, 2, syscall.ECONNRESET)(ctx)
	})
	if err != nil || answer != 7 || tries != 3 {
		t.Fatalf("%v, %v after %d tries", answer, err, tries)
	}
	status, _ := m.Status()
	if !strings.Contains(string(status), `"retries":2`) {
		t.Errorf("status: %s", status)
	}
}

func TestTheLastErrorOfAGuardedFunctionIsTheCallers(t *testing.T) {
	m := open(t, guards)
	tries := 0
	err := guard(t, m, "inventory").Run(context.Background(), failing(&tries, 9, syscall.EPIPE))
	if err != syscall.EPIPE || tries != 3 {
		t.Fatalf("%v after %d tries", err, tries)
	}
}

func TestWhatMayHaveActedIsRepeatedOnlyWhenSomebodySaysSo(t *testing.T) {
	m := open(t, guards)
	payment := guard(t, m, "payment")
	throttled := payment.Judging(func(error) mesh.Outcome { return mesh.Throttled })
	once := context.Background()
	twice := mesh.WithIdempotent(once, true)
	for _, c := range []struct {
		name  string
		guard *mesh.Guard
		ctx   context.Context
		err   error
		tries int
	}{
		{"it may have acted", payment, once, syscall.ECONNRESET, 1},
		{"and does no harm", payment, twice, syscall.ECONNRESET, 3},
		{"it has not acted", payment, once, syscall.ECONNREFUSED, 3},
		{"it would fail again", payment, twice, io.ErrUnexpectedEOF, 1},
		{"an error of the mesh speaks for itself", payment, once, &mesh.Error{Kind: mesh.KindConnect}, 3},
		{"and so when it was sent", payment, once, &mesh.Error{Kind: mesh.KindReset, Sent: true}, 1},
		{"the caller judges", throttled, once, io.ErrUnexpectedEOF, 3},
	} {
		tries := 0
		if err := c.guard.Run(c.ctx, failing(&tries, 9, c.err)); err != c.err || tries != c.tries {
			t.Errorf("%s: %v after %d tries", c.name, err, tries)
		}
		// A success between, so that the breaker stays closed.
		if err := payment.Run(once, failing(&tries, 0, nil)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnAttemptThatHangsIsCut(t *testing.T) {
	m := open(t, guards)
	tries := 0
	err := guard(t, m, "cut").Run(context.Background(), func(ctx context.Context) error {
		tries++
		<-ctx.Done()
		return ctx.Err()
	})
	if kindOf(err) != "attempt_timeout" || !errors.Is(err, context.DeadlineExceeded) || tries != 2 {
		t.Fatalf("%v after %d tries", err, tries)
	}
}

func TestO18ACancelledContextEndsTheCallNow(t *testing.T) {
	m := open(t, guards)
	patient := guard(t, m, "patient")
	for name, waits := range map[string]bool{"in an attempt": true, "between two": false} {
		ctx, cancel := context.WithCancel(context.Background())
		tries := 0
		err := patient.Run(ctx, func(within context.Context) error {
			tries++
			time.AfterFunc(10*time.Millisecond, cancel)
			if waits {
				<-within.Done()
				return within.Err()
			}
			return syscall.ECONNRESET
		})
		if !errors.Is(err, context.Canceled) || tries != 1 {
			t.Errorf("%s: %v after %d tries", name, err, tries)
		}
	}
	status, _ := m.Status()
	if !strings.Contains(string(status), `"ignored":2`) {
		t.Errorf("status: %s", status)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := patient.Run(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); kindOf(err) != mesh.KindTimeout {
		t.Errorf("at the caller's deadline: %v", err)
	}
}

func TestWhatAGuardRefusesIsATypedError(t *testing.T) {
	m := open(t, guards)
	narrow := guard(t, m, "narrow")
	nothing := func(context.Context) error { return nil }
	err := narrow.Run(context.Background(), func(ctx context.Context) error {
		if kind := kindOf(narrow.Run(ctx, nothing)); kind != mesh.KindOverloaded {
			t.Errorf("above the limit: %v", kind)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_ = narrow.Run(context.Background(), func(context.Context) error { return io.ErrNoProgress })
	}
	var open *mesh.Error
	if err := narrow.Run(context.Background(), nothing); !errors.As(err, &open) || open.Kind != mesh.KindCircuitOpen || open.RetryAfter <= 0 {
		t.Errorf("the breaker: %v", err)
	}
	if _, err := m.Guard("nobody"); kindOf(err) != mesh.KindConfig {
		t.Errorf("an unknown name: %v", err)
	}
	closeMesh(t, m)
	if kind := kindOf(narrow.Run(context.Background(), nothing)); kind != mesh.KindClosed {
		t.Errorf("a closed mesh: %v", kind)
	}
	if _, err := m.Guard("narrow"); kindOf(err) != mesh.KindClosed {
		t.Errorf("a closed mesh: %v", err)
	}
}
