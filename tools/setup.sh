#!/bin/sh
# Installs the Debian packages that building, testing or measuring libvirtq needs.
#
# usage: tools/setup.sh [build|check|cross|demo|bench|fuzz|docs]...      (no set means build)
#
# Installs only what is missing, so it costs a few milliseconds when there is
# nothing to do, and then it prints nothing.

set -eu
export LC_ALL=C

build='gcc libc6-dev make meson ninja-build pkg-config python3
       liburing-dev libcmocka-dev libnbd-dev scdoc'
check="$build clang libclang-rt-14-dev g++
       qemu-system-x86 qemu-system-common qemu-utils qemu-block-extra
       busybox-static e2fsprogs kmod cpio gzip spin fio nbdkit systemtap-sdt-dev binutils"
cross="$build qemu-user apt
       gcc-s390x-linux-gnu libc6-dev-s390x-cross
       gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
       gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
demo="$build e2fsprogs"
bench="$build qemu-system-common fio gnuplot-nox valgrind" # qemu-system-common: qemu-storage-daemon
fuzz="$build clang libclang-rt-14-dev llvm"
docs='doxygen'

say() { printf 'setup.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ $# -gt 0 ] || set -- build
wanted=
for set in "$@"; do
	case $set in
	build) wanted="$wanted $build" ;;
	check) wanted="$wanted $check" ;;
	cross) wanted="$wanted $cross" ;;
	demo)  wanted="$wanted $demo" ;;
	bench) wanted="$wanted $bench" ;;
	fuzz)  wanted="$wanted $fuzz" ;;
	docs)  wanted="$wanted $docs" ;;
	-h|--help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) die "there is no set '$set'; the sets are build, check, cross, demo, bench, fuzz and docs." ;;
	esac
done
# One word after the other, each once.
wanted=$(printf '%s\n' $wanted | sort -u | tr '\n' ' ')

command -v dpkg-query >/dev/null ||
	die "this is not a Debian system; please install the equivalents of: $wanted"

# A package that dpkg has never heard of makes dpkg-query fail; that is an answer too.
installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' $wanted 2>/dev/null || :)
missing=
for package in $wanted; do
	case "
$installed
" in
	*"
installed $package
"*) ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
	as_root=
elif command -v sudo >/dev/null; then
	as_root=sudo
else
	die "not root and no sudo; please install as root:$missing"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

apt_get() {
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq \
		-o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null
}

say "installing$missing"
# Without fresh lists the old ones may still do; the installation will tell.
apt_get update || say 'apt-get update failed; going on with the package lists at hand.'
if ! apt_get install --yes --no-install-recommends $missing; then
	tail -n 15 "$log" >&2
	die "apt-get could not install$missing (its last words are above)."
fi
