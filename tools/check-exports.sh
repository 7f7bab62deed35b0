#!/bin/sh
# SPDX-License-Identifier: MIT
# Is every call that a public header declares in the library, and nothing else?
#
#   tools/check-exports.sh LIBRARY INCLUDE-FOLDER
set -eu

library=$1 include=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The preprocessor takes comments and macros out; VIRTQ_API stands in front of each call.
for header in "$include"/virtq/*.h; do
	${CC:-cc} -E -P -x c "-I$include" "$header" || exit 2
done | tr '\n' ' ' | tr ';' '\n' |
	sed -n 's/.*__attribute__((visibility("default")))//p' |
	grep -o 'virtq_[a-z0-9_]*[[:space:]]*(' | grep -o 'virtq_[a-z0-9_]*' | sort -u >"$work/declared"
${NM:-nm} -D --defined-only "$library" | awk '$2 != "A" { sub("@.*", "", $3); print $3 }' |
	sort -u >"$work/exported"
[ -s "$work/declared" ] || { echo "no declarations found in $include" >&2; exit 2; }
status=0
for name in $(comm -23 "$work/declared" "$work/exported"); do
	echo "declared and not there: $name"
	status=1
done
for name in $(comm -13 "$work/declared" "$work/exported"); do
	echo "there and not declared: $name"
	status=1
done
echo "$(wc -l <"$work/exported") calls"
exit $status
