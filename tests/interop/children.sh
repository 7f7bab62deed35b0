# Processes and files of one interop test, and how they end with it. Sourced.
# shellcheck shell=bash
#
# A test that sources this has a directory $dir; it and everything started with start_backend or
# recorded in $qemu or $uml is gone on every exit path, even (but for the directory) after SIGKILL.

backend='' qemu='' uml=''
dir=$(mktemp -d "${TMPDIR:-/tmp}/virtq-interop.XXXXXX") || exit 1

cleanup() {
	[ -z "$qemu" ] || { kill -KILL "$qemu"; wait "$qemu"; }
	# With whatever they started themselves: each leads its own session.
	[ -z "$uml" ] || { kill -KILL -- "-$uml"; wait "$uml"; }
	[ -z "$backend" ] || { kill -KILL -- "-$backend"; wait "$backend"; }
	rm -rf "$dir"
} 2>/dev/null
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Put before a command: it dies when this script does.
bound=(setpriv --pdeathsig KILL --)

# last_words FILE LINES TITLE
last_words() {
	[ -s "$1" ] || return 0
	printf -- '--- %s, last lines:\n' "$3"
	tail -n "$2" "$1" | tr -d '\r'
}

running() { kill -0 "$1" 2>/dev/null; }	# bash reaps, so this is false for a zombie
gone() { ! running "$1"; }

# within SECONDS COMMAND...: until the command succeeds
within() {
	local tenths=$(($1 * 10))
	shift
	until "$@"; do
		((tenths-- > 0)) || return 1
		sleep 0.1
	done
}

listening_or_dead() { [ -S "$1" ] || gone "$backend"; }

# start_backend SOCKET COMMAND...: and wait until it listens
start_backend() {
	local socket=$1 status
	shift
	"${bound[@]}" setsid "$@" >"$dir/backend.log" 2>&1 </dev/null &
	backend=$!
	within 20 listening_or_dead "$socket" || fail 'the back end made no socket within 20 s.'
	running "$backend" && return
	wait "$backend"
	status=$?
	backend=''
	fail "the back end ended with status $status before anybody connected."
}

# stop_backend SOCKET [any]: with SIGTERM, after which it leaves with status 0 and without its
# socket, if that matters
stop_backend() {
	local status
	running "$backend" || [ "${2-}" = any ] || fail 'the back end did not wait for the next connection.'
	kill -TERM "$backend" 2>/dev/null
	within 10 gone "$backend" || fail 'the back end did not end within 10 s of SIGTERM.'
	wait "$backend"
	status=$?
	backend=''
	[ "${2-}" != any ] || return 0
	[ $status -eq 0 ] || fail "after SIGTERM the back end ended with status $status."
	[ ! -e "$1" ] || fail 'the back end left its socket behind.'
}
