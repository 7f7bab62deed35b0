#!/bin/bash
# SPDX-License-Identifier: MIT
# Our driver's side against virtiofsd: the client of virtiofs.c copies files out of a shared
# directory, in the plain way, and with its queue stopped under way and requests abandoned.
# Two memory regions in one table, told apart by what is read through them: VU-FE-014.
#
# Split virtqueues only: QEMU's virtiofsd offers no others. The client takes packed ones where
# they are offered, and this test then fails, so that both get tested.
#
# usage: VIRTIOFS=.../virtiofs tests/interop/virtiofs.sh
#
# Exit status: 0 pass; 1 fail, with the ends of the logs; 77 skipped, with the reason.

set -u
export LC_ALL=C

top=$(cd "$(dirname "$0")/../.." && pwd)
virtiofsd=/usr/lib/qemu/virtiofsd

[ -x "${VIRTIOFS:-}" ] ||
	{ echo "virtiofs.sh: VIRTIOFS does not name the client ('${VIRTIOFS:-}')." >&2; exit 1; }
[ -x $virtiofsd ] || { echo "$virtiofsd is not installed (tools/setup.sh check)"; exit 77; }
[ "$(id -u)" -eq 0 ] || { echo 'virtiofsd starts only as root'; exit 77; }
# Its usual sandbox is made of these. Where they are forbidden, as in containers, there is another.
sandbox=namespace
unshare --mount --pid --net --fork true 2>/dev/null || sandbox=chroot

. "$top/tests/interop/children.sh"

fail() {
	printf 'FAIL virtiofs: %s\n' "$*"
	last_words "$dir/out" 10 'virtiofs, stdout'
	last_words "$dir/err" 10 'virtiofs, stderr'
	last_words "$dir/backend.log" 20 'virtiofsd'
	exit 1
}

shared=$dir/shared copies=$dir/copies socket=$dir/socket level=info

waiting_or_dead() { grep -q 'Waiting for vhost-user socket' "$dir/backend.log" || gone "$backend"; }

# client STATUS ARGUMENTS...: run it on a new virtiofsd, which lives for one connection. It has a
# minute, and must end with that status; its output goes to $dir/out and $dir/err
client() {
	local wanted=$1 status
	shift
	echo "virtiofs $*"
	rm -rf "$copies" "$socket"
	mkdir "$copies" || exit 1
	start_backend "$socket" $virtiofsd --socket-path="$socket" -o source="$shared" \
		-o sandbox=$sandbox -o log_level=$level -f
	within 10 waiting_or_dead || fail 'virtiofsd does not listen.'
	timeout --kill-after 5 60 "$VIRTIOFS" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	status=$?
	[ $status -eq "$wanted" ] || fail "the client ended with status $status, not $wanted."
	within 10 gone "$backend" || fail 'virtiofsd did not end with the connection.'
	wait "$backend"
	status=$?
	backend=''
	[ $status -eq 0 ] || fail "virtiofsd ended with status $status."
}

# copied NAME...: these, and nothing else
copied() {
	local name
	[ "$(ls "$copies")" = "$(printf '%s\n' "$@" | sort)" ] ||
		fail "the copies are of '$(echo $(ls "$copies"))', and should be of '$*'."
	for name; do
		cmp "$shared/$name" "$copies/$name" >"$dir/out" 2>&1 || fail "the copy of $name differs."
	done
}

# refused REASON: the one sentence there was
refused() {
	[ "$(wc -l <"$dir/err")" -eq 1 ] && grep -q "$1" "$dir/err" ||
		fail "there should be one sentence on stderr, that says '$1'."
}

# numbers: set $layout $reads $restarts $cancelled $abandoned $released
numbers() {
	local line='^\([a-z]*\): \([0-9]*\) reads, \([0-9]*\) restarts, \([0-9]*\) cancelled,'
	line+=' \([0-9]*\) abandoned, \([0-9]*\) released$'
	read -r layout reads restarts cancelled abandoned released \
		< <(sed -n "s/$line/\1 \2 \3 \4 \5 \6/p" "$dir/out") ||
		fail 'the client did not say what it did.'
	cat "$dir/out"
	[ "$layout" = split ] || fail "virtiofsd offers $layout virtqueues now: test both."
	[ "$released" -eq "$abandoned" ] ||
		fail "$abandoned requests were abandoned, and the memory of $released was released."
}

