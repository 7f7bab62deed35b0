#!/bin/sh
# SPDX-License-Identifier: MIT
# Build optimised and measure: what `make bench` does.
#
# usage: bench/run.sh [--quick] [--out DIR]
#
#   --quick     about a minute instead of several
#   --out DIR   keep every sample there as TSV
#
# Environment:
#   VIRTQ_REFERENCE   a program that takes --batch B --buffers N --cpu C and
#                     prints 'ns_per_buffer X': another ring to stand beside ours
#
# Installs nothing; tools/setup.sh bench does. Docs: docs/bench.md.
set -eu
cd "$(dirname "$0")/.."

quick=
out=
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=1 ;;
	--out)
		[ $# -gt 1 ] || { echo 'run.sh: --out needs a directory' >&2; exit 2; }
		out=$2
		shift
		;;
	-h|--help) sed -n '3,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) echo "run.sh: unknown option '$1'; try --help" >&2; exit 2 ;;
	esac
	shift
done

build=build-bench
if [ ! -f $build/build.ninja ]; then
	meson setup $build --buildtype=release -Db_ndebug=true >/dev/null
fi
log=$(ninja -C $build bench/ring bench/blk cli/virtq 2>&1) || {
	echo "$log" >&2
	exit 1
}
[ -z "$out" ] || mkdir -p "$out"

echo "# libvirtq $(git describe --always --dirty 2>/dev/null || echo '(no git)'), release build," \
	"$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
	"$(nproc) processors, Linux $(uname -r), load $(cut -d' ' -f1 /proc/loadavg)"

set --
[ -z "$quick" ] || set -- "$@" --quick
[ -z "${VIRTQ_REFERENCE:-}" ] || set -- "$@" --reference "$VIRTQ_REFERENCE"
[ -z "$out" ] || set -- "$@" --tsv "$out/ring.tsv" --json "$out/ring.json"
$build/bench/ring "$@"

echo
set -- --build $build
[ -z "$quick" ] || set -- "$@" --rounds 3 --seconds 0.3
python3 bench/blk.py "$@" ${out:+--tsv "$out/blk.tsv"}
echo
echo '# the same, with a client that sleeps until it is called'
python3 bench/blk.py "$@" --notify ${out:+--tsv "$out/blk-notify.tsv"}
