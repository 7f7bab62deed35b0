#!/bin/sh
# SPDX-License-Identifier: MIT
# Make a static library whose only global names are the public ones: link the
# objects of ARCHIVE into one and make what is hidden local.
#
#   one-object.sh OUTPUT.a ARCHIVE.a
#
# Without this, names such as error_set() would meet those of a program that
# links libvirtq.a.
set -eu
out=$1 in=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
${LD:-ld} -r --whole-archive "$in" -o "$work/virtq.o"
${OBJCOPY:-objcopy} --localize-hidden "$work/virtq.o"
rm -f "$out"
${AR:-ar} rcs "$out" "$work/virtq.o"