# ---- Files: several reads and a short one; whole reads only; and small ones ------

mkdir "$shared" "$shared/directory" || exit 1
head -c 25000000 /dev/urandom >"$shared/random" &&
	head -c $((4 << 20)) /dev/urandom >"$shared/aligned" &&
	echo 'A small file.' >"$shared/text" && : >"$shared/empty" || exit 1
files=(random aligned text empty)
reads_of_all=$((25000000 / 131072 + 1 + 32 + 1 + 1 + 1))

# ---- As it should be ---------------------------------------------------------------

level=debug
client 0 "$socket" "$copies" "${files[@]}"
numbers
copied "${files[@]}"
[ "$reads" -eq $reads_of_all ] || fail "there were $reads reads, and should be $reads_of_all."
[ "$abandoned" -eq ${#files[@]} ] || fail 'there should be one FORGET for each file.'
# What virtiofsd says it got, and no more of it.
for opcode in 'INIT (26) 1' 'LOOKUP (1) 4' 'OPEN (14) 4' "READ (15) $reads" 'RELEASE (18) 4' \
	'FORGET (2) 4'; do
	name=${opcode% *} count=${opcode##* }
	got=$(grep -c "opcode: $name," "$dir/backend.log")
	[ "$got" -eq "$count" ] || fail "virtiofsd got $got of $name, and should have got $count."
done
level=info

# ---- What is not there costs a sentence, and not the session -----------------------

client 1 "$socket" "$copies" nothing
refused '^virtiofs: nothing: No such file or directory$'
copied
client 1 "$socket" "$copies" text nothing empty
refused '^virtiofs: nothing: No such file or directory$'
copied text empty
client 1 "$socket" "$copies" directory
refused '^virtiofs: directory: Operation not supported$'
copied

# ---- Abandoned reads, whose memory comes back once ---------------------------------

client 0 -a "$socket" "$copies" "${files[@]}"
numbers
copied "${files[@]}"
[ "$abandoned" -eq $((2 * ${#files[@]})) ] ||
	fail 'one read for each file should have been abandoned.'

# ---- Stopped with reads in flight ----------------------------------------------------

client 0 -ar "$socket" "$copies" "${files[@]}"
numbers
copied "${files[@]}"
[ "$reads" -eq $reads_of_all ] || fail "there were $reads reads, and should be $reads_of_all."
[ "$restarts" -gt 0 ] || fail 'the queue was never stopped.'
[ "$cancelled" -gt 0 ] || fail 'no read was in flight when the queue stopped.'

# ---- Killed with reads in flight: that is noticed at once ------------------------------

# In /dev/zero there is room for any file, and this one is not read to its end.
truncate -s 1T "$shared/endless" || exit 1
rm -rf "$copies" "$socket"
mkdir "$copies" && ln -s /dev/zero "$copies/endless" || exit 1
echo "virtiofs $socket $copies endless (killed)"
start_backend "$socket" $virtiofsd --socket-path="$socket" -o source="$shared" \
	-o sandbox=$sandbox -o log_level=$level -f
within 10 waiting_or_dead || fail 'virtiofsd does not listen.'
"${bound[@]}" "$VIRTIOFS" "$socket" "$copies" endless >"$dir/out" 2>"$dir/err" </dev/null &
client=$!
is_reading() { readlink /proc/$client/fd/* 2>/dev/null | grep -qx /dev/zero; }
within 10 is_reading || fail 'the client opened no file.'
sleep 0.5
running $client || fail 'the client did not go on reading.'
{ kill -KILL -- "-$backend"; wait "$backend"; } 2>/dev/null
backend=''
# It would wait for an answer for 10 s.
within 5 gone $client || fail 'the client did not notice that virtiofsd is gone.'
wait $client
status=$?
[ $status -eq 1 ] || fail "the client ended with status $status, not 1."
refused '^virtiofs: cannot wait for the device: Connection reset by peer$'

printf 'PASS virtiofs (%d s)\n' $SECONDS
