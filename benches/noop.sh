#!/usr/bin/env bash
# What nothing costs: `renet apply` of the whole of examples/shop, in sync, against
# `docker compose up -d` of one unchanged project with one service that only sleeps.
# Both on the same daemon, in turns. As root: benches/noop.sh [RUNS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

runs=${1:-20}
port=18097
compose=/usr/local/libexec/renet/docker-compose
[ "$(id -u)" = 0 ] || { echo "benches/noop.sh: must be run as root" >&2; exit 2; }
deploy/tools.sh
cargo build --quiet --locked --profile ci

root=$(mktemp -d /tmp/rb-XXXXXX)
renet() { target/ci/renet --root "$root" "$@"; }
trap 'renet uninstall >/dev/null || true; rm -rf -- "$root"' EXIT

desired=$root/etc/rediacc/desired
mkdir -p "$desired" "$root/bench"
cp -r examples/shop/. "$desired"
cp /usr/bin/busybox "$desired/image/busybox"
sed -i "s/http: 8088/http: $port/" "$desired/shop.yaml"
renet apply >/dev/null
renet diff >/dev/null # exits with 1 where anything differs

sockets=("$root"/run/rediacc/docker-*.sock)
export DOCKER_HOST=unix://${sockets[0]}
image=$(docker images --format '{{.Repository}}:{{.Tag}}' | grep '^renet/' | head -n 1)
cat >"$root/bench/docker-compose.yml" <<YAML
services:
  one:
    image: $image
    network_mode: none
    entrypoint: ["/bin/busybox", "sleep", "100000"]
YAML
up() { "$compose" -p bench -f "$root/bench/docker-compose.yml" up -d; }
up >/dev/null 2>&1
trap '"$compose" -p bench -f "$root/bench/docker-compose.yml" down -t 0 >/dev/null 2>&1 || true
  renet uninstall >/dev/null || true; rm -rf -- "$root"' EXIT

# Milliseconds of a command, its output thrown away.
timed() {
  local began=$EPOCHREALTIME ended
  "$@" >/dev/null 2>&1
  ended=$EPOCHREALTIME
  awk -v a="$began" -v b="$ended" 'BEGIN { printf "%.1f\n", (b - a) * 1000 }'
}
for _ in $(seq "$runs"); do
  timed renet apply >>"$root/apply"
  timed renet diff >>"$root/diff"
  timed up >>"$root/compose"
done

median() { sort -n "$root/$1" | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
printf 'median of %s runs, no change\n' "$runs"
printf '  renet apply, examples/shop whole   %7s ms\n' "$(median apply)"
printf '  renet diff, examples/shop whole    %7s ms\n' "$(median diff)"
printf '  docker compose up -d, one service  %7s ms\n' "$(median compose)"
awk -v a="$(median apply)" -v c="$(median compose)" \
  'BEGIN { printf "  apply / compose                    %7.2f\n", a / c }'
