#!/usr/bin/env bash
# All checks, as a newcomer and as CI run them: formatting, lints, every test, the documentation. On Debian and its like
# everything but Rust is installed first, where it is missing.
# One profile and one target directory, so that everything is compiled once.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust with rustup; rust-toolchain.toml names the version" >&2
    exit 1
fi
bash tests/install.sh

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
