/* SPDX-License-Identifier: MIT */
/*
 * A driver that lies to the library's device end, in raw bytes, and what must
 * come of each lie: the right fault, a queue that stays broken, requests that
 * can still be given back, and neighbours that notice nothing.
 */
#ifndef TESTS_HOSTILE_LIAR_H
#define TESTS_HOSTILE_LIAR_H

#include "rig.h"

/* ---- Memory beside that of the rig (RIG_DATA_GPA, RIG_TABLE_GPA) -------- */

#define LIAR_PAGE ((uint64_t)4096)
/* At address 0: what a sum that wraps would run into. Readable and writable. */
#define LIAR_LOW_GPA ((uint64_t)0)
/* Begins where the region of tables ends, in a ring of LIAR_SIZE; read-only. */
#define LIAR_MORE_GPA (RIG_TABLE_GPA + LIAR_SIZE * RIG_TABLE_ENTRIES * 16)
#define LIAR_HOLE_GPA ((uint64_t)0x48000000)
#define LIAR_WRITE_ONLY_GPA ((uint64_t)0x50000000)
/* 2 GiB that nobody may touch. */
#define LIAR_HUGE_GPA ((uint64_t)1 << 32)
#define LIAR_HUGE_BYTES ((uint64_t)1 << 31)
/* The last page there can be. Readable and writable. */
#define LIAR_TOP_GPA ((uint64_t)0 - LIAR_PAGE)

#define LIAR_PIECES 4u

struct liar {
	struct rig r;
	struct piece pieces[LIAR_PIECES];
	void *huge;
	/* An honest queue over the same memory. */
	void *other_memory;
	struct virtq_driver *other_driver;
	struct virtq_device *other_device;
	/* A request on loan since before the lie; NULL in a ring of one entry. */
	struct virtq_req *lent;
	/* Where the next chain goes: split; packed. */
	uint16_t idx, slot;
	bool wrap;
};

/* One descriptor; @next is the id in packed tables, and means nothing in packed rings. */
struct elem {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

/* Everything up to a device end with one request on loan. @max_segs as in its config. */
void liar_open(struct liar *l, const struct shape *shape, uint32_t max_segs);
void liar_close(struct liar *l);

/* A pointer for an address in any of the pieces, in the driver's or the device's view. */
uint8_t *liar_at(struct liar *l, uint64_t gpa, bool device);
/* One descriptor into the main table; into a table at any address, as @packed has it. */
void liar_desc(struct liar *l, uint32_t slot, struct elem e);
void liar_table(struct liar *l, uint64_t gpa, uint32_t at, struct elem e);
/* Split: put @head into the available ring and show it. */
void liar_offer(struct liar *l, uint16_t head);
/* Packed: write the next slot with @id as available, but leave the flags to liar_show(). */
void liar_packed_fill(struct liar *l, uint32_t ahead, struct elem e, uint16_t id);
/* Packed: the flags that make the slot @ahead of the next one available, plus @flags. */
uint16_t liar_packed_flags(const struct liar *l, uint32_t ahead, uint16_t flags);
uint8_t *liar_packed_flags_at(struct liar *l, uint32_t ahead);
/* A whole chain: split from slot 0 on, linked as it says; packed in the next slots. */
void liar_chain(struct liar *l, const struct elem *elems, uint32_t count, uint16_t id);
/* Where the next chain begins, as a fault says it. */
uint32_t liar_place(const struct liar *l);

/* All of what must come of a lie. The queue breaks now, or @broken already is. */
void liar_caught(struct liar *l, enum virtq_fault_code code, uint32_t index, uint64_t value);
/* The queue works: gives back what is lent, and an honest chain passes through it. */
void liar_unharmed(struct liar *l);
/* The honest queue works. */
void liar_other_works(struct liar *l);

/* ---- Lies in a table ---------------------------------------------------- */

#define LIAR_SIZE 8u
/* Shapes: split, packed, with or without INDIRECT_DESC. */
#define SPLIT 1u
#define PACKED 2u
#define BOTH 3u
#define DIRECT 4u
/* @value is the slot of a descriptor, counted from the chain's first. */
#define VALUE_SLOT 8u
/* @value is the number of the descriptor whose flags are meant. */
#define VALUE_FLAGS 16u

struct lie {
	const char *name;
	unsigned int how;
	struct elem chain[LIAR_SIZE];
	uint64_t table_gpa;		/* 0: RIG_TABLE_GPA */
	struct elem table[5];
	uint32_t max_segs;
	/* What comes of it; VIRTQ_FAULT_NONE: it is none, and these are its spans. */
	enum virtq_fault_code code;
	uint64_t value;
	uint32_t readable;
	struct virtq_seg spans[5];
};

void lies_add(struct matrix *m, const struct lie *lies, size_t count);

/* The shapes of LIAR_SIZE entries that lies are told in; SPLIT or PACKED. */
extern struct shape split_shapes[2], packed_shapes[2];

#endif
