/* SPDX-License-Identifier: MIT */
/*
 * A disk as its driver sees it, for the long tests: several queues over
 * vhost-user, requests of every kind, cut into elements at random places; and
 * sectors that tell what they are.
 */
#ifndef SOAK_DISK_H
#define SOAK_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <virtq/virtq.h>

#define SECTOR 512u
#define DISK_QUEUES_MAX 4u
#define DISK_DEPTH 16u
#define DISK_SECTORS_MAX 64u		/* of one request */
#define DISK_SILENT UINT8_MAX		/* a status that no device sets */

/* ---- Random numbers, the same for the same seed --------------------------- */

struct dice { uint64_t state; };

uint64_t dice_roll(struct dice *dice);
/* 0..n-1. */
static inline uint32_t dice_below(struct dice *dice, uint32_t n)
{
	return (uint32_t)(dice_roll(dice) >> 32) % n;
}

uint64_t now_ns(void);

/* ---- Sectors that tell what they are --------------------------------------- */

/* Fill @sectors from @first on, all of generation @gen; 0 is zeroes. */
void sectors_fill(void *data, uint64_t first, uint32_t sectors, uint32_t gen);

/*
 * Which generation of sector @sector it is: 0 for zeroes; or -1: none, so that
 * it was mixed, moved, or made up.
 */
int64_t sector_generation(const void *data, uint64_t sector);

/* ---- Requests ---------------------------------------------------------------- */

struct disk_queue;

/**
 * struct disk_op - one request, in shared memory of its own
 * @type, @sector, @sectors: for the caller to set, VIRTIO_BLK_T_... and the range
 * @gen:     the caller's
 * @stage:   the caller's
 * @status:  what came back; DISK_SILENT if it was taken back unanswered
 * @written: as the device said
 * @bytes:   of data
 * @in_flight: sent, and not back
 */
struct disk_op {
	struct disk_queue *queue;
	struct disk_op *next;
	uint8_t *room;			/* 1024 bytes around the data, and it */
	uint8_t *data;
	uint8_t *tail;			/* where the status comes */
	uint64_t sent_ns;
	uint64_t sector;
	uint32_t type, sectors, bytes;
	uint32_t gen;
	unsigned int stage;
	uint32_t written;
	uint8_t status;
	bool in_flight;
};

struct disk_queue {
	struct virtq_port *port;
	struct disk_op ops[DISK_DEPTH];
	struct disk_op *idle;
	unsigned int in_flight;
	bool running;
};

struct disk {
	struct virtq_transport *transport;
	struct virtq_features features;
	struct virtq_blk_config config;
	struct virtq_map *map;
	unsigned int queues;
	struct disk_queue queue[DISK_QUEUES_MAX];
	struct dice dice;
	uint64_t sent, answered, taken_back;
	struct virtq_error err;
};

/* What to connect with. @without: a feature of the device not to accept, or 0. */
struct disk_way {
	const char *path;
	unsigned int queues;
	bool packed;
	unsigned int without;
	uint64_t seed;
};

/* All of these: 0 or more, or -errno with disk->err telling why. */
int disk_open(struct disk *disk, const struct disk_way *way);
/* Stops nothing: what is in flight comes to nobody. */
void disk_close(struct disk *disk);
/* Begin again after disk_reset(), or a queue after disk_take_back(). */
int disk_start(struct disk *disk);
int disk_start_queue(struct disk *disk, unsigned int index);
/* Reset the device; all queues are stopped and must be taken back. */
int disk_reset(struct disk *disk);

/* A request to fill in, or NULL: all of the queue are in use. */
struct disk_op *disk_get(struct disk_queue *q);
/* Nobody needs it any more. */
void disk_put(struct disk_op *op);
/* Stage it; disk_publish() shows the device all that is staged. */
int disk_send(struct disk *disk, struct disk_op *op);
int disk_publish(struct disk_queue *q);

typedef int disk_back_fn(void *arg, struct disk_op *op);

/* Call @back for each request that has come back. Returns how many, or what @back or the ring says. */
int disk_reap(struct disk *disk, struct disk_queue *q, disk_back_fn *back, void *arg);
/* The queue was stopped or reset: reap, then call @back for those that were not answered. */
int disk_take_back(struct disk *disk, struct disk_queue *q, disk_back_fn *back, void *arg);
/* Sleep until a running queue has something, or the other side has gone. 1, or 0: time is over. */
int disk_wait(struct disk *disk, int timeout_ms);

bool disk_has(const struct disk *disk, unsigned int bit);

#endif
