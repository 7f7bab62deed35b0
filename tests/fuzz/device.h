/* SPDX-License-Identifier: MIT */
/* A fuzzed device end: its queue, what is on loan from it, and where its driver stands. */
#ifndef TESTS_FUZZ_DEVICE_H
#define TESTS_FUZZ_DEVICE_H

#include "peer.h"

/* A request popped and not yet with the driver again. */
struct loan {
	struct virtq_req *req;
	struct memory *m;	/* that its spans lie in; NULL once pushed */
	uint8_t *tail;		/* claimed */
	uint64_t sequence;
	uint64_t capacity;	/* writable bytes */
	bool is_long;
};

/* A request pushed and not yet published. */
struct back {
	uint16_t id;
	uint32_t len;
	uint64_t capacity;
};

struct run {
	struct input in;
	struct peer peer;
	struct memory *m;
	struct virtq_device *q;
	void *state;		/* what the queue lies in, or NULL if it is on the heap */
	struct virtq_device_config config;
	struct virtq_iotlb *tlb;	/* or NULL; knows regions by their own addresses */
	uint32_t bytes;		/* of a data region */
	bool in_order, reach_ring;
	/* In the order of pops; in order (IN_ORDER), pushed ones wait here for their turn. */
	struct loan *loans;
	uint32_t loan_count;
	bool *lent;		/* by slot */
	uint64_t sequence;
	struct back *backs;
	uint32_t back_count;
	struct virtq_fault fault;
	/* Where the driver looks for used entries: index, or slot and its wrap counter. */
	uint16_t used_idx;
	uint32_t used_slot;
	bool used_wrap;
};

/* ---- device_life.c ---- */

/* The most elements that a chain may have. */
uint32_t effective_max_segs(const struct virtq_device_config *c);

/* A queue that the input chooses, and all that belongs to it; it may be closed before. */
void run_begin(struct run *r);
void run_end(struct run *r);
void close_queue(struct run *r);
/* Destroy the queue, and go on where it stood, or somewhere. */
bool do_anew(struct run *r);
/* The memory in new places, or wrongly. */
void do_set_map(struct run *r);
/* A second queue over the same ring, with one thing wrong in its configuration, or nearly. */
void do_refuse(struct run *r);

#endif
