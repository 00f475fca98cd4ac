#!/bin/sh
# scripts/build.sh DIR [MESON-OPTION...]: configure DIR once, then build.
# Quiet unless something fails.
set -eu
dir=$1
shift
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ ! -f "$dir/build.ninja" ]; then
	echo "ectype: configuring $dir" >&2
	rm -rf "$dir"
	meson setup "$dir" "$@" >"$log" 2>&1 || { cat "$log" >&2; rm -rf "$dir"; exit 1; }
fi
if [ -t 1 ]; then
	ninja -C "$dir" --quiet
else
	ninja -C "$dir" >"$log" 2>&1 || { tail -n 60 "$log" >&2; exit 1; }
fi
