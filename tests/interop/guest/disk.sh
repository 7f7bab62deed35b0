# What the guest scripts share about the disk, /dev/vda. Sourced by busybox sh, after lib.sh.
# shellcheck shell=sh

disk=/dev/vda
sys=/sys/block/vda

# feature BIT: 1 or 0. The kernel prints the bits as a string, bit 0 first.
feature() { cut -c $(($1 + 1)) $sys/device/features; }

# check_disk [grows]: wait for it, and compare what was negotiated with the parameters
#     packed event_idx indirect     1 or 0: the feature bit that must be, or must not be, negotiated
#     queues queue_size             what blk-mq must have found
#     sectors serial ro             what the disk must say of itself
# One that is absent is reported and not checked, nor is the size of a disk that grows. Leaves $queues and $sectors behind.
check_disk() {
	wait_for 20 $disk
	wait_for 5 $sys/mq

	say "features $(cat $sys/device/features)"
	expect 'VIRTIO_F_VERSION_1' "$(feature 32)" 1
	expect 'VIRTIO_F_RING_PACKED' "$(feature 34)" "$(param packed)"
	expect 'VIRTIO_F_EVENT_IDX' "$(feature 29)" "$(param event_idx)"
	expect 'VIRTIO_F_INDIRECT_DESC' "$(feature 28)" "$(param indirect)"
	expect 'VIRTIO_BLK_F_RO' "$(feature 5)" "$(param ro 0)"

	queues=$(ls $sys/mq | wc -l)
	expect 'number of queues' "$queues" "$(param queues)"

	# The driver takes one tag a ring entry, half as many without indirect descriptors.
	depth=$(param queue_size)
	[ -z "$depth" ] || [ "$(feature 28)" = 1 ] || depth=$((depth / 2))
	expect 'queue depth' "$(cat $sys/mq/0/nr_tags)" "$depth"

	sectors=$(cat $sys/size)
	[ "${1-}" = grows ] || expect 'sectors' "$sectors" "$(param sectors)"
	expect 'serial' "$(cat $sys/serial)" "$(param serial)"
	expect 'read-only' "$(blockdev --getro $disk)" "$(param ro 0)"
	say "cache $(cat $sys/queue/write_cache)," \
		"$(cat $sys/queue/max_segments) segments," \
		"discard up to $(cat $sys/queue/discard_max_bytes) bytes," \
		"zeroes up to $(cat $sys/queue/write_zeroes_max_bytes) bytes"
}

# complaints: what the kernel has seen go wrong since it booted.
complaints() {
	dmesg | grep -E 'virtio|vda|EXT4-fs|JBD2|Buffer I/O|hung_task|blocked for' |
		grep -iE 'error|warning|fail|not a head|bad|broken|blocked for|timed out'
}

# check_kernel_log: nothing.
check_kernel_log() {
	complaint=$(complaints | head -n 1)
	[ -z "$complaint" ] || fail "the kernel says: $complaint"
	say 'the kernel log is clean'
}

# check_interrupts: each queue has interrupted, so none of them was idle or deaf.
check_interrupts() {
	device=$(basename "$(readlink $sys/device)")
	q=0
	while [ $q -lt "$queues" ]; do
		calls=$(awk -v name="$device-req.$q" '
			$NF == name { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i }
			END { print n + 0 }' /proc/interrupts)
		[ "$calls" -gt 0 ] || fail "queue $q has never interrupted"
		say "queue $q: $calls interrupts"
		q=$((q + 1))
	done
}
