#!/bin/sh
# scripts/kernel.sh [cloud|generic|memtest]...: put Debian's newest kernel of
# that flavour (or memtest86+) into the cache. Nothing is installed: the
# package is downloaded and unpacked. Names that stay:
#   vmlinuz           the cloud kernel
#   vmlinuz-generic   the generic kernel
#   memtest           memtest86+, which boots as a Linux kernel does
# Beside a kernel lies modules/ with those of its modules that guests here use;
# scripts/initramfs.py and toolbox.py take them from there.
# Each is a link into packages/NAME_VERSION/, which appears by rename only, so
# that a download cut short is never taken for a whole one.
set -eu

cache=${ECTYPE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ectype}
mkdir -p "$cache/packages"
private="$cache/apt" # lists of our own where the system's cannot be updated

# of drivers/ and fs/: what stands for the project's devices, and file systems on them
modules='virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio_blk virtio_scsi
	virtio_net net_failover failover virtio_console virtio-rng virtio_balloon virtio_mem virtio_input
	vsock vmw_vsock_virtio_transport vmw_vsock_virtio_transport_common fuse virtiofs overlay
	ext4 jbd2 mbcache crc16 crc32c_generic crc32c-intel libcrc32c isofs squashfs loop
	scsi_common scsi_mod sd_mod t10-pi crc-t10dif crct10dif_common crct10dif_generic crc64 crc64-rocksoft
	crc64_rocksoft_generic sr_mod cdrom libata libahci ahci efivarfs button evdev qemu_fw_cfg'

say() { echo "ectype: $*" >&2; }

# apt with what we may use: the system's lists, or our own after update_lists
apt() {
	tool=$1
	shift
	if [ -d "$private/lists" ]; then
		set -- -o "Dir::State::lists=$private/lists" -o "Dir::Cache=$private/cache" "$@"
	fi
	"$tool" -q -o APT::Sandbox::User="$(id -un)" "$@"
}

updated=
update_lists() {
	[ -z "$updated" ] || return 1
	updated=yes
	say "updating the package lists"
	if [ "$(id -u)" = 0 ]; then
		apt-get -q update >/dev/null
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		sudo -n apt-get -q update >/dev/null
	else
		mkdir -p "$private/lists/partial" "$private/cache/archives/partial"
		apt apt-get update >/dev/null
	fi
}

package_of() { # FLAVOUR: the package's name, empty if apt does not know it
	case $1 in
	memtest) apt apt-cache show --no-all-versions memtest86+ 2>/dev/null | sed -n 's/^Package: //p' | head -n 1 ;;
	*) apt apt-cache depends "$2" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1 ;;
	esac
}
version_of() { apt apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n 's/^Version: //p' | head -n 1; }

unpack() { # PACKAGE DIR
	rm -rf "$cache"/packages/.new.*
	new=$(mktemp -d "$cache/packages/.new.XXXXXX")
	(cd "$new" && apt apt-get download "$1" >/dev/null 2>"$new/log") || { tail -n 2 "$new/log" >&2; rm -rf "$new"; return 1; }
	# not all modules: they are hundreds of megabytes that nothing here loads
	mkdir "$new/x" "$new/x/modules"
	dpkg-deb --fsys-tarfile "$new"/*.deb | tar -x -C "$new/x" --wildcards './boot/*' '*.ko*' 2>/dev/null || [ -d "$new/x/boot" ] ||
		{ rm -rf "$new"; return 1; }
	for m in $modules; do
		find "$new/x" -name "$m.ko*" -exec mv {} "$new/x/modules/" \;
	done
	echo "$modules" >"$new/x/modules/list"
	mv "$new/x/modules" "$new/x/boot/"
	rm -rf "$2"
	mv "$new/x/boot" "$2"
	rm -rf "$new"
}

# Unpacked, and with the modules that are wanted of it, or more: another version of the project may use the cache, too.
is_whole() {
	have=" $(tr '\n\t' '  ' 2>/dev/null <"$1/modules/list") " || return 1
	for m in $modules; do
		case $have in *" $m "*) ;; *) return 1 ;; esac
	done
}

get() { # FLAVOUR META LINK PATTERN
	if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
		[ -e "$cache/$3" ] && return 0
		say "no apt here to fetch $2 with; put a kernel at $cache/$3"
		return 1
	fi
	pkg=$(package_of "$1" "$2")
	if [ -z "$pkg" ]; then
		[ -e "$cache/$3" ] && return 0
		update_lists || { say "the package lists cannot be updated (no network?)"; return 1; }
		pkg=$(package_of "$1" "$2")
		[ -n "$pkg" ] || { say "apt does not know $2"; return 1; }
	fi
	dir="$cache/packages/${pkg}_$(version_of "$pkg")"
	if ! is_whole "$dir"; then
		say "fetching $(basename "$dir")"
		if ! unpack "$pkg" "$dir"; then
			# stale lists name files the mirror has dropped
			if update_lists; then
				pkg=$(package_of "$1" "$2")
				dir="$cache/packages/${pkg}_$(version_of "$pkg")"
				is_whole "$dir" || unpack "$pkg" "$dir" || dir=
			else
				dir=
			fi
		fi
		if [ -z "$dir" ]; then
			[ -e "$cache/$3" ] && { say "download failed; using the kernel already in the cache"; return 0; }
			say "$2 could not be downloaded"
			return 1
		fi
	fi
	# shellcheck disable=SC2086
	file=$(cd "$dir" && ls $4 2>/dev/null | tail -n 1)
	[ -n "$file" ] || { say "$dir holds no $4"; rm -rf "$dir"; return 1; }
	ln -sfn "packages/$(basename "$dir")/$file" "$cache/.link.$$"
	mv -T "$cache/.link.$$" "$cache/$3"
}

[ $# -gt 0 ] || set -- cloud
for flavour in "$@"; do
	case $flavour in
	cloud) get cloud linux-image-cloud-amd64 vmlinuz 'vmlinuz-*' ;;
	generic) get generic linux-image-amd64 vmlinuz-generic 'vmlinuz-*' ;;
	memtest) get memtest memtest86+ memtest 'memtest*x64.bin' ;;
	*) say "kernel.sh: unknown flavour '$flavour'"; exit 2 ;;
	esac
done
