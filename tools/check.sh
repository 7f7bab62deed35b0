#!/bin/sh
# SPDX-License-Identifier: MIT
# Build with warnings as errors, run the tests, and count them.
#
#   tools/check.sh BUILDDIR [meson test options] [-- meson setup options]
#
# Test programs that speak TAP count by case, the others as one each. The last
# line is "N passed, N failed, N skipped"; the status is 0 only without failures.
set -eu

build=$1
shift
test_options=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	test_options="$test_options $1"
	shift
done
[ $# -eq 0 ] || shift

cd "$(dirname "$0")/.."
if [ ! -f "$build/build.ninja" ]; then
	meson setup "$build" --werror -Dchecked=true "$@" >"$build.setup.log" 2>&1 || {
		cat "$build.setup.log"
		exit 1
	}
	mv "$build.setup.log" "$build/setup.log"
fi
ninja -C "$build" --quiet

# Everything but the long matrix, unless suites are named.
case $test_options in
*--suite*guest*) ;;
*) test_options="$test_options --no-suite guest-full" ;;
esac

status=0
# shellcheck disable=SC2086
meson test -C "$build" --no-rebuild --print-errorlogs $test_options || status=$?
python3 tools/count-tests.py "$build/meson-logs/testlog.json" "$status"
