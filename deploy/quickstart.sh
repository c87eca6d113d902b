#!/usr/bin/env bash
# From a checkout to a live route, in a root of its own that goes away without a
# trace: deploy/quickstart.sh [--root DIR]. Again: says that nothing is to do.
# deploy/quickstart.sh --remove [--root DIR] takes it away; packages, build output
# and the empty /opt/containerd that containerd makes wherever it runs stay.
set -euo pipefail

RUST_NEEDED=91 # the minor of 1.91, as Cargo.toml's rust-version

root=/opt/renet-demo
remove=

say() { printf '%s\n' "$*"; }
die() { printf 'quickstart: %s\n' "$*" >&2; exit "${code:-1}"; }
usage() { code=2 die "usage: deploy/quickstart.sh [--remove] [--root DIR]"; }

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --remove) remove=1 ;;
      --root) [ $# -ge 2 ] || usage; root=$2; shift ;;
      --root=*) root=${1#--root=} ;;
      *) usage ;;
    esac
    shift
  done
}

# What follows deletes this folder one day: it is never the machine's own.
check_root() {
  case $root in
    /*) ;;
    *) code=2 die "--root must be an absolute path; '$root' is not" ;;
  esac
  case $root in
    *[!A-Za-z0-9._/-]*) code=2 die "--root may hold letters, digits and . _ - only" ;;
  esac
  [ "${#root}" -le 40 ] || code=2 die "--root is longer than 40 bytes: socket paths beneath it would not fit"
  [ "$(realpath -m -- "$root")" = "$root" ] ||
    code=2 die "--root must be a plain path without links, '..' or doubled slashes: $(realpath -m -- "$root")"
  case $root in
    /*/*) ;;
    *) code=2 die "--root must lie at least two folders deep, as /opt/renet-demo does" ;;
  esac
}

need_root() {
  [ "$(id -u)" = 0 ] || code=2 die "must be run as root; nothing was changed"
}

need_rust() {
  # sudo takes the user's own PATH away.
  command -v cargo >/dev/null || PATH=$PATH:${HOME:-/root}/.cargo/bin
  local version minor cure="install Rust from rustup.rs (or: rustup update stable), then run again"
  version=$(rustc --version 2>/dev/null) && command -v cargo >/dev/null ||
    die "Rust 1.$RUST_NEEDED or newer is needed and none is in root's PATH: $cure"
  minor=${version#rustc 1.}
  minor=${minor%%.*}
  case $minor in
    '' | *[!0-9]*) ;; # a later major, or a build with a name of its own: cargo will tell
    *) [ "$minor" -ge "$RUST_NEEDED" ] || die "Rust 1.$RUST_NEEDED or newer is needed, this is '$version': $cure" ;;
  esac
}

# Tenths of a second since the start.
started=${EPOCHREALTIME/[.,]/}
took() {
  local tenths=$(((${EPOCHREALTIME/[.,]/} - started) / 100000))
  printf '%d.%ds' $((tenths / 10)) $((tenths % 10))
}

