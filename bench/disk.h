/* SPDX-License-Identifier: MIT */
/*
 * A disk behind a vhost-user socket, driven by our driver end: one queue and a
 * fixed number of request slots, each with its block of data.
 */
#ifndef BENCH_DISK_H
#define BENCH_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include <virtq/error.h>

#define DISK_DEPTH_MAX 1024u

struct disk_options {
	const char *socket_path;
	unsigned int depth;		/* slots */
	unsigned int block_bytes;	/* of each; a multiple of 512 */
	unsigned int queue_size;
	bool packed, indirect;
	bool write;			/* what all transfers do */
	bool notify;			/* sleep until called; otherwise poll */
};

struct disk;

/* 0 or -errno and a sentence. */
int disk_open(struct disk **out, const struct disk_options *options, struct virtq_error *err);
void disk_close(struct disk *disk);

/* How many whole blocks it has. */
uint64_t disk_blocks(const struct disk *disk);
void *disk_data(const struct disk *disk, unsigned int slot);

/*
 * Begin transfers, of block @blocks[i] in the free slot @slots[i], and kick the
 * device if it asked for that. 0 or -errno.
 */
int disk_send(struct disk *disk, const unsigned int *slots, const uint64_t *blocks,
	      unsigned int count);

/*
 * Take slots whose transfer succeeded. Returns how many, at least one, or
 * -errno and a sentence if one failed, came back wrong, or none came for 10 s.
 */
int disk_take(struct disk *disk, unsigned int *slots, unsigned int max,
	      struct virtq_error *err);

struct disk_counts {
	uint64_t kicks;		/* sent */
	uint64_t calls;		/* woken by one */
};

struct disk_counts disk_counts(const struct disk *disk);

#endif
