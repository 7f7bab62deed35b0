/* SPDX-License-Identifier: MIT */
/* A world's traffic on the device's side: requests popped, handled, pushed, published. */
#include "world.h"

#include <errno.h>
#include <string.h>

#define CALL_MAX 16u	/* buffers in one call */

/* ---- The device's operations. ---- */

/* More elements than this, once split at the borders of regions, it cannot have. */
static unsigned int segments_at_most(struct world *w, const struct flight *f)
{
	unsigned int i, n = f->buffer.count;

	for (i = 0; i < f->buffer.count; i++)
		if (world_element_crosses(w, &f->buffer.element[i]))
			n += 3;
	return n;
}

/* virtq/device.h: a long chain waits while all blocks for long chains are on loan. */
static bool may_be_blocked(struct world *w, int popped)
{
	unsigned int i, loans = 0, taken = popped > 0 ? (unsigned int)popped : 0;

	if (!w->setup.device->library || taken >= w->published.count)
		return false;
	for (i = 0; i < w->popped.count; i++)
		loans += w->popped.at[i]->long_loan;
	for (i = 0; i < w->handled.count; i++)
		loans += w->handled.at[i]->long_loan;
	for (i = 0; i < taken; i++)
		loans += w->published.at[i]->long_loan;
	return loans >= w->long_chains &&
	       segments_at_most(w, w->published.at[taken]) > VIRTQ_REQ_INLINE_SEGS &&
	       popped != 0;
}

void world_pop(struct world *w)
{
	unsigned int i, max = 1 + dice_roll(&w->dice, CALL_MAX);
	unsigned int expected = at_most(max, w->published.count);
	int n;

	if (w->device_asleep)
		return;
	world_begin(w, OP_POP);
	n = w->setup.device->pop(w, max);
	world_shim(w, OP_POP, &n, NULL);
	if (n < (int)expected && (n > 0 || n == -ENOSPC) && may_be_blocked(w, n)) {
		w->coverage->blocked++;
		expected = n > 0 ? (unsigned int)n : 0;
		n = (int)expected;
	}
	if (n < 0 && w->setup.device->library)
		world_fail(w, "pop: the library's device says its peer is at fault: %s",
			   virtq_fault_text(virtq_device_fault(w->lib_device).code));
	if (n != (int)expected) {
		world_fail(w, "pop returned %d with %u buffers available", n, w->published.count);
		return;
	}
	shadow_device_pop(w, w->published.at, expected);
	for (i = 0; i < expected; i++) {
		w->setup.device->check(w, w->published.at[0]);
		w->published.at[0]->turn = w->pops++;
		flights_append(&w->popped, flights_take(&w->published, 0));
	}
	shadow_compare(w);
}

/* S-DEV-040: the one popped last goes back, and will be popped again. */
void world_unpop(struct world *w)
{
	struct flight *f;
	unsigned int i;
	int rc;

	for (i = 0; i < w->popped.count && w->popped.at[i]->turn != w->pops - 1; i++)
		;
	if (i == w->popped.count || w->device_asleep)
		return;
	world_begin(w, OP_UNPOP);
	f = flights_take(&w->popped, i);
	rc = w->setup.device->unpop(w, f);
	world_shim(w, OP_UNPOP, &rc, NULL);
	if (rc)
		world_fail(w, "unpop of the request popped last returned %d", rc);
	w->pops--;
	shadow_device_unpop(w, f);
	/* Back to the front. */
	memmove(w->published.at + 1, w->published.at, w->published.count * sizeof(f));
	w->published.at[0] = f;
	w->published.count++;
	shadow_compare(w);
}

/* How much the device writes: nothing, all, or a prefix (2.7.8.2), and perhaps the last byte. */
static void roll_writing(struct world *w, struct flight *f)
{
	uint32_t writable = (uint32_t)f->writable_bytes;

	f->prefix = 0;
	f->tail = writable && dice_one_in(&w->dice, 6);
	if (f->tail)
		writable--;
	if (!dice_one_in(&w->dice, 4))
		f->prefix = dice_one_in(&w->dice, 2) ? writable :
						       dice_roll(&w->dice, writable + 1);
	/* 2.7.8.2: the last byte counts only if all before it was written. */
	f->len = f->prefix + (f->tail && f->prefix == writable);
	w->coverage->tail += f->tail;
}

