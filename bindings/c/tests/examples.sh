#!/bin/sh
# Runs the examples against each other. usage: examples.sh directory-of-programs
set -u
bin=$1 work=$(mktemp -d) passed=0 failed=0
trap 'kill "$server" "$own" 2>/dev/null; rm -rf "$work"' EXIT
server='' own=''
check() { if [ "$2" = "$3" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "examples.sh: $1: got '$2'" >&2; fi; }
# Below the ports that kernels give to clients.
port=$((15000 + $$ % 15000))
cat >"$work/mesh.yaml" <<YAML
version: 1
clusters: [ { name: hello, endpoints: [ { address: "127.0.0.1:$port" } ] } ]
routes: [ { hosts: [hello], rules: [ { backends: [ { cluster: hello } ] } ] } ]
listeners: [ { name: inbound, address: "127.0.0.1:$port" } ]
policy: { access: { rules: [ { name: admin, action: deny, paths: [/admin*] } ] } }
YAML
: >"$work/serve.log" >"$work/own.log"
"$bin/serve" "$work/mesh.yaml" >"$work/serve.log" &
server=$!
for _ in $(seq 100); do grep -q listening "$work/serve.log" && break; sleep 0.2; done
check "serve says where it listens" "$(cat "$work/serve.log")" "listening on 127.0.0.1:$port"
check "get prints the body" "$("$bin/get" "$work/mesh.yaml" http://hello/ 2>/dev/null)" "hello, whoever you are"
check "epoll answers them all" "$("$bin/epoll" "$work/mesh.yaml" http://hello/ 100)" "100 answered with 200"
kill -TERM "$server"
wait "$server"
check "serve ends cleanly" "$?" 0
sed "s/127.0.0.1:$port/127.0.0.1:$((port + 1))/" "$work/mesh.yaml" >"$work/own.yaml"
"$bin/own_server" "$work/own.yaml" $((port + 1)) >"$work/own.log" &
own=$!
for _ in $(seq 100); do grep -q listening "$work/own.log" && break; sleep 0.2; done
check "own_server answers who may" "$("$bin/get" "$work/own.yaml" http://hello/books/../books 2>/dev/null)" "hello, whoever you are without a token at /books"
check "own_server refuses who may not" "$("$bin/get" "$work/own.yaml" http://hello/%61dmin 2>&1 >/dev/null | grep -o 403)" 403
kill -TERM "$own"
wait "$own"
check "own_server ends cleanly" "$?" 0
printf '%-10s %d passed, %d failed\n' examples "$passed" "$failed"
[ "$failed" -eq 0 ]
