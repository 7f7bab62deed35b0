/* SPDX-License-Identifier: MIT */
/* What disk.c and disk_requests.c share: the disk from the inside. */
#ifndef VIRTQ_CLI_DISK_STATE_H
#define VIRTQ_CLI_DISK_STATE_H

#include "disk.h"

#include <virtq/virtq.h>

#define DISK_DATA_SEGS_MAX 64	/* per request, if the device wants small segments */

/* The part of a request that the device sees beside the data, on its own cache line. */
struct disk_record {
	struct virtq_blk_req_hdr header;
	uint8_t status;
	uint8_t unused[64 - sizeof(struct virtq_blk_req_hdr) - 1];
};

/* The part that it does not see. */
struct disk_slot {
	struct virtq_transfer *transfer;	/* for @type and @len; NULL before the first */
	uint32_t type;
	uint32_t len;
	uint64_t offset_bytes;
};

struct disk {
	const char *name;
	struct virtq_transport *transport;
	struct virtq_features features;		/* accepted */
	struct virtq_blk_config config;

	struct virtq_port *port;		/* with the records */
	struct virtq_map *map;
	struct virtq_transfers *transfers;
	struct disk_record *records;
	unsigned char *data;

	unsigned int slots;			/* the caller's, and one more for FLUSH */
	uint32_t slot_bytes;
	struct disk_slot *slot;
	struct virtq_transfer **waiting;	/* prepared and not sent, oldest first */
	unsigned int waiting_count;
	unsigned int busy;
	uint64_t timeout_ns;			/* 0 to wait for ever */
	uint64_t waited_ns;			/* since something was completed */
	uint64_t requests, calls;
};

/* Longest piece of a request; UINT32_MAX if the disk names no limit. */
uint32_t disk_seg_bytes_max(const struct disk *d);

#endif
