/* SPDX-License-Identifier: MIT */
/*
 * The loops that bench/driver times. Every way compares each buffer that comes
 * back with the one that is due, and what the device says that it wrote, so that all do the
 * same work around the calls. What differs was gathered and is looked at once a lap.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "allocations.h"
#include "way_inside.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* One step for @n buffers from number @at on. Returns 0 if all is well. */
typedef uintptr_t step_fn(struct way *w, unsigned int at, unsigned int n);

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uintptr_t differ(int64_t is, int64_t due)
{
	return (uintptr_t)(is ^ due);
}

/* ---- The device end ----------------------------------------------------- */

static inline uintptr_t serve(struct way *w, unsigned int at, unsigned int n)
{
	struct virtq_req *reqs[WAY_BATCH_MAX];
	uintptr_t wrong = differ(virtq_device_pop(w->device, reqs, n), n);

	(void)at;
	if (wrong)
		return wrong;
	for (unsigned int i = 0; i < n; i++)
		reqs[i]->written = w->written;
	virtq_device_push(w->device, reqs, n - w->plant);
	virtq_device_publish(w->device);
	w->plant = false;
	return 0;
}

static inline uintptr_t nothing(struct way *w, unsigned int at, unsigned int n)
{
	(void)w, (void)at, (void)n;
	return 0;
}

/* ---- Bare --------------------------------------------------------------- */

static inline uintptr_t bare_out(struct way *w, unsigned int at, unsigned int n)
{
	uintptr_t wrong = differ(virtq_driver_add(w->driver, &w->bufs[at], n), n);

	virtq_driver_publish(w->driver);
	return wrong;
}

static inline uintptr_t kept_out(struct way *w, unsigned int at, unsigned int n)
{
	uintptr_t wrong = differ(virtq_driver_again(w->driver, &w->done[at], n), n);

	virtq_driver_publish(w->driver);
	return wrong;
}

static inline uintptr_t bare_back(struct way *w, unsigned int at, unsigned int n)
{
	struct virtq_completion *done = &w->done[at];
	uintptr_t wrong = differ(virtq_driver_get(w->driver, done, n), n);

	for (unsigned int i = 0; i < n; i++) {
		wrong |= (uintptr_t)done[i].token ^ (uintptr_t)&w->bufs[at + i];
		wrong |= done[i].written ^ w->written;
	}
	return wrong;
}

/* ---- Through a pool ----------------------------------------------------- */

static inline uintptr_t rebuild_out(struct way *w, unsigned int at, unsigned int n)
{
	return differ(virtq_pool_offer_writable(w->pool, n, w->bytes, &w->chains[at], 0, NULL), n);
}

static inline uintptr_t recycle_out(struct way *w, unsigned int at, unsigned int n)
{
	return differ(virtq_pool_recycle(w->pool, &w->chains[at], n, 0), n);
}

static inline uintptr_t alloc_out(struct way *w, unsigned int at, unsigned int n)
{
	uintptr_t wrong = 0;

	for (unsigned int i = at; i < at + n; i++)
		wrong |= differ(virtq_pool_alloc(w->pool, w->bytes, 0, &w->chains[i]), 0);
	return wrong | recycle_out(w, at, n);
}

static inline uintptr_t resize_out(struct way *w, unsigned int at, unsigned int n)
{
	uintptr_t wrong = 0;

	/* Another length each time: every second one is a byte shorter, in turn. */
	for (unsigned int i = at; i < at + n; i++)
		wrong |= differ(virtq_pool_resize(w->pool, &w->chains[i],
						  w->bytes - (w->chains[i].id & 1)), 0);
	return wrong | recycle_out(w, at, n);
}

static inline uintptr_t copy_out(struct way *w, unsigned int at, unsigned int n)
{
	return differ(virtq_pool_offer(w->pool, &w->offers[at], n, &w->chains[at], 0, NULL), n);
}

