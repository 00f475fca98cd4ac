#!/bin/busybox sh
# What busybox's udhcpc runs in the guests of initramfs.py and toolbox.py:
# takes the address, the way out and the name servers of a lease over.
case $1 in
deconfig)
	ip addr flush dev "$interface"
	ip link set "$interface" up
	;;
bound | renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/${mask:-24}" dev "$interface"
	for r in $router; do
		ip route add default via "$r" dev "$interface"
	done
	: >/etc/resolv.conf
	[ -z "$domain" ] || echo "search $domain" >>/etc/resolv.conf
	for d in $dns; do
		echo "nameserver $d" >>/etc/resolv.conf
	done
	[ -z "$hostname" ] || hostname "$hostname"
	;;
esac
