/* SPDX-License-Identifier: MIT */
/*
 * Dumps of queues at work: what they say beside what then happens; that nothing
 * in shared memory leads them astray; and that they stay short.
 */
#include "dump_text.h"

#include <stdio.h>
#include <stdlib.h>

#define A RIG_DATA_GPA
#define W RIG_WRITABLE_GPA

/* ---- What it says, beside what happens ------------------------------------ */

/* A number in the line that begins with @label, behind @before. */
static unsigned int number(const char *text, const char *label, const char *before)
{
	const char *line = strstr(text, label), *at = line ? strstr(line, before) : NULL;
	unsigned int value = 0;

	if (!at || sscanf(at + strlen(before), "%u", &value) != 1)
		fail_msg("no number behind \"%s\" in\n%s", before, text);
	return value;
}

/* Does the line that begins with @label say @words? */
static bool says(const char *text, const char *label, const char *words)
{
	const char *line = strstr(text, label), *at;

	assert_non_null(line);
	at = strstr(line, words);
	return at && at < strchr(line, '\n');
}

/* What the dump says that publishing what is staged will return. */
static bool foretold(const char *text, const char *label)
{
	const char *name = *label == 'k' ? "does not kick" : "does not call";
	const char *yes = *label == 'k' ? " kicks" : " calls";

	if (says(text, label, "wants none") || says(text, label, name))
		return false;
	if (!says(text, label, "one for every publish") && !says(text, label, "next publish, to") &&
	    !says(text, label, "the first publish"))
		fail_msg("nothing foretold in\n%s", text);
	return says(text, label, "for every publish") || says(text, label, yes);
}

static uint32_t seed;

static uint32_t random_below(uint32_t limit)
{
	seed = seed * 1664525u + 1013904223u;
	return (seed >> 8) % limit;
}

/* What a test that only looks from outside knows of a queue. */
struct known {
	unsigned int staged, published, popped, pushed, used, taken;
	struct virtq_req *loans[8];
	unsigned int loan_count;
};

static void add_random(struct rig *r, struct known *k)
{
	struct virtq_seg segs[3] = { { A, 10 }, { A + 64, 20 }, { W, 30 } };
	unsigned int count = 1 + random_below(3);
	struct virtq_buffer buf = { segs + 3 - count, (uint16_t)(count - 1), 1, token_of(1) };

	if (virtq_driver_add(r->driver, &buf, 1) == 1)
		k->staged++;
}

static void pop_random(struct rig *r, struct known *k)
{
	unsigned int room = 8 - k->loan_count;
	int rc = room ? virtq_device_pop(r->device, k->loans + k->loan_count, 1) : 0;

	assert_true(rc >= 0);
	k->loan_count += (unsigned int)rc;
	k->popped += (unsigned int)rc;
}

static void push_random(struct rig *r, struct known *k)
{
	/* In order others would wait, which the counts below do not know. */
	unsigned int which = k->loan_count && !r->shape.in_order ? random_below(k->loan_count) : 0;

	if (!k->loan_count)
		return;
	if (random_below(2))
		virtq_req_wrote(k->loans[which], k->loans[which]->wr.bytes);
	virtq_device_push(r->device, &k->loans[which], 1);
	memmove(&k->loans[which], &k->loans[which + 1],
		(--k->loan_count - which) * sizeof(k->loans[0]));
	k->pushed++;
}

static void get_random(struct rig *r, struct known *k)
{
	struct virtq_completion done[3];
	int rc = virtq_driver_get(r->driver, done, 1 + random_below(3));

	assert_true(rc >= 0);
	k->taken += (unsigned int)rc;
}

static void publish_driver(struct rig *r, struct known *k)
{
	const char *text = driver_text(r);
	bool wanted = k->staged && foretold(text, "kicks:");

	if (k->staged)
		assert_int_equal(virtq_driver_publish(r->driver), wanted);
	k->published += k->staged;
	k->staged = 0;
}

static void publish_device(struct rig *r, struct known *k)
{
	const char *text = device_text(r);
	bool wanted = k->pushed && foretold(text, "calls:");

	if (k->pushed)
		assert_int_equal(virtq_device_publish(r->device), wanted);
	k->used += k->pushed;
	k->pushed = 0;
}

/* The counts of both dumps. */
static void counts_are(struct rig *r, const struct known *k)
{
	const char *text = driver_text(r);

	assert_int_equal(number(text, "buffers:", "buffers: "), k->staged);
	assert_int_equal(number(text, "buffers:", "staged, "), k->published - k->used);
	assert_int_equal(number(text, "buffers:", "with the device, "), k->used - k->taken);
	assert_int_equal(number(text, "buffers:", "taken; "), virtq_driver_room(r->driver));
	text = device_text(r);
	assert_int_equal(number(text, "requests:", "requests: "), k->published - k->popped);
	assert_int_equal(number(text, "requests:", "waiting, "), k->loan_count);
	if (!r->shape.packed)
		assert_int_equal(number(text, "requests:", "published: "), k->pushed);
	else
		assert_int_equal(!number(text, "requests:", "published: "), !k->pushed);
}

