// Command ratings: the stars reviewers give. A net/http handler like any other, on the mesh's listener.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"

	"libmesh.dev/mesh"
)

type ratings struct {
	ID      int            `json:"id"`
	Ratings map[string]int `json:"ratings"`
}

func answer(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		http.Error(w, "please provide a numeric product id", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	stars := map[string]int{"Reviewer1": 5, "Reviewer2": 4}
	if err := json.NewEncoder(w).Encode(ratings{id, stars}); err != nil {
		log.Printf("the caller went away: %v", err)
	}
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: ratings CONFIG")
	}
	m, err := mesh.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /ratings/{id}", answer)
	server, err := m.Listen("inbound", routes)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ratings on", server.Addr())

	server.Wait() // until it was drained: POST /drain on the admin page
}
