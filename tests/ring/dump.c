/* SPDX-License-Identifier: MIT */
/* Dumps: the exact text for chosen states (dump.txt), and what it says of broken queues. */
#include "dump_text.h"

#include <stdio.h>

#include <virtq/iotlb.h>

#define A RIG_DATA_GPA
#define W RIG_WRITABLE_GPA

/* ---- Wanted text ---------------------------------------------------------- */

/* The section of dump.txt with that name. */
static void load_wanted(const char *name, char *wanted, size_t room)
{
	FILE *f = fopen(DUMP_TXT, "r");
	bool inside = false;
	char line[256];

	assert_non_null(f);
	*wanted = '\0';
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "== ", 3))
			inside = !strncmp(line + 3, name, strlen(name)) &&
				 line[3 + strlen(name)] == '\n';
		else if (inside && *line != '\n')
			strncat(wanted, line, room - strlen(wanted) - 1);
	}
	fclose(f);
	assert_true(*wanted);
}

/* Does @text say what is wanted? Its third line holds addresses of this run. */
static void text_is(const char *text, const struct virtq_ring *ring, const char *name)
{
	char wanted[8192], memory[256];
	const char *third = strchr(strchr(text, '\n') + 1, '\n') + 1, *fourth;
	size_t head = (size_t)(third - text);

	snprintf(memory, sizeof(memory),
		 "memory: descriptors 0x%llx, driver area 0x%llx, device area 0x%llx\n",
		 (unsigned long long)(uintptr_t)ring->desc,
		 (unsigned long long)(uintptr_t)ring->driver,
		 (unsigned long long)(uintptr_t)ring->device);
	assert_int_equal(strncmp(third, memory, strlen(memory)), 0);
	fourth = third + strlen(memory);
	load_wanted(name, wanted, sizeof(wanted));
	if (strncmp(text, wanted, head) || strcmp(fourth, wanted + head))
		fail_msg("%s: the text is\n%snot\n%s", name, text, wanted);
}

static void driver_is(struct rig *r, const char *name)
{
	struct snapshot before = snapshot_take(r);

	text_is(driver_text(r), &r->driver_ring, name);
	snapshot_same(r, &before);
}

static void device_is(struct rig *r, const char *name)
{
	struct snapshot before = snapshot_take(r);

	text_is(device_text(r), &r->device_ring, name);
	snapshot_same(r, &before);
}

/* ---- Chosen states ------------------------------------------------------ */

/*
 * Four buffers, the first a chain of three, published; three of them popped;
 * the second pushed. Both ends have armed in front of the last three.
 */
static void stage_scene(struct rig *r, const struct shape *shape, struct virtq_req **reqs)
{
	static const struct virtq_seg three[] = { { A, 0x11 }, { A + 0x20, 0x12 }, { W, 0x103 } };
	struct virtq_buffer buf = { three, 2, 1, token_of(99) };

	rig_open(r, shape, RIG_BOTH);
	assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
	virtq_device_arm(r->device);
	virtq_driver_arm(r->driver);
	rig_send(r, 3);
	assert_int_equal(virtq_device_pop(r->device, reqs, 3), 3);
	virtq_req_wrote(reqs[0], 40);
	virtq_device_push(r->device, &reqs[1], 1);
}

/* On from there: the first is pushed, too, both are published, and another buffer is staged. */
static void second_scene(struct rig *r, struct virtq_req **reqs)
{
	virtq_device_push(r->device, reqs, 1);
	virtq_device_publish(r->device);
	assert_int_equal(rig_add(r, W, 7, true, token_of(9)), 1);
}

static void end_scene(struct rig *r, struct virtq_req **reqs)
{
	virtq_device_push(r->device, &reqs[2], 1);
	rig_close(r);
}

static void test_split(void **state)
{
	static const struct shape shape = { .size = 8, .event_idx = true };
	struct virtq_req *reqs[3];
	struct rig r;

	(void)state;
	stage_scene(&r, &shape, reqs);
	device_is(&r, "split, one pushed");
	second_scene(&r, reqs);
	device_is(&r, "split, published");
	driver_is(&r, "split, taken by nobody");
	end_scene(&r, reqs);
}

static void test_packed(void **state)
{
	static const struct shape shape = { .size = 8, .packed = true, .event_idx = true };
	struct virtq_req *reqs[3];
	struct rig r;

	(void)state;
	stage_scene(&r, &shape, reqs);
	device_is(&r, "packed, one pushed");
	second_scene(&r, reqs);
	device_is(&r, "packed, published");
	driver_is(&r, "packed, taken by nobody");
	end_scene(&r, reqs);
}

