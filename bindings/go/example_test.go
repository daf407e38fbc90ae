package mesh_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"libmesh.dev/mesh"
)

// A client needs nothing but the transport.
func ExampleMesh_Transport() {
	m, err := mesh.Open("mesh.yaml")
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close(context.Background())
	client := &http.Client{Transport: m.Transport()}
	resp, err := client.Get("http://reviews/reviews/0")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(log.Writer(), resp.Body)
}

// A server is an http.Handler. What it calls with the request's context continues trace and deadline.
func ExampleMesh_Listen() {
	m, err := mesh.Open("mesh.yaml")
	if err != nil {
		log.Fatal(err)
	}
	client := m.Client()
	server, err := m.Listen("inbound", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), "GET", "http://ratings/ratings/0", nil)
		resp, err := client.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		fmt.Fprintf(w, "for %s: ", mesh.PeerID(r.Context()))
		_, _ = io.Copy(w, resp.Body)
	}))
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", server.Addr())
	time.Sleep(time.Hour)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = server.Shutdown(ctx)
	_ = m.Close(ctx)
}
