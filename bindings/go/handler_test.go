package mesh_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"libmesh.dev/mesh"
)

// own is a server of the program's own behind the listener `own` of a document.
type own struct {
	*mesh.Mesh
	t      *testing.T
	server *httptest.Server
}

func newOwn(t *testing.T, document string, handler http.HandlerFunc, set ...func(*httptest.Server)) *own {
	t.Helper()
	m := open(t, "version: 1\nlisteners: [ { name: own } ]\n"+document)
	checked, err := m.Handler("own", handler)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(checked)
	for _, set := range set {
		set(server)
	}
	if server.URL == "" {
		server.Start()
	}
	t.Cleanup(server.Close)
	return &own{m, t, server}
}

func (o *own) do(req *http.Request) (*http.Response, string) {
	o.t.Helper()
	resp, err := o.server.Client().Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp, readAll(o.t, resp)
}

func (o *own) get(path string, headers ...string) (*http.Response, string) {
	o.t.Helper()
	req, _ := http.NewRequest("GET", o.server.URL+path, nil)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return o.do(req)
}

// raw sends a request target as it stands, which a client would not.
func (o *own) raw(target string) (status int, body string) {
	o.t.Helper()
	conn, err := net.Dial("tcp", o.server.Listener.Addr().String())
	if err != nil {
		o.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nhost: own\r\nconnection: close\r\n\r\n", target)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode, readAll(o.t, resp)
}

// counted is the sum of the samples of a metric that have all the labels.
func counted(t *testing.T, m *mesh.Mesh, name string, labels ...string) float64 {
	t.Helper()
	page := httptest.NewRecorder()
	m.MetricsHandler().ServeHTTP(page, httptest.NewRequest("GET", "/", nil))
	sum := 0.0
	for line := range strings.SplitSeq(page.Body.String(), "\n") {
		matches := strings.HasPrefix(line, name+"{")
		for _, label := range labels {
			matches = matches && strings.Contains(line, label)
		}
		if matches {
			value, _ := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			sum += value
		}
	}
	return sum
}

// eventually waits for what the server's side does after the client has its answer.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

const denyAdmin = "policy: { access: { rules: [ { name: admin, action: deny, paths: [/admin*] } ] } }\n"

func TestOwnServerRefusesWhatTheRulesRefuseInAnySpelling(t *testing.T) {
	var asked atomic.Int64
	o := newOwn(t, denyAdmin, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, r.URL.Path, " ", r.RequestURI)
	})
	refused := []string{"/admin", "//admin", "/%61dmin", "/a/../admin", "/admin/", "/./admin", "/a/%2e%2e/admin"}
	for _, path := range refused {
		if status, _ := o.raw(path); status != http.StatusForbidden {
			t.Errorf("%s: %d", path, status)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("the handler was asked %d times", asked.Load())
	}
	for path, seen := range map[string]string{
		"/books":               "/books /books",
		"/a/../books?x=%2e":    "/books /books?x=%2e",
		"/b%20c":               "/b c /b%20c",
		"http://other/books?a": "/books http://other/books?a",
	} {
		if status, body := o.raw(path); status != http.StatusOK || body != seen {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	eventually(t, "every refusal is counted", func() bool {
		return counted(t, o.Mesh, "istio_requests_total", `response_code="403"`) == float64(len(refused))
	})
}

func TestOwnServerTellsItsAnswers(t *testing.T) {
	o := newOwn(t, "", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Kind", "echo")
		w.Header()["Date"] = nil
		w.Header().Set("X-Mesh-Refused", "never, said the application")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
		http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, strings.NewReader("1234567"))
	})
	for _, length := range []int64{5, -1} {
		req, _ := http.NewRequest("POST", o.server.URL+"/", io.NopCloser(strings.NewReader("hello")))
		req.ContentLength = length
		resp, body := o.do(req)
		if resp.StatusCode != http.StatusCreated || body != "hello1234567" || resp.Header.Get("X-Kind") != "echo" {
			t.Errorf("%s %v %q", resp.Status, resp.Header, body)
		}
		if resp.Header["Date"] != nil || resp.Header["X-Mesh-Refused"] != nil {
			t.Errorf("%v", resp.Header)
		}
	}
	eventually(t, "both are counted", func() bool {
		return counted(t, o.Mesh, "istio_requests_total", `response_code="201"`) == 2
	})
	if in, out := counted(t, o.Mesh, "istio_request_bytes_sum"), counted(t, o.Mesh, "istio_response_bytes_sum"); in != 10 || out != 24 {
		t.Errorf("%v bytes in, %v out", in, out)
	}
}

