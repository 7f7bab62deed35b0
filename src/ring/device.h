/* SPDX-License-Identifier: MIT */
/* The inside of a device end, for the files that walk and complete requests. */
#ifndef VIRTQ_RING_DEVICE_H
#define VIRTQ_RING_DEVICE_H

#include <virtq/device.h>

#include "ring/layout.h"
#include "ring/packed.h"
#include "ring/split.h"

#define MAP_USES 4u
#define NO_BLOCK UINT16_MAX

/* A map and how many requests on loan came from it, besides the queue itself. */
struct virtq_map_use {
	struct virtq_map *map;
	uint32_t loans;
};

struct virtq_device {
	enum ring_layout layout;
	bool indirect_on;
	int dead;			/* 0 or -EBADMSG */
	uint32_t free_slots;
	uint32_t free_blocks;
	uint32_t max_segs;
	uint32_t req_bytes;		/* of the caller's struct: the inline spans follow it */
	uint32_t slot_bytes;
	union {
		struct split_device split;
		struct packed_device packed;
	};
	const struct virtq_region *region;	/* that the last element lay in */
	struct virtq_map_use *use;		/* that requests popped now come from */
	uint64_t sequence;			/* of the request popped last */
	uint8_t *slots;
	uint16_t *slot_stack;		/* free ones; the last freed is taken first, being warm */
	uint8_t *head_busy;		/* split: heads on loan */
	/* In order: slots in the order of their pops, those pushed out of turn kept back. */
	uint16_t *order;
	uint32_t order_first, order_next;	/* below the size; both move round */
	struct {
		uint32_t count;		/* requests that one used element will stand for; 0: none */
		uint32_t entries;	/* ring entries of theirs */
		uint32_t len;
		uint16_t id;
		bool whole;		/* the last was filled whole: another may follow */
	} batch;
	struct virtq_span *blocks;
	uint16_t *block_stack;
	struct virtq_fault fault;
	struct virtq_map_use uses[MAP_USES];
	struct virtq_ring ring;
};

/* Note what the driver did; the queue is broken from now on. Returns -EBADMSG. */
int device_break(struct virtq_device *q, enum virtq_fault_code code, uint32_t index,
		 uint64_t value);

/* What requests popped now come from. */
const struct virtq_map *device_map(const struct virtq_device *q);

#endif
