/* SPDX-License-Identifier: MIT */
/*
 * The model of transfers that model_transfers.c compares a set with: who has which pieces,
 * and every byte of and around them.
 *
 * The memory of the pieces is in regions that are neighbours for this process and
 * strangers for the device, so that a piece may be several elements of a chain.
 */
#ifndef TESTS_TRANSFER_MODEL_TRANSFERS_H
#define TESTS_TRANSFER_MODEL_TRANSFERS_H

#include <virtq/transfer.h>

#define MODEL "model_transfers"
#include "model.h"

#define TWINS 24u
#define CHUNK_BYTES 12288u		/* of the arena, for one twin */
#define ARENA_BYTES (TWINS * CHUNK_BYTES)
#define REGIONS 12u
#define REGION_BYTES (ARENA_BYTES / REGIONS + 1)	/* so that borders are odd */
#define PIECES_MAX 6u
#define POISON 0xa5

/* ---- Configurations ----------------------------------------------------- */

enum way { BY_MAP, BY_CALLBACK, BY_ADDRESS };

struct config {
	char name[120];
	struct layout layout;
	uint32_t size, transfers_max, pieces_max, segs_max, indirect_entries;
	enum way way;
	bool bare, guard, keep;
	const struct run *run;
};

/* ---- The model ---------------------------------------------------------- */

enum where {
	GONE,
	READY,		/* prepared, or back and known to be */
	QUEUED,
	LOANED,
	PUSHED,		/* in order: pushed behind one that is not */
	RETURNED,	/* used, and perhaps not known to the set */
};

struct twin {
	struct model *m;
	struct virtq_transfer *t;
	enum where where;
	bool abandoned, to_poll;
	struct virtq_piece pieces[PIECES_MAX];
	unsigned int readable, writable, elements, released;
	uint64_t id;
	uint32_t written, capacity;
	int status;
	uint8_t shadow[CHUNK_BYTES];	/* what is in its chunk */
	struct virtq_req *req;
};

struct model {
	const struct config *c;
	uint64_t seed, step;
	struct virtq_port *ports[2];	/* the second takes over in a reset, if there is no port */
	unsigned int port;
	struct virtq_transfers *set;
	struct far_end far;
	uint8_t *near, *distant;	/* the arena, as both sides see it */
	struct virtq_region regions[REGIONS];	/* of the near arena */
	struct virtq_map *map;
	struct twin twins[TWINS];
	struct list queued, loans, returned, polls;
	uint32_t staged;		/* of queued, the last ones: not shown to the device */
	uint64_t last_id;
	unsigned int kicks;		/* calls of the kick function */
	bool broken, kick_due, inside, ending, resetting;
	bool send_there;		/* the next release function sends another */
	uint64_t sent, staged_ever, came_back, finished, releases, nested, refused, resets, full;
};

static uint32_t rnd(struct model *m, uint32_t below)
{
	return chance(&m->seed, below);
}

static void discard(struct list *l, uint32_t number)
{
	for (uint32_t i = 0; i < l->count; i++) {
		if (l->of[i] == number) {
			pick(l, i);
			return;
		}
	}
}

static uint32_t number_of(const struct twin *t)
{
	return (uint32_t)(t - t->m->twins);
}

static struct virtq_driver *driver_of(const struct model *m)
{
	return virtq_port_driver(m->ports[m->port]);
}

static uint8_t *chunk(uint8_t *arena, const struct twin *t)
{
	return arena + (size_t)number_of(t) * CHUNK_BYTES;
}

static struct twin *twin_of(struct model *m, const struct virtq_transfer *t)
{
	for (uint32_t i = 0; i < TWINS; i++) {
		if (m->twins[i].where != GONE && m->twins[i].t == t)
			return &m->twins[i];
	}
	WRONG(m, "a transfer that there is none of");
	return NULL;
}

static uint32_t in_state(const struct model *m, enum where first, enum where last)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < TWINS; i++)
		count += m->twins[i].where >= first && m->twins[i].where <= last;
	return count;
}

/* ---- The ring ----------------------------------------------------------- */

static bool goes_indirect(const struct model *m, uint32_t n)
{
	return m->c->layout.indirect && n >= 2 && n <= m->c->indirect_entries;
}

/* Fewest and most ring entries of a chain of @n elements. */
static uint32_t entries_min(const struct model *m, uint32_t n)
{
	return goes_indirect(m, n) ? 1 : n;
}

static uint32_t entries_max(const struct model *m, uint32_t n)
{
	return goes_indirect(m, n) && n >= 4 ? 1 : n;
}

/* How many since it was asked last. */
static uint64_t kicks_taken(struct model *m)
{
	uint64_t kicks = m->kicks;

	m->kicks = 0;
	if (!m->c->bare && read(virtq_port_kick_fd(m->ports[m->port]), &kicks, sizeof(kicks)) < 0)
		return 0;
	return kicks;
}

/* How many of those queued the device can see. */
static uint32_t shown(const struct model *m)
{
	return m->queued.count - m->staged;
}

/* All that was staged was published, in one go. */
static void published(struct model *m)
{
	uint64_t kicks = kicks_taken(m);
	uint32_t new = m->staged;

	if (new && m->kick_due)
		SAME(m, kicks, 1);
	WITHIN(m, kicks, 0, new != 0);
	if (new)
		m->kick_due = false;
	m->staged = 0;
}

/* The same, in passing: a release function may have sent others. */
static void published_all(struct model *m)
{
	kicks_taken(m);
	if (m->staged)
		m->kick_due = false;
	m->staged = 0;
}

static void kick(void *arg)
{
	((struct model *)arg)->kicks++;
}

/* ---- Addresses ---------------------------------------------------------- */

static int64_t translate(void *arg, const void *base, size_t len, uint64_t *addr)
{
	const struct model *m = arg;
	uintptr_t at = (uintptr_t)base - (uintptr_t)m->near;
	size_t left;

	if (at >= ARENA_BYTES)
		return -EPERM;
	*addr = m->regions[at / REGION_BYTES].gpa + at % REGION_BYTES;
	left = REGION_BYTES - at % REGION_BYTES;
	if (left > ARENA_BYTES - at)
		left = ARENA_BYTES - at;
	return (int64_t)(left < len ? left : len);
}

static unsigned int elements_of(const struct model *m, const struct virtq_piece *p)
{
	uintptr_t at = (uintptr_t)p->base - (uintptr_t)m->near;

	if (m->c->way == BY_ADDRESS)
		return 1;
	return (unsigned int)((at + p->len - 1) / REGION_BYTES - at / REGION_BYTES + 1);
}

/* ---- Memory ------------------------------------------------------------- */

/* All of its chunk is as it should be. Through the device's eyes it always can be seen. */
static void check_memory(struct model *m, const struct twin *t, const uint8_t *arena_chunk)
{
	if (memcmp(arena_chunk, t->shadow, CHUNK_BYTES))
		WRONG(m, "memory of transfer %u is not as it should be", number_of(t));
}

static void write_bytes(struct model *m, struct twin *t, uint8_t *at, size_t bytes)
{
	uint32_t key = rnd(m, UINT32_MAX);
	size_t offset = (size_t)(at - chunk(m->near, t));

	for (size_t i = 0; i < bytes; i++)
		t->shadow[offset + i] = at[i] = (uint8_t)(key + i * 7 + (i >> 8));
}

#endif
