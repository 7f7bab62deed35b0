#!/bin/bash
# One run of a real Linux guest, under QEMU without KVM, on a vhost-user-blk back end.
#
# usage: tests/interop/guest.sh CASE [SETTING=VALUE]...
#
# Settings, with their defaults:
#     packed=off event_idx=on indirect=on     what QEMU lets the guest's driver negotiate;
#                                             the guest checks that it really was
#     queues=1 queue-size=128
#     ro=off                                  the disk is read-only
#     direct=off                              virtq bypasses the page cache
#     inject=                                 rules for virtq serve --inject
#     disks=1                                 more of them, all of one virtq process; each is
#                                             8 MiB larger than the one before
#     with=                                   fio: the guest has fio, and memory for it
#     long=off                                for a script that has a long form
#     test=blk-roundtrip                      the script in tests/interop/guest to run, or several: a,b
#     size-mib=64                             size of the disk
#     fsck=on                                 afterwards there is a sound ext4 in the image
#
# Environment:
#     VIRTQ      the virtq tool, which is the back end to test: virtq serve blk ...
#     BACKEND    another back end: a shell command that uses $SOCKET, $IMAGE, $QUEUES, $SERIAL
#                and $RO (on or off); or the word qsd, for qemu-storage-daemon, which tells
#                whether a failure is ours or the harness's
#     BACKEND_EXIT=any    do not look at the back end's exit status and socket
#     SERIAL     the serial number the guest must see, up to 20 bytes
#     GUEST_DIR  where tools/guest-image.sh keeps the guest (default: build/guest)
#     TIMEOUT    seconds until a guest without a result has failed (default: 180; 600 with long=on)
#     VERBOSE=1  show the guest's console also when all is well
#
# Exit status: 0 pass; 1 fail, with the ends of the logs; 77 skipped, with the reason.

set -u
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

top=$(cd "$(dirname "$0")/../.." && pwd)
guest_dir=${GUEST_DIR:-$top/build/guest}

# ---- What to run ------------------------------------------------------------

usage() { printf 'guest.sh: %s\n' "$*" >&2; exit 1; }

[ $# -ge 1 ] || usage 'the name of the case is missing.'
case_name=$1
shift

declare -A set=(
	[packed]=off [event_idx]=on [indirect]=on [queues]=1 [queue-size]=128
	[ro]=off [test]=blk-roundtrip [size-mib]=64 [fsck]=on [direct]=off [with]= [long]=off
	[inject]= [disks]=1
)
for word in "$@"; do
	key=${word%%=*}
	[[ $word == *=* && -n ${set[$key]+known} ]] || usage "there is no setting '$word'."
	set[$key]=${word#*=}
done
for key in packed event_idx indirect ro fsck direct long; do
	[[ ${set[$key]} == on || ${set[$key]} == off ]] || usage "$key is on or off."
done
for key in queues queue-size size-mib disks; do
	[[ ${set[$key]} =~ ^[1-9][0-9]*$ ]] || usage "$key is a number."
done
timeout=180
[ "${set[long]}" = off ] || timeout=600
timeout=${TIMEOUT:-$timeout}
flag() { [ "${set[$1]}" = on ] && echo 1 || echo 0; }

# The back end's command is for the shell that starts it, hence the single quotes.
# shellcheck disable=SC2016
case ${BACKEND:-virtq} in
virtq)
	[ -x "${VIRTQ:-}" ] || usage "VIRTQ does not name the virtq tool ('${VIRTQ:-}')."
	if [ "${set[disks]}" = 1 ]; then
		BACKEND='"$VIRTQ" serve blk --socket-path "$SOCKET" --image "$IMAGE" --queues "$QUEUES" --serial "$SERIAL"'
	else
		BACKEND='"$VIRTQ" serve blk --queues "$QUEUES" --threads 2'
		for ((n = 1; n <= set[disks]; n++)); do
			BACKEND+=" --disk \"socket=\$SOCKET-$n,image=\$IMAGE-$n,serial=disk-$n\""
		done
	fi
	[ "${set[ro]}" = off ] || BACKEND+=' --read-only'
	[ "${set[direct]}" = off ] || BACKEND+=' --direct'
	[ -z "${set[inject]}" ] || BACKEND+=" --inject '${set[inject]}'"
	;;
qsd)
	BACKEND='qemu-storage-daemon --blockdev "driver=file,filename=$IMAGE,node-name=f,read-only=$RO" \
		--export "vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=$SOCKET,num-queues=$QUEUES'
	[ "${set[ro]}" = on ] || BACKEND+=,writable=on
	BACKEND+='"'
	SERIAL=${SERIAL:-vhost_user_blk}	# it has no option for it
	command -v qemu-storage-daemon >/dev/null || { echo 'qemu-storage-daemon is not installed'; exit 77; }
	[ "${set[packed]}" = off ] || { echo 'qemu-storage-daemon has no packed virtqueues'; exit 77; }
	;;
