#!/usr/bin/env bash
# Builds the image of the newest Bento: deploy/image/build.sh [NAME:TAG]. `make image` makes the Bento before.
#
#   ENGINE        docker, podman or buildah; the first that answers
#   PYTHON_IMAGE  what it is built on; `debootstrap` makes one from Debian's packages, where no registry of images is
#   REQUIREMENTS  image-onnx (no torch), image-torch
#   REGISTRY      the file of registry/ that it serves by default
#   TORCH_INDEX   where image-torch's files come from (`make lock-torch` with the same one before)
#   CA_BUNDLE     certificates that are trusted during the build (buildah, podman), beside a proxy of one's own
set -euo pipefail
cd "$(dirname "$0")/../.."
export BENTOML_DO_NOT_TRACK=True BUILDAH_FORMAT=docker
bentoml=${BENTOML:-.venv/bin/bentoml}
image=${1:-modelmora:latest}

engine() {
    for name in docker podman buildah; do
        if command -v "$name" > /dev/null && timeout 20 "$name" info > /dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    echo "neither docker, podman nor buildah answers: on Debian, apt-get install buildah podman" >&2
    exit 1
}

# A Python on Debian's smallest system, in an image of its own.
from_debian() {
    local name=localhost/modelmora-python:bookworm root container
    if ! buildah inspect --type image "$name" > /dev/null 2>&1; then
        root=$(mktemp -d)
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" >&2
        container=$(buildah from scratch)
        buildah add -q "$container" "$root" / >&2
        buildah commit -q --format docker "$container" "$name" >&2
        buildah rm "$container" >&2
        rm -rf "$root"
    fi
    echo "$name"
}

ENGINE=${ENGINE:-$(engine)}
options=()
for name in REQUIREMENTS REGISTRY TORCH_INDEX; do
    if [ -n "${!name:-}" ]; then options+=(--opt "build-arg=$name=${!name}"); fi
done
if [ "${PYTHON_IMAGE:-}" = debootstrap ]; then PYTHON_IMAGE=$(from_debian); fi
if [ -n "${PYTHON_IMAGE:-}" ]; then options+=(--opt "build-arg=PYTHON_IMAGE=$PYTHON_IMAGE"); fi
if [ -n "${CA_BUNDLE:-}" ]; then options+=(--opt "volume=$CA_BUNDLE:/etc/ssl/certs/ca-certificates.crt:ro"); fi

# BentoML takes a template only from below the working folder (its issue 5566), so the context is put there.
mkdir -p build/context
TMPDIR=$PWD/build/context "$bentoml" containerize modelmora:latest --backend "$ENGINE" -t "$image" "${options[@]}"
