#!/usr/bin/env bash
# What stands around the program when it is deployed: manifests, replicas behind HAProxy, the container image.
# usage: tests/deploy.sh PROGRAM
set -euo pipefail
cd "$(dirname "$0")/.."
program=$1

bash tests/install.sh curl pgrep python3 venv haproxy buildah debootstrap
PATH=$PATH:/usr/sbin

echo "== manifests"
venv=target/deploy-venv
if ! "$venv/bin/python" -c 'import kubernetes_validate' 2>/dev/null; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check kubernetes-validate==1.37.0
    # Only its models are read; what it would import is not needed.
    "$venv/bin/pip" install -q --disable-pip-version-check --no-deps kserve==0.21.0
fi
"$venv/bin/python" tests/deploy/manifests.py "$program"
echo "== replicas behind HAProxy"
python3 tests/deploy/replicas.py "$program"
echo "== container image"
bash tests/deploy/container.sh "$program"
