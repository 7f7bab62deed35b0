# What the guest scripts share: parameters, progress and failure. Sourced by busybox sh.
# shellcheck shell=sh

# say WORDS...: one line on the console, with the seconds since boot.
say() { printf '[%s] %s\n' "$(cut -d ' ' -f 1 /proc/uptime)" "$*"; }

# fail REASON...: end the test; the reason goes into the GUEST-RESULT line.
fail() {
	say "FAILED: $*"
	echo "$*" >/run/reason
	exit 1
}

# run COMMAND...: say it and do it; its failure is the test's.
run() {
	say "$*"
	"$@" || fail "'$*' ended with status $?"
}

# param NAME [DEFAULT]: the value of virtq.NAME on the kernel command line.
param() {
	for word in $(cat /proc/cmdline); do
		case $word in
		"virtq.$1="*) echo "${word#*=}"; return ;;
		esac
	done
	echo "${2-}"
}

# expect WHAT ACTUAL WANTED: compare; an empty WANTED asks for nothing.
expect() {
	if [ -z "$3" ]; then
		say "$1: $2"
	elif [ "$2" = "$3" ]; then
		say "$1: $2, as asked"
	else
		fail "$1 is '$2' and should be '$3'"
	fi
}

# wait_for SECONDS PATH
wait_for() {
	tenths=$(($1 * 10))
	until [ -e "$2" ]; do
		[ $((tenths -= 1)) -gt 0 ] || fail "$2 did not appear within $1 s"
		usleep 100000
	done
}
