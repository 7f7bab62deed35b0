#!/bin/sh
# SPDX-License-Identifier: MIT
# Draw what bench/ring measured, the ratios to the floor and to the references, or
# what bench/driver measured, the time at the driver end.
#
# usage: bench/plot.sh FILE.TSV DIR
#
#   FILE.TSV    written by bench/ring --tsv or bench/driver --tsv, or bench/run.sh --out
#   DIR         receives bench-ring-one.svg, bench-ring-ends.svg, bench-ring-two.svg,
#               one for each mode that the file has; or bench-driver.svg
#
# Needs gnuplot (Debian: gnuplot-nox). Draws nothing that is not in the file.
set -eu
case ${1:-} in
-h|--help) sed -n '3,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
[ $# = 2 ] || { echo "plot.sh: takes a TSV file and a directory; try --help" >&2; exit 2; }
tsv=$1
dir=$2
command -v gnuplot >/dev/null || {
	echo 'plot.sh: gnuplot is missing; Debian has gnuplot-nox' >&2
	exit 1
}
case $(head -n 1 "$tsv") in
'mode	batch	chain	what	part	median_ns	'*) program=ring ;;
'layout	shape	batch	way	figure	median_ns	'*) program=driver ;;
*) echo "plot.sh: $tsv was not written by bench/ring or bench/driver" >&2; exit 1 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dir"

# The rows of a block of bars, a column per layout, of value[row, layout]. What the file
# lacks stays "-", which gnuplot leaves out; a row of nothing else is left out here.
tell='
	function tell(rows, count,    r, i, n, v, line, some, layout) {
		n = split("split packed split-in-order packed-in-order", layout, " ")
		for (r = 1; r <= count; r++) {
			line = "\"" rows[r] "\""
			some = 0
			for (i = 1; i <= n; i++) {
				v = value[rows[r], layout[i]]
				some += v != ""
				line = line "\t" (v == "" ? "-" : v)
			}
			if (some) print line
		}
	}'

# One block of bars: a row per batch and chain; column $3 is the ratio.
bars() {	# mode part column
	awk -F '\t' -v mode="$1" -v part="$2" -v column="$3" "$tell"'
	NR == 1 { for (i = 1; i <= NF; i++) if ($i == column) at = i; next }
	$1 == mode && $5 == part && at && $at > 0 {
		row = $3 " \303\227" $2
		if (!(row in seen)) { seen[row] = 1; rows[++count] = row }
		value[row, $4] = $at
	}
	END { tell(rows, count) }' "$tsv"
}

# The same of bench/driver: a row per way, as far as they were measured; the column is ns.
ways() {	# shape batch
	awk -F '\t' -v shape="$1" -v batch="$2" "$tell"'
	BEGIN {
		ways = split("bare bare-kept pool-recycle pool-rebuild pool-resize pool-alloc " \
			     "send-again send-new send-new-map", way, " ")
	}
	$2 == shape && $3 == batch && $5 == "driver" { value[$4, $1] = $6 }
	END { tell(way, ways) }' "$tsv"
}

line="1 with lines linecolor rgb '#555555' dashtype 2 notitle,"

draw() {	# name title [panel-title file]...
	name=$1
	title=$2
	shift 2
	{
		echo "set terminal svg size 960,$((60 + 280 * $# / 2)) font 'sans-serif,12'" \
			"background rgb 'white'"
		echo "set output '$dir/bench-$name.svg'"
		cat <<-'END'
		set style data histograms
		set style histogram clustered gap 1
		set style fill solid 0.85 noborder
		set datafile separator "\t"
		set datafile missing "-"
		set grid ytics linecolor rgb "#dddddd"
		set border 3
		set tics nomirror
		set yrange [0:*]
		set offsets 0, 0, graph 0.2, 0
		set xtics font ",10"
		set key top left horizontal noenhanced font ",10"
		set linetype 1 linecolor rgb "#1b6ca8"
		set linetype 2 linecolor rgb "#d1713a"
		set linetype 3 linecolor rgb "#8fbfe0"
		set linetype 4 linecolor rgb "#efc3a4"
		END
		echo "set multiplot layout $(($# / 2)),1 title \"$title\""
		while [ $# -gt 1 ]; do
			echo "set title \"$1\" font ',12'"
			echo "plot $line '$2' using 2:xtic(1) title 'split' linetype 1," \
				"'' using 3 title 'packed' linetype 2," \
				"'' using 4 title 'split in order' linetype 3," \
				"'' using 5 title 'packed in order' linetype 4"
			shift 2
		done
		echo 'unset multiplot'
	} >"$work/script"
	gnuplot "$work/script"
	echo "$dir/bench-$name.svg"
}

if [ $program = driver ]; then
	line=
	set --
	for panel in '64 1' '64 32' '16x4k 32'; do
		file="$work/driver.${panel% *}.${panel#* }"
		ways "${panel% *}" "${panel#* }" >"$file"
		[ -s "$file" ] || continue
		case $panel in
		64*) what="one element, batch ${panel#* }" ;;
		*) what="16 elements of 4 KiB, batch ${panel#* }" ;;
		esac
		set -- "$@" "$what" "$file"
	done
	[ $# -gt 0 ] || { echo "plot.sh: $tsv has nothing that is drawn" >&2; exit 1; }
	draw driver 'The driver end alone: ns a buffer, no copy (less is better)' "$@"
	exit 0
fi

made=0
for mode in one ends two; do
	set --
	i=0
	for part in all driver device; do
		for column in to_reference to_reference2 to_floor; do
			i=$((i + 1))
			bars $mode $part $column >"$work/$mode.$i"
			[ -s "$work/$mode.$i" ] || continue
			case $column in
			to_reference) what='times the reference' ;;
			to_reference2) what='times the second reference' ;;
			to_floor) what='times the floor' ;;
			esac
			[ $part = all ] || what="$part end alone, $what"
			set -- "$@" "$what" "$work/$mode.$i"
		done
	done
	[ $# -gt 0 ] || continue
	case $mode in
	one) title='A buffer there and back on one thread' ;;
	ends) title='A buffer at each end alone, on one thread' ;;
	two) title='A buffer there and back across two processors' ;;
	esac
	draw ring-$mode "$title (chain × batch; less is better)" "$@"
	made=1
done
[ $made = 1 ] || { echo "plot.sh: $tsv has no ratios" >&2; exit 1; }
