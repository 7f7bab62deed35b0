/* SPDX-License-Identifier: MIT */
/*
 * The pool: what goes in comes out, and every chain is somebody's, in every layout with a
 * device in the same process. What it refuses is in pool_refuse.c, waiting, resets and
 * guard mode in pool_life.c, several threads in pool_threads.c.
 */
#include "pool_rig.h"

/* ---- Contents ---------------------------------------------------------------------- */

/* S-DRV-040: what is readable stands in front. */
static void test_contents_and_split_over_items(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	uint8_t header[12], data[3000], out[8192];
	struct virtq_span parts[] = {
		{ data, 100 }, { data + 100, 0 }, { data + 100, 2900 },
	}, spans[8];
	struct virtq_offer offer = { .header = header, .header_bytes = 12, .parts = parts,
				     .part_count = 3, .writable_bytes = 5000 };
	struct virtq_chain chain, taken;
	struct rig r;

	rig_open(&r, *layout, &config);
	fill(header, 1, sizeof(header));
	fill(data, 2, sizeof(data));
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, &chain, 0, NULL), 1);
	/* 3012 bytes are 3 items, 5000 are 5; one chain, whatever the items. */
	assert_room(&r, 24 - 8, 0, 1);
	assert_int_equal(rig_serve(&r, 9, 2500, 3), 1);
	assert_int_equal(r.seen_bytes, 3012);
	assert_int_equal(r.seen_spans, 3);
	assert_filled(r.seen, 1, 12);
	assert_filled(r.seen + 12, 2, 3000);

	assert_int_equal(virtq_pool_take(r.pool, &taken, 1, NULL), 1);
	assert_true(taken.id == chain.id && taken.slot == chain.slot);
	assert_int_equal(taken.written, 2500);
	assert_int_equal(virtq_pool_spans(r.pool, &taken, VIRTQ_PART_READABLE, spans, 8), 3);
	assert_int_equal(virtq_pool_spans(r.pool, &taken, VIRTQ_PART_WRITABLE, spans, 8), 5);
	assert_int_equal(spans[4].len, 5000 - 4 * ITEM);
	assert_int_equal(virtq_pool_spans(r.pool, &taken, VIRTQ_PART_WRITTEN, spans, 2), -ENOSPC);
	assert_int_equal(virtq_pool_spans(r.pool, &taken, VIRTQ_PART_WRITTEN, spans, 3), 3);
	assert_int_equal(spans[2].len, 2500 - 2 * ITEM);
	assert_int_equal(virtq_pool_spans(r.pool, &taken, (enum virtq_part)7, spans, 3), -EINVAL);

	assert_int_equal(virtq_pool_copy_out(r.pool, &taken, VIRTQ_PART_WRITTEN, 0, out, 8192),
			 2500);
	assert_filled(out, 3, 2500);
	/* With a limit, over a border, at the end, behind it. */
	assert_int_equal(virtq_pool_copy_out(r.pool, &taken, VIRTQ_PART_WRITTEN, 1000, out, 100),
			 100);
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(out[i], pattern(3, 1000 + i));
	assert_int_equal(virtq_pool_copy_out(r.pool, &taken, VIRTQ_PART_WRITTEN, 2 * ITEM, out,
					     8192), 2500 - 2 * (int)ITEM);
	assert_int_equal(out[0], pattern(3, 2 * ITEM));
	assert_int_equal(virtq_pool_copy_out(r.pool, &taken, VIRTQ_PART_WRITTEN, 2500, out, 9), 0);
	assert_int_equal(virtq_pool_copy_out(r.pool, &taken, VIRTQ_PART_WRITTEN, UINT32_MAX, out,
					     9), 0);
	assert_int_equal(virtq_pool_copy_out(r.pool, &taken, VIRTQ_PART_WRITABLE, 4999, out, 9),
			 1);
	assert_int_equal(virtq_pool_copy_out(r.pool, &taken, VIRTQ_PART_READABLE, 12, out, 8192),
			 3000);
	assert_filled(out, 2, 3000);

	/* The readable part may be written, too, up to its end. */
	fill(data, 5, 3000);
	assert_int_equal(virtq_pool_copy_in(r.pool, &taken, 2000, data, 3000), 1012);
	assert_int_equal(virtq_pool_recycle(r.pool, &taken, 1, 0), 1);
	assert_int_equal(rig_serve(&r, 9, 0, 0), 1);
	assert_filled(r.seen + 2000, 5, 1012);
	assert_int_equal(virtq_pool_take(r.pool, &taken, 1, NULL), 1);
	assert_int_equal(taken.written, 0);
	assert_int_equal(virtq_pool_spans(r.pool, &taken, VIRTQ_PART_WRITTEN, spans, 0), 0);
	assert_int_equal(virtq_pool_free(r.pool, &taken, 1), 1);
	assert_room(&r, 24, 0, 0);
	rig_close(&r);
}

