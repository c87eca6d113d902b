#!/usr/bin/env bash
# Installs what the tests need beyond deploy/tools.sh and this machine lacks.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../../deploy/apt.sh"

packages() {
  local missing=() package
  for package in mmdebstrap debian-archive-keyring cpio gzip xz-utils e2fsprogs openssh-client \
    qemu-utils nbdkit systemd-container pebble; do
    installed "$package" || missing+=("$package")
  done
  apt_install "${missing[@]}"
}

qemu() {
  local version apt=()
  installed qemu-system-x86 && return
  version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-0}")
  if [ "${version%%.*}" = 12 ]; then
    # Debian 12's own is two years older and refuses newer qemu-utils.
    apt_of bookworm bookworm-backports
    apt+=(-t bookworm-backports)
  fi
  apt_install qemu-system-x86
}

qemu
packages
