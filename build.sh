#!/usr/bin/env bash
# Build both images: sctlab (exec API, one case per run) and sctlab:invoke (server on port 4743).
# PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and PIP_TRUSTED_HOST are passed on; arguments go to `docker build`, for instance:
#   ./build.sh --build-arg BASE_IMAGE=my-registry/pytorch:2.13
#   ./build.sh --build-arg BASE_DIGEST=@sha256:...       (the very bytes of the base; the digest is printed at the end)
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

# What is in the image, as a CycloneDX list: Python packages, those of the base too, and Debian's.
mkdir -p "$root/export"
trap 'rm -f "$root/export/sctlab.cdx.json.part"' EXIT
docker run --rm --interactive --network none --entrypoint python sctlab:exec - "$version" <"$root/.ci/sbom.py" \
    >"$root/export/sctlab.cdx.json.part"
mv "$root/export/sctlab.cdx.json.part" "$root/export/sctlab.cdx.json"
echo "software bill of materials: $root/export/sctlab.cdx.json"
base=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.base.name"}}' sctlab:exec)
if digest=$(docker image inspect --format '{{index .RepoDigests 0}}' "$base" 2>/dev/null); then
    echo "base: $digest; the same one again: ./build.sh --build-arg BASE_DIGEST=@${digest#*@}"
fi
