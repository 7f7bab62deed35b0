/* SPDX-License-Identifier: MIT */
/* The inside of a device end, for the files that walk and complete requests. */
#ifndef VIRTQ_RING_DEVICE_H
#define VIRTQ_RING_DEVICE_H

#include <virtq/device.h>

#include "mem/iotlb.h"
#include "mem/map.h"
#include "ring/layout.h"
#include "ring/packed.h"
#include "ring/split.h"

#define OLD_MAPS 3u
#define NO_BLOCK UINT16_MAX

/* A slot: the spans of short chains, and behind them the caller's request struct. */
#define INLINE_BYTES (VIRTQ_REQ_INLINE_SEGS * sizeof(struct virtq_span))

/* A map that is no longer current, held for requests that were popped under it. */
struct old_map {
	struct virtq_map *map;		/* NULL: none */
	uint32_t loans;
	uint64_t until;			/* sequence of the last request popped under it */
};

/* In order: requests that one used element will stand for. */
struct device_batch {
	uint32_t count;			/* 0: none */
	uint32_t entries;		/* ring entries of theirs (packed) */
	uint32_t len, id;		/* of the last */
	bool whole;			/* the last was filled whole: another may follow */
};

struct virtq_device {
	enum ring_layout layout;
	bool indirect_on;
	int dead;			/* 0 or -EBADMSG */
	uint32_t on_loan;
	uint32_t free_slots;
	uint32_t free_blocks;
	uint32_t max_segs;
	union {
		struct split_device split;
		struct packed_device packed;
	};
	struct mem_hit hit;		/* where the last element lay */
	uint64_t sequence;		/* of the request popped last */
	uint64_t map_since;		/* of the last that was popped under an older map */
	struct virtq_req **slot_stack;	/* free ones; the last freed is taken first, being warm */
	uint8_t *head_busy;		/* split: heads on loan */
	/* In order: requests in the order of their pops, those pushed out of turn kept back. */
	struct virtq_req **order;
	uint32_t order_first, order_next;	/* below the size; both move round */
	struct device_batch batch;
	struct virtq_span *blocks;
	uint16_t *block_stack;
	struct virtq_map *map;
	struct virtq_iotlb *iotlb;	/* NULL: addresses are found in the map */
	uint64_t iotlb_generation;	/* of @hit */
	struct virtq_miss miss;
	struct virtq_fault fault;
	struct old_map old_maps[OLD_MAPS];
	struct virtq_ring ring;
	void *turned_by;		/* the engine's; nothing to this end */
};

/* Can such a device end be? 0, or -EINVAL and why. */
int device_check(const struct virtq_device_config *config, struct virtq_error *err);

/* Note what the driver did; the queue is broken from now on. Returns -EBADMSG. */
int device_break(struct virtq_device *q, enum virtq_fault_code code, uint32_t index,
		 uint64_t value);

/*
 * A request comes back whose spans were in a block, or whose map is no longer
 * current: give these up. Its sequence passes for a recent one then.
 */
void device_end_long_loan(struct virtq_device *q, struct virtq_req *req);

/* Or does it own nothing but its slot? */
ALWAYS_INLINE bool loan_is_plain(const struct virtq_req *req, uint64_t map_since)
{
	return LIKELY(req->block == NO_BLOCK && req->sequence > map_since);
}

/* What requests popped now come from. */
const struct virtq_map *device_map(const struct virtq_device *q);

#endif
