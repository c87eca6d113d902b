#!/usr/bin/env bash
# Runs the tests: tests/run.sh [fast|long]. Plain runs everything; fast leaves
# out what touches the machine; long runs the sampled tables whole, and breaks
# the planner in small ways that the tests must notice.
# RENET_SEED=N repeats the random choices of an earlier run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { echo "usage: tests/run.sh [fast|long]" >&2; exit 2; }
[ $# -le 1 ] || usage
mode=${1:-plain}
profile=default
filter=()
case $mode in
  plain) ;;
  long) export RENET_LONG=1; profile=long ;;
  # Some of these wait more than they work.
  fast) filter=(-E 'not test(/^(host|machine|container)::/)' --test-threads "$((2 * $(nproc)))") ;;
  *) usage ;;
esac

command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
command -v cargo >/dev/null || {
  echo "tests/run.sh: there is no cargo: install Rust from rustup.rs, then run again" >&2
  exit 1
}
if [ "$mode" != fast ]; then
  [ "$(id -u)" = 0 ] || { echo "tests/run.sh: must be run as root (tests/run.sh fast need not)" >&2; exit 2; }
  deploy/tools.sh
  tests/machine/tools.sh
  # Says how long it took, where there was something to build.
  tests/machine/build.sh >/dev/null
fi
cargo nextest --version >/dev/null 2>&1 || cargo install cargo-nextest --version 0.9.143 --locked

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
# A test that cannot run here prints `SKIP(capability): …` or appends it to RENET_SKIPS.
export RENET_SKIPS=$work/skips CARGO_TERM_COLOR=never RUST_BACKTRACE=0
export RENET_SEED=${RENET_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
: >"$RENET_SKIPS"
echo "seed: RENET_SEED=$RENET_SEED"

# Relative to the workspace wherever cargo builds; an earlier run's would mislead.
junit=target/nextest/$profile/junit.xml
rm -f "$junit"

status=0
# A way to break the planner that no longer breaks anything proves nothing.
tests/mutants.sh --check || status=1
cargo nextest run --locked --profile "$profile" --no-fail-fast --status-level pass \
  --failure-output immediate "${filter[@]}" 2>&1 | tee "$work/log" || status=${PIPESTATUS[0]}

if [ "$mode" = long ]; then
  tests/mutants.sh || status=1
fi

# How long each test took, from nextest's lines: `PASS [   0.123s] (1/9) renet::it sim::holds`.
slowest() {
  sed -nE 's/^ *(PASS|FAIL|TIMEOUT|SIG[A-Z]+) +\[ *([0-9.]+)s\] *(\([^)]*\))? *(.*)$/\2 \4/p' "$work/log" |
    sort -u | sort -rn | awk 'NR <= 10 { printf "%10.3fs", $1; $1 = ""; print " " $0 }'
}

skips() {
  {
    cat "$RENET_SKIPS"
    [ ! -e "$junit" ] || grep -oE 'SKIP\([^<]*' "$junit" |
      sed "s/&gt;/>/g; s/&lt;/</g; s/&quot;/\"/g; s/&apos;/'/g; s/&amp;/\&/g"
  } | sort -u
}

echo
echo "slowest:"
slowest
skipped=$(skips) || true
if [ -n "$skipped" ]; then
  echo "skipped:"
  printf '%s\n' "$skipped" | sed 's/^/  /'
fi
[ "$mode" != long ] || echo "keep in docs/long.md what this run came to: seed $RENET_SEED, $((SECONDS / 60)) minutes"
[ "$status" = 0 ] || echo "repeat with: RENET_SEED=$RENET_SEED tests/run.sh ${1-}"
# The runner's own last word comes last.
grep -E '^ *Summary \[' "$work/log" | tail -n 1 || echo "no summary: the tests were not run"
exit "$status"
