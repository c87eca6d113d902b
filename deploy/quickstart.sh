#!/usr/bin/env bash
# From nothing to a live route: installs what is missing, builds renet, and
# applies examples/hello beneath a root of its own. Run again it does nothing.
# deploy/quickstart.sh [--root DIR] [--remove]
set -euo pipefail
cd "$(dirname "$0")/.."

ROOT=/opt/renet-demo
URL=http://hello.localhost:8088
remove=
while [ $# -gt 0 ]; do
  case $1 in
    --remove) remove=1 ;;
    --root) ROOT=${2:?--root needs a folder}; shift ;;
    *) echo "usage: deploy/quickstart.sh [--root DIR] [--remove]" >&2; exit 2 ;;
  esac
  shift
done
die() { echo "quickstart: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || { echo "quickstart: must be run as root; nothing was changed" >&2; exit 2; }
case $ROOT in
  /*) ;;
  *) die "--root must be an absolute path" ;;
esac
ROOT=${ROOT%/}
[ -n "$ROOT" ] || die "--root must not be /"
[ ${#ROOT} -le 40 ] || die "--root is longer than 40 bytes: socket paths beneath it would not fit"
# Only a folder that this script made is ever removed.
MARKER=$ROOT/.renet-root

take_away() {
  [ -e "$MARKER" ] || { echo "nothing of the demo is at $ROOT"; exit 0; }
  [ ! -x "$ROOT/renet" ] || "$ROOT/renet" uninstall
  if grep -qF " $ROOT/" /proc/self/mountinfo; then die "something is still mounted beneath $ROOT; nothing was deleted"; fi
  if losetup --list --noheadings --output BACK-FILE | grep -qF "$ROOT/"; then die "a loop device still uses a file beneath $ROOT; nothing was deleted"; fi
  rm -rf --one-file-system -- "$ROOT"
  echo "removed $ROOT; packages and build output stay"
  exit 0
}
[ -z "$remove" ] || take_away

check_rust() {
  local version
  command -v cargo >/dev/null && command -v rustc >/dev/null ||
    die "Rust 1.91 or newer is needed and none is installed; install it with rustup (https://rustup.rs) and run this again"
  version=$(rustc --version | sed -n 's/^rustc 1\.\([0-9]*\).*/\1/p')
  [ "${version:-0}" -ge 91 ] || die "Rust 1.91 or newer is needed, here is $(rustc --version); run: rustup update stable"
}

answer() { curl -sS --fail --max-time 2 --noproxy '*' "$URL" 2>/dev/null; }

check_rust
deploy/tools.sh
# A binary that is there already, for tests and packagers; else it is built.
built=${RENET_BINARY:-}
if [ -z "$built" ]; then
  cargo build --quiet --locked --profile ci --bin renet
  built=${CARGO_TARGET_DIR:-target}/ci/renet
fi
began=$SECONDS

if [ ! -e "$MARKER" ]; then
  [ ! -e "$ROOT" ] || [ -z "$(ls -A "$ROOT")" ] || die "$ROOT is there and not a demo of renet's; choose another with --root"
  mkdir -p "$ROOT/bin" "$ROOT/etc/rediacc/desired"
  : >"$MARKER"
fi
changed=
if ! cmp -s "$built" "$ROOT/bin/renet"; then
  # In one move: supervisors may be running from the old one.
  install -m 755 "$built" "$ROOT/bin/.renet.new"
  mv -f "$ROOT/bin/.renet.new" "$ROOT/bin/renet"
  changed=1
fi
if [ ! -e "$ROOT/renet" ]; then
  printf '#!/bin/sh\n# renet beneath the root of the demo.\nRENET_ROOT=%s exec %s/bin/renet "$@"\n' "$ROOT" "$ROOT" >"$ROOT/renet"
  chmod 755 "$ROOT/renet"
fi
desired=$ROOT/etc/rediacc/desired
if [ ! -e "$desired/hello.yaml" ]; then
  cp -R examples/hello/. "$desired/"
  rm -f "$desired/.gitignore"
  install -m 755 "$(command -v busybox)" "$desired/web/busybox"
fi

if [ -z "$changed" ] && "$ROOT/renet" diff >/dev/null 2>&1 && answer >/dev/null; then
  echo "In sync already: $URL answers, nothing was done."
  exit 0
fi
"$ROOT/renet" apply --yes
until=$((SECONDS + 20))
until body=$(answer); do
  [ $SECONDS -lt $until ] || die "$URL does not answer; see: $ROOT/renet get"
  sleep 0.1
done
echo
"$ROOT/renet" get
cat <<TXT

\$ curl -s $URL
$body

Done in $((SECONDS - began)) s. Now try:
  1. edit $desired/web/docker-compose.yml, then:
     $ROOT/renet diff
     $ROOT/renet apply
  2. break something:
     umount $ROOT/mnt/rediacc/mounts/*
     $ROOT/renet apply
  3. see what runs:
     $ROOT/renet get
Take it away again: deploy/quickstart.sh --remove
TXT