static void test_header_by_reference(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_span part;
	struct virtq_offer offer = { .flags = VIRTQ_OFFER_REFERENCE };
	struct virtq_chain chain;
	uint8_t *reserved, data[40];
	struct rig r;

	rig_open(&r, *layout, &config);
	reserved = virtq_pool_reserved(r.pool);
	assert_int_equal((uintptr_t)reserved % 64, 0);
	fill(data, 4, sizeof(data));
	part = (struct virtq_span){ data, sizeof(data) };
	offer.header = reserved + 100;
	offer.header_bytes = 10;
	offer.parts = &part;
	offer.part_count = 1;
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, &chain, 0, NULL), 1);
	fill(reserved + 100, 6, 10);
	assert_int_equal(rig_serve(&r, 1, 0, 0), 1);
	assert_int_equal(r.seen_bytes, 50);
	assert_int_equal(r.seen_spans, 2);
	assert_filled(r.seen, 6, 10);
	assert_filled(r.seen + 10, 4, 40);
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
	/* The header stays where it is when the chain goes out again, shorter. */
	assert_int_equal(virtq_pool_resize(r.pool, &chain, 7), 0);
	assert_int_equal(virtq_pool_recycle(r.pool, &chain, 1, 0), 1);
	assert_int_equal(rig_serve(&r, 1, 0, 0), 1);
	assert_int_equal(r.seen_bytes, 17);
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
	assert_int_equal(virtq_pool_free(r.pool, &chain, 1), 1);

	/* Nothing but a header: it takes an item all the same. */
	offer.part_count = 0;
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), 1);
	assert_room(&r, 23, 0, 1);
	assert_int_equal(rig_serve(&r, 1, 0, 0), 1);
	assert_int_equal(r.seen_bytes, 10);
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
	assert_int_equal(virtq_pool_resize(r.pool, &chain, 1), -EMSGSIZE);
	assert_int_equal(virtq_pool_resize(r.pool, &chain, 0), 0);
	assert_int_equal(virtq_pool_free(r.pool, &chain, 1), 1);

	/* Only in reserved memory, to the last byte of it. */
	offer.header = reserved + 190;
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), 1);
	offer.header = reserved + 191;
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), -EFAULT);
	offer.header = reserved - 1;
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), -EFAULT);
	offer.header = data;
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), -EFAULT);
	offer.header = reserved;
	offer.header_bytes = UINT32_MAX;
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), -EFAULT);
	/* With nothing to refer to there is no chain. */
	offer.header_bytes = 0;
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), -EINVAL);
	rig_close(&r);
}

