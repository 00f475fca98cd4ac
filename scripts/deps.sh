#!/bin/sh
# scripts/deps.sh GROUP...: install the Debian packages that GROUPs need and
# this machine lacks. Does nothing, quickly, when all are there. One attempt,
# one message: without root, sudo or apt it names what is missing and exits 1.
set -eu

packages() {
	case $1 in
	build) echo gcc libc6-dev meson ninja-build pkg-config binutils python3 \
		libzydis-dev libzycore-dev libjansson-dev libxxhash-dev libseccomp-dev libslirp-dev libcmocka-dev \
		liburing-dev zlib1g-dev libzstd-dev libmicrohttpd-dev libgnutls28-dev ;;
	run) echo busybox-static ca-certificates qemu-system-common ;;
	test) echo gdb qemu-utils openssh-client seabios ovmf strace iproute2 \
		grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools ;;
	bench) echo qemu-system-x86 iperf3 iproute2 ;;
	image) echo mmdebstrap dosfstools mtools fdisk e2fsprogs grub-common grub-pc-bin grub-efi-amd64-bin \
		debian-archive-keyring $([ "$(id -u)" = 0 ] || echo uidmap util-linux) ;;
	bochs) echo bochs bochsbios vgabios grub-common grub-pc-bin xorriso mtools ;;
	fuzz) echo clang libclang-rt-14-dev ;;
	format) echo clang-format ;;
	*) echo "deps.sh: unknown group '$1'" >&2; exit 2 ;;
	esac
}

missing_of() {
	for p in "$@"; do
		# "rc" (removed, configuration left) is missing too
		case $(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null) in
		ii*) ;;
		*) echo "$p" ;;
		esac
	done
}

wanted=
for g in "$@"; do
	wanted="$wanted $(packages "$g")"
done

if ! command -v dpkg-query >/dev/null; then
	echo "deps.sh: no dpkg here; needed are what Debian calls:$wanted" >&2
	exit 0
fi
# shellcheck disable=SC2086
missing=$(missing_of $wanted | tr '\n' ' ')
[ -n "$missing" ] || exit 0

give_up() {
	echo "ectype: $1; these packages are missing, install them first: apt-get install $missing" >&2
	exit 1
}
command -v apt-get >/dev/null || give_up "there is no apt-get here"
if [ "$(id -u)" = 0 ]; then
	sudo=
elif command -v sudo >/dev/null; then
	sudo=sudo
	# without a terminal sudo could only hang or fail at its prompt
	[ -t 0 ] || sudo="sudo -n"
	$sudo true 2>/dev/null || give_up "not root, and sudo refused"
else
	give_up "not root, and there is no sudo"
fi

echo "ectype: installing $missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
	# shellcheck disable=SC2086
	$sudo env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -q --no-install-recommends $missing >"$log" 2>&1 </dev/null
}
# The lists may be absent (a fresh container) or stale (the files have moved on).
# shellcheck disable=SC2086
if ! apt-cache show --no-all-versions $missing >/dev/null 2>&1 || ! install; then
	$sudo apt-get update -q >"$log" 2>&1 </dev/null || { tail -n 5 "$log" >&2; give_up "apt-get update failed"; }
	install || { tail -n 5 "$log" >&2; give_up "apt-get install failed"; }
fi