# Leaves the program in $binary: one that is there already (RENET_BINARY, for
# tests and packagers), else it is built.
build() {
  local target
  if [ -n "${RENET_BINARY-}" ]; then
    binary=$RENET_BINARY
    [ -x "$binary" ] || die "RENET_BINARY names no program: $binary"
    return
  fi
  cargo build --locked --profile ci
  target=$(cargo metadata --locked --offline --no-deps --format-version 1 |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
  binary=${target:-target}/ci/renet
  [ -x "$binary" ] || die "cargo built no $binary; is build.target set in a cargo configuration?"
}

# place FILE TARGET: in one move, since daemons' supervisors run from the old one.
# Succeeds where something was changed.
place() {
  ! cmp -s -- "$1" "$2" || return 1
  { install -m 755 -- "$1" "$2.new" && mv -f -- "$2.new" "$2"; } || die "$2 could not be written"
}

make_root() {
  [ -e "$root/.renet-root" ] && return
  [ ! -e "$root" ] ||
    die "$root is there already and was not made by this script: name a folder that is not, with --root"
  mkdir -p -- "$(dirname "$root")"
  mkdir -- "$root"
  say "Made by deploy/quickstart.sh, which may delete this folder." >"$root/.renet-root"
}

# The static one: the example's image holds no libraries.
busybox() {
  local file
  for file in /bin/busybox /usr/bin/busybox; do
    [ ! -x "$file" ] || { say "$file"; return; }
  done
  die "there is no busybox: apt-get install --reinstall busybox-static, then run again"
}

# The example, whole or not at all, and once: after that it is the reader's.
copy_example() {
  [ -e "$desired" ] && return
  mkdir -p -- "$root/etc/rediacc"
  rm -rf -- "$desired.new"
  cp -R -- examples/hello "$desired.new"
  rm -f -- "$desired.new/.gitignore"
  cp -- "$(busybox)" "$desired.new/web/busybox"
  mv -T -- "$desired.new" "$desired"
}

install_renet() {
  changed=
  mkdir -p -- "$root/bin"
  if place "$binary" "$root/bin/renet"; then changed=1; fi
  printf '#!/bin/sh\nRENET_ROOT=%s exec %s/bin/renet "$@"\n' "$root" "$root" >"$root/bin/wrapper"
  if place "$root/bin/wrapper" "$root/renet"; then changed=1; fi
  rm -f -- "$root/bin/wrapper"
}

status() {
  curl -s -o /dev/null -w '%{http_code}' --noproxy '*' --max-time 2 "$url" || true
}

# Says who else holds the port, before anything is started.
check_port() {
  local pids pid
  pids=$(ss -Hltnp "sport = :$port" | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u) || true
  for pid in $pids; do
    grep -qsF -- "$root/" "/proc/$pid/cmdline" && continue
    die "port $port is in use by $(cat "/proc/$pid/comm" 2>/dev/null || echo someone) (pid $pid):" \
      "stop it, or write another port under 'proxy:' in $desired/hello.yaml, then run again"
  done
}

in_sync() {
  [ -z "$changed" ] && "$root/renet" diff >/dev/null 2>&1 && [ "$(status)" = 200 ]
}

wait_for_answer() {
  local seen end=$((SECONDS + 20))
  while seen=$(status); [ "$seen" != 200 ]; do
    [ "$SECONDS" -lt "$end" ] ||
      die "$url does not answer 200 after 20 s (last: $seen); what is wrong: $root/renet get"
    sleep 0.1
  done
}

last_lines() {
  local ask=(curl -s)
  # With a proxy in the environment the bare command would ask the proxy.
  [ -z "${http_proxy-}${all_proxy-}${ALL_PROXY-}" ] || ask+=(--noproxy "'*'")
  say
  "$root/renet" get
  say
  say "\$ ${ask[*]} $url"
  timeout 10 sh -c "${ask[*]} $url" || die "$url stopped answering; what is wrong: $root/renet get"
  say
  say "Done in $(took). Now try:"
  say "  1. edit $desired/web/docker-compose.yml"
  say "     (stop_grace_period: 2s, say), then:"
  say "     $root/renet diff"
  say "     $root/renet apply"
  say "  2. break something, and have it mended:"
  say "     umount $root/mnt/rediacc/mounts/*"
  say "     $root/renet apply"
  say "  3. see what runs:"
  say "     $root/renet get"
  say "Take it away again: $again"
}

# The processes that run from, or on behalf of, this root.
processes() {
  local folder exe
  for folder in /proc/[0-9]*; do
    exe=$(readlink "$folder/exe" 2>/dev/null) || continue
    case $exe in
      "$root"/*) say "${folder#/proc/} $exe" ;;
      */dockerd* | */containerd* | */traefik* | */docker-compose*)
        ! grep -qsF -- "$root/" "$folder/cmdline" || say "${folder#/proc/} $exe"
        ;;
    esac
  done
}

mounts() {
  awk -v root="$root" '$5 == root || index($5, root "/") == 1 { print $5 }' /proc/self/mountinfo
}

loop_devices() {
  local file path
  for file in /sys/block/loop*/loop/backing_file; do
    path=$(cat "$file" 2>/dev/null) || continue
    case $path in
      "$root"/*) file=${file%/loop/*}; say "/dev/${file##*/} $path" ;;
    esac
  done
}

take_away() {
  if [ ! -e "$root" ]; then
    say "Nothing to remove: $root is not there."
    return
  fi
  [ -f "$root/.renet-root" ] && [ ! -L "$root/.renet-root" ] ||
    die "$root was not made by this script (it holds no .renet-root): not touched"
  if [ -x "$root/bin/renet" ]; then
    RENET_ROOT=$root "$root/bin/renet" uninstall ||
      die "$root was not taken down: what is above is in the way; cure it and run again"
  fi
  local left end=$((SECONDS + 10))
  # What was told to end may take a moment.
  while left=$(processes; mounts; loop_devices); [ -n "$left" ]; do
    [ "$SECONDS" -lt "$end" ] ||
      die "$root is still in use, so nothing of it was deleted:"$'\n'"$left"$'\n'"end, unmount or detach these, then run again"
    sleep 0.1
  done
  # The marker last: an interrupted removal can be run again.
  find "$root" -xdev -mindepth 1 -maxdepth 1 ! -name .renet-root \
    -exec rm -rf --one-file-system -- {} + ||
    die "$root was taken down, but what is named above could not be deleted (lsattr shows immutable folders)"
  rm -f -- "$root/.renet-root"
  rmdir -- "$root"
  say "Removed: $root. Packages and build output stay."
}

parse "$@"
check_root
need_root
umask 022
if [ -n "$remove" ]; then
  take_away
  exit
fi
[ -n "${RENET_BINARY-}" ] || need_rust
cd "$(dirname "${BASH_SOURCE[0]}")/.."
again="deploy/quickstart.sh --remove"
[ "$root" = /opt/renet-demo ] || again+=" --root $root"
desired=$root/etc/rediacc/desired
deploy/tools.sh
build
make_root
copy_example
install_renet
port=$(sed -n 's/.*\bhttp: *\([0-9][0-9]*\).*/\1/p' "$desired/hello.yaml" | head -n 1) || true
port=${port:-8088}
url=http://hello.localhost:$port
if in_sync; then
  say "In sync already: $url answers, as $desired says. Remove: $again"
  exit
fi
check_port
"$root/renet" apply --yes || { code=$? die "renet apply did not finish; what is left to do: $root/renet diff"; }
wait_for_answer
last_lines
