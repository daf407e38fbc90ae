package mesh_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"libmesh.dev/mesh"
	"libmesh.dev/mesh/internal/native"
)

func threads(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "Threads:")
	count, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// A call in flight holds a goroutine, not a thread.
func TestTwoThousandCallsInFlightNeedFewThreads(t *testing.T) {
	const calls = 2000
	var waiting atomic.Int32
	full := make(chan bool)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	slow := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if waiting.Add(1) == calls {
			close(full)
		}
		select {
		case <-full:
			time.Sleep(50 * time.Millisecond)
		case <-time.After(100 * time.Second):
		}
	})}
	go func() { _ = slow.Serve(l) }()
	defer slow.Close()
	port := l.Addr().(*net.TCPAddr).Port
	// Two clusters: one opens 1024 connections to an endpoint at most.
	hosts := []string{"even", "odd"}
	m := open(t, config(map[string]int{"even": port, "odd": port}, "defaults: { concurrency_limit: { max_requests: 4000 }, timeout: 120s }\n"))
	client := m.Client()
	var failed atomic.Int32
	var group sync.WaitGroup
	for i := range calls {
		start(&group, func() {
			resp, err := client.Get("http://" + hosts[i%2] + "/")
			if err != nil {
				failed.Add(1)
				t.Log(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		})
	}
	select {
	case <-full:
	case <-time.After(100 * time.Second):
		t.Errorf("only %d calls were in flight together", waiting.Load())
	}
	if n := threads(t); n >= 200 {
		t.Errorf("%d threads", n)
	}
	group.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d calls failed", n)
	}
}

func TestNothingIsLeftOfAClosedMesh(t *testing.T) {
	before, handles := runtime.NumGoroutine(), native.LiveHandles()
	w, over := newSlowWorld(t, "defaults: { circuit_breaker: { consecutive_failures: 1000, min_requests: 1000 } }\n")
	for i := range 50 {
		resp, err := w.client.Post("http://echo/", "", strings.NewReader(strings.Repeat("x", i*4000)))
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			readAll(t, resp)
		} else {
			_ = resp.Body.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://echo/slow", io.MultiReader(strings.NewReader("x")))
		if _, err := w.client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	over()
	closeMesh(t, w.Mesh)
	for range 3000 {
		if runtime.NumGoroutine() <= before && native.LiveHandles() <= handles {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 64<<10)
	t.Errorf("%d goroutines (%d before), %d handles (%d before)\n%s", runtime.NumGoroutine(), before,
		native.LiveHandles(), handles, stacks[:runtime.Stack(stacks, true)])
}

func TestAResponseThatNobodyClosesIsFreedByTheCollector(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	before := native.LiveHandles()
	forget := func() {
		resp, err := w.client.Get("http://echo/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = resp.Body.Read(make([]byte, 10))
	}
	forget()
	for range 300 {
		runtime.GC()
		if native.LiveHandles() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d handles, %d before", native.LiveHandles(), before)
}

func TestManyGoroutinesShareAMesh(t *testing.T) {
	w := newWorld(t, echo)
	var group sync.WaitGroup
	for range 64 {
		start(&group, func() {
			for range 50 {
				resp, err := w.client.Post("http://echo/", "", strings.NewReader("ping"))
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "ping" {
					t.Errorf("%q %v", body, err)
				}
				_ = resp.Body.Close()
			}
		})
	}
	group.Wait()
}

func TestClosingAMeshUnderLoadIsSafe(t *testing.T) {
	for range 10 {
		w := newWorld(t, echo)
		var group sync.WaitGroup
		for range 16 {
			start(&group, func() {
				for {
					resp, err := w.client.Post("http://echo/", "", strings.NewReader("ping"))
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		closeMesh(t, w.Mesh)
		group.Wait()
	}
}

func BenchmarkGet(b *testing.B) {
	slow := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello world")
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = slow.Serve(l) }()
	defer slow.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	m := openForBenchmark(b, port)
	plain := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	for _, parallel := range []int{1, 32} {
		for name, run := range map[string]func() (*http.Response, error){
			"net-http": func() (*http.Response, error) { return plain.Get("http://127.0.0.1:" + port + "/") },
			"mesh":     func() (*http.Response, error) { return m.Get("http://a/") },
		} {
			b.Run(name+"-"+strconv.Itoa(parallel), func(b *testing.B) { benchmark(b, parallel, run) })
		}
	}
}

func openForBenchmark(b *testing.B, port string) *http.Client {
	number, _ := strconv.Atoi(port)
	m, err := mesh.OpenYAML(config(map[string]int{"a": number}, ""))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = m.Close(context.Background()) })
	return m.Client()
}

func benchmark(b *testing.B, parallel int, run func() (*http.Response, error)) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for range parallel {
		start(&group, func() {
			for left.Add(-1) >= 0 {
				resp, err := run()
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	group.Wait()
}

// start is WaitGroup.Go, which go 1.24 does not have.
func start(group *sync.WaitGroup, run func()) {
	group.Add(1)
	go func() {
		defer group.Done()
		run()
	}()
}