esac

# ---- What it needs ----------------------------------------------------------

for tool in qemu-system-x86_64 mkfs.ext4 e2fsck debugfs; do
	command -v $tool >/dev/null || { echo "$tool is not installed (tools/setup.sh check)"; exit 77; }
done
case ${set[with]} in
'')	initrd=$guest_dir/initramfs.cpio.gz memory=192M ;;
fio)	initrd=$guest_dir/initramfs-fio.cpio memory=512M ;;
*)	usage "with is fio or nothing." ;;
esac
# shellcheck disable=SC2086
"$top/tools/guest-image.sh" "$guest_dir" ${set[with]} || exit	# its 77 comes with its own reason

# ---- Ends -------------------------------------------------------------------

. "$top/tests/interop/children.sh"

fail() {
	printf 'FAIL %s: %s\n' "$case_name" "$*"
	last_words "$dir/console" 30 'guest console'
	last_words "$dir/qemu.log" 10 'qemu'
	last_words "$dir/backend.log" 10 'back end'
	exit 1
}

# ---- The disk ---------------------------------------------------------------

export SOCKET=$dir/socket IMAGE=$dir/disk.img QUEUES=${set[queues]} RO=${set[ro]}
export SERIAL=${SERIAL:-virtq-serial-20chars}	# 20 bytes: no room for a terminating NUL

truncate -s "${set[size-mib]}M" "$IMAGE" || exit 1
for ((n = 1; n <= set[disks]; n++)); do
	truncate -s $((set[size-mib] + 8 * n))M "$IMAGE-$n" || exit 1
done
if [ "$RO" = on ]; then
	mkdir "$dir/files"
	seq 100000 | head -c 123457 >"$dir/files/odd"
	seq 500000 >"$dir/files/long"
	(cd "$dir/files" && sha256sum -- * >../sums && mv ../sums SHA256SUMS)
	mkfs.ext4 -q -d "$dir/files" "$IMAGE" || fail 'cannot make a file system for the guest.'
	before=$(sha256sum <"$IMAGE")
fi

# ---- The back end -----------------------------------------------------------

last_socket=$SOCKET
[ "${set[disks]}" = 1 ] || last_socket=$SOCKET-${set[disks]}
start_backend "$last_socket" sh -c "exec $BACKEND"

# ---- The guest --------------------------------------------------------------

# SeaBIOS looks for a disk to boot from with our queue size, and hangs on two entries.
firmware=()
if [ "${set[queue-size]}" -le 2 ] && [ -f /usr/share/qemu/qboot.rom ]; then
	firmware=(-bios /usr/share/qemu/qboot.rom)
fi

parameters="virtq.test=${set[test]}"
parameters+=" virtq.packed=$(flag packed) virtq.event_idx=$(flag event_idx) virtq.indirect=$(flag indirect)"
parameters+=" virtq.queues=$QUEUES virtq.queue_size=${set[queue-size]} virtq.ro=$(flag ro)"
parameters+=" virtq.disks=${set[disks]} virtq.size_mib=${set[size-mib]} virtq.long=$(flag long)"
parameters+=" virtq.sectors=$((${set[size-mib]} * 2048)) virtq.serial=$SERIAL"