/* A chain for each packet, or one for all; and all that came of it in pieces. */
static void test_batches_and_leftovers(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[16], taken[16];
	struct virtq_offer offers[10];
	struct virtq_span parts[10];
	uint8_t data[10][60];
	struct rig r;

	rig_open(&r, *layout, &config);
	for (unsigned int i = 0; i < 10; i++) {
		fill(data[i], i, 60);
		parts[i] = (struct virtq_span){ data[i], 60 };
		offers[i] = (struct virtq_offer){ .parts = &parts[i], .part_count = 1 };
	}
	/* The middle one is another kind, so that fast and slow ways follow each other. */
	offers[4].writable_bytes = 8;
	assert_int_equal(virtq_pool_offer(r.pool, offers, 10, chains, 0, NULL), 10);
	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(rig_serve(&r, 1, 4, i), 1);
		assert_int_equal(r.seen_bytes, 60);
		assert_filled(r.seen, i, 60);
	}
	for (unsigned int i = 0; i < 10; i += 4) {
		int want = i + 4 <= 10 ? 4 : 2;

		assert_int_equal(virtq_pool_take(r.pool, taken, 4, NULL), want);
		for (int k = 0; k < want; k++) {
			assert_true(taken[k].id == chains[i + k].id);
			assert_int_equal(taken[k].written, i + k == 4 ? 4 : 0);
		}
		assert_int_equal(virtq_pool_free(r.pool, taken, want), want);
	}
	assert_int_equal(virtq_pool_take(r.pool, taken, 4, NULL), 0);

	offers[0].part_count = 10;
	offers[0].parts = parts;
	assert_int_equal(virtq_pool_offer(r.pool, offers, 1, chains, 0, NULL), 1);
	assert_int_equal(rig_serve(&r, 9, 0, 0), 1);
	assert_int_equal(r.seen_bytes, 600);
	for (unsigned int i = 0; i < 10; i++)
		assert_filled(r.seen + 60 * i, i, 60);
	assert_int_equal(virtq_pool_take(r.pool, taken, 0, &forever), 0);
	rig_close(&r);
}

/* ---- Round and round ---------------------------------------------------------------- */

static void test_recycling(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[16], old[16];
	struct rig r;

	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 200, chains, 0, NULL), 16);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 200, old, 0, NULL), -ENOSPC);
	for (unsigned int turn = 0; turn < 50; turn++) {
		unsigned int n = 1 + turn % 16;
		unsigned int first = turn & 1 ? n / 2 : n;
		uint8_t out[200];

		assert_int_equal(rig_serve(&r, n, 100 + turn, turn), n);
		assert_int_equal(virtq_pool_take(r.pool, chains, 16, NULL), n);
		for (unsigned int i = 0; i < n; i++) {
			assert_int_equal(chains[i].written, 100 + turn);
			assert_int_equal(virtq_pool_copy_out(r.pool, &chains[i],
					 VIRTQ_PART_WRITTEN, 0, out, 200), 100 + turn);
			assert_filled(out, turn + i, 100 + turn);
		}
		memcpy(old, chains, sizeof(chains));
		/* No more than is asked for, though what follows could be recycled, too. */
		assert_int_equal(virtq_pool_recycle(r.pool, chains, first, 0), first);
		assert_int_equal(virtq_pool_recycle(r.pool, chains + first, n - first, 0),
				 n - first);
		for (unsigned int i = 0; i < n; i++) {
			assert_true(chains[i].id > old[i].id && chains[i].slot == old[i].slot);
			assert_int_equal(virtq_pool_free(r.pool, &old[i], 1), -ESTALE);
			assert_int_equal(virtq_pool_free(r.pool, &chains[i], 1), -EBUSY);
		}
		assert_room(&r, 8, 0, 16);
	}
	rig_close(&r);
}

