#!/usr/bin/env bash
# Generate with a trace, then explain it: the strongest concepts of each token as a table.
set -euo pipefail
url=${STEERLING_URL:-http://localhost:8080}

trace=$(curl -sSf "$url/generate" -H 'content-type: application/json' \
    -d '{"prompt": "The chef stirred the", "max_new_tokens": 8, "seed": 1, "return_trace": true}' |
    python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["trace"]))')
curl -sSf "$url/attribute" -H 'content-type: application/json' \
    -d "{\"trace\": $trace, \"concepts\": {\"top_known\": 1, \"top_unknown\": 1}, \"format\": \"csv\"}"