static inline uintptr_t memcpy_out(struct way *w, unsigned int at, unsigned int n)
{
	for (unsigned int i = at; i < at + n; i++) {
		uint8_t *to = w->copy + (size_t)i * w->bytes;
		const struct virtq_offer *offer = &w->offers[i];

		memcpy(to, offer->header, offer->header_bytes);
		memcpy(to + offer->header_bytes, offer->parts->base, offer->parts->len);
	}
	return 0;
}

static inline uintptr_t pool_back(struct way *w, unsigned int at, unsigned int n)
{
	struct virtq_chain done[WAY_BATCH_MAX];
	uintptr_t wrong = differ(virtq_pool_take(w->pool, done, n, NULL), n);

	for (unsigned int i = 0; i < n; i++) {
		wrong |= done[i].id ^ w->chains[at + i].id;
		wrong |= done[i].written ^ w->written;
	}
	return wrong;
}

static inline uintptr_t pool_after(struct way *w, unsigned int at, unsigned int n)
{
	return differ(virtq_pool_free(w->pool, &w->chains[at], n), n);
}

/* ---- Through transfers -------------------------------------------------- */

static inline uintptr_t again_out(struct way *w, unsigned int at, unsigned int n)
{
	return differ(virtq_transfer_send(w->set, &w->sent[at], n), n);
}

static inline uintptr_t new_out(struct way *w, unsigned int at, unsigned int n)
{
	struct virtq_piece *pieces = &w->pieces[(size_t)at * w->items];
	struct virtq_transfer **sent = &w->sent[at], **const end = sent + n;
	struct virtq_transfers *const set = w->set;
	const uint32_t items = w->items;
	uintptr_t wrong = 0;

	for (; sent < end; sent++, pieces += items)
		wrong |= (unsigned int)virtq_transfer_prepare(set, sent, pieces, 0, items, NULL,
							      NULL);
	return wrong | again_out(w, at, n);
}

static inline uintptr_t poll_back(struct way *w, unsigned int at, unsigned int n, bool written)
{
	struct virtq_transfer *done[WAY_BATCH_MAX];
	int got = virtq_transfers_poll(w->set, done, n, NULL);
	uintptr_t wrong = differ(got, n);

	for (int i = 0; i < got; i++) {
		wrong |= (uintptr_t)done[i] ^ (uintptr_t)w->sent[at + (unsigned int)i];
		if (written)
			wrong |= virtq_transfer_written(done[i]) ^ w->written;
	}
	return wrong;
}

static inline uintptr_t again_back(struct way *w, unsigned int at, unsigned int n)
{
	return poll_back(w, at, n, true);
}

/* What was written is in the pieces, later. */
static inline uintptr_t new_back(struct way *w, unsigned int at, unsigned int n)
{
	return poll_back(w, at, n, false);
}

static inline uintptr_t new_after(struct way *w, unsigned int at, unsigned int n)
{
	struct virtq_piece *pieces = &w->pieces[(size_t)at * w->items];
	struct virtq_transfer *const *sent = &w->sent[at];
	const uint32_t items = w->items;
	uintptr_t wrong = 0;

	for (unsigned int i = 0; i < n; i++, pieces += items) {
		wrong |= (unsigned int)virtq_transfer_finish(sent[i], pieces, items) ^ items;
		wrong |= pieces[items - 1].written ^ pieces[items - 1].len;
	}
	return wrong;
}

/* ---- Laps --------------------------------------------------------------- */

/* The step is a constant where this is expanded. */
ALWAYS_INLINE uintptr_t each_batch(struct way *w, unsigned int batch, step_fn *step)
{
	uintptr_t wrong = 0;

	for (unsigned int k = 0; k < w->count; k += batch)
		wrong |= step(w, k, batch);
	return wrong;
}

ALWAYS_INLINE uintptr_t lap(struct way *w, unsigned int batch, uint64_t at[WAY_PARTS + 1],
			    step_fn *out, step_fn *device, step_fn *back, step_fn *after)
{
	uintptr_t wrong;

	at[0] = now_ns();
	wrong = each_batch(w, batch, out);
	at[1] = now_ns();
	wrong |= each_batch(w, batch, device);
	at[2] = now_ns();
	wrong |= each_batch(w, batch, back);
	at[3] = now_ns();
	wrong |= each_batch(w, batch, after);
	at[4] = now_ns();
	return wrong;
}

