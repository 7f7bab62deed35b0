/* SPDX-License-Identifier: MIT */
/* What a disk offers and what its configuration space says; the driver's side of both. */
#include "blk_rig.h"

/* ---- Options and stores that are no disk ------------------------------------------ */

static void assert_refused(const struct virtq_blk_options *options, const char *part)
{
	struct virtq_model *model = NULL;
	struct virtq_error err = { 0 };

	assert_int_equal(virtq_blk_create(&model, options, &err), -EINVAL);
	assert_int_equal(err.code, -EINVAL);
	if (!strstr(err.text, part))
		fail_msg("\"%s\" does not say \"%s\"", err.text, part);
	assert_null(model);
}

/* Refused, and freed all the same: once here, once more without anybody to tell. */
static void assert_store_refused(void (*spoil)(struct virtq_store_info *info),
				 struct virtq_blk_options options, const char *part)
{
	unsigned int closed = shelves_closed;
	struct virtq_model *model = NULL;

	for (int i = 0; i < 2; i++) {
		struct shelf *shelf = shelf_new(DISK_BYTES, SHELF_AT_ONCE);

		if (spoil)
			spoil(&shelf->store.info);
		options.store = &shelf->store;
		if (i)
			assert_int_equal(virtq_blk_create(&model, &options, NULL), -EINVAL);
		else
			assert_refused(&options, part);
	}
	assert_int_equal(shelves_closed, closed + 2);
}

static void no_bytes(struct virtq_store_info *info) { info->bytes = 0; }
static void odd_bytes(struct virtq_store_info *info) { info->bytes = 4097; }
static void no_block(struct virtq_store_info *info) { info->block = 0; }
static void small_block(struct virtq_store_info *info) { info->block = 256; }
static void odd_block(struct virtq_store_info *info) { info->block = 1536; }

static void options_out_of_range(void **state)
{
	(void)state;
	assert_refused(&(struct virtq_blk_options){ .path = NULL }, "path");
	assert_refused(&(struct virtq_blk_options){ .path = "" }, "path");
	assert_refused(&(struct virtq_blk_options){ .path = "ram:1M", .queues = 257 }, "257");
	assert_refused(&(struct virtq_blk_options){ .path = "ram:1M", .queue_size_max = 1 },
		       "1 entries");
	assert_refused(&(struct virtq_blk_options){ .path = "ram:1M", .queue_size_max = 32769 },
		       "32769");
	/* BLK-DEV-034: an id of 25 characters is refused, not cut. */
	assert_refused(&(struct virtq_blk_options){ .path = "ram:1M",
						    .serial = "twenty-five characters ok" },
		       "twenty-five characters ok");

	assert_store_refused(NULL, (struct virtq_blk_options){ .path = "ram:1M" }, "ram:1M");
	assert_store_refused(NULL, (struct virtq_blk_options){ .direct = true }, "O_DIRECT");
	assert_store_refused(NULL, (struct virtq_blk_options){ .reconnect_ms = 1 }, "connect");
	assert_store_refused(NULL, (struct virtq_blk_options){ .size_max_bytes = 4097 }, "4097");
	assert_store_refused(NULL, (struct virtq_blk_options){ .queues = 257 }, "257");
	assert_store_refused(no_bytes, (struct virtq_blk_options){ 0 }, "has 0 bytes");
	assert_store_refused(odd_bytes, (struct virtq_blk_options){ 0 }, "4097 bytes");
	assert_store_refused(no_block, (struct virtq_blk_options){ 0 }, "blocks of 0");
	assert_store_refused(small_block, (struct virtq_blk_options){ 0 }, "blocks of 256");
	assert_store_refused(odd_block, (struct virtq_blk_options){ 0 }, "blocks of 1536");
}

/* ---- What is offered ----------------------------------------------------------------- */

static struct rig open_on(const struct virtq_store_info *info, struct virtq_blk_options options)
{
	static struct rig_shape shape = { false, SHELF_AT_ONCE };
	struct shelf *shelf = shelf_new(DISK_BYTES, SHELF_AT_ONCE);
	void *state = &shape;
	struct rig r;

