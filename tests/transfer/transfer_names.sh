#!/bin/sh
# SPDX-License-Identifier: MIT
# What the freestanding part of the transfers wants from outside: nothing but
# what a compiler calls by itself.
#
#   transfer_names.sh ARCHIVE
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
${LD:-ld} -r --whole-archive "$1" -o "$work/core.o"
${NM:-nm} "$work/core.o" | grep -q ' T virtq_transfer_send$' || {
	echo "no transfers in $1"
	exit 1
}
wanted=$(${NM:-nm} -u "$work/core.o" | awk '{ print $2 }' |
	grep -vxE 'memcpy|memset|memmove|memcmp|_GLOBAL_OFFSET_TABLE_' || true)
if [ -n "$wanted" ]; then
	echo "names from outside:" $wanted
	exit 1
fi
