#!/usr/bin/env bash
# Builds what the machine and container tiers of the tests run in, once, and prints
# the folder it is in:
#   rootfs/                     Debian 13 with all that renet runs
#   root.ext4 vmlinuz initrd    the same as a virtual machine
#   system.qcow2 data.qcow2     its disks, with it up and running as snapshot `booted`
#   key                         opens its ssh
# It is made anew when what it is made from changes. RENET_CACHE says beneath which folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf 'machine: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || { say "must be run as root"; exit 2; }
for program in mmdebstrap qemu-system-x86_64 qemu-img cpio systemd-nspawn; do
  command -v "$program" >/dev/null || die "there is no $program: tests/machine/tools.sh installs it"
done

TOOLS=/usr/local/libexec/renet
SUITE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
PACKAGES=(
  systemd systemd-sysv dbus udev kmod linux-image-cloud-amd64 openssh-server procps iproute2 nftables iptables
  docker.io docker-cli docker-compose containerd runc criu cryptsetup-bin dmsetup btrfs-progs e2fsprogs util-linux
  swtpm libtss2-esys-3.0.2-0t64 libtss2-mu-4.0.1-0t64 libtss2-rc0t64 libtss2-tcti-device0t64
  rsync rclone age git bash ca-certificates curl jq zstd busybox-static openssh-client inotify-tools
)

cache=${RENET_CACHE:-/var/cache/renet-tests}
hash=$({ cat build.sh vm.sh init "$TOOLS/traefik.version"; qemu-system-x86_64 --version; } | sha256sum | cut -c1-16)
built=$cache/$hash
mkdir -p "$cache"
# One builds, the others wait.
exec 9<"$cache"
flock 9
[ ! -d "$built" ] || touch "$built"
# What nobody used for hours goes: what older scripts built, and what killed tests left.
find "$cache" -mindepth 1 -maxdepth 1 -mmin +120 -regextype posix-extended \
  -regex '.*/(\.new-)?[0-9a-f]{16}|.*/(vm|container)-[A-Za-z0-9]{6}' |
  while read -r old; do
    umount -l "$old/root" 2>/dev/null || true
    rm -rf --one-file-system -- "$old"
  done
if [ -d "$built" ]; then
  printf '%s\n' "$built"
  exit
fi

started=${EPOCHREALTIME/[.,]/}
lap() {
  local tenths=$(((${EPOCHREALTIME/[.,]/} - started) / 100000))
  say "$1 after $((tenths / 10)).$((tenths % 10)) s"
}

