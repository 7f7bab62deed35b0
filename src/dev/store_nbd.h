/* SPDX-License-Identifier: MIT */
/*
 * A network block device as a store: what its opening (store_nbd_open.c) and
 * its thread (store_nbd.c) share. Names that begin with nbd_ are libnbd's.
 */
#ifndef VIRTQ_DEV_STORE_NBD_H
#define VIRTQ_DEV_STORE_NBD_H

#include <libnbd.h>
#include <pthread.h>

#include "dev/store.h"

#define NBD_COMMANDS 64u
#define NBD_BOUNCE_BYTES (256u * 1024u)	/* for each command; takes space when first used */

/* In io->room. */
struct nbd_io {
	struct virtq_store_io *next;	/* in arrived, or in waiting */
	bool cancelled;			/* by the lock */
};

struct nbd_command {
	struct nbd_store *n;
	struct virtq_store_io *io;
	bool bounced;
	bool syncing;			/* all is written, and is being made stable */
	uint64_t done, piece;		/* bytes: over, under way */
	uint64_t writes_then;		/* flush: n->writes when it was sent */
	int error;
	uint64_t drop_ns;		/* cancelled: when to wait no longer; 0: it is not */
};

struct nbd_abilities {
	bool flush, fua, trim, zero, read_only;
	uint64_t bytes;
};

/* The thread owns every field that does not say otherwise. */
struct nbd_store {
	struct virtq_store store;
	char *uri;			/* constant */
	struct nbd_abilities can;	/* constant */
	uint64_t payload_max;		/* constant */
	uint8_t *bounce;		/* constant */
	int wake_fd;			/* constant; written by engines */
	pthread_t thread;

	struct nbd_handle *nbd;		/* NULL: not connected */
	bool connecting;
	uint64_t connect_by_ns;		/* or, without a connection, when to try again */
	struct virtq_store_io *waiting, **waiting_end;
	struct nbd_command commands[NBD_COMMANDS];
	uint64_t used, over;		/* a bit for each command */
	uint64_t writes, flushed;	/* commands that changed something; how many are stable */
	bool lost;			/* some never became so, and nobody was told yet */

	/* Owner: whoever has the lock. */
	pthread_mutex_t lock;
	struct virtq_store_io *arrived, **arrived_end;
	bool cancels, quit;
};

/* ---- store_nbd_open.c ---- */

/* What libnbd says of the last call on this thread; not 0. */
int store_nbd_error(void);
int store_nbd_ask(struct nbd_handle *nbd, struct nbd_abilities *can);

/* ---- store_nbd.c ---- */

enum virtq_verdict store_nbd_start(struct virtq_store *store, struct virtq_store_io *io,
				   struct virtq_op *op);
void store_nbd_cancel(struct virtq_store *store, struct virtq_store_io *io);
void *store_nbd_thread(void *arg);

#endif
