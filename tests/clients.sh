#!/usr/bin/env bash
# Clients that are not ours against the release program. Installs them from their registry into target/.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v python3 >/dev/null || { echo "python3 is missing (Debian: apt-get install python3 python3-venv)" >&2; exit 1; }
cargo build --release --locked -p steerling-server
venv=target/clients
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
exec "$venv/bin/pytest" -q tests/clients "$@"
