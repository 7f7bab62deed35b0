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
# The kernel is Debian's package user-mode-linux, downloaded and unpacked, never installed.
# Exit status: 0 pass; 1 fail, with the ends of the logs; 77 skipped, with the reason.

set -u
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

top=$(cd "$(dirname "$0")/../.." && pwd)
guest_dir=${GUEST_DIR:-$top/build/guest}
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

# ---- The kernel -------------------------------------------------------------

# fetch [APT OPTION...]
fetch() { (cd "$dir" && apt-get "$@" -qq -o APT::Sandbox::User=root download user-mode-linux >>"$dir/apt" 2>&1 </dev/null); }

kernel=$guest_dir/uml
if [ ! -x "$kernel/usr/bin/linux.uml" ]; then
	[ "$(dpkg --print-architecture)" = amd64 ] || { echo 'User Mode Linux is taken for amd64 only'; exit 77; }
	if ! fetch; then
		# No package lists, or old ones: new ones, in a directory of our own.
		mkdir -p "$dir/apt-lists/partial" "$dir/apt-cache"
		own=(-o Dir::State::lists="$dir/apt-lists" -o Dir::Cache="$dir/apt-cache" -o APT::Sandbox::User=root)
		apt-get "${own[@]}" -qq update >>"$dir/apt" 2>&1 </dev/null
		fetch "${own[@]}" || {
			echo "the package user-mode-linux cannot be downloaded: $(grep -m 1 '^[EW]:' "$dir/apt")"
			exit 77
		}
	fi
	mkdir -p "$guest_dir" && dpkg-deb -x "$dir"/user-mode-linux_*.deb "$dir/kernel" || exit 1
	mv -T "$dir/kernel" "$kernel" 2>/dev/null || [ -x "$kernel/usr/bin/linux.uml" ] || exit 1
fi
modules=$(echo "$kernel"/usr/lib/uml/modules/*)

# ---- The disks, and the guest ---------------------------------------------------

disks=() devices=()
for disk; do
	disks+=(--disk "socket=$dir/socket-$((${#devices[@]} + 1)),$disk")
	devices+=("virtio_uml.device=$dir/socket-$((${#devices[@]} + 1)):2")
done
# Split: it starts packed virtqueues without their wrap counters.
start_backend "$dir/socket-${#devices[@]}" "$BUILD/cli/virtq" serve blk --layout split "${disks[@]}"

# The host's files, to be read; a session of its own, as it has processes.
TMPDIR=$dir "${bound[@]}" setsid "$kernel/usr/bin/linux.uml" mem=256M con=null con0=null,fd:1 \
	root=/dev/root rootfstype=hostfs rootflags=/ ro init="$top/tests/interop/uml/init" \
	quiet panic=-1 virtq.test="$test_name" MODULES="$modules" BUILD="$BUILD" "${devices[@]}" \
	>"$dir/console" 2>&1 </dev/null &
uml=$!
started=$SECONDS
until grep -q '^GUEST-RESULT: ' "$dir/console"; do
	running "$uml" || break
	running "$backend" || fail 'the back end died while the guest was running.'
	[ $((SECONDS - started)) -lt 150 ] || fail 'the guest gave no result within 150 s.'
	sleep 0.1
done
within 20 gone "$uml" || fail 'the guest did not power off within 20 s of its result.'
wait "$uml"
uml=''
result=$(tr -d '\r' <"$dir/console" | sed -n 's/^GUEST-RESULT: //p' | head -n 1)
case $result in
pass)     ;;
fail\ *)  fail "in the guest: ${result#fail }" ;;
*)        fail 'the guest gave no result.' ;;
esac
stop_backend "$dir/socket-1"
[ -z "${VERBOSE:-}" ] || tr -d '\r' <"$dir/console"
printf 'PASS uml %s (%d s)\n' "$test_name" $SECONDS
