#!/bin/sh
# SPDX-License-Identifier: MIT
# The main job on real input: an ext4 image full of real files is served as a
# disk by one process and read and written through virtqueues by another.
#
#   tools/demo.sh VIRTQ      VIRTQ: the built tool
#
# Every comparison has to hold, or the status is not 0.
set -eu

virtq=$(readlink -f "$1")
cd "$(dirname "$0")/.."
image_mib=96
content_mib=76

work=$(mktemp -d "${TMPDIR:-/tmp}/virtq-demo.XXXXXX")
server=
cleanup() {
	status=$?
	trap - EXIT
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || :
		wait "$server" 2>/dev/null || :
	fi
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n== %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
sum_of() { sha256sum "$1" | cut -d' ' -f1; }

# ---- A disk image with real files --------------------------------------------

say "An ext4 image of $image_mib MiB with real files"
PATH=$PATH:/usr/sbin:/sbin
mkdir "$work/root" "$work/root/usr"
git ls-files -z 2>/dev/null | xargs -0 -r cp --parents -t "$work/root" || :
[ -f "$work/root/README.md" ] || cp -r README.md include src "$work/root"

# Part of /usr: files in a fixed order until there is enough.
find /usr/share /usr/include /usr/lib /usr/bin -xdev -type f -size -2048k -readable 2>/dev/null |
	LC_ALL=C sort >"$work/candidates"
python3 - "$work/candidates" $((content_mib * 1024 * 1024)) >"$work/chosen" <<'PY'
import os
import sys

room = int(sys.argv[2])
for name in open(sys.argv[1], encoding="utf-8", errors="surrogateescape"):
    name = name.rstrip("\n")
    room -= (os.path.getsize(name) + 4095) // 4096 * 4096
    if room < 0:
        break
    print(name)
PY
tr '\n' '\0' <"$work/chosen" | xargs -0 cp --parents -t "$work/root"
mkfs.ext4 -q -F -b 4096 -i 8192 -L virtq-demo -d "$work/root" "$work/disk.img" ${image_mib}M
bytes=$(stat -c %s "$work/disk.img")
nonzero=$(tr -d '\0' <"$work/disk.img" | wc -c)
files=$(find "$work/root" -type f | wc -l)
printf '%s files, %s bytes, %s%% of them not zero\n' "$files" "$bytes" $((nonzero * 100 / bytes))
[ $((nonzero * 2)) -gt "$bytes" ] || die "less than half of the image is data"
original=$(sum_of "$work/disk.img")

# ---- Serve it ------------------------------------------------------------------

say "virtq serve blk --socket-path disk.sock --image disk.img"
sock=$work/disk.sock
"$virtq" serve blk --socket-path "$sock" --image "$work/disk.img" --serial virtq-demo \
	2>"$work/server.log" &
server=$!
tries=0
until [ -S "$sock" ]; do
	kill -0 "$server" 2>/dev/null || { cat "$work/server.log" >&2; die "the server ended"; }
	tries=$((tries + 1))
	[ $tries -lt 100 ] || die "the server made no socket within 10 s"
	sleep 0.1
done
"$virtq" probe "$sock"

# ---- Out and back over both layouts ---------------------------------------------

copy() { # copy WHAT LAYOUT SRC DST: one row of the table
	"$virtq" copy "$3" "$4" --layout "$2" --json >"$work/row.json"
	python3 - "$1" "$work/row.json" >>"$work/table" <<'PY'
import json
import sys

row = json.load(open(sys.argv[2], encoding="utf-8"))
print("%-6s %-6s %10d %8.3f %9.1f %9d %7d %7d" % (
    row["layout"], sys.argv[1], row["bytes"], row["seconds"], row["mib_per_s"],
    row["requests"], row["kicks"], row["calls"]))
PY
}

same() { # same WHAT FILE SUM
	[ "$(sum_of "$2")" = "$3" ] || die "$1: SHA-256 differs"
	printf '%s: SHA-256 %.16s... equal\n' "$1" "$3"
}

for layout in split packed; do
	say "virtq copy vhost-user:disk.sock $layout.img --layout $layout"
	copy read $layout "vhost-user:$sock" "$work/$layout.img"
	same "read over the $layout ring" "$work/$layout.img" "$original"
done

say "A file is added to the copy, and the changed image written back"
head -c 3000000 /dev/urandom >"$work/news"
debugfs -w -R "write $work/news added-by-the-demo" "$work/split.img" >/dev/null 2>&1
changed=$(sum_of "$work/split.img")
[ "$changed" != "$original" ] || die "nothing was changed"
copy write packed "$work/split.img" "vhost-user:$sock"
copy read split "vhost-user:$sock" "$work/again.img"
same "re-read after writing" "$work/again.img" "$changed"

say "virtq stats disk.sock"
"$virtq" stats "$sock" | tee "$work/stats"
grep -q 'queue 0: [1-9]' "$work/stats" || die "the server has counted nothing"

say "Stop the server and check the file system on its image"
kill -TERM "$server"
wait "$server" || die "the server ended with status $?"
server=
[ ! -e "$sock" ] || die "the server left its socket behind"
same "the image on disk" "$work/disk.img" "$changed"
e2fsck -fn "$work/disk.img" 2>/dev/null | tail -1
e2fsck -fn "$work/disk.img" >/dev/null 2>&1 || die "e2fsck found faults"
debugfs -R "dump added-by-the-demo $work/news.back" "$work/disk.img" 2>/dev/null
cmp "$work/news" "$work/news.back" || die "the added file differs"
cat "$work/server.log"

say "Result"
printf '%-6s %-6s %10s %8s %9s %9s %7s %7s\n' layout "" bytes seconds MiB/s requests kicks calls
cat "$work/table"
printf 'every comparison held\n'
