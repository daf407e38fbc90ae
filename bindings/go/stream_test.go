package mesh_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"libmesh.dev/mesh"
)

func TestLargeBodiesArriveUnharmedInBothDirections(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	body := make([]byte, 5<<20)
	random := rand.NewChaCha8([32]byte{7})
	_, _ = random.Read(body)
	for _, host := range hosts {
		for name, reader := range map[string]io.Reader{
			"length known": bytes.NewReader(body),
			"unknown":      io.MultiReader(bytes.NewReader(body)),
		} {
			resp, err := w.client.Post(host, "", reader)
			if err != nil {
				t.Fatal(host, name, err)
			}
			if sha256.Sum256([]byte(readAll(t, resp))) != sha256.Sum256(body) {
				t.Errorf("%s, %s: the body came back changed", host, name)
			}
		}
	}
}

func TestAStreamIsReadWhileItIsWritten(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		line := make([]byte, 6)
		for {
			if _, err := io.ReadFull(r.Body, line); err != nil {
				return
			}
			_, _ = w.Write(bytes.ToUpper(line))
			w.(http.Flusher).Flush()
		}
	})
	for _, host := range hosts {
		t.Run(host, func(t *testing.T) {
			reader, writer := io.Pipe()
			go func() { _, _ = io.WriteString(writer, "line 0") }()
			resp, err := w.client.Post(host, "", reader)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			line := make([]byte, 6)
			for i := range 5 {
				if _, err := io.ReadFull(resp.Body, line); err != nil || string(line) != fmt.Sprintf("LINE %d", i) {
					t.Fatalf("%q %v", line, err)
				}
				if i < 4 {
					_, _ = fmt.Fprintf(writer, "line %d", i+1)
				}
			}
			_ = writer.Close()
			if n, err := resp.Body.Read(line); n != 0 || err != io.EOF {
				t.Errorf("%d %v", n, err)
			}
		})
	}
}

func TestWhoDoesNotReadStopsWhoWrites(t *testing.T) {
	var written atomic.Int64
	var isRead atomic.Bool
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 64<<10)
		for !isRead.Load() && written.Load() < moreThanSocketsHold {
			n, err := w.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	resp, err := w.client.Get("http://echo/")
	if err != nil {
		t.Fatal(err)
	}
	if rested(&written) >= moreThanSocketsHold {
		t.Error("all was written while nobody read")
	}
	isRead.Store(true)
	if n, err := io.Copy(io.Discard, resp.Body); n != written.Load() || err != nil {
		t.Errorf("%d bytes of %d, %v", n, written.Load(), err)
	}
	_ = resp.Body.Close()
}

func TestAPeerThatDoesNotReadStopsAnUpload(t *testing.T) {
	release := make(chan bool)
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		<-release
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	var sent atomic.Int64
	var isRead atomic.Bool
	answer := make(chan string, 1)
	go func() {
		resp, err := w.client.Post("http://echo/", "", &countingReader{isRead: &isRead, sent: &sent})
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- readAll(t, resp)
	}()
	if rested(&sent) >= moreThanSocketsHold {
		t.Error("all was sent while nobody read")
	}
	isRead.Store(true)
	close(release)
	if got := <-answer; got != fmt.Sprint(sent.Load()) {
		t.Errorf("got %s of %d", got, sent.Load())
	}
}

// moreThanSocketsHold is several times what the kernel lets loopback sockets grow to.
const moreThanSocketsHold = 256 << 20

// rested is the count once it stands still.
func rested(count *atomic.Int64) int64 {
	for {
		before := count.Load()
		time.Sleep(300 * time.Millisecond)
		if count.Load() == before && before > 0 {
			return before
		}
	}
}

// countingReader goes on until somebody reads, or to moreThanSocketsHold.
type countingReader struct {
	isRead *atomic.Bool
	sent   *atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	if r.isRead.Load() || r.sent.Load() >= moreThanSocketsHold {
		return 0, io.EOF
	}
	r.sent.Add(int64(len(p)))
	return len(p), nil
}

