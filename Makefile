# SPDX-License-Identifier: MIT
# The front door: each target does its own set-up. The build itself is Meson's.
#
#   make            build library and tool into build/
#   make demo       serve an ext4 image, copy it out and back through virtqueues
#   make check      build with warnings as errors and run all tests
#   make bench      measure (minutes)
#   make install    DESTDIR=... PREFIX=/usr/local
# and for developers:
#   make check-asan check-tsan   the tests under sanitizers
#   make check-cross             the tests for s390x, armhf and aarch64, under qemu-user (minutes)
#   make check-guest             every guest configuration, not just two
#   make fuzz                   each fuzz target for FUZZ_SECONDS (30), see docs/fuzzing.md
#   make check-mutants           break the rules one by one; the tests must notice (long)
#   make soak-ring               10^8 notifications between two threads (minutes)
#   make soak-blk                the block device for SOAK_SECONDS (600), and 50 power cuts of each kind
#   make soak-driver             10^6 random steps of each configuration of pool and transfers (minutes)

BUILD ?= build
PREFIX ?= /usr/local
MESON_FLAGS ?=
SOAK_SECONDS ?= 600

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	tools/setup.sh build
	meson setup $(BUILD) --prefix=$(PREFIX) $(MESON_FLAGS)

demo:
	tools/setup.sh demo
	$(MAKE) all
	tools/demo.sh $(BUILD)/cli/virtq

check:
	tools/setup.sh check
	tools/check.sh $(BUILD)-check

check-asan:
	tools/setup.sh check
	CC=gcc tools/check.sh $(BUILD)-asan --no-suite guest --no-suite interop --no-suite package -- \
		-Db_sanitize=address,undefined -Db_lundef=false

check-tsan:
	tools/setup.sh check
	CC=clang tools/check.sh $(BUILD)-tsan --no-suite guest --no-suite interop --no-suite package -- \
		-Db_sanitize=thread -Db_lundef=false

check-cross:
	tools/setup.sh cross
	tools/check-cross.sh $(BUILD)-cross

check-guest:
	tools/setup.sh check
	tools/check.sh $(BUILD)-check --suite guest --suite guest-full

soak-ring:
	tools/setup.sh check
	[ -f $(BUILD)-soak/build.ninja ] || meson setup $(BUILD)-soak --buildtype=release
	ninja -C $(BUILD)-soak tests/ring/test-ring-stress
	$(BUILD)-soak/tests/ring/test-ring-stress --notifications 100000000

soak-blk:
	tools/setup.sh check
	[ -f $(BUILD)-soak/build.ninja ] || meson setup $(BUILD)-soak --buildtype=release
	ninja -C $(BUILD)-soak cli/virtq tests/soak/blk_soak tests/soak/powercut
	$(BUILD)-soak/tests/soak/powercut --virtq $(BUILD)-soak/cli/virtq \
		--nbdkit "$$(command -v nbdkit)" --cuts 50
	$(BUILD)-soak/tests/soak/blk_soak --seconds $(SOAK_SECONDS)

soak-driver:
	tools/setup.sh check
	[ -f $(BUILD)-soak/build.ninja ] || meson setup $(BUILD)-soak --buildtype=release
	ninja -C $(BUILD)-soak tests/transfer/test-transfer-model-pool \
		tests/transfer/test-transfer-model-transfers tests/transfer/test-pool-threads
	$(BUILD)-soak/tests/transfer/test-pool-threads 20000
	$(BUILD)-soak/tests/transfer/test-transfer-model-pool --steps 1000000
	$(BUILD)-soak/tests/transfer/test-transfer-model-transfers --steps 1000000

check-mutants:
	tools/setup.sh check
	tools/mutants.py .
	tools/mutants.py --list tests/transfer/mutants.tsv .

fuzz:
	tools/setup.sh fuzz
	tools/fuzz.sh run

bench:
	tools/setup.sh bench
	bench/run.sh

install:
	tools/setup.sh build
	if [ -f $(BUILD)/build.ninja ]; then \
		meson configure $(BUILD) --prefix=$(PREFIX); \
	else \
		meson setup $(BUILD) --prefix=$(PREFIX) $(MESON_FLAGS); \
	fi
	ninja -C $(BUILD)
	DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf build build-*

.PHONY: all demo check check-asan check-tsan check-cross check-guest check-mutants soak-ring soak-driver soak-blk fuzz bench install clean
