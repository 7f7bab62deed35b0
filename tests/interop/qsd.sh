#!/bin/bash
# Our front end against qemu-storage-daemon: virtq probe and virtq copy on its vhost-user-blk
# export, which knows split virtqueues only.
#
# usage: VIRTQ=.../virtq tests/interop/qsd.sh
#
# Exit status: 0 pass; 1 fail, with the ends of the logs; 77 skipped, with the reason.

set -u
export LC_ALL=C

top=$(cd "$(dirname "$0")/../.." && pwd)
mib=32

for tool in qemu-storage-daemon python3; do
	command -v $tool >/dev/null || { echo "$tool is not installed (tools/setup.sh check)"; exit 77; }
done
[ -x "${VIRTQ:-}" ] || { echo "qsd.sh: VIRTQ does not name the virtq tool ('${VIRTQ:-}')." >&2; exit 1; }

. "$top/tests/interop/children.sh"

fail() {
	printf 'FAIL qsd: %s\n' "$*"
	last_words "$dir/out" 10 'virtq, stdout'
	last_words "$dir/err" 10 'virtq, stderr'
	last_words "$dir/backend.log" 10 'qemu-storage-daemon'
	exit 1
}

# virtq ARGUMENTS...: its output goes to $dir/out and $dir/err, and it has a minute
virtq() {
	echo "virtq $*"
	timeout --kill-after 5 60 "$VIRTQ" "$@" >"$dir/out" 2>"$dir/err" </dev/null
}

must() { "$@" || fail "'$*' ended with status $?."; }

# same FILE FILE: also in length
same() { cmp "$1" "$2" >"$dir/out" 2>&1 || fail "$3"; }

# put FILE KIB OFFSET: so many KiB of random bytes at a byte offset, the rest stays as it was
put() {
	head -c $(($2 * 1024)) /dev/urandom |
		dd of="$1" bs=64k oflag=seek_bytes seek="$3" iflag=fullblock conv=notrunc status=none
}

# ---- Two images: data where the other one has a hole, and data over data -----

export_img=$dir/export.img old=$dir/old.img new=$dir/new.img socket=$dir/socket

truncate -s ${mib}M "$old" "$new" || exit 1
put "$old" 1024 0				# the beginning
put "$old" 300 $((5 * 1048576 + 12345))		# not aligned to anything
put "$old" 4096 $((12 * 1048576))
put "$old" 1 $(((mib << 20) - 1024))		# the last two sectors
put "$new" 64 4096				# zeros before it, over old data
put "$new" 2500 $((13 * 1048576 + 777))		# half over old data
put "$new" 3000 $((20 * 1048576))		# into a hole
put "$new" 1 $(((mib << 20) - 1024))
cp --sparse=always "$old" "$export_img" || exit 1

start_backend "$socket" qemu-storage-daemon \
	--blockdev "driver=file,filename=$export_img,node-name=f" \
	--export "vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=$socket,writable=on,num-queues=2"

# ---- What the device says of itself ------------------------------------------

must virtq probe "$socket"
grep -qiw 'blk\|block' "$dir/out" || fail 'probe does not call the device a blk.'
grep -qE "\b($((mib << 20))|$((mib << 11))|$mib(\.0)? ?MiB)\b" "$dir/out" ||
	fail "probe does not give the capacity of $mib MiB, in bytes, sectors or MiB."

must virtq probe "$socket" --json
python3 - "$dir/out" $((mib << 20)) 2>"$dir/err" <<'PYTHON' || fail "probe --json: $(tail -n 1 "$dir/err")"
import json, sys

def pairs(node, name=''):
    """Every (key, value) of the document, at any depth."""
    yield name.lower(), node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from pairs(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from pairs(value, name)

try:
    found = list(pairs(json.load(open(sys.argv[1]))))
except ValueError as error:
    sys.exit(f'not valid JSON: {error}')
if not any(value in ('blk', 'block', 'virtio-blk') for _, value in found if isinstance(value, str)):
    sys.exit('no value says that the device is a blk')
# The specification counts the capacity in sectors; a key in bytes says so.
capacities = {key: value for key, value in found if key.startswith('capacity')}
if not capacities:
    sys.exit('there is no capacity')
for key, value in capacities.items():
    wanted = int(sys.argv[2]) // (1 if 'bytes' in key else 512)
    if value != wanted:
        sys.exit(f'{key} is {value} and should be {wanted}')
PYTHON

# ---- Out of the device --------------------------------------------------------

must virtq copy "vhost-user:$socket" "$dir/out.img" --layout split
same "$old" "$dir/out.img" 'what was read is not what the export holds.'

# ---- A layout that the device has not got --------------------------------------

virtq copy "vhost-user:$socket" "$dir/packed.img" --layout packed
status=$?
if [ $status -eq 0 ]; then
	fail '--layout packed was accepted by a device without packed virtqueues.'
elif [ $status -ge 124 ]; then
	fail "--layout packed ended with status $status: a signal or a timeout, and no refusal."
fi
[ "$(wc -l <"$dir/err")" -eq 1 ] || fail '--layout packed must be refused with one sentence on stderr.'
grep -qi 'packed' "$dir/err" || fail 'the refusal of --layout packed does not name it.'

# ---- Into the device, which is none the worse for it ---------------------------

must virtq copy "$new" "vhost-user:$socket"
stop_backend "$socket"
same "$new" "$export_img" 'what was written is not what the export holds.'

printf 'PASS qsd (%d s)\n' $SECONDS