func TestClosingAResponseEarlyEndsTheHandler(t *testing.T) {
	ended := make(chan error, 1)
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				ended <- r.Context().Err()
				return
			}
		}
	})
	for _, host := range hosts {
		t.Run(host, func(t *testing.T) {
			resp, err := w.client.Get(host)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
				t.Error("a closed body can be read")
			}
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the context of the handler says %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Error("the handler writes on")
			}
		})
	}
}

func TestCancellingEndsTheReadOfABody(t *testing.T) {
	isOver := make(chan struct{})
	defer close(isOver)
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		<-isOver
	})
	for _, host := range hosts {
		t.Run(host, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			req, _ := http.NewRequestWithContext(ctx, "GET", host, nil)
			resp, err := w.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 5)
			if _, err := io.ReadFull(resp.Body, first); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(50*time.Millisecond, cancel)
			begin := time.Now()
			if _, err := resp.Body.Read(first); !errors.Is(err, context.Canceled) || time.Since(begin) > 10*time.Second {
				t.Errorf("after %v: %v", time.Since(begin), err)
			}
			if _, err := resp.Body.Read(first); !errors.Is(err, context.Canceled) {
				t.Errorf("again: %v", err)
			}
			_ = resp.Body.Close()
		})
	}
}

func TestClosingDuringAReadEndsIt(t *testing.T) {
	isOver := make(chan struct{})
	defer close(isOver)
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-isOver
	})
	resp, err := w.client.Get("http://echo/")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = resp.Body.Close() })
	begin := time.Now()
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

func TestTrailersArriveInBothDirections(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", "of "+string(body)+" and "+r.Trailer.Get("X-Sent"))
	})
	for _, host := range hosts {
		t.Run(host, func(t *testing.T) {
			req, _ := http.NewRequest("POST", host, io.MultiReader(strings.NewReader("abc")))
			req.Trailer = http.Header{"X-Sent": {"def"}}
			req.Header.Set("TE", "trailers")
			resp, err := w.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, announced := resp.Trailer["X-Sum"]; !announced {
				t.Errorf("announced: %v", resp.Trailer)
			}
			if got := readAll(t, resp); got != "abc" || resp.Trailer.Get("X-Sum") != "of abc and def" {
				t.Errorf("%q, trailers %v", got, resp.Trailer)
			}
		})
	}
}

func TestAnAnswerThatIsBrokenOffIsNotTakenForAWholeOne(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/short" {
			w.Header().Set("Content-Length", "10")
		}
		_, _ = io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
	})
	for _, url := range []string{hosts[0] + "abort", hosts[0] + "short", hosts[1] + "abort", hosts[1] + "short"} {
		var e *mesh.Error
		resp, err := w.client.Get(url)
		if errors.As(err, &e) {
			continue // broken off before the head was on the wire
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if !errors.As(err, &e) || !strings.HasPrefix("part", string(body)) {
			t.Errorf("%s: %q %v", url, body, err)
		}
		_ = resp.Body.Close()
	}
}

// Writing to a connection that was reset raises SIGPIPE; libmesh must not let it reach the program.
func TestAPeerThatResetsDuringAnUploadDoesNotKillTheProcess(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1000))
			_ = conn.(*net.TCPConn).SetLinger(0) // close by a reset
			_ = conn.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	m := open(t, config(map[string]int{"rude": port},
		"defaults: { circuit_breaker: { consecutive_failures: 1000, min_requests: 1000 } }\n"))
	for range 30 {
		resp, err := m.Client().Post("http://rude/", "", io.MultiReader(bytes.NewReader(make([]byte, 20<<20))))
		var e *mesh.Error
		if !errors.As(err, &e) || !e.Sent || e.Attempts != 1 {
			t.Fatalf("%v %v", resp, err)
		}
	}
}
