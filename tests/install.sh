#!/usr/bin/env bash
# Installs what the tests need beside Rust, as far as it is missing: `bash tests/install.sh [TOOL…]`, all tools without
# arguments. As root it uses apt; otherwise it prints the one command to run and ends with 1.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

# Tool and Debian package. A proxy and a builder of images that needs no daemon are for the tests of deployment.
tools="cc:build-essential c++:build-essential curl:curl pgrep:procps python3:python3 venv:python3-venv node:nodejs npm:npm
    chromium:chromium haproxy:haproxy buildah:buildah debootstrap:debootstrap"

# What is wrong with a tool; nothing if it is there and new enough.
fault() {
    case $1 in
        venv) python3 -c 'import ensurepip, venv' 2>/dev/null || echo "missing" ;;
        buildah | debootstrap)
            [[ ${STEERLING_SKIP_CONTAINER:-} == 1 ]] || command -v "$1" >/dev/null || echo "missing" ;;
        *) command -v "$1" >/dev/null || { echo "missing"; return; } ;;&
        python3) python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || echo "older than 3.11" ;;
        node)
            node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 18 || (a == 18 && b >= 19) ? 0 : 1)' \
                || echo "older than 18.19" ;;
    esac
}

# Fills `packages` and `faults` for the tools that were asked for.
look() {
    packages=() faults=()
    local entry tool package fault
    for entry in $tools; do
        tool=${entry%%:*} package=${entry#*:}
        [[ -z $asked || " $asked " == *" $tool "* ]] || continue
        fault=$(fault "$tool")
        [[ -n $fault ]] || continue
        faults+=("$tool is $fault")
        [[ " ${packages[*]-} " == *" $package "* ]] || packages+=("$package")
    done
}

asked=$*
look
if ((${#faults[@]} == 0)); then
    exit 0
fi
printf '%s\n' "${faults[@]}" >&2
install="apt-get install -y --no-install-recommends ${packages[*]}"
if ! command -v apt-get >/dev/null; then
    echo "Install these, by Debian's names: ${packages[*]}" >&2
    exit 1
fi
if [[ $(id -u) != 0 ]]; then
    echo "Run this, then the tests again:" >&2
    echo "sudo sh -c 'apt-get update && $install'" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# On a new machine there is no list of packages yet.
apt-get update
# Words on purpose.
$install
look
if ((${#faults[@]})); then
    printf '%s, after it was installed with apt\n' "${faults[@]}" >&2
    exit 1
fi
