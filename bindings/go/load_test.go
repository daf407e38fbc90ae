package mesh_test

import (
	"math"
	"net/http"
	"strings"
	"testing"

	"libmesh.dev/mesh"
)

func TestACallerThatAsksIsToldTheLoad(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	for name, value := range map[string]float64{mesh.LoadUtilization: 0.7, mesh.LoadQueueDepth: 4, "gpu": 0.5} {
		if err := w.ReportLoad(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.ReportLoad("gpu", math.NaN()); err != nil {
		t.Fatal(err)
	}
	for _, host := range hosts {
		req, _ := http.NewRequest("GET", host, nil)
		req.Header.Set("Endpoint-Load-Metrics-Format", "TEXT")
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, resp)
		told := resp.Header.Get("Endpoint-Load-Metrics")
		if !strings.Contains(told, "application_utilization=0.7") || !strings.Contains(told, "named_metrics.queue_depth=4") || strings.Contains(told, "gpu") {
			t.Errorf("%s: told %q", host, told)
		}
	}
	if resp, _ := w.get(hosts[0]); resp.Header.Get("Endpoint-Load-Metrics") != "" {
		t.Error("told without being asked")
	}
	if err := w.ReportLoad(mesh.LoadUtilization, -1); kindOf(err) != "bad_request" {
		t.Errorf("a negative load: %v", err)
	}
}
