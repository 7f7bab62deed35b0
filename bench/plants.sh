#!/bin/sh
# SPDX-License-Identifier: MIT
# A benchmark that loses buffers fails: plant one buffer that is lost, comes twice
# or comes back changed, and see that bench/ring says so and exits with 1; and one
# that is lost in each way of bench/driver.
#
# usage: bench/plants.sh RING DRIVER
set -eu
ring=$1
driver=$2
failed=0
for layout in split packed split-in-order packed-in-order; do
	for mode in one ends; do
		for plant in lost twice changed; do
			status=0
			said=$("$ring" --once --mode $mode --layout $layout --plant $plant \
				--buffers 2000 2>&1 >/dev/null) || status=$?
			case $plant:$status:$said in
			lost:1:*"in flight after the last"*|lost:1:*"not every one came back"*) ;;
			twice:1:*"not due, or changed"*|changed:1:*"not due, or changed"*) ;;
			*)
				echo "$layout, mode $mode, $plant: exit $status, '$said'" >&2
				failed=1
				;;
			esac
			[ $plant = changed ] || continue
			status=0
			"$ring" --once --mode $mode --layout $layout --buffers 2000 >/dev/null || status=$?
			[ $status = 0 ] || { echo "$layout, mode $mode: fails unplanted" >&2; failed=1; }
		done
	done
done
for layout in split packed-in-order; do
	for way in bare pool-rebuild pool-recycle pool-copy send-again send-new; do
		for plant in --plant ''; do
			status=0
			said=$("$driver" --once --laps 2 --shape 64 --batch 8 --way $way \
				--layout $layout $plant 2>&1 >/dev/null) || status=$?
			case $plant:$status:$said in
			--plant:1:*"a buffer was lost"*|:0:) ;;
			*)
				echo "$layout, $way, '$plant': exit $status, '$said'" >&2
				failed=1
				;;
			esac
		done
	done
done
exit $failed
