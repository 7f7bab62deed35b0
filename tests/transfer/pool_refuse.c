/* SPDX-License-Identifier: MIT */
/* What a pool refuses, and that nothing has changed then: handles, offers, set-ups. */
#include "pool_rig.h"

static void test_handles_are_checked(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[3], bad, twice[2], zero = { 0, 0, 0 };
	struct virtq_span span;
	uint8_t byte;
	struct rig r;

	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_free(r.pool, &zero, 1), -ESTALE);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 3, 3000, chains, 0, NULL), 3);
	bad = chains[0];
	bad.slot = 24;
	assert_int_equal(virtq_pool_free(r.pool, &bad, 1), -ESTALE);
	bad.slot = UINT32_MAX;
	assert_int_equal(virtq_pool_recycle(r.pool, &bad, 1, 0), -ESTALE);
	bad.slot = chains[0].slot + 1;	/* the middle of it */
	assert_int_equal(virtq_pool_free(r.pool, &bad, 1), -ESTALE);
	bad.id = 0;
	assert_int_equal(virtq_pool_abandon(r.pool, &bad, 1), -ESTALE);
	assert_int_equal(virtq_pool_recycle(r.pool, chains, 3, 0), -EBUSY);
	assert_int_equal(virtq_pool_spans(r.pool, chains, VIRTQ_PART_WRITABLE, &span, 1), -EBUSY);
	assert_int_equal(virtq_pool_copy_out(r.pool, chains, VIRTQ_PART_WRITABLE, 0, &byte, 1),
			 -EBUSY);
	assert_int_equal(virtq_pool_copy_in(r.pool, chains, 0, &byte, 1), -EBUSY);

	assert_int_equal(rig_serve(&r, 3, 1, 0), 3);
	/* Used, but nobody has taken it. */
	assert_int_equal(virtq_pool_free(r.pool, chains, 1), -EBUSY);
	assert_int_equal(virtq_pool_take(r.pool, chains, 3, NULL), 3);
	/* The same one twice in a call: once. */
	twice[0] = twice[1] = chains[0];
	assert_int_equal(virtq_pool_recycle(r.pool, twice, 2, 0), 1);
	assert_int_equal(virtq_pool_recycle(r.pool, &chains[0], 1, 0), -ESTALE);
	twice[0] = twice[1] = chains[1];
	assert_int_equal(virtq_pool_free(r.pool, twice, 2), 1);
	assert_int_equal(virtq_pool_free(r.pool, &chains[1], 1), -ESTALE);
	assert_int_equal(virtq_pool_spans(r.pool, &chains[1], VIRTQ_PART_WRITABLE, &span, 1),
			 -ESTALE);
	assert_int_equal(virtq_pool_copy_out(r.pool, &chains[1], VIRTQ_PART_WRITABLE, 0, &byte, 1),
			 -ESTALE);
	assert_int_equal(virtq_pool_copy_in(r.pool, &chains[1], 0, &byte, 1), -ESTALE);
	assert_int_equal(virtq_pool_resize(r.pool, &chains[1], 1), -ESTALE);
	/* From the front, up to what is wrong. */
	twice[0] = chains[2];
	assert_int_equal(virtq_pool_free(r.pool, twice, 2), 1);
	assert_room(&r, 21, 0, 1);
	rig_close(&r);
}

/* A handle of another pool of the same shape is none of this one's. */
static void test_foreign_handles(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout), none = { .item_bytes = 64 };
	struct virtq_pool *refused;
	struct virtq_chain mine, theirs;
	struct rig a, b;

	rig_open(&a, *layout, &config);
	/* Also after many others, which need not have come to life. */
	for (unsigned int i = 0; i < 65535; i++)
		assert_int_equal(virtq_pool_create(&refused, &none, NULL), -EINVAL);
	rig_open(&b, *layout, &config);
	assert_int_equal(virtq_pool_alloc(a.pool, 10, 0, &mine), 0);
	assert_int_equal(virtq_pool_alloc(b.pool, 10, 0, &theirs), 0);
	assert_int_equal(mine.slot, theirs.slot);
	assert_int_equal(virtq_pool_free(a.pool, &theirs, 1), -ESTALE);
	assert_int_equal(virtq_pool_recycle(b.pool, &mine, 1, 0), -ESTALE);
	assert_int_equal(virtq_pool_free(a.pool, &mine, 1), 1);
	assert_int_equal(virtq_pool_free(b.pool, &theirs, 1), 1);
	rig_close(&a);
	rig_close(&b);
}