	if (info)
		shelf->store.info = *info;
	options.store = &shelf->store;
	rig_open(&r, &state, options);
	return r;
}

static bool offers(const struct rig *r, unsigned int bit)
{
	return virtq_features_has(r->model->features, bit);
}

/* BLK-DEV-001, BLK-DEV-005, BLK-DEV-019. */
static void the_least_is_offered(void **state)
{
	static const struct virtq_store_info plain = { .bytes = DISK_BYTES, .block = 512 };
	struct virtq_features expect = { { 0, 0 } };
	struct rig r = open_on(&plain, (struct virtq_blk_options){ 0 });

	(void)state;
	expect = virtq_features_with(expect, VIRTIO_BLK_F_SEG_MAX);
	expect = virtq_features_with(expect, VIRTIO_BLK_F_BLK_SIZE);
	expect = virtq_features_with(expect, VIRTIO_BLK_F_FLUSH);
	expect = virtq_features_with(expect, VIRTIO_BLK_F_CONFIG_WCE);
	expect = virtq_features_with(expect, VIRTIO_BLK_F_WRITE_ZEROES);
	/* No zones, no metrics of wear. */
	assert_memory_equal(&r.model->features, &expect, sizeof(expect));
	assert_int_equal(r.model->ops->device_id, VIRTIO_ID_BLOCK);
	assert_int_equal(r.model->queues, 1);
	assert_int_equal(r.model->queue_size_max, 1024);
	rig_close(&r);
}

static void what_a_store_can_is_offered(void **state)
{
	static const struct virtq_store_info all = {
		.bytes = DISK_BYTES, .block = 512, .physical = 4096, .discard_max = 512,
		.zero_max = 512, .erase_max = 512, .zero_unmaps = true,
	};
	struct rig r = open_on(&all, (struct virtq_blk_options){ .queues = 2 });

	(void)state;
	assert_true(offers(&r, VIRTIO_BLK_F_TOPOLOGY));
	assert_true(offers(&r, VIRTIO_BLK_F_DISCARD));
	assert_true(offers(&r, VIRTIO_BLK_F_WRITE_ZEROES));
	assert_true(offers(&r, VIRTIO_BLK_F_SECURE_ERASE));
	assert_true(offers(&r, VIRTIO_BLK_F_MQ));
	assert_false(offers(&r, VIRTIO_BLK_F_RO));
	assert_false(offers(&r, VIRTIO_BLK_F_SIZE_MAX));	/* any length will do */
	rig_close(&r);

	r = open_on(&all, (struct virtq_blk_options){ .read_only = true });
	assert_true(offers(&r, VIRTIO_BLK_F_RO));
	assert_true(offers(&r, VIRTIO_BLK_F_FLUSH));
	assert_false(offers(&r, VIRTIO_BLK_F_DISCARD));
	assert_false(offers(&r, VIRTIO_BLK_F_WRITE_ZEROES));
	assert_false(offers(&r, VIRTIO_BLK_F_SECURE_ERASE));
	assert_false(offers(&r, VIRTIO_BLK_F_MQ));
	rig_close(&r);
}

/* Asked for, not insisted on: Linux sends no less than a page, whatever that is. */
static void size_max_is_told(void **state)
{
	static const struct virtq_store_info info = { .bytes = DISK_BYTES, .block = 512 };
	struct rig r = open_on(&info, (struct virtq_blk_options){ .size_max_bytes = 512 });

	(void)state;
	assert_true(offers(&r, VIRTIO_BLK_F_SIZE_MAX));
	assert_int_equal(rig_config(&r).size_max_bytes, 512);
	rig_accept(&r, r.model->features);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 0, 0, 2048), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, 0, 2048, 0), VIRTIO_BLK_S_OK);
	rig_close(&r);
}

/* ---- What it says -------------------------------------------------------------------- */

