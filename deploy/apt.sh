# What the installers of tools share; sourced by them. Leaves $work, a folder
# that goes at the end, and $TOOLS, where programs go that are no packages.

TOOLS=/usr/local/libexec/renet

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

# More options for apt-get.
apt=()

# apt waits for dpkg's lock, but not for those of its lists and archives: a fresh
# machine's first automatic update may hold them.
apt_run() {
  local end=$((SECONDS + 300)) waiting=
  until LC_ALL=C apt-get -qq -o DPkg::Lock::Timeout=300 "${apt[@]}" "$@" 9<&- >"$work/apt.log" 2>&1; do
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

# The mirror of Debian that apt knows, or of another of its archives: sources come
# in two formats, and a cloud's name a list of mirrors.
mirror() {
  apt_update
  apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' "Label: ${1:-Debian}" | head -n 1
}

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# apt_of SUITE…: has apt-get know these suites of Debian and no other, verified by
# its own signatures, without adding a source; for as long as the caller's own $apt is.
apt_of() {
  local from suite folder=$work/$1
  from=$(mirror) || true
  [ -n "$from" ] || die "no Debian mirror in apt's sources"
  mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
  for suite; do
    printf 'deb [signed-by=%s] %s %s main\n' "$KEYRING" "$from" "$suite"
  done >"$folder/sources.list"
  apt=(-o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root)
  apt_run update || die "apt could not read: $*"
}
