/* SPDX-License-Identifier: MIT */
/* The inside of a set of transfers, for the files that make it up. */
#ifndef VIRTQ_TRANSFER_TRANSFER_H
#define VIRTQ_TRANSFER_TRANSFER_H

#include <stdbool.h>

#include <virtq/transfer.h>

#include "base/check.h"
#include "ring/driver.h"

#define TRANSFER_BATCH 32u	/* transfers for which one call of the driver end is made */

/*
 * What a set with a port wants of it. By pointers, so that a program without a
 * C library, whose sets have none, links nothing of it (transfer_host.c).
 */
struct transfers_host {
	struct virtq_driver *(*driver)(const struct virtq_port *port);
	const struct virtq_region *(*regions)(const struct virtq_port *port, unsigned int *count);
	int (*renew)(struct virtq_port *port);
	void (*kick)(struct virtq_port *port);
	int (*kick_error)(struct virtq_port *port);
	int (*arm)(struct virtq_port *port);
	void (*wake)(struct virtq_port *port);		/* make the call fd readable */
	bool (*is_over)(int64_t deadline_ns);
	int64_t (*deadline)(const struct virtq_wait *wait);
	int (*sleep)(struct virtq_port *port, const struct virtq_wait *wait, int64_t deadline_ns);
};

/* A member, or the head, of a circular list. */
struct transfer_link {
	struct transfer_link *next, *prev;
};

enum transfer_state {
	TRANSFER_FREE,		/* on the free list */
	TRANSFER_READY,		/* prepared or back: the caller's, or to be released */
	TRANSFER_FLYING,	/* the ring has it as a token: the device's, or staged */
};

/* Why a transfer was not used; UNSENT until it is sent for the first time. */
enum transfer_lost { LOST_NOT, LOST_CANCELLED, LOST_BROKEN, LOST_UNSENT };

/* How many pieces and elements there are. */
struct transfer_shape {
	uint16_t readable, writable;
	uint16_t segs_readable, segs_writable;
};

/* Preparing and sending cost as much as they store: what is set together lies together. */
struct virtq_transfer {
	struct transfer_link link;	/* of those back, or to be released; else NULLs */
	struct virtq_transfers *set;
	uint64_t id;
	uint32_t written;
	uint8_t state;
	bool kept;			/* its ring entries stand where they stood */
	bool abandoned;
	uint8_t lost;			/* LOST_..., if it does not fly */
	struct transfer_shape shape;
	uint32_t kept_id;		/* if @kept */
	virtq_release_fn *release;
	void *arg;
	struct virtq_seg segs[];	/* segs_max; then the pieces, at pieces_offset */
};

struct virtq_transfers {
	struct virtq_driver *q;
	const struct transfers_host *host;	/* NULL without a port */
	struct virtq_port *port;
	struct virtq_transfer **free;		/* @free_count of them, the next one last */
	uint32_t free_count;
	uint64_t last_id;
	struct transfer_link back;		/* not told by poll yet, oldest first */
	struct transfer_link to_release;	/* abandoned and back */
	uint32_t to_release_count;
	uint32_t abandoned;		/* flying, or to be released */
	uint32_t kept_idle;		/* back, with ring entries that nobody uses */
	bool keeps;			/* the ring can; q->keep: it does so now */
	bool broken;			/* by the device, as the driver end said once */
	bool armed;			/* calls were asked for, and nobody has looked since */
	bool closed;			/* nothing is sent: it ends, or a reset is not over */
	bool ending;			/* nothing is prepared any more either */
	bool in_release;		/* a release function runs, and @scratch is its */
	uint32_t segs_max;		/* of a transfer, and of a chain that the ring takes */
	/*
	 * Memory that is contiguous for the device, which may read [0] or write [1] it: where
	 * pieces were found last. Without a map and a callback it is all that there is.
	 */
	struct transfer_near {
		uintptr_t host;
		uint64_t addr, bytes;
	} near[2];
	size_t pieces_offset;
	size_t stride;			/* from one transfer to the next */
	uint8_t *transfers;
	struct virtq_piece *scratch;
	struct virtq_transfers_config config;
};

ALWAYS_INLINE struct virtq_piece *pieces_of(const struct virtq_transfers *set,
					    const struct virtq_transfer *t)
{
	return (struct virtq_piece *)((uintptr_t)t + set->pieces_offset);
}

ALWAYS_INLINE struct virtq_piece *transfer_pieces(const struct virtq_transfer *t)
{
	return pieces_of(t->set, t);
}

static inline struct virtq_transfer *transfer_at(const struct virtq_transfers *set, uint32_t i)
{
	return (struct virtq_transfer *)(void *)(set->transfers + i * set->stride);
}

ALWAYS_INLINE void transfer_list(struct transfer_link *head, struct virtq_transfer *t)
{
	struct transfer_link *last = head->prev;

	t->link = (struct transfer_link){ .next = head, .prev = last };
	last->next = &t->link;
	head->prev = &t->link;
}

ALWAYS_INLINE void transfer_unlist(struct virtq_transfer *t)
{
	if (LIKELY(!t->link.next))
		return;
	t->link.prev->next = t->link.next;
	t->link.next->prev = t->link.prev;
	t->link = (struct transfer_link){ NULL, NULL };
}

ALWAYS_INLINE struct virtq_transfer *transfer_first(const struct transfer_link *head)
{
	return container_of(head->next, struct virtq_transfer, link);
}

ALWAYS_INLINE bool transfer_list_is_empty(const struct transfer_link *head)
{
	return head->next == head;
}

/* Let go of the ring entries that @t keeps, in vain. */
ALWAYS_INLINE void transfer_unkeep(struct virtq_transfer *t)
{
	struct virtq_transfers *set = t->set;

	if (!t->kept)
		return;
	t->kept = false;
	set->kept_idle--;
	set->q->keep = false;
	virtq_driver_free(set->q, &t->kept_id, 1);
}

/* transfer_set.c; @host NULL for a set without a port. */
int transfers_check(const struct virtq_transfers_config *config, struct virtq_error *err);
size_t transfers_bytes(const struct virtq_transfers_config *config);
void transfers_lay_out(void *memory, struct virtq_transfers **out,
		       const struct virtq_transfers_config *config,
		       const struct transfers_host *host);

/* transfer_segs.c: fill @segs with where the device sees @piece; how many, or an error. */
int transfer_translate(struct virtq_transfers *set, const struct virtq_piece *piece, bool writable,
		       struct virtq_seg *segs, unsigned int max, bool unchecked);

/* transfer.c */
/* Close, or open, the whole pages in the pieces of @t. */
void transfer_guard(const struct virtq_transfer *t, bool closed);
/* Call the release functions that are due. Handles and lists may be others afterwards. */
void transfers_release(struct virtq_transfers *set);
/* End a READY one: free it, and call its release function. */
void transfer_release(struct virtq_transfer *t);

/* transfer_send.c: show the device what was staged, and kick if it wants that. */
void transfers_publish(struct virtq_transfers *set);

/* transfer_back.c */
/* Take what is used; -EBADMSG, -ESHUTDOWN of the driver end, else 0. Calls nobody. */
int transfers_reap(struct virtq_transfers *set);
/* The same for the room's sake: who sleeps on the call fd has to hear of what there was. */
void transfers_reap_for_room(struct virtq_transfers *set);
/* A transfer is with the caller again, or among those to be released. */
void transfer_back(struct virtq_transfer *t, uint32_t written, enum transfer_lost lost);

#endif
