# Serve the demo model, or --model DIR, on http://127.0.0.1:8080
run *ARGS:
    cargo run --release -- {{ARGS}}

# Everything that must pass; installs what is missing first
test:
    bash tests/run.sh

# Random cases that the tests do not have yet, for so many minutes
fuzz MINUTES="30":
    bash tests/fuzz.sh {{MINUTES}}

# Format, then lint as the tests do
lint:
    cargo fmt --all
    cargo clippy --release --workspace --all-targets -- -D warnings

# Licences, bans and sources of the dependencies (needs cargo-deny)
deny:
    cargo deny check licenses bans sources

# Regenerate the OpenAPI document
openapi:
    cargo run --release -- openapi > openapi/openapi.json

# What a step costs on this machine
bench *ARGS:
    cargo run --release -- bench {{ARGS}}

# The CPU kernels beside candle's product
kernels:
    cargo run --release -p steerling --example kernels

# The playground's tests in Chromium
browser:
    bash tests/browser.sh

# The pictures of the playground in README and docs, taken anew
pictures:
    cd tests/browser && node pictures.js
