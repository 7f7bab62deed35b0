#!/bin/sh
# SPDX-License-Identifier: MIT
# Draw what bench/blk.py --tsv FILE has written.
#
# usage: bench/blk_plot.sh FILE DIRECTORY
#
# Makes bench-blk-iops.svg, bench-blk-cpu.svg and bench-blk-latency.svg there, of the part
# 'matrix': a panel for each kind of access and size, medians over the rounds.
set -eu
[ $# = 2 ] || { sed -n '4,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
tsv=$1
dir=$2
command -v gnuplot >/dev/null || { echo 'blk_plot.sh: gnuplot is not installed' >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# One line a depth: depth and the median of the column named, of one server.
medians() {	# rw bs server column
	awk -F '\t' -v rw="$1" -v bs="$2" -v server="$3" -v want="$4" '
	NR == 1 { for (i = 1; i <= NF; i++) if ($i == want) column = i; next }
	$1 == "matrix" && $2 == rw && $3 == bs && $6 == server && $column != "" {
		print $4 "\t" $column
	}' "$tsv" | sort -k1,1n -k2,2g | awk -F '\t' '
	function tell(   m) {
		if (!n) return
		m = n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
		print depth "\t" m
		n = 0
	}
	$1 != depth { tell(); depth = $1 }
	{ v[++n] = $2 }
	END { tell() }'
}

kinds='randread randwrite read write'
sizes='512 4096 65536'
for column in iops server_cpu_us p50_us p999_us; do
	for kind in $kinds; do
		for size in $sizes; do
			for server in virtq qsd fio-bare; do
				medians $kind $size $server $column \
					>"$work/$kind.$size.$server.$column"
			done
		done
	done
done
[ -s "$work/randread.4096.virtq.iops" ] ||
	{ echo "blk_plot.sh: $tsv has no matrix" >&2; exit 1; }

line() {	# file title style; nothing if there are no such numbers
	[ -s "$1" ] || return 0
	printf "%s'%s' using 1:2 title '%s' %s" "$comma" "$1" "$2" "$3"
	comma=', '
}

draw() {	# name title column [second-column]
	{
		cat <<-END
		set terminal svg size 1180,820 font 'sans-serif,11' background rgb 'white'
		set output '$dir/bench-blk-$1.svg'
		set datafile separator "\t"
		set grid ytics linecolor rgb "#dddddd"
		set border 3
		set tics nomirror
		set logscale x 2
		set xtics (1, 4, 32, 128)
		set xrange [0.8:160]
		set key at screen 0.99,0.995 right top horizontal noenhanced font ",10" samplen 2
		set style data linespoints
		set linetype 1 linecolor rgb "#1b6ca8" linewidth 2 pointtype 7 pointsize 0.6
		set linetype 2 linecolor rgb "#d1713a" linewidth 2 pointtype 7 pointsize 0.6
		set linetype 3 linecolor rgb "#555555" linewidth 1.5 pointtype 6 pointsize 0.6
		END
		if [ $# -gt 3 ]; then
			echo 'set logscale y 10'
			echo 'set format y "%g"'
		else
			echo 'set yrange [0:*]'
			echo 'set format y "%.0s%c"'
		fi
		[ "$1" != cpu ] || echo 'set format y "%g"'
		echo "set multiplot layout 3,4 title \"$2\""
		for size in $sizes; do
			for kind in $kinds; do
				echo "set title '$kind, $size bytes' font ',11'"
				comma=
				printf 'plot '
				line "$work/$kind.$size.virtq.$3" virtq 'linetype 1'
				line "$work/$kind.$size.qsd.$3" qemu-storage-daemon 'linetype 2'
				line "$work/$kind.$size.fio-bare.$3" 'fio, bare file' 'linetype 3'
				if [ $# -gt 3 ]; then
					line "$work/$kind.$size.virtq.$4" '' 'linetype 1 dashtype 3'
					line "$work/$kind.$size.qsd.$4" '' 'linetype 2 dashtype 3'
					line "$work/$kind.$size.fio-bare.$4" '' 'linetype 3 dashtype 3'
				fi
				echo
				echo 'unset key'	# one is enough
			done
		done
		echo 'unset multiplot'
	} >"$work/script"
	gnuplot "$work/script"
	echo "$dir/bench-blk-$1.svg"
}

draw iops 'Requests a second, by how many are in flight (more is better)' iops
draw cpu "Processor time of the server a request, us (less is better)" server_cpu_us
draw latency 'Latency, us: median, and dotted 99.9 % (less is better)' p50_us p999_us
