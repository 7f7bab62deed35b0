#!/bin/sh
# SPDX-License-Identifier: MIT
# Build optimised and measure: what `make bench` does.
#
# usage: bench/run.sh [--quick] [--ring] [--driver] [--blk] [--fifo] [--build DIR] [--out DIR]
#
#   --quick      a few minutes instead of half an hour
#   --ring       only the rings, no disks
#   --driver     only pools and transfers beside the bare ring
#   --blk        only disks; several of the three may be given
#   --fifo       measure rings, pools and transfers in front of everything else that runs (chrt -f)
#   --build DIR  build there (build-bench)
#   --out DIR    keep every sample there as TSV, and the plots
#
# Environment: other rings, to stand beside ours in the same rounds; each may
# name two programs, with a space between. All print 'ns_per_buffer X'.
#   VIRTQ_REFERENCE         --batch B --buffers N --cpu C: both ends on one thread;
#                           with --no-warm too, its instructions are counted
#   VIRTQ_REFERENCE_TWO     --batch B --buffers N --cpus A,B: an end on each processor
#   VIRTQ_REFERENCE_DEVICE  --batch B --buffers N --cpu C --chain 1|3|3i: a device end
#
# Installs nothing; tools/setup.sh bench does. Docs: docs/bench.md.
set -eu
cd "$(dirname "$0")/.."

quick=
only=
fifo=
out=
build=build-bench
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=1 ;;
	--ring|--driver|--blk) only="$only $1" ;;
	--fifo) fifo='chrt -f 1' ;;
	--build|--out)
		[ $# -gt 1 ] || { echo "run.sh: $1 needs a directory" >&2; exit 2; }
		[ "$1" = --out ] && out=$2 || build=$2
		shift
		;;
	-h|--help) sed -n '3,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) echo "run.sh: unknown option '$1'; try --help" >&2; exit 2 ;;
	esac
	shift
done

if [ ! -f "$build/build.ninja" ]; then
	meson setup "$build" --buildtype=release -Db_ndebug=true >/dev/null
fi
log=$(ninja -C "$build" bench/ring bench/driver bench/blk bench/wake cli/virtq 2>&1) || {
	echo "$log" >&2
	exit 1
}
[ -z "$out" ] || mkdir -p "$out"

echo "# libvirtq $(git describe --always --dirty 2>/dev/null || echo '(no git)'), release build," \
	"$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
	"$(nproc) processors, Linux $(uname -r), load $(cut -d' ' -f1 /proc/loadavg)"

measure_ring() {
	set --
	[ -z "$quick" ] || set -- "$@" --quick
	for program in ${VIRTQ_REFERENCE:-}; do set -- "$@" --reference "$program"; done
	for program in ${VIRTQ_REFERENCE_TWO:-}; do set -- "$@" --reference-two "$program"; done
	for program in ${VIRTQ_REFERENCE_DEVICE:-}; do set -- "$@" --reference-device "$program"; done
	[ -z "$out" ] || set -- "$@" --tsv "$out/ring.tsv" --json "$out/ring.json"
	$fifo "$build/bench/ring" "$@"
	[ -z "$out" ] || bench/plot.sh "$out/ring.tsv" "$out" || :

	echo
	if command -v callgrind_annotate >/dev/null; then
		set -- --batch 1,8,32 --helpers
		# The first reference, if it can be counted.
		for program in ${VIRTQ_REFERENCE:-}; do
			! "$program" --no-warm --batch 1 --buffers 1 --cpu 0 >/dev/null 2>&1 ||
				set -- "$@" --reference "$program"
			break
		done
		echo '# instructions per buffer'
		python3 bench/instructions.py "$build/bench/ring" "$@" \
			${out:+--tsv "$out/instructions.tsv"}
		python3 bench/instructions.py "$build/bench/ring" --batch 32 --chain 3 --helpers
		python3 bench/instructions.py "$build/bench/ring" --batch 32 --chain 3i --helpers
	else
		echo '# no instructions counted: valgrind is not installed'
	fi
}

measure_driver() {
	set --
	[ -z "$quick" ] || set -- "$@" --quick
	[ -z "$out" ] || set -- "$@" --tsv "$out/driver.tsv"
	$fifo "$build/bench/driver" "$@"
	[ -z "$out" ] || bench/plot.sh "$out/driver.tsv" "$out" || :

	echo
	if command -v callgrind_annotate >/dev/null; then
		echo '# instructions per buffer'
		python3 bench/instructions.py "$build/bench/driver" --ways all --helpers \
			${out:+--tsv "$out/driver-instructions.tsv"}
	else
		echo '# no instructions counted: valgrind is not installed'
	fi
}

measure_blk() {
	set -- --build "$build"
	[ -z "$quick" ] || set -- "$@" --quick
	[ -z "$out" ] || set -- "$@" --tsv "$out/blk.tsv"
	python3 bench/blk.py "$@"
	[ -z "$out" ] || bench/blk_plot.sh "$out/blk.tsv" "$out" || :
}

case $only in ''|*--ring*) measure_ring; echo ;; esac
case $only in ''|*--driver*) measure_driver; echo ;; esac
case $only in ''|*--blk*) measure_blk ;; esac
