/* SPDX-License-Identifier: MIT */
/* The inside of a driver end, for the files that use and show it. */
#ifndef VIRTQ_RING_DRIVER_H
#define VIRTQ_RING_DRIVER_H

#include <virtq/driver.h>

#include "ring/layout.h"
#include "ring/packed.h"
#include "ring/split.h"

/* A buffer in flight, by head (split) or id (packed). */
struct chain {
	void *token;
	uint64_t serial;		/* how many were added before it, NOT_IN_FLIGHT or KEPT */
	uint32_t writable_bytes;	/* at most this much may be reported as written */
	uint32_t entries;		/* ring entries it takes */
};

/*
 * The one ring entry of a buffer in a packed ring that keeps: it is written anew
 * each time it is shown, in its turn, and not read back from the ring.
 */
struct entry {
	uint64_t addr;
	uint64_t rest;			/* as packed_desc_store() has it; AVAIL and USED of any lap */
};

/* Serials that are never reached: of nothing, and of ring entries whose buffer is back. */
#define NOT_IN_FLIGHT UINT64_MAX
#define KEPT (UINT64_MAX - 1)

struct virtq_driver {
	enum ring_layout layout;
	bool indirect_on;
	int dead;			/* 0, or what calls return: -EBADMSG, -ESHUTDOWN */
	bool live;			/* published, and not stopped since */
	bool notification_data;
	bool keeps;			/* constant: what virtq_driver_keeps() says */
	bool keep;			/* if so: buffers taken now do. Whoever owns the queue may change it */
	uint32_t room;			/* free ring entries */
	uint64_t added;			/* chains ever added */
	uint64_t published;		/* of those, how many the device has been shown */
	uint64_t taken;			/* of those, how many came back */
	uint32_t segs_max;
	uint32_t indirect_entries;
	uint32_t indirect_from;		/* chains of this many elements go indirect in any case */
	union {
		struct split_driver split;
		struct packed_driver packed;
	};
	struct chain *chains;
	struct entry *kept;		/* by id; NULL unless the ring is packed and keeps */
	struct virtq_desc *indirect;
	uint64_t indirect_addr;
	struct virtq_fault fault;
	struct virtq_ring ring;
	uint32_t detach_at;
	struct batch {			/* in order: one used element may stand for many buffers */
		uint16_t oldest;	/* head or id of the buffer in flight longest */
		bool open;		/* buffers up to @last are used, not all taken yet */
		uint16_t last;
		uint32_t length;	/* of that last one */
	} batch;
};

#endif
