package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"libmesh.dev/mesh"
)

// trackedBody counts its closing and fails reads after it.
type trackedBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *trackedBody) Close() error {
	b.closed.Add(1)
	return nil
}

func (b *trackedBody) mustBeClosedOnce(t *testing.T) {
	t.Helper()
	for range 3000 {
		if b.closed.Load() > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := b.closed.Load(); n != 1 {
		t.Errorf("the body was closed %d times", n)
	}
}

type failingReader struct{ after io.Reader }

var errBody = errors.New("the source of the body failed")

func (r failingReader) Read(p []byte) (int, error) {
	if n, err := r.after.Read(p); err == nil {
		return n, nil
	}
	return 0, errBody
}

// newSlowWorld answers /slow not before over, which comes with the end of the test: in nobody's time.
func newSlowWorld(t *testing.T, extra ...string) (w *world, over func()) {
	t.Helper()
	isOver := make(chan struct{})
	w = newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-isOver
			return
		}
		echo(w, r)
	}, extra...)
	over = sync.OnceFunc(func() { close(isOver) })
	t.Cleanup(over)
	return w, over
}

func TestTheBodyOfARequestIsClosedOnEveryPath(t *testing.T) {
	w, _ := newSlowWorld(t)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	soon, stop := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer stop()
	cases := []struct {
		name, url string
		ctx       context.Context
		length    int64
		reader    io.Reader
		change    func(*http.Request)
		fails     bool
	}{
		{"sent", "http://echo/", context.Background(), -1, strings.NewReader("x"), nil, false},
		{"sent with a length", "http://echo/", context.Background(), 1, strings.NewReader("x"), nil, false},
		{"large", "http://echo/", context.Background(), -1, bytes.NewReader(make([]byte, 300<<10)), nil, false},
		{"no route", "http://nobody/", context.Background(), -1, strings.NewReader("x"), nil, true},
		{"connection refused", "http://dead/", context.Background(), -1, strings.NewReader("x"), nil, true},
		{"cancelled before", "http://echo/", cancelled, -1, strings.NewReader("x"), nil, true},
		{"cancelled during", "http://echo/slow", soon, -1, strings.NewReader("x"), nil, true},
		{"unsupported scheme", "ftp://echo/", context.Background(), -1, strings.NewReader("x"), nil, true},
		{"invalid header", "http://echo/", context.Background(), -1, strings.NewReader("x"),
			func(r *http.Request) { r.Header["Bad Name"] = []string{"x"} }, true},
		{"no header map", "http://echo/", context.Background(), -1, strings.NewReader("x"),
			func(r *http.Request) { r.Header = nil }, true},
		{"body fails", "http://echo/", context.Background(), -1, failingReader{strings.NewReader("x")}, nil, true},
		{"body too short", "http://echo/", context.Background(), 9, strings.NewReader("x"), nil, true},
		{"body too long", "http://echo/", context.Background(), 1, strings.NewReader("xyz"), nil, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			body := &trackedBody{Reader: c.reader}
			req, err := http.NewRequestWithContext(c.ctx, "POST", c.url, body)
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = c.length
			if c.change != nil {
				c.change(req)
			}
			resp, err := w.Transport().RoundTrip(req)
			if (err != nil) != c.fails {
				t.Errorf("error %v", err)
			}
			if err == nil {
				readAll(t, resp)
			}
			body.mustBeClosedOnce(t)
		})
	}
}

func TestABodyThatCannotBeReadIsTheReasonOfTheFailure(t *testing.T) {
	w := newWorld(t, echo)
	_, err := w.client.Post("http://echo/", "", failingReader{strings.NewReader("some")})
	if !errors.Is(err, errBody) {
		t.Errorf("got %v", err)
	}
}

func TestARequestIsNotModified(t *testing.T) {
	w := newWorld(t, echo)
	req, _ := http.NewRequest("PUT", "http://echo/a?b", strings.NewReader("x"))
	req.Header.Set("X-One", "1")
	before := fmt.Sprint(req.Header, req.URL, req.Host, req.ContentLength, req.Method)
	resp, err := w.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	if after := fmt.Sprint(req.Header, req.URL, req.Host, req.ContentLength, req.Method); after != before {
		t.Errorf("before %s\nafter  %s", before, after)
	}
	if resp.Request != req {
		t.Error("Response.Request is another request")
	}
}

func TestAResponseThatIsNoSuccessIsNoError(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "teapot", http.StatusTeapot) })
	resp, body := w.get("http://echo/")
	if resp.StatusCode != 418 || body != "teapot\n" || resp.Status != "418 I'm a teapot" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

func TestABodyIsNeverNil(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/head":
			_, _ = io.WriteString(w, "12345")
		}
	})
	resp, body := w.get("http://echo/none")
	if resp.StatusCode != 204 || body != "" || resp.ContentLength != 0 {
		t.Errorf("%v %q %d", resp.Status, body, resp.ContentLength)
	}
	resp, body = w.get("http://echo/empty")
	if resp.StatusCode != 200 || body != "" {
		t.Errorf("%v %q", resp.Status, body)
	}
	resp, err := w.client.Head("http://echo/head")
	if err != nil || resp.Body == nil || readAll(t, resp) != "" || resp.ContentLength != 5 {
		t.Errorf("HEAD: %v %+v", err, resp)
	}
}

