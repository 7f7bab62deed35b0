/* SPDX-License-Identifier: MIT */
/*
 * A driver thread that rewrites descriptors, indices and tables while the
 * library's device end pops, reads, writes and pushes. Whatever it does, the
 * device end gets no pointer outside the map, and makes no false step.
 */
#include "race.h"

#include <sys/mman.h>

#define HELD 6u		/* requests on loan at most */

/* ---- The driver --------------------------------------------------------- */

/* A descriptor: mostly one that could be, at times with one field of noise. */
static void write_desc(struct race *race, uint8_t *at, uint16_t next, uint16_t flags)
{
	bool packed = race->r.shape.packed;
	uint64_t x = next_random(&race->random), y = next_random(&race->random);
	bool write = flags & F_WRITE;
	uint64_t addr = (write ? RIG_WRITABLE_GPA : RIG_DATA_GPA) +
			x % (2 * RIG_REGION_BYTES - 128);
	uint32_t len = (uint32_t)(y % 100);

	switch (y >> 55) {
	case 0:
		addr = x;
		break;
	case 1:
		len = (uint32_t)x;
		break;
	case 2:
		next = (uint16_t)x;
		break;
	case 3:
		flags ^= (uint16_t)(1u << (x & 3));
		break;
	}
	if (y >> 60 == 9 && race->r.shape.indirect && !(flags & F_NEXT)) {
		addr = RIG_TABLE_GPA + 16 * (x % 64);
		len = 16 * (1 + (uint32_t)(x >> 32) % 4);
		flags |= F_INDIRECT;
	}
	race64(at, addr);
	race32(at + 8, len);
	race16(at + (packed ? 12 : 14), next);
	race16_release(at + (packed ? 14 : 12), flags);
}

static uint16_t some_flags(uint64_t x)
{
	return (uint16_t)((x & 3 ? 0 : F_NEXT) | (x & 4 ? F_WRITE : 0));
}

static void scribble(struct race *race, uint64_t x)
{
	struct rig *r = &race->r;
	uint8_t *desc = r->desc.device + 16 * (size_t)(x >> 8) % r->desc.bytes / 16 * 16;
	uint16_t noise = (uint16_t)(x >> 32);

	switch (x % 8) {
	case 0:
		race64(desc, next_random(&race->random));
		break;
	case 1:
		race32(desc + 8, (uint32_t)(x >> 24));
		break;
	case 2:
		race16(desc + 12, noise);
		break;
	case 3:
		race16(desc + 14, noise);
		break;
	case 4:
		/* Event words, or an available entry. */
		race16(r->driver_area.device + 2 * (noise % 2 ? 0 : 2 % (r->driver_area.bytes / 2)),
		       (uint16_t)(x >> 48));
		break;
	case 5:
		/* TSan: the library copies table entries as bytes, and says why. */
		if (!UNDER_TSAN && r->shape.indirect) {
			uint8_t *entry = r->table.device + 16 * (size_t)(noise % 64);

			write_desc(race, entry, noise % 8, some_flags(x >> 48));
		}
		break;
	default:
		write_desc(race, desc, (uint16_t)(noise % r->shape.size), some_flags(x >> 48));
	}
}

static bool split_step(struct race *race)
{
	struct rig *r = &race->r;
	uint64_t x = next_random(&race->random);
	uint8_t *idx_at = r->driver_area.device + 2;
	uint16_t head = (uint16_t)(2 * race->idx % r->shape.size);
	bool full = (uint16_t)(race->idx - look16(r->device_area.device + 2)) >= HELD;

	if (x % (full ? 1024 : 32) == 0)
		scribble(race, x >> 10);
	if (full)
		return false;
	/* One element, or a readable and a writable one. */
	if (x >> 40 & 1) {
		write_desc(race, r->desc.device + 16 * (head + 1), 0, F_WRITE);
		write_desc(race, r->desc.device + 16 * head, (uint16_t)(head + 1), F_NEXT);
	} else {
		write_desc(race, r->desc.device + 16 * head, head, some_flags(x >> 48) & F_WRITE);
	}
	if (x >> 55 == 7)
		head = (uint16_t)(x >> 16);
	race16(r->driver_area.device + 4 + 2 * (race->idx % r->shape.size), head);
	race16_release(idx_at, x >> 55 == 8 ? (uint16_t)(x >> 16) : ++race->idx);
	return true;
}

static bool packed_step(struct race *race)
{
	struct rig *r = &race->r;
	uint64_t x = next_random(&race->random);
	uint8_t *at = r->desc.device + 16 * (size_t)race->slot;
	uint16_t turn = race->wrap ? F_AVAIL : F_USED;
	/* Wait for the device, but not for ever: noise may have put us out of step. */
	bool full = (look16(at + 14) & (F_AVAIL | F_USED)) == turn && x >> 50 & 0x3ff;

	if (x % (full ? 1024 : 32) == 0)
		scribble(race, x >> 10);
	if (full)
		return false;
	/* A list of two now and then, if the one behind it happens to be good. */
	write_desc(race, at, (uint16_t)(x >> 16),
		   (uint16_t)(turn | (x >> 60 ? some_flags(x >> 48) & F_WRITE : F_NEXT)));
	if (++race->slot == r->shape.size) {
		race->slot = 0;
		race->wrap = !race->wrap;
	}
	return true;
}

/* ---- The device --------------------------------------------------------- */

