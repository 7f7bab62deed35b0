/* SPDX-License-Identifier: MIT */
/*
 * When a write is stable: FLUSH, and the cache mode that a driver has negotiated
 * or switched to (5.2.5.1, 5.2.6.2). What a store does about a piece of work that
 * has to be stable is its own tests' business.
 */
#include "blk_rig.h"

#include <stddef.h>

#define FLUSH VIRTIO_BLK_F_FLUSH
#define WCE VIRTIO_BLK_F_CONFIG_WCE
#define WRITEBACK_AT 32u		/* in configuration space */

_Static_assert(offsetof(struct virtq_blk_config_le, writeback) == WRITEBACK_AT, "5.2.4");

static int set_writeback(struct rig *r, uint8_t value)
{
	return r->model->ops->config_write(r->model, WRITEBACK_AT, &value, 1);
}

/* Is a write told to be stable when it ends? Nothing else ever is. */
static bool writes_are_stable(struct rig *r)
{
	struct virtq_blk_discard_write_zeroes range;
	uint32_t flags;

	assert_int_equal(rig_do(r, VIRTIO_BLK_T_OUT, 1, 512, 0), VIRTIO_BLK_S_OK);
	flags = r->shelf->seen[0].flags;
	shelf_assert(r->shelf, 0, VIRTQ_STORE_WRITE, flags, 512, 512);
	assert_int_equal(flags & ~VIRTQ_STORE_STABLE, 0);
	assert_int_equal(r->shelf->count, 1);

	virtq_blk_range(&range, 2, 1, false);
	assert_int_equal(rig_send(r, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range, sizeof(range)),
			 VIRTIO_BLK_S_OK);
	shelf_assert(r->shelf, 0, VIRTQ_STORE_ZERO, flags, 1024, 512);
	assert_int_equal(r->shelf->count, 1);
	assert_int_equal(rig_send(r, VIRTIO_BLK_T_DISCARD, 0, &range, sizeof(range)),
			 VIRTIO_BLK_S_OK);
	shelf_assert(r->shelf, 0, VIRTQ_STORE_DISCARD, 0, 1024, 512);
	assert_int_equal(rig_do(r, VIRTIO_BLK_T_IN, 1, 0, 512), VIRTIO_BLK_S_OK);
	shelf_assert(r->shelf, 0, VIRTQ_STORE_READ, 0, 512, 512);
	return flags;
}

/* BLK-DEV-018. */
static void flush_gets_to_the_store(void **state)
{
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	shelf_assert(r.shelf, 0, VIRTQ_STORE_FLUSH, 0, 0, 0);
	assert_int_equal(r.shelf->count, 1);
	assert_int_equal(r.used_bytes, 1);
	/* A sector and data, which a driver should not send, do not matter. */
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_FLUSH, UINT64_MAX, 512, 0), VIRTIO_BLK_S_OK);

	r.shelf->fail_with = -EIO;
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	rig_assert_unchanged(&r);
	rig_close(&r);
}

/* What a driver agrees to, what it then writes to writeback, and what that makes of its writes. */
static const struct mode {
	bool option;			/* write_through */
	bool flush, wce;		/* accepted */
	int write;			/* to writeback, -1 for nothing */
	bool writeback, stable;		/* then */
} modes[] = {
	{ false, false, false, -1, true, true },	/* it cannot flush */
	{ false, true, false, -1, true, false },
	{ false, true, true, -1, true, false },
	{ false, true, true, 0, false, true },
	{ false, true, true, 1, true, false },
	{ false, false, true, -1, false, true },	/* begins at 0 */
	{ false, false, true, 0, false, true },
	{ false, false, true, 1, true, false },		/* as it wishes */
	{ true, false, false, -1, false, true },
	{ true, true, false, -1, false, true },
	{ true, true, true, -1, false, true },
	{ true, true, true, 1, true, false },
};

/* BLK-DEV-003, BLK-DEV-017. */
static void stable_where_the_driver_relies_on_it(void **state)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		const struct mode *m = &modes[i];
		struct rig r;

		rig_open(&r, state, (struct virtq_blk_options){ .write_through = m->option });
		/* Nobody has said yet that he will flush. */
		assert_true(writes_are_stable(&r));
		assert_int_equal(rig_config(&r).writeback, !m->option);
		rig_accept(&r, rig_features(&r, m->flush ? VIRTIO_BLK_F_RO : FLUSH,
					    m->wce ? VIRTIO_BLK_F_RO : WCE));
		if (m->write >= 0)
			assert_int_equal(set_writeback(&r, (uint8_t)m->write), 0);
		assert_int_equal(rig_config(&r).writeback, m->writeback);
		assert_int_equal(writes_are_stable(&r), m->stable);

		/* The same again, as transports say it when a ring starts: nothing changes. */
		if (m->flush) {
			rig_accept(&r, rig_features(&r, VIRTIO_BLK_F_RO,
						    m->wce ? VIRTIO_BLK_F_RO : WCE));
			assert_int_equal(rig_config(&r).writeback, m->writeback);
			assert_int_equal(writes_are_stable(&r), m->stable);
		}
		r.model->ops->reset(r.model);
		assert_int_equal(rig_config(&r).writeback, !m->option);
		assert_true(writes_are_stable(&r));
		rig_close(&r);
	}
}

