#!/usr/bin/env bash
# Build both images: sctlab (exec API, one case per run) and sctlab:invoke (server on port 4743).
# PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and PIP_TRUSTED_HOST are passed on; arguments go to `docker build`, for instance:
#   ./build.sh --build-arg BASE_IMAGE=my-registry/pytorch:2.13
#   ./build.sh --network host --build-arg PIP_CERT=/etc/ssl/certs/ca-certificates.crt     (behind a proxy)
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

if ! docker info >/dev/null 2>&1; then
    echo "error: no container engine answers (docker info fails). Start Docker, or use ./predict.sh, which needs none." >&2
    exit 1
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
revision=$(git -C "$root" describe --always --abbrev=40 --dirty=-modified --exclude '*' 2>/dev/null || echo unknown)
options=(--build-arg VERSION="$version" --build-arg REVISION="$revision")
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
    [[ -z ${!name:-} ]] || options+=(--build-arg "$name")
done
for target in exec invoke; do
    docker build --target "$target" --tag "sctlab:$target" "${options[@]}" "$@" "$root"
done
docker tag sctlab:exec sctlab:latest
docker images sctlab