func TestOwnServerSendsTrailersInformationAndFiles(t *testing.T) {
	o := newOwn(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/file" {
			http.ServeContent(w, r, "a.txt", time.Time{}, strings.NewReader("0123456789"))
			return
		}
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "body")
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-More", "43")
	})
	resp, body := o.get("/")
	if body != "body" || resp.Trailer.Get("X-Sum") != "42" || resp.Trailer.Get("X-More") != "43" {
		t.Errorf("%q %v", body, resp.Trailer)
	}
	if resp, body := o.get("/file", "Range", "bytes=2-4"); resp.StatusCode != http.StatusPartialContent || body != "234" {
		t.Errorf("%s %q", resp.Status, body)
	}
	resp, err := o.server.Client().Head(o.server.URL + "/file")
	if err != nil || resp.ContentLength != 10 {
		t.Errorf("%v %v", resp, err)
	}
}

func TestOwnServerContinuesTraceAndDeadline(t *testing.T) {
	port := freePort(t)
	var backend, front string
	m := open(t, config(map[string]int{"echo": port}, fmt.Sprintf(
		"listeners: [ { name: own }, { name: inbound, address: \"127.0.0.1:%d\" } ]\n", port)))
	if _, err := m.Listen("inbound", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		backend = mesh.TraceID(r.Context())
	})); err != nil {
		t.Fatal(err)
	}
	client := m.Client()
	checked, err := m.Handler("own", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		front = mesh.TraceID(r.Context())
		deadline, ok := r.Context().Deadline()
		if !ok || time.Until(deadline) > 20*time.Second {
			t.Errorf("deadline %v %v", deadline, ok)
		}
		req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://echo/", nil)
		if _, err := client.Do(req); err != nil {
			t.Error(err)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest("GET", "/", nil)
	req.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	req.Header.Set("x-envoy-expected-rq-timeout-ms", "20000")
	checked.ServeHTTP(httptest.NewRecorder(), req)
	if front != "0af7651916cd43dd8448eb211c80319c" || backend != front {
		t.Errorf("%q, then %q", front, backend)
	}
}

func TestOwnServerKnowsItsEndUsers(t *testing.T) {
	o := newOwn(t, `policy: { end_users: [ { name: test, issuer: test, require_expiration: false, jwks: { inline: '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}' } } ] }
`, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %q", mesh.Claims(r.Context()), r.Header["Authorization"])
	})
	const token = "Bearer eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJ0ZXN0Iiwic3ViIjoiYWxpY2UiLCJyb2xlcyI6WyJidXllciJdfQ." +
		"qnK8n_zhP12pdUiei9JG2g9cUuKddrMM2OGMl-jYsHfBo6f_eKGO5dFE_YLM-wO-kWCo441_6XGjMOt_c7D6B"
	if _, body := o.get("/", "Authorization", token+"A"); body != `{"iss":"test","sub":"alice","roles":["buyer"]} []` {
		t.Errorf("%q", body)
	}
	if resp, _ := o.get("/", "Authorization", token+"Q"); resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

// authority signs certificates for SPIFFE IDs.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	id, _ := url.Parse("spiffe://test")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, URIs: []*url.URL{id}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{t, key, cert}
}

func (a *authority) issue(id string) tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	uri, _ := url.Parse(id)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore:   time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// files writes an identity and its roots, and says so for a document.
func (a *authority) files(id string) string {
	dir, pair := a.t.TempDir(), a.issue(id)
	key, _ := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: key},
		"ca.pem":   {Type: "CERTIFICATE", Bytes: a.cert.Raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return fmt.Sprintf("identity: { spiffe_id: \"%s\", files: { certificate: %s/cert.pem, key: %[2]s/key.pem, bundle: %[2]s/ca.pem } }\n", id, dir)
}

