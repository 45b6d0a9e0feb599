#!/usr/bin/env bash
# Builds an image of the Containerfile: tools/image.sh steps|train [tag]
#
# BASE names the base image. Where it is `local`, one is made from Debian's packages (mmdebstrap).
set -euo pipefail
cd "$(dirname "$0")/.."
target="${1:-steps}"
tag="${2:-localhost/brewhouse/$target:dev}"
command -v podman >/dev/null || { echo "install podman" >&2; exit 2; }
[ -d "build/wheels/$target" ] || { echo "run 'make wheels' first: build/wheels/$target is absent" >&2; exit 2; }

arguments=()
if [ "${BASE:-}" = local ]; then
  base=localhost/brewhouse/base:bookworm
  if ! podman image exists "$base"; then
    command -v mmdebstrap >/dev/null || { echo "install mmdebstrap, or set BASE to an image with Python 3.11" >&2; exit 2; }
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,libgomp1,python3,python3-venv \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='Apt::Install-Recommends "false"' \
      bookworm - | podman import --quiet - "$base" >/dev/null
  fi
  BASE="$base"
fi
if [ -n "${BASE:-}" ]; then
  arguments+=(--build-arg "STEPS_BASE=$BASE" --build-arg "TRAIN_BASE=$BASE")
fi
version="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/brewhouse/__init__.py)"
revision="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
# Of names and contents; pip's own wheels differ by build where they come from sources.
digest() { (cd "build/wheels/$target" && find . -name '*.whl' "$@" -print0 | sort -z | xargs -0 sha256sum) | sha256sum | cut -c1-16; }
podman build --quiet --isolation chroot --format docker \
  --target "$target" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
  --build-arg "OTHERS=$(digest ! -name 'brewhouse-*')" --build-arg "OURS=$(digest -name 'brewhouse-*')" \
  "${arguments[@]}" --tag "$tag" --file Containerfile .
echo "$tag"
