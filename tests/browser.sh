#!/usr/bin/env bash
# The playground in Debian's Chromium, against the release binary with the demo model, on loopback only.
# Screenshots are kept in target/browser.
set -euo pipefail
cd "$(dirname "$0")/.."

bash tests/install.sh node npm chromium python3
cargo build --release --workspace --bins --locked
cd tests/browser
# Only when the lock file has changed since.
if [[ ! -f node_modules/.package-lock.json || package-lock.json -nt node_modules/.package-lock.json ]]; then
    npm ci --no-audit --no-fund
fi
npm run --silent lint
CHROMIUM="$(command -v chromium)" timeout 900 npm test
