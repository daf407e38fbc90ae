package mesh_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// uploads is an own server whose checks want the bodies of /upload.
func uploads(t *testing.T, handler http.HandlerFunc) *own {
	t.Helper()
	policy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(policy.Close)
	return newOwn(t, fmt.Sprintf("clusters: [ { name: opa, endpoints: [ { address: \"%s\" } ] } ]\n", policy.Listener.Addr())+
		"policy:\n  access: { rules: [ { name: admin, action: deny, paths: [/admin*] } ] }\n"+
		"  checks: [ { name: opa, cluster: opa, timeout: 20s, match: { path: { exact: /upload } }, http: {},\n"+
		"    with_request_body: { max_request_bytes: 10 } } ]\n", handler)
}

// answerTo sends the beginning of a request as it stands, and nothing after it.
func (o *own) answerTo(head string) *http.Response {
	o.t.Helper()
	conn, err := net.Dial("tcp", o.server.Listener.Addr().String())
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprint(conn, strings.ReplaceAll(head, "\n", "\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp
}

func TestOwnServerReadsNoBodyThatNoCheckGetsTo(t *testing.T) {
	o := uploads(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upload" {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
			return
		}
		controller := http.NewResponseController(w)
		_ = controller.EnableFullDuplex()
		_, _ = io.WriteString(w, "before the body")
		_ = controller.Flush()
		_, _ = io.Copy(io.Discard, r.Body)
	})
	const chunked = "\nhost: own\ntransfer-encoding: chunked\n"
	if resp := o.answerTo("POST /chat HTTP/1.1" + chunked + "\n"); resp.StatusCode != 200 {
		t.Errorf("of no check: %s", resp.Status)
	}
	if resp := o.answerTo("CONNECT other:80 HTTP/1.1" + chunked + "\n"); resp.StatusCode != 200 {
		t.Errorf("what follows a CONNECT is no body: %s", resp.Status)
	}
	// 100 Continue would come first.
	if resp := o.answerTo("POST /admin HTTP/1.1" + chunked + "expect: 100-continue\n\n"); resp.StatusCode != 403 {
		t.Errorf("refused anyway: %s", resp.Status)
	}
	// Its length says that it is too long.
	if resp := o.answerTo("POST /upload HTTP/1.1\nhost: own\ncontent-length: 11\nexpect: 100-continue\n\n"); resp.StatusCode != 413 {
		t.Errorf("too long: %s", resp.Status)
	}
	req, _ := http.NewRequest("POST", o.server.URL+"/upload", io.NopCloser(strings.NewReader("wanted")))
	if resp, body := o.do(req); resp.StatusCode != 200 || body != "wanted" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

func TestOwnServerWaitsForABodyNoLongerThanItsCaller(t *testing.T) {
	o := uploads(t, func(http.ResponseWriter, *http.Request) { t.Error("it was admitted") })
	resp := o.answerTo("POST /upload HTTP/1.1\nhost: own\ncontent-length: 4\nx-envoy-expected-rq-timeout-ms: 50\n\n12")
	if resp.StatusCode != http.StatusGatewayTimeout {
		t.Error(resp.Status)
	}
	eventually(t, "it is counted so", func() bool {
		return counted(t, o.Mesh, "istio_requests_total", `response_code="504"`) == 1
	})
}

func TestOwnServerWhoseBodyBreaksOffWasAskedForNothing(t *testing.T) {
	o := uploads(t, func(http.ResponseWriter, *http.Request) { t.Error("it was admitted") })
	resp := o.answerTo("POST /upload HTTP/1.1\nhost: own\ntransfer-encoding: chunked\n\nno chunk\n")
	if resp.StatusCode != http.StatusBadRequest {
		t.Error(resp.Status)
	}
}
