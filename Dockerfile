# Two stages: the first has the toolchain, the second has the binary and nothing else that runs.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin doorward

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /etc/doorward --no-create-home doorward \
 && install -d -o doorward -g doorward -m 0700 /var/lib/doorward
COPY --from=build /src/target/release/doorward /usr/local/bin/doorward
USER doorward
WORKDIR /etc/doorward
# Mount the configuration, manifests and policies at /etc/doorward, with `state: /var/lib/doorward` and
# `audit: { dir: /var/lib/doorward/audit }` in doorward.yaml. Beyond loopback the listener needs `listen.tls`.
VOLUME ["/var/lib/doorward"]
EXPOSE 8808
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/doorward"]
CMD ["serve", "--config", "/etc/doorward/doorward.yaml"]