/* Nothing is staged: how many more it says a publish must have to be heard, or 0. */
static unsigned int threshold(const char *text, const char *label)
{
	bool beyond = says(text, label, "or beyond"), more = says(text, label, "or more");

	if (beyond)
		return (uint16_t)(number(text, label, "a publish to ") -
				  number(text, label[0] == 'k' ? "available index:" : "used index:",
					 "memory, "));
	if (more)
		return number(text, label, "a publish of ");
	return 0;
}

static void test_foretells(void **state)
{
	struct rig r;
	struct known k = { 0 };

	seed = 1;
	rig_open(&r, *state, RIG_BOTH);
	for (unsigned int step = 0; step < 4000; step++) {
		switch (random_below(9)) {
		case 0: case 1: add_random(&r, &k); break;
		case 2: pop_random(&r, &k); break;
		case 3: push_random(&r, &k); break;
		case 4: get_random(&r, &k); break;
		case 5: publish_driver(&r, &k); break;
		case 6: publish_device(&r, &k); break;
		case 7:
			if (random_below(3))
				virtq_driver_arm_after(r.driver, 1 + random_below(4));
			else
				virtq_driver_disarm(r.driver);
			break;
		default:
			if (random_below(3))
				virtq_device_arm(r.device);
			else
				virtq_device_disarm(r.device);
		}
		counts_are(&r, &k);
	}
	assert_true(k.taken > 100);
	while (k.loan_count)
		push_random(&r, &k);
	rig_close(&r);
}

/* "a publish to N or beyond calls": N - 1 does not, N does, and the other end agrees. */
static void test_threshold(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	for (unsigned int i = 0; i < 50; i++) {
		unsigned int need, chunk;
		struct virtq_completion done;
		struct virtq_req *req;

		/* The driver asks for a call when three more are used. */
		rig_send(&r, 4);
		virtq_driver_arm_after(r.driver, 3);
		for (unsigned int n = 0; n < 4; n += chunk) {
			need = threshold(device_text(&r), "calls:");
			/* The very first is sent whatever the driver says. */
			chunk = i || n ? 1 + random_below(4 - n) : 1;
			for (unsigned int c = 0; c < chunk; c++) {
				assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
				virtq_device_push(r.device, &req, 1);
			}
			if (i)
				assert_int_equal(need, n < 3 ? 3 - n : 0);
			assert_int_equal(virtq_device_publish(r.device),
					 (!i && !n) || (need && chunk >= need));
			assert_int_equal(says(driver_text(&r), "calls:", "it has, one was due"),
					 n + chunk >= 3);
		}
		while (virtq_driver_get(r.driver, &done, 1) == 1)
			;
	}
	rig_close(&r);
}

/* ---- Hostile contents ------------------------------------------------------ */

/* Values that lie, and others. */
static uint8_t random_byte(void)
{
	static const uint8_t likely[] = { 0, 1, 2, 3, 4, 7, 0x80, 0xff };

	return random_below(3) ? likely[random_below(8)] : (uint8_t)random_below(256);
}

static void scribble(uint8_t *at, size_t bytes, bool all)
{
	for (size_t i = 0; i < bytes; i++)
		if (all || !random_below(8))
			at[i] = random_byte();
}

static void scribble_ring(struct rig *r, bool all)
{
	scribble(r->desc.driver, r->desc.bytes, all);
	scribble(r->driver_area.driver, r->driver_area.bytes, all);
	scribble(r->device_area.driver, r->device_area.bytes, all);
}

/* Some calls of both ends, while somebody else writes into the ring. */
static void work_amid_garbage(struct rig *r)
{
	struct virtq_completion done[4];
	struct virtq_req *reqs[4];
	struct known k = { 0 };
	int n;

	for (unsigned int i = 0; i < 4; i++)
		add_random(r, &k);
	virtq_driver_publish(r->driver);
	rig_add(r, A, 8, false, NULL);
	if (random_below(2))
		virtq_device_arm(r->device);
	if (random_below(3) == 0)
		scribble_ring(r, false);
	n = virtq_device_pop(r->device, reqs, 1 + random_below(4));
	if (n > 0 && random_below(2)) {
		virtq_device_push(r->device, reqs, 1);
		if (random_below(2))
			virtq_device_publish(r->device);
	}
	if (random_below(2))
		virtq_driver_arm(r->driver);
	if (random_below(3) == 0)
		scribble_ring(r, false);
	virtq_driver_get(r->driver, done, 1 + random_below(4));
}

/*
 * Every piece of ring memory ends at a page that nobody may touch, and what is
 * around it is checked by rig_close(). Both ends, broken or not, are dumped over
 * what no driver and no device would write.
 */
