#!/bin/sh
# SPDX-License-Identifier: MIT
# What the disk example reads must be the file's first 4 KiB: run-disk.sh DISK [packed]
set -eu

image=$(mktemp)
trap 'rm -f "$image"' EXIT
head -c 65536 /dev/urandom >"$image"
disk=$1
run=${MESON_EXE_WRAPPER:-}		# words; set where the disk is built for another processor
shift
# shellcheck disable=SC2086
$run "$disk" "$image" "$@" | cmp -n 4096 - "$image"
# shellcheck disable=SC2086
[ "$($run "$disk" "$image" "$@" | wc -c)" -eq 4096 ]
