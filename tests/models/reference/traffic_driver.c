/* SPDX-License-Identifier: MIT */
/* A world's traffic on the driver's side: buffers made, added, published, and got back. */
#include "world.h"

#include <errno.h>

#define CALL_MAX 16u	/* buffers in one call */

/* ---- Buffers. ---- */

/* How many elements; a little more than fit anywhere now and then. */
static unsigned int roll_count(struct world *w)
{
	unsigned int n = w->q.size, kind = dice_roll(&w->dice, 20);

	if (w->setup.driver->library && dice_one_in(&w->dice, 40))
		return n + 1 + dice_roll(&w->dice, 2);
	if (kind < 10)
		return 1 + dice_roll(&w->dice, at_most(n, 3));
	if (kind < 17)
		return 1 + dice_roll(&w->dice, at_most(n, 9));
	return kind < 19 ? 1 + dice_roll(&w->dice, n) : n;
}

static uint32_t roll_len(struct world *w, unsigned int count)
{
	unsigned int kind = dice_roll(&w->dice, 20);

	if (count > 16)
		return 1 + dice_roll(&w->dice, 6);
	if (kind < 12)
		return 1 + dice_roll(&w->dice, 16);
	return 1 + dice_roll(&w->dice, kind < 19 ? 200 : 2500);
}

/*
 * An element without bytes, at an address that is nowhere: the standard has no
 * rule against it (S-DEV-029, P-DEV-028). The library's driver adds none.
 */
static bool roll_empty(struct world *w, struct ref_element *e)
{
	if (w->setup.driver->library || !dice_one_in(&w->dice, 20))
		return false;
	e->addr = dice_next(&w->dice);
	e->len = 0;
	w->coverage->empty_element++;
	return true;
}

static void buffer_release(struct world *w, struct flight *f)
{
	unsigned int i;

	for (i = 0; i < f->buffer.count; i++)
		world_data_give(w, &f->buffer.element[i]);
	f->buffer.count = 0;
}

static bool buffer_make(struct world *w, struct flight *f)
{
	struct ref_buffer *b = &f->buffer;
	unsigned int count = roll_count(w), readable = dice_roll(&w->dice, count + 1);

	for (b->count = 0; b->count < count; b->count++) {
		struct ref_element *e = &b->element[b->count];

		e->writable = b->count >= readable;
		if (roll_empty(w, e))
			continue;
		e->len = roll_len(w, count);
		e->addr = world_data_take(w, e->len);
		if (!e->addr) {
			buffer_release(w, f);
			return false;
		}
		w->coverage->crossing += world_element_crosses(w, e);
	}
	f->serial = w->serial++;
	f->readable_bytes = ref_buffer_bytes(b, false);
	f->writable_bytes = ref_buffer_bytes(b, true);
	f->used_slot = -1;
	f->long_loan = false;
	flight_fill(w, f);
	return true;
}

/* ---- What the library's driver promises about room (virtq/driver.h). ---- */

static unsigned int entries_needed(const struct world *w, const struct flight *f)
{
	unsigned int n = f->buffer.count;

	return w->q.indirect && n >= 2 && n <= w->indirect_entries ? 1 : n;
}

static unsigned int entries_in(const struct world *w, const struct flights *list)
{
	unsigned int i, n = 0;

	for (i = 0; i < list->count; i++)
		n += entries_needed(w, list->at[i]);
	return n;
}

static unsigned int library_room(const struct world *w)
{
	return w->q.size - entries_in(w, &w->staged) - entries_in(w, &w->published) -
	       entries_in(w, &w->popped) - entries_in(w, &w->handled) -
	       entries_in(w, &w->pushed) - entries_in(w, &w->used);
}

/* 2.7.5.3.1, 2.8.17: never more elements than the queue size, in tables neither. */
static int library_accepts(struct world *w, struct flight **f, unsigned int count)
{
	unsigned int i, room = library_room(w);

	for (i = 0; i < count; i++) {
		unsigned int need = entries_needed(w, f[i]);

		if (f[i]->buffer.count > w->q.size) {
			w->coverage->too_long++;
			return i ? (int)i : -EMSGSIZE;
		}
		if (need > room) {
			w->coverage->full++;
			return i ? (int)i : -ENOSPC;
		}
		room -= need;
	}
	return (int)count;
}

static void check_driver_counts(struct world *w)
{
	unsigned int in_flight = w->staged.count + w->published.count + w->popped.count +
				 w->handled.count + w->pushed.count + w->used.count;

	if (w->setup.driver->in_flight(w) != in_flight)
		world_fail(w, "the driver counts %u in flight, there are %u",
			   w->setup.driver->in_flight(w), in_flight);
	if (w->setup.driver->library && w->setup.driver->room(w) != library_room(w))
		world_fail(w, "the driver has room for %u, the books say %u",
			   w->setup.driver->room(w), library_room(w));
}

/* ---- The driver's operations. ---- */

static void count_buffer(struct world *w, const struct flight *f)
{
	w->coverage->buffers++;
	w->coverage->elements += f->buffer.count;
	w->coverage->longest_is_size += f->buffer.count == w->q.size;
}

