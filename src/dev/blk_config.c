/* SPDX-License-Identifier: MIT */
/* Configuration space of the block device (5.2.4): made by a device, read by a driver. */
#include "dev/blk.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/shm.h"

_Static_assert(sizeof(struct virtq_blk_config_le) == 72, "laid out as in 5.2.4");
_Static_assert(sizeof(struct virtq_blk_req_hdr) == 16, "laid out as in 5.2.6");
_Static_assert(sizeof(struct virtq_blk_discard_write_zeroes) == 16, "laid out as in 5.2.6");

static uint8_t log2_of(uint32_t power)
{
	return (uint8_t)__builtin_ctz(power);
}

/* Header and status take two entries of a queue; even the smallest leaves one for data. */
static uint32_t seg_max_of(const struct virtq_model *model)
{
	uint32_t room = model->queue_size_max > 3 ? model->queue_size_max - 2 : 1;

	return room < BLK_SEG_MAX ? room : BLK_SEG_MAX;
}

bool blk_has_topology(const struct virtq_store_info *info)
{
	return is_power_of_2(info->physical) && info->physical >= info->block &&
	       info->alignment % info->block == 0 && info->alignment / info->block <= UINT8_MAX;
}

/* Sizes that cannot be said are not: 0 is unknown. */
static void set_topology(struct virtq_blk_config_le *c, const struct virtq_store_info *info)
{
	uint32_t block = info->block;

	c->physical_block_exp = log2_of(info->physical / block);
	c->alignment_offset = (uint8_t)(info->alignment / block);
	if (info->min_io % block == 0 && info->min_io / block <= UINT16_MAX)
		c->min_io_size = le16_make((uint16_t)(info->min_io / block));
	if (info->opt_io % block == 0)
		c->opt_io_size = le32_make(info->opt_io / block);
}

static uint32_t range_sectors(uint64_t bytes)
{
	if (bytes > BLK_RANGE_BYTES_MAX)
		bytes = BLK_RANGE_BYTES_MAX;
	return (uint32_t)(bytes / VIRTQ_BLK_SECTOR_BYTES);
}

static virtq_le32 align_sectors(uint32_t bytes)
{
	uint32_t sectors = bytes / VIRTQ_BLK_SECTOR_BYTES;

	return le32_make(sectors ? sectors : 1);
}

/* What is 0 is not offered. */
static void set_ranges(struct virtq_blk_config_le *c, const struct virtq_store_info *info)
{
	uint32_t discard = range_sectors(info->discard_max);
	uint32_t zeroes = range_sectors(info->zero_max);
	uint32_t erase = range_sectors(info->erase_max);

	if (discard) {
		c->max_discard_sectors = le32_make(discard);
		c->max_discard_seg = le32_make(BLK_RANGES_MAX);
		c->discard_sector_alignment = align_sectors(info->discard_align);
	}
	/* Not where nothing can ever be given back (BLK-DEV-016). */
	c->write_zeroes_may_unmap = zeroes && info->zero_unmaps;
	c->max_write_zeroes_sectors = le32_make(zeroes ? zeroes :
							 range_sectors(BLK_WRITTEN_ZEROES_MAX));
	c->max_write_zeroes_seg = le32_make(BLK_RANGES_MAX);
	if (erase) {
		c->max_secure_erase_sectors = le32_make(erase);
		c->max_secure_erase_seg = le32_make(BLK_RANGES_MAX);
		c->secure_erase_sector_alignment = align_sectors(info->erase_align);
	}
}

struct virtq_blk_config_le blk_config_make(const struct virtq_store_info *info,
					   const struct virtq_model *model, bool read_only)
{
	/* All padding and every field of a feature that is not offered: 0 (BLK-DEV-004). */
	struct virtq_blk_config_le c = { 0 };

	c.seg_max = le32_make(seg_max_of(model));
	c.blk_size = le32_make(info->block);
	if (blk_has_topology(info))
		set_topology(&c, info);
	if (model->queues > 1)
		c.num_queues = le16_make((uint16_t)model->queues);
	if (!read_only)
		set_ranges(&c, info);
	return c;
}

int virtq_blk_config_decode(struct virtq_blk_config *config, const void *raw,
			    unsigned int len, struct virtq_features features)
{
	struct virtq_blk_config_le c = { 0 };

	if (len < sizeof(c.capacity))
		return -EINVAL;
	memcpy(&c, raw, len < sizeof(c) ? len : sizeof(c));

	*config = (struct virtq_blk_config){
		.capacity_sectors = le64_value(c.capacity),
		.num_queues = 1,
	};
	if (virtq_features_has(features, VIRTIO_BLK_F_SIZE_MAX))
		config->size_max_bytes = le32_value(c.size_max);
	if (virtq_features_has(features, VIRTIO_BLK_F_SEG_MAX))
		config->seg_max = le32_value(c.seg_max);
	if (virtq_features_has(features, VIRTIO_BLK_F_BLK_SIZE))
		config->blk_size_bytes = le32_value(c.blk_size);
	if (virtq_features_has(features, VIRTIO_BLK_F_TOPOLOGY)) {
		config->physical_block_exp = c.physical_block_exp;
		config->alignment_offset_blocks = c.alignment_offset;
		config->min_io_size_blocks = le16_value(c.min_io_size);
		config->opt_io_size_blocks = le32_value(c.opt_io_size);
	}
	/* A driver that is not told assumes the worse of the two (BLK-DRV-002, BLK-DRV-003). */
	config->writeback = virtq_features_has(features, VIRTIO_BLK_F_FLUSH);
	if (virtq_features_has(features, VIRTIO_BLK_F_CONFIG_WCE))
		config->writeback = c.writeback;
	if (virtq_features_has(features, VIRTIO_BLK_F_MQ))
		config->num_queues = le16_value(c.num_queues);
	if (virtq_features_has(features, VIRTIO_BLK_F_DISCARD)) {
		config->max_discard_sectors = le32_value(c.max_discard_sectors);
		config->max_discard_seg = le32_value(c.max_discard_seg);
		config->discard_alignment_sectors = le32_value(c.discard_sector_alignment);
	}
	if (virtq_features_has(features, VIRTIO_BLK_F_WRITE_ZEROES)) {
		config->max_write_zeroes_sectors = le32_value(c.max_write_zeroes_sectors);
		config->max_write_zeroes_seg = le32_value(c.max_write_zeroes_seg);
		config->write_zeroes_may_unmap = c.write_zeroes_may_unmap;
	}
	if (virtq_features_has(features, VIRTIO_BLK_F_SECURE_ERASE)) {
		config->max_secure_erase_sectors = le32_value(c.max_secure_erase_sectors);
		config->max_secure_erase_seg = le32_value(c.max_secure_erase_seg);
		config->secure_erase_alignment_sectors =
			le32_value(c.secure_erase_sector_alignment);
	}
	return 0;
}

void virtq_blk_header(struct virtq_blk_req_hdr *hdr, uint32_t type, uint64_t sector)
{
	hdr->type = le32_make(type);
	hdr->reserved = le32_make(0);
	hdr->sector = le64_make(sector);
}

void virtq_blk_range(struct virtq_blk_discard_write_zeroes *range, uint64_t sector,
		     uint32_t sectors, bool unmap)
{
	range->sector = le64_make(sector);
	range->num_sectors = le32_make(sectors);
	range->flags = le32_make(unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0);
}
