#!/bin/sh
# SPDX-License-Identifier: MIT
# Run a test program under valgrind: valgrind.sh PROGRAM [arguments]
set -eu

command -v valgrind >/dev/null || {
	echo 'skipped: valgrind is not installed'
	exit 77
}
# One thread runs at a time there: without a fair turn, one that looks for work again and again
# keeps the others out for minutes.
exec valgrind --quiet --fair-sched=yes --error-exitcode=1 \
	--leak-check=full --errors-for-leak-kinds=definite "$@"
