package mesh

// What ReportLoad knows by a name of its own; any other name is a metric of the application.
const (
	LoadUtilization = "utilization" // 1.0: all it can, by its own measure; balancers weigh by this
	LoadCPU         = "cpu"         // 1.0: all of it
	LoadMemory      = "memory"      // 1.0: all of it
	LoadQueueDepth  = "queue_depth" // units of work that wait
)

// ReportLoad says one thing about the load of this process, until it is said anew; NaN takes it back. Responses
// tell it to callers that ask (`listeners[].load_reports`), with the rates and requests in flight that the mesh
// counts itself.
func (m *Mesh) ReportLoad(name string, value float64) error {
	if !m.enter() {
		return closedError()
	}
	defer m.leave()
	return asError(m.native.ReportLoad(name, value))
}