/* BLK-DEV-004, BLK-DEV-008..009, BLK-DEV-040. */
static void config_byte_by_byte(void **state)
{
	static const struct virtq_store_info info = {
		.bytes = 0x12345600u * 512ull, .block = 4096, .physical = 16384, .alignment = 8192,
		.min_io = 8192, .opt_io = 65536, .discard_max = 1 << 20, .discard_align = 65536,
		.zero_max = 1 << 21, .zero_unmaps = true, .erase_max = 1 << 22,
	};
	static const uint8_t expect[72] = {
		0, 0x56, 0x34, 0x12, 0, 0, 0, 0,	/* capacity: in sectors of 512 bytes */
		0, 0, 0, 0,  126, 0, 0, 0,		/* size_max, seg_max */
		0, 0, 0, 0,  0, 16, 0, 0,		/* geometry, blk_size */
		2, 2, 2, 0,  16, 0, 0, 0,		/* physical_block_exp ... opt_io_size */
		1, 0,  3, 0,				/* writeback, padding, num_queues */
		0, 8, 0, 0,  16, 0, 0, 0,  128, 0, 0, 0,	/* discard */
		0, 16, 0, 0,  16, 0, 0, 0,  1, 0, 0, 0,	/* write zeroes, and padding */
		0, 32, 0, 0,  16, 0, 0, 0,  1, 0, 0, 0,	/* secure erase */
	};
	struct shelf *shelf = shelf_new(512, SHELF_AT_ONCE);	/* never asked for anything */
	struct virtq_blk_options options = { .store = &shelf->store, .queues = 3 };
	struct virtq_model *model;
	uint8_t raw[256];

	(void)state;
	shelf->store.info = info;
	model = disk_make(&options);
	assert_int_equal(model->config_bytes, 72);
	memset(raw, 0xff, sizeof(raw));
	model->ops->config_read(model, 0, raw, sizeof(raw));
	assert_memory_equal(raw, expect, sizeof(expect));
	for (size_t i = sizeof(expect); i < sizeof(raw); i++)	/* zones, and what may come */
		assert_int_equal(raw[i], 0);
	/* In pieces it is the same. */
	for (uint32_t i = 0; i < sizeof(raw); i++) {
		uint8_t byte = 0xff;

		model->ops->config_read(model, i, &byte, 1);
		assert_int_equal(byte, raw[i]);
	}
	model->ops->config_read(model, UINT32_MAX, raw, 4);
	assert_int_equal(raw[0], 0);
	virtq_model_destroy(model);
}

