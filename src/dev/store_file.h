/* SPDX-License-Identifier: MIT */
/* A file as a store: what its opening (store_file.c) and its turning (store_file_io.c) share. */
#ifndef VIRTQ_DEV_STORE_FILE_H
#define VIRTQ_DEV_STORE_FILE_H

#include <pthread.h>

#include "dev/store.h"

/* Memory for requests whose own O_DIRECT cannot take: so much, and no more; others wait. */
#define BOUNCE_BYTES (128u * 1024u)
#define BOUNCE_COUNT 32u

struct file_store {
	struct virtq_store store;
	bool is_device;				/* constant */
	int fd;					/* through the page cache; holds the lock */
	int direct_fd;				/* past it, or -1 */
	/* What O_DIRECT wants: powers of two; constant. */
	uint32_t direct_mem_align, direct_offset_align;
	uint32_t page_bytes;			/* constant */
	uint32_t hole_align;			/* of holes and zeroes; constant */
	/* What the file system turned out not to do. shm_flag_*(): engines write and read. */
	bool no_punch, no_zero_range;

	/* One mapping of all buffers, which costs nothing until it is touched; NULL for none. */
	uint8_t *bounce;
	pthread_mutex_t bounce_lock;
	uint32_t bounce_taken;			/* a bit for each; by the lock */
	struct virtq_store_io *waiting, **waiting_end;	/* for one of them; by the lock */
};

/* store_file_io.c */
enum virtq_verdict file_start(struct virtq_store *store, struct virtq_store_io *io,
			      struct virtq_op *op);
enum virtq_verdict file_finish(struct virtq_store *store, struct virtq_store_io *io,
			       struct virtq_op *op, int64_t result);
void file_cancel(struct virtq_store *store, struct virtq_store_io *io);

#endif
