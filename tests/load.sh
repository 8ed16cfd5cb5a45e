#!/usr/bin/env bash
# Ratios of the server under load, each within one run: docs/performance.md shows what they were.
#   bash tests/load.sh MODEL_DIR [SECONDS of each part] [PARTS: batch prefix neighbours]
set -euo pipefail
cd "$(dirname "$0")/.."
model=$1
seconds=${2:-30}
parts=${3:-batch prefix neighbours}
steerling=${STEERLING:-target/release/steerling}
port=18123
url=http://127.0.0.1:$port
work=$(mktemp -d)

serve() {
    "$steerling" serve --device cpu --model "$model" --port $port "$@" 2>"$work/log" &
    server=$!
    until curl -sf -o "$work/ready" $url/health/ready; do sleep 0.2; done
}
leave() { kill -TERM $server; wait $server; }
trap 'kill $server 2>/dev/null || true; rm -r "$work"' EXIT
metric() { curl -s $url/metrics | awk -v name="$1" '$1 == name { print $2 }'; }
load() { "$steerling" bench --url $url --json "$work/report" "$@" >"$work/table" 2>&1; }
number() { grep -m1 "\"$1\":" "$work/report" | tr -dc '0-9.'; }
# The first number `key` behind the first line with `section`.
within() { awk -v s="\"$1\"" -v k="\"$2\"" 'index($0, s) { on = 1 } on && index($0, k) { gsub(/[^0-9.e-]/, "", $2); print $2; exit }' "$work/report"; }

batch() {
    echo "== tokens a second of 8 clients and of 1, and what the server adds to a step"
    serve
    load --workload tests/load/stream.toml --concurrency 1 --seconds 5
    for round in 1 2; do
        for clients in 1 8; do
            before=$(metric steerling_step_seconds_sum) steps=$(metric steerling_step_seconds_count)
            start=$(date +%s.%N)
            load --workload tests/load/stream.toml --concurrency $clients --seconds "$seconds"
            end=$(date +%s.%N)
            after=$(metric steerling_step_seconds_sum) now=$(metric steerling_step_seconds_count)
            awk -v c=$clients -v t="$(number tokens_per_second)" -v w="$(echo "$end $start" | awk '{ print $1 - $2 }')" \
                -v s="$(echo "$after $before" | awk '{ print $1 - $2 }')" -v n="$(echo "$now $steps" | awk '{ print $1 - $2 }')" \
                'BEGIN { printf "%d clients: %.2f tokens/s, %d steps of %.5f s, %.2f %% of the time outside steps\n", c, t, n, s / n, (1 - s / w) * 100 }'
        done
    done
    leave

    echo "== the plain loop, without a server"
    "$steerling" bench --device cpu --model "$model" --batch 1,8 --max-forwards 40 2>/dev/null | sed -n '/batch/,/^$/p'
}

prefix() {
    echo "== first block behind a prefix of 512 tokens that is cached, in steps"
    serve
    load --workload tests/load/prefix.toml --concurrency 1 --requests 1 --seconds 600
    echo "first: $(within first_block_seconds p50) s to the first block, then $(within between_blocks_seconds p50) s a step"
    load --workload tests/load/prefix.toml --concurrency 1 --requests 8 --seconds 600
    awk -v f="$(within first_block_seconds p50)" -v m="$(within first_block_seconds max)" -v s="$(within between_blocks_seconds p50)" \
        'BEGIN { printf "eight later ones: first block after %.4f s (median, at most %.4f), %.4f s a step: %.2f steps, at most %.2f\n", f, m, s, f / s, m / s }'
    leave
}

neighbours() {
    echo "== neighbours of a reader that reads at once, and of one that rests 2 s after every piece"
    serve
    for round in 1 2 3; do
        for reader in fast slow; do
            "$steerling" bench --url $url --workload tests/load/$reader.toml --concurrency 1 --seconds "$seconds" >"$work/reader" 2>&1 &
            other=$!
            load --workload tests/load/neighbour.toml --concurrency 2 --seconds "$seconds"
            kill $other 2>/dev/null || true
            wait $other || true
            echo "$reader: median $(within total_seconds p50) s for an answer, $(within between_blocks_seconds p50) s between blocks"
        done
    done
    leave
}

for part in $parts; do "$part"; done
