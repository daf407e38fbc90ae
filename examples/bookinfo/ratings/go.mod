module bookinfo/ratings

go 1.24

require libmesh.dev/mesh v0.0.0

replace libmesh.dev/mesh => ../../../bindings/go
