// Command driver is the Go driver of the scenario corpus: an http.Client over the mesh's transport. The
// protocol is in tests/src/driver.rs.
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"time"

	"libmesh.dev/mesh"
)

type job struct {
	Config string
	Groups []struct {
		PauseMS  int64 `json:"pause_ms"`
		Requests []call
	}
}

type call struct {
	ID         int
	Method     string
	URL        string
	Headers    [][2]string
	Body       *string
	Chunks     []string
	TimeoutMS  *int64 `json:"timeout_ms"`
	Idempotent *bool
}

type outcome struct {
	ID        int         `json:"id"`
	Status    *int        `json:"status,omitempty"`
	Error     string      `json:"error,omitempty"`
	BodyError string      `json:"body_error,omitempty"`
	Attempts  int         `json:"attempts"`
	Cluster   string      `json:"cluster,omitempty"`
	Endpoint  string      `json:"endpoint,omitempty"`
	Headers   [][2]string `json:"headers"`
	Body      string      `json:"body"`
	Trailers  [][2]string `json:"trailers"`
	MS        int64       `json:"ms"`
}

func main() {
	var job job
	if err := json.NewDecoder(os.Stdin).Decode(&job); err != nil {
		log.Fatal(err)
	}
	m, err := mesh.Open(job.Config)
	if err != nil {
		log.Fatal(err)
	}
	client := m.Client()
	for _, group := range job.Groups {
		time.Sleep(time.Duration(group.PauseMS) * time.Millisecond)
		outcomes := make([]*outcome, len(group.Requests))
		var all sync.WaitGroup
		for i := range group.Requests {
			all.Add(1)
			go func() {
				defer all.Done()
				outcomes[i] = one(client, &group.Requests[i])
			}()
		}
		all.Wait()
		for _, outcome := range outcomes {
			printLine(outcome)
		}
	}
	page := httptest.NewRecorder()
	m.MetricsHandler().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	printLine(map[string]string{"metrics": page.Body.String()})
	_ = m.Close(context.Background())
}

func printLine(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

func one(client *http.Client, call *call) *outcome {
	started := time.Now()
	out := &outcome{ID: call.ID, Headers: [][2]string{}, Trailers: [][2]string{}}
	ctx := context.Background()
	if call.TimeoutMS != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*call.TimeoutMS)*time.Millisecond)
		defer cancel()
	}
	if call.Idempotent != nil {
		ctx = mesh.WithIdempotent(ctx, *call.Idempotent)
	}
	var report mesh.Report
	request, err := http.NewRequestWithContext(mesh.WithReport(ctx, &report), call.Method, call.URL, body(call))
	if err != nil {
		log.Fatal(err)
	}
	for _, pair := range call.Headers {
		request.Header.Add(pair[0], pair[1])
	}
	response, err := client.Do(request)
	if err != nil {
		var failed *mesh.Error
		if !errors.As(err, &failed) {
			failed = &mesh.Error{Kind: mesh.Kind("foreign: " + err.Error())}
		}
		out.Error, out.Attempts = string(failed.Kind), failed.Attempts
		out.Cluster, out.Endpoint = failed.Cluster, failed.Endpoint
	} else {
		read(response, out)
		out.Attempts, out.Cluster, out.Endpoint = report.Attempts, report.Cluster, report.Endpoint
	}
	out.MS = time.Since(started).Milliseconds()
	return out
}

func body(call *call) io.Reader {
	if len(call.Chunks) > 0 {
		reader, writer := io.Pipe() // of no type that net/http knows: a stream of unknown length
		go func() {
			for _, chunk := range call.Chunks {
				if _, err := writer.Write(fromHex(chunk)); err != nil {
					return
				}
			}
			_ = writer.Close()
		}()
		return reader
	}
	if call.Body == nil {
		return nil
	}
	return bytes.NewReader(fromHex(*call.Body))
}

func read(response *http.Response, out *outcome) {
	defer response.Body.Close()
	out.Status, out.Headers = &response.StatusCode, pairs(response.Header)
	content, err := io.ReadAll(response.Body)
	var failed *mesh.Error
	switch {
	case errors.As(err, &failed):
		out.BodyError = string(failed.Kind)
	case err != nil:
		out.BodyError = "foreign: " + err.Error()
	}
	out.Body, out.Trailers = hex.EncodeToString(content), pairs(response.Trailer)
}

func pairs(header http.Header) [][2]string {
	pairs := [][2]string{}
	for name, values := range header {
		for _, value := range values {
			pairs = append(pairs, [2]string{name, value})
		}
	}
	return pairs
}

func fromHex(text string) []byte {
	content, err := hex.DecodeString(text)
	if err != nil {
		log.Fatal(err)
	}
	return content
}
