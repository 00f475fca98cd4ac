#!/bin/sh
# /init of Ectype's small guest: mount what programs expect, then a shell on
# the serial console; when the shell ends, so does the machine.
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
hostname ectype
# what busybox's poweroff, halt and reboot ask of an init
trap 'exec /bin/busybox poweroff -f' USR1 USR2
trap 'exec /bin/busybox reboot -f' TERM

if [ -f /test.sh ]; then
	setsid cttyhack sh /test.sh &
	wait $!
	exec /bin/busybox poweroff -f
fi

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
# in the background, so that a trap need not wait for it
setsid cttyhack sh &
wait $!
exec /bin/busybox poweroff -f