static void test_recycling_of_all_kinds(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[4];
	uint8_t data[2500];
	struct rig r;

	rig_open(&r, *layout, &config);
	fill(data, 9, sizeof(data));
	assert_int_equal(offer_one(&r, data, 2500, 0, &chains[0]), 1);
	assert_int_equal(offer_one(&r, data, 30, 0, &chains[1]), 1);
	assert_int_equal(offer_one(&r, data, 30, 1500, &chains[2]), 1);
	assert_int_equal(offer_one(&r, NULL, 0, 3000, &chains[3]), 1);
	for (unsigned int turn = 0; turn < 20; turn++) {
		static const size_t bytes[] = { 2500, 30, 30, 0 };
		static const uint32_t written[] = { 0, 0, 1500, 1700 };

		for (unsigned int i = 0; i < 4; i++) {
			assert_int_equal(rig_serve(&r, 1, 1700, i), 1);
			assert_int_equal(r.seen_bytes, bytes[i]);
			assert_filled(r.seen, 9, bytes[i]);
		}
		assert_int_equal(virtq_pool_take(r.pool, chains, 4, NULL), 4);
		for (unsigned int i = 0; i < 4; i++)
			assert_int_equal(chains[i].written, written[i]);
		assert_room(&r, 24 - 3 - 1 - 3 - 3, 4, 0);
		assert_int_equal(virtq_pool_recycle(r.pool, chains, 4, 0), 4);
	}
	assert_int_equal(rig_serve(&r, 4, 0, 0), 4);
	assert_int_equal(virtq_pool_take(r.pool, chains, 4, NULL), 4);
	assert_int_equal(virtq_pool_free(r.pool, chains, 4), 4);
	assert_room(&r, 24, 0, 0);
	assert_int_equal(virtq_pool_room(r.pool).entries, 16);
	rig_close(&r);
}

static void test_resize(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	static const uint32_t lengths[] = { 1, ITEM, ITEM + 1, 2048, 2049, 3072, 7 };
	struct virtq_chain chain, single;
	uint8_t data[3072];
	struct rig r;

	rig_open(&r, *layout, &config);
	fill(data, 3, sizeof(data));
	assert_int_equal(offer_one(&r, data, 2100, 900, &chain), 1);
	assert_int_equal(virtq_pool_resize(r.pool, &chain, 4), -EBUSY);
	for (unsigned int i = 0; i < 7; i++) {
		assert_int_equal(rig_serve(&r, 1, 900, i), 1);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(chain.written, 900);
		assert_int_equal(virtq_pool_resize(r.pool, &chain, 3073), -EMSGSIZE);
		assert_int_equal(virtq_pool_resize(r.pool, &chain, UINT32_MAX), -EMSGSIZE);
		assert_int_equal(virtq_pool_resize(r.pool, &chain, 0), -EINVAL);
		assert_int_equal(virtq_pool_resize(r.pool, &chain, lengths[i]), 0);
		assert_int_equal(virtq_pool_copy_in(r.pool, &chain, 0, data, 3072), lengths[i]);
		assert_int_equal(virtq_pool_recycle(r.pool, &chain, 1, 0), 1);
		assert_room(&r, 20, 0, 1);
		assert_int_equal(rig_serve(&r, 1, 900, i), 1);
		assert_int_equal(r.seen_bytes, lengths[i]);
		assert_int_equal(r.seen_spans, (lengths[i] + ITEM - 1) / ITEM);
		assert_filled(r.seen, 3, lengths[i]);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(virtq_pool_recycle(r.pool, &chain, 1, 0), 1);
	}
	/* One item, which goes the fast way before and after. */
	assert_int_equal(offer_one(&r, data, 100, 0, &single), 1);
	assert_int_equal(rig_serve(&r, 2, 0, 0), 2);
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
	assert_int_equal(virtq_pool_take(r.pool, &single, 1, NULL), 1);
	assert_int_equal(virtq_pool_resize(r.pool, &single, ITEM + 1), -EMSGSIZE);
	assert_int_equal(virtq_pool_resize(r.pool, &single, ITEM), 0);
	assert_int_equal(virtq_pool_copy_in(r.pool, &single, 0, data, 3072), ITEM);
	assert_int_equal(virtq_pool_recycle(r.pool, &single, 1, 0), 1);
	assert_int_equal(rig_serve(&r, 1, 0, 0), 1);
	assert_int_equal(r.seen_bytes, ITEM);
	/* Resized, and then given up. */
	assert_int_equal(virtq_pool_take(r.pool, &single, 1, NULL), 1);
	assert_int_equal(virtq_pool_resize(r.pool, &single, 3), 0);
	assert_int_equal(virtq_pool_free(r.pool, &single, 1), 1);
	assert_int_equal(virtq_pool_free(r.pool, &chain, 1), 1);
	/* Without readable items none grow, with a header by reference or without. */
	for (unsigned int header = 0; header < 2; header++) {
		struct virtq_offer offer = {
			.header = virtq_pool_reserved(r.pool), .header_bytes = 12 * header,
			.flags = header ? VIRTQ_OFFER_REFERENCE : 0, .writable_bytes = 100,
		};

		assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), 1);
		assert_int_equal(rig_serve(&r, 1, 0, 0), 1);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(virtq_pool_resize(r.pool, &chain, 1), -EMSGSIZE);
		assert_int_equal(virtq_pool_resize(r.pool, &chain, 0), 0);
		assert_int_equal(virtq_pool_free(r.pool, &chain, 1), 1);
	}
	assert_room(&r, 24, 0, 0);
	assert_int_equal(virtq_pool_room(r.pool).entries, 16);
	rig_close(&r);
}

