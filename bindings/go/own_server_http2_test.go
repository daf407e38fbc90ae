package mesh_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// overHTTP2 sends one request with these fields as they stand, which a client of net/http would not, and returns when
// it was answered.
func overHTTP2(t *testing.T, address string, fields ...[2]string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	var block []byte
	for _, field := range fields { // RFC 7541 6.2.2: literal, not indexed, new name
		block = append(block, 0)
		for _, text := range field {
			block = append(append(block, byte(len(text))), text...)
		}
	}
	const settings, headers, endOfStreamAndHeaders = 4, 1, 5
	frame := func(kind, flags byte, stream uint32, payload []byte) []byte {
		head := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
		return append(binary.BigEndian.AppendUint32(append(head, flags), stream), payload...)
	}
	fmt.Fprint(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	_, _ = conn.Write(frame(settings, 0, 0, nil))
	_, _ = conn.Write(frame(headers, endOfStreamAndHeaders, 1, block))
	for head := make([]byte, 9); ; {
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatal(err)
		}
		length, kind := binary.BigEndian.Uint32(head)>>8, head[3]
		_, _ = io.CopyN(io.Discard, conn, int64(length))
		if isOver := head[4]&1 != 0; isOver && kind <= headers && binary.BigEndian.Uint32(head[5:]) == 1 {
			return
		}
	}
}

func TestOwnServerIsAskedForItsAuthorityWhateverAHostFieldSays(t *testing.T) {
	seen := make(chan string, 8)
	o := newOwn(t, "policy: { access: { rules: [ { name: admin, action: deny, hosts: [admin.internal] } ] } }\n",
		func(_ http.ResponseWriter, r *http.Request) { seen <- r.Host + fmt.Sprint(r.Header["Host"]) },
		func(server *httptest.Server) {
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
		})
	address := o.server.Listener.Addr().String()
	ask := func(authority string, hosts ...string) {
		fields := [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", authority}}
		for _, host := range hosts {
			fields = append(fields, [2]string{"host", host})
		}
		overHTTP2(t, address, fields...)
	}
	ask("admin.internal", "public.example")
	ask("admin.internal")
	ask("public.example", "admin.internal")
	ask("public.example", "a.example", "b.example") // nobody knows which one is meant
	if first := <-seen; first != "public.example[]" {
		t.Errorf("%q", first)
	}
	if len(seen) > 0 {
		t.Errorf("%q", <-seen)
	}
	for code, count := range map[string]float64{"403": 2, "200": 1, "400": 1} {
		eventually(t, code, func() bool {
			return counted(t, o.Mesh, "istio_requests_total", `response_code="`+code+`"`) == count
		})
	}
}
