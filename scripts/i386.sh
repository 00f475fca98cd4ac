#!/bin/sh
# scripts/i386.sh: put a 32-bit guest into the cache: Debian's newest i386 kernel
# without PAE (vmlinuz-i386) and its static busybox (busybox-i386). Nothing is
# installed and the system's architectures stay as they are: apt gets lists of
# its own for i386.
set -eu

cache=${ECTYPE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ectype}
lists=$cache/apt-i386

say() { echo "ectype: $*" >&2; }

apt() {
	tool=$1
	shift
	"$tool" -q -o APT::Sandbox::User="$(id -un)" -o Dir::State::lists="$lists/lists" -o Dir::Cache="$lists/cache" \
		-o APT::Architectures::=amd64 -o APT::Architectures::=i386 "$@"
}

fetch() { # PACKAGE PATTERN NAME: the newest file that matches becomes $cache/NAME
	new=$(mktemp -d "$cache/packages/.new.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	(cd "$new" && apt apt-get download "$1" >/dev/null 2>log) || { tail -n 2 "$new/log" >&2; say "$1 could not be downloaded"; exit 1; }
	dpkg-deb --fsys-tarfile "$new"/*.deb | tar -x -C "$new" --wildcards "$2"
	# shellcheck disable=SC2086
	file=$(cd "$new" && ls $2 | tail -n 1)
	mv "$new/$file" "$cache/$3"
	rm -rf "$new"
}

[ -e "$cache/vmlinuz-i386" ] && [ -e "$cache/busybox-i386" ] && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
	say "no apt here to fetch a 32-bit guest with"
	exit 1
fi
mkdir -p "$cache/packages" "$lists/lists/partial" "$lists/cache/archives/partial"
apt apt-get update >/dev/null 2>&1 || say "not all package lists could be updated"
kernel=$(apt apt-cache depends linux-image-686:i386 | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
[ -n "$kernel" ] || { say "apt does not know linux-image-686:i386 (no network?)"; exit 1; }
fetch "$kernel" './boot/vmlinuz-*' vmlinuz-i386
fetch busybox-static:i386 './bin/busybox' busybox-i386
