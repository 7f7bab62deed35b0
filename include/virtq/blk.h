/* SPDX-License-Identifier: MIT */
/* The block device (VIRTIO 1.4, 5.2): as a model to serve, as requests to send. */
#ifndef VIRTQ_BLK_H
#define VIRTQ_BLK_H

#include <stdbool.h>

#include <virtq/model.h>
#include <virtq/spec/blk.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct virtq_blk_options - a disk to be served from a file
 * @path:      regular file or block device
 * @read_only: refuse writes and say so to the driver
 * @direct:    bypass the page cache (O_DIRECT). Requests whose memory or range
 *             the file system cannot take directly go through it all the same
 * @queues:    1..256; 0 for 1
 * @queue_size_max: entries, 2..32768; 0 for 1024
 * @serial:    up to 20 bytes for GET_ID; NULL for none
 *
 * Since: 0.1
 */
struct virtq_blk_options {
	const char *path;
	bool read_only;
	bool direct;
	unsigned int queues;
	unsigned int queue_size_max;
	const char *serial;
};

/**
 * virtq_blk_create - a disk from a file
 * @out:     receives the model
 * @options: copied
 * @err:     filled on failure; may be NULL
 *
 * Locks the file: shared if read-only, exclusive otherwise, so that no second
 * writer opens it while it is served.
 *
 * Return: 0, or -EINVAL (options, or a size that is no multiple of 512 bytes),
 *	-EBUSY (somebody else has it), or what open says.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_blk_create(struct virtq_model **out,
			       const struct virtq_blk_options *options,
			       struct virtq_error *err);

/**
 * struct virtq_blk_config - configuration space, decoded; 0 where not offered
 * Units: sectors are 512 bytes; sizes and alignments as named.
 */
struct virtq_blk_config {
	uint64_t capacity_sectors;
	uint32_t size_max_bytes;
	uint32_t seg_max;
	uint32_t blk_size_bytes;
	uint32_t physical_block_exp;
	uint32_t alignment_offset_blocks;
	uint32_t min_io_size_blocks;
	uint32_t opt_io_size_blocks;
	uint32_t writeback;
	uint32_t num_queues;
	uint32_t max_discard_sectors;
	uint32_t max_discard_seg;
	uint32_t max_write_zeroes_sectors;
	uint32_t max_write_zeroes_seg;
};

/**
 * virtq_blk_config_decode - read a configuration space
 * @raw:      its first @len bytes as the device showed them; fields beyond are 0
 * @features: as offered: fields whose feature is absent decode to 0, num_queues to 1
 *
 * Return: 0, or -EINVAL if not even the capacity is there.
 * Thread: any. Spec: VIRTIO 1.4, 5.2.4. Since: 0.1
 */
VIRTQ_API int virtq_blk_config_decode(struct virtq_blk_config *config, const void *raw,
				      unsigned int len, struct virtq_features features);

/**
 * virtq_blk_header - fill the header that begins a request
 * @type: VIRTIO_BLK_T_...
 */
VIRTQ_API void virtq_blk_header(struct virtq_blk_req_hdr *hdr, uint32_t type, uint64_t sector);

#ifdef __cplusplus
}
#endif

#endif
