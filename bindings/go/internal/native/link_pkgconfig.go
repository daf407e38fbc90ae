//go:build mesh_pkgconfig

// Builds against an installed libmesh: `go build -tags mesh_pkgconfig`. Without the tag, CGO_CFLAGS and
// CGO_LDFLAGS say where mesh.h and libmesh are.

package native

// #cgo pkg-config: libmesh
import "C"
