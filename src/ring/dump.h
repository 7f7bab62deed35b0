/* SPDX-License-Identifier: MIT */
/*
 * Queues as text for people: lines, and what both ends have to show. Runs
 * without a C library, changes nothing, and stays inside the ring's areas.
 *
 * UNTRUSTED: everything read from those areas. It is displayed, and used as an
 * index only after a check; every loop has a bound of this end's own.
 */
#ifndef VIRTQ_RING_DUMP_H
#define VIRTQ_RING_DUMP_H

#include <virtq/dump.h>
#include <virtq/mem.h>

#include "ring/layout.h"
#include "ring/packed.h"
#include "ring/split.h"

/* How much of a long list is shown. */
#define CHAINS_SHOWN 8u
#define DESCS_SHOWN 8u
#define SLOTS_SHOWN 16u

/* ---- Lines -------------------------------------------------------------- */

struct dump {
	void (*line)(void *arg, const char *text);
	void *arg;
	uint32_t len;
	char text[VIRTQ_DUMP_COLUMNS + 1];
};

/* Append to the line: %s, %u and %x, the last two with ll as well. */
__attribute__((format(printf, 2, 3)))
void dump_add(struct dump *o, const char *fmt, ...);
/* Append "slot 3 wrap 1". */
void dump_add_cursor(struct dump *o, struct packed_cursor at);
/* The line is complete. */
void dump_end(struct dump *o);
/* A line that says how many are not shown. */
void dump_more(struct dump *o, const char *indent, uint64_t count, const char *what);

/* ---- What both ends begin with ------------------------------------------ */

void dump_head(struct dump *o, const char *end, const struct virtq_ring *ring,
	       enum ring_layout layout);
void dump_fault(struct dump *o, const struct virtq_fault *fault);

/* ---- Who wants to be notified of what ----------------------------------- */

/* The words for one direction of notifications. */
struct dump_words {
	const char *one;
	const char *asker;	/* the end that asks for them */
	const char *event;	/* fields of the split ring */
	const char *flags;
};

extern const struct dump_words dump_kick, dump_call;

/* The event word or flags of the split ring, and what this end has decided by them. */
struct dump_asked {
	uint16_t word;
	bool decided;
	uint16_t decided_idx, staged_idx;
};

/* What the other end asked this one for, and what the next publish will make of it. */
void dump_split_asked(struct dump *o, const struct dump_words *w, bool event_idx,
		      const struct dump_asked *asked);
/* What this end asked the other for: @word stands in memory, @waiting from @seen on are there. */
void dump_split_wish(struct dump *o, const struct dump_words *w, bool event_idx, uint16_t word,
		     enum event_wish wish, uint16_t seen, uint32_t waiting);

/* The same for packed rings: @moved slots, those before @now, are staged. */
void dump_packed_asked(struct dump *o, const struct dump_words *w, const struct packed_ring *ring,
		       const struct pvirtq_event_suppress *other, bool decided,
		       struct packed_cursor now, uint32_t moved);
void dump_packed_wish(struct dump *o, const struct dump_words *w, const struct packed_ring *ring,
		      const struct pvirtq_event_suppress *own, enum event_wish wish,
		      struct packed_cursor seen, uint32_t waiting);

/* From one place in a packed ring to another, in slots, going round two laps. */
uint32_t dump_slots_between(struct packed_cursor from, struct packed_cursor to, uint32_t size);

/* ---- Descriptors -------------------------------------------------------- */

/* A descriptor of a split ring, to the end of its line but without ending it. */
void dump_add_split_desc(struct dump *o, uint32_t slot, const struct split_desc *d);
/* The chain at @head, below the size, as it stands in memory. */
void dump_split_chain(struct dump *o, const struct split_ring *ring, uint16_t head);

/* The flags at @slot, read before what they speak of. */
uint16_t dump_slot_flags(const struct packed_ring *ring, uint32_t slot);
/* A line that says whose turn it is at a cursor, beside whose it is waited for. */
void dump_turn(struct dump *o, const struct packed_ring *ring, const char *cursor,
	       struct packed_cursor at, const char *wanted, uint16_t turn);
/* The @count slots from @at on, as somebody sees them who is in that lap. */
void dump_slots(struct dump *o, const struct packed_ring *ring, struct packed_cursor at,
		uint32_t count);

#endif