/* Without EVENT_IDX, and one used element for two buffers, of which one has been taken. */
static void test_split_in_order(void **state)
{
	static const struct shape shape = { .size = 8, .in_order = true };
	struct virtq_completion done;
	struct virtq_req *reqs[3];
	struct rig r;

	(void)state;
	stage_scene(&r, &shape, reqs);
	device_is(&r, "split in order, pushed out of turn");
	virtq_req_wrote(reqs[0], 0x103 - 40);
	second_scene(&r, reqs);
	driver_is(&r, "split in order, one element for two");
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	virtq_driver_disarm(r.driver);
	driver_is(&r, "split in order, one of two taken");
	device_is(&r, "split in order, driver polls");
	end_scene(&r, reqs);
}

static void test_packed_in_order(void **state)
{
	static const struct shape shape = { .size = 5, .packed = true, .in_order = true,
					    .indirect = true, .moved = true, .start = 3 };
	struct virtq_completion done;
	struct virtq_req *reqs[3];
	struct rig r;

	(void)state;
	stage_scene(&r, &shape, reqs);
	virtq_device_disarm(r.device);
	device_is(&r, "packed in order, pushed out of turn");
	virtq_req_wrote(reqs[0], 0x103 - 40);
	virtq_device_push(r.device, &reqs[0], 1);
	device_is(&r, "packed in order, batch not published");
	second_scene(&r, &reqs[2]);
	driver_is(&r, "packed in order, one element for two");
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	driver_is(&r, "packed in order, one of two taken");
	rig_close(&r);
}

/* A new ring of one entry, and a driver end that was taken out of service. */
static void test_idle(void **state)
{
	static const struct shape shape = { .size = 1 };
	void *token;
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	driver_is(&r, "new driver");
	device_is(&r, "new device");
	rig_send(&r, 1);
	virtq_driver_stop(r.driver);
	assert_int_equal(virtq_driver_detach(r.driver, &token), 1);
	driver_is(&r, "detached driver");
	rig_close(&r);
}

/* What is staged goes round the end of the ring: published and staged are in two laps. */
static void test_round_the_end(void **state)
{
	static const struct shape shape = { .size = 3, .packed = true };
	struct virtq_req *reqs[2];
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	rig_send(&r, 2);
	rig_serve(&r, 2);
	rig_collect(&r, 2);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(rig_add(&r, W, 1, true, NULL), 1);
	has_line(driver_text(&r),
		 "available cursor: slot 2 wrap 1 published, slot 1 wrap 0 staged");
	virtq_driver_publish(r.driver);
	assert_int_equal(virtq_device_pop(r.device, reqs, 2), 2);
	virtq_device_push(r.device, reqs, 2);
	has_line(device_text(&r), "used cursor: slot 2 wrap 1 published, slot 1 wrap 0 staged");
	virtq_device_publish(r.device);
	has_line(device_text(&r), "used cursor: slot 1 wrap 0 published, slot 1 wrap 0 staged");
	rig_close(&r);
}

/* ---- Broken queues ------------------------------------------------------ */

static void test_broken_driver(void **state)
{
	static const struct shape shape = { .size = 4 };
	struct virtq_completion done;
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DRIVER);
	rig_send(&r, 2);
	/* One used id that nobody has, one length that is too long, one buffer too many. */
	put32(r.device_area.device + 4, 0x12c);
	put32(r.device_area.device + 12, 1);
	put32(r.device_area.device + 16, 70);
	put16(r.device_area.device + 2, 2);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), -EBADMSG);
	driver_is(&r, "broken driver");
	put16(r.device_area.device + 2, 3);
	put16(r.device_area.device, 0xfff1);
	/* And what this end wrote has been written over. */
	put16(avail_idx(&r), 77);
	put16(r.driver_area.driver, 1);
	put16(split_desc(&r, 0) + 12, F_NEXT | 0x40);
	put16(split_desc(&r, 0) + 14, 9);
	driver_is(&r, "broken driver, overwritten");
	rig_close(&r);
}

static void test_broken_split_device(void **state)
{
	static const struct shape shape = { .size = 4, .indirect = true, .event_idx = true,
					    .moved = true, .start = 65534 };
	struct virtq_req *req;
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DEVICE);
	/* 0 and 1 in a circle; 2 goes on behind a table; 3 leaves the table. */
	for (uint32_t i = 0; i < 4; i++) {
		put64(split_desc(&r, i), W + 16 * i);
		put32(split_desc(&r, i) + 8, 16);
		put16(split_desc(&r, i) + 12, i == 2 ? F_INDIRECT | F_NEXT : F_NEXT | F_WRITE);
		put16(split_desc(&r, i) + 14, i < 2 ? !i : 4);
		put16(avail_ring(&r, (uint16_t)(65534 + i)), (uint16_t)(i ? i : 300));
	}
	put16(avail_ring(&r, 65535), 0);
	put16(avail_idx(&r), 2);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), -EBADMSG);
	device_is(&r, "broken split device");
	put16(avail_idx(&r), 65533);
	device_is(&r, "split index gone back too far");
	rig_close(&r);
}

