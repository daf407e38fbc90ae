// Command server is the Go server of the stories: it says hello to the peer.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"libmesh.dev/mesh"
)

func main() {
	m, err := mesh.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server, err := m.Listen("inbound", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", mesh.PeerID(r.Context()))
	}))
	if err != nil {
		log.Fatal(err)
	}
	server.Wait()
}
