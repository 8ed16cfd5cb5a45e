#!/usr/bin/env bash
# One concept brought out, another kept away, beside the unsteered text of the same seed.
set -euo pipefail
url=${STEERLING_URL:-http://localhost:8080}

curl -sSf "$url/steer" -H 'content-type: application/json' -d '{
    "prompt": "The neighbour moved the table.", "max_new_tokens": 32, "seed": 11, "compare": true,
    "steering": {"amplify": [{"concept": {"name": "Space"}}], "suppress": [{"concept": {"name": "Pirate speech"}}]}}'
