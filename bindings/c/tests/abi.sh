#!/bin/sh
# What the shared library shows to the world: its name, its symbols, its dependencies.
# usage: abi.sh libmesh.so mesh.h functions.h [versioned]
set -u
library=$1 header=$2 functions=$3
passed=0 failed=0
check() {
  if [ "$2" = yes ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "abi.sh: not true: $1" >&2; fi
}
is() { if [ "$1" = "$2" ]; then echo yes; else echo no; fi; }
has() { if printf '%s\n' "$1" | grep -q "$2"; then echo yes; else echo no; fi; }

dynamic=$(readelf -d "$library")
check "the soname is libmesh.so.0" "$(has "$dynamic" 'SONAME.*\[libmesh.so.0\]')"
check "it is never unloaded" "$(has "$dynamic" NODELETE)"
check "it needs no Rust library" "$(is "$(printf '%s\n' "$dynamic" | grep -c 'NEEDED.*libstd')" 0)"

exported=$(nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)
declared=$(grep -v '^//' "$header" | grep -o '\bmesh_[a-z0-9_]*(' | tr -d '(' | grep -v '^mesh_test_' | sort -u)
check "every exported symbol is declared, and every declared one exported" "$(is "$exported" "$declared")"
[ "$exported" = "$declared" ] || { printf '%s\n' "$exported" >/tmp/exported.$$; printf '%s\n' "$declared" | diff /tmp/exported.$$ - >&2; rm -f /tmp/exported.$$; }
if [ "${4:-}" = versioned ]; then
  check "symbols are versioned" "$(is "$(nm -D --defined-only "$library" | grep ' T ' | grep -vc '@@MESH_0')" 0)"
fi

for function in $declared; do
  check "$function is driven with NULL and with a panic" "$(has "$(cat "$functions")" "($function, ")"
done
for function in $(grep -o '^mesh_code mesh_[a-z0-9_]*' "$header" | awk '{ print $2 }' | grep -v '^mesh_error_code$'); do
  check "$function is driven as fallible" "$(has "$(cat "$functions")" "FALLIBLE($function, ")"
done
printf '%-10s %d passed, %d failed\n' abi "$passed" "$failed"
[ "$failed" -eq 0 ]
