/* SPDX-License-Identifier: MIT */
/* The inside of a way, for way.c, which sets it up, and way_laps.c, which runs it. */
#ifndef BENCH_WAY_INSIDE_H
#define BENCH_WAY_INSIDE_H

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/pool.h>
#include <virtq/transfer.h>

#include "way.h"

struct way {
	enum way_kind kind;
	unsigned int count;		/* buffers in flight */
	uint32_t bytes, items;		/* of a buffer */
	uint32_t written;		/* what the device says that it wrote */
	bool plant;
	bool kept;			/* @done names ring entries that are kept */
	struct virtq_port *port;	/* of a bare ring or a set; a pool has its own */
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct virtq_map *map;		/* what the device sees */
	/* Where buffers lie that are not a pool's, or are copied from. */
	struct virtq_mapping *memory;
	uint8_t *bytes_at;

	/* Bare. */
	struct virtq_buffer *bufs;	/* each its own token */
	struct virtq_seg *segs;
	struct virtq_completion *done;	/* kept */

	/* A pool. */
	struct virtq_pool *pool;
	struct virtq_chain *chains;
	struct virtq_offer *offers;
	struct virtq_span *payloads;
	uint8_t header[WAY_HEADER_BYTES];
	uint8_t *copy;			/* where WAY_MEMCPY copies to */

	/* Transfers. */
	struct virtq_transfers *set;
	struct virtq_transfer **sent;
	struct virtq_piece *pieces;	/* @items for each */
};

#endif
