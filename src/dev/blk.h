/* SPDX-License-Identifier: MIT */
/*
 * The inside of the block device.
 *
 *   blk.c         what a request means
 *   blk_config.c  configuration space, both ways
 *   blk_file.c    the file behind it: opened, locked, measured
 */
#ifndef VIRTQ_DEV_BLK_H
#define VIRTQ_DEV_BLK_H

#include <virtq/blk.h>

/* Longest chain taken. Far more than seg_max allows: drivers in the field exceed it. */
#define BLK_SEGS_MAX 1024u
/*
 * Data elements that a driver is asked to keep to. With header and status they
 * must fit a queue of 128 entries, which is what QEMU makes: without indirect
 * descriptors Linux would wait for ever for room that can never be.
 */
#define BLK_SEG_MAX 126u

/* The file that holds the sectors. */
struct blk_file {
	int fd;				/* through the page cache; holds the lock */
	int direct_fd;			/* past it, or -1 */
	uint64_t size_bytes;
	uint32_t block_bytes;		/* logical block to announce */
	uint32_t physical_bytes;	/* 0 if unknown, else block_bytes times a power of two */
	uint32_t alignment_bytes;	/* of the first physical block */
	uint32_t min_io_bytes, opt_io_bytes;	/* 0 if unknown */
	/* What O_DIRECT wants: powers of two. */
	uint32_t direct_mem_align, direct_offset_align;
	uint32_t page_bytes;
};

int blk_file_open(struct blk_file *file, const struct virtq_blk_options *options,
		  struct virtq_error *err);
void blk_file_close(struct blk_file *file);

/* The configuration space of a disk. */
struct virtq_blk_config_le blk_config_make(const struct blk_file *file,
					   const struct virtq_model *model);

#endif
