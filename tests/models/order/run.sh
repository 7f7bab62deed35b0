#!/bin/sh
# SPDX-License-Identifier: MIT
# Explore the models of memory order with Spin, whole, and print TAP.
#
#   run.sh            all cases: with the orders of docs/ordering.md in place a model
#                     must verify; with one cut out it must find what that order prevents
#   run.sh --show N   case N, and step by step how the shortest error comes about
#
# A model that verifies must also have reached every statement in it.
set -eu
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)

# Number of the case, what must come out, model, text, switches.
list_cases()
{
	n=0
	one() {
		n=$((n + 1))
		printf '%s|%s|%s|%s|%s\n' "$n" "$1" "$2" "$2, $3" "$4"
	}
	both='-DDRIVER_POLLS -DDEVICE_POLLS'

	for model in split packed; do
		for event_idx in 0 1; do
			e="-DEVENT_IDX=$event_idx"
			mode=flags
			[ $event_idx = 0 ] || mode='event index'

			one verified $model "$mode, x86, with every order: verified" "$e"
			one verified $model "$mode, weak machine, with [C]: no kick is lost, verified" \
				"$e -DWEAK -DDRIVER_POLLS"
			one verified $model "$mode, weak machine, with [D]: no call is lost, verified" \
				"$e -DWEAK -DDEVICE_POLLS"
			one kick_lost $model \
				"$mode, x86, without [C]'s fence at the driver: lost kick found" \
				"$e -DCUT_C_DRIVER"
			one kick_lost $model \
				"$mode, x86, without [C]'s fence at the device: lost kick found" \
				"$e -DCUT_C_DEVICE"
			one kick_lost $model \
				"$mode, x86, without the device's look after arming: lost kick found" \
				"$e -DCUT_C_RECHECK"
			one call_lost $model \
				"$mode, x86, without [D]'s fence at the device: lost call found" \
				"$e -DCUT_D_DEVICE"
			one call_lost $model \
				"$mode, x86, without [D]'s fence at the driver: lost call found" \
				"$e -DCUT_D_DRIVER"
			one call_lost $model \
				"$mode, x86, without the driver's look after arming: lost call found" \
				"$e -DCUT_D_RECHECK"
		done
		e=-DEVENT_IDX=0
		one verified $model 'weak machine, with [A] and [B]: data are never old, verified' \
			"$e -DWEAK $both"
		one device_saw_old_data $model \
			"weak machine, without [A]'s release: device sees old data, found" \
			"$e -DWEAK $both -DCUT_A_RELEASE"
		one device_saw_old_data $model \
			"weak machine, without [A]'s acquire: device sees old data, found" \
			"$e -DWEAK $both -DCUT_A_ACQUIRE"
		one driver_saw_old_data $model \
			"weak machine, without [B]'s release: driver sees old data, found" \
			"$e -DWEAK $both -DCUT_B_RELEASE"
		one driver_saw_old_data $model \
			"weak machine, without [B]'s acquire: driver sees old data, found" \
			"$e -DWEAK $both -DCUT_B_ACQUIRE"
		one verified $model \
			"x86, without [A] and [B]: the machine keeps them by itself, verified" \
			"$e -DCUT_A_RELEASE -DCUT_A_ACQUIRE -DCUT_B_RELEASE -DCUT_B_ACQUIRE"
	done

	# Packed alone: lists, and a ring whose size is no power of two.
	one verified packed 'lists, three slots, event index, x86, with [C]: verified' \
		'-DEVENT_IDX=1 -DSIZE=3 -DLISTS -DONE_BY_ONE -DDRIVER_POLLS'
	one verified packed 'three slots, event index, x86, with [D]: verified' \
		'-DEVENT_IDX=1 -DSIZE=3 -DONE_BY_ONE -DDEVICE_POLLS'
	one verified packed "lists, weak machine: the head's order covers later members, verified" \
		"$e -DLISTS -DWEAK $both"
	one device_saw_old_data packed \
		"lists, weak machine, without [A]'s release: device sees old data, found" \
		"$e -DLISTS -DWEAK $both -DCUT_A_RELEASE"

	# The event structure's two halves.
	e=-DEVENT_IDX=1
	one verified packed \
		'event structure, weak machine: no flags with an older offset, verified' \
		"$e -DWEAK -DDRIVER_POLLS -DONE_IN_FLIGHT -DWATCH_EVENT"
	one offset_older_than_flags packed \
		'event structure, weak machine, without its release: older offset found' \
		"$e -DWEAK -DDRIVER_POLLS -DONE_IN_FLIGHT -DWATCH_EVENT -DCUT_EVENT_RELEASE"
	one offset_older_than_flags packed \
		'event structure, x86, read by two loads: older offset found' \
		"$e -DDRIVER_POLLS -DWATCH_EVENT -DTWO_LOADS"
	one verified packed \
		'event structure, weak machine, without release, two loads: still no kick lost, verified' \
		"$e -DWEAK -DDRIVER_POLLS -DONE_BY_ONE -DCUT_EVENT_RELEASE -DTWO_LOADS"
	one verified packed \
		'event structure, weak machine, without release, two loads: still no call lost, verified' \
		"$e -DWEAK -DDEVICE_POLLS -DONE_BY_ONE -DCUT_EVENT_RELEASE -DTWO_LOADS"
	one kick_lost packed \
		'event structure, x86, two loads and no look after arming: lost kick found' \
		"$e -DDRIVER_POLLS -DTWO_LOADS -DCUT_C_RECHECK"
}

