#!/bin/sh
# SPDX-License-Identifier: MIT
# What `make install` leaves must work for somebody else: package.sh BUILDDIR SOURCEDIR
#
# TAP. Installs into a scratch folder; looks at names, builds a program against
# it both ways, and compiles every header alone as C11 and as C++17, and beside
# the kernel's own virtio headers in either order.
set -u

build=$1
source=$2
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
count=0
bad=0

check() { # check WHAT COMMAND...: one case
	what=$1
	shift
	count=$((count + 1))
	if "$@" >"$stage/log" 2>&1; then
		echo "ok $count - $what"
	else
		echo "not ok $count - $what"
		sed 's/^/# /' "$stage/log"
		bad=1
	fi
}


headers_alone() {
	for header in "$inc"/virtq/*.h "$inc"/virtq/spec/*.h; do
		echo "#include \"$header\"" >"$stage/one.c"
		echo "int unused;" >>"$stage/one.c"
		cp "$stage/one.c" "$stage/one.cpp"
		cc -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$inc" -fsyntax-only "$stage/one.c" &&
			c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror -I"$inc" -fsyntax-only \
				"$stage/one.cpp" || return 1
	done
}

headers_beside_kernel() {
	kernel='#include <linux/virtio_ring.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/vhost.h>'
	ours='#include <virtq/virtq.h>
#include <virtq/spec/vhost_user.h>'
	printf '%s\n%s\nint unused;\n' "$kernel" "$ours" >"$stage/a.c"
	printf '%s\n%s\nint unused;\n' "$ours" "$kernel" >"$stage/b.c"
	cc -std=gnu11 -Wall -Wextra -Werror -I"$inc" -fsyntax-only "$stage/a.c" "$stage/b.c"
}

program() { # program static|shared: the ring example, built and run
	if [ "$1" = static ]; then
		flags="$lib/libvirtq.a $(pkg-config --libs $(pkg-config --print-requires-private virtq)) -pthread"
	else
		flags=$(pkg-config --libs virtq)
	fi
	# shellcheck disable=SC2086
	cc -std=c11 $(pkg-config --cflags virtq) "$source/examples/ring.c" -o "$stage/ring" $flags &&
		LD_LIBRARY_PATH=$lib "$stage/ring" && LD_LIBRARY_PATH=$lib "$stage/ring" packed
}

DESTDIR=$stage meson install -C "$build" --no-rebuild >"$stage/install.log" 2>&1 || {
	cat "$stage/install.log"
	echo "not ok 1 - install"
	exit 1
}
pc=$(find "$stage" -name virtq.pc)
lib=$(dirname "$(dirname "$pc")")
tool=$(find "$stage" -path '*/bin/virtq')
inc=$(dirname "$(find "$stage" -path '*/virtq/virtq.h')")
inc=${inc%/virtq}
PKG_CONFIG_PATH=$(dirname "$pc")
PKG_CONFIG_SYSROOT_DIR=$stage
export PKG_CONFIG_PATH

check "shared library has a soname" sh -c "readelf -d '$lib/libvirtq.so' | grep -q 'libvirtq.so.0'"
check "shared library exports virtq_ names only" sh -c \
	"nm -D --defined-only '$lib/libvirtq.so' | grep -vE ' virtq_| VIRTQ_0' | awk 'NF' | { ! grep .; }"
check "static library has virtq_ names only" sh -c \
	"nm '$lib/libvirtq.a' | grep -E ' [TDBRVWC] ' | grep -v ' virtq_' | { ! grep .; }"
check "no relocations are left in text" sh -c "readelf -d '$lib/libvirtq.so' | { ! grep TEXTREL; }"
check "each header compiles alone, C11 and C++17" headers_alone
check "headers agree with the kernel's, in either order" headers_beside_kernel
check "tool runs and says its version" sh -c "LD_LIBRARY_PATH='$lib' '$tool' --version | grep -q 'virtq 0'"
for name in virtq virtq-serve virtq-stats virtq-resize virtq-probe virtq-copy; do
	if command -v scdoc >/dev/null; then
		check "man page $name" test -n "$(find "$stage" -name "$name.1*")"
	fi
done
check "JSON description names an installed program" python3 -c "
import glob, json, os, sys
path, = glob.glob('$stage/**/50-virtq-blk.json', recursive=True)
sys.exit(not os.path.exists('$stage' + json.load(open(path))['binary']))"
# pkg-config prefixes what it prints with the sysroot; liburing is the system's own.
export PKG_CONFIG_SYSROOT_DIR
check "a program builds and runs with the shared library" program shared
PKG_CONFIG_SYSROOT_DIR=$stage check "a program builds and runs with the static library" program static
echo "1..$count"
exit $bad
