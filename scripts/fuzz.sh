#!/bin/sh
# scripts/fuzz.sh SECONDS [TARGET...]: each fuzz target with libFuzzer and the
# sanitizers for so long. The corpus stays in build-fuzz/corpus. The target
# translate has a build of its own: AddressSanitizer leaves it no address space.
set -eu
cd "$(dirname "$0")/.."
seconds=$1
shift
build() {
	CC=clang scripts/build.sh "$1" -Dlibfuzzer=true "-Db_sanitize=$2" -Db_lundef=false \
		-Doptimization=1 -Dwerror=false "-Dc_args=-fsanitize=fuzzer-no-link -fno-sanitize=alignment"
}
build build-fuzz address,undefined
[ $# -gt 0 ] || set -- $(cd build-fuzz/tests/fuzz && ls -1 | grep -x 'fuzz_[a-z_]*' | sed s/fuzz_//) translate
case " $* " in *" translate "*) build build-fuzz-ubsan undefined ;; esac
status=0
for t in "$@"; do
	mkdir -p "build-fuzz/corpus/$t"
	echo "== $t, $seconds s"
	from=build-fuzz
	[ "$t" = translate ] && from=build-fuzz-ubsan
	UBSAN_OPTIONS=halt_on_error=1 "$from/tests/fuzz/fuzz_$t" -max_total_time="$seconds" -timeout=10 \
		-max_len=65536 -print_final_stats=1 -artifact_prefix="build-fuzz/$t-" "build-fuzz/corpus/$t" >"build-fuzz/$t.log" 2>&1 || { status=1; tail -n 40 "build-fuzz/$t.log"; }
	grep -E "number_of_executed_units|new_units_added" "build-fuzz/$t.log" || true
done
exit $status