device="num-queues=$QUEUES,queue-size=${set[queue-size]}"
device+=",packed=${set[packed]},event_idx=${set[event_idx]},indirect_desc=${set[indirect]}"
devices=()
if [ "${set[disks]}" = 1 ]; then
	devices=(-chardev "socket,id=c,path=$SOCKET" -device "vhost-user-blk-pci,chardev=c,$device")
else
	for ((n = 1; n <= set[disks]; n++)); do
		devices+=(-chardev "socket,id=c$n,path=$SOCKET-$n"
			  -device "vhost-user-blk-pci,chardev=c$n,$device")
	done
fi

# One processor for each queue: Linux makes no more queues than it has processors.
"${bound[@]}" qemu-system-x86_64 -accel tcg -machine q35,memory-backend=m \
	-object memory-backend-memfd,id=m,size=$memory,share=on -m $memory \
	-cpu max,la57=off,cx16=off -smp "$QUEUES" "${firmware[@]}" \
	-nodefaults -display none -no-reboot -serial stdio \
	-kernel "$guest_dir/vmlinuz" -initrd "$initrd" \
	-append "console=ttyS0 quiet mitigations=off panic=-1 $parameters" \
	"${devices[@]}" \
	>"$dir/console" 2>"$dir/qemu.log" </dev/null &
qemu=$!

started=$SECONDS
: >>"$dir/console"		# qemu may not have begun
while running "$qemu" && ! grep -q '^GUEST-RESULT: ' "$dir/console"; do
	running "$backend" || fail 'the back end died while the guest was running.'
	[ $((SECONDS - started)) -lt "$timeout" ] || fail "the guest gave no result within $timeout s."
	sleep 0.1
done

# A reset device must let the guest go, and QEMU with it. Only then is the console complete.
within 20 gone "$qemu" || fail 'the guest did not power off within 20 s of its result.'
wait "$qemu"
status=$?
qemu=''
result=$(tr -d '\r' <"$dir/console" | sed -n 's/^GUEST-RESULT: //p' | head -n 1)
case $result in
pass)     ;;
fail\ *)  fail "in the guest: ${result#fail }" ;;
*)        fail "the guest gave no result, and qemu ended with status $status." ;;
esac
[ $status -eq 0 ] || fail "the guest passed, but qemu ended with status $status."

# ---- The end of the back end ------------------------------------------------

stop_backend "$last_socket" "${BACKEND_EXIT:-}"

# ---- What is in the image now -----------------------------------------------

# "DISK <number> <sha256>": the whole of a disk, as the guest saw it.
tr -d '\r' <"$dir/console" | sed -n 's/^DISK //p' >"$dir/disks"
while read -r n sum; do
	[ "$(sha256sum <"$IMAGE-$n")" = "$sum  -" ] || fail "disk $n is not what the guest wrote."
done <"$dir/disks"
[ "$(wc -l <"$dir/disks")" = $((set[disks] > 1 ? set[disks] : 0)) ] || fail 'not every disk was told of.'

if [ "$RO" = on ]; then
	[ "$(sha256sum <"$IMAGE")" = "$before" ] || fail 'the image of the read-only disk has changed.'
elif [ "${set[fsck]}" = on ]; then
	e2fsck -fn "$IMAGE" >"$dir/e2fsck" 2>&1 || fail "e2fsck on the image: $(tail -n 3 "$dir/e2fsck" | tr '\n' ' ')"
	# The checksums that the guest printed, of the files as we see them.
	tr -d '\r' <"$dir/console" | awk '$1 == "SUM" { print $2 "  " $3 }' >"$dir/sums"
	if [ -s "$dir/sums" ]; then
		mkdir "$dir/seen"
		debugfs -R "rdump /data $dir/seen" "$IMAGE" >/dev/null 2>&1
		(cd "$dir/seen/data" && sha256sum --quiet -c "$dir/sums") >"$dir/compared" 2>&1 ||
			fail "the image differs from what the guest wrote: $(head -n 1 "$dir/compared")"
	fi
fi

sed -n 's/^restless: /# /p' "$dir/backend.log"
[ -z "${VERBOSE:-}" ] || tr -d '\r' <"$dir/console"
printf 'PASS %s (%d s)\n' "$case_name" $SECONDS
