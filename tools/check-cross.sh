#!/bin/sh
# SPDX-License-Identifier: MIT
# Build for other processors, with warnings as errors, and run the tests on them
# through qemu-user: a big-endian one, one of 32 bits, and one whose memory is
# weakly ordered.
#
#   tools/check-cross.sh BUILDDIR [ARCHITECTURE]...      s390x, armhf, arm64
#
# The tools must be there (tools/setup.sh cross). The libraries for the other
# architectures are unpacked below BUILDDIR; dpkg's own are left as they are.
# The last lines are one "ARCHITECTURE: N passed, N failed, N skipped" for each,
# and the sum; the status is 0 only without failures.
set -eu
export LC_ALL=C

# Not here: suites that run the tool from outside, foreign peers, and scripts
# that no processor changes.
suites='unit ring hostile proto models conformance examples'
libraries='liburing2 liburing-dev libcmocka0 libcmocka-dev'

say() { printf 'check-cross.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# architecture, in Debian's words: GNU triplet, qemu's name, Meson's family and endianness
about() {
	case $1 in
	s390x) triplet=s390x-linux-gnu qemu=qemu-s390x family=s390x endian=big ;;
	armhf) triplet=arm-linux-gnueabihf qemu=qemu-arm family=arm endian=little ;;
	arm64) triplet=aarch64-linux-gnu qemu=qemu-aarch64 family=aarch64 endian=little ;;
	*) die "there is no architecture '$1' here; there are s390x, armhf and arm64." ;;
	esac
}

[ $# -gt 0 ] || die 'which build directory? usage: tools/check-cross.sh BUILDDIR [ARCHITECTURE]...'
build=$1
shift
[ $# -gt 0 ] || set -- s390x armhf arm64
for arch in "$@"; do about "$arch"; done
cd "$(dirname "$0")/.."
mkdir -p "$build"
build=$(cd "$build" && pwd)

# Fetch and unpack what the architectures given lack. apt checks signatures as
# ever, but keeps its lists in a place of ours, and knows our architectures there.
fetch() {
	apt=$build/apt
	rm -rf "$apt"
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/status"
	{
		apt-config dump | grep '^Acquire::' || :	# proxies and the like
		printf 'APT::Architecture "%s";\n' "$1"
		printf 'APT::Architectures { '
		printf '"%s"; ' "$@"
		printf '};\n'
		cat <<-END
		APT::Sandbox::User "root";
		Acquire::Languages "none";
		Dir::Etc::main "/dev/null";
		Dir::Etc::parts "/dev/null";
		Dir::State "$apt";
		Dir::State::lists "$apt/lists";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt/cache";
		END
	} >"$apt/apt.conf"
	wanted=
	for arch in "$@"; do
		for library in $libraries; do wanted="$wanted $library:$arch"; done
	done
	say "fetching$wanted"
	(
		cd "$apt"
		export APT_CONFIG="$apt/apt.conf"
		# A list that fails may not be one of those that are needed.
		apt-get -qq update || say 'apt-get update failed in part; going on with what it got.'
		# shellcheck disable=SC2086
		apt-get -qq download $wanted
	) >"$apt/log" 2>&1 || {
		tail -n 15 "$apt/log" >&2
		die 'apt-get could not fetch the libraries (its last words are above).'
	}
	for arch in "$@"; do
		rm -rf "$build/sysroot-$arch" "$build/sysroot-$arch.new"
		for library in $libraries; do
			dpkg-deb -x "$apt/$library"_*_"$arch".deb "$build/sysroot-$arch.new"
		done
		mv "$build/sysroot-$arch.new" "$build/sysroot-$arch"
	done
	rm -rf "$apt"	# a quarter of a gigabyte of lists
}

lacking=
for arch in "$@"; do
	[ -d "$build/sysroot-$arch" ] || lacking="$lacking $arch"
done
# shellcheck disable=SC2086
[ -z "$lacking" ] || fetch $lacking

cross_file() {
	libdir=$build/sysroot-$arch/usr/lib/$triplet
	cat <<-END
	[binaries]
	c = '$triplet-gcc'
	ar = '$triplet-ar'
	ld = '$triplet-ld'
	strip = '$triplet-strip'
	objcopy = '$triplet-objcopy'
	pkgconfig = 'pkg-config'
	exe_wrapper = ['$qemu', '-L', '/usr/$triplet', '-E', 'LD_LIBRARY_PATH=$libdir']
	[properties]
	sys_root = '$build/sysroot-$arch'
	pkg_config_libdir = '$libdir/pkgconfig'
	[host_machine]
	system = 'linux'
	cpu_family = '$family'
	cpu = '$family'
	endian = '$endian'
	END
}

# For tests that prove nothing where another processor only plays the part of this one.
export VIRTQ_TEST_EMULATED=qemu-user
# qemu-user is a few times slower, and starts slowly.
options='--timeout-multiplier 10'
for suite in $suites; do options="$options --suite $suite"; done

status=0
for arch in "$@"; do
	about "$arch"
	cross_file >"$build/$arch.ini.new"
	if ! cmp -s "$build/$arch.ini.new" "$build/$arch.ini"; then
		mv "$build/$arch.ini.new" "$build/$arch.ini"
		rm -rf "${build:?}/$arch"
	fi
	rm -f "$build/$arch.ini.new"
	say "$arch: building, then testing"
	# shellcheck disable=SC2086
	tools/check.sh "$build/$arch" $options -- --cross-file "$build/$arch.ini" \
		>"$build/$arch.log" 2>&1 || {
		status=1
		cat "$build/$arch.log"
	}
	# The cases of a program that are skipped for one reason, in one line.
	awk -v arch="$arch" -F ' -- ' '/^skipped: / {
			if (NF > 1) {
				sub(/: not ok .*/, "", $1)
				cases[$1 ": " $2]++
			} else
				print arch ": " $0
		}
		END { for (what in cases) print arch ": " what " (" cases[what] " cases)" }
		' "$build/$arch.log"
done

for arch in "$@"; do
	counts=$(tail -n 1 "$build/$arch.log")
	case $counts in
	*' passed, '*' failed, '*' skipped') ;;
	*) counts='0 passed, 1 failed, 0 skipped' ;;	# did not build
	esac
	printf '%s: %s\n' "$arch" "$counts"
done | awk '{ print; passed += $2; failed += $4; skipped += $6 }
	END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }'
exit $status