static void test_broken_packed(void **state)
{
	static const struct shape shape = { .size = 3, .packed = true };
	struct virtq_completion done;
	struct virtq_req *req;
	struct rig r;
	uint8_t *desc;

	(void)state;
	rig_open(&r, &shape, RIG_BOTH);
	rig_send(&r, 2);
	desc = r.desc.driver;
	put64(desc, UINT64_MAX);
	put16(desc + 14, F_AVAIL | F_NEXT | 0x100);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), -EBADMSG);
	/* Event structures that mean nothing. */
	put16(r.driver_area.driver, 0x8009);
	put16(r.driver_area.driver + 2, 2);
	put16(r.device_area.device, 0x7fff);
	put16(r.device_area.device + 2, 3);
	device_is(&r, "broken packed device");
	put16(desc + 12, 2);
	put16(desc + 14, F_AVAIL | F_USED | F_WRITE | 0x100);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), -EBADMSG);
	driver_is(&r, "broken packed driver");
	rig_close(&r);
}

/* A place that no ring of this size has: taken for "every", with EVENT_IDX as well. */
static void test_event_nowhere(void **state)
{
	static const struct shape shape = { .size = 3, .packed = true, .event_idx = true };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DRIVER);
	put16(r.device_area.device, 0x8003);
	put16(r.device_area.device + 2, 2);
	assert_int_equal(rig_add(&r, W, 1, true, NULL), 1);
	has_line(driver_text(&r), "kicks: the device wants one for every publish "
		 "(event flags 2, slot 3 wrap 1, which means nothing here)");
	assert_int_equal(virtq_driver_publish(r.driver), 1);
	rig_close(&r);
}

/* A long list named by every used element: together more entries than the ring has. */
static void test_same_id_used(void **state)
{
	static const struct shape shape = { .size = 8, .packed = true };
	static const struct virtq_seg segs[5] = {
		{ W, 1 }, { W, 2 }, { W, 3 }, { W, 4 }, { W, 5 },
	};
	struct virtq_buffer buf = { segs, 0, 5, NULL };
	struct rig r;

	(void)state;
	rig_open(&r, &shape, RIG_DRIVER);
	assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(rig_add(&r, W, 1, true, NULL), 1);
	virtq_driver_publish(r.driver);
	for (uint32_t i = 0; i < 8; i++) {
		put16(r.desc.device + 16 * i + 12, 0);
		/* Slots 0 and 5 in this lap, 2 in the next. */
		put16(r.desc.device + 16 * i + 14, i == 2 ? 0 : F_AVAIL | F_USED);
	}
	has_line(driver_text(&r), "  slot 5: id 0, written 0");
	has_line(driver_text(&r), "buffers: 0 staged, 2 with the device, 2 used and not taken; "
		 "0 of 8 ring entries free");
	rig_close(&r);
}

/* An index that went back between two looks, and an address that nobody has translated yet. */
static void test_waiting_device(void **state)
{
	static const struct shape shape = { .size = 4 };
	struct virtq_iotlb *tlb;
	struct virtq_req *req;
	struct rig r;

	(void)state;
	assert_int_equal(virtq_iotlb_create(&tlb, 4, NULL), 0);
	rig_open(&r, &shape, RIG_DRIVER);
	r.device_config.iotlb = tlb;
	rig_make_device(&r);
	rig_send(&r, 3);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), -EAGAIN);
	put16(avail_idx(&r), 1);
	device_is(&r, "waiting for a translation");
	rig_close(&r);
	virtq_iotlb_destroy(tlb);
}

int main(void)
{
	struct matrix m = { 0 };

	matrix_add_one(&m, "split", test_split);
	matrix_add_one(&m, "packed", test_packed);
	matrix_add_one(&m, "split in order", test_split_in_order);
	matrix_add_one(&m, "packed in order", test_packed_in_order);
	matrix_add_one(&m, "idle", test_idle);
	matrix_add_one(&m, "round the end", test_round_the_end);
	matrix_add_one(&m, "broken driver", test_broken_driver);
	matrix_add_one(&m, "broken split device", test_broken_split_device);
	matrix_add_one(&m, "broken packed", test_broken_packed);
	matrix_add_one(&m, "event nowhere", test_event_nowhere);
	matrix_add_one(&m, "same id used", test_same_id_used);
	matrix_add_one(&m, "waiting device", test_waiting_device);

	return matrix_run(&m, "ring dump");
}