static bool inside(const struct virtq_span *span, const struct piece *p)
{
	uintptr_t off = (uintptr_t)span->base - (uintptr_t)p->device;

	return off < p->bytes && span->len <= p->bytes - off;
}

/* Every span is where the map says, with the access that it grants. */
static void check_spans(struct rig *r, const struct virtq_cursor *cursor, bool write)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < cursor->count; i++) {
		const struct virtq_span *span = &cursor->spans[i];
		bool found = !write && inside(span, &r->table);

		for (uint32_t k = write ? RIG_REGIONS / 2 : 0; k < RIG_REGIONS; k++)
			found |= inside(span, &r->data[k]);
		assert_true(found);
		assert_true(span->len > 0);
		bytes += span->len;
	}
	assert_int_equal(bytes, cursor->bytes);
}

/* A device end anew, at a place that the driver thread knows, too. */
static void make_anew(struct race *race)
{
	struct rig *r = &race->r;
	uint32_t position;

	race_halt(race);
	virtq_device_destroy(r->device);
	if (r->shape.packed) {
		race->slot = (uint16_t)(next_random(&race->random) % r->shape.size);
		race->wrap = next_random(&race->random) >> 63;
		position = race->slot | (race->wrap ? 0x8000u : 0);
		position |= position << 16;
	} else {
		race->idx = (uint16_t)next_random(&race->random);
		race16(r->driver_area.device + 2, race->idx);
		race16(r->device_area.device + 2, race->idx);
		position = race->idx;
	}
	r->device_config.position = &position;
	assert_int_equal(virtq_device_create(&r->device, &r->device_config, NULL), 0);
	r->device_config.position = NULL;
	race_go(race);
}

/* S-DEV-027, P-DEV-032. */
static void test_race(void **state)
{
	int64_t end = now_ms() + RACE_MS;
	const struct run *run = *state;	/* whose first member is the shape */
	static struct race race;
	struct rig *r = &race.r;
	unsigned int faults[VIRTQ_FAULT_USED_LENGTH + 1] = { 0 }, kinds = 0;
	struct virtq_req *held[HELD + 4];
	unsigned int n = 0, idle = 0, popped = 0, broken = 0;
	uint64_t random = 88172645463325252;

	memset(&race, 0, sizeof(race));
	rig_open(r, &run->shape, 0);
	if (run->in_order)
		r->device_ring.features = virtq_features_with(r->device_ring.features,
							      VIRTIO_F_IN_ORDER);
	/* The driver thread works in the device's view: see race.h. */
	piece_protect(&r->desc, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE);
	piece_protect(&r->driver_area, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE);
	piece_protect(&r->table, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE);
	race.random = 1;
	for (uint32_t i = 0; i < 64 + 8; i++)
		write_desc(&race, r->table.device + 16 * i, (uint16_t)(i % 4),
			   (uint16_t)(i % 5 ? F_WRITE : F_NEXT));
	rig_make_device(r);
	race.idx = 0;
	race.wrap = true;
	race_begin(&race, r->shape.packed ? packed_step : split_step);
	do {
		int rc = virtq_device_pop(r->device, held + n, 4);
		uint64_t x = next_random(&random);

		if (rc > 0) {
			for (int i = 0; i < rc; i++, n++) {
				check_spans(r, &held[n]->rd, false);
				check_spans(r, &held[n]->wr, true);
			}
			popped += (unsigned int)rc;
		}
		idle = rc == 0 ? idle + 1 : 0;
		if (idle)
			sched_yield();
		/* All of them if it is over, else some, in any order. */
		while (n && (rc < 0 || n > HELD || x % 4 == 0)) {
			uint32_t which = (uint32_t)(x >> 32) % n;
			uint8_t bytes[64] = { 0 };
			size_t len = virtq_req_read(held[which], bytes, sizeof(bytes));

			assert_true(len <= sizeof(bytes));
			virtq_req_write(held[which], bytes, sizeof(bytes));
			virtq_device_push(r->device, &held[which], 1);
			held[which] = held[--n];
			x = next_random(&random);
		}
		virtq_device_publish(r->device);
		if (x >> 60 == 0)
			virtq_device_arm(r->device);
		if (x >> 60 == 1)
			virtq_device_disarm(r->device);
		if (rc < 0) {
			enum virtq_fault_code code = virtq_device_fault(r->device).code;

			assert_int_equal(rc, -EBADMSG);
			assert_int_not_equal(code, VIRTQ_FAULT_NONE);
			assert_true(code < VIRTQ_FAULT_USED_IDX);
			kinds += !faults[code]++;
			broken++;
		}
		if (rc < 0 || idle > 200) {
			idle = 0;
			while (n)
				virtq_device_push(r->device, &held[--n], 1);
			assert_int_equal(virtq_device_in_flight(r->device), 0);
			make_anew(&race);
		}
	} while (now_ms() < end || (now_ms() < end + RACE_PATIENCE_MS &&
				    (popped < 1000 || broken < 50 || kinds < 3)));
	race_end(&race);
	print_message("# %u requests, %u times broken in %u ways\n", popped, broken, kinds);
	assert_true(popped >= 1000);
	assert_true(broken >= 50);
	assert_true(kinds >= 3);
	/* Requests on loan go with the device. */
	rig_close(r);
}

int main(void)
{
	return race_run("racing drivers", "a driver thread rewrites the ring", test_race);
}
