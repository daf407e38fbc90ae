// Command server is the Go server of the stories: it says hello to the peer; under /claims, who the end user is
// and how often it was called. server mesh.yaml serves on the listener `inbound`; with a port, an http.Server of its own
// does, behind that listener.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"sync/atomic"

	"libmesh.dev/mesh"
)

func main() {
	m, err := mesh.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var calls atomic.Int64
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/claims" {
			_ = json.NewEncoder(w).Encode(map[string]any{"calls": calls.Add(1), "claims": mesh.Claims(r.Context())})
			return
		}
		fmt.Fprintf(w, "hello %s", mesh.PeerID(r.Context()))
	})
	if len(os.Args) > 2 {
		checked, err := m.Handler("inbound", hello)
		if err != nil {
			log.Fatal(err)
		}
		log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[2], checked))
	}
	server, err := m.Listen("inbound", hello)
	if err != nil {
		log.Fatal(err)
	}
	server.Wait()
}
