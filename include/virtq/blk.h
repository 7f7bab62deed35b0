/* SPDX-License-Identifier: MIT */
/* The block device (VIRTIO 1.4, 5.2): as a model to serve, as requests to send. */
#ifndef VIRTQ_BLK_H
#define VIRTQ_BLK_H

#include <stdbool.h>

#include <virtq/spec/blk.h>
#include <virtq/store.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct virtq_blk_options - a disk to be served
 * @path:      what virtq_store_open() takes; NULL with @store
 * @store:     what holds the sectors, taken, also on failure; NULL with @path
 * @read_only: refuse writes and say so to the driver
 * @direct:    with @path: as in struct virtq_store_options
 * @write_through: begin in write-through mode; a driver that accepts CONFIG_WCE
 *             may change that
 * @queues:    1..256; 0 for 1
 * @queue_size_max: entries, 2..32768; 0 for 1024
 * @serial:    up to 20 bytes for GET_ID; NULL for none
 * @size_max_bytes: longest element of READ and WRITE that a driver is asked to send,
 *             a multiple of 512; longer ones are taken all the same. 0: not said
 * @reconnect_ms: with @path: as in struct virtq_store_options
 *
 * Since: 0.1
 */
struct virtq_blk_options {
	const char *path;
	struct virtq_store *store;
	bool read_only;
	bool direct;
	bool write_through;
	unsigned int queues;
	unsigned int queue_size_max;
	const char *serial;
	uint32_t size_max_bytes;
	uint32_t reconnect_ms;
};

/**
 * virtq_blk_create - a disk, from a store
 * @out:     receives the model
 * @options: copied
 * @err:     filled on failure; may be NULL
 *
 * A driver is offered what the store can do. WRITE_ZEROES it can always use:
 * where the store has nothing for that the disk writes zeroes.
 *
 * Return: 0, or -EINVAL (options, or a store whose size is 0 or no multiple of
 *	512 bytes), -ENOMEM, or what virtq_store_open() says.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_blk_create(struct virtq_model **out,
			       const struct virtq_blk_options *options,
			       struct virtq_error *err);

/**
 * virtq_blk_refresh - look whether the store of a served disk has another size
 * @model: made by virtq_blk_create()
 * @err:   filled on failure; may be NULL
 *
 * Requests are checked against the new size from here on. Whoever gets a 1 tells
 * the driver, through its transport: virtq_vhost_user_server_config_changed().
 *
 * Requests that a smaller disk does not hold any more fail; those that were
 * accepted before end as the store sees fit.
 *
 * Return: 1 if the size has changed, 0 if not, -EINVAL (the new one is 0 or no
 *	multiple of 512 bytes: the old one stays), or what the store says.
 * Thread: any, one at a time. Spec: VIRTIO 1.4, 5.2.6.2. Since: 0.1
 */
VIRTQ_API int virtq_blk_refresh(struct virtq_model *model, struct virtq_error *err);

/**
 * struct virtq_blk_config - configuration space, decoded; 0 where not offered
 * @writeback: 1 if writes are stable only after a FLUSH. With CONFIG_WCE what the
 *             device says; without it 1 if there is FLUSH (5.2.5.1)
 *
 * Units: sectors are 512 bytes, the discard and secure erase alignments too;
 * other sizes and alignments as named.
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
	uint32_t write_zeroes_may_unmap;
	uint32_t discard_alignment_sectors;
	uint32_t max_secure_erase_sectors;
	uint32_t max_secure_erase_seg;
	uint32_t secure_erase_alignment_sectors;
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

/**
 * virtq_blk_range - fill one range of a DISCARD, WRITE_ZEROES or SECURE_ERASE
 * @range:   the data of such a request are one or more of these, and nothing else
 * @sector:  where
 * @sectors: how many, not more than the max_..._sectors of the type; nor may a
 *           request have more ranges than its max_..._seg says
 * @unmap:   WRITE_ZEROES: need not keep the place. Must be false for the others
 */
VIRTQ_API void virtq_blk_range(struct virtq_blk_discard_write_zeroes *range, uint64_t sector,
			       uint32_t sectors, bool unmap);

#ifdef __cplusplus
}
#endif

#endif
