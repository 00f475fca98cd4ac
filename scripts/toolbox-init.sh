#!/bin/busybox sh
# /init of the toolbox guest: mount what programs expect, run the script that
# ectype.run= on the kernel's command line names (else /run.sh, else a shell),
# say how it ended, power off.
export PATH=/usr/bin:/usr/sbin HOME=/root LANG=C LC_ALL=C PYTHONDONTWRITEBYTECODE=1

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
ln -sf /proc/self/fd /dev/fd
hostname toolbox
# the archive holds the files only; the loopback network is what stress tests use
ip link set lo up 2>/dev/null

# as initramfs-init.sh does it, with the entropy device
for bus in pci virtio; do
	set --
	for file in /sys/bus/$bus/devices/*/modalias; do
		[ -f "$file" ] && read -r alias <"$file" && set -- "$@" "$alias"
	done
	[ $# = 0 ] || modprobe -aq "$@" 2>/dev/null
done

run=/run.sh
for word in $(cat /proc/cmdline); do
	case $word in
	ectype.run=*) run=${word#*=} ;;
	esac
done

cd /root
if [ -f "$run" ]; then
	# /bin/sh is dash; without the slash busybox would run itself
	if [ -x "$run" ]; then "$run"; else /bin/sh "$run"; fi
	echo "toolbox: exit status $?"
else
	setsid cttyhack bash
fi
# setting a terminal waits until its output has gone
stty -F /dev/console cs8 2>/dev/null
exec busybox poweroff -f
