package mesh_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"libmesh.dev/mesh"
)

func TestTraceAndDeadlineFlowFromARequestToTheCallsMadeForIt(t *testing.T) {
	var client atomic.Pointer[http.Client]
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		_, hasDeadline := r.Context().Deadline()
		text := fmt.Sprintf("%s %s %v\n", r.URL.Path, mesh.TraceID(r.Context()), hasDeadline)
		if r.URL.Path == "/first" {
			req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://echo/second", nil)
			resp, err := client.Load().Do(req)
			if err != nil {
				http.Error(rw, err.Error(), 500)
				return
			}
			text += readAll(t, resp)
		}
		_, _ = io.WriteString(rw, text)
	})
	client.Store(w.client)
	const trace = "0af7651916cd43dd8448eb211c80319c"
	plain, _ := http.NewRequest("GET", "http://"+w.server.Addr()+"/first", nil)
	plain.Header.Set("traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	resp, err := http.DefaultClient.Do(plain)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	lines := strings.Split(readAll(t, resp), "\n")
	if lines[0] != "/first "+trace+" false" && lines[0] != "/first "+trace+" true" || lines[1] != "/second "+trace+" true" {
		t.Errorf("%q", lines)
	}
}

func TestADeadlineOfTheCallerEndsTheHandlersContext(t *testing.T) {
	ended, caller := make(chan error, 1), make(chan struct{})
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		ended <- r.Context().Err()
		// The handler's time ends a little before the caller's: an answer now would be in time.
		<-caller
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://echo/", nil)
	if _, err := w.client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("caller: %v", err)
	}
	close(caller)
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the handler's context goes on")
	}
}

func TestWorkThatOutlivesItsRequestIsHarmless(t *testing.T) {
	late := make(chan context.Context, 1)
	var escaped http.ResponseWriter
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			escaped = w
			late <- context.WithoutCancel(r.Context())
		}
	})
	w.get("http://echo/first")
	req, _ := http.NewRequestWithContext(<-late, "GET", "http://echo/second", nil)
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, resp)
	if _, err := escaped.Write([]byte("x")); err == nil {
		t.Error("an answer can be written after its handler returned")
	}
}

// The key is the one that RFC 8037 A.1 publishes; the token never ends.
const (
	endUsers = "policy: { end_users: [ { name: test, issuer: test, require_expiration: false, jwks: { inline: " +
		`'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'` + " } } ] }\n"
	token = "eyJhbGciOiJFZERTQSJ9." +
		"eyJpc3MiOiJ0ZXN0Iiwic3ViIjoiYWxpY2UiLCJyb2xlcyI6WyJidXllciJdfQ." +
		"qnK8n_zhP12pdUiei9JG2g9cUuKddrMM2OGMl-jYsHfBo6f_eKGO5dFE_YLM-wO-kWCo441_6XGjMOt_c7D6BA"
)

func TestAHandlerReadsTheClaimsOfAVerifiedTokenAndOnlyOfOne(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		var claims struct {
			Sub   string
			Roles []string
		}
		if raw := mesh.Claims(r.Context()); raw == nil {
			_, _ = io.WriteString(w, "nobody")
		} else if err := json.Unmarshal(raw, &claims); err != nil {
			t.Error(err)
		}
		_, _ = fmt.Fprint(w, claims.Sub, claims.Roles, r.Header.Get("Authorization"))
	}, endUsers)
	for _, c := range []struct {
		token  string
		status int
		body   string
	}{
		{"", 200, "nobody[]"},
		{"Bearer " + token, 200, "alice[buyer]"},
		{"Bearer " + token[:len(token)-4] + "AAAA", 401, ""},
	} {
		req, _ := http.NewRequest("GET", "http://echo/", nil)
		if c.token != "" {
			req.Header.Set("Authorization", c.token)
		}
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, resp); resp.StatusCode != c.status || got != c.body {
			t.Errorf("%q: %d %q", c.token, resp.StatusCode, got)
		}
	}
}

