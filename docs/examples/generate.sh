#!/usr/bin/env bash
# Eight tokens, then the same as a stream of blocks.
set -euo pipefail
url=${STEERLING_URL:-http://localhost:8080}

curl -sSf "$url/generate" -H 'content-type: application/json' \
    -d '{"prompt": "The chef stirred the", "max_new_tokens": 8, "seed": 1}'
echo
curl -sSfN "$url/generate" -H 'content-type: application/json' \
    -d '{"prompt": "The chef stirred the", "max_new_tokens": 8, "seed": 1, "stream": true}'