static void test_built_in_place(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chain, other;
	struct virtq_span spans[4];
	struct rig r;

	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_alloc(r.pool, 0, 0, &chain), -EINVAL);
	assert_int_equal(virtq_pool_alloc(r.pool, 17 * ITEM, 0, &chain), -EMSGSIZE);
	assert_int_equal(virtq_pool_alloc(r.pool, UINT32_MAX, UINT32_MAX, &chain), -EMSGSIZE);
	assert_int_equal(virtq_pool_alloc(r.pool, 1500, 600, &chain), 0);
	assert_int_equal(virtq_pool_spans(r.pool, &chain, VIRTQ_PART_WRITTEN, spans, 4), 0);
	assert_int_equal(virtq_pool_spans(r.pool, &chain, VIRTQ_PART_READABLE, spans, 4), 2);
	fill(spans[0].base, 8, ITEM);
	memset(spans[1].base, 0x77, spans[1].len);
	assert_int_equal(virtq_pool_recycle(r.pool, &chain, 1, 0), 1);
	assert_int_equal(rig_serve(&r, 1, 9999, 4), 1);
	assert_int_equal(r.seen_bytes, 1500);
	assert_filled(r.seen, 8, ITEM);
	assert_int_equal(r.seen[1499], 0x77);
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
	assert_int_equal(chain.written, 600);
	/* Items for no more than there are. */
	assert_int_equal(virtq_pool_alloc(r.pool, 16 * ITEM, 0, &other), 0);
	assert_int_equal(virtq_pool_alloc(r.pool, 5 * ITEM + 1, 0, &chain), -ENOSPC);
	assert_int_equal(virtq_pool_alloc(r.pool, 5 * ITEM, 0, &chain), 0);
	assert_room(&r, 0, 3, 0);
	rig_close(&r);
}

/* ---- Whose is it? -------------------------------------------------------------------- */

