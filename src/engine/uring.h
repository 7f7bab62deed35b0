/* SPDX-License-Identifier: MIT */
/*
 * The inside of the io_uring engine.
 *
 *   uring.c             operations, kicks, calls; the loop's turn; set-up
 *   uring_registered.c  files and guest memory that the kernel keeps hold of
 *
 * Owner: the engine's thread.
 */
#ifndef VIRTQ_ENGINE_URING_H
#define VIRTQ_ENGINE_URING_H

#include <liburing.h>

#include "engine/engine.h"

#define URING_FILES 256u		/* registered at a time, of all queues */
#define URING_QUEUE_FILES 4u		/* of one queue; operations on more go without */
#define URING_BUFFERS 512u		/* pieces of memory registered at a time, of all queues */

/* A file in the kernel's table. It is whoever uses it that keeps @fd open. */
struct uring_file {
	int fd;
	uint32_t users;			/* queues; 0: the entry is free */
};

/* A piece of guest memory in the kernel's table: its pages are pinned. */
struct uring_buffer {
	uint8_t *host;
	size_t bytes;
	/* Held: as long as the entry is there nothing else can be at @host. */
	struct virtq_mapping *mapping;
	uint32_t users;			/* queues; 0: the entry is free */
};

/* What of these one queue uses. */
struct uring_queue {
	struct uring_use {
		int fd;
		int at;			/* its entry, -1 if the kernel did not take it */
		bool waits;		/* the kernel has no way to read it without waiting */
	} files[URING_QUEUE_FILES];
	uint32_t file_count;
	bool heard;			/* a call has failed of which only failure is told: see all */
	/* How the kick fd is watched: read as it comes, or polled and drained then. */
	enum { KICK_UNKNOWN, KICK_READ, KICK_POLL } kick;
	uint32_t *buffers;		/* entries of the table */
	uint32_t buffer_count;
	uint32_t last;			/* of these: where the last piece of memory was found */
};

struct uring {
	struct io_uring ring;
	bool multishot;			/* until the kernel refuses it */
	bool waking;			/* a read of the wake-up fd is out */
	bool skip_success;		/* the kernel can keep quiet about what went well */
	bool sqpoll;			/* a kernel thread takes what is staged */
	bool links;			/* operations in a row go to the kernel together */
	bool fixed_files, fixed_buffers;	/* there are tables for them */
	/*
	 * Readable when the kernel has let go of the whole io_uring and all of its
	 * operations: the end of a pipe whose other end is among the registered files.
	 */
	int gone_fd;
	struct io_uring_sqe nowhere;	/* where submissions go once the engine has failed */
	uint32_t refused;		/* how often in a row the kernel asked to come later */
	uint64_t wake_word;
	uint64_t one;
	char sink[512];			/* what was read from kick fds; never looked at */
	struct uring_file files[URING_FILES];
	struct uring_buffer buffers[URING_BUFFERS];
};

/* Hand everything over: from here on the kernel holds files and memory itself. */
void uring_flush(struct virtq_engine *e);

/* ---- uring_registered.c ---- */

/*
 * Make the tables, as far as they are wanted and the kernel has them, and gone_fd.
 * Returns 0 or -errno.
 */
int uring_register_tables(struct virtq_engine *e);

/* The queue comes, goes (with nothing in flight), has a new map. Thread: the engine's. */
void uring_enter_queue(struct virtq_engine *e, struct virtq_engine_queue *q);
void uring_leave_queue(struct virtq_engine *e, struct virtq_engine_queue *q);
void uring_remap_queue(struct virtq_engine *e, struct virtq_engine_queue *q);

/* What is known of a file that stays open, found out at its first use; NULL for nothing. */
const struct uring_use *uring_file(struct virtq_engine *e, struct virtq_engine_queue *q, int fd);

/* The entry that holds all of a piece of memory; -1 if none does. */
int uring_buffer(const struct virtq_engine *e, struct virtq_engine_queue *q, const void *base,
		 size_t len);

#endif
