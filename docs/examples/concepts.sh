#!/usr/bin/env bash
# What a concept is, promotes and resembles, and where it is active.
set -euo pipefail
url=${STEERLING_URL:-http://localhost:8080}

curl -sSf "$url/concepts?q=pirates&limit=3"
echo
for part in "" /group "/tokens?k=5" "/neighbors?k=3"; do
    curl -sSf "$url/concepts/Pirate%20speech$part"
    echo
done
curl -sSf "$url/concepts/detect" -H 'content-type: application/json' \
    -d '{"text": "Ahoy, the captain anchored the ship.", "level": "token", "top_k": 2}'