func TestACancelledCallReturnsAtOnce(t *testing.T) {
	arrived, gone := make(chan bool, 1), make(chan bool, 1)
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-r.Context().Done()
		gone <- true
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-arrived
		cancel()
	}()
	begin := time.Now()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://echo/", nil)
	_, err := w.client.Do(req)
	if !errors.Is(err, context.Canceled) || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind != mesh.KindCancelled || e.Timeout() {
		t.Errorf("%+v", e)
	}
	select {
	case <-gone: // the server notices that the caller went away
	case <-time.After(5 * time.Second):
		t.Error("the handler was not told")
	}
}

func TestADeadlineEndsACall(t *testing.T) {
	w, _ := newSlowWorld(t, "defaults: { timeout: 60s }\n")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://echo/slow", nil)
	begin := time.Now()
	_, err := w.client.Do(req)
	var timeout net.Error
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind != mesh.KindTimeout || e.Cluster != "echo" {
		t.Errorf("%+v", e)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestTheTimeoutOfAClientIsKept(t *testing.T) {
	w, _ := newSlowWorld(t)
	client := &http.Client{Transport: w.Transport(), Timeout: 100 * time.Millisecond}
	_, err := client.Get("http://echo/slow")
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
}

func TestErrorsTellWhatAndWhere(t *testing.T) {
	w := newWorld(t, echo)
	var e *mesh.Error
	if _, err := w.client.Get("http://nobody/"); !errors.As(err, &e) || e.Kind != mesh.KindNoRoute || e.Sent {
		t.Errorf("%+v", e)
	}
	_, err := w.client.Get("http://dead/")
	if !errors.As(err, &e) || e.Kind != mesh.KindConnect || e.Sent || e.Attempts != 3 || e.Cluster != "dead" ||
		!strings.HasPrefix(e.Endpoint, "127.0.0.1:") {
		t.Errorf("%+v", e)
	}
	if _, err := mesh.OpenYAML("version: 1\nclusters: 7\n"); !errors.As(err, &e) || e.Kind != mesh.KindConfig ||
		!strings.Contains(err.Error(), "clusters") {
		t.Errorf("%v", err)
	}
	if _, err := mesh.Open("/nowhere/mesh.yaml"); !errors.As(err, &e) || e.Kind != mesh.KindConfigIO {
		t.Errorf("%v", err)
	}
	if _, err := w.Listen("nowhere", nil); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("%v", err)
	}
}

func TestAClosedMeshRefuses(t *testing.T) {
	arrived := make(chan bool, 1)
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-r.Context().Done()
	})
	failed := make(chan error, 1)
	go func() {
		_, err := w.client.Get("http://echo/slow")
		failed <- err
	}()
	<-arrived
	closeMesh(t, w.Mesh)
	var e *mesh.Error
	if err := <-failed; !errors.As(err, &e) || e.Kind != mesh.KindClosed {
		t.Errorf("in flight: %v", err)
	}
	if _, err := w.client.Get("http://echo/"); !errors.As(err, &e) || e.Kind != mesh.KindClosed {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := w.Status(); !errors.As(err, &e) || e.Kind != mesh.KindClosed {
		t.Errorf("status: %v", err)
	}
}

func TestAReportTellsHowACallWent(t *testing.T) {
	w := newWorld(t, echo)
	var report mesh.Report
	req, _ := http.NewRequestWithContext(mesh.WithReport(context.Background(), &report), "GET", "http://echo/", nil)
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	if report.Attempts != 1 || report.Cluster != "echo" || report.Endpoint != w.server.Addr() || report.Revision != 1 {
		t.Errorf("%+v", report)
	}
}

func TestAPostIsRepeatedOnlyWhenItIsSaidToBeIdempotent(t *testing.T) {
	var calls atomic.Int32
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	for _, c := range []struct {
		ctx           context.Context
		status, calls int
	}{
		{context.Background(), 503, 1},
		{mesh.WithIdempotent(context.Background(), true), 200, 2},
	} {
		calls.Store(0)
		req, _ := http.NewRequestWithContext(c.ctx, "POST", "http://echo/", strings.NewReader("x"))
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		if resp.StatusCode != c.status || int(calls.Load()) != c.calls {
			t.Errorf("status %d after %d calls, want %d after %d", resp.StatusCode, calls.Load(), c.status, c.calls)
		}
	}
}

func TestRedirectsAreTheClientsToFollow(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new", http.StatusFound)
		}
	})
	if resp, _ := w.get("http://echo/old"); resp.StatusCode != http.StatusFound {
		t.Errorf("%s", resp.Status)
	}
	resp, err := (&http.Client{Transport: w.Transport()}).Get("http://echo/old")
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	if resp.StatusCode != 200 || resp.Request.URL.Path != "/new" {
		t.Errorf("%s %s", resp.Status, resp.Request.URL)
	}
}