static void test_refused_offers_change_nothing(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	uint8_t data[64] = { 0 };
	struct virtq_span part = { data, 64 }, huge = { data, (size_t)UINT32_MAX + 1 };
	struct virtq_offer offers[3] = {
		{ .parts = &part, .part_count = 1 }, { .flags = 4, .writable_bytes = 1 },
	};
	struct virtq_offer none = { .flags = 0 }, null = { .header_bytes = 4 };
	struct virtq_offer null_and_more = { .header_bytes = 4, .parts = &part, .part_count = 1 };
	struct virtq_offer long_one = { .writable_bytes = 16 * ITEM + 1 };
	struct virtq_offer both = { .parts = &part, .part_count = 1,
				    .writable_bytes = 15 * ITEM + 1 };
	struct virtq_offer far_too_long = { .parts = &huge, .part_count = 1 };
	/* Together one byte, if a sum wraps. */
	struct virtq_span halves[] = { { data, SIZE_MAX / 2 + 1 }, { data, SIZE_MAX / 2 + 1 },
				       { data, 1 } };
	struct virtq_offer wrapped = { .parts = halves, .part_count = 3 };
	struct virtq_chain chains[24];
	struct rig r;

	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer(r.pool, &none, 1, NULL, 0, NULL), -EINVAL);
	assert_int_equal(virtq_pool_offer(r.pool, &null, 1, NULL, 0, NULL), -EINVAL);
	assert_int_equal(virtq_pool_offer(r.pool, &null_and_more, 1, NULL, 0, NULL), -EINVAL);
	assert_int_equal(virtq_pool_offer(r.pool, &offers[1], 1, NULL, 0, NULL), -EINVAL);
	assert_int_equal(virtq_pool_offer(r.pool, offers, 1, NULL, 2, NULL), -EINVAL);
	assert_int_equal(virtq_pool_recycle(r.pool, chains, 1, 2), -EINVAL);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 0, NULL, 0, NULL), -EINVAL);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 0, 0, NULL, 0, NULL), 0);
	/* S-DRV: no chain longer than the queue. At once, also to whoever would wait. */
	assert_int_equal(virtq_pool_offer(r.pool, &long_one, 1, NULL, 0, &forever), -EMSGSIZE);
	assert_int_equal(virtq_pool_offer(r.pool, &both, 1, NULL, 0, &forever), -EMSGSIZE);
	assert_int_equal(virtq_pool_offer(r.pool, &far_too_long, 1, NULL, 0, NULL), -EMSGSIZE);
	assert_int_equal(virtq_pool_offer(r.pool, &wrapped, 1, NULL, 0, NULL), -EMSGSIZE);
	assert_room(&r, 24, 0, 0);
	assert_int_equal(rig_serve(&r, 1, 0, 0), 0);
	/* Up to the first that is refused. */
	assert_int_equal(virtq_pool_offer(r.pool, offers, 3, chains, 0, NULL), 1);
	assert_int_equal(rig_serve(&r, 9, 0, 0), 1);
	/* As many as there is room for: ring entries, and then items. */
	assert_int_equal(virtq_pool_offer_writable(r.pool, 24, 1, chains, 0, NULL), 16);
	assert_int_equal(virtq_pool_offer(r.pool, offers, 1, chains, 0, NULL), -ENOSPC);
	assert_int_equal(rig_serve(&r, 24, 0, 0), 16);
	assert_room(&r, 7, 0, 17);
	rig_close(&r);

	config.items = 3;
	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 4 * ITEM, NULL, 0, NULL), -EMSGSIZE);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 2 * ITEM, chains, 0, NULL), 1);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 2, ITEM, chains, 0, NULL), 1);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 2, ITEM, chains, 0, NULL), -ENOSPC);
	rig_close(&r);

	config.items = 24;
	config.segs_max = 3;
	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 3 * ITEM + 1, NULL, 0, NULL),
			 -EMSGSIZE);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 3 * ITEM, NULL, 0, NULL), 1);
	rig_close(&r);
}

static void test_refused_configs(void **state)
{
	const struct layout *layout = *state;
	static const uint32_t sizes[] = { 0, 63, 65, 32, (1u << 30) + 64, UINT32_MAX };
	struct virtq_pool_config config = rig_config(*layout), bad;
	struct virtq_pool *pool = NULL;
	struct virtq_error err;

	for (unsigned int i = 0; i < 6; i++) {
		bad = config;
		bad.item_bytes = sizes[i];
		assert_int_equal(virtq_pool_create(&pool, &bad, &err), -EINVAL);
		assert_int_equal(virtq_pool_create(&pool, &bad, NULL), -EINVAL);
	}
	bad = config;
	bad.guard = true;
	assert_int_equal(virtq_pool_create(&pool, &bad, &err), -EINVAL);
	assert_non_null(strstr(err.text, "pages"));
	bad = config;
	bad.items = UINT32_MAX;
	assert_int_equal(virtq_pool_create(&pool, &bad, &err), -EINVAL);
	bad = config;
	bad.reserve_bytes = UINT64_MAX;
	assert_int_equal(virtq_pool_create(&pool, &bad, &err), -EINVAL);
	bad.reserve_bytes = UINT64_MAX - 8192;
	assert_int_equal(virtq_pool_create(&pool, &bad, &err), -EINVAL);
	bad = config;
	bad.size = 0;
	bad.items = 0;
	assert_int_equal(virtq_pool_create(&pool, &bad, &err), -EINVAL);
	bad = config;
	bad.gpa = 100;
	assert_int_equal(virtq_pool_create(&pool, &bad, &err), -EINVAL);
	assert_null(pool);
	/* As many items as entries, a gpa of one's own, nothing reserved. */
	config.items = 0;
	config.gpa = 0x10000000;
	config.reserve_bytes = 0;
	{
		struct virtq_chain chain;
		struct rig r;

		rig_open(&r, *layout, &config);
		assert_room(&r, 16, 0, 0);
		assert_int_equal(offer_one(&r, "abc", 3, 0, &chain), 1);
		assert_int_equal(rig_serve(&r, 1, 0, 0), 1);
		assert_memory_equal(r.seen, "abc", 3);
		rig_close(&r);
	}
}

int main(void)
{
	static const struct in_all tests[] = {
		IN_ALL(test_handles_are_checked),
		IN_ALL(test_foreign_handles),
		IN_ALL(test_refused_offers_change_nothing),
		IN_ALL(test_refused_configs),
	};

	return run_in_all("pool refuse", tests, sizeof(tests) / sizeof(tests[0]));
}