void world_handle(struct world *w)
{
	struct flight *f;

	if (!w->popped.count)
		return;
	world_begin(w, OP_HANDLE);
	f = flights_take(&w->popped, dice_roll(&w->dice, w->popped.count));
	roll_writing(w, f);
	w->setup.device->handle(w, f);
	world_shim(w, OP_HANDLE, NULL, f);
	flights_append(&w->handled, f);
	shadow_device_handle(w, f);
	shadow_compare(w);
}

/* Any that was handled; with IN_ORDER (2.7.9, 2.8.8) the oldest, once it was. */
static struct flight *choose_done(struct world *w)
{
	unsigned int i;

	if (!w->handled.count)
		return NULL;
	i = dice_roll(&w->dice, w->handled.count);
	if (w->q.in_order)
		for (i = 0; i < w->handled.count && w->handled.at[i]->turn != w->pushes; i++)
			;
	return i < w->handled.count ? flights_take(&w->handled, i) : NULL;
}

void world_push(struct world *w)
{
	unsigned int want = 1 + dice_roll(&w->dice, dice_one_in(&w->dice, 4) ? CALL_MAX : 3);
	struct flight *f[CALL_MAX];
	unsigned int i, count;

	for (count = 0; count < want && (f[count] = choose_done(w)); count++) {
		w->coverage->out_of_order += f[count]->turn != w->pushes;
		w->pushes++;
	}
	if (!count)
		return;
	world_begin(w, OP_PUSH);
	w->setup.device->push(w, f, count);
	for (i = 0; i < count; i++)
		flights_append(&w->pushed, f[i]);
	world_shim(w, OP_PUSH, NULL, NULL);
	shadow_compare(w);
	if (w->setup.device->in_flight(w) != w->popped.count + w->handled.count)
		world_fail(w, "the device counts %u in flight, there are %u",
			   w->setup.device->in_flight(w), w->popped.count + w->handled.count);
}

void world_device_publish(struct world *w)
{
	unsigned int count = w->pushed.count;
	int call;

	world_begin(w, OP_DEVICE_PUBLISH);
	call = w->setup.device->publish(w);
	world_shim(w, OP_DEVICE_PUBLISH, &call, NULL);
	if (call != 0 && call != 1)
		world_fail(w, "publish by the device returned %d", call);
	shadow_device_publish(w, call);
	while (w->pushed.count)
		flights_append(&w->used, flights_take(&w->pushed, 0));
	shadow_compare(w);
	if (count)
		w->device_undecided = false;
	if (call)
		w->driver_asleep = false;
	if (count && call)
		w->coverage->called++;
	else if (count)
		w->coverage->not_called++;
}

void world_device_arm(struct world *w)
{
	struct ref_arm arm = world_roll_arm(w, w->setup.device->library);
	int there;

	if (w->device_asleep)
		return;
	world_begin(w, OP_DEVICE_ARM);
	there = w->setup.device->arm(w, &arm);
	world_shim(w, OP_DEVICE_ARM, &there, NULL);
	if (w->setup.device->library)
		world_observe_arm(w, &arm, w->q.device);
	w->device_parked = false;
	if (there != (w->published.count != 0))
		world_fail(w, "arm by the device returned %d with %u buffers available", there,
			   w->published.count);
	shadow_device_arm(w, &arm, there);
	shadow_compare(w);
	if (!there && !arm.ahead && dice_one_in(&w->dice, 2)) {
		w->device_asleep = true;
		w->coverage->slept++;
	}
}

void world_device_disarm(struct world *w)
{
	if (w->device_asleep)
		return;
	world_begin(w, OP_DEVICE_DISARM);
	w->setup.device->disarm(w);
	world_shim(w, OP_DEVICE_DISARM, NULL, NULL);
	w->device_parked = true;
	shadow_device_disarm(w);
	shadow_compare(w);
}