func TestOwnServerBelievesACertificateOnlyByTheRootsOfTheMesh(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	const page = "spiffe://test/ns/shop/sa/page"
	document := ours.files("spiffe://test/ns/shop/sa/server") +
		"policy: { access: { rules: [ { name: page, action: allow, principals: [\"" + page + "\"] } ] } }\n"
	for _, isHTTP2 := range []bool{false, true} {
		o := newOwn(t, document, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, mesh.PeerID(r.Context()), " ", r.Proto)
		}, func(server *httptest.Server) {
			server.EnableHTTP2 = isHTTP2
			server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert} // asks, and verifies nothing
			server.StartTLS()
		})
		proto := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[isHTTP2]
		for _, c := range []struct {
			certificates []tls.Certificate
			status       int
			body         string
		}{
			{[]tls.Certificate{ours.issue(page)}, 200, page + " " + proto},
			{nil, 403, ""},
			{[]tls.Certificate{ours.issue("spiffe://test/ns/shop/sa/other")}, 403, ""},
			{[]tls.Certificate{other.issue(page)}, 403, ""},
		} {
			transport := o.server.Client().Transport.(*http.Transport).Clone()
			transport.TLSClientConfig.Certificates = c.certificates
			client := &http.Client{Transport: transport}
			for range 2 {
				resp, err := client.Get(o.server.URL)
				if err != nil {
					t.Fatal(err)
				}
				if body := readAll(t, resp); resp.StatusCode != c.status || body != c.body {
					t.Errorf("%s %q", resp.Status, body)
				}
			}
			transport.CloseIdleConnections()
		}
	}
}

func TestOwnServerLimitsRateAndRoom(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	m := open(t, "version: 1\nlisteners: [ { name: own, concurrency: { max_requests: 1, queue: { max_requests: 1, max_wait: 60s } } } ]\n"+
		"policy: { rate_limits: [ { name: few, match: { path: { exact: /few } }, max_tokens: 1, tokens_per_fill: 1, fill_interval: 1h } ] }\n")
	checked, err := m.Handler("own", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-leave
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	serve := func(path string) *httptest.ResponseRecorder {
		recorder := httptest.NewRecorder()
		checked.ServeHTTP(recorder, httptest.NewRequest("GET", path, nil))
		return recorder
	}
	if got := serve("/few"); got.Code != 200 {
		t.Errorf("%d", got.Code)
	}
	if got := serve("/few"); got.Code != 429 || got.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", got.Code, got.Header())
	}
	slow, waiting := make(chan int), make(chan int)
	go func() { slow <- serve("/slow").Code }()
	<-entered
	go func() { waiting <- serve("/").Code }()
	eventually(t, "one waits", func() bool { return counted(t, m, "libmesh_requests_waiting", `listener="own"`) == 1 })
	if got := serve("/"); got.Code != 503 {
		t.Errorf("no room to wait: %d", got.Code)
	}
	gone, cancel := context.WithCancel(context.Background())
	left := make(chan struct{})
	leave <- struct{}{} // the first; the one who waits gets its place
	if first, second := <-slow, <-waiting; first != 200 || second != 200 {
		t.Errorf("%d %d", first, second)
	}
	go func() { slow <- serve("/slow").Code }()
	<-entered
	go func() {
		checked.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, "GET", "/", nil))
		close(left)
	}()
	eventually(t, "one waits again", func() bool { return counted(t, m, "libmesh_requests_waiting", `listener="own"`) == 1 })
	cancel()
	<-left
	eventually(t, "who left waits no more", func() bool { return counted(t, m, "libmesh_requests_waiting", `listener="own"`) == 0 })
	leave <- struct{}{}
	if code := <-slow; code != 200 {
		t.Errorf("%d", code)
	}
	eventually(t, "its place is free", func() bool { return serve("/").Code == 200 })
}

func TestOwnServerShowsBodiesToChecks(t *testing.T) {
	var shown atomic.Value
	policy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		shown.Store(string(body))
		if strings.Contains(string(body), "bad") {
			w.Header()["Content-Type"] = nil // it says nothing of it
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "no such order")
		}
		w.Header().Set("X-User", "7")
	}))
	t.Cleanup(policy.Close)
	o := newOwn(t, fmt.Sprintf("clusters: [ { name: opa, endpoints: [ { address: \"%s\" } ] } ]\n", policy.Listener.Addr())+
		"policy: { checks: [ { name: opa, cluster: opa, failure: closed, timeout: 20s, with_request_body: { max_request_bytes: 10 },\n"+
		"  http: { allowed_upstream_headers: [ x-user ] } } ] }\n",
		func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s for %s", body, r.Header.Get("X-User"))
		})
	for _, c := range []struct {
		body   string
		status int
		answer string
	}{
		{"good", 200, "good for 7"},
		{"0123456789", 200, "0123456789 for 7"},
		{"a bad one", 403, "no such order"},
		{"longer than ten", 413, ""},
	} {
		for _, length := range []int64{int64(len(c.body)), -1} {
			req, _ := http.NewRequest("POST", o.server.URL, io.NopCloser(strings.NewReader(c.body)))
			req.ContentLength = length
			resp, answer := o.do(req)
			if resp.StatusCode != c.status || answer != c.answer {
				t.Errorf("%q: %s %q", c.body, resp.Status, answer)
			}
			if guessed := resp.Header["Content-Type"]; c.status == 403 && guessed != nil {
				t.Errorf("the check said nothing of %q", guessed)
			}
			if c.status == 200 && shown.Load() != c.body {
				t.Errorf("%q was shown as %q", c.body, shown.Load())
			}
		}
	}
}

