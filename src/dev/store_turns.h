/* SPDX-License-Identifier: MIT */
/*
 * Work that waits in a store for something of which there is not enough, and is
 * served in turn by the queue it comes from: a queue with a thousand pieces of work
 * costs one with a single one no more than one turn. Those of one queue stay in order.
 *
 * Nothing here locks: a struct store_turns belongs to whoever has what is waited for.
 */
#ifndef VIRTQ_DEV_STORE_TURNS_H
#define VIRTQ_DEV_STORE_TURNS_H

#include <virtq/store.h>

/*
 * The first thing in the room of whatever waits. Both lists have no ends: behind the
 * last of a queue comes its first, and behind the last queue the first one.
 */
struct store_turn {
	struct virtq_store_io *next, *prev;		/* of the same queue */
	struct virtq_store_io *next_queue, *prev_queue;	/* a queue's first only; else NULL */
};

/* All zero: nobody waits. */
struct store_turns {
	struct virtq_store_io *first;	/* of the queue whose turn it is; NULL: nobody waits */
};

/* As the last of its queue; a queue that had none waits for its turn behind all others. */
void store_turns_add(struct store_turns *turns, struct virtq_store_io *io);
/* As the first of its queue: it had been taken, and nothing came of it. */
void store_turns_put_back(struct store_turns *turns, struct virtq_store_io *io);
/* @io waits no longer; nobody's turn has changed. */
void store_turns_remove(struct store_turns *turns, struct virtq_store_io *io);
/* @io has had the turn of its queue, which comes last now. */
void store_turns_take(struct store_turns *turns, struct virtq_store_io *io);
bool store_turns_has(const struct store_turns *turns, const struct virtq_store_io *io);
/*
 * All that wait, in order: those of the first queue, then those of the next. @io: NULL
 * to begin. Returns NULL at the end. To remove one ask for the next before.
 */
struct virtq_store_io *store_turns_next(const struct store_turns *turns,
					struct virtq_store_io *io);

#endif
