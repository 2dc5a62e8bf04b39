# The recipes people use; each calls what continuous integration calls. `just --list` shows them.

# Every check that the installed tools allow
test *arguments:
    scripts/test {{arguments}}

# Format and lints only
quick:
    scripts/test --quick

# The service at work, from a fresh clone to a streamed answer
demo *question:
    scripts/demo {{question}}

# The default model into the cache folder
fetch-model:
    scripts/fetch-model

# Format everything
format:
    cargo fmt --all

# Serve the default model
serve *arguments:
    cargo run --release -- serve {{arguments}}

# The binary with the mistral.rs backend, built and proven. The first build takes half an hour
mistralrs *arguments:
    scripts/mistralrs {{arguments}}

# Talk with the default model
chat *arguments:
    cargo run --release -- chat {{arguments}}

# Two replicas behind Envoy on loopback, driven and checked
cluster *arguments:
    scripts/cluster {{arguments}}

# The image, compose, Kubernetes and Envoy files, checked by their tools
check-deploy *arguments:
    scripts/check-deploy {{arguments}}

# Write the Grafana dashboards from their source
dashboards *arguments:
    scripts/dashboards {{arguments}}

# Write the Prometheus operator's rules from deploy/prometheus/rules
kubernetes-rules:
    scripts/kubernetes-rules

# The dashboards under load, drawn into docs/images
render-dashboards *arguments:
    scripts/render-dashboards {{arguments}}

# The live page in a browser, with streams running
live-page *arguments:
    scripts/live-page {{arguments}}

# What scraping the metrics costs, on a quiet machine
metrics-cost *arguments:
    scripts/metrics-cost {{arguments}}

# docs/api.md from the interface
api-docs:
    scripts/api-docs

# Micro benches of the kernels, each checked before it is measured
bench-kernels *arguments:
    cargo bench --locked --bench kernels -- {{arguments}}

# The kernels' tests under valgrind, which knows AVX2 but not AVX-512. Slow: PROPTEST_CASES limits
# the random ones
valgrind *arguments:
    scripts/valgrind {{arguments}}

# Licences, advisories and bans of the dependencies
deny:
    cargo deny check
