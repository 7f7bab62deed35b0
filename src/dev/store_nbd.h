/* SPDX-License-Identifier: MIT */
/*
 * A network block device as a store: what its opening (store_nbd_open.c), its
 * connection (store_nbd_link.c) and its thread (store_nbd.c) share. Names that
 * begin with nbd_ are libnbd's.
 */
#ifndef VIRTQ_DEV_STORE_NBD_H
#define VIRTQ_DEV_STORE_NBD_H

#include <libnbd.h>
#include <poll.h>
#include <pthread.h>

#include "dev/store.h"
#include "dev/store_turns.h"

#define NBD_COMMANDS 64u
#define NBD_BOUNCE_BYTES (512u * 1024u)	/* for each command; takes space when first used */

/* In io->room. */
struct nbd_io {
	struct store_turn turn;		/* in waiting; first, see store_turns.h */
	struct virtq_store_io *next;	/* in arrived */
	bool cancelled;			/* by the lock */
	uint64_t give_up_ns;		/* it was lost with a connection: until when to send it again; 0: not */
};

struct nbd_command {
	struct nbd_store *n;
	struct virtq_store_io *io;	/* NULL: nobody's, or not any more; the reply is waited for */
	const struct virtq_span *span;	/* WRITE: the next of its memory */
	size_t span_at;			/* and how much of that is over */
	bool syncing;			/* all is written, and is being made stable */
	bool flushes;			/* what is under way is a flush */
	uint64_t done, piece;		/* bytes: over, under way */
	uint64_t from, to;		/* what it changes of the disk; 0, 0: nothing */
	uint64_t writes_then;		/* flush: n->writes when it was sent */
	int error;
	uint64_t drop_ns;		/* cancelled: when to wait no longer; 0: it is not */
};

struct nbd_abilities {
	bool flush, fua, trim, zero, read_only;
	uint64_t bytes;
	uint32_t block;			/* what it takes is a multiple of this, at least 512 */
	uint32_t payload_max;		/* of a command, within what a buffer holds */
};

/* The thread owns every field that does not say otherwise. */
struct nbd_store {
	struct virtq_store store;
	char *uri;			/* constant */
	struct nbd_abilities can;	/* constant */
	uint64_t reconnect_ns;		/* constant */
	uint64_t silence_ms;		/* constant; of a network, that means that the server is gone */
	uint64_t payload_max;		/* constant; what a command moves at most */
	uint8_t *bounce;		/* constant */
	int wake_fd;			/* constant; written by engines */
	pthread_t thread;

	struct nbd_handle *nbd;		/* NULL: not connected */
	bool connecting;
	bool broken;			/* the server has said that it ends */
	uint64_t bytes;			/* the size that this connection knows */
	bool renews;			/* a new connection is to be made, since the size has changed */
	bool renew_flushed;		/* for that: all is stable, or will not be */
	uint64_t look_ns;		/* when to see whether the network is silent */
	unsigned int looks_silent;	/* how often in a row it was */
	uint64_t connect_by_ns;		/* or, without a connection, when to try again */
	uint64_t outage_until_ns;	/* what waits is told when nobody has answered; 0: somebody has */
	struct store_turns waiting;	/* for a command, or a connection */
	struct nbd_command commands[NBD_COMMANDS];
	uint64_t used, over;		/* a bit for each command */
	uint64_t writes, flushed;	/* changes that have ended; how many of them are stable */
	bool lost;			/* some never became so, and nobody knows which */

	/* Owner: whoever has the lock. */
	pthread_mutex_t lock;
	struct virtq_store_io *arrived, **arrived_end;
	uint64_t bytes_min;		/* what a server must have to be the one that was there */
	bool cancels, quit, resized;
};

_Static_assert(offsetof(struct nbd_io, turn) == 0, "where store_turns.c looks for it");

static inline struct nbd_io *net_io_of(struct virtq_store_io *io)
{
	return (struct nbd_io *)(void *)io->room;
}

/* ---- store_nbd_open.c ---- */

uint64_t store_nbd_now_ns(void);
/* What libnbd says of the last call on this thread; not 0. */
int store_nbd_error(void);
int store_nbd_ask(struct nbd_handle *nbd, struct nbd_abilities *can);
bool store_nbd_is_gone(struct nbd_handle *nbd);
/* Have the end of a peer noticed that is cut off while nothing is sent to it. */
void store_nbd_watch_peer(struct nbd_handle *nbd, uint64_t silence_ms);
/* Has the peer's machine acknowledged nothing for so long, though something was sent? */
bool store_nbd_is_silent(struct nbd_handle *nbd, uint64_t silence_ms);
/* When it is closed the kernel shall not go on sending what is left. */
void store_nbd_forget_unsent(struct nbd_handle *nbd);
/* What @nbd waits for, for poll(); and what came of it. */
struct pollfd store_nbd_wanted(struct nbd_handle *nbd);
void store_nbd_deliver(struct nbd_handle *nbd, const struct pollfd *fd);

/* ---- store_nbd_link.c ---- */

/* See how the connection is, whether one is wanted, and who has waited for it long enough. */
void store_nbd_check_link(struct nbd_store *n);
/* When to look again at the latest; UINT64_MAX: when something happens. */
uint64_t store_nbd_link_due_ns(const struct nbd_store *n);

/* ---- store_nbd.c ---- */

enum virtq_verdict store_nbd_start(struct virtq_store *store, struct virtq_store_io *io,
				   struct virtq_op *op);
void store_nbd_cancel(struct virtq_store *store, struct virtq_store_io *io);
void *store_nbd_thread(void *arg);

#endif