static void test_forgotten_and_abandoned(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	uint8_t data[ITEM + 1] = { 1 };
	struct virtq_span part = { data, 40 };
	struct virtq_offer offer = { .parts = &part, .part_count = 1,
				     .flags = VIRTQ_OFFER_FORGET };
	struct virtq_chain chains[16], fresh;
	struct rig r;

	rig_open(&r, *layout, &config);
	/* Fired and forgotten: what comes back makes room without being taken. */
	for (unsigned int i = 0; i < 200; i++) {
		part.len = i % 5 ? 40 : ITEM + 1;
		if (virtq_pool_offer(r.pool, &offer, 1, chains, 0, NULL) == 1)
			continue;
		assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, chains, 0, NULL), -ENOSPC);
		assert_true(rig_serve(&r, 16, 0, 0) > 0);
		assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, chains, 0, NULL), 1);
	}
	rig_serve(&r, 16, 0, 0);
	assert_int_equal(virtq_pool_take(r.pool, chains, 16, NULL), 0);
	assert_room(&r, 24, 0, 0);
	assert_int_equal(virtq_pool_room(r.pool).entries, 16);
	/* Its handle is good for abandoning it, and for nothing else. */
	for (unsigned int turn = 0; turn < 2; turn++) {
		assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, chains, 0, NULL), 1);
		assert_int_equal(virtq_pool_free(r.pool, chains, 1), -EBUSY);
		assert_int_equal(virtq_pool_recycle(r.pool, chains, 1, 0), -EBUSY);
		assert_int_equal(virtq_pool_resize(r.pool, chains, 1), -EBUSY);
		if (turn) {
			assert_int_equal(virtq_pool_abandon(r.pool, chains, 1), 1);
			assert_int_equal(virtq_pool_free(r.pool, chains, 1), -ESTALE);
		}
		assert_int_equal(rig_serve(&r, 16, 0, 0), 1);
		assert_int_equal(virtq_pool_take(r.pool, &fresh, 1, NULL), 0);
		assert_int_equal(virtq_pool_free(r.pool, chains, 1), -ESTALE);
		assert_int_equal(virtq_pool_abandon(r.pool, chains, 1), -ESTALE);
		assert_room(&r, 24, 0, 0);
	}

	/* Abandoned in flight, when taken, and when used but not taken. */
	assert_int_equal(virtq_pool_offer_writable(r.pool, 6, 1500, chains, 0, NULL), 6);
	assert_int_equal(virtq_pool_abandon(r.pool, &chains[0], 1), 1);
	assert_int_equal(virtq_pool_abandon(r.pool, &chains[0], 1), -ESTALE);
	assert_int_equal(virtq_pool_free(r.pool, &chains[0], 1), -ESTALE);
	assert_room(&r, 12, 0, 6);
	assert_int_equal(rig_serve(&r, 3, 2, 0), 3);
	assert_int_equal(virtq_pool_take(r.pool, &fresh, 1, NULL), 1);
	assert_true(fresh.id == chains[1].id);
	assert_int_equal(virtq_pool_abandon(r.pool, &fresh, 1), 1);
	/* A look for ring entries that there are not, which finds number 2 and lays it by. */
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 16 * ITEM, &fresh, 0, NULL),
			 -ENOSPC);
	assert_int_equal(virtq_pool_abandon(r.pool, &chains[2], 1), 1);
	assert_int_equal(virtq_pool_take(r.pool, &fresh, 1, NULL), 0);
	assert_int_equal(rig_serve(&r, 16, 2, 0), 3);
	assert_int_equal(virtq_pool_abandon(r.pool, &chains[4], 1), 1);
	assert_int_equal(virtq_pool_take(r.pool, chains, 16, NULL), 2);
	assert_int_equal(virtq_pool_free(r.pool, chains, 2), 2);
	assert_room(&r, 24, 0, 0);
	assert_int_equal(virtq_pool_room(r.pool).entries, 16);
	rig_close(&r);
}

