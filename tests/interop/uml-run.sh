# User Mode Linux, for the tests that boot it. Sourced behind children.sh.
# shellcheck shell=bash
#
# The kernel is Debian's package user-mode-linux, downloaded and unpacked, never installed.
# From outside: $top, $GUEST_DIR, $BUILD, $dir; and fail.

# ---- The kernel -------------------------------------------------------------

# fetch [APT OPTION...]
fetch() { (cd "$dir" && apt-get "$@" -qq -o APT::Sandbox::User=root download user-mode-linux >>"$dir/apt" 2>&1 </dev/null); }

guest_dir=${GUEST_DIR:-$top/build/guest}
kernel=$guest_dir/uml
if [ ! -x "$kernel/usr/bin/linux.uml" ]; then
	[ "$(dpkg --print-architecture)" = amd64 ] || { echo 'User Mode Linux is taken for amd64 only'; exit 77; }
	if ! fetch; then
		# No package lists, or old ones: new ones, in a directory of our own.
		mkdir -p "$dir/apt-lists/partial" "$dir/apt-cache"
		own=(-o Dir::State::lists="$dir/apt-lists" -o Dir::Cache="$dir/apt-cache" -o APT::Sandbox::User=root)
		apt-get "${own[@]}" -qq update >>"$dir/apt" 2>&1 </dev/null
		fetch "${own[@]}" || {
			echo "the package user-mode-linux cannot be downloaded: $(grep -m 1 '^[EW]:' "$dir/apt")"
			exit 77
		}
	fi
	mkdir -p "$guest_dir" && dpkg-deb -x "$dir"/user-mode-linux_*.deb "$dir/kernel" || exit 1
	mv -T "$dir/kernel" "$kernel" 2>/dev/null || [ -x "$kernel/usr/bin/linux.uml" ] || exit 1
fi
modules=$(echo "$kernel"/usr/lib/uml/modules/*)

# boot WORD...: words of the kernel's command line. The files are the host's, to be read; a session
# of its own, as it has processes. Its console is $dir/console.
boot() {
	TMPDIR=$dir "${bound[@]}" setsid "$kernel/usr/bin/linux.uml" mem=256M con=null con0=null,fd:1 \
		root=/dev/root rootfstype=hostfs rootflags=/ ro init="$top/tests/interop/uml/init" \
		quiet panic=-1 MODULES="$modules" BUILD="$BUILD" "$@" \
		>"$dir/console" 2>&1 </dev/null &
	uml=$!
}

# await_result SECONDS: until the guest has ended; what it said is in $result
await_result() {
	local started=$SECONDS
	until grep -q '^GUEST-RESULT: ' "$dir/console"; do
		running "$uml" || break
		running "$backend" || fail 'the back end died while the guest was running.'
		[ $((SECONDS - started)) -lt "$1" ] || fail "the guest gave no result within $1 s."
		sleep 0.1
	done
	within 20 gone "$uml" || fail 'the guest did not power off within 20 s of its result.'
	wait "$uml"
	uml=''
	result=$(tr -d '\r' <"$dir/console" | sed -n 's/^GUEST-RESULT: //p' | head -n 1)
}
