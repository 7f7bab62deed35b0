/* SPDX-License-Identifier: MIT */
/*
 * The soak of the block device, see blk_soak.c: what its device (blk_soak_device.c)
 * and its driver (blk_soak_driver.c) share.
 */
#ifndef SOAK_BLK_SOAK_H
#define SOAK_BLK_SOAK_H

#include <pthread.h>

#include <virtq/spec/virtio.h>

#include "disk.h"

#define SECTORS 32768u			/* 16 MiB */
#define QUEUES 4u
#define ENGINES 2u
#define SERIAL "soak"

enum claim { CLAIM_DATA, CLAIM_ONCE, CLAIM_ERRORS, CLAIM_FLAT, CLAIMS };

enum lie { LIE_NONE, LIE_LOSE, LIE_SWALLOW, LIE_LEAK };

struct soak {
	unsigned int seconds;
	uint64_t seed;
	enum lie lie;
	char dir[64], image[96], socket[96];
	struct dice dice;

	uint32_t shadow[SECTORS];	/* generation of each sector */
	bool busy[SECTORS];		/* a request in flight is about it */
	uint32_t gen;

	/* of the round */
	bool packed, rough;
	char settings[256];		/* what the dice gave, for whoever looks for a fault */
	struct virtq_engine *engine[ENGINES];
	struct virtq_model *model;
	struct virtq_vhost_user_server *server;
	pthread_t serving, meddling;
	int listen_fd;
	bool over;			/* atomic: the meddler ends */
	struct disk disk;
	struct disk_op *unsettled[QUEUES];

	uint64_t reads, writes, others, failed, settled, wrong;
	uint64_t sent, answered, taken_back;
	uint64_t queue_resets, stops, device_resets, reconnects, pauses, moves;
	uint32_t uses;			/* VIRTQ_USE_... of any engine so far */
	size_t rss_first, rss_last, rss_most;
	unsigned int fds_first;
};

extern struct soak soak;

/* What the test is about does not hold: say so, and end. If a lie was to be noticed, all is well. */
__attribute__((format(printf, 2, 3), noreturn))
void soak_complain(enum claim claim, const char *format, ...);
/* Returns @rc if it is no error. */
int soak_must(int rc, const char *what, const struct virtq_error *err);

/* blk_soak_device.c: a server with its engines and whoever meddles with them */
void soak_serve(unsigned int round);
void soak_serve_no_more(void);

/* blk_soak_driver.c */
void soak_connect(void);
void soak_disconnect(void);
/* A turn of all queues; without @more nothing new is begun but what settles. */
void soak_turn(bool more);
/* Until nothing is in flight. */
void soak_drain(void);
/* Something happens to the queues, the device or the client. */
void soak_event(void);

#endif