/* bench/instructions.py counts from here on. */
static __attribute__((noinline)) uintptr_t way_lap(struct way *w, unsigned int batch,
						   uint64_t at[WAY_PARTS + 1])
{
	switch (w->kind) {
	case WAY_BARE:
		return lap(w, batch, at, bare_out, serve, bare_back, nothing);
	case WAY_BARE_KEPT:
		return lap(w, batch, at, kept_out, serve, bare_back, nothing);
	case WAY_POOL_REBUILD:
	case WAY_POOL_REBUILD_LOCKED:
		return lap(w, batch, at, rebuild_out, serve, pool_back, pool_after);
	case WAY_POOL_RECYCLE:
	case WAY_POOL_RECYCLE_LOCKED:
		return lap(w, batch, at, recycle_out, serve, pool_back, nothing);
	case WAY_POOL_ALLOC:
		return lap(w, batch, at, alloc_out, serve, pool_back, pool_after);
	case WAY_POOL_RESIZE:
		return lap(w, batch, at, resize_out, serve, pool_back, nothing);
	case WAY_POOL_COPY:
		return lap(w, batch, at, copy_out, serve, pool_back, pool_after);
	case WAY_MEMCPY:
		return lap(w, batch, at, memcpy_out, nothing, nothing, nothing);
	case WAY_SEND_AGAIN:
	case WAY_SEND_AGAIN_MAP:
		return lap(w, batch, at, again_out, serve, again_back, nothing);
	default:
		return lap(w, batch, at, new_out, serve, new_back, new_after);
	}
}

void way_plant(struct way *w)
{
	w->plant = true;
}

static int compare_ns(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static double median_ns(uint32_t *ns, unsigned int count)
{
	qsort(ns, count, sizeof(*ns), compare_ns);
	return ((double)ns[(count - 1) / 2] + ns[count / 2]) / 2;
}

static int failed(struct way *w, char why[WAY_TEXT_BYTES])
{
	enum virtq_fault_code code = w->device ? virtq_device_fault(w->device).code :
						 VIRTQ_FAULT_NONE;

	if (code == VIRTQ_FAULT_NONE && w->driver)
		code = virtq_driver_fault(w->driver).code;
	snprintf(why, WAY_TEXT_BYTES, "%s", code != VIRTQ_FAULT_NONE ? virtq_fault_text(code) :
		 "a buffer was lost, was refused, or came back that was not due or changed");
	return -1;
}

int way_run(struct way *w, unsigned int batch, unsigned int laps, long *allocated,
	    double ns[WAY_PARTS], char why[WAY_TEXT_BYTES])
{
	uint32_t *all = calloc(WAY_PARTS * (size_t)laps, sizeof(*all));
	uint64_t at[WAY_PARTS + 1];
	int rc = 0;

	if (!all) {
		snprintf(why, WAY_TEXT_BYTES, "no memory for %u laps", laps);
		return -1;
	}
	if (w->kind == WAY_BARE_KEPT && !w->kept) {
		rc = lap(w, batch, at, bare_out, serve, bare_back, nothing) ? failed(w, why) : 0;
		w->kept = true;
	}
	*allocated = allocations();
	for (unsigned int i = 0; i < laps && !rc; i++) {
		if (way_lap(w, batch, at))
			rc = failed(w, why);
		for (unsigned int k = 0; k < WAY_PARTS; k++)
			all[k * (size_t)laps + i] = (uint32_t)(at[k + 1] - at[k]);
	}
	*allocated = allocations() - *allocated;
	for (unsigned int k = 0; k < WAY_PARTS; k++)
		ns[k] = median_ns(all + k * (size_t)laps, laps) / w->count;
	free(all);
	if (!rc && w->driver && virtq_driver_in_flight(w->driver))
		rc = failed(w, why);
	return rc;
}
