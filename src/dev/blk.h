/* SPDX-License-Identifier: MIT */
/*
 * The inside of the block device.
 *
 *   blk.c         what a request means
 *   blk_create.c  how a disk is made, negotiated and resized
 *   blk_config.c  configuration space, both ways
 */
#ifndef VIRTQ_DEV_BLK_H
#define VIRTQ_DEV_BLK_H

#include <virtq/blk.h>

#include "base/shm.h"

/* Longest chain taken. Far more than seg_max allows: drivers in the field exceed it. */
#define BLK_SEGS_MAX 1024u
/*
 * Data elements that a driver is asked to keep to. With header and status they
 * must fit a queue of 128 entries, which is what QEMU makes: without indirect
 * descriptors Linux would wait for ever for room that can never be.
 */
#define BLK_SEG_MAX 126u

/* Ranges in one request: they are copied into its struct. */
#define BLK_RANGES_MAX 16u
/* Longest range, whatever the store can do: drivers count its bytes in 32 bits. */
#define BLK_RANGE_BYTES_MAX ((uint64_t)1 << 31)
/* The same where zeroes have to be written, which takes its time. */
#define BLK_WRITTEN_ZEROES_MAX ((uint64_t)4 << 20)

struct blk {
	struct virtq_model model;
	struct virtq_store *store;		/* owned; constant */
	bool read_only;				/* constant */
	bool write_through;			/* constant: the option */
	uint8_t id[VIRTIO_BLK_ID_BYTES];	/* constant */
	/* Constant, but for what config_read() fills in: capacity and writeback. */
	struct virtq_blk_config_le config;
	uint64_t capacity_sectors;	/* shm_word_*(): virtq_blk_refresh() writes, engines read */
	bool stable;			/* shm_flag_*(): writes are stable when they end; as above */
	/* The transport's thread. */
	bool writeback;			/* as configuration space has it */
	bool negotiated;
	struct virtq_features accepted;
};

struct blk_req {
	struct virtq_req req;	/* first: the ring makes room for the rest */
	uint8_t *status;	/* LOAN: the chain's last writable byte */
	uint32_t type;
	bool stable;		/* writes are stable when they end: the mode as it began */
	bool cancelled;		/* begins nothing more */
	bool rests;		/* until the queue's next turn: the piece of work has ended */
	uint32_t range_count;	/* 0 for a request without ranges */
	uint32_t ranges_begun;
	struct virtq_store_io io;
	uint64_t zeroes_from, zeroes_to;	/* offsets: what is left where zeroes are written */
	struct virtq_span zeroes;
	struct virtq_blk_discard_write_zeroes ranges[BLK_RANGES_MAX];	/* a copy, checked */
};

static inline struct blk *blk_of(struct virtq_model *model)
{
	return (struct blk *)(void *)model;
}

/* ---- blk.c: of struct virtq_model_ops ---- */

enum virtq_verdict blk_start(struct virtq_model *model, struct virtq_req *req,
			     struct virtq_op *op);
enum virtq_verdict blk_finish(struct virtq_model *model, struct virtq_req *req,
			      struct virtq_op *op, int64_t result);
void blk_cancel(struct virtq_model *model, struct virtq_req *req);

/* ---- blk_config.c ---- */

/* Is there anything to be said about physical blocks that a driver can compute with? */
bool blk_has_topology(const struct virtq_store_info *info);
/* What does not change of the configuration space. */
struct virtq_blk_config_le blk_config_make(const struct virtq_store_info *info,
					   const struct virtq_model *model, bool read_only);

#endif
