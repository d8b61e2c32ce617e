#!/usr/bin/env bash
# Schemathesis with all its checks over the OpenAPI document of a server that this script starts, on loopback.
#
#   pip install 'schemathesis>=4.32,<5'
#   cargo build --release && tests/api/check.sh [-n 100] [other arguments of schemathesis]
#
# Left out: the end of the process, other bounds under the feet of all questions, a stream without an end, and backups, which go into any directory of the machine.
set -euo pipefail
cd "$(dirname "$0")"
everworld=${EVERWORLD:-../../target/release/everworld}
port=${PORT:-7399}
data=$(mktemp -d)
token=$("$everworld" token create --role admin --set data.dir="$data" 2>"$data/token.log")
"$everworld" serve --data "$data" --set http.bind=127.0.0.1:"$port" 2>"$data/server.log" &
server=$!
trap 'kill $server && wait $server; rm -rf "$data"' EXIT
until curl -sf "http://127.0.0.1:$port/readyz" >"$data/ready.txt"; do sleep 0.2; done
curl -sf -H "Authorization: Bearer $token" "http://127.0.0.1:$port/v1/worlds" \
    -d '{"name": "spare", "scenario": "town", "population": 100}' >"$data/spare.json"
schemathesis --config-file schemathesis.toml run "http://127.0.0.1:$port/v1/openapi.json" --wait-for-schema 20 --request-timeout 40 \
    --header "Authorization: Bearer $token" --checks all --continue-on-failure --warnings off \
    --exclude-path /v1/shutdown --exclude-path /v1/backup --exclude-name 'PATCH /v1/config' --exclude-path '/v1/worlds/{w}/changes' "$@"
