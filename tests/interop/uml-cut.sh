#!/bin/bash
# Power cuts below a file system: a guest serves a file of its ext4, whose disk forgets what was not
# flushed. Then the disk and the guest are killed, and the next guest looks at the file.
#
# usage: tests/interop/uml-cut.sh [CUTS]
#
# BLK-DEV-018, down to the medium. Environment as for uml.sh, but VERBOSE.
# Exit status: 0 pass; 1 fail, with the ends of the logs; 77 skipped, with the reason.

set -u
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

top=$(cd "$(dirname "$0")/../.." && pwd)
[ -x "${BUILD:-}/cli/virtq" ] || { echo 'usage: BUILD=... uml-cut.sh [CUTS]' >&2; exit 1; }
cuts=${1:-3}

for tool in busybox mkfs.ext4 setpriv dpkg-deb; do
	command -v $tool >/dev/null || { echo "$tool is not installed (tools/setup.sh check)"; exit 77; }
done

. "$top/tests/interop/children.sh"
fail() {
	printf 'FAIL uml-cut, %s: %s\n' "${mode:-}" "$*"
	last_words "$dir/console" 30 'guest console'
	last_words "$dir/backend.log" 10 'back end'
	exit 1
}
. "$top/tests/interop/uml-run.sh"

export SOCKET=$dir/socket IMAGE=$dir/medium
seed=$((RANDOM * 32768 + RANDOM))

# kill_both: the disk first, so that nothing comes after it
kill_both() {
	{ kill -KILL -- "-$backend"; wait "$backend"; } 2>/dev/null
	{ kill -KILL -- "-$uml"; wait "$uml"; } 2>/dev/null
	backend='' uml=''
	rm -f "$SOCKET"
}

last_flushed() { tr -d '\r' <"$dir/console" | sed -n 's/^FLUSHED \([0-9]*\)$/\1/p' | tail -n 1; }
flushed_more() { local now; now=$(last_flushed); [ "${now:-0}" -gt "$flushed" ]; }
flushed_more_or_over() { flushed_more || gone "$uml" || grep -q '^GUEST-RESULT: ' "$dir/console"; }

# cut LIE WRITES OPTIONS: boot, look, write, cut. Fails if what was flushed is not there.
cut_power() {
	local now
	start_backend "$SOCKET" "$BUILD/tests/interop/powerline" medium "$IMAGE" "$SOCKET" "$1"
	boot virtq.test=cut virtq.seed=$seed virtq.flushed="$flushed" "virtq.writes=$2" "virtq.options=$3" \
		"virtio_uml.device=$SOCKET:2"
	within 60 flushed_more_or_over || fail 'nothing was flushed within 60 s.'
	flushed_more && sleep 0.$((RANDOM % 9 + 1))
	now=$(last_flushed)
	kill_both
	flushed_now=${now:-$flushed}
	result=$(tr -d '\r' <"$dir/console" | sed -n 's/^GUEST-RESULT: //p' | head -n 1)
	[ -z "$result" ]
}

# look: the last time, with a disk that forgets nothing
look() {
	start_backend "$SOCKET" "$BUILD/cli/virtq" serve blk --layout split --socket-path "$SOCKET" --image "$IMAGE"
	boot virtq.test=cut virtq.seed=$seed virtq.flushed="$flushed" virtq.writes=no "virtio_uml.device=$SOCKET:2"
	await_result 60
	checked=$(tr -d '\r' <"$dir/console" | sed -n 's/^CHECKED //p')
	stop_backend "$SOCKET"
	[ "$result" = pass ]
}

# run_mode LIE WRITES OPTIONS: true if all that was flushed was there each time
run_mode() {
	local n
	rm -f "$IMAGE"
	truncate -s 64M "$IMAGE" && mkfs.ext4 -q -F "$IMAGE" || exit 1
	flushed=0
	for ((n = 0; n < cuts; n++)); do
		cut_power "$1" "$2" "$3" || return 1
		[ "$flushed_now" -gt "$flushed" ] || fail 'nothing was flushed.'
		flushed=$flushed_now
	done
	look
}

for options in '' --direct --engine,sync --write-through; do
	mode="virtq serve ${options/,/ }"
	run_mode honest flush "$options" || fail "in the guest: $result"
	printf '# %s: %d cuts, %s\n' "$mode" "$cuts" "$checked"
done

# The test is able to fail: whoever flushes nothing, above or below, is noticed.
mode='a disk that lies'
run_mode lie flush '' && fail 'it was not noticed.'
printf '# noticed, %s: %s\n' "$mode" "$result"
mode='a driver that does not flush'
run_mode honest pretend '' && fail 'it was not noticed.'
printf '# noticed, %s: %s\n' "$mode" "$result"
printf 'PASS uml-cut (%d s)\n' $SECONDS
