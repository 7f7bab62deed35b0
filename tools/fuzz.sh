#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds and runs the fuzz targets of tests/fuzz (docs/fuzzing.md).
#
#   tools/fuzz.sh run [TARGET...]        look for inputs that break something
#   tools/fuzz.sh coverage [TARGET...]   what the stored inputs reach in src/ring, and what not
#   tools/fuzz.sh minimise [TARGET...]   store in tests/fuzz/corpus what is worth keeping
#   tools/fuzz.sh build                  only build
#
# FUZZ_SECONDS  how long each target runs (30)
# FUZZ_JOBS     processes for each target (one per processor, at least 2); every
#               second one runs with the library's own assertions
# BUILD         prefix of the build folders (build)
#
# New inputs are collected in BUILD-fuzz/corpus, those that broke something in
# BUILD-fuzz/crashes. "run" fails if there was one.
set -eu

cd "$(dirname "$0")/.."
all='blk device driver indirect vu_msg vu_backend vu_frontend'
build=${BUILD:-build}-fuzz
checked=$build-checked
covered=$build-coverage
seconds=${FUZZ_SECONDS:-30}
processors=$(nproc)
jobs=${FUZZ_JOBS:-$((processors > 2 ? processors : 2))}

say() { printf 'fuzz.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }
usage() { sed -n '3,/^set -eu/p' "$0" | sed -n 's/^# \{0,1\}//p'; }

# make_build FOLDER C-FLAGS MESON-OPTIONS...
make_build() {
	folder=$1 flags=$2
	shift 2
	[ -f "$folder/build.ninja" ] && return
	CC=clang meson setup "$folder" -Doptimization=1 -Ddebug=true "-Dc_args=$flags" "$@" \
		>"$folder.setup.log" 2>&1 || {
		cat "$folder.setup.log" >&2
		die "cannot set up $folder"
	}
	mv "$folder.setup.log" "$folder/setup.log"
}

# compile FOLDER PROGRAMS
compile() {
	# shellcheck disable=SC2086
	ninja -C "$1" --quiet $2 >"$1/ninja.log" 2>&1 || {
		cat "$1/ninja.log" >&2
		die "cannot build in $1"
	}
}

build_targets() {
	flags='-fsanitize=fuzzer-no-link -fno-sanitize-recover=all'
	set -- -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false
	make_build "$build" "$flags" "$@" -Dchecked=false
	make_build "$checked" "$flags" "$@" -Dchecked=true
	programs=
	for target in $targets; do
		programs="$programs tests/fuzz/fuzz-$target"
	done
	for folder in "$build" "$checked"; do
		compile "$folder" "$programs"
	done
}

longest() {
	case $1 in
	device|driver) echo 1024 ;;
	*) echo 512 ;;
	esac
}

# The processes of one target, side by side over one corpus.
start_jobs() {
	target=$1
	mkdir -p "$build/corpus/$target" "$build/crashes/$target" "$build/logs"
	pids=
	job=1
	while [ "$job" -le "$jobs" ]; do
		program=$build/tests/fuzz/fuzz-$target
		[ $((job % 2)) -eq 1 ] || program=$checked/tests/fuzz/fuzz-$target
		"$program" -max_total_time="$seconds" -max_len="$(longest "$target")" \
			-len_control=0 -timeout=20 -rss_limit_mb=2048 -reload=5 \
			-print_final_stats=1 -artifact_prefix="$build/crashes/$target/" \
			"$build/corpus/$target" "tests/fuzz/corpus/$target" \
			>"$build/logs/$target.$job.log" 2>&1 &
		pids="$pids $!"
		job=$((job + 1))
	done
}

# Wait for them. What they found is in the logs; the status says whether all is well.
await_jobs() {
	target=$1 broken=0
	job=1
	for pid in $pids; do
		wait "$pid" || {
			broken=1
			log=$build/logs/$target.$job.log
			program=$build/tests/fuzz/fuzz-$target
			[ $((job % 2)) -eq 1 ] || program=$checked/tests/fuzz/fuzz-$target
			say "$target: process $job ended badly; from $log:"
			grep -m 1 -e 'not so:' "$log" >&2 || :
			grep -m 1 -A 12 -e 'ERROR:' -e 'runtime error:' "$log" >&2 || tail -n 5 "$log" >&2
			sed -n "s|.*Test unit written to \(.*\)|to reproduce: $program \1|p" "$log" >&2
		}
		job=$((job + 1))
	done
	pids=
	return $broken
}