# Make the case's program in the current folder, with these options for it.
build_case()
{
	switches=$1
	shift
	# -o3: statements are not merged, or pan would call all of a merge reached.
	# shellcheck disable=SC2086
	spin -o3 -a $switches "$here/$model.pml" >spin.log 2>&1 || return
	gcc -w -DSAFETY -DNOREDUCE -DNOBOUNDCHECK -DMEMLIM=4000 "$@" -o pan pan.c >gcc.log 2>&1
}

# Why pan.log is not what was wanted; nothing if it is.
judge()
{
	if ! grep -qs '^State-vector' pan.log; then
		echo 'there was no exploration, or it did not end:'
		tail -n 5 spin.log gcc.log pan.log 2>/dev/null || :
	elif grep -q 'max search depth too small\|out of memory' pan.log; then
		echo "the exploration was cut short:"
		grep 'max search depth\|out of memory' pan.log
	elif [ "$want" != verified ]; then
		grep -q "^pan:1: assertion violated *!($want)" pan.log || {
			echo "expected a violation of !($want), got:"
			grep '^pan:1\|errors:' pan.log
		}
	elif ! grep -q 'errors: 0$' pan.log; then
		grep '^pan:1\|errors:' pan.log
	else
		# Ends of endless loops, and the watch that never wakes, may be unreached.
		sed -n '/^unreached in proctype/,$p' pan.log |
			grep -v '"-end-"\|^unreached\|^	(\|^$\|^pan: ' | grep -v "$unreached_ok" |
			sed 's/^/never reached:/'
	fi
}

run_case()
{
	IFS='|' read -r n want model text switches
	unreached_ok=$(grep -n 'kick_lost = ' "$here/$model.pml" | cut -d: -f1)
	unreached_ok="$model.pml:$((unreached_ok - 1)),"
	mkdir "$n"
	cd "$n"
	# Compiling takes longer than exploring, but for the few large models.
	case "$want $switches" in
	*verified*EVENT_IDX=1*) set -- -O1 ;;
	*) set -- -O0 ;;
	esac
	if build_case "$switches" "$@"; then
		./pan -m1000000 -w21 >pan.log 2>&1 || :
	fi
	why=$(judge)
	if [ -z "$why" ]; then
		echo "ok $n - $text" >../"$n".tap
	else
		{ echo "not ok $n - $text"; echo "$why" | sed 's/^/# /'; } >../"$n".tap
	fi
	rm -f pan pan.?
}

show_case()
{
	IFS='|' read -r n want model text switches
	mkdir show
	cd show
	switches="$switches -DSHOW"
	build_case "$switches" -O1 -DBFS || { cat spin.log gcc.log; exit 1; }
	./pan -w21 >pan.log 2>&1 || :
	echo "$text"
	echo
	# shellcheck disable=SC2086
	[ ! -f "$model.pml.trail" ] ||
		spin -T -t -k "$model.pml.trail" $switches "$here/$model.pml" |
			grep '^ *driver\|^ *device' || :
	grep '^pan:1\|errors:' pan.log
}

for tool in spin gcc; do
	command -v $tool >/dev/null || {
		echo "$tool is missing; tools/setup.sh check installs it"
		exit 77
	}
done

if [ "${1-}" = --case ]; then
	cd "$2"
	sed -n "$3p" cases | run_case
	exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$work"
list_cases >cases

if [ "${1-}" = --show ]; then
	sed -n "${2}p" cases | show_case
	exit
fi

total=$(wc -l <cases)
echo "1..$total"
cut -d'|' -f1 cases | xargs -P "$(nproc)" -I '{}' sh "$here/run.sh" --case "$work" '{}' || :
cd "$work"
for n in $(seq "$total"); do
	cat "$n.tap" 2>/dev/null || echo "not ok $n - case $n left no result"
done | tee result
! grep -q '^not ok' result
