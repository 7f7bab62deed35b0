/* SPDX-License-Identifier: MIT */
/*
 * A store on an engine without a disk in between: a model that hands what the
 * driver asks for to the store as it is, and notes how it went.
 */
#ifndef TESTS_UNIT_DEPOT_H
#define TESTS_UNIT_DEPOT_H

#include <virtq/store.h>

#include "stand.h"

#define DEPOT_TAGS 64u
#define DEPOT_DATA_BYTES (8u << 20)
#define DEPOT_DATA_AT 8192u		/* what is in front of it is the requests' own */
#define DEPOT_NONE INT32_MIN		/* no result yet */

struct depot {
	struct virtq_model model;
	struct virtq_store *store;
	bool shares;			/* the store is another's to close */
	struct virtq_engine *engine;
	struct virtq_engine_queue *queue;
	struct pair pair;
	int kick, call;
	/* By tag; the engine's thread writes before the request comes back. */
	int result[DEPOT_TAGS];
	uint32_t at_once;		/* so many ended as they began; written likewise */
	uint32_t used[DEPOT_TAGS];	/* the driver's: the used length */
	uint64_t busy;			/* the driver's: a bit for each tag */
	uint32_t ended;			/* pieces of work; atomic */
	/* Of another queue so many ended while one of this, which is alone, was under way. */
	struct depot *rival;
	uint32_t rival_ended, overtaken;	/* the engine's thread; read when that is back */
};

/* One piece of work. */
struct work {
	enum virtq_store_kind kind;
	uint32_t flags;
	uint64_t offset, bytes;
	size_t at;		/* READ, WRITE: its data, behind DEPOT_DATA_AT */
	size_t piece;		/* cut into elements of so many bytes; 0: one */
};

/* A store by its name, or the test fails. Without @options no file is memory. */
struct virtq_store *store_make(const char *image, const struct virtq_store_options *options);
struct virtq_store *store_make_failing(struct virtq_store *inner, const char *rules);
void assert_store_refused(const char *image, const struct virtq_store_options *options,
			  int code, const char *part);

/* Takes the store. Requests in flight have @drain_ms to end when it is closed. */
void depot_open(struct depot *dp, const struct setting *s, struct virtq_store *store,
		uint32_t drain_ms);
/* Does not take it: another has. */
void depot_open_shared(struct depot *dp, const struct setting *s, struct virtq_store *store,
		       uint32_t drain_ms);
void depot_close(struct depot *dp);
uint8_t *depot_data(struct depot *dp, size_t at);
/* Begin; returns the tag. */
unsigned int depot_send(struct depot *dp, const struct work *w);
/* Take what is back; wait for something if there is nothing, up to @ms. False: it did not come. */
bool depot_reap(struct depot *dp, int ms);
/* Until @tag is back; returns its result. */
int depot_wait(struct depot *dp, unsigned int tag);
int depot_do(struct depot *dp, const struct work *w);

/* ---- A store against what it should hold -------------------------------------- */

struct shadow {
	uint8_t *expect;
	uint64_t bytes;
	uint64_t random;
};

void shadow_open(struct shadow *s, uint64_t bytes);
void shadow_close(struct shadow *s);
uint64_t shadow_random(struct shadow *s);
/*
 * @rounds of up to 16 pieces of work at once, of every kind the store has, over
 * ranges that do not touch; memory and elements begin anywhere if @rough, else
 * on pages. Then all is read and compared.
 */
void shadow_run(struct shadow *s, struct depot *dp, unsigned int rounds, bool rough);
/* All of that with a store of @bytes, which it takes. */
void depot_random(const struct setting *s, struct virtq_store *store, uint64_t bytes,
		  unsigned int rounds, bool rough);
/* Work for a store of 1 MiB at least by two engines at the same time. Takes the store. */
void depot_crowd(const struct setting *s, struct virtq_store *store);
/*
 * Two queues on engines of their own: one has @flood pieces of work like @w in flight
 * at any time, the other one. Returns how many of the first's ended, on average,
 * while one of the other's was under way.
 */
unsigned int depot_overtaken(const struct setting *s, struct virtq_store *store,
			     const struct work *w, unsigned int flood);
/* All that the store holds is as expected. */
void shadow_check(struct shadow *s, struct depot *dp);

#endif
