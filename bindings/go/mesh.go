// Package mesh connects a program to a service mesh without a sidecar: the engine, libmesh, runs inside
// the process and does load balancing, retries, mTLS, policy and telemetry by one configuration.
//
// An http.Client becomes a client of the mesh by its transport:
//
//	m, err := mesh.Open("mesh.yaml")
//	client := &http.Client{Transport: m.Transport()}
//	resp, err := client.Get("http://reviews/reviews/0") // "reviews" is a service, not a host
//
// An http.Handler is served on a listener of the configuration:
//
//	server, err := m.Listen("inbound", handler)
//
// A program that keeps its own http.Server has its requests judged by a listener without an address:
//
//	checked, err := m.Handler("inbound", handler)
//
// Trace and deadline flow from a request to the calls made for it by its context:
// http.NewRequestWithContext(r.Context(), ...) is all there is to do.
//
// This package decides nothing: policy is the engine's. Invariants: C never keeps a Go pointer and never
// calls Go; a call in flight holds a goroutine, not a thread.
package mesh

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"libmesh.dev/mesh/internal/native"
)

// Mesh is one engine. It may be used by many goroutines.
type Mesh struct {
	native *native.Mesh

	// The handles live while gate is held for reading and open is true.
	gate sync.RWMutex
	open bool

	mu        sync.Mutex
	queue     *queue             // made on first use, because it starts threads
	servers   map[uint64]*Server // by tag
	guards    map[string]*native.Guard
	checks    map[string]*native.Check
	listeners uint64 // tags given out
	closed    bool
}

// Open opens a mesh by a configuration file and follows its changes. No thread runs and no socket is open
// until first use.
func Open(path string) (*Mesh, error) {
	return open(native.LoadFile(path))
}

// OpenYAML opens a mesh by a configuration document.
func OpenYAML(text string) (*Mesh, error) {
	return open(native.Parse(text, "inline.yaml"))
}

func open(config *native.Config, failed *native.Failure) (*Mesh, error) {
	if failed != nil {
		return nil, fromNative(failed)
	}
	defer config.Free()
	handle, failed := native.Open(config, 0, 0)
	if failed != nil {
		return nil, fromNative(failed)
	}
	return &Mesh{native: handle, open: true, servers: map[uint64]*Server{}, guards: map[string]*native.Guard{},
		checks: map[string]*native.Check{}}, nil
}

// Reload replaces the configuration by that of a file, all or nothing, and tells the new revision. After
// an error the old one stays.
func (m *Mesh) Reload(path string) (uint64, error) {
	return m.reload(native.LoadFile(path))
}

// ReloadYAML replaces the configuration by a document.
func (m *Mesh) ReloadYAML(text string) (uint64, error) {
	return m.reload(native.Parse(text, "inline.yaml"))
}

func (m *Mesh) reload(config *native.Config, failed *native.Failure) (uint64, error) {
	if failed != nil {
		return 0, fromNative(failed)
	}
	defer config.Free()
	if !m.enter() {
		return 0, closedError()
	}
	defer m.leave()
	revision, failed := m.native.Reload(config)
	return revision, asError(failed)
}

// Status is what the mesh knows of itself, as one JSON object.
func (m *Mesh) Status() ([]byte, error) {
	if !m.enter() {
		return nil, closedError()
	}
	defer m.leave()
	status, failed := m.native.Status()
	return status, asError(failed)
}

// MetricsHandler serves all metrics in the Prometheus text format.
func (m *Mesh) MetricsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page, err := m.metrics()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(page)
	})
}

func (m *Mesh) metrics() ([]byte, error) {
	if !m.enter() {
		return nil, closedError()
	}
	defer m.leave()
	page, failed := m.native.Metrics()
	return page, asError(failed)
}

// SetServing says whether new requests are wanted; a mesh begins with true. Callers within the mesh learn it
// from the next response and go elsewhere while they can; what still comes is served.
func (m *Mesh) SetServing(serving bool) error {
	if !m.enter() {
		return closedError()
	}
	defer m.leave()
	return asError(m.native.SetServing(serving))
}

// Drain makes the mesh a lame duck until the deadline of ctx (10 s without one): all its listeners tell
// their peers to go elsewhere and finish what is in flight. It lasts all that time, because a peer that
// has not heard yet may still send. When ctx is cancelled, its error is returned and the drain goes on.
func (m *Mesh) Drain(ctx context.Context) error {
	drained := make(chan error, 1)
	grace := int64(timeLeft(ctx, drainGrace))
	go func() {
		if !m.enter() {
			drained <- closedError()
			return
		}
		defer m.leave()
		drained <- asError(m.native.Drain(grace))
	}()
	select {
	case err := <-drained:
		return err
	case <-ctx.Done():
	}
	if ctx.Err() == context.Canceled {
		return contextError(ctx, false)
	}
	return <-drained // the grace ends now as well
}

// Close ends all calls and listeners, at the latest by the deadline of ctx (5 s without one). Calls in
// flight fail with KindClosed. Closing again does nothing.
func (m *Mesh) Close(ctx context.Context) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	queue, servers := m.queue, slices.Collect(maps.Values(m.servers))
	m.mu.Unlock()
	failed := m.native.Close(int64(timeLeft(ctx, closeTimeout)))
	for _, server := range servers {
		server.cancel()
	}
	if queue != nil {
		queue.stop()
	}
	m.gate.Lock()
	defer m.gate.Unlock()
	m.open = false
	for _, server := range servers {
		if server.listener != nil {
			server.listener.Free()
		}
	}
	for _, guard := range m.guards {
		guard.Free()
	}
	for _, check := range m.checks {
		check.Free()
	}
	if queue != nil {
		queue.failLeftovers()
		queue.native.Free()
	}
	m.native.Free()
	return asError(failed)
}

// enter keeps the handles from being freed until leave, unless the mesh is closed.
func (m *Mesh) enter() bool {
	m.gate.RLock()
	if !m.open {
		m.gate.RUnlock()
		return false
	}
	return true
}

func (m *Mesh) leave() { m.gate.RUnlock() }

// started is the queue, and with it the threads.
func (m *Mesh) started() (*queue, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, closedError()
	}
	if m.queue == nil {
		queue, err := newQueue(m, m.arrive)
		if err != nil {
			return nil, err
		}
		m.queue = queue
	}
	return m.queue, nil
}

// timeLeft is the time to the deadline of ctx, never negative.
func timeLeft(ctx context.Context, without time.Duration) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return without
	}
	return max(time.Until(deadline), 0)
}

const (
	closeTimeout = 5 * time.Second
	drainGrace   = 10 * time.Second // endpoint lists reach callers within seconds
)
