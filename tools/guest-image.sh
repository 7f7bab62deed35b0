#!/bin/sh
# Makes the Linux guest of the interop tests: a kernel and an initramfs, no disk, no network.
#
# usage: tools/guest-image.sh OUTDIR [fio]
#
# Leaves OUTDIR/vmlinuz and OUTDIR/initramfs.cpio.gz. The kernel is Debian's
# linux-image-cloud-amd64, downloaded and unpacked, never installed; a
# linux-image-*.deb that already lies in OUTDIR is used instead (without a
# network, or to test with another kernel). Programs come from this machine:
# busybox-static and e2fsprogs. The scripts are those of tests/interop/guest.
#
# With the word fio also OUTDIR/initramfs-fio.cpio: the same and, behind it, fio with the 80 MB of
# libraries that Debian links it with. Not compressed: an emulated processor copies faster.
# Does nothing when everything is up to date. Exit status: 0; 77 when something it needs
# cannot be had here, with the reason on stdout; 1 when it failed.

set -eu
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

# Loaded at boot, in this order. What each needs is found and loaded first.
boot_modules='virtio_pci virtio_blk ext4'
# Only packed: a guest script may modprobe them.
more_modules=''
# Copied with the libraries they need.
programs='mke2fs mkfs.ext4 e2fsck debugfs'

say()  { printf 'guest-image.sh: %s\n' "$*" >&2; }
die()  { say "$*"; exit 1; }
skip() { printf '%s\n' "$*"; exit 77; }

[ $# -eq 1 ] || [ "$#:${2-}" = 2:fio ] || die 'usage: tools/guest-image.sh OUTDIR [fio]'
with_fio=${2-}
here=$(cd "$(dirname "$0")" && pwd)
scripts=$here/../tests/interop/guest
mkdir -p "$1" || die "cannot make the directory $1."
out=$(cd "$1" && pwd)

for tool in busybox mke2fs e2fsck debugfs depmod modprobe cpio gzip flock dpkg; do
	command -v $tool >/dev/null || skip "$tool is not installed (tools/setup.sh check)"
done
[ "$(dpkg --print-architecture)" = amd64 ] || skip 'the test guest is made on amd64 only'

[ -z "$with_fio" ] || command -v fio >/dev/null ||
	skip 'fio is not installed (tools/setup.sh check)'

exec 9>"$out/.lock"
flock 9				# two test runs may start together

work=''
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# pack PROGRAM DIRECTORY: the program, and the libraries that it needs, as they lie here
pack() {
	mkdir -p "$2/sbin"
	cp -L "$1" "$2/sbin/"
	ldd "$1" | grep -o '/[^ ]*' |
	while read -r library; do
		mkdir -p "$2/${library%/*}"
		cp -L "$library" "$2/$library"
	done
}

# archive DIRECTORY FILE: as the kernel unpacks it
archive() {
	(cd "$1" && find . | sort | cpio --quiet -o -H newc --owner=0:0) >"$2"
}

# make_fio: the kernel unpacks one archive behind the other
make_fio() {
	[ -n "$with_fio" ] || return 0
	fio_stamp=$(cat "$out/.stamp"; dpkg-query -W -f='${Package} ${Version}\n' fio)
	if [ -s "$out/initramfs-fio.cpio" ] &&
	   [ "$fio_stamp" = "$(cat "$out/.stamp-fio" 2>/dev/null)" ]; then
		return 0
	fi
	rm -rf "$work"
	work=$(mktemp -d "$out/.work.XXXXXX")
	pack "$(command -v fio)" "$work/root"
	archive "$work/root" "$work/fio.cpio"
	# Each begins at a multiple of four bytes.
	cat "$out/initramfs.cpio.gz" >"$work/both"
	truncate -s %4 "$work/both"
	cat "$work/fio.cpio" >>"$work/both"
	rm -f "$out/.stamp-fio"
	mv "$work/both" "$out/initramfs-fio.cpio"
	printf '%s\n' "$fio_stamp" >"$out/.stamp-fio"
}

# ---- Is there anything to do? -----------------------------------------------

stamp=$(
	cat "$0" "$scripts"/* | sha256sum
	dpkg-query -W -f='${Package} ${Version}\n' busybox-static e2fsprogs libc6 2>/dev/null || :
	# A kernel that was put there by hand counts too.
	ls -l --time-style=+%s "$out"/linux-image-*.deb 2>/dev/null || :
)
if [ -s "$out/vmlinuz" ] && [ -s "$out/initramfs.cpio.gz" ] &&
   [ "$stamp" = "$(cat "$out/.stamp" 2>/dev/null)" ]; then
	make_fio
	exit 0
fi

work=$(mktemp -d "$out/.work.XXXXXX")

# ---- The kernel package -----------------------------------------------------

# The versioned package behind the name that always means the newest one.
newest_kernel() {
	apt-cache "$@" show --no-all-versions linux-image-cloud-amd64 2>/dev/null |
		sed -n 's/^Depends: *\(linux-image-[^ ,]*\).*/\1/p'
}

# download [APT OPTION...]: into $work/kernel
download() {
	package=$(newest_kernel "$@")
	[ -n "$package" ] || return 1
	say "downloading $package"
	(cd "$work/kernel" && apt-get "$@" -qq -o APT::Sandbox::User=root \
		download "$package" >>"$work/log" 2>&1 </dev/null)
}

set -- "$out"/linux-image-*.deb
if [ ! -e "$1" ]; then
	command -v apt-get >/dev/null || skip 'the kernel package needs apt-get to be downloaded'
	mkdir "$work/kernel"
	if ! download; then
		# No package lists, or old ones that name a package which is gone
		# by now. Read new ones into a directory of our own: the machine's
		# stay as they are, and nobody need be root.
		say 'reading fresh package lists'
		mkdir -p "$work/apt/lists/partial" "$work/apt/cache"
		set -- -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" \
			-o APT::Sandbox::User=root
		apt-get "$@" -qq update >>"$work/log" 2>&1 </dev/null || :
		download "$@" ||
			skip "the kernel package linux-image-cloud-amd64 cannot be downloaded: $(
				grep -m 1 '^[EW]:' "$work/log" || echo 'no package list names it')"
	fi
	mv "$work/kernel"/linux-image-*.deb "$out/"
	set -- "$out"/linux-image-*.deb
	stamp=$(printf '%s\n' "$stamp"; ls -l --time-style=+%s "$1")