/* BLK-DEV-001..002. */
static void flush_and_writeback_are_always_offered(void **state)
{
	for (int i = 0; i < 4; i++) {
		struct rig r;

		rig_open(&r, state, (struct virtq_blk_options){ .read_only = i & 1,
								.write_through = i & 2 });
		assert_true(virtq_features_has(r.model->features, FLUSH));
		assert_true(virtq_features_has(r.model->features, WCE));
		rig_close(&r);
	}
}

static void writeback_is_one_byte_of_0_or_1(void **state)
{
	static const struct { uint32_t at, len; uint8_t value; } refused[] = {
		{ 32, 1, 2 }, { 32, 1, 255 }, { 32, 0, 1 }, { 32, 2, 1 }, { 31, 2, 1 }, { 31, 1, 1 },
		{ 33, 1, 0 }, { 0, 1, 1 }, { 0, 72, 1 }, { 72, 1, 1 }, { UINT32_MAX, 1, 1 },
	};
	uint8_t bytes[72];
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	/* Features may come later than what the driver writes. */
	assert_int_equal(set_writeback(&r, 0), 0);
	assert_int_equal(rig_config(&r).writeback, 0);
	rig_accept(&r, r.model->features);
	assert_int_equal(rig_config(&r).writeback, 0);
	assert_true(writes_are_stable(&r));
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		memset(bytes, refused[i].value, sizeof(bytes));
		assert_int_equal(r.model->ops->config_write(r.model, refused[i].at, bytes,
							    refused[i].len), -EINVAL);
		assert_int_equal(rig_config(&r).writeback, 0);
	}
	/* Who has not agreed to the feature has no such field. */
	rig_accept(&r, rig_features(&r, WCE, WCE));
	assert_int_equal(set_writeback(&r, 1), -EINVAL);
	assert_int_equal(rig_config(&r).writeback, 0);
	rig_close(&r);
}

static void switch_to_write_through(struct rig *r, const struct chain *c)
{
	(void)c;
	assert_int_equal(set_writeback(r, 0), 0);
}

static void switch_to_write_back(struct rig *r, const struct chain *c)
{
	(void)c;
	assert_int_equal(set_writeback(r, 1), 0);
}

/*
 * A write is stable if the mode was write-through all the time it was under way.
 * One that has seen another mode is not, and nor is what was written before.
 * BLK-DEV-017.
 */
static void mode_counts_as_a_request_begins(void **state)
{
	struct virtq_blk_discard_write_zeroes ranges[2];
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	rig_accept(&r, r.model->features);
	virtq_blk_range(&ranges[0], 0, 1, false);
	virtq_blk_range(&ranges[1], 4, 1, false);
	r.meanwhile = switch_to_write_through;
	assert_int_equal(rig_send(&r, VIRTIO_BLK_T_WRITE_ZEROES, 0, ranges, sizeof(ranges)),
			 VIRTIO_BLK_S_OK);
	/* Neither stable, nor flushed because of the switch. */
	shelf_assert(r.shelf, 0, VIRTQ_STORE_ZERO, 0, 0, 512);
	shelf_assert(r.shelf, 1, VIRTQ_STORE_ZERO, 0, 4 * 512, 512);
	assert_int_equal(r.shelf->count, 2);
	r.meanwhile = switch_to_write_back;
	assert_int_equal(rig_send(&r, VIRTIO_BLK_T_WRITE_ZEROES, 0, ranges, sizeof(ranges)),
			 VIRTIO_BLK_S_OK);
	shelf_assert(r.shelf, 0, VIRTQ_STORE_ZERO, VIRTQ_STORE_STABLE, 0, 512);
	shelf_assert(r.shelf, 1, VIRTQ_STORE_ZERO, VIRTQ_STORE_STABLE, 4 * 512, 512);
	rig_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(flush_gets_to_the_store),
		ON_ALL(stable_where_the_driver_relies_on_it),
		ON_ALL(flush_and_writeback_are_always_offered),
		ON_ALL(writeback_is_one_byte_of_0_or_1),
		ON_HOLD(mode_counts_as_a_request_begins),
	};

	return cmocka_run_group_tests_name("blk cache", tests, NULL, NULL) ? 1 : 0;
}
