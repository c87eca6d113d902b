#!/usr/bin/env bash
# Becomes a virtual machine: vm.sh BUILT OWN PORT [QEMU-OPTION…], with what build.sh
# has BUILT, the disks system.qcow2 and data.qcow2 in the folder OWN, and ssh at
# 127.0.0.1:PORT. Without network otherwise. The console goes to OWN/console. What the
# file OWN/handed holds, of 256 MiB always, is read from the disk /dev/vdc: ssh is slow.
#
# A snapshot can be loaded with the very flags only with which it was saved.
set -euo pipefail
built=$1 own=$2 port=$3
shift 3
exec qemu-system-x86_64 -nodefaults -display none \
  -accel tcg,thread=multi,tb-size=1024 -M q35 -cpu Westmere,+rdrand -smp 2 -m 4096 \
  -kernel "$built/vmlinuz" -initrd "$built/initrd" \
  -append "root=/dev/vda rw console=ttyS0 quiet mitigations=off nokaslr audit=0 apparmor=0 no_timer_check systemd.show_status=0" \
  -drive "file=$own/system.qcow2,if=none,id=system,cache=unsafe,discard=unmap" \
  -device virtio-blk-pci,drive=system,serial=system \
  -drive "file=$own/data.qcow2,if=none,id=data,cache=unsafe,discard=unmap" \
  -device virtio-blk-pci,drive=data,serial=data \
  -drive "file=$own/handed,format=raw,if=none,id=handed,readonly=on,cache=unsafe" \
  -device virtio-blk-pci,drive=handed,serial=handed \
  -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net \
  -device virtio-rng-pci -serial "file:$own/console" "$@"
