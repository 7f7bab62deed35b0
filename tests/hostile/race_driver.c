/* SPDX-License-Identifier: MIT */
/*
 * A device thread that rewrites what it returned while the library's driver end
 * reads it. Whatever it does, each token comes back exactly once, and no length
 * is longer than what was writable.
 */
#include "race.h"

#define TOKENS 64u
#define SEG_BYTES 16u

/* ---- The device --------------------------------------------------------- */

/* A length: one that fits the smallest buffer, if that is @writable; at times too many. */
static uint32_t some_length(uint64_t x, bool writable)
{
	if (!writable && x >> 57 != 1)
		return 0;
	return (uint32_t)(x >> 32) % (x >> 54 == 9 ? 4 * SEG_BYTES : SEG_BYTES + 1);
}

/* Does the chain at @head end with a writable element, as far as can be seen here? */
static bool ends_writable(struct rig *r, uint16_t head)
{
	uint16_t flags = 0;

	for (uint32_t n = 0; n < r->shape.size; n++) {
		uint8_t *at = r->desc.driver + 16 * (size_t)(head % r->shape.size);

		flags = look16(at + 12);
		head = look16(at + 14);
		if (!(flags & F_NEXT))
			break;
	}
	return flags & F_WRITE;
}

static bool split_step(struct race *race)
{
	struct rig *r = &race->r;
	uint64_t x = next_random(&race->random);
	uint8_t *used = r->device_area.driver, *elem;
	bool none = race->seen == look16(r->driver_area.driver + 2);
	uint16_t head, batch = 0;
	bool writable;

	if (x % (none ? 4096 : 128) == 0)	/* Id or length of any element. */
		race32(used + 4 + 4 * (size_t)((x >> 16) % (2 * r->shape.size)),
		       x >> 63 ? (uint32_t)(x >> 32) : (uint32_t)(x >> 40) % (r->shape.size + 2));
	if (x % 256 == 2)
		race16(used, (uint16_t)(x >> 32));
	if (none)
		return false;
	/* A batch, if there is one: the last one's head where the first one's would be. */
	while (race->in_order && x >> 50 & 1 &&
	       (uint16_t)(race->seen + 1) != look16(r->driver_area.driver + 2) && batch++ < 3)
		race->seen++;
	head = look16(r->driver_area.driver + 4 + 2 * (race->seen++ % r->shape.size));
	elem = used + 4 + 8 * (size_t)(race->idx % r->shape.size);
	race->idx = (uint16_t)(race->idx + 1 + (batch > 3 ? 3 : batch));
	race32(elem, head);
	writable = ends_writable(r, head);
	race32(elem + 4, some_length(x, writable));
	race16_release(used + 2, x % 512 == 1 ? (uint16_t)(x >> 32) : race->idx);
	/* And again, when the driver may be about to read it. */
	if (x >> 58 == 3)
		race32(elem + 4, some_length(x << 7, writable));
	return true;
}

static bool packed_step(struct race *race)
{
	struct rig *r = &race->r;
	uint64_t x = next_random(&race->random);
	uint8_t *ring = r->desc.driver, *first = ring + 16 * (size_t)race->slot;
	uint16_t flags = look16(first + 14), id = 0;
	bool wrap = race->wrap, writable = false;
	bool none = (flags & (F_AVAIL | F_USED)) != (wrap ? F_AVAIL : F_USED);

	if (x % (none ? 4096 : 128) == 0) {
		uint8_t *any = ring + 16 * (size_t)((x >> 16) % r->shape.size);

		if (x >> 62 == 0)
			race16(any + 12, (uint16_t)((x >> 32) % (r->shape.size + 2)));
		if (x >> 62 == 1)
			race32(any + 8, (uint32_t)(x >> 24));
		if (x >> 62 == 2)
			race64(any, x);
		if (x >> 62 == 3)
			race16_release(any + 14, (uint16_t)(x >> 32));
	}
	if (none)
		return false;
	for (uint32_t n = 0; n < r->shape.size; n++) {
		uint8_t *at = ring + 16 * (size_t)race->slot;

		flags = look16(at + 14);
		id = look16(at + 12);
		writable = flags & F_WRITE;
		if (++race->slot == r->shape.size) {
			race->slot = 0;
			race->wrap = !race->wrap;
		}
		if (!(flags & F_NEXT))
			break;
	}
	race16(first + 12, id);
	race32(first + 8, some_length(x, writable));
	race16_release(first + 14, (uint16_t)((wrap ? F_AVAIL | F_USED : 0) | F_WRITE));
	if (x >> 58 == 3)
		race32(first + 8, some_length(x << 7, writable));
	return true;
}

/* ---- The driver --------------------------------------------------------- */

struct books {
	uint32_t writable[TOKENS];	/* bytes */
	bool flying[TOKENS];
	uint32_t count;
};

static void settle(struct books *b, void *token, uint32_t written)
{
	uintptr_t i = token_value(token);

	assert_true(i < TOKENS);
	assert_true(b->flying[i]);
	assert_true(written <= b->writable[i]);
	b->flying[i] = false;
	b->count--;
}