/* A chain keeps its slot as it goes round, and nobody else has it. */
static void test_where_the_items_are(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[16], taken[16];
	uint64_t ids[24] = { 0 };	/* of who has the slot */
	struct virtq_pool_items items;
	const struct virtq_region *region;
	struct virtq_span span;
	unsigned int count;
	struct rig r;

	config.gpa = 0x40000000;
	rig_open(&r, *layout, &config);
	region = virtq_port_regions(r.port, &count);
	items = virtq_pool_items(r.pool);
	assert_int_equal(items.count, 24);
	assert_int_equal(items.item_bytes, ITEM);
	assert_int_equal(items.gpa % 4096, 0);
	assert_true(items.gpa >= region->gpa && items.gpa + 24 * ITEM <= region->gpa +
		    region->size_bytes);
	assert_ptr_equal(items.base, (uint8_t *)region->host + (items.gpa - region->gpa));
	assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 64, chains, 0, NULL), 16);
	for (unsigned int i = 0; i < 16; i++) {
		assert_true(chains[i].slot < items.count);
		assert_int_equal(ids[chains[i].slot], 0);
		ids[chains[i].slot] = chains[i].id;
	}
	for (unsigned int round = 0; round < 5; round++) {
		struct virtq_req *req;

		/* The device sees the oldest where it is said to be. */
		assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
		assert_ptr_equal(req->wr.spans[0].base, far_ptr(&r.far, (uint8_t *)items.base +
				 (size_t)chains[0].slot * ITEM));
		virtq_device_push(r.far.device, &req, 1);
		virtq_device_publish(r.far.device);
		rig_serve(&r, 15, 1, 0);
		assert_int_equal(virtq_pool_take(r.pool, taken, 16, NULL), 16);
		for (unsigned int i = 0; i < 16; i++) {
			assert_int_equal(taken[i].id, ids[taken[i].slot]);
			assert_int_equal(virtq_pool_spans(r.pool, &taken[i], VIRTQ_PART_WRITABLE,
							  &span, 1), 1);
			assert_ptr_equal(span.base, (uint8_t *)items.base +
						    (size_t)taken[i].slot * ITEM);
		}
		assert_int_equal(virtq_pool_recycle(r.pool, taken, 16, 0), 16);
		for (unsigned int i = 0; i < 16; i++)
			ids[taken[i].slot] = taken[i].id;
		memcpy(chains, taken, sizeof(chains));
	}
	rig_close(&r);
}

/* Chains that the caller has stand in nobody's way in the ring, kept entries or not. */
static void test_held_chains_take_no_room(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain held[16], other[8];
	struct rig r;

	rig_open(&r, *layout, &config);
	for (unsigned int turn = 0; turn < 3; turn++) {
		assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 100, NULL, 0, NULL), 16);
		assert_int_equal(rig_serve(&r, 16, 10, turn), 16);
		assert_int_equal(virtq_pool_take(r.pool, held, 16, NULL), 16);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 8, 100, other, 0, &forever), 8);
		/* Half of the ring is left, for whatever has kept entries or has none. */
		assert_int_equal(virtq_pool_recycle(r.pool, held, 16, 0), 8);
		assert_int_equal(virtq_pool_recycle(r.pool, held + 8, 8, 0), -ENOSPC);
		assert_int_equal(rig_serve(&r, 16, 10, turn), 16);
		assert_int_equal(virtq_pool_recycle(r.pool, held + 8, 8, 0), -ENOSPC);
		assert_int_equal(virtq_pool_take(r.pool, other, 8, NULL), 8);
		assert_int_equal(virtq_pool_recycle(r.pool, held + 8, 8, 0), 8);
		assert_int_equal(virtq_pool_free(r.pool, other, 8), 8);
		assert_int_equal(rig_serve(&r, 16, 10, turn), 8);
		assert_int_equal(virtq_pool_take(r.pool, held, 16, NULL), 16);
		assert_int_equal(virtq_pool_free(r.pool, held, 16), 16);
		assert_room(&r, 24, 0, 0);
	}
	rig_close(&r);
}

int main(void)
{
	static const struct in_all tests[] = {
		IN_ALL(test_contents_and_split_over_items),
		IN_ALL(test_header_by_reference),
		IN_ALL(test_batches_and_leftovers),
		IN_ALL(test_recycling),
		IN_ALL(test_recycling_of_all_kinds),
		IN_ALL(test_resize),
		IN_ALL(test_built_in_place),
		IN_ALL(test_forgotten_and_abandoned),
		IN_ALL(test_held_chains_take_no_room),
		IN_ALL(test_where_the_items_are),
	};

	return run_in_all("pool", tests, sizeof(tests) / sizeof(tests[0]));
}
