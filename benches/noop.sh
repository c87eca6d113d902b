#!/usr/bin/env bash
# What nothing costs, in turns with `docker compose up -d` of projects that are as they
# should be, each with one service that only sleeps: `renet apply` of the whole of
# examples/shop against one project; then of 10 and 100 services against as many
# projects, all of them running here; then of 1,000 on a simulated machine, where
# compose's time is that of 100, ten times. Takes about ten minutes.
# As root: benches/noop.sh [RUNS [RUNS_OF_100]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

runs=${1:-10} runs_of_100=${2:-5}
port=18097
in_repository=50 # a network has room for 61
compose=/usr/local/libexec/renet/docker-compose
[ "$(id -u)" = 0 ] || { echo "benches/noop.sh: must be run as root" >&2; exit 2; }
deploy/tools.sh
cargo build --quiet --locked --profile ci
simulated=$(cargo bench --quiet --locked --profile ci --bench noop -- 1000 | awk '$1 == 1000 { print $2 }')

root= times=$(mktemp -d)
renet() { target/ci/renet --root "$root" "$@"; }
leave() {
  [ -n "$root" ] || return 0
  # What is still mounted is not ours to remove.
  renet uninstall >/dev/null || { echo "benches/noop.sh: left behind: $root" >&2; return 1; }
  rm -rf --one-file-system -- "$root"
  root=
}
trap 'leave; rm -rf -- "$times"' EXIT

# A root of its own, with the images' contents.
enter() {
  root=$(mktemp -d /tmp/rb-XXXXXX) desired=$root/etc/rediacc/desired
  mkdir -p "$desired"
}

settle() {
  renet apply >/dev/null 2>&1
  renet diff >/dev/null # exits with 1 where anything differs
}

# NUMBER projects beside renet's own, on one of its daemons.
projects() {
  local sockets=("$root"/run/rediacc/docker-*.sock) image name
  export DOCKER_HOST=unix://${sockets[0]}
  image=$(docker images --format '{{.Repository}}:{{.Tag}}' | grep '^renet/' | head -n 1)
  for name in $(seq "$1"); do
    mkdir -p "$root/bench/$name"
    cat >"$root/bench/$name/docker-compose.yml" <<YAML
services:
  one:
    image: $image
    network_mode: none
    entrypoint: ["/bin/busybox", "sleep", "100000"]
YAML
  done
  up "$1" >/dev/null 2>&1
}
up() {
  local name
  for name in $(seq "$1"); do
    "$compose" -p "bench$name" -f "$root/bench/$name/docker-compose.yml" up -d
  done
}

# NUMBER services, each a project of its own, in as few repositories as hold them.
services() {
  local number repository=
  mkdir "$desired/image"
  cp /usr/bin/busybox "$desired/image/busybox"
  cp examples/shop/image/Dockerfile "$desired/image/Dockerfile"
  printf 'apiVersion: renet/v1\nkind: Machine\nmetadata: { name: bench }\nspec: { datastore: { size: 4G } }\n' \
    >"$desired/machine.yaml"
  for number in $(seq 0 $(($1 - 1))); do
    if [ $((number % in_repository)) = 0 ]; then
      repository=r$number
      cat >"$desired/$repository.yaml" <<YAML
apiVersion: renet/v1
kind: Repository
metadata: { name: $repository }
spec: { size: 1G, encryption: none }
YAML
    fi
    cat >>"$desired/$repository.yaml" <<YAML
---
apiVersion: renet/v1
kind: Service
metadata: { name: s$number }
spec:
  repository: $repository
  compose: { file: s$number/docker-compose.yml }
  files: { image: { dir: image } }
YAML
    mkdir "$desired/s$number"
    cat >"$desired/s$number/docker-compose.yml" <<YAML
services:
  s$number:
    build: image
    command: ["sleep", "100000"]
    stop_grace_period: 0s
YAML
  done
}

# Milliseconds of a command, its output thrown away, into a file of that name.
timed() {
  local name=$1 began=$EPOCHREALTIME ended
  shift
  "$@" >/dev/null 2>&1
  ended=$EPOCHREALTIME
  awk -v a="$began" -v b="$ended" 'BEGIN { printf "%.1f\n", (b - a) * 1000 }' >>"$times/$name"
}
median() { sort -n "$times/$1" | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }
product() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", a * b }'; }

enter
cp -r examples/shop/. "$desired"
cp /usr/bin/busybox "$desired/image/busybox"
sed -i "s/http: 8088/http: $port/" "$desired/shop.yaml"
settle
projects 1
for _ in $(seq "$runs"); do
  timed apply renet apply
  timed diff renet diff
  timed compose up 1
done
leave
printf 'median of %s runs, no change\n' "$runs"
printf '  renet apply, examples/shop whole   %9s ms\n' "$(median apply)"
printf '  renet diff, examples/shop whole    %9s ms\n' "$(median diff)"
printf '  docker compose up -d, one service  %9s ms\n' "$(median compose)"
printf '  apply / compose                    %9s\n' "$(ratio "$(median apply)" "$(median compose)")"

row='  %8s  %12s ms %-10s %12s ms %-24s %8s\n'
printf '\n  %8s  %15s %-10s %15s %-24s %8s\n' services 'renet apply' '' 'compose up -d' 'as often' ratio
for number in 10 100; do
  [ "$number" = 10 ] || runs=$runs_of_100
  enter
  services "$number"
  settle
  projects "$number"
  for _ in $(seq "$runs"); do
    timed "apply$number" renet apply
    timed "compose$number" up "$number"
  done
  leave
  mine=$(median "apply$number") all=$(median "compose$number")
  # shellcheck disable=SC2059
  printf "$row" "$number" "$mine" '' "$all" "$runs runs" "$(ratio "$mine" "$all")"
done
all=$(product "$(median compose100)" 10)
# shellcheck disable=SC2059
printf "$row" 1000 "$simulated" simulated "$all" 'extrapolated from 100' "$(ratio "$simulated" "$all")"