func TestMutualTLSTellsEachSideWhoTheOtherIs(t *testing.T) {
	ca := t.TempDir()
	identity := func(name string) string {
		return fmt.Sprintf("identity: { spiffe_id: \"spiffe://test/ns/default/sa/%s\", dev_ca: { directory: %q } }\n", name, ca)
	}
	port := freePort(t)
	server := open(t, "version: 1\n"+identity("server")+listener(port))
	if _, err := server.Listen("inbound", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, mesh.PeerID(r.Context()))
	})); err != nil {
		t.Fatal(err)
	}
	client := func(expected string) *mesh.Mesh {
		return open(t, fmt.Sprintf("version: 1\n%sclusters: [ { name: a, %s, tls: { server_ids: [\"spiffe://test/ns/default/sa/%s\"] },"+
			" endpoints: [ { address: \"127.0.0.1:%d\" } ] } ]\nroutes: [ { hosts: [a], rules: [ { backends: [ { cluster: a } ] } ] } ]\n",
			identity("client"), patient, expected, port))
	}
	var report mesh.Report
	req, _ := http.NewRequestWithContext(mesh.WithReport(context.Background(), &report), "GET", "http://a/", nil)
	resp, err := client("server").Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp); got != "spiffe://test/ns/default/sa/client" {
		t.Errorf("the server saw %q", got)
	}
	if report.PeerID != "spiffe://test/ns/default/sa/server" {
		t.Errorf("the client saw %q", report.PeerID)
	}
	_, err = client("somebody-else").Client().Get("http://a/")
	var e *mesh.Error
	if !errors.As(err, &e) || e.Kind != mesh.KindPeerIdentity || e.Sent {
		t.Errorf("wrong server: %v", err)
	}
	// A caller without a certificate does not get as far as the handler.
	if resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port)); err == nil {
		t.Errorf("plaintext was answered: %s", resp.Status)
	}
}

func TestAHandlerThatPanicsGivesA500AndNothingElseHappens(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic(http.ErrAbortHandler)
		}
	})
	if resp, _ := w.get("http://echo/panic"); resp.StatusCode != 500 {
		t.Errorf("%s", resp.Status)
	}
	if resp, _ := w.get("http://echo/fine"); resp.StatusCode != 200 {
		t.Errorf("%s", resp.Status)
	}
}

func TestARequestSaysWhatNetHTTPSays(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		_, _ = fmt.Fprintf(w, "%s %s %s %d %v %v %v", r.Method, r.RequestURI, r.Host, r.ContentLength, host, err, local != nil)
	})
	if _, body := w.get("http://echo/a?b=c"); body != "GET /a?b=c echo 0 127.0.0.1 <nil> true" {
		t.Errorf("%q", body)
	}
	resp, err := w.client.Post("http://echo/p", "", strings.NewReader("four"))
	if err != nil {
		t.Fatal(err)
	}
	if body := readAll(t, resp); body != "POST /p echo 4 127.0.0.1 <nil> true" {
		t.Errorf("%q", body)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
}

func TestTheMeshTellsItsStatusAndMetrics(t *testing.T) {
	w := newWorld(t, echo)
	w.get("http://echo/")
	status, err := w.Status()
	if err != nil || !json.Valid(status) {
		t.Errorf("%s %v", status, err)
	}
	page := httptest.NewRecorder()
	w.MetricsHandler().ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(page.Body.String(), "istio_requests_total{") || page.Code != 200 {
		t.Errorf("%d %s", page.Code, page.Body)
	}
}

func TestAReloadMovesTrafficAndABadOneChangesNothing(t *testing.T) {
	named := func(name string) (int, *mesh.Mesh) {
		port := freePort(t)
		m := open(t, "version: 1\n"+listener(port))
		if _, err := m.Listen("inbound", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, name)
		})); err != nil {
			t.Fatal(err)
		}
		return port, m
	}
	a, _ := named("a")
	b, _ := named("b")
	file := filepath.Join(t.TempDir(), "mesh.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(config(map[string]int{"x": a}, ""))
	m, err := mesh.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer closeMesh(t, m)
	get := func() string {
		resp, err := m.Client().Get("http://x/")
		if err != nil {
			t.Fatal(err)
		}
		return readAll(t, resp)
	}
	if got := get(); got != "a" {
		t.Errorf("at first %q", got)
	}
	if revision, err := m.ReloadYAML(config(map[string]int{"x": b}, "")); err != nil || revision != 2 || get() != "b" {
		t.Errorf("revision %d, %v", revision, err)
	}
	var e *mesh.Error
	if _, err := m.ReloadYAML("version: 1\nnonsense: 1\n"); !errors.As(err, &e) || e.Kind != mesh.KindConfig || get() != "b" {
		t.Errorf("%v", err)
	}
	if revision, err := m.Reload(file); err != nil || revision != 3 || get() != "a" {
		t.Errorf("revision %d, %v", revision, err)
	}
}

