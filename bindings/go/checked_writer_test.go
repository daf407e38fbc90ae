package mesh_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"testing"
	"testing/iotest"
)

// lines is the head of the answer to a request, as it stands.
func (o *own) lines(request string) string {
	o.t.Helper()
	conn, err := net.Dial("tcp", o.server.Listener.Addr().String())
	if err != nil {
		o.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nhost: own\r\nconnection: close\r\n\r\n", request)
	answer, _ := io.ReadAll(conn)
	head, _, _ := strings.Cut(string(answer), "\r\n\r\n")
	return head + "\r\n"
}

func TestOwnServerSendsEachHeaderOnceAsItsHandlerSpellsIt(t *testing.T) {
	o := newOwn(t, "", func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["ETag"] = []string{`"1"`}
		w.Header()["X-Mesh-Refused"] = []string{"never, said the application"}
		w.Header()["x-MESH-refused"] = []string{"never, said the application"}
	})
	head := o.lines("GET /")
	if strings.Count(strings.ToLower(head), "etag:") != 1 || !strings.Contains(head, "\r\nETag: \"1\"\r\n") {
		t.Errorf("%q", head)
	}
	if strings.Contains(strings.ToLower(head), "x-mesh-refused") {
		t.Errorf("what the mesh takes away is sent: %q", head)
	}
}

func TestOwnServerTellsAnAnswerWithHeadersThatHTTPCannotCarry(t *testing.T) {
	o := newOwn(t, "", func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["X-Err"] = []string{"a\nb"}
		w.Header()["Bad Name"] = []string{"c"}
		w.Header()["X-Mesh-Refused"] = []string{"never, said the application"}
		w.WriteHeader(http.StatusTeapot)
	})
	head := o.lines("GET /")
	if !strings.Contains(head, "\r\nX-Err: a b\r\n") || strings.Contains(head, "Bad Name") {
		t.Errorf("%q", head)
	}
	if strings.Contains(head, "X-Mesh-Refused") {
		t.Errorf("the engine was not asked: %q", head)
	}
	eventually(t, "it is counted with its status", func() bool {
		return counted(t, o.Mesh, "istio_requests_total", `response_code="418"`, `response_flags="-"`) == 1
	})
}

func TestOwnServerWhoseSourceFailsHasNotLostItsPeer(t *testing.T) {
	o := newOwn(t, "", func(w http.ResponseWriter, _ *http.Request) {
		source := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("the disk is full")))
		if n, err := io.Copy(w, source); n != 4 || err == nil {
			t.Errorf("%d %v", n, err)
		}
	})
	o.get("/")
	eventually(t, "it is no peer that is gone", func() bool {
		return counted(t, o.Mesh, "istio_requests_total", `response_code="200"`, `response_flags="-"`) == 1
	})
}

// lost is a writer whose peer is gone.
type lost struct{ *httptest.ResponseRecorder }

var errLost = errors.New("the peer is gone")

func (lost) Write([]byte) (int, error) { return 0, errLost }
func (lost) FlushError() error         { return errLost }

func TestOwnServerThatIsToldOfALostPeerHasGivenUp(t *testing.T) {
	m := open(t, "version: 1\nlisteners: [ { name: own } ]\n")
	checked, err := m.Handler("own", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/flush":
			if err := http.NewResponseController(w).Flush(); err != errLost {
				t.Errorf("%v", err)
			}
		case "/panic":
			_, _ = w.Write([]byte("x"))
			panic(http.ErrAbortHandler)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{"/flush", "/panic"} {
		func() {
			defer func() { _ = recover() }()
			checked.ServeHTTP(lost{httptest.NewRecorder()}, httptest.NewRequest("GET", path, nil))
		}()
		if got := counted(t, m, "istio_requests_total", `response_flags="DC"`); got != float64(i+1) {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestOwnServerIsNotifiedOfAClosedConnection(t *testing.T) {
	isTold := make(chan bool)
	o := newOwn(t, "", func(w http.ResponseWriter, _ *http.Request) {
		gone := w.(http.CloseNotifier).CloseNotify() // as gin does
		_ = http.NewResponseController(w).Flush()
		isTold <- <-gone
	})
	conn, err := net.Dial("tcp", o.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nhost: own\r\n\r\n")
	if _, err := textproto.NewReader(bufio.NewReader(conn)).ReadLine(); err != nil {
		t.Error(err)
	}
	conn.Close()
	<-isTold
}

func TestOwnServerSendsNoBodyToHEAD(t *testing.T) {
	o := newOwn(t, "", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello")
		_, _ = io.Copy(w, strings.NewReader("hello"))
	})
	req, _ := http.NewRequest("HEAD", o.server.URL, nil)
	o.do(req)
	eventually(t, "it is counted", func() bool { return counted(t, o.Mesh, "istio_requests_total") == 1 })
	if sent := counted(t, o.Mesh, "istio_response_bytes_sum"); sent != 0 {
		t.Errorf("%v bytes", sent)
	}
}

// layered is the writer of an outer layer, as many are: only http.ResponseController sees through it.
type layered struct{ http.ResponseWriter }

func (l layered) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func TestOwnServerGivesAConnectionThroughAnOuterLayer(t *testing.T) {
	m := open(t, "version: 1\nlisteners: [ { name: own } ]\n")
	taken := make(chan net.Conn, 1)
	checked, err := m.Handler("own", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
		}
		taken <- conn
	}))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		checked.ServeHTTP(layered{w}, r)
	}))
	defer server.Close()
	client, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fmt.Fprint(client, "GET / HTTP/1.1\r\nhost: own\r\n\r\n")
	conn := <-taken
	if got := counted(t, m, "libmesh_requests_in_flight", `side="inbound"`); got != 1 {
		t.Errorf("%v in flight", got)
	}
	fmt.Fprint(conn, "hello")
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(client); string(got) != "hello" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	conn.Close()
	if got := counted(t, m, "istio_requests_total", `response_code="101"`); got != 1 {
		t.Errorf("%v ended", got)
	}
}
