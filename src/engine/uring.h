/* SPDX-License-Identifier: MIT */
/*
 * The inside of the io_uring engine.
 *
 *   uring.c             the io_uring itself: submissions, completions, the loop's turn, set-up
 *   uring_ops.c         operations of models
 *   uring_fds.c         kicks, calls and error signals
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
	struct {
		int fd;
		int at;			/* its entry, -1 if the kernel did not take it */
	} files[URING_QUEUE_FILES];
	uint32_t file_count;
	bool heard;			/* a call has failed of which only failure is told: see all */
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

/* ---- uring.c ---- */

/* What a completion belongs to. */
enum uring_cookie_kind { COOKIE_IGNORED, COOKIE_WAKE, COOKIE_QUIET, COOKIE_AUX, COOKIE_IO };

/* bits 60-63 kind, 32-59 generation, 16-31 queue, 0-15 slot or enum engine_aux_kind */
static inline uint64_t uring_cookie(enum uring_cookie_kind kind, uint32_t generation,
				    uint32_t queue, uint32_t slot)
{
	return (uint64_t)kind << 60 | (uint64_t)generation << 32 | queue << 16 | slot;
}

/* A place for one more submission; never NULL. What was staged before may be handed over. */
struct io_uring_sqe *uring_sqe(struct virtq_engine *e);
/* Stage that the kernel gives up what was submitted with this cookie, if it still can. */
void uring_cancel_cookie(struct virtq_engine *e, uint64_t what);
/* Hand everything over: from here on the kernel holds files and memory itself. */
void uring_flush(struct virtq_engine *e);
/* The same, and sleep until something completes. */
void uring_wait(struct virtq_engine *e);
/* Take what has completed out of the ring. Stages nothing. Returns true if there is news. */
bool uring_reap(struct virtq_engine *e);

/* ---- uring_ops.c ---- */

void uring_perform(struct virtq_engine *e, struct engine_slot *slot);
void uring_cancel(struct virtq_engine *e, struct engine_slot *slot);

/* ---- uring_fds.c ---- */

void uring_signal(struct virtq_engine *e, struct virtq_engine_queue *q,
		  enum virtq_engine_fd which);
void uring_watch(struct virtq_engine *e, struct virtq_engine_queue *q);
void uring_drain(struct virtq_engine *e, struct virtq_engine_queue *q);
void uring_release(struct virtq_engine *e, struct virtq_engine_queue *q,
		   enum virtq_engine_fd which);
/* What is out for one of the fds has completed. Returns true if the loop has something to do. */
bool uring_fd_completed(struct virtq_engine *e, struct virtq_engine_queue *q,
			enum engine_aux_kind kind, const struct io_uring_cqe *cqe);
/* The same of a call (COOKIE_QUIET), which is heard of only if it has failed. */
bool uring_call_failed(struct virtq_engine_queue *q);

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

/* The entry of a file that stays open, which gets it at its first use; -1 for none. */
int uring_file(struct virtq_engine *e, struct virtq_engine_queue *q, int fd);

/* The entry that holds all of a piece of memory; -1 if none does. */
int uring_buffer(const struct virtq_engine *e, struct virtq_engine_queue *q, const void *base,
		 size_t len);

#endif
