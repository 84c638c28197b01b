#!/usr/bin/env bash
# Builds the image of deploy/Dockerfile from a static binary that is built on this machine.
#
#   bash deploy/image.sh NAME            builds the files and the image NAME
#   bash deploy/image.sh --files DIR     builds the files only, as the Dockerfile does in its own stage
#
# HOLDFAST_IMAGE_PROFILE=dev builds faster, for trying something out.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# The binary's crate alone is built as for a static binary; its dependencies are those of `cargo build --release`.
# glibc since 2.34 resolves names in a static binary by itself.
files() {
  local image=$1 profile=${HOLDFAST_IMAGE_PROFILE:-release} target
  cd "$here/.."
  cargo rustc --profile "$profile" --locked --quiet --package holdfast --bin holdfast -- \
    -C target-feature=+crt-static -C strip=symbols
  target=${CARGO_TARGET_DIR:-target}/${profile/dev/debug}/holdfast
  if readelf --dynamic "$target" | grep --quiet NEEDED; then
    echo "$target is not static" >&2
    return 1
  fi
  rm -rf "$image"
  install -D --mode 755 "$target" "$image/root/usr/local/bin/holdfast"
  install -D --mode 644 /etc/ssl/certs/ca-certificates.crt "$image/root/etc/ssl/certs/ca-certificates.crt"
  install --directory "$image/workspace"
}

case ${1:-} in
  --files) files "$2" ;;
  "" | -*) sed -n '2,7s/^# \?//p' "$0" >&2; exit 2 ;;
  *)
    context=$(mktemp -d)
    trap 'rm -rf "$context"' EXIT
    (files "$context")
    docker build --quiet --file "$here/Dockerfile" --target prebuilt --tag "$1" "$context"
    ;;
esac
