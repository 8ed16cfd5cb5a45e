#!/usr/bin/env bash
# All checks, as a newcomer and as CI run them: formatting, lints, every test, the documentation.
# One profile and one target directory, so that everything is compiled once.
set -euo pipefail
cd "$(dirname "$0")/.."

need() {
    command -v "$1" >/dev/null || { echo "$1 is missing: $2" >&2; exit 1; }
}
need cargo "install Rust with rustup; rust-toolchain.toml names the version"
need cc "install a C compiler (Debian: apt-get install build-essential)"
need c++ "the GPU kernels are tested on the processor (Debian: apt-get install build-essential)"
need curl "the tests use it as a client (Debian: apt-get install curl)"
need python3 "clients in the tests need it (Debian: apt-get install python3 python3-venv)"

# The random cases are the same in every run, so that only a change can make one fail; `tests/fuzz.sh` looks for new ones.
export PROPTEST_RNG_SEED=1

echo "== format"
cargo fmt --all --check
echo "== lint"
cargo clippy --release --workspace --all-targets --locked -- -D warnings
echo "== test"
cargo test --release --workspace --locked
echo "== deployment"
bash tests/deploy.sh target/release/steerling
echo "== the whole program with faults on purpose, and with a collector of spans"
cargo test --release -p steerling-server --features fault-injection,otel --test soak --test otel --locked
echo "== clients from their registries"
bash tests/clients.sh
echo "== the playground in a browser"
bash tests/browser.sh
echo "== documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --locked
