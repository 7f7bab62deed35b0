/* SPDX-License-Identifier: MIT */
/* Work that waits in a store, served in turn by its queues. */
#include "dev/store_turns.h"

static struct store_turn *turn_of(struct virtq_store_io *io)
{
	return (struct store_turn *)(void *)io->room;
}

/* The first that waits of @queue, or NULL. */
static struct virtq_store_io *first_of(const struct store_turns *turns,
				       const struct virtq_device *queue)
{
	struct virtq_store_io *first = turns->first;

	while (first && first->req->queue != queue) {
		first = turn_of(first)->next_queue;
		if (first == turns->first)
			return NULL;
	}
	return first;
}

/* ---- Queues -------------------------------------------------------------- */

/* @first speaks for its queue from now on, whose turn comes after all others. */
static void add_queue(struct store_turns *turns, struct virtq_store_io *first)
{
	struct store_turn *turn = turn_of(first);

	if (!turns->first) {
		turn->next_queue = turn->prev_queue = turns->first = first;
		return;
	}
	turn->next_queue = turns->first;
	turn->prev_queue = turn_of(turns->first)->prev_queue;
	turn_of(turn->prev_queue)->next_queue = first;
	turn_of(turns->first)->prev_queue = first;
}

static void remove_queue(struct store_turns *turns, struct virtq_store_io *first)
{
	struct store_turn *turn = turn_of(first);

	if (turns->first == first)
		turns->first = turn->next_queue == first ? NULL : turn->next_queue;
	turn_of(turn->next_queue)->prev_queue = turn->prev_queue;
	turn_of(turn->prev_queue)->next_queue = turn->next_queue;
	turn->next_queue = turn->prev_queue = NULL;
}

/* @to speaks for the queue in place of @from, whose turn it stays. */
static void replace_first(struct store_turns *turns, struct virtq_store_io *from,
			  struct virtq_store_io *to)
{
	struct store_turn *old = turn_of(from), *new = turn_of(to);
	bool alone = old->next_queue == from;

	new->next_queue = alone ? to : old->next_queue;
	new->prev_queue = alone ? to : old->prev_queue;
	turn_of(new->next_queue)->prev_queue = to;
	turn_of(new->prev_queue)->next_queue = to;
	if (turns->first == from)
		turns->first = to;
	old->next_queue = old->prev_queue = NULL;
}

/* ---- What they wait with -------------------------------------------------- */

/* Between the last of its queue and @first. */
static void link_before(struct virtq_store_io *first, struct virtq_store_io *io)
{
	struct store_turn *turn = turn_of(io);

	turn->next = first;
	turn->prev = turn_of(first)->prev;
	turn->next_queue = turn->prev_queue = NULL;
	turn_of(turn->prev)->next = io;
	turn_of(first)->prev = io;
}

static void add_alone(struct store_turns *turns, struct virtq_store_io *io)
{
	turn_of(io)->next = turn_of(io)->prev = io;
	add_queue(turns, io);
}

void store_turns_add(struct store_turns *turns, struct virtq_store_io *io)
{
	struct virtq_store_io *first = first_of(turns, io->req->queue);

	if (first)
		link_before(first, io);
	else
		add_alone(turns, io);
}

void store_turns_put_back(struct store_turns *turns, struct virtq_store_io *io)
{
	struct virtq_store_io *first = first_of(turns, io->req->queue);

	if (!first) {
		add_alone(turns, io);
		return;
	}
	link_before(first, io);
	replace_first(turns, first, io);
}

void store_turns_remove(struct store_turns *turns, struct virtq_store_io *io)
{
	struct store_turn *turn = turn_of(io);

	if (turn->next == io)
		remove_queue(turns, io);
	else if (turn->next_queue)
		replace_first(turns, io, turn->next);
	turn_of(turn->next)->prev = turn->prev;
	turn_of(turn->prev)->next = turn->next;
}

void store_turns_take(struct store_turns *turns, struct virtq_store_io *io)
{
	struct virtq_store_io *first;

	store_turns_remove(turns, io);
	first = first_of(turns, io->req->queue);
	if (first) {
		remove_queue(turns, first);
		add_queue(turns, first);
	}
}

bool store_turns_has(const struct store_turns *turns, const struct virtq_store_io *io)
{
	struct virtq_store_io *first = first_of(turns, io->req->queue), *at = first;

	while (at && at != io) {
		at = turn_of(at)->next;
		if (at == first)
			return false;
	}
	return at;
}

struct virtq_store_io *store_turns_next(const struct store_turns *turns,
					struct virtq_store_io *io)
{
	struct virtq_store_io *first, *next;

	if (!io)
		return turns->first;
	next = turn_of(io)->next;
	if (!turn_of(next)->next_queue)
		return next;	/* not its queue's first again */
	first = next;
	next = turn_of(first)->next_queue;
	return next == turns->first ? NULL : next;
}
