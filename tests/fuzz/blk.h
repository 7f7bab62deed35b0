/* SPDX-License-Identifier: MIT */
/*
 * A fuzzed disk and its driver's chains; and what must come of a chain, worked
 * out from its bytes alone: which pieces of work the store gets, one after the
 * other, and what the driver finds.
 */
#ifndef TESTS_FUZZ_BLK_H
#define TESTS_FUZZ_BLK_H

#include <virtq/blk.h>
#include <virtq/driver.h>
#include <virtq/engine.h>

#include "input.h"

#define TASKS 4u
#define RING_SIZE 64u
#define ELEMENTS_MAX 8u			/* of either direction; TASKS such chains fit the ring */
#define READABLE_BYTES (16u + 3 * 512)	/* what a driver can send; more than 17 ranges */
#define WRITABLE_BYTES (3u * 512 + 2)
#define RANGES_MAX 16u			/* as configuration space says */
#define RANGE_SECTORS_MAX (1u << 22)	/* a driver's count of bytes has 32 bits */
#define WRITTEN_SECTORS_MAX (1u << 13)	/* where the device has to write zeroes itself */
#define UNTOUCHED 0x55
#define GPA(task, writable) (0x100000u * (1 + (task)) + ((writable) ? 0x80000u : 0))

enum status { OK = VIRTIO_BLK_S_OK, IOERR = VIRTIO_BLK_S_IOERR, UNSUPP = VIRTIO_BLK_S_UNSUPP };

struct work {
	enum virtq_store_kind kind;
	uint32_t flags;
	uint64_t offset, bytes;
};

/* A chain, and what must come of it. */
struct task {
	bool busy;
	bool held, cancelled, submitted;
	struct virtq_req *req;
	struct virtq_op op;
	/* Its bytes: the driver's memory of their exact size, and a copy as they were sent. */
	uint8_t *rd_memory, *wr_memory;
	uint8_t *rd, *wr;		/* where the chain begins: it goes to the end */
	uint8_t sent[READABLE_BYTES];
	uint8_t sent_writable[WRITABLE_BYTES];
	uint32_t rd_bytes, wr_bytes;
	uint32_t type;
	/* The work for the store: @next of @count is the one that is not begun. */
	struct work plan[RANGES_MAX];
	uint32_t next, count;
	bool ranges;			/* each of the pieces is one */
	bool at_work;			/* the store has the one before @next */
	bool writing;			/* it is written with zeroes, of which are left: */
	uint64_t from, to;
	struct virtq_store_io *io;
	uint32_t filled;		/* bytes of a read that the store has given */
	bool answered;
	enum status status;
};

struct run {
	struct input in;
	struct virtq_store store;
	struct virtq_store_ops ops;
	struct virtq_model *model;
	struct virtq_blk_options options;
	char serial[VIRTIO_BLK_ID_BYTES + 1];
	bool read_only;
	uint64_t sectors;		/* as the disk has them */
	int64_t refreshed;
	bool negotiated, writeback;
	struct virtq_features accepted;
	void *memory;			/* of the ring */
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct virtq_map *map;
	struct task tasks[TASKS];
	struct task *starting;		/* the store may be called for it */
	unsigned int closed;
};

/* What is on the disk. */
static inline uint8_t pattern(uint64_t offset)
{
	return (uint8_t)(offset * 31 + (offset >> 9) * 7 + 1);
}

/* The longest range that is taken, where the store takes @bytes at once. */
static inline uint64_t sectors_max(uint64_t bytes, uint64_t most)
{
	return bytes / 512 < most ? bytes / 512 : most;
}

/* A store that the input chooses. */
void make_store(struct run *r);
/* Work, well or not. Returns what an operation would: bytes, or -errno. */
int64_t perform(struct run *r, struct task *t, struct virtq_store_io *io);

/* The plan for a chain that has a place for an answer. */
void expect(const struct run *r, struct task *t);
/* The store has ended a piece of it with @result, 0 or -errno. */
void expect_after(struct task *t, int result);
/* How long the filled part is that the driver is told of. */
uint32_t expected_length(const struct task *t);

#endif
