# syntax=docker/dockerfile:1
# The service without a model: mount the folder with the model file at /models and name the file
# with
# SKIPSTONE_MODEL__PATH. docs/deployment.md shows how.

ARG RUST_VERSION=1.95
# Cargo features: "mistralrs" adds the second backend, and half an hour to the build.
ARG FEATURES=""

# What the builder stages share. The compiler for C is there: one dependency (ring) needs it.
FROM rust:${RUST_VERSION}-slim-bookworm AS chef
RUN cargo install cargo-chef --version 0.1.77 --locked
WORKDIR /build
# Line tables are for people with a debugger; without them the program is a fraction of the size.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo

# The dependencies as a recipe: it changes with Cargo.toml and Cargo.lock, not with the sources.
FROM chef AS planner
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

# Dependencies are a layer of their own, built again only when the recipe changes.
FROM chef AS builder
ARG FEATURES
COPY --from=planner /build/recipe.json recipe.json
RUN cargo chef cook --release --locked --bin skipstone --features "${FEATURES}" --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --bin skipstone --features "${FEATURES}" && mkdir /models

# glibc, libgcc and certificates; no shell, no package manager. The user is 65532, "nonroot".
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=builder /build/target/release/skipstone /usr/local/bin/skipstone
# Empty, and the user's: a new volume that is mounted here takes over the owner.
COPY --from=builder --chown=65532:65532 /models /models

# A container is reached from outside of itself, so loopback, the default, would be of no use.
# What reaches it is up to the
# network: publish port 50051 only where clients are trusted, and 9090 not at all.
ENV SKIPSTONE_SERVER__LISTEN=0.0.0.0:50051 \
    SKIPSTONE_METRICS__LISTEN=0.0.0.0:9090 \
    SKIPSTONE_LOG__FORMAT=json
EXPOSE 50051 9090
VOLUME ["/models"]
USER 65532:65532
# Drains: see server.drain_seconds. Give the container more time to stop than that.
STOPSIGNAL SIGTERM
# The service answers only after the model is loaded, which takes seconds for small models and a
# minute for large ones.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["skipstone", "healthcheck"]
ENTRYPOINT ["skipstone"]
CMD ["serve"]
