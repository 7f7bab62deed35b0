/* SPDX-License-Identifier: MIT */
/* Configuration space of the block device (5.2.4): made by a device, read by a driver. */
#include "dev/blk.h"

#include <errno.h>
#include <string.h>

#include "base/shm.h"

_Static_assert(sizeof(struct virtq_blk_config_le) == 72, "laid out as in 5.2.4");
_Static_assert(sizeof(struct virtq_blk_req_hdr) == 16, "laid out as in 5.2.6");

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

struct virtq_blk_config_le blk_config_make(const struct blk_file *file,
					   const struct virtq_model *model)
{
	uint32_t block = file->block_bytes;
	/* All padding and every field of a feature that is not offered: 0 (BLK-DEV-004). */
	struct virtq_blk_config_le c = { 0 };

	/* In units of 512 bytes whatever the block size is (BLK-DEV-008). */
	c.capacity = le64_make(file->size_bytes / VIRTQ_BLK_SECTOR_BYTES);
	c.seg_max = le32_make(seg_max_of(model));
	c.blk_size = le32_make(block);
	if (file->physical_bytes) {
		c.physical_block_exp = log2_of(file->physical_bytes / block);
		c.alignment_offset = (uint8_t)(file->alignment_bytes / block);
		c.min_io_size = le16_make((uint16_t)(file->min_io_bytes / block));
		c.opt_io_size = le32_make(file->opt_io_bytes / block);
	}
	if (model->queues > 1)
		c.num_queues = le16_make((uint16_t)model->queues);
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
	if (virtq_features_has(features, VIRTIO_BLK_F_CONFIG_WCE))
		config->writeback = c.writeback;
	if (virtq_features_has(features, VIRTIO_BLK_F_MQ))
		config->num_queues = le16_value(c.num_queues);
	if (virtq_features_has(features, VIRTIO_BLK_F_DISCARD)) {
		config->max_discard_sectors = le32_value(c.max_discard_sectors);
		config->max_discard_seg = le32_value(c.max_discard_seg);
	}
	if (virtq_features_has(features, VIRTIO_BLK_F_WRITE_ZEROES)) {
		config->max_write_zeroes_sectors = le32_value(c.max_write_zeroes_sectors);
		config->max_write_zeroes_seg = le32_value(c.max_write_zeroes_seg);
	}
	return 0;
}

void virtq_blk_header(struct virtq_blk_req_hdr *hdr, uint32_t type, uint64_t sector)
{
	hdr->type = le32_make(type);
	hdr->reserved = le32_make(0);
	hdr->sector = le64_make(sector);
}
