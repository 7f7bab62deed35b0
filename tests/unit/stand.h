/* SPDX-License-Identifier: MIT */
/*
 * One queue of a model on an engine, with models that do what a test says, or
 * keep what they get.
 */
#ifndef TESTS_UNIT_STAND_H
#define TESTS_UNIT_STAND_H

#include <pthread.h>

#include "lane.h"

uint64_t now_ms(void);

/* ---- A model that does what a test says ------------------------------------- */

#define OPS_MAX 4u

struct scripted {
	struct virtq_model model;
	/* Written by the test before, by the engine's thread while the queue is there. */
	struct virtq_op first;		/* of a TIMEOUT the driver says how long */
	struct virtq_op then[OPS_MAX];	/* linked behind @first, by start() */
	unsigned int then_count;
	bool answer_from_spans;		/* copy what @first read into the chain */
	struct virtq_span spans[PAIR_SEGS_MAX];
	uint8_t memory[8192];
	int64_t result;
	struct virtq_op last;
	uint64_t wr_left, rd_left;	/* as finish() found them */
	unsigned int finished;
};

extern const struct virtq_model_ops scripted_ops;

/* ---- A model that keeps requests until a thread of its own, or the test, ends them -- */

#define HELD_MAX 64u
#define HOLDER_THREADS 2u

struct holder {
	struct virtq_model model;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct virtq_req *held[HELD_MAX];
	unsigned int count;
	bool at_once;			/* complete within start() */
	unsigned int again;		/* finish() holds that many times more */
	unsigned int cancelled;		/* by the lock */
	unsigned int finished, wrong;	/* the engine's thread */
	int64_t result;
	bool quit;
	pthread_t threads[HOLDER_THREADS];
};

void holder_init(struct holder *h);
/* Threads of its own, that end everything with 77, which means "ok" to the driver. */
void holder_start(struct holder *h);
void holder_stop(struct holder *h);
/* Take one that is held; NULL to end. */
struct virtq_req *holder_take(struct holder *h);
/* Until @n are held. */
void holder_wait(struct holder *h, unsigned int n);

/* ---- A queue of one model --------------------------------------------------- */

struct stand {
	struct virtq_engine *engine;
	struct virtq_engine_queue *queue;
	struct pair pair;
	int kick, call;
};

/* On an engine of its own, with 300 ms to drain. */
void stand_open(struct stand *st, const struct setting *s, struct virtq_model *model);
/* On @engine, which stand_close() does not destroy. */
void stand_open_on(struct stand *st, struct virtq_engine *engine, const struct setting *s,
		   struct virtq_model *model);
void stand_close(struct stand *st);
void stand_send(struct stand *st, const struct chain *c);
/* @n requests with two writable bytes each. */
void stand_send_holds(struct stand *st, unsigned int n);
/* Wait for one buffer; returns its used length. */
uint32_t stand_back(struct stand *st);
uint32_t stand_do(struct stand *st, const struct chain *c);

/*
 * The calling thread, and threads it starts, cannot wait for events from now on: @error.
 * Returns 0, or -errno where there are no such filters.
 */
int deny_waiting(unsigned int error);

#endif
