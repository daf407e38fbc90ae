package mesh

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// Guard is a guard of the configuration: retry, timeout, breaker and limit around plain functions. It may be
// used by many goroutines; a reload reaches it.
//
//	inventory, err := m.Guard("inventory")
//	err = inventory.Run(ctx, func(ctx context.Context) error { return stock(ctx, sku) })
//	count, err := mesh.Do(ctx, inventory, func(ctx context.Context) (int, error) { return count(ctx, sku) })
//
// The function runs on the caller's goroutine. It has to give up when its context ends: at the limit of the
// attempt, or when the caller's context ends, which also ends the call.
type Guard struct {
	mesh   *Mesh
	native *native.Guard // the mesh's
	judge  func(error) Outcome
}

// Outcome is what an error of a guarded function means.
type Outcome int32

// Outcomes. What may have acted is repeated only if that was declared to do no harm, by `idempotent` in the
// configuration or by [WithIdempotent].
const (
	Failed      Outcome = native.GuardFailed      // it would fail again
	Rejected    Outcome = native.GuardRejected    // an answer, "no": the callee is well
	Transient   Outcome = native.GuardTransient   // it may work another time, and may have acted
	Unprocessed Outcome = native.GuardUnprocessed // it may work another time, and has not acted
	Throttled   Outcome = native.GuardThrottled   // "too many": not acted on, the callee is well
)

// Guard is the guard that the configuration calls name. Starts nothing.
func (m *Mesh) Guard(name string) (*Guard, error) {
	if !m.enter() {
		return nil, closedError()
	}
	defer m.leave()
	m.mu.Lock()
	defer m.mu.Unlock()
	handle, ok := m.guards[name]
	if !ok {
		opened, failed := m.native.OpenGuard(name)
		if failed != nil {
			return nil, fromNative(failed)
		}
		handle, m.guards[name] = opened, opened
	}
	return &Guard{mesh: m, native: handle, judge: outcomeOf}, nil
}

// Judging is the same guard with the caller's own judgement of errors; nil errors are not asked about.
func (g *Guard) Judging(judge func(error) Outcome) *Guard {
	return &Guard{mesh: g.mesh, native: g.native, judge: judge}
}

// Run calls f until it works or there is no further attempt, and returns its last error, or an *Error when
// the guard refused the call or the last attempt ran into its limit.
func (g *Guard) Run(ctx context.Context, f func(context.Context) error) error {
	_, err := Do(ctx, g, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// Do is Run for a function that returns a value.
func Do[T any](ctx context.Context, g *Guard, f func(context.Context) (T, error)) (T, error) {
	var none T
	call, err := g.begin(ctx)
	if err != nil {
		return none, err
	}
	defer call.End()
	var value T
	var last error
	outcome, wait := int32(native.GuardReady), int64(-1)
	for {
		step, failed := call.Next(outcome, wait)
		switch {
		case failed != nil:
			refused := fromNative(failed)
			refused.cause = last
			return none, refused
		case step.Action == native.GuardProceed:
			value, outcome, wait, last = attempt(ctx, g, step, f)
			if last != nil && ctx.Err() != nil {
				_, _ = call.Next(outcome, wait)
				ended := contextError(ctx, true)
				ended.Attempts, ended.cause = step.Attempts, last
				return none, ended
			}
		case step.Action == native.GuardWait:
			if err := sleep(ctx, time.Duration(step.Time)); err != nil {
				return none, err
			}
			outcome, wait = native.GuardReady, -1
		default:
			return value, last
		}
	}
}

func (g *Guard) begin(ctx context.Context) (*native.GuardCall, error) {
	if ctx.Err() != nil {
		return nil, contextError(ctx, false)
	}
	timeout := int64(0)
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(int64(time.Until(deadline)), 1)
	}
	if !g.mesh.enter() {
		return nil, closedError()
	}
	defer g.mesh.leave()
	var parent *native.Inbound
	if in := inboundOf(ctx); in != nil && in.acquire() {
		defer in.release()
		parent = in.native
	}
	call, failed := g.native.Begin(idempotence(ctx), timeout, parent)
	return call, asError(failed)
}

// attempt runs f once, in the time it has, and says what came of it.
func attempt[T any](ctx context.Context, g *Guard, step native.GuardStep, f func(context.Context) (T, error)) (T, int32, int64, error) {
	within := ctx
	if step.Time >= 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, time.Duration(step.Time))
		defer cancel()
	}
	value, err := f(within)
	switch {
	case err == nil:
		return value, native.GuardSuccess, -1, nil
	case ctx.Err() == context.Canceled:
		return value, native.GuardIgnored, -1, err
	case within.Err() != nil && errors.Is(err, context.DeadlineExceeded):
		return value, native.GuardTimedOut, -1, err
	}
	wait := int64(-1)
	var own *Error
	if errors.As(err, &own) && own.RetryAfter > 0 {
		wait = int64(own.RetryAfter)
	}
	return value, int32(g.judge(err)), wait, err
}

// outcomeOf is what the errors of this package and of net say themselves.
func outcomeOf(err error) Outcome {
	var own *Error
	var network net.Error
	switch {
	case errors.As(err, &own):
		return Outcome(native.GuardOutcomeOf(string(own.Kind), !own.Sent))
	case errors.Is(err, syscall.ECONNREFUSED):
		return Unprocessed
	case errors.As(err, &network), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Transient
	}
	return Failed
}

// sleep waits, or returns the end of the context.
func sleep(ctx context.Context, length time.Duration) error {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return contextError(ctx, true)
	}
}
