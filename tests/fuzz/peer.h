/* SPDX-License-Identifier: MIT */
/*
 * The driver that a fuzzed device end has for a peer, played with raw bytes by
 * the input: chains are well-formed unless the input says that one field of
 * one is not.
 */
#ifndef TESTS_FUZZ_PEER_H
#define TESTS_FUZZ_PEER_H

#include "memory.h"

#define PEER_ELEMENTS 24u	/* longest chain */

/* A chain that was made available. */
struct offer {
	bool live;
	uint16_t entries;	/* ring entries it takes */
	uint16_t pieces;	/* elements once they are cut at region borders */
	uint64_t readable_bytes, writable_bytes;
};

struct peer {
	struct memory *m;	/* where it writes now */
	bool packed;
	bool indirect;
	/* The driver has done nothing yet that a driver may not do. */
	bool clean;
	uint32_t size;
	uint32_t max_segs;	/* what the device takes */
	uint32_t room;		/* ring entries */
	uint16_t idx;		/* split: next available index */
	uint32_t cursor;	/* split: where to look for free descriptors; packed: next slot */
	bool wrap;		/* packed: of that slot */
	uint32_t table_at;	/* next free byte for tables */
	struct offer *offers;	/* by head (split) or buffer id (packed) */
	bool *taken;		/* split: descriptors; packed: ids */
	uint16_t *next;		/* split: links of chains */
	uint16_t *queue;	/* ids offered and not taken by the device, oldest first */
	uint32_t queue_first, queued;
};

/* @position: where the ring stands, as in struct virtq_device_config. */
void peer_init(struct peer *p, struct memory *m, bool indirect, uint32_t max_segs,
	       uint32_t position);
void peer_fini(struct peer *p);

/* Make a chain available. False if the ring is full. */
bool peer_offer(struct peer *p, struct input *in);

/* The device took a chain; the one that must have been next, if the driver is clean. */
const struct offer *peer_popped(struct peer *p, uint16_t id);
void peer_unpopped(struct peer *p, uint16_t id);
/* The device has given the chain back, and published that. */
void peer_release(struct peer *p, uint16_t id);

/* Where the next chain will be offered, as a kick would say it (2.9). */
uint16_t peer_next(const struct peer *p);
/* Change what tells the device when to call; any value is legal. */
void peer_set_event(struct peer *p, struct input *in);
/* Make the next slot available as it is, even if it is the device's. Not clean any more. */
void peer_cheat(struct peer *p, struct input *in);
/* Write bytes into the ring's areas. Not clean any more. */
void peer_scribble(struct peer *p, struct input *in);

#endif