/* With the other thread halted. */
static void make_anew(struct race *race)
{
	virtq_driver_destroy(race->r.driver);
	rig_make_driver(&race->r);
	race->idx = race->seen = race->slot = 0;
	race->wrap = true;
}

/* One buffer of one to three elements, with a token that is free. */
static void add_some(struct rig *r, struct books *b, uint64_t x)
{
	struct virtq_seg segs[3];
	uint32_t count = 1 + (uint32_t)(x >> 8) % 3, readable = (uint32_t)(x >> 16) % (count + 1);
	struct virtq_buffer buf = { segs, (uint16_t)readable, (uint16_t)(count - readable), NULL };
	uint32_t i = (uint32_t)(x >> 24) % TOKENS;
	int rc;

	while (b->flying[i])
		i = (i + 1) % TOKENS;
	for (uint32_t k = 0; k < count; k++)
		segs[k] = (struct virtq_seg){ RIG_WRITABLE_GPA + 64 * i, SEG_BYTES };
	buf.token = token_of(i);
	rc = virtq_driver_add(r->driver, &buf, 1);
	if (rc == 1) {
		b->flying[i] = true;
		b->writable[i] = (count - readable) * SEG_BYTES;
		b->count++;
	} else {
		assert_true(rc == -ENOSPC || rc == -EBADMSG);
	}
}

/* S-DRV-033, P-DRV-027. */
static void test_race(void **state)
{
	int64_t end = now_ms() + RACE_MS;
	const struct run *run = *state;	/* whose first member is the shape */
	static struct race race;
	struct rig *r = &race.r;
	unsigned int faults[VIRTQ_FAULT_USED_LENGTH + 1] = { 0 };
	unsigned int got = 0, broken = 0, idle = 0;
	struct books b = { 0 };
	uint64_t random = 88172645463325252;

	memset(&race, 0, sizeof(race));
	rig_memory(r, &run->shape);
	if (run->in_order)
		r->driver_ring.features = virtq_features_with(r->driver_ring.features,
							      VIRTIO_F_IN_ORDER);
	rig_make_driver(r);
	race.in_order = run->in_order;
	/* The device thread works in the driver's view, too: see race.h. */
	race.wrap = true;
	race_begin(&race, r->shape.packed ? packed_step : split_step);
	do {
		struct virtq_completion done[8];
		uint64_t x = next_random(&random);
		int rc;

		for (uint32_t i = 0; i < x % 4; i++, x = next_random(&random))
			add_some(r, &b, x);
		virtq_driver_publish(r->driver);
		if (x >> 60 == 0)
			virtq_driver_arm(r->driver);
		if (x >> 60 == 1)
			virtq_driver_disarm(r->driver);
		rc = virtq_driver_get(r->driver, done, 8);
		for (int i = 0; i < rc; i++, got++)
			settle(&b, done[i].token, done[i].written);
		assert_int_equal(virtq_driver_in_flight(r->driver), b.count);
		idle = rc == 0 ? idle + 1 : 0;
		if (idle)
			sched_yield();
		if (rc < 0) {
			assert_int_equal(rc, -EBADMSG);
			faults[virtq_driver_fault(r->driver).code]++;
			broken++;
		}
		if (rc < 0 || idle > 200) {
			void *token;

			race_halt(&race);
			virtq_driver_stop(r->driver);
			while (virtq_driver_detach(r->driver, &token) == 1)
				settle(&b, token, 0);
			assert_int_equal(b.count, 0);
			make_anew(&race);
			race_go(&race);
			idle = 0;
		}
	} while (now_ms() < end ||
		 (now_ms() < end + RACE_PATIENCE_MS &&
		  (got < 1000 || !faults[VIRTQ_FAULT_USED_ID] || !faults[VIRTQ_FAULT_USED_LENGTH] ||
		   !(r->shape.packed || faults[VIRTQ_FAULT_USED_IDX]))));
	race_end(&race);
	print_message("# %u buffers, %u times broken: index %u, id %u, length %u\n", got, broken,
		      faults[VIRTQ_FAULT_USED_IDX], faults[VIRTQ_FAULT_USED_ID],
		      faults[VIRTQ_FAULT_USED_LENGTH]);
	assert_true(got >= 1000);
	assert_int_equal(faults[VIRTQ_FAULT_NONE], 0);
	assert_true(faults[VIRTQ_FAULT_USED_ID] > 0);
	assert_true(faults[VIRTQ_FAULT_USED_LENGTH] > 0);
	assert_true(r->shape.packed || faults[VIRTQ_FAULT_USED_IDX] > 0);
	assert_int_equal(broken, faults[VIRTQ_FAULT_USED_IDX] + faults[VIRTQ_FAULT_USED_ID] +
			 faults[VIRTQ_FAULT_USED_LENGTH]);
	rig_close(r);
}

int main(void)
{
	return race_run("racing devices", "a device thread rewrites returns", test_race);
}