static void what_cannot_be_said_is_not(void **state)
{
	static const struct {
		uint32_t block, physical, alignment, min_io, opt_io;
		bool known;			/* then: */
		uint32_t min_blocks, opt_blocks;
	} cases[] = {
		{ 512, 0, 0, 4096, 4096, false, 0, 0 },
		{ 512, 3000, 0, 0, 0, false, 0, 0 },
		{ 4096, 512, 0, 0, 0, false, 0, 0 },
		{ 512, 4096, 100, 0, 0, false, 0, 0 },
		{ 512, 4096, 256 * 512, 0, 0, false, 0, 0 },
		{ 512, 4096, 255 * 512, 4096, 65536, true, 8, 128 },
		{ 512, 4096, 0, 65535 * 512, UINT32_MAX - 511, true, 65535, UINT32_MAX / 512 },
		{ 512, 4096, 0, 65536 * 512, 100, true, 0, 0 },
		{ 512, 512, 0, 513, 513, true, 0, 0 },
		{ 4096, 4096, 0, 2048, 2048, true, 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct virtq_store_info info = {
			.bytes = DISK_BYTES, .block = cases[i].block, .physical = cases[i].physical,
			.alignment = cases[i].alignment, .min_io = cases[i].min_io,
			.opt_io = cases[i].opt_io,
		};
		struct rig r = open_on(&info, (struct virtq_blk_options){ 0 });
		struct virtq_blk_config config = rig_config(&r);

		assert_int_equal(offers(&r, VIRTIO_BLK_F_TOPOLOGY), cases[i].known);
		assert_int_equal(config.blk_size_bytes, cases[i].block);
		if (cases[i].known)
			assert_int_equal(cases[i].block << config.physical_block_exp,
					 cases[i].physical);
		assert_int_equal(config.min_io_size_blocks, cases[i].min_blocks);
		assert_int_equal(config.opt_io_size_blocks, cases[i].opt_blocks);
		rig_close(&r);
	}
}

/* BLK-DEV-016. */
static void ranges_are_limited(void **state)
{
	struct virtq_store_info info = {
		.bytes = DISK_BYTES, .block = 512, .discard_max = UINT64_MAX,
		.zero_max = (uint64_t)1 << 40, .erase_max = 1023, .discard_align = 100,
		.erase_align = 4096, .zero_unmaps = false,
	};
	struct virtq_blk_config config;
	struct rig r = open_on(&info, (struct virtq_blk_options){ 0 });

	(void)state;
	config = rig_config(&r);
	/* Never more bytes than a driver counts in 32 bits. */
	assert_int_equal(config.max_discard_sectors, 1u << 22);
	assert_int_equal(config.max_write_zeroes_sectors, 1u << 22);
	assert_int_equal(config.max_secure_erase_sectors, 1);
	assert_int_equal(config.discard_alignment_sectors, 1);
	assert_int_equal(config.secure_erase_alignment_sectors, 8);
	assert_int_equal(config.write_zeroes_may_unmap, 0);
	rig_close(&r);

	info.zero_unmaps = true;
	r = open_on(&info, (struct virtq_blk_options){ 0 });
	assert_int_equal(rig_config(&r).write_zeroes_may_unmap, 1);
	rig_close(&r);
	/* Zeroes that are written never give anything back. */
	info.zero_max = 0;
	r = open_on(&info, (struct virtq_blk_options){ 0 });
	assert_int_equal(rig_config(&r).write_zeroes_may_unmap, 0);
	assert_int_equal(rig_config(&r).max_write_zeroes_sectors, 8192);
	rig_close(&r);
}

/* The longest request that a driver is allowed, header and status included, fits a queue. */
static void seg_max_fits_the_queue(void **state)
{
	(void)state;
	for (unsigned int size = 2; size <= 256; size *= 2) {
		struct rig r = open_on(NULL, (struct virtq_blk_options){ .queue_size_max = size });
		uint32_t seg_max = rig_config(&r).seg_max;

		assert_int_equal(seg_max, size == 2 ? 1 : size < 128 ? size - 2 : 126);
		assert_true(seg_max + 2 <= r.model->max_segs);
		rig_close(&r);
	}
}

/* ---- The size changes ------------------------------------------------------------------ */

/* BLK-DEV-010, BLK-DEV-008. */
static void another_size_counts_from_here_on(void **state)
{
	struct virtq_error err = { 0 };
	struct rig r;

	rig_open(&r, state, (struct virtq_blk_options){ 0 });
	assert_int_equal(virtq_blk_refresh(r.model, &err), 0);

	/* Smaller. */
	r.shelf->refreshed = 2 * 512;
	assert_int_equal(virtq_blk_refresh(r.model, &err), 1);
	assert_int_equal(virtq_blk_refresh(r.model, &err), 0);
	assert_int_equal(rig_config(&r).capacity_sectors, 2);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 1, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, 2, 0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(r.shelf->count, 0);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_OUT, 1, 1024, 0), VIRTIO_BLK_S_IOERR);

	/* No size: what was, stays. */
	r.shelf->refreshed = 513;
	assert_int_equal(virtq_blk_refresh(r.model, &err), -EINVAL);
	assert_non_null(strstr(err.text, "513 bytes"));
	r.shelf->refreshed = -EIO;
	assert_int_equal(virtq_blk_refresh(r.model, &err), -EIO);
	assert_non_null(strstr(err.text, "shelf"));
	assert_int_equal(virtq_blk_refresh(r.model, NULL), -EIO);
	r.shelf->refreshed = -ENOTSUP;
	assert_int_equal(virtq_blk_refresh(r.model, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "cannot be found out"));
	r.shelf->store.info.bytes = 0;
	r.shelf->refreshed = 0;
	assert_int_equal(virtq_blk_refresh(r.model, &err), -EINVAL);
	r.shelf->store.info.bytes = DISK_BYTES;
	assert_int_equal(rig_config(&r).capacity_sectors, 2);

	/* Larger again. */
	assert_int_equal(virtq_blk_refresh(r.model, &err), 1);
	assert_int_equal(rig_config(&r).capacity_sectors, DISK_SECTORS);
	assert_int_equal(rig_do(&r, VIRTIO_BLK_T_IN, DISK_SECTORS - 1, 0, 512), VIRTIO_BLK_S_OK);

	/* A store that never changes. */
	r.shelf->ops.refresh = NULL;
	assert_int_equal(virtq_blk_refresh(r.model, &err), 0);
	rig_close(&r);
}