static void test_garbage(void **state)
{
	struct rig r;
	unsigned int broken = 0;

	seed = 7;
	rig_memory(&r, *state);
	for (unsigned int round = 0; round < 1000; round++) {
		struct snapshot before;

		rig_make_driver(&r);
		rig_make_device(&r);
		work_amid_garbage(&r);
		if (round % 4)
			scribble_ring(&r, round % 4 == 3);
		before = snapshot_take(&r);
		broken += says(driver_text(&r), "state:", "BROKEN");
		broken += says(device_text(&r), "state:", "BROKEN");
		snapshot_same(&r, &before);
		virtq_driver_destroy(r.driver);
		virtq_device_destroy(r.device);
	}
	assert_true(broken > 100);
	r.driver = NULL;
	r.device = NULL;
	rig_close(&r);
}

/* A full ring of 32768: a few score lines, and the rest as numbers. */
static void test_long_ring(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct virtq_req **reqs = calloc(32768, sizeof(struct virtq_req *));
	struct rig r;

	assert_non_null(reqs);
	rig_open(&r, shape, RIG_BOTH);
	for (unsigned int i = 0; i < 32768; i++)
		assert_int_equal(rig_add(&r, W, 16, true, token_of(i)), 1);
	virtq_driver_publish(r.driver);
	has_line(device_text(&r), shape->packed ? "  ... 32752 more slots" :
						  "  ... 32760 more chains");
	assert_int_equal(virtq_device_pop(r.device, reqs, 32768), 32768);
	has_line(driver_text(&r), "  ... 32760 more buffers");
	has_line(device_text(&r), shape->packed ? "  ... 32752 more slots" :
				  shape->in_order ? "  ... 32760 more requests" :
						    "  ... 32760 more heads");
	virtq_device_push(r.device, reqs, 32768);
	virtq_device_publish(r.device);
	has_line(driver_text(&r), shape->in_order ? "buffers: 0 staged, 0 with the device, "
				  "32768 used and not taken; 0 of 32768 ring entries free" :
				  "  ... 32760 more buffers");
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	rig_close(&r);
	free(reqs);
}

/* One chain as long as the ring. */
static void test_long_chain(void **state)
{
	const struct shape *shape = *state;
	struct virtq_seg segs[256];
	struct virtq_buffer buf = { segs, 0, 256, NULL };
	struct rig r;

	for (unsigned int i = 0; i < 256; i++)
		segs[i] = (struct virtq_seg){ .addr = W + 16 * i, .len = 16 };
	rig_open(&r, shape, RIG_BOTH);
	assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
	virtq_driver_publish(r.driver);
	has_line(driver_text(&r), shape->packed ? "  ... 240 more slots" :
						  "    ... 248 more descriptors");
	has_line(device_text(&r), shape->packed ? "  ... 240 more slots" :
						  "    ... 248 more descriptors");
	rig_close(&r);
}

int main(void)
{
	static struct shape all[] = {
		{ .size = 8, .name = "split" },
		{ .size = 16, .event_idx = true, .moved = true, .start = 65500,
		  .name = "split event" },
		{ .size = 8, .packed = true, .name = "packed" },
		{ .size = 11, .packed = true, .event_idx = true, .name = "packed event" },
		{ .size = 8, .in_order = true, .name = "split in order" },
		{ .size = 8, .in_order = true, .event_idx = true, .indirect = true,
		  .name = "split in order event indirect" },
		{ .size = 7, .packed = true, .in_order = true, .indirect = true,
		  .name = "packed in order indirect" },
		{ .size = 9, .packed = true, .in_order = true, .event_idx = true, .moved = true,
		  .start = 4, .name = "packed in order event" },
		{ .size = 5, .packed = true, .event_idx = true, .indirect = true,
		  .name = "packed event indirect" },
		{ .size = 4, .event_idx = true, .indirect = true, .name = "split event indirect" },
	};
	static struct shape event[] = {
		{ .size = 4, .event_idx = true, .moved = true, .start = 65490, .name = "split" },
		{ .size = 7, .packed = true, .event_idx = true, .name = "packed" },
		{ .size = 4, .event_idx = true, .in_order = true, .name = "split in order" },
		{ .size = 5, .packed = true, .event_idx = true, .in_order = true,
		  .name = "packed in order" },
	};
	static struct shape huge[] = {
		{ .size = 32768, .event_idx = true, .name = "split" },
		{ .size = 32768, .packed = true, .event_idx = true, .name = "packed" },
		{ .size = 32768, .in_order = true, .name = "split in order" },
		{ .size = 32768, .packed = true, .in_order = true, .name = "packed in order" },
	};
	static struct shape large[] = {
		{ .size = 256, .name = "split" },
		{ .size = 256, .packed = true, .name = "packed" },
	};
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "foretells", test_foretells, all, sizeof(all) / sizeof(all[0]));
	matrix_add_shapes(&m, "threshold", test_threshold, event,
			  sizeof(event) / sizeof(event[0]));
	matrix_add_shapes(&m, "garbage", test_garbage, all, sizeof(all) / sizeof(all[0]));
	matrix_add_shapes(&m, "long ring", test_long_ring, huge, sizeof(huge) / sizeof(huge[0]));
	matrix_add_shapes(&m, "long chain", test_long_chain, large,
			  sizeof(large) / sizeof(large[0]));
	return matrix_run(&m, "ring dump_live");
}