new=$cache/.new-$hash
vm=
cleanup() {
  [ -z "$vm" ] || kill -9 "$vm" 2>/dev/null || true
  rm -rf --one-file-system -- "$new"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
rm -rf --one-file-system -- "$new"
mkdir "$new"
say "building a Debian $SUITE in $built"

# The mirrors that apt knows, in whatever format.
sources() {
  local label suite from
  while read -r label suite; do
    from=$(apt-get indextargets --format '$(REPO_URI)' \
      'Created-By: Packages' 'Origin: Debian' "Label: $label" | head -n 1) || true
    [ -z "$from" ] || printf 'deb [signed-by=%s] %s %s main\n' "$KEYRING" "$from" "$suite"
  done <<S
Debian $SUITE
Debian $SUITE-updates
Debian-Security $SUITE-security
S
}

rootfs() {
  local root=$new/rootfs unit
  sources >"$new/sources.list"
  [ -s "$new/sources.list" ] || die "no Debian mirror in apt's sources; apt-get update may cure it"
  # How this machine reaches and trusts its mirrors holds for the image's too.
  {
    apt-config dump Acquire | grep -v '^Acquire::IndexTargets'
    printf 'Dir::Etc::netrc "/etc/apt/auth.conf";\nDir::Etc::netrcparts "/etc/apt/auth.conf.d";\n'
    printf 'APT::Install-Recommends "false";\n'
  } >"$new/apt.conf"
  mmdebstrap --quiet --variant=minbase --mode=root --format=directory --aptopt="$new/apt.conf" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include="$(IFS=,; printf '%s' "${PACKAGES[*]}")" \
    --customize-hook='chroot "$1" systemctl --quiet enable systemd-networkd ssh' "$SUITE" "$root" "$new/sources.list" \
    >"$new/mmdebstrap.log" 2>&1 9<&- || { tail -n 30 "$new/mmdebstrap.log" >&2; die "mmdebstrap failed"; }
  rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap
  mkdir -p "$root$TOOLS"
  cp "$TOOLS"/traefik* "$root$TOOLS/"

  ssh-keygen -q -t ed25519 -N '' -C renet-tests -f "$new/key"
  install -D -m 600 "$new/key.pub" "$root/root/.ssh/authorized_keys"
  chroot "$root" ssh-keygen -q -A
  echo machine >"$root/etc/hostname"
  echo '127.0.0.1 localhost machine' >"$root/etc/hosts"
  : >"$root/etc/machine-id"
  : >"$root/etc/fstab"
  printf '[Match]\nType=ether\nKind=!*\n[Network]\nAddress=10.0.2.15/24\n' >"$root/etc/systemd/network/10-ether.network"
  # renet starts daemons of its own; the rest would only take time.
  for unit in docker.service docker.socket containerd.service systemd-networkd-wait-online.service \
    systemd-firstboot.service ldconfig.service getty@tty1.service serial-getty@ttyS0.service \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
}

disks() {
  local root=$new/rootfs kernel ird=$new/ird
  kernel=$(basename "$root"/lib/modules/*)
  cp "$root/boot/vmlinuz-$kernel" "$new/vmlinuz"
  mkdir -p "$ird"/{bin,proc,sys,dev,newroot}
  install -m 755 init "$ird/init"
  cp "$root/bin/busybox" "$ird/bin/"
  xz -dc "$root/lib/modules/$kernel/kernel/drivers/block/virtio_blk.ko.xz" >"$ird/virtio_blk.ko"
  (cd "$ird" && find . | cpio --quiet -o -H newc | gzip -1) >"$new/initrd"
  rm -rf "$ird"
  truncate -s 20G "$new/root.ext4"
  mkfs.ext4 -q -F -d "$root" "$new/root.ext4"
  qemu-img create -q -f qcow2 -b root.ext4 -F raw "$new/system.qcow2"
  qemu-img create -q -f qcow2 "$new/data.qcow2" 20G
}

in_vm() {
  timeout "$1" ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -o LogLevel=ERROR -o ConnectTimeout=10 -i "$new/key" -p "$port" root@127.0.0.1 "$2" </dev/null
}

# What the first use of each thing loads stays in memory, and so in the snapshot.
WARM='set -e
mkdir -p /tmp/w/d /tmp/w/p
cd /tmp/w
truncate -s 400M i
mkfs.btrfs -q i
mount i d
truncate -s 64M d/j
printf x | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 d/j -
printf x | cryptsetup open --disable-keyring d/j w -
mkfs.ext4 -q /dev/mapper/w
mount /dev/mapper/w p
systemd-run -q -u w dockerd -H unix:///run/w.sock --data-root /tmp/w/p/x --exec-root /run/w --pidfile /run/w.pid --bridge=none --iptables=false --ip6tables=false
export DOCKER_HOST=unix:///run/w.sock
timeout 60 sh -c "until docker version; do sleep 0.1; done" >/dev/null 2>&1
printf "FROM scratch\nCOPY busybox /bin/\n" >Dockerfile
printf "services: { w: { build: ., network_mode: host, command: [/bin/busybox, echo, warm] } }\n" >compose.yml
cp /bin/busybox .
docker compose up 2>&1 | grep -q warm
systemctl stop w
umount /run/w/netns/default p
cryptsetup close w
umount d
cd /
rm -rf /tmp/w /run/w*
sync'

snapshot() {
  local end
  port=$((20000 + RANDOM % 10000))
  while ss -Hltn "sport = :$port" | grep -q .; do port=$((port + 1)); done
  truncate -s 256M "$new/handed"
  coproc VM { exec ./vm.sh "$new" "$new" "$port" -monitor stdio >"$new/qemu.log" 2>&1 9<&-; }
  vm=$VM_PID
  end=$((SECONDS + 180))
  # What still boots takes connections and never answers.
  until in_vm 12 true 2>"$new/ssh.log"; do
    if [ "$SECONDS" -ge "$end" ] || ! kill -0 "$vm" 2>/dev/null; then
      tail -n 20 "$new/qemu.log" "$new/console" "$new/ssh.log" >&2
      die "the virtual machine does not boot"
    fi
    sleep 0.3
  done
  lap "booted"
  in_vm 120 "$WARM" || die "the virtual machine cannot run what it must"
  lap "warm"
  printf 'savevm booted\nquit\n' >&"${VM[1]}"
  wait "$vm" || { tail -n 20 "$new/qemu.log" >&2; die "the virtual machine could not be saved"; }
  vm=
  qemu-img snapshot -l "$new/system.qcow2" | grep -q booted || { cat "$new/qemu.log" >&2; die "no snapshot"; }
  lap "saved"
}

rootfs
lap "installed"
disks
lap "disks"
snapshot
# It was made here, and is used there.
qemu-img rebase -u -F raw -b "$built/root.ext4" "$new/system.qcow2"
rm -f "$new"/{apt.conf,sources.list,mmdebstrap.log,qemu.log,ssh.log,handed,console,key.pub}
mv -T "$new" "$built"
printf '%s\n' "$built"
