/* SPDX-License-Identifier: MIT */
/* A device's configuration space, as a driver reads it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <virtq/blk.h>
#include <virtq/spec/virtio.h>

/* Each byte of a disk's space is its own offset, plus one, in hexadecimal. */
static void number(uint8_t *raw, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		raw[i] = (uint8_t)(i + 1);
}

static struct virtq_features with_all(void)
{
	struct virtq_features f = { { ~(uint64_t)0, ~(uint64_t)0 } };

	return f;
}

/* L-025: fields of more than a byte are little-endian, wherever this runs. */
static void test_little_endian(void **state)
{
	struct virtq_blk_config c;
	uint8_t raw[96];

	(void)state;
	number(raw, sizeof(raw));
	assert_int_equal(virtq_blk_config_decode(&c, raw, sizeof(raw), with_all()), 0);
	assert_int_equal(c.capacity_sectors, 0x0807060504030201);
	assert_int_equal(c.size_max_bytes, 0x0c0b0a09);
	assert_int_equal(c.seg_max, 0x100f0e0d);
	assert_int_equal(c.blk_size_bytes, 0x18171615);
	assert_int_equal(c.physical_block_exp, 0x19);
	assert_int_equal(c.alignment_offset_blocks, 0x1a);
	assert_int_equal(c.min_io_size_blocks, 0x1c1b);
	assert_int_equal(c.opt_io_size_blocks, 0x201f1e1d);
	assert_int_equal(c.writeback, 0x21);
	assert_int_equal(c.num_queues, 0x2423);
	assert_int_equal(c.max_discard_sectors, 0x28272625);
	assert_int_equal(c.max_discard_seg, 0x2c2b2a29);
	assert_int_equal(c.discard_alignment_sectors, 0x302f2e2d);
	assert_int_equal(c.max_write_zeroes_sectors, 0x34333231);
	assert_int_equal(c.max_write_zeroes_seg, 0x38373635);
	assert_int_equal(c.write_zeroes_may_unmap, 0x39);
	assert_int_equal(c.max_secure_erase_sectors, 0x403f3e3d);
	assert_int_equal(c.max_secure_erase_seg, 0x44434241);
	assert_int_equal(c.secure_erase_alignment_sectors, 0x48474645);
}

/* L-023: what belongs to a feature that is not there is not looked at. */
static void test_optional_fields(void **state)
{
	static const unsigned int bits[] = {
		VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE,
		VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_MQ,
		VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_F_SECURE_ERASE,
	};
	struct virtq_features none = { { 0, 0 } };
	struct virtq_blk_config c, all;
	uint8_t raw[96];

	(void)state;
	number(raw, sizeof(raw));
	assert_int_equal(virtq_blk_config_decode(&all, raw, sizeof(raw), with_all()), 0);
	for (size_t i = 0; i <= sizeof(bits) / sizeof(bits[0]); i++) {
		unsigned int bit = i ? bits[i - 1] : 127;
		struct virtq_blk_config want = { .capacity_sectors = all.capacity_sectors,
						 .num_queues = 1 };

		memset(&c, 0xee, sizeof(c));
		assert_int_equal(virtq_blk_config_decode(&c, raw, sizeof(raw),
							 virtq_features_with(none, bit)), 0);
		switch (bit) {
		case VIRTIO_BLK_F_SIZE_MAX:
			want.size_max_bytes = all.size_max_bytes;
			break;
		case VIRTIO_BLK_F_SEG_MAX:
			want.seg_max = all.seg_max;
			break;
		case VIRTIO_BLK_F_BLK_SIZE:
			want.blk_size_bytes = all.blk_size_bytes;
			break;
		case VIRTIO_BLK_F_TOPOLOGY:
			want.physical_block_exp = all.physical_block_exp;
			want.alignment_offset_blocks = all.alignment_offset_blocks;
			want.min_io_size_blocks = all.min_io_size_blocks;
			want.opt_io_size_blocks = all.opt_io_size_blocks;
			break;
		case VIRTIO_BLK_F_CONFIG_WCE:
			want.writeback = all.writeback;
			break;
		case VIRTIO_BLK_F_MQ:
			want.num_queues = all.num_queues;
			break;
		case VIRTIO_BLK_F_DISCARD:
			want.max_discard_sectors = all.max_discard_sectors;
			want.max_discard_seg = all.max_discard_seg;
			want.discard_alignment_sectors = all.discard_alignment_sectors;
			break;
		case VIRTIO_BLK_F_WRITE_ZEROES:
			want.max_write_zeroes_sectors = all.max_write_zeroes_sectors;
			want.max_write_zeroes_seg = all.max_write_zeroes_seg;
			want.write_zeroes_may_unmap = all.write_zeroes_may_unmap;
			break;
		case VIRTIO_BLK_F_SECURE_ERASE:
			want.max_secure_erase_sectors = all.max_secure_erase_sectors;
			want.max_secure_erase_seg = all.max_secure_erase_seg;
			want.secure_erase_alignment_sectors = all.secure_erase_alignment_sectors;
			break;
		}
		assert_memory_equal(&c, &want, sizeof(c));
	}
}

/* L-024: any size that holds what is needed; what lies behind is nobody's business. */
static void test_sizes(void **state)
{
	static uint8_t raw[4096];
	struct virtq_blk_config c, all;

	(void)state;
	number(raw, 96);
	memset(raw + 96, 0xff, sizeof(raw) - 96);
	assert_int_equal(virtq_blk_config_decode(&all, raw, 96, with_all()), 0);
	for (unsigned int len = 0; len < 8; len++)
		assert_int_equal(virtq_blk_config_decode(&c, raw, len, with_all()), -EINVAL);
	assert_int_equal(virtq_blk_config_decode(&c, raw, 8, with_all()), 0);
	assert_int_equal(c.capacity_sectors, all.capacity_sectors);
	assert_int_equal(c.seg_max, 0);
	assert_int_equal(virtq_blk_config_decode(&c, raw, 16, with_all()), 0);
	assert_int_equal(c.seg_max, all.seg_max);
	assert_int_equal(c.blk_size_bytes, 0);
	/* Where the last field ends that is known here. */
	assert_int_equal(virtq_blk_config_decode(&c, raw, 72, with_all()), 0);
	assert_memory_equal(&c, &all, sizeof(c));
	assert_int_equal(virtq_blk_config_decode(&c, raw, 97, with_all()), 0);
	assert_memory_equal(&c, &all, sizeof(c));
	assert_int_equal(virtq_blk_config_decode(&c, raw, sizeof(raw), with_all()), 0);
	assert_memory_equal(&c, &all, sizeof(c));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_little_endian),
		cmocka_unit_test(test_optional_fields),
		cmocka_unit_test(test_sizes),
	};

	return cmocka_run_group_tests_name("configuration space", tests, NULL, NULL);
}
