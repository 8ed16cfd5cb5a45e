#!/usr/bin/env bash
# Builds the image of docker/Dockerfile without a daemon, starts it as it would be deployed, and asks it.
# usage: tests/deploy/container.sh PROGRAM
#
# PROGRAM, which the other tests have tested, is taken as it is; with STEERLING_IMAGE_FROM_SOURCE=1 the image compiles
# its own (this wants a registry, for the Rust image). The base image comes from a registry, or, where none is reached,
# from debootstrap. STEERLING_SKIP_CONTAINER=1 leaves this test out where containers cannot be built.
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$1

if [ "${STEERLING_SKIP_CONTAINER:-}" = 1 ]; then
    echo "SKIPPED because STEERLING_SKIP_CONTAINER=1: no image was built"
    exit 0
fi
bash tests/install.sh curl pgrep python3 buildah debootstrap
if [ "$(id -u)" != 0 ]; then
    echo "SKIPPED: the image can only be built by root here: sudo bash tests/deploy/container.sh $1"
    exit 0
fi

work=$PWD/target/container
mkdir -p "$work"
export BUILDAH_ISOLATION=chroot
b() { buildah --storage-driver vfs --root "$work/root" --runroot "$work/run" "$@"; }
serving=
# The server's own process: the one that listens on our port, which stands in its environment alone.
server() {
    for pid in $(pgrep -x steerling); do
        if tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "STEERLING_PORT=$port" \
            && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q '^/usr/local/bin/steerling serve'; then
            echo "$pid"
        fi
    done
}
finish() {
    [ -z "$serving" ] || kill -KILL $(server) "$serving" 2>/dev/null || true
    b rm --all >/dev/null 2>&1 || true
    rm -rf "$work/context"
}
trap finish EXIT

base=docker.io/library/debian:bookworm-slim
if ! timeout 60 buildah --storage-driver vfs --root "$work/root" --runroot "$work/run" pull -q "$base" >/dev/null 2>&1; then
    base=localhost/debian:bookworm
    if ! b inspect --type image "$base" >/dev/null 2>&1; then
        mirror=$(awk '/^URIs:/ {print $2; exit} /^deb / {print $2; exit}' /etc/apt/sources.list.d/*.sources \
            /etc/apt/sources.list 2>/dev/null || true)
        echo "no registry is reached: making the base image with debootstrap"
        rm -rf "$work/debian"
        debootstrap --variant=minbase bookworm "$work/debian" "${mirror:-http://deb.debian.org/debian}" >"$work/debootstrap.log" 2>&1 \
            || { tail -5 "$work/debootstrap.log" >&2; exit 1; }
        rm -rf "$work"/debian/var/cache/apt/archives/*.deb "$work"/debian/var/lib/apt/lists/*
        container=$(b from scratch)
        b copy -q "$container" "$work/debian" / >/dev/null
        b commit -q "$container" "$base" >/dev/null
        b rm "$container" >/dev/null
        rm -rf "$work/debian"
    fi
fi

# The context as .dockerignore leaves it, with the program that was named.
file=docker/Dockerfile
arguments=(--build-arg "BASE_IMAGE=$base")
context=.
if [ "${STEERLING_IMAGE_FROM_SOURCE:-}" != 1 ]; then
    context=$work/context
    mkdir -p "$context/target/release"
    cp -r LICENSE Cargo.toml Cargo.lock rust-toolchain.toml crates "$context/"
    cp "$program" "$context/target/release/steerling"
    # Older builders make every stage, needed or not: take out the one that compiles.
    sed '/^FROM .* AS build$/,/^FROM scratch AS prebuilt$/{/^FROM scratch AS prebuilt$/!d}' docker/Dockerfile >"$context/Dockerfile"
    file=$context/Dockerfile
    arguments+=(--build-arg PROGRAM=prebuilt)
fi
b build -q --format docker -f "$file" "${arguments[@]}" --target skeleton -t localhost/skeleton "$context" >/dev/null
container=$(b from localhost/skeleton)
# Its manifests must be whole, or the dependencies cannot be compiled before the sources are there.
cargo fetch --quiet --locked --manifest-path "$(b mount "$container")/src/Cargo.toml"
b rm "$container" >/dev/null
b build -q --format docker -f "$file" "${arguments[@]}" -t localhost/steerling "$context" >/dev/null
echo "built from $base"

config=$(b inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}} {{.Docker.Config.Healthcheck.Test}}' localhost/steerling)
expected='65532:65532 [/usr/local/bin/steerling] [serve] [CMD /usr/local/bin/steerling health]'
[ "$config" = "$expected" ] || { echo "the image is configured as: $config" >&2; exit 1; }

container=$(b from localhost/steerling)
root=$(b mount "$container")
echo "$(du -sm "$root" | cut -f1) MiB, of which the program has $(du -m "$root/usr/local/bin/steerling" | cut -f1)"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
touch "$work/before"
# As the image says: its user, its command, no arguments. The port is another one because the network is the host's.
b run --env "STEERLING_PORT=$port" --env STEERLING_HOST=127.0.0.1 "$container" -- /usr/local/bin/steerling serve >"$work/log" 2>&1 &
serving=$!
health() { b run --env "STEERLING_PORT=$port" "$container" -- /usr/local/bin/steerling health; }
for _ in $(seq 100); do
    if health 2>/dev/null; then break; fi
    kill -0 "$serving" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.2
done
health
answer=$(curl -sf "http://127.0.0.1:$port/generate" -H 'content-type: application/json' \
    -d '{"prompt": "The chef stirred the", "max_new_tokens": 5, "seed": 1}')
grep -q '"model":"steerling-demo"' <<<"$answer" || { echo "the image answers: $answer" >&2; exit 1; }
pid=$(server)
user=$(awk '/^Uid:/ {print $2}' "/proc/$pid/status")
[ "$user" = 65532 ] || { echo "it runs as user $user" >&2; exit 1; }
# The builder itself writes what stands in /etc and /run.
written=$(find "$root" -xdev -newer "$work/before" -type f -not -path "$root/etc/*" -not -path "$root/run/*" | head)
[ -z "$written" ] || { echo "it wrote $written: a read-only root would break it" >&2; exit 1; }
kill -TERM "$pid"
wait "$serving" || { echo "it ended with $?" >&2; cat "$work/log" >&2; exit 1; }
serving=
if health 2>/dev/null; then echo "something else answers on port $port" >&2; exit 1; fi
echo "the image serves the demo model as user $user, writes nothing, and leaves with 0 on SIGTERM"
