#!/usr/bin/env bash
# Clients that are not ours, as packages from their registry, against the program: `bash tests/clients.sh [pytest arguments]`.
# The packages go into a virtual environment under target/, which is kept while their versions stay the same.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
environment=target/clients
stamp=$environment/installed

[[ $python != python3 ]] || bash tests/install.sh python3 venv

# Also after a build with other features.
cargo build --release --workspace --bins --locked

wanted=$("$python" --version; cat tests/clients/*.txt)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    rm -rf "$environment"
    "$python" -m venv "$environment"
    pip=("$environment/bin/python" -m pip --disable-pip-version-check install --quiet --no-compile)
    "${pip[@]}" -r tests/clients/requirements.txt -c tests/clients/constraints.txt
    "${pip[@]}" --no-deps -r tests/clients/requirements-alone.txt
    echo "$wanted" >"$stamp"
fi

PYTHONDONTWRITEBYTECODE=1 "$environment/bin/python" -m pytest -q -p no:cacheprovider tests/clients "$@"
