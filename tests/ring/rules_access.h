/* SPDX-License-Identifier: MIT */
/* Three buffers under watch, the shapes of ring they go through, and what no access may be. */
#ifndef TESTS_RING_RULES_ACCESS_H
#define TESTS_RING_RULES_ACCESS_H

#include "watch.h"

#define A RIG_DATA_GPA
#define W RIG_WRITABLE_GPA
#define BUFFERS 3u

/* One readable; two; and three with a part to write. In tables where agreed. */
static const struct virtq_seg segs[] = { { A, 4 }, { W, 8 }, { W + 64, 16 } };
static const struct virtq_buffer buffers[BUFFERS] = {
	{ segs, 1, 0, (void *)1 }, { segs, 1, 1, (void *)2 }, { segs, 1, 2, (void *)3 },
};
static const uint32_t writable_bytes[BUFFERS] = { 0, 8, 24 };

static inline void open_rig(struct rig *r, const struct shape *shape)
{
	rig_open(r, shape, RIG_BOTH);
	/* The first decisions are made without a look at the peer's words. */
	rig_send(r, 1);
	rig_serve(r, 1);
	rig_collect(r, 1);
}

static inline void send_all(struct rig *r)
{
	assert_int_equal(virtq_driver_add(r->driver, buffers, BUFFERS), BUFFERS);
	virtq_driver_publish(r->driver);
}

static inline uint32_t entries(const struct rig *r, uint32_t buffer)
{
	return r->shape.indirect ? 1 : buffer + 1;
}

/* Packed: the slot of the first descriptor of a buffer, after open_rig(). */
static inline uint32_t slot_of(const struct rig *r, uint32_t buffer)
{
	uint32_t slot = r->shape.start + 1;

	for (uint32_t i = 0; i < buffer; i++)
		slot += entries(r, i);
	return slot % r->shape.size;
}

/*
 * No field of a ring has less than 16 bits, and all are aligned: an access that
 * begins at an odd address is part of one that was taken to pieces.
 */
static inline void no_pieces(void)
{
	for (size_t i = 0; i < watch_count; i++)
		if (watch_log[i].area != AREA_DATA && watch_log[i].off % 2)
			fail_msg("access %zu begins at an odd offset, %u", i, watch_log[i].off);
}

/*
 * Whose turn each slot of a packed ring is, by its AVAIL and USED bits, looked at after
 * every access of the end under watch: it changes once, from what it was to what it shall
 * be. Flags that are written in pieces show one bit without the other.
 */
#define TURN (F_AVAIL | F_USED)

struct turns_seen {
	struct rig *r;
	uint16_t turn[16];
	unsigned int changes[16];
	int when[16];		/* the access that changed it last */
};

static inline struct turns_seen turns_first(struct rig *r)
{
	struct turns_seen s = { .r = r };

	assert_true(r->shape.size <= 16);
	for (uint32_t slot = 0; slot < r->shape.size; slot++)
		s.turn[slot] = get16(r->desc.driver + 16 * (size_t)slot + 14) & TURN;
	return s;
}

/* In the handler of the single step: only the view that is not under watch may be read. */
static inline void turns_look(struct turns_seen *s, const uint8_t *desc,
			      const struct access *a)
{
	for (uint32_t slot = 0; slot < s->r->shape.size; slot++) {
		uint16_t now = get16(desc + 16 * (size_t)slot + 14) & TURN;

		if (now == s->turn[slot])
			continue;
		s->changes[slot]++;
		s->turn[slot] = now;
		s->when[slot] = (int)(a - watch_log);
	}
}

static inline void never(enum area area, bool write, const char *what)
{
	int at = watch_find(0, area, 0, WHOLE_AREA, write);

	if (at >= 0)
		fail_msg("%s: access %d, offset %u", what, at, watch_log[at].off);
}

static struct shape shapes[] = {
	{ .size = 16, .name = "split" },
	{ .size = 8, .event_idx = true, .indirect = true, .moved = true, .start = 65533,
	  .name = "split event indirect from 65533" },
	{ .size = 16, .in_order = true, .name = "split in order" },
	{ .packed = true, .size = 11, .name = "packed" },
	{ .packed = true, .size = 7, .event_idx = true, .moved = true, .start = 4,
	  .name = "packed event, lap ends" },
	{ .packed = true, .size = 5, .event_idx = true, .indirect = true, .moved = true,
	  .start = 2, .name = "packed event indirect, lap ends" },
	{ .packed = true, .size = 11, .in_order = true, .moved = true, .start = 5,
	  .name = "packed in order" },
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

#endif
