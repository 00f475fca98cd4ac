#!/bin/sh
# scripts/fuzz.sh SECONDS [TARGET...]: each fuzz target with libFuzzer and the
# sanitizers for so long. The corpus stays in build-fuzz/corpus.
set -eu
cd "$(dirname "$0")/.."
seconds=$1
shift
CC=clang scripts/build.sh build-fuzz -Dlibfuzzer=true -Db_sanitize=address,undefined -Db_lundef=false \
	-Doptimization=1 -Dwerror=false "-Dc_args=-fsanitize=fuzzer-no-link -fno-sanitize=alignment"
[ $# -gt 0 ] || set -- $(cd build-fuzz/tests/fuzz && ls -1 | grep -x 'fuzz_[a-z_]*' | sed s/fuzz_//)
status=0
for t in "$@"; do
	mkdir -p "build-fuzz/corpus/$t"
	echo "== $t, $seconds s"
	UBSAN_OPTIONS=halt_on_error=1 "build-fuzz/tests/fuzz/fuzz_$t" -max_total_time="$seconds" -timeout=10 \
		-max_len=65536 -print_final_stats=1 -artifact_prefix="build-fuzz/$t-" "build-fuzz/corpus/$t" >"build-fuzz/$t.log" 2>&1 || { status=1; tail -n 40 "build-fuzz/$t.log"; }
	grep -E "number_of_executed_units|new_units_added" "build-fuzz/$t.log" || true
done
exit $status
