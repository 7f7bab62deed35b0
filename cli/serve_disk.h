/* SPDX-License-Identifier: MIT */
/* One disk that `virtq serve blk` serves: its model, its socket, its server and thread. */
#ifndef VIRTQ_CLI_SERVE_DISK_H
#define VIRTQ_CLI_SERVE_DISK_H

#include <pthread.h>
#include <sys/stat.h>

#include <virtq/virtq.h>

#include "serve_options.h"
#include "serve_settings.h"
#include "stats.h"

/*
 * Descriptors that one client can make us hold: for each queue, for each memory
 * region (GET_MAX_MEM_SLOTS of them) its file, and all else. Sixteen more clients of a
 * disk may wait for their turn.
 */
#define SERVE_QUEUE_FDS 7
#define SERVE_DISK_FDS (256 + 16)

struct serve_disk {
	/* Constant once it is open. */
	const struct serve_settings *settings;
	char name[128];			/* its socket, for people */
	bool one_of_many;		/* what is said names it */
	bool quiet;
	struct virtq_engine *engines[SERVE_THREADS_MAX];	/* borrowed, its first first */
	unsigned int engine_count;
	struct virtq_model_ops packed_ops;	/* --layout packed: what the model does, but for: */
	int (*features_ok)(struct virtq_model *model, struct virtq_features features);
	const struct virtq_store *store;	/* the model's */
	struct virtq_model *model;
	struct virtq_vhost_user_server *server;
	int listen_fd;
	bool socket_made;		/* and so to be removed; it is the file known as: */
	dev_t socket_dev;
	ino_t socket_ino;

	/* Its thread; @ended_fd is written to at its end. */
	bool running;
	pthread_t thread;
	int ended_fd;

	pthread_mutex_t lock;		/* of what follows */
	uint64_t bytes;			/* as the store told last */
	unsigned int clients;
	bool ended;
	bool failed;
};

/*
 * Open what is behind @disk, which may take its time and leaves nothing behind if the
 * process ends meanwhile. On failure, with a sentence that names the disk,
 * serve_disk_close() is due as well; so it is with serve_disk_listen().
 */
int serve_disk_open(struct serve_disk *disk, const struct serve_settings *settings,
		    struct virtq_engine *const *engines, unsigned int engine_count,
		    bool one_of_many, bool quiet, struct virtq_error *err);

/* Make its socket and its server: who sees the socket finds everything behind it ready. */
int serve_disk_listen(struct serve_disk *disk, struct virtq_error *err);

/* Begin to serve; @ended_fd, an eventfd, is told when it has ended by itself or was stopped. */
int serve_disk_start(struct serve_disk *disk, int ended_fd, struct virtq_error *err);

bool serve_disk_ended(struct serve_disk *disk);

/* Ask it to stop, any time; wait for its end. False if it had failed. */
void serve_disk_stop(struct serve_disk *disk);
bool serve_disk_join(struct serve_disk *disk);

/* Remove the socket unless somebody has put another in its place meanwhile. */
void serve_disk_unlink(const struct serve_disk *disk);

/* It is removed, too. */
void serve_disk_close(struct serve_disk *disk);

/* "serving ..." and "served ...". */
void serve_disk_announce(struct serve_disk *disk, unsigned int threads);
void serve_disk_summarize(struct serve_disk *disk);

/* Is it the one that is called @name: its serial, or its socket's path? */
bool serve_disk_is(const struct serve_disk *disk, const char *name);

/* The counters of all queues so far; false without memory for them. */
bool serve_disk_stats(struct serve_disk *disk, struct stats_disk *stats);

uint64_t serve_disk_bytes(struct serve_disk *disk);

/* Look at the image's size again, and tell the client; one at a time. As virtq_blk_refresh(). */
int serve_disk_resize(struct serve_disk *disk, struct virtq_error *err);

#endif
