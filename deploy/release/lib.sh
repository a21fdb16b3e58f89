#!/usr/bin/env bash
# What the scripts of a release share: the names of its files, and tars that are the same each time. Sourced, never run.
#
#   REPOSITORY  owner/name on GitHub, from where krew loads the plugin (default: as the image is called)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../dev/lib.sh"

# As the chart calls it.
IMAGE=$(sed -n 's/^  repository: //p' "$CLONE/charts/koco/values.yaml" | head -n 1)
REPOSITORY=${REPOSITORY:-$IMAGE}

# release VERSION: sets VERSION, and RELEASE to the folder of its files. Fails if it is none.
release() {
  [[ $1 =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || die "$1 is no version: it is 1.2.3 or 1.2.3-rc.1"
  # shellcheck disable=SC2034  # the scripts that source this use it
  VERSION=$1 RELEASE=$CLONE/dist/release-$1
}

# All that something is built for: a system and an architecture. For macOS only the plugin is.
# shellcheck disable=SC2034  # the scripts that source this use it
PLATFORMS=(linux-amd64 linux-arm64 darwin-amd64 darwin-arm64)

# The files for one platform, and the chart's.
image_file() { echo "koco-image-$VERSION-$1.tar"; }
plugin_file() { echo "kubectl-koco-$VERSION-$1.tar.gz"; }
sbom_file() { echo "koco-$VERSION-$1.cdx.json"; }
chart_file() { echo "koco-$VERSION.tgz"; }

# files PLATFORM...: all that a release has, if it is built for these
files() {
  local platform
  for platform in "$@"; do
    plugin_file "$platform"
    [[ $platform == linux-* ]] || continue
    image_file "$platform"
    sbom_file "$platform"
  done
  chart_file
  printf '%s\n' install.yaml koco.yaml RELEASE_NOTES.md SHA256SUMS
}

# pack FOLDER FILE: a tar of what is in the folder, gzipped if it is named so. Times, owners, modes and order come from
# nowhere but here.
pack() {
  local compress=cat
  [[ $2 == *.tar ]] || compress="gzip -n -9"
  (cd "$1" && tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r-w,a+X \
    -c -- *) | $compress >"$2"
}
