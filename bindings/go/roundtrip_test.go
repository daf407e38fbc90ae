package mesh_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("X-Seen", r.Method+" "+r.URL.String()+" "+r.Host)
	w.Header().Add("X-Two", "a")
	w.Header().Add("X-Two", "b")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(body)
}

func TestARequestAndItsAnswerArriveAsTheyWereSent(t *testing.T) {
	w := newWorld(t, echo)
	resp, err := w.client.Post("http://echo/a/b?c=d", "text/plain", strings.NewReader("payload"))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp); got != "payload" {
		t.Errorf("body %q", got)
	}
	if resp.StatusCode != 201 || resp.Header.Get("X-Seen") != "POST /a/b?c=d echo" || resp.ContentLength != 7 {
		t.Errorf("%v %v %d", resp.Status, resp.Header, resp.ContentLength)
	}
	if two := resp.Header["X-Two"]; len(two) != 2 || two[0] != "a" || two[1] != "b" {
		t.Errorf("X-Two is %q", two)
	}
}