# One line: what the processes of a target did.
report() {
	target=$1
	cat "$build"/logs/"$target".*.log | awk -v target="$target" -v seconds="$seconds" -v jobs="$jobs" '
		/^stat::number_of_executed_units:/ { runs += $2 }
		match($0, /^#[0-9]+/) { last = substr($0, 2, RLENGTH - 1) }
		/ cov: / {
			for (i = 1; i < NF; i++) {
				if ($i == "cov:" && $(i + 1) > cov) cov = $(i + 1)
				if ($i == "ft:" && $(i + 1) > ft) ft = $(i + 1)
			}
		}
		/Test unit written to/ { found++ }
		END {
			printf "%s: %d executions in %d s by %d processes; ", target, runs, seconds, jobs
			printf "%d edges and %d features covered; %d inputs that break something\n",
				cov, ft, found
		}'
}

run() {
	status=0
	build_targets
	# Freed memory stays out of use for long enough, and is not most of all memory.
	export ASAN_OPTIONS="${ASAN_OPTIONS:-quarantine_size_mb=16:malloc_context_size=8}"
	trap 'kill $pids 2>/dev/null; exit 130' INT TERM
	for target in $targets; do
		rm -f "$build/logs/$target".*.log
		start_jobs "$target"
		await_jobs "$target" || status=1
		report "$target"
	done
	return $status
}

# How many inputs are stored of each target, besides those with a name of their own.
most() {
	case $1 in
	device) echo 45 ;;
	vu_backend|blk) echo 35 ;;
	driver) echo 30 ;;
	vu_msg) echo 8 ;;
	*) echo 15 ;;
	esac
}

# merge TARGET INTO FROM...: the inputs that are needed to reach every edge that FROM reach
merge() {
	target=$1 into=$2
	shift 2
	rm -rf "$into" "$build/merge.control"
	mkdir -p "$into"
	"$build/tests/fuzz/fuzz-$target" -set_cover_merge=1 -use_counters=0 -max_len=8192 \
		-merge_control_file="$build/merge.control" "$into" "$@" >"$build/merge.log" 2>&1 || {
		tail -n 20 "$build/merge.log" >&2
		die "cannot minimise the corpus of $target"
	}
	[ -n "$(find "$into" -type f)" ] || die "nothing is left of the corpus of $target"
}

# Out of a control file of libFuzzer: at most so many names, those that add most edges.
choose() {
	awk -v most="$1" '
		NR == 1 { count = $1; next }
		NR == 2 { next }
		NR <= count + 2 { name[NR - 3] = $0; next }
		$1 == "FT" { edges[$2] = $0; gain[$2] = NF - 2 }
		END {
			while (most > 0) {
				best = ""
				for (i in gain)
					if (best == "" || gain[i] > gain[best]) best = i
				if (best == "" || !gain[best]) break
				# The gain may be less by now: it was counted before others were chosen.
				n = split(edges[best], e, " ")
				fresh = 0
				for (i = 3; i <= n; i++) fresh += !(e[i] in have)
				if (fresh < gain[best]) { gain[best] = fresh; continue }
				for (i = 3; i <= n; i++) have[e[i]]
				print name[best]
				delete gain[best]
				most--
			}
		}
	' "$2"
}

# Few inputs that reach nearly every edge, in place of those stored; what has a name stays.
minimise() {
	build_targets
	for target in $targets; do
		stored=tests/fuzz/corpus/$target fresh=$build/minimised/$target
		mkdir -p "$stored" "$build/corpus/$target"
		merge "$target" "$fresh" "$stored" "$build/corpus/$target"
		# Once more, only to learn which edges each of the few reaches.
		merge "$target" "$fresh.again" "$fresh"
		find "$stored" -type f | grep -E '/[0-9a-f]{40}$' | xargs -r rm --
		choose "$(most "$target")" "$build/merge.control" | xargs -r cp -t "$stored" --
		say "$target: $(find "$stored" -type f | wc -l) inputs, $(cat "$stored"/* | wc -c) bytes"
	done
}