void world_add(struct world *w)
{
	unsigned int want = 1 + dice_roll(&w->dice, dice_one_in(&w->dice, 8) ? CALL_MAX : 3);
	struct flight *f[CALL_MAX];
	unsigned int i, count = 0;
	int added, promised;

	world_begin(w, OP_ADD);
	while (count < want && w->idle.count && buffer_make(w, w->idle.at[0]))
		f[count++] = flights_take(&w->idle, 0);
	if (!count)
		return;
	promised = w->setup.driver->library ? library_accepts(w, f, count) : 0;
	added = w->setup.driver->add(w, f, count);
	world_shim(w, OP_ADD, &added, f);
	if (w->setup.driver->library && added != promised)
		world_fail(w, "add of %u buffers, first of %u elements, returned %d instead of %d",
			   count, f[0]->buffer.count, added, promised);
	for (i = 0; i < count; i++) {
		if ((int)i < added) {
			flights_append(&w->staged, f[i]);
			count_buffer(w, f[i]);
		} else {
			buffer_release(w, f[i]);
			flights_append(&w->idle, f[i]);
		}
	}
	shadow_compare(w);
	check_driver_counts(w);
}

void world_publish(struct world *w)
{
	unsigned int i, count = w->staged.count;
	struct ref_cursor shown = w->shadow_driver.shown;
	uint16_t idx = w->shadow_driver.avail_idx;
	int kick;

	world_begin(w, OP_PUBLISH);
	kick = w->setup.driver->publish(w);
	world_shim(w, OP_PUBLISH, &kick, NULL);
	if (kick != 0 && kick != 1)
		world_fail(w, "publish by the driver returned %d", kick);
	for (i = 0; i < count; i++)
		w->staged.at[i]->exposed_at = w->now;
	shadow_driver_publish(w, kick);
	while (w->staged.count) {
		struct flight *f = flights_take(&w->staged, 0);

		w->coverage->indirect += f->seen.indirect;
		w->coverage->mixed += f->seen.indirect && f->seen.main_count > 1;
		flights_append(&w->published, f);
	}
	shadow_compare(w);
	w->coverage->index_wrapped += w->q.packed ? w->shadow_driver.shown.wrap != shown.wrap :
						    w->shadow_driver.avail_idx < idx;
	if (count)
		w->driver_undecided = false;
	if (kick)
		w->device_asleep = false;
	if (count && kick)
		w->coverage->kicked++;
	else if (count)
		w->coverage->not_kicked++;
}

void world_get(struct world *w)
{
	unsigned int i, max = 1 + dice_roll(&w->dice, CALL_MAX);
	unsigned int expected = at_most(max, w->used.count);
	struct ref_used used[CALL_MAX];
	int n;

	if (w->driver_asleep)
		return;
	world_begin(w, OP_GET);
	n = w->setup.driver->get(w, used, max);
	world_shim(w, OP_GET, &n, used);
	if (n < 0 && w->setup.driver->library)
		world_fail(w, "get: the library's driver says its peer is at fault: %s",
			   virtq_fault_text(virtq_driver_fault(w->lib_driver).code));
	if (n != (int)expected) {
		world_fail(w, "get returned %d with %u buffers used", n, w->used.count);
		return;
	}
	shadow_driver_get(w, used, expected);
	for (i = 0; i < expected; i++) {
		struct flight *f = w->used.at[0];

		/* 2.7.14, 2.8.22: in the order in which the device used them. */
		if (used[i].cookie != f->index)
			world_fail(w, "got buffer %u where %u was used",
				   w->flight[used[i].cookie].serial, f->serial);
		else if (used[i].written != f->len)
			world_fail(w, "got buffer %u with %u bytes, %u were written", f->serial,
				   used[i].written, f->len);
		flight_check_back(w, f);
		flights_take(&w->used, 0);
		buffer_release(w, f);
		flights_append(&w->idle, f);
	}
	shadow_compare(w);
	check_driver_counts(w);
}

void world_driver_arm(struct world *w)
{
	struct ref_arm arm = world_roll_arm(w, w->setup.driver->library);
	int there;

	if (w->driver_asleep)
		return;
	world_begin(w, OP_DRIVER_ARM);
	there = w->setup.driver->arm(w, &arm);
	world_shim(w, OP_DRIVER_ARM, &there, NULL);
	if (w->setup.driver->library)
		world_observe_arm(w, &arm, w->q.driver);
	w->driver_parked = false;
	if (there != (w->used.count != 0))
		world_fail(w, "arm by the driver returned %d with %u buffers used", there,
			   w->used.count);
	shadow_driver_arm(w, &arm, there);
	shadow_compare(w);
	if (!there && !arm.ahead && dice_one_in(&w->dice, 2)) {
		w->driver_asleep = true;
		w->coverage->slept++;
	}
}

void world_driver_disarm(struct world *w)
{
	if (w->driver_asleep)
		return;
	world_begin(w, OP_DRIVER_DISARM);
	w->setup.driver->disarm(w);
	world_shim(w, OP_DRIVER_DISARM, NULL, NULL);
	w->driver_parked = true;
	shadow_driver_disarm(w);
	shadow_compare(w);
}
