/* SPDX-License-Identifier: MIT */
/*
 * What an end may not write it can do without writing: ordinary traffic with
 * all of that mapped read-only for it, so that a store would be a fault.
 */
#include "rig.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* The mapping is what it is said to be: a store there ends a child. */
static void cannot_write(uint8_t *at)
{
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (!child) {
		signal(SIGSEGV, SIG_DFL);
		*(volatile uint8_t *)at = *(volatile uint8_t *)at;
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_control(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	if (!shape->packed)
		cannot_write(r.desc.device);
	cannot_write(r.driver_area.device);
	cannot_write(r.table.device);
	cannot_write(r.data[0].device);
	cannot_write(r.data[1].device + 77);
	cannot_write(r.device_area.driver);
	rig_close(&r);
}

/*
 * Chains of one to five elements, direct and in tables; the device reads all,
 * writes some, returns them last first; both arm and disarm now and then.
 */
static void test_traffic(void **state)
{
	const struct shape *shape = *state;
	uint32_t seed = 7;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (uint32_t round = 0; round < 500; round++) {
		struct virtq_req *reqs[5];
		uint32_t sent = 0;
		uint8_t *before = malloc(r.desc.bytes + r.driver_area.bytes + r.table.bytes);
		size_t desc_bytes = shape->packed ? 0 : r.desc.bytes;

		assert_non_null(before);
		for (; sent < 5; sent++) {
			struct virtq_seg segs[5];
			uint32_t count, readable;
			struct virtq_buffer buf = { segs, 0, 0, token_of(round) };

			seed = seed * 1664525 + 1013904223;
			count = 1 + (seed >> 16) % (shape->size < 5 ? shape->size : 5);
			readable = (seed >> 24) % (count + 1);
			for (uint32_t i = 0; i < count; i++)
				segs[i] = (struct virtq_seg){
					(i < readable ? RIG_DATA_GPA : RIG_WRITABLE_GPA) +
					RIG_REGION_BYTES - 8 + 32 * i, 16 };
			buf.readable = (uint16_t)readable;
			buf.writable = (uint16_t)(count - readable);
			if (virtq_driver_add(r.driver, &buf, 1) != 1)
				break;
		}
		assert_true(sent > 0);
		virtq_driver_publish(r.driver);
		if (round % 3 == 0)
			virtq_device_arm(r.device);
		if (round % 3 == 1)
			virtq_device_disarm(r.device);
		/* S-DEV-005, N-DEV-015: unchanged, not only unwritten in this view. */
		memcpy(before, r.driver_area.driver, r.driver_area.bytes);
		memcpy(before + r.driver_area.bytes, r.table.driver, r.table.bytes);
		memcpy(before + r.driver_area.bytes + r.table.bytes, r.desc.driver, desc_bytes);
		assert_int_equal(virtq_device_pop(r.device, reqs, 5), sent);
		for (uint32_t i = sent; i-- > 0;) {
			uint8_t bytes[100], *tail = NULL;

			virtq_req_read(reqs[i], bytes, sizeof(bytes));
			if (round & 1)
				tail = virtq_req_claim_tail(reqs[i]);
			virtq_req_write(reqs[i], bytes, round % 5 * 20);
			if (tail)
				virtq_req_set_tail(reqs[i], tail, 1);
			virtq_device_push(r.device, &reqs[i], 1);
		}
		virtq_device_publish(r.device);
		assert_memory_equal(before, r.driver_area.driver, r.driver_area.bytes);
		assert_memory_equal(before + r.driver_area.bytes, r.table.driver, r.table.bytes);
		if (desc_bytes)
			assert_memory_equal(before + r.driver_area.bytes + r.table.bytes,
					    r.desc.driver, desc_bytes);
		free(before);
		if (round % 3 == 0)
			virtq_driver_disarm(r.driver);
		if (round % 3 == 1)
			virtq_driver_arm(r.driver);
		rig_collect(&r, sent);
	}
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };

	matrix_add(&m, "stores that must fault do", test_control, ONLY_NEW | ONLY_EVENT | NOT_HUGE);
	matrix_add(&m, "S-DEV-003 S-DEV-005 N-DEV-015 P-DEV-001 N-DRV-015 all in its place",
		   test_traffic, NOT_HUGE);
	return matrix_run(&m, "read-only memory");
}