/* ---- The driver's side ----------------------------------------------------------------- */

/* BLK-DRV-002..003. */
static void cache_mode_of_a_device_that_does_not_say(void **state)
{
	struct virtq_features none = { { 0, 0 } };
	struct virtq_features flush = virtq_features_with(none, VIRTIO_BLK_F_FLUSH);
	struct virtq_features both = virtq_features_with(flush, VIRTIO_BLK_F_CONFIG_WCE);
	struct virtq_blk_config c;
	uint8_t raw[72] = { 0 };

	(void)state;
	for (int writeback = 0; writeback < 2; writeback++) {
		raw[32] = (uint8_t)writeback;
		assert_int_equal(virtq_blk_config_decode(&c, raw, sizeof(raw), none), 0);
		assert_int_equal(c.writeback, 0);
		assert_int_equal(virtq_blk_config_decode(&c, raw, sizeof(raw), flush), 0);
		assert_int_equal(c.writeback, 1);
		assert_int_equal(virtq_blk_config_decode(&c, raw, sizeof(raw), both), 0);
		assert_int_equal(c.writeback, writeback);
	}
}

/* BLK-DRV-016. */
static void header_and_range_are_little_endian(void **state)
{
	static const uint8_t header[16] = { 8, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1 };
	static const uint8_t unmap[16] = { 8, 7, 6, 5, 4, 3, 2, 1, 0xd, 0xc, 0xb, 0xa, 1, 0, 0, 0 };
	static const uint8_t keep[16] = { 8, 7, 6, 5, 4, 3, 2, 1, 0xd, 0xc, 0xb, 0xa, 0, 0, 0, 0 };
	struct virtq_blk_discard_write_zeroes range;
	struct virtq_blk_req_hdr hdr;

	(void)state;
	memset(&hdr, 0xff, sizeof(hdr));
	virtq_blk_header(&hdr, VIRTIO_BLK_T_GET_ID, 0x0102030405060708);
	assert_memory_equal(&hdr, header, sizeof(header));
	memset(&range, 0xff, sizeof(range));
	virtq_blk_range(&range, 0x0102030405060708, 0x0a0b0c0d, true);
	assert_memory_equal(&range, unmap, sizeof(unmap));
	virtq_blk_range(&range, 0x0102030405060708, 0x0a0b0c0d, false);
	assert_memory_equal(&range, keep, sizeof(keep));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_out_of_range),
		cmocka_unit_test(the_least_is_offered),
		cmocka_unit_test(what_a_store_can_is_offered),
		cmocka_unit_test(size_max_is_told),
		cmocka_unit_test(config_byte_by_byte),
		cmocka_unit_test(what_cannot_be_said_is_not),
		cmocka_unit_test(ranges_are_limited),
		cmocka_unit_test(seg_max_fits_the_queue),
		ON_ALL(another_size_counts_from_here_on),
		cmocka_unit_test(cache_mode_of_a_device_that_does_not_say),
		cmocka_unit_test(header_and_range_are_little_endian),
	};

	return cmocka_run_group_tests_name("blk config", tests, NULL, NULL) ? 1 : 0;
}
