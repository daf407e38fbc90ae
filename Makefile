# libmesh: two commands do everything.
#   make bookinfo   the demo: four services in four languages move between clusters
#   make test       every test in every language, lints included
# Each sets up what it needs (scripts/setup.sh) and says what it cannot install.

ROOT := $(CURDIR)
VENV := $(ROOT)/.venv
PY := $(VENV)/bin/python
RELEASE := $(ROOT)/target/release

# What C and Go need to build against and run with the libmesh of this tree.
export CGO_CFLAGS := -I$(ROOT)/bindings/c/include
export CGO_LDFLAGS := -L$(RELEASE) -lmesh
export LD_LIBRARY_PATH := $(RELEASE):$(LD_LIBRARY_PATH)
export PATH := $(VENV)/bin:$(PATH)

.PHONY: help setup build python-module test lint test-rust test-c test-python test-go test-corpus bench bench-short clean

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@scripts/setup.sh

# Everything in one build: cargo compiles the engine once for all.
CARGO_ALL := --locked --workspace --features mesh-python/extension-module,mesh-core/rego

build: setup
	cargo build --release $(CARGO_ALL)
	ln -sf libmesh.so $(RELEASE)/libmesh.so.0

# The module of this tree, as .venv's Python imports it. `maturin build -m bindings/python/Cargo.toml` makes a wheel.
python-module: build
	install -m 755 $(RELEASE)/lib_native.so bindings/python/python/mesh/_native.abi3.so
	echo $(ROOT)/bindings/python/python > $$($(PY) -c 'import site; print(site.getsitepackages()[0])')/mesh.pth

lint: setup
	cargo fmt --all --check
	cargo clippy $(CARGO_ALL) --all-targets -- -D warnings
	$(VENV)/bin/ruff check bindings/python examples tests
	$(VENV)/bin/ruff format --check bindings/python examples tests

test: lint test-rust test-c test-python test-go test-corpus bench-short bookinfo-short
	@echo "all tests passed"

# Rust: units, stories, vectors, the header of mesh-ffi.
test-rust: setup
	cargo test $(CARGO_ALL) --exclude mesh-tests

test-c: setup
	$(MAKE) -C bindings/c test test-valgrind test-asan

test-python: python-module
	cd bindings/python && $(PY) -m mypy --strict && $(PY) -m mypy.stubtest mesh._native && $(PY) -m pytest

test-go: build
	cd bindings/go && go vet ./... && go test ./... && GOEXPERIMENT=cgocheck2 go test -race ./...

# The same scenarios and stories in every language, and the README's quick starts as they stand.
STORIES := broken_configs calls dodging drain end_users envoy_hashing envoy_rbac guards many_endpoints \
	moving_endpoints opa outage policy_reload rate_limit_service refused_peers reload rolling_restart scenarios \
	shared_limits slow_endpoint storms telemetry docs
test-corpus: build python-module
	cargo build --release $(CARGO_ALL) --example quickstart
	cargo test --release $(CARGO_ALL) $(addprefix --test ,$(STORIES)) -- --include-ignored

bench: build
	$(RELEASE)/mesh-bench
	$(RELEASE)/mesh-bench micro
	$(RELEASE)/mesh-bench trace

# Only that it runs: no timing decides a test.
bench-short: build
	$(RELEASE)/mesh-bench --rounds 1 --seconds 1 --in-flight 1 --envoy $(VENV)/bin/envoy
	$(RELEASE)/mesh-bench micro --rounds 1
	$(RELEASE)/mesh-bench trace

clean:
	rm -rf target .venv

include examples/bookinfo/bookinfo.mk
