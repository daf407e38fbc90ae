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

.PHONY: help setup build python-module test lint test-rust test-c test-python test-go test-corpus test-docs bench clean

help:
	@sed -n 's/^#   //p' Makefile

setup:
	@scripts/setup.sh

build: setup
	cargo build --release --locked --workspace --exclude mesh-python
	ln -sf libmesh.so $(RELEASE)/libmesh.so.0

python-module: setup
	$(VENV)/bin/maturin develop --quiet --release --locked -m bindings/python/Cargo.toml

lint: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(VENV)/bin/ruff check bindings/python examples tests
	$(VENV)/bin/ruff format --check bindings/python examples tests

test: lint test-rust test-c test-python test-go test-corpus test-docs bookinfo-short
	@echo "all tests passed"

test-rust: setup
	cargo test --locked --workspace --exclude mesh-python --exclude mesh-tests

test-c: build
	$(MAKE) -C bindings/c test test-valgrind test-asan

test-python: python-module
	cd bindings/python && $(PY) -m mypy --strict . && $(PY) -m pytest -q

test-go: build
	cd bindings/go && go vet ./... && go test ./... && go test -race ./...

# The same scenarios and stories in every language.
test-corpus: build python-module
	cargo test --locked --release -p mesh-tests

# The README's quick starts, as they stand.
test-docs: build python-module
	cargo test --locked --release -p mesh-cli --test docs -- --include-ignored

bench: build
	$(RELEASE)/mesh-bench

clean:
	rm -rf target .venv

include examples/bookinfo/bookinfo.mk
