/* SPDX-License-Identifier: MIT */
/*
 * A disk behind an engine, driven from the test's thread with random requests
 * that are compared with a model of the disk; and the engines to do it on.
 */
#ifndef TESTS_UNIT_LANE_H
#define TESTS_UNIT_LANE_H

#include <stdint.h>

#include <virtq/engine.h>

#include "pair.h"

#define WAIT_MS 20000		/* a call that takes longer is lost */

/* ---- A disk ---------------------------------------------------------------- */

#define ZONES 64u			/* of the disk, each used by one request at a time */
#define ZONE_SECTORS 32u
#define ZONE_BYTES (ZONE_SECTORS * 512u)
#define DISK_BYTES (ZONES * ZONE_BYTES)
/* In the data memory: a header, a status and a buffer for each zone. */
#define ZONE_STRIDE (64u * 1024u)
#define HEADER_AT(zone) ((zone) * ZONE_STRIDE)
#define STATUS_AT(zone) (HEADER_AT(zone) + 64)
#define BUFFER_AT(zone) (HEADER_AT(zone) + 4096)
#define DATA_BYTES (ZONES * ZONE_STRIDE)

struct disk {
	char *path;
	struct virtq_model *model;
	uint8_t *expect;		/* what it holds */
};

void disk_open(struct disk *d, bool direct, unsigned int queues);
/* Also compares the file with what is expected. */
void disk_close(struct disk *d);

/* ---- A queue of it, and a driver ------------------------------------------- */

struct job {
	bool busy;
	uint32_t type;
	uint32_t sector, sectors;	/* within the disk */
};

struct lane {
	struct pair pair;
	struct virtq_engine_queue *queue;
	int kick_fd, call_fd;		/* ours; the engine has duplicates */
	unsigned int first_zone, zones;	/* of the disk: this lane's own */
	struct job jobs[ZONES];
	uint8_t *expect;		/* what the disk holds; shared by lanes */
	uint64_t random;
	uint64_t sent, done, read_bytes, written_bytes;
};

int new_eventfd(void);
int dup_of(int fd);

/* The lane keeps @kick_fd and @call_fd and gives the engine duplicates; -1 for none. */
void lane_open(struct lane *l, struct virtq_engine *engine, struct disk *disk,
	       const struct pair_shape *shape, int kick_fd, int call_fd);
void lane_close(struct lane *l);
/* A disk of one queue on @engine, and a lane on it; and the end of all three. */
void lane_begin(struct lane *l, struct virtq_engine *engine, struct disk *disk,
		const struct pair_shape *shape);
void lane_end(struct lane *l, struct virtq_engine *engine, struct disk *disk);
/* Start requests in free zones, up to @depth in flight and @total since the beginning. */
void lane_fill(struct lane *l, unsigned int depth, uint64_t total);
/* Check everything that is back. Returns how many. */
unsigned int lane_reap(struct lane *l);
/* Wait until at least one is back, asleep if there is a call fd, and check it. */
void lane_wait(struct lane *l);
/* Finish @count more requests. */
void lane_run(struct lane *l, unsigned int depth, uint64_t count);

/* ---- Models ---------------------------------------------------------------- */

/* Answers each request at once, with one byte, 'x'. */
extern const struct virtq_model_ops quick_ops;
/* For models of whose requests the first operation is the last. */
enum virtq_verdict done_finish(struct virtq_model *model, struct virtq_req *req,
			       struct virtq_op *op, int64_t result);

/* ---- Engines --------------------------------------------------------------- */

struct setting {
	enum virtq_engine_kind kind;
	struct pair_shape shape;
	uint32_t entries, spin_us;
	unsigned int depth;
};

/* Skips the test where the kernel refuses io_uring. */
struct virtq_engine *engine_with(const struct virtq_engine_config *config);
/* With a @spin_us of 0 it does not spin. */
struct virtq_engine *engine_of(enum virtq_engine_kind kind, uint32_t entries, uint32_t spin_us);
/* Half a second in which nothing happens must cost next to nothing. */
void assert_idle(void);

extern const struct setting uring_split, uring_split_event, uring_packed, uring_packed_event;
extern const struct setting sync_split, sync_split_event, sync_packed, sync_packed_event;
/* Fewer submission entries than requests; one at a time; with polling before sleep. */
extern const struct setting uring_tiny, uring_single, uring_spin, sync_single, sync_spin;

#define ON(setting, test) \
	{ #test " [" #setting "]", test, NULL, NULL, (void *)(uintptr_t)&setting }
#define ON_ENGINES(test) ON(uring_split_event, test), ON(sync_packed_event, test)
#define ON_ALL(test) \
	ON(uring_split, test), ON(uring_split_event, test), ON(uring_packed, test), \
	ON(uring_packed_event, test), ON(sync_split, test), ON(sync_split_event, test), \
	ON(sync_packed, test), ON(sync_packed_event, test)

#endif