fi
[ $# -eq 1 ] || die "there is more than one linux-image-*.deb in $out."

# ---- The tree ---------------------------------------------------------------

dpkg -x "$1" "$work/deb"
kernel=$(echo "$work"/deb/boot/vmlinuz-*)
[ -s "$kernel" ] || die "there is no kernel in $1."
version=${kernel##*/vmlinuz-}
[ -d "$work/deb/lib" ] || ln -s usr/lib "$work/deb/lib"
depmod -b "$work/deb" "$version"

root=$work/root
modules=$root/lib/modules/$version
mkdir -p "$root/bin" "$root/sbin" "$root/etc" "$root/tests" "$modules"

for module in $boot_modules $more_modules; do
	modprobe -C /dev/null -d "$work/deb" -S "$version" --show-depends "$module" ||
		die "kernel $version has no module $module."
done >"$work/depends"
# Lines are "insmod PATH [OPTIONS]" or "builtin NAME".
awk '$1 == "insmod" && !seen[$2]++ { print $2 }' "$work/depends" |
while read -r file; do
	name=${file##*/}
	case $name in
	*.xz)  xz -dc "$file" >"$modules/${name%.xz}" ;;
	*.zst) zstd -qdc "$file" >"$modules/${name%.zst}" ;;
	*)     cp "$file" "$modules/" ;;
	esac
done
cp "$work/deb/lib/modules/$version"/modules.builtin* "$modules/"
: >"$modules/modules.order"
depmod -b "$root" "$version"
echo "$boot_modules" >"$root/etc/modules"

cp "$(command -v busybox)" "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do
	[ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
cp /etc/mke2fs.conf "$root/etc/"
for program in $programs; do
	pack "$(command -v "$program")" "$root"
	rm -f "$root/bin/$program"
done

cp "$scripts"/* "$root/tests/"
mv "$root/tests/init" "$root/init"
chmod 755 "$root/init"

# ---- The two files, each in one step ----------------------------------------

archive "$root" "$work/initramfs.cpio"
gzip -6 "$work/initramfs.cpio"
rm -f "$out/.stamp"
mv "$kernel" "$out/vmlinuz"
mv "$work/initramfs.cpio.gz" "$out/initramfs.cpio.gz"
printf '%s\n' "$stamp" >"$work/stamp"
mv "$work/stamp" "$out/.stamp"
make_fio
