#!/bin/bash
# One run of User Mode Linux, a Linux kernel that is a program, on disks of virtq serve. It is a
# vhost-user front end of its own, which hands the driver every feature that the disk has; QEMU's knows some.
#
# usage: tests/interop/uml.sh TEST DISK...
#
# TEST is a script in tests/interop/uml; each DISK what virtq serve --disk takes, but for the socket.
#
# Environment:
#     BUILD      the build directory, of which the guest may use what it likes
#     GUEST_DIR  where the kernel is kept (default: build/guest)
#     VERBOSE=1  show the guest's console also when all is well
#
# Exit status: 0 pass; 1 fail, with the ends of the logs; 77 skipped, with the reason.

set -u
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

top=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -ge 2 ] && [ -x "${BUILD:-}/cli/virtq" ] || { echo 'usage: BUILD=... uml.sh TEST DISK...' >&2; exit 1; }
test_name=$1
shift

for tool in busybox blkdiscard setpriv dpkg-deb; do
	command -v $tool >/dev/null || { echo "$tool is not installed (tools/setup.sh check)"; exit 77; }
done

. "$top/tests/interop/children.sh"

fail() {
	printf 'FAIL uml %s: %s\n' "$test_name" "$*"
	last_words "$dir/console" 30 'guest console'
	last_words "$dir/backend.log" 10 'back end'
	exit 1
}
. "$top/tests/interop/uml-run.sh"

# ---- The disks, and the guest ---------------------------------------------------

disks=() devices=()
for disk; do
	disks+=(--disk "socket=$dir/socket-$((${#devices[@]} + 1)),$disk")
	devices+=("virtio_uml.device=$dir/socket-$((${#devices[@]} + 1)):2")
done
# Split: it starts packed virtqueues without their wrap counters.
start_backend "$dir/socket-${#devices[@]}" "$BUILD/cli/virtq" serve blk --layout split "${disks[@]}"

boot virtq.test="$test_name" "${devices[@]}"
await_result 150
case $result in
pass)     ;;
fail\ *)  fail "in the guest: ${result#fail }" ;;
*)        fail 'the guest gave no result.' ;;
esac
stop_backend "$dir/socket-1"
[ -z "${VERBOSE:-}" ] || tr -d '\r' <"$dir/console"
printf 'PASS uml %s (%d s)\n' "$test_name" $SECONDS
