#!/usr/bin/env bash
# Makes a machine ready: installs what can be installed, names what cannot. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
version_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

need cargo "a Rust toolchain of 1.90 or newer (https://rustup.rs)"
need rustfmt "rustfmt (rustup component add rustfmt)"
need cargo-clippy "clippy (rustup component add clippy)"
need python3 "Python 3.10 or newer"
need go "Go 1.24 or newer (https://go.dev/dl)"

# Debian packages: installed when we may, named when we may not.
packages=()
{ command -v cc && command -v c++; } >/dev/null 2>&1 || packages+=(build-essential)
command -v make >/dev/null 2>&1 || packages+=(make)
command -v valgrind >/dev/null 2>&1 || packages+=(valgrind)
command -v pkg-config >/dev/null 2>&1 || packages+=(pkg-config)
command -v readelf >/dev/null 2>&1 || packages+=(binutils)
command -v redis-server >/dev/null 2>&1 || packages+=(redis-server)
python3 -c 'import ensurepip' >/dev/null 2>&1 || packages+=(python3-venv)
if [ "${#packages[@]}" -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" >/dev/null
  else
    missing+=("Debian packages: ${packages[*]} (sudo apt-get install ${packages[*]})")
  fi
fi

if command -v python3 >/dev/null 2>&1 && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  missing+=("Python 3.10 or newer (found $(python3 -V 2>&1))")
fi
if command -v go >/dev/null 2>&1 && ! version_at_least 1.24 "$(go env GOVERSION | sed 's/^go//')"; then
  missing+=("Go 1.24 or newer (found $(go env GOVERSION))")
fi
if [ "${#missing[@]}" -gt 0 ]; then
  echo "This machine lacks:" >&2
  printf '  - %s\n' "${missing[@]}" >&2
  exit 1
fi

# Python tools live in .venv, at versions that were tested together.
wanted=$(cat scripts/python-tools.txt)
if [ ! -x .venv/bin/python ] || [ "$(cat .venv/tools 2>/dev/null)" != "$wanted" ]; then
  python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -r scripts/python-tools.txt
  printf '%s' "$wanted" > .venv/tools
fi

# Open Policy Agent with its Envoy plugin, the policy server of a story: built once for each state of its sources, about
# a minute. Its modules want a newer Go than the bindings; an older one fetches that by itself. No C: the flags that find
# libmesh are not for it.
wanted=$(cat tests/peers/opa/go.mod tests/peers/opa/go.sum tests/peers/opa/*.go | sha256sum)
if [ ! -x .venv/bin/mesh-opa ] || [ "$(cat .venv/opa 2>/dev/null)" != "$wanted" ]; then
  (cd tests/peers/opa && CGO_ENABLED=0 go build -buildvcs=false -trimpath -o ../../../.venv/bin/mesh-opa .)
  printf '%s' "$wanted" > .venv/opa
fi

# Envoy's reference rate limit service, a peer of the tests. It has no releases; go fetches the toolchain it asks for.
ratelimit=v1.4.1-0.20260122083618-3fb702589d36
if [ ! -x .venv/bin/ratelimit ] || [ "$(cat .venv/ratelimit 2>/dev/null)" != "$ratelimit" ]; then
  CGO_ENABLED=0 GOBIN="$PWD/.venv/bin" go install "github.com/envoyproxy/ratelimit/src/service_cmd@$ratelimit"
  mv .venv/bin/service_cmd .venv/bin/ratelimit
  printf '%s' "$ratelimit" > .venv/ratelimit
fi
