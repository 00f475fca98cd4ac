# The short names. Meson does the building; scripts/ does the rest.
#   make              build/ectype
#   make run          a small Linux in a terminal, nothing else needed first
#   make test         everything; the last line is "N passed, N failed"
#   make test-all     that, and what takes an hour more
#   make soak         stress-ng, an hour for each engine
#   make image-deps   the packages that `ectype image create` needs
#   make bench        native, ectype and QEMU side by side
BUILD ?= build
FUZZ_SECONDS ?= 60
export BUILD FUZZ_SECONDS

.PHONY: all run test test-all soak test-asan test-ubsan bench image-deps fuzz format check-format clean
.DEFAULT_GOAL := all

all:
	@scripts/deps.sh build
	@scripts/build.sh $(BUILD)

run:
	@scripts/deps.sh build run
	@scripts/build.sh $(BUILD)
	@scripts/kernel.sh cloud
	@scripts/initramfs.py
	@scripts/exec-image.py
	@$(BUILD)/ectype run

test:
	@scripts/deps.sh build run test image format
	@scripts/run-tests.py $(if $(SUITES),--suites $(SUITES))

test-all:
	@scripts/deps.sh build run test image format
	@scripts/run-tests.py --all

soak:
	@scripts/deps.sh build run test image format
	@scripts/run-tests.py --suites soak

test-asan:
	@scripts/deps.sh build
	@scripts/run-tests.py --suites asan

test-ubsan:
	@scripts/deps.sh build
	@scripts/run-tests.py --suites ubsan

bench:
	@scripts/deps.sh build run bench $(if $(BOCHS),bochs)
	@scripts/build.sh $(BUILD)
	@tests/bench/bench.py $(if $(BOCHS),--bochs) $(BENCH_ARGS)

image-deps:
	@scripts/deps.sh image

fuzz:
	@scripts/deps.sh build fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS) $(TARGETS)

format:
	@scripts/deps.sh format
	@clang-format -i $$(git ls-files '*.c' '*.h')

check-format:
	@scripts/deps.sh format
	@clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h')

clean:
	rm -rf $(BUILD) build-asan build-ubsan build-fuzz build-fuzz-ubsan
