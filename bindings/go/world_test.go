package mesh_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"libmesh.dev/mesh"
)

// world is a mesh that is client and server at once: the hosts `echo` and `echo-h2` are its own listener.
type world struct {
	*mesh.Mesh
	t      *testing.T
	server *mesh.Server
	client *http.Client
}

// hosts reach the listener of a world by either version of HTTP.
var hosts = []string{"http://echo/", "http://echo-h2/"}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// deadPort is bound until the test is over and nobody listens at it: who connects is refused, and nobody else gets it.
func deadPort(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	syscall.CloseOnExec(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return name.(*syscall.SockaddrInet4).Port
}

// patient is a setting of clusters: no test is about how fast this machine connects.
const patient = "connect_timeout: 60s"

// config routes each of hosts to its own cluster of one endpoint; extra is more of the document.
func config(endpoints map[string]int, extra string) string {
	text := "version: 1\nnode: { service: test }\nclusters:\n"
	for name, port := range endpoints {
		protocol := "auto"
		if strings.HasSuffix(name, "-h2") {
			protocol = "http2"
		}
		text += fmt.Sprintf("  - { name: %s, protocol: %s, %s, endpoints: [ { address: \"127.0.0.1:%d\" } ] }\n",
			name, protocol, patient, port)
	}
	text += "routes:\n"
	for name := range endpoints {
		text += fmt.Sprintf("  - { hosts: [%s], rules: [ { backends: [ { cluster: %s } ] } ] }\n", name, name)
	}
	return text + extra
}

func listener(port int) string {
	return fmt.Sprintf("listeners: [ { name: inbound, address: \"127.0.0.1:%d\" } ]\n", port)
}

func open(t *testing.T, text string) *mesh.Mesh {
	t.Helper()
	m, err := mesh.OpenYAML(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeMesh(t, m) })
	return m
}

func closeMesh(t *testing.T, m *mesh.Mesh) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

func newWorld(t *testing.T, handler http.HandlerFunc, extra ...string) *world {
	t.Helper()
	port := freePort(t)
	endpoints := map[string]int{"echo": port, "echo-h2": port, "dead": deadPort(t)}
	w := &world{Mesh: open(t, config(endpoints, listener(port)+strings.Join(extra, ""))), t: t}
	server, err := w.Listen("inbound", handler)
	if err != nil {
		t.Fatal(err)
	}
	w.server, w.client = server, w.Client()
	return w
}

func (w *world) get(url string) (*http.Response, string) {
	w.t.Helper()
	resp, err := w.client.Get(url)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, readAll(w.t, resp)
}

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
