#!/usr/bin/env bash
# The playground in Debian's Chromium, against the release binary with the demo model, on loopback only.
# Screenshots are kept in target/browser.
set -euo pipefail
cd "$(dirname "$0")/.."

need() {
    command -v "$1" >/dev/null || { echo "$1 is missing: $2" >&2; exit 1; }
}
need node "install Node.js 18.19 or later (Debian: apt-get install nodejs npm)"
need npm "install Node.js 18.19 or later (Debian: apt-get install nodejs npm)"
need python3 "the shown code is run (Debian: apt-get install python3)"
if ! command -v chromium >/dev/null; then
    if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update && apt-get install -y --no-install-recommends chromium
    else
        echo "chromium is missing: install it (Debian: apt-get install chromium)" >&2
        exit 1
    fi
fi

cargo build --release --workspace --bins --locked
cd tests/browser
# Only when the lock file has changed since.
if [[ ! -f node_modules/.package-lock.json || package-lock.json -nt node_modules/.package-lock.json ]]; then
    npm ci --no-audit --no-fund
fi
npm run --silent lint
CHROMIUM="$(command -v chromium)" timeout 900 npm test
