/* SPDX-License-Identifier: MIT */
/*
 * The stores that virtq_store_open() knows, see <virtq/store.h>.
 *
 *   store.c         which of them a name means; sizes; the end
 *   store_file.c    a file: opened, locked, measured
 *   store_file_io.c the same: read, written, discarded
 *   store_file_sync.c   the same: made stable
 *   store_file_erase.c  the same: erased, if it is a block device
 *   store_memory.c  nothing, and memory
 *   store_nbd_open.c  a network block device, where there is libnbd: connected, measured
 *   store_nbd_link.c  the same: lost, made again
 *   store_nbd.c     the same: its thread
 *   store_inject.c  one that fails on purpose
 *   store_turns.c   what waits in one of them, in turn by its queues
 */
#ifndef VIRTQ_DEV_STORE_H
#define VIRTQ_DEV_STORE_H

#include <virtq/store.h>

#define STORE_SECTOR_BYTES 512u

/* "4096", "10G". Returns false for what is no number, or is 2^64 or more. */
bool store_number(const char *text, uint64_t *value);

/* @path, @uri: as in virtq_store_open(); borrowed. */
int store_file_open(struct virtq_store **out, const char *path,
		    const struct virtq_store_options *options, struct virtq_error *err);
int store_nbd_open(struct virtq_store **out, const char *uri,
		   const struct virtq_store_options *options, struct virtq_error *err);
/* @bytes: a multiple of 512, not 0. */
int store_null_open(struct virtq_store **out, uint64_t bytes,
		    const struct virtq_store_options *options, struct virtq_error *err);
int store_ram_open(struct virtq_store **out, uint64_t bytes,
		   const struct virtq_store_options *options, struct virtq_error *err);

#endif
