#!/usr/bin/env bash
# Runs the tests: tests/run.sh [fast|long]. Plain runs everything; fast leaves
# out what touches the machine; long runs the sampled tables whole.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-plain}
filter=()
case $mode in
  plain) ;;
  long) export RENET_LONG=1 ;;
  fast) filter=(-E 'not test(/^host::/)') ;;
  *) echo "usage: tests/run.sh [fast|long]" >&2; exit 2 ;;
esac
if [ "$mode" != fast ]; then
  [ "$(id -u)" = 0 ] || { echo "tests/run.sh: must be run as root (tests/run.sh fast need not)" >&2; exit 2; }
  deploy/tools.sh
fi
cargo nextest --version >/dev/null 2>&1 || cargo install cargo-nextest --version 0.9.143 --locked

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
export RENET_SEED=${RENET_SEED:-$RANDOM$RANDOM} RENET_SKIPS=$work/skips CARGO_TERM_COLOR=never RUST_BACKTRACE=0
: >"$RENET_SKIPS"
echo "seed: RENET_SEED=$RENET_SEED"

status=0
cargo nextest run --locked --no-fail-fast --status-level pass --failure-output immediate \
  "${filter[@]}" 2>&1 | tee "$work/log" || status=$?

echo "slowest:"
sed -n 's/^ *PASS \[ *\([0-9.]*\)s\] *\(([^)]*)\)\{0,1\} *\(.*\)$/\1 \3/p' "$work/log" | sort -rn | head -n 10 | sed 's/^/  /'
if [ -s "$RENET_SKIPS" ]; then
  echo "skipped:"
  sort -u "$RENET_SKIPS" | sed 's/^/  /'
fi
# The runner's own last word comes last.
grep -E '^ *Summary \[' "$work/log" | tail -n 1 || true
exit "$status"
