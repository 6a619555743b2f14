# The one door: the same commands here and in CI.

# What a change must pass before it is committed.
check: fmt lint test

fmt:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets --features e2e/cluster -- -D warnings

# Unit, property and in-process tests: no Go, no Python, no cluster.
test:
    ./e2e/test unit

# Three toy backends behind a data plane; see README.
demo *ARGS:
    cargo run --release -p dataplane -- demo {{ARGS}}

# Scenarios on a real control plane, optionally only those whose name holds FILTER.
e2e FILTER="":
    ./e2e/test cluster {{FILTER}}

# Scenarios whose pods run on a real node, from the images of this tree; as root.
node FILTER="":
    ./e2e/test node {{FILTER}}

# Both images, into REGISTRY.
images REGISTRY:
    deploy/images/build --registry {{REGISTRY}} --push

# The project's own benches: pick, stream framing, model scan.
bench:
    cargo bench -p dataplane-core -p dialect

# Writes the CRDs from the types, here and into the chart.
crds:
    cargo run -p crds --bin crdgen crds/generated
    cp crds/generated/*.yaml charts/olla/files/crds/

# Licences, sources and duplicates of dependencies; needs cargo-deny.
deny:
    cargo deny --config .cargo/deny.toml check bans licenses sources

# What CI runs.
ci:
    .ci/run