func TestOwnServerPanicsAndTakenConnectionsEndTheirRequests(t *testing.T) {
	o := newOwn(t, "", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/half":
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		conn, buffer, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(buffer, "HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n")
		_ = buffer.Flush()
		line, _ := buffer.ReadString('\n')
		fmt.Fprint(conn, line)
	})
	for _, path := range []string{"/abort", "/half"} {
		resp, err := o.server.Client().Get(o.server.URL + path)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: whole", path)
		}
	}
	conn, err := net.Dial("tcp", o.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /echo HTTP/1.1\r\nhost: own\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\nhello\n")
	answer, _ := io.ReadAll(bufio.NewReader(conn))
	if !regexp.MustCompile(`(?s)^HTTP/1.1 101 .*\r\n\r\nhello\n$`).Match(answer) {
		t.Errorf("%q", answer)
	}
	eventually(t, "nothing is in flight", func() bool {
		return counted(t, o.Mesh, "libmesh_requests_in_flight", `side="inbound"`) == 0
	})
	for code, count := range map[string]float64{"500": 1, "200": 1, "101": 1} {
		if got := counted(t, o.Mesh, "istio_requests_total", `response_code="`+code+`"`); got != count {
			t.Errorf("%v of %s", got, code)
		}
	}
}

func TestOwnServerMayLetItsWriterEscape(t *testing.T) {
	var escaped http.ResponseWriter
	m := open(t, "version: 1\nlisteners: [ { name: own } ]\n")
	checked, err := m.Handler("own", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { escaped = w }))
	if err != nil {
		t.Fatal(err)
	}
	checked.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	escaped.WriteHeader(500)
	_, _ = escaped.Write([]byte("late"))
	ok, late := counted(t, m, "istio_requests_total", `response_code="200"`), counted(t, m, "istio_requests_total", `response_code="500"`)
	if ok != 1 || late != 0 || counted(t, m, "istio_response_bytes_sum") != 0 {
		t.Errorf("what comes late is counted: %v %v", ok, late)
	}
}

func TestOwnServerOfAClosedMeshServesNobody(t *testing.T) {
	m := open(t, "version: 1\nlisteners: [ { name: own } ]\n")
	checked, err := m.Handler("own", http.NotFoundHandler())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Handler("nowhere", nil); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("%v", err)
	}
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	checked.ServeHTTP(recorder, httptest.NewRequest("GET", "/", nil))
	if recorder.Code != 503 {
		t.Errorf("%d", recorder.Code)
	}
	if _, err := m.Handler("own", nil); err == nil {
		t.Error("a closed mesh has a handler")
	}
}

func TestOwnServerKnowsAnAddressWithAZone(t *testing.T) {
	m := open(t, "version: 1\nlisteners: [ { name: own } ]\n"+
		"policy: { authorization: { policies: [ { metadata: { name: local }, spec: { action: DENY, rules: [\n"+
		"  { from: [ { source: { ipBlocks: ['fe80::/10'] } } ] } ] } } ] } }\n")
	checked, err := m.Handler("own", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err != nil {
		t.Fatal(err)
	}
	for address, status := range map[string]int{"[fe80::1%eth0]:4711": 403, "[fd00::1]:4711": 200, "@": 200} {
		req, recorder := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder()
		req.RemoteAddr = address
		if checked.ServeHTTP(recorder, req); recorder.Code != status {
			t.Errorf("%s: %d", address, recorder.Code)
		}
	}
}

func TestOwnServerPassesOverWhatNetHTTPKeepsAmongHeaders(t *testing.T) {
	m := open(t, "version: 1\nlisteners: [ { name: own } ]\n")
	checked, err := m.Handler("own", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err != nil {
		t.Fatal(err)
	}
	req, recorder := httptest.NewRequest("CONNECT", "/", nil), httptest.NewRecorder()
	req.Header[":protocol"] = []string{"websocket"}
	if checked.ServeHTTP(recorder, req); recorder.Code != 200 {
		t.Errorf("%d", recorder.Code)
	}
}
