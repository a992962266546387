#!/usr/bin/env bash
# Make a base image without an image registry, on Debian as root: bookworm from debootstrap, PyTorch from pip, in the
# version of the Dockerfile's own base. Prints the image's name. An image that is there already is kept.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

torch=$(sed -n 's/^ARG BASE_IMAGE=.*:\([0-9.]*\)-cuda.*/\1/p' Dockerfile)
image=sctlab-base:bookworm-torch-$torch
if docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image"
    exit
fi

if ! command -v debootstrap >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
    apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends debootstrap >&2
fi
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
echo "Making bookworm with debootstrap (about a minute)" >&2
debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates bookworm "$work/root" >"$work/log" ||
    { tail -n 20 "$work/log" >&2; exit 1; }
# With the machine's own certificate authorities, for pip behind a proxy that has one.
certificates=/etc/ssl/certs/ca-certificates.crt
cp "$certificates" "$work/root$certificates"
tar --directory "$work/root" --create . | docker import - sctlab-base:bookworm >&2

echo "Adding torch $torch (about 3 GB to fetch)" >&2
options=(--network host --build-arg PIP_CERT="$certificates")
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
    [[ -z ${!name:-} ]] || options+=(--build-arg "$name")
done
docker build "${options[@]}" --tag "$image" - >&2 <<DOCKERFILE
FROM sctlab-base:bookworm
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_CERT
RUN pip install --no-cache-dir --break-system-packages --root-user-action ignore --progress-bar off \
    torch==$torch torchvision
DOCKERFILE
echo "$image"
