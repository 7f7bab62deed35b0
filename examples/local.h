/* SPDX-License-Identifier: MIT */
/*
 * A device in this very process for the examples: an engine's thread turns it,
 * and the loopback transport leads to it. What a program does with a device
 * over a socket is the same, but for the call that opens the transport.
 */
#ifndef LOCAL_H
#define LOCAL_H

#include <virtq/virtq.h>

struct local {
	struct virtq_transport *transport;
	struct virtq_features features;		/* as negotiated */
	struct virtq_map *map;			/* what the device reaches, once started */
	struct virtq_engine *engine;
	struct virtq_model *disk;
};

/* Open a device, negotiate its features. */
int local_open(struct local *local, struct virtq_model *model, bool packed,
	       struct virtq_error *err);

#define LOCAL_DISK_SECTORS 64

/* The same with a disk whose sector n is full of the byte n. */
int local_open_disk(struct local *local, bool packed, struct virtq_error *err);

/* Share a queue's memory, and @more of the caller's unless that is NULL; start queue 0. */
int local_start(struct local *local, const struct virtq_port *port,
		const struct virtq_region *more, struct virtq_error *err);

/* When it returns the device touches no memory any more. */
void local_close(struct local *local);

#endif
