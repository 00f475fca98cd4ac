#!/bin/sh
# scripts/torture.sh: build rcutorture and locktorture for Debian's generic
# kernel and put them into the cache, as torture/*.ko. Debian does not build
# these modules; the kernel's source and headers are downloaded, and nothing is
# installed. Needs apt, gcc and make; about a minute.
set -eu

cache=${ECTYPE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ectype}
say() { echo "ectype: $*" >&2; }
fail() { say "torture.sh: $*"; exit 1; }

kernel=$(readlink "$cache/vmlinuz-generic") || fail "no generic kernel in the cache; scripts/kernel.sh generic fetches it"
folder=$(basename "$(dirname "$kernel")") # linux-image-RELEASE_VERSION
release=${folder#linux-image-}
release=${release%%_*}
version=${folder##*_}
[ "$(cat "$cache/torture/list" 2>/dev/null)" = "$folder" ] && exit 0
for tool in apt-get dpkg-deb gcc make xz; do
	command -v $tool >/dev/null || fail "no $tool here"
done

new=$(mktemp -d "$cache/.torture.XXXXXX")
trap 'rm -rf "$new"' EXIT
mkdir "$new/deb" "$new/root" "$new/module" "$new/out"
common=${release%-*}-common # 6.1.0-56-amd64: 6.1.0-56-common
series=$(echo "$release" | cut -d. -f1,2)
say "fetching the source of $folder"
# shellcheck disable=SC2046
(cd "$new/deb" && apt-get -q -o APT::Sandbox::User="$(id -un)" download \
	$(printf "%s=$version " "linux-headers-$release" "linux-headers-$common" "linux-kbuild-$series" "linux-source-$series") \
	>/dev/null 2>../log) || { tail -n 2 "$new/log" >&2; fail "the packages could not be downloaded"; }
for p in "$new"/deb/linux-headers* "$new"/deb/linux-kbuild*; do
	dpkg-deb -x "$p" "$new/root"
done
dpkg-deb --fsys-tarfile "$new"/deb/linux-source* | tar -xO "./usr/src/linux-source-$series.tar.xz" | xz -dc |
	tar -x -C "$new" --wildcards --strip-components 2 '*/kernel/torture.c' '*/kernel/rcu/rcutorture.c' '*/kernel/rcu/rcu.h' \
		'*/kernel/locking/locktorture.c'
cp -r "$new/torture.c" "$new/rcu/rcutorture.c" "$new/locking/locktorture.c" "$new/rcu" "$new/rcu/rcu.h" "$new/module"
# a function that only the type "trivial" calls, and that the kernel has not without the module's configuration
cat >"$new/module/Kbuild" <<END
ccflags-y := -I\$(src) -D'rcutorture_sched_setaffinity(pid,mask)=set_cpus_allowed_ptr(current,mask)'
obj-m := torture.o rcutorture.o locktorture.o
END
sed -i "s#/usr/src#$new/root/usr/src#" "$new/root/usr/src/linux-headers-$release/Makefile"
make -s -C "$new/root/usr/src/linux-headers-$release" M="$new/module" modules >"$new/log" 2>&1 ||
	{ tail -n 5 "$new/log" >&2; fail "the modules could not be built"; }
for m in torture rcutorture locktorture; do
	strip -g -o "$new/out/$m.ko" "$new/module/$m.ko"
done
echo "$folder" >"$new/out/list"
rm -rf "$cache/torture"
mv "$new/out" "$cache/torture"
