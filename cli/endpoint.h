/* SPDX-License-Identifier: MIT */
/*
 * Where a copy comes from or goes to: a file, a block device of this machine,
 * or a disk behind vhost-user:SOCKET.
 *
 * Files are read and written at once, in the calls below; a disk's requests
 * are the copy's own business (disk.h).
 *
 * Functions that can fail return -errno and fill @err with a sentence.
 */
#ifndef VIRTQ_CLI_ENDPOINT_H
#define VIRTQ_CLI_ENDPOINT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <virtq/error.h>

#include "disk.h"

struct endpoint {
	const char *name;	/* as the user wrote it */
	struct disk *disk;	/* NULL for files */
	int fd;			/* -1 for disks */
	bool regular;		/* a file that can have holes */
	bool made;		/* a target that was not there before */
	uint64_t bytes;		/* of a target: what it can hold */
	dev_t dev;
	ino_t ino;
	/* of a source: the run of data or hole that was found last */
	uint64_t run_begin, run_end;
	bool run_hole;
};

/* An endpoint that is not open, for endpoint_close(). */
#define ENDPOINT_NONE ((struct endpoint){ .fd = -1 })

/* What copying begins with. @name is kept. Closed and reported on failure. */
int endpoint_open_source(struct endpoint *e, const char *name, enum disk_layout layout,
			 struct virtq_error *err);

/*
 * What copying ends in, to hold @source. Refuses one that is too small, that
 * cannot be written, or is the source itself, before anything is changed.
 */
int endpoint_open_target(struct endpoint *e, const char *name, enum disk_layout layout,
			 const struct endpoint *source, struct virtq_error *err);

/* Empty a regular file: what is not written will read as zeros. */
int endpoint_clear(struct endpoint *e, struct virtq_error *err);

/* Where the data at or behind @offset begins in a file; its size if there is none. */
uint64_t endpoint_next_data(struct endpoint *e, uint64_t offset);

/* Read or write @len bytes of a file. Zeros written to a regular file become holes. */
int endpoint_read(struct endpoint *e, void *data, uint64_t offset, uint32_t len,
		  struct virtq_error *err);
int endpoint_write(struct endpoint *e, const void *data, uint64_t offset, uint32_t len,
		   struct virtq_error *err);

/* Has a source that is a file kept its size? If not, what was a hole may be none. */
int endpoint_check_size(const struct endpoint *e, struct virtq_error *err);

/* All is written: give a regular file its size, and make everything stable. */
int endpoint_finish(struct endpoint *e, uint64_t bytes, struct virtq_error *err);

void endpoint_close(struct endpoint *e);

#endif
