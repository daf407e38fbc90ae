package mesh_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
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

// A program that keeps its own server puts its handler behind a listener of the configuration, which needs no
// address: access rules, end users, limits, checks and telemetry are the mesh's, connections are the server's.
func ExampleMesh_Handler() {
	m, err := mesh.OpenYAML(`version: 1
listeners: [ { name: inbound } ]
policy: { access: { rules: [ { name: admin, action: deny, paths: [/admin*] } ] } }
`)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello at %s", r.URL.Path) })
	checked, err := m.Handler("inbound", mux)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(checked) // or http.ListenAndServe(":8080", checked)
	defer server.Close()
	for _, path := range []string{"/books", "/%61dmin"} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Println(resp.StatusCode, string(body))
	}
	// Output:
	// 200 hello at /books
	// 403
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
