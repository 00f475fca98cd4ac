#!/bin/sh
# /init of Ectype's small guest: mount what programs expect, then a shell on
# the serial console; when the shell ends, so does the machine.
#
# Process 1 must take the signals of poweroff and reboot while the shell runs.
# It can do so only in `wait`, so the shell runs in the background; but without
# job control a background command starts with SIGINT ignored, for good. So
# process 1 first gets itself a terminal and job control, and the shell then
# takes the terminal over in a session of its own.
export PATH=/bin HOME=/root

if [ -z "$ECTYPE_INIT" ]; then
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -t devtmpfs dev /dev 2>/dev/null
	mkdir -p /dev/pts /dev/shm
	mount -t devpts devpts /dev/pts
	mount -t tmpfs tmpfs /tmp
	mount -t tmpfs tmpfs /run
	hostname ectype
	# What the devices ask for, in two turns of one process each: what is on the PCI bus, then what the virtio
	# functions among it turned out to be. Nothing waits for what every machine has: the entropy device
	# (`modprobe -a virtio_pci virtio_rng` makes /dev/hwrng), the balloon and the power button, whose drivers come
	# when nobody else wants the processor.
	for bus in pci virtio; do
		set --
		for file in /sys/bus/$bus/devices/*/modalias; do
			[ -f "$file" ] && read -r alias <"$file" || continue
			case $alias in
			pci:v00001AF4d0000104[45]* | virtio:d0000000[45]v*) ;;
			pci:v00001AF4* | virtio:*) set -- "$@" "$alias" ;;
			pci:*bc01sc06i01*) set -- "$@" "$alias" sd_mod sr_mod ;;
			esac
		done
		[ $# = 0 ] || modprobe -aq "$@" 2>/dev/null
	done
	sh -c 'renice -n 19 -p $$; modprobe -aq virtio_pci virtio_balloon button evdev; exec acpid -f -l /dev/null' \
		>/dev/null 2>&1 &
	ectype-guest 2>/dev/kmsg &
	ECTYPE_INIT=1 exec setsid cttyhack sh /init
fi
unset ECTYPE_INIT
set -m

# what busybox's poweroff, halt and reboot ask of an init
trap 'exec /bin/busybox poweroff -f' USR1 USR2
trap 'exec /bin/busybox reboot -f' TERM

shell() {
	(setsid cttyhack sh "$@"; :) &
	wait $!
	exec /bin/busybox poweroff -f
}

[ ! -f /test.sh ] || shell /test.sh

rows= cols=
for word in $(cat /proc/cmdline); do
	case $word in
	ectype.rows=*) rows=${word#*=} ;;
	ectype.cols=*) cols=${word#*=} ;;
	esac
done
[ -n "$rows" ] && [ -n "$cols" ] && stty rows "$rows" cols "$cols" </dev/console

cat <<END

  Linux $(uname -r) in Ectype.  poweroff: end the machine.  Ctrl-A x: end it by force.  Ctrl-A h: help.

END
cd /root
export PS1='\u@\h:\w# '
shell
