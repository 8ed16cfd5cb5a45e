#!/usr/bin/env bash
# Looks for cases that the tests do not have yet: `bash tests/fuzz.sh [MINUTES]`, at least one round of each, with seeds of its own.
# A failure ends it and tells what to run again: the property's seed, or the request.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-30}
until=$((SECONDS + 60 * minutes))
while
    export PROPTEST_RNG_SEED=$((RANDOM << 15 | RANDOM))
    echo "== properties, PROPTEST_RNG_SEED=$PROPTEST_RNG_SEED"
    cargo test --release --workspace --lib --test parity --test tokenizer --locked --quiet
    echo "== the contract"
    STEERLING_FUZZ_SECONDS=300 bash tests/clients.sh -k keeps_its_contract
    ((SECONDS < until))
do :; done