func TestADrainLetsWhatIsInFlightFinish(t *testing.T) {
	arrived, release := make(chan bool), make(chan bool)
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "finished")
	})
	caller := open(t, config(map[string]int{"echo": w.server.Port()}, ""))
	answer := make(chan string, 1)
	go func() {
		resp, err := caller.Client().Get("http://echo/")
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- readAll(t, resp)
	}()
	<-arrived
	drained := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		drained <- w.server.Shutdown(ctx)
	}()
	waited := make(chan bool)
	go func() { w.server.Wait(); close(waited) }()
	time.Sleep(100 * time.Millisecond)
	select {
	case err := <-drained:
		t.Errorf("drained before the request was answered: %v", err)
	default:
	}
	close(release)
	if got := <-answer; got != "finished" {
		t.Errorf("got %q", got)
	}
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	<-waited
}

func TestAClosedServerRefuses(t *testing.T) {
	arrived := make(chan bool, 1)
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-r.Context().Done()
		w.WriteHeader(http.StatusGatewayTimeout)
	})
	answer := make(chan int, 1)
	go func() {
		resp, err := w.client.Post("http://echo/", "", nil)
		if err != nil {
			answer <- -1
			return
		}
		readAll(t, resp)
		answer <- resp.StatusCode
	}()
	<-arrived
	_ = w.server.Close()
	if got := <-answer; got != http.StatusGatewayTimeout {
		t.Errorf("in flight: %d", got)
	}
	resp, err := w.client.Post("http://echo/", "", nil)
	if err != nil || resp.StatusCode != 503 {
		t.Errorf("afterwards: %v %v", resp, err)
	}
}

func TestAnIngressRoutesWithoutCode(t *testing.T) {
	w := newWorld(t, echo)
	front := freePort(t)
	ingress := open(t, config(map[string]int{"echo": w.server.Port()}, listener(front)))
	server, err := ingress.Forward("inbound")
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("GET", "http://"+server.Addr()+"/through", nil)
	req.Host = "echo"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	readAll(t, resp)
	if resp.StatusCode != 201 || resp.Header.Get("X-Seen") != "GET /through echo" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

func TestAMeshThatIsNotServingIsAskedOnlyForWantOfAnother(t *testing.T) {
	var seen [2]atomic.Int64
	var meshes [2]*mesh.Mesh
	var endpoints []string
	for i := range meshes {
		port := freePort(t)
		meshes[i] = open(t, "version: 1\n"+listener(port))
		count := func(w http.ResponseWriter, _ *http.Request) { seen[i].Add(1) }
		if _, err := meshes[i].Listen("inbound", http.HandlerFunc(count)); err != nil {
			t.Fatal(err)
		}
		endpoints = append(endpoints, fmt.Sprintf("{ address: \"127.0.0.1:%d\" }", port))
	}
	text := "version: 1\nclusters: [ { name: pair, endpoints: [" + strings.Join(endpoints, ",") + "] } ]\n" +
		"routes: [ { hosts: [pair], rules: [ { backends: [ { cluster: pair } ] } ] } ]\n"
	client := &http.Client{Transport: open(t, text).Transport()}
	call := func(times int) {
		for range times {
			resp, err := client.Get("http://pair/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
	}
	if err := meshes[0].SetServing(false); err != nil {
		t.Fatal(err)
	}
	for seen[0].Load() == 0 {
		call(1)
	}
	call(50)
	if n := seen[0].Load(); n != 1 {
		t.Errorf("%d requests after the notice", n-1)
	}
}

func TestCloseEndsADrainAndWhoWaitsForIt(t *testing.T) {
	w := newWorld(t, echo)
	drained, waited := make(chan error, 1), make(chan bool)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		drained <- w.Drain(ctx)
	}()
	go func() {
		w.server.Wait()
		close(waited)
	}()
	time.Sleep(100 * time.Millisecond)
	begin := time.Now()
	closeMesh(t, w.Mesh)
	<-waited
	<-drained
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// A reverse proxy uses all of the contract on both sides.
func TestAReverseProxyWorksUnchanged(t *testing.T) {
	w := newWorld(t, echo)
	front := freePort(t)
	gateway := open(t, config(map[string]int{"echo": w.server.Port()}, listener(front)))
	target, _ := url.Parse("http://echo/base")
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: gateway.Transport(),
	}
	server, err := gateway.Listen("inbound", proxy)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post("http://"+server.Addr()+"/a?b=c", "", io.MultiReader(strings.NewReader("through")))
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	if got := readAll(t, resp); got != "through" || resp.Header.Get("X-Seen") != "POST /base/a?b=c echo" {
		t.Errorf("%q %v", got, resp.Header)
	}
}
