#!/bin/sh
# SPDX-License-Identifier: MIT
# Run a test program under valgrind: valgrind.sh PROGRAM [arguments]
set -eu

command -v valgrind >/dev/null || {
	echo 'skipped: valgrind is not installed'
	exit 77
}
exec valgrind --quiet --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite "$@"
