# Both images, for the machine's own architecture:
#
#   docker build --target service -t larderd .
#   docker build --target action  -t larder-action .
#
# Static programs and the certificate authorities, nothing else. No feature of BuildKit is
# needed, so that old Docker builds them too; with BuildKit each target builds only its own.

FROM rust:1.95-slim-bookworm AS build-action
WORKDIR /src
COPY . .
# glibc, but inside the program. (Names resolve without its plug-ins: by /etc/hosts and DNS.)
ENV RUSTFLAGS="-C target-feature=+crt-static"
# What is compiled here. Whoever makes both images names both packages, for both: then nothing is compiled twice.
ARG PACKAGES="--package larder-action"
# With a target named, the flags are not for build scripts and macros, which must stay dynamic.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --release --locked --target "$target" $PACKAGES \
 && mkdir -p /out/bin && cp "target/$target/release/larder" /out/bin/
# The runner starts the action's steps by the names in action.yml.
RUN ln -s larder /out/bin/larder-action-main && ln -s larder /out/bin/larder-action-post

FROM build-action AS build-service
ARG PACKAGES="--package larder-service"
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && cargo build --release --locked --target "$target" $PACKAGES \
 && cp "target/$target/release/larderd" /out/bin/ \
 && mkdir -p /out/data

# The service: `docker run -v larder:/var/lib/larder -p 8080:8080 larderd`.
FROM scratch AS service
COPY --from=build-service /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build-service /out/bin/larderd /bin/larderd
COPY --from=build-service --chown=65532:65532 /out/data /var/lib/larder
USER 65532:65532
ENV LARDER_DATA_DIR=/var/lib/larder LARDER_LISTEN=0.0.0.0:8080
VOLUME /var/lib/larder
EXPOSE 8080
ENTRYPOINT ["/bin/larderd"]

# The action, and what `docker build .` makes: action.yml says `image: Dockerfile`.
FROM scratch AS action
COPY --from=build-action /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build-action /out/bin/ /bin/
ENTRYPOINT ["/bin/larder"]
