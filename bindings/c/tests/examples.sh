#!/bin/sh
# Runs the examples against each other. usage: examples.sh directory-of-programs
set -u
bin=$1 work=$(mktemp -d) passed=0 failed=0
trap 'kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
check() { if [ "$2" = "$3" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "examples.sh: $1: got '$2'" >&2; fi; }
port=$((20000 + $$ % 20000))
cat >"$work/mesh.yaml" <<YAML
version: 1
clusters: [ { name: hello, endpoints: [ { address: "127.0.0.1:$port" } ] } ]
routes: [ { hosts: [hello], rules: [ { backends: [ { cluster: hello } ] } ] } ]
listeners: [ { name: inbound, address: "127.0.0.1:$port" } ]
YAML
"$bin/serve" "$work/mesh.yaml" >"$work/serve.log" &
server=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do grep -q listening "$work/serve.log" && break; sleep 0.2; done
check "serve says where it listens" "$(cat "$work/serve.log")" "listening on 127.0.0.1:$port"
check "get prints the body" "$("$bin/get" "$work/mesh.yaml" http://hello/ 2>/dev/null)" "hello, whoever you are"
check "epoll answers them all" "$("$bin/epoll" "$work/mesh.yaml" http://hello/ 100)" "100 answered with 200"
kill -TERM "$server"
wait "$server"
check "serve ends cleanly" "$?" 0
printf '%-10s %d passed, %d failed\n' examples "$passed" "$failed"
[ "$failed" -eq 0 ]
