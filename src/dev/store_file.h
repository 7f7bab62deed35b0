/* SPDX-License-Identifier: MIT */
/*
 * A file as a store: what its opening (store_file.c), its turning (store_file_io.c),
 * its syncs (store_file_sync.c) and its thread that erases (store_file_erase.c) share.
 */
#ifndef VIRTQ_DEV_STORE_FILE_H
#define VIRTQ_DEV_STORE_FILE_H

#include <pthread.h>

#include "dev/store.h"
#include "dev/store_turns.h"

/* Memory for requests whose own O_DIRECT cannot take: so much, and no more; others wait. */
#define BOUNCE_BYTES (128u * 1024u)
#define BOUNCE_COUNT 32u

/* The longest request that a file in memory has moved in place: a copy of some microseconds. */
#define IN_PLACE_MAX ((uint64_t)64 << 10)

/*
 * Who wants the file stable while a sync is under way; see store_file_sync.c.
 * Owner of all of it: whoever has the lock; @failed through shm_flag_*(), as it is
 * also read without.
 */
struct sync_gate {
	pthread_mutex_t lock;
	bool busy;			/* somebody leads: a sync is under way, or about to be */
	bool failed;			/* one has; no other will be believed */
	/* The file, opened twice; the second may be missing, -1. Owner from here on: who leads. */
	int fds[2];
	unsigned int at;		/* the one that is synced */
	bool other_is_good;		/* no error is known to the other one only */
	struct virtq_store_io *waiting, **end;
	struct virtq_store_io **covered_end;	/* up to here it is for these, too */
};

/*
 * Ranges to be erased and the thread that does it; see store_file_erase.c. Owner of
 * all of it: whoever has the lock.
 */
struct eraser {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started;			/* the thread */
	bool quit;
	pthread_t thread;
	struct virtq_store_io *waiting, **end;
	struct virtq_store_io *at_work;	/* what the thread erases */
	bool dropped;			/* it shall end as soon as it can */
};

struct file_store {
	struct virtq_store store;
	bool is_device;				/* constant */
	bool in_place;				/* constant: it is memory, see moved_in_place() */
	/* Of a file in_place: operations that change it. shm_count_*(): engines write and read. */
	uint32_t changing;
	int fd;					/* through the page cache; holds the lock */
	int direct_fd;				/* past it, or -1 */
	uint32_t op_flags;			/* of reads and writes; constant */
	int spare_fd;				/* for syncs only, or -1 */
	/* What O_DIRECT wants: powers of two; constant. */
	uint32_t direct_mem_align, direct_offset_align;
	uint32_t page_bytes;			/* constant */
	uint32_t hole_align;			/* of holes and zeroes; constant */
	/* What the file system turned out not to do. shm_flag_*(): engines write and read. */
	bool no_punch, no_zero_range;

	struct sync_gate gate;
	struct eraser eraser;

	/* One mapping of all buffers, which costs nothing until it is touched; NULL for none. */
	uint8_t *bounce;
	pthread_mutex_t bounce_lock;
	uint32_t bounce_taken;			/* a bit for each; by the lock */
	struct store_turns waiting;		/* for one of them; by the lock */
};

enum file_stage {
	FILE_WAITS,		/* held: for a buffer */
	FILE_MOVES,		/* between file and the driver's memory */
	FILE_BOUNCES,		/* the same by a buffer of ours, piece by piece */
	FILE_PUNCHES,		/* a hole: reads as zeroes, and keeps no space */
	FILE_KEEPS,		/* takes the space of a hole again */
	FILE_ZEROES,		/* zeroes that keep their space */
	FILE_ERASES,		/* held: by the thread, or until it comes to this one */
	FILE_WAITS_FOR_SYNC,	/* held: somebody else's shall end, which may be for this one too */
	FILE_LEADS,		/* held no longer: the next sync is its own */
	FILE_SYNCS,
};

/* What a piece of work keeps in its room. */
struct file_io {
	struct store_turn turn;		/* WAITS; first, see store_turns.h; by the lock */
	struct virtq_store_io *next;	/* of others that wait; by the lock of what they wait for */
	enum file_stage stage;
	uint8_t *bounce;		/* BOUNCES: ours until the end; WAITS: by the lock */
	struct virtq_span span;		/* what the engine moves, piece by piece */
	uint64_t piece;			/* bytes of it */
	uint64_t done;			/* bytes of pieces before it */
};

_Static_assert(sizeof(struct file_io) <= sizeof(((struct virtq_store_io *)NULL)->room),
	       "fits where the device has room for it");
_Static_assert(offsetof(struct file_io, turn) == 0, "where store_turns.c looks for it");

static inline struct file_io *file_io_of(struct virtq_store_io *io)
{
	return (struct file_io *)(void *)io->room;
}

/* store_file_io.c */
enum virtq_verdict file_start(struct virtq_store *store, struct virtq_store_io *io,
			      struct virtq_op *op);
enum virtq_verdict file_finish(struct virtq_store *store, struct virtq_store_io *io,
			       struct virtq_op *op, int64_t result);
void file_cancel(struct virtq_store *store, struct virtq_store_io *io);

/* store_file_sync.c */
void sync_gate_open(struct sync_gate *gate);
/* @fd, and @other or -1: the file, opened twice, before any of it is written. */
void sync_gate_use(struct sync_gate *gate, int fd, int other);
void sync_gate_close(struct sync_gate *gate);
/* All that has ended before shall be stable. After VIRTQ_HOLD @io is not to be touched any more. */
enum virtq_verdict file_sync(struct file_store *f, struct virtq_store_io *io,
			     struct virtq_op *op);
/* FILE_LEADS: its turn has come. */
enum virtq_verdict file_sync_lead(struct file_store *f, struct virtq_store_io *io,
				  struct virtq_op *op);
/*
 * FILE_SYNCS: the sync has ended; -ECANCELED: it has not even begun; -EOWNERDEAD: how, is
 * not known.
 */
void file_synced(struct file_store *f, int64_t result);
/* Returns true if @io waited: then it is the caller's to complete. */
bool file_sync_cancel(struct file_store *f, struct virtq_store_io *io);

/* store_file_erase.c */
/* Whether the block device opened as @fd, for writing, can. Changes nothing. */
bool file_can_erase(int fd);
void eraser_open(struct eraser *eraser);
/* Nothing waits. */
void eraser_close(struct eraser *eraser);
/* Not stable yet when it ends. After VIRTQ_HOLD @io is not to be touched any more. */
enum virtq_verdict file_erase(struct file_store *f, struct virtq_store_io *io);
/* Returns true if @io waited: then it is the caller's to complete. */
bool file_erase_cancel(struct file_store *f, struct virtq_store_io *io);

#endif