coverage() {
	make_build "$covered" '-fprofile-instr-generate -fcoverage-mapping' \
		-Dc_link_args=-fprofile-instr-generate -Doptimization=0
	rm -rf "$covered/profiles"
	mkdir -p "$covered/profiles"
	objects=
	for target in $targets; do
		program=tests/fuzz/replay-$target
		compile "$covered" "$program"
		program=$covered/$program
		set -- "tests/fuzz/corpus/$target"
		[ ! -d "$build/corpus/$target" ] || set -- "$@" "$build/corpus/$target"
		LLVM_PROFILE_FILE=$covered/profiles/$target.profraw "$program" "$@" \
			>"$covered/$target.log" 2>&1 || {
			tail -n 5 "$covered/$target.log" >&2
			die "$program failed"
		}
		objects="$objects -object $program"
	done
	llvm-profdata merge -sparse "$covered"/profiles/*.profraw -o "$covered/merged.profdata"
	# What is asked about: the rings, look-ups in memory, vhost-user. Each line once,
	# however many programs and layouts it was compiled for.
	# shellcheck disable=SC2086
	llvm-cov show ${objects# -object } "-instr-profile=$covered/merged.profdata" \
		-show-instantiations=false -show-branches=count \
		-ignore-filename-regex='/(tests|include|base|dev|engine)/' \
		>"$covered/coverage.txt" 2>"$covered/show.log"
	awk -v everything="$covered/coverage.txt" '
		/^\/.*:$/ {
			file = $0
			sub(/:$/, "", file)
			sub(/^.*\/src\//, "src/", file)
			if (file ~ /^src\/(ring|mem\/map\.|transport\/vu_)/) files[++count] = file
			else file = ""
			next
		}
		file == "" { next }
		/^ *[0-9]+\| +[0-9.]+[kMG]?\|/ {
			lines[file]++
			if ($0 ~ /^ *[0-9]+\| +0\|/) {
				text = $0
				sub(/^ *[0-9]+\| +0\|/, "", text)
				missed_lines[file]++
				if (asked(file) && text !~ /^[ \t]*}?$/) missed = missed sprintf("%s:%d:%s\n", file, $1, text)
			}
			next
		}
		/Branch \([0-9]+:[0-9]+\): \[True: / {
			branches[file] += 2
			zeros = gsub(/: 0[],]/, "&")
			missed_branches[file] += zeros
			if (zeros && asked(file)) {
				text = $0
				sub(/^.*Branch \(/, "", text)
				split(text, at, ":")
				sub(/^[0-9]+:/, "", text)
				sub(/\)/, "", text)
				missed = missed sprintf("%s:%d:\tbranch at column %s\n", file, at[1], text)
			}
		}
		# Whose gaps are listed; for the others the file above tells.
		function asked(name) { return name ~ /^src\/(ring|mem)|vu_msg/ }
		function line(name, all, gone, ways, untaken) {
			printf "%-30s %6d lines, %5.1f %% reached %6d branches, %5.1f %% taken\n", name,
				all, all ? 100 * (all - gone) / all : 100,
				ways, ways ? 100 * (ways - untaken) / ways : 100
		}
		END {
			printf "Not reached in src/ring, src/mem/map.[ch] and vu_msg (the rest: %s):\n%s\n",
				everything, missed
			for (i = 1; i <= count; i++) {
				f = files[i]
				if (!lines[f]) continue
				line(f, lines[f], missed_lines[f], branches[f], missed_branches[f])
				if (f !~ /^src\/ring/) continue
				all += lines[f]; gone += missed_lines[f]
				ways += branches[f]; untaken += missed_branches[f]
			}
			line("src/ring", all, gone, ways, untaken)
		}
	' "$covered/coverage.txt"
}

command=${1:-run}
[ $# -eq 0 ] || shift
targets=${*:-$all}
for target in $targets; do
	[ -f "tests/fuzz/$target.c" ] || die "there is no target '$target'; there are: $all"
done
case $command in
run) run ;;
coverage) coverage ;;
minimise) minimise ;;
build) build_targets ;;
-h|--help) usage ;;
*) usage >&2; exit 2 ;;
esac
