/* SPDX-License-Identifier: MIT */
/* A world's life: random legal traffic, and what both ends must make of it. */
#include "world.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_MAX 16u	/* buffers in one call */

void world_fail(struct world *w, const char *fmt, ...)
{
	va_list args;

	if (world_failed(w))
		return;
	va_start(args, fmt);
	vsnprintf(w->failure, sizeof(w->failure), fmt, args);
	va_end(args);
	w->failed_at = w->now;
}

static unsigned int at_most(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

static void begin(struct world *w, enum operation op)
{
	w->op = op;
	w->now++;
	w->coverage->operation[op]++;
}

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

static bool element_crosses(struct world *w, const struct ref_element *e)
{
	unsigned int i;

	for (i = 0; i < w->mem.count; i++) {
		const struct ref_area *a = &w->mem.area[i];

		if (e->addr >= a->gpa && e->addr - a->gpa < a->bytes)
			return e->addr + e->len > a->gpa + a->bytes;
	}
	return false;
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
		w->coverage->crossing += element_crosses(w, e);
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

static void do_add(struct world *w)
{
	unsigned int want = 1 + dice_roll(&w->dice, dice_one_in(&w->dice, 8) ? CALL_MAX : 3);
	struct flight *f[CALL_MAX];
	unsigned int i, count = 0;
	int added, promised;

	begin(w, OP_ADD);
	while (count < want && w->idle.count && buffer_make(w, w->idle.at[0]))
		f[count++] = flights_take(&w->idle, 0);
	if (!count)
		return;
	promised = w->setup.driver->library ? library_accepts(w, f, count) : 0;
	added = w->setup.driver->add(w, f, count);
	world_shim(w, OP_ADD, &added, f);
	if (w->setup.driver->library && added != promised)
		world_fail(w, "add of %u buffers, the first of %u elements, returned %d instead of %d",
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

static void do_publish(struct world *w)
{
	unsigned int i, count = w->staged.count;
	struct ref_cursor shown = w->shadow_driver.shown;
	uint16_t idx = w->shadow_driver.avail_idx;
	int kick;

	begin(w, OP_PUBLISH);
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

static void do_get(struct world *w)
{
	unsigned int i, max = 1 + dice_roll(&w->dice, CALL_MAX);
	unsigned int expected = at_most(max, w->used.count);
	struct ref_used used[CALL_MAX];
	int n;

	if (w->driver_asleep)
		return;
	begin(w, OP_GET);
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

/* A partner that is the model may ask for any place ahead; a library's asks for the next. */
static struct ref_arm roll_arm(struct world *w, bool library)
{
	struct ref_arm arm = { .desc = true, .ahead = 0 };

	if (library)
		return arm;
	arm.desc = !dice_one_in(&w->dice, 4);
	if (dice_one_in(&w->dice, 3))
		arm.ahead = (uint16_t)dice_roll(&w->dice, w->q.size);
	return arm;
}

/* 2.8.10: to be told of every descriptor or of one are both ways to ask for the next. */
static void observe_arm(struct world *w, struct ref_arm *arm, uint64_t event)
{
	if (w->q.packed && ref_get16(&w->mem, event + 2) == REF_EVENT_ENABLE)
		arm->desc = false;
}

static void do_driver_arm(struct world *w)
{
	struct ref_arm arm = roll_arm(w, w->setup.driver->library);
	int there;

	if (w->driver_asleep)
		return;
	begin(w, OP_DRIVER_ARM);
	there = w->setup.driver->arm(w, &arm);
	world_shim(w, OP_DRIVER_ARM, &there, NULL);
	if (w->setup.driver->library)
		observe_arm(w, &arm, w->q.driver);
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

static void do_driver_disarm(struct world *w)
{
	if (w->driver_asleep)
		return;
	begin(w, OP_DRIVER_DISARM);
	w->setup.driver->disarm(w);
	world_shim(w, OP_DRIVER_DISARM, NULL, NULL);
	w->driver_parked = true;
	shadow_driver_disarm(w);
	shadow_compare(w);
}

/* ---- The device's operations. ---- */

/* More elements than this, once split at the borders of regions, it cannot have. */
static unsigned int segments_at_most(struct world *w, const struct flight *f)
{
	unsigned int i, n = f->buffer.count;

	for (i = 0; i < f->buffer.count; i++)
		if (element_crosses(w, &f->buffer.element[i]))
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

static void do_pop(struct world *w)
{
	unsigned int i, max = 1 + dice_roll(&w->dice, CALL_MAX);
	unsigned int expected = at_most(max, w->published.count);
	int n;

	if (w->device_asleep)
		return;
	begin(w, OP_POP);
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
		w->published.at[0]->turn = w->pops++;
		flights_append(&w->popped, flights_take(&w->published, 0));
	}
	shadow_compare(w);
}

/* S-DEV-040: the one popped last goes back, and will be popped again. */
static void do_unpop(struct world *w)
{
	struct flight *f;
	unsigned int i;
	int rc;

	for (i = 0; i < w->popped.count && w->popped.at[i]->turn != w->pops - 1; i++)
		;
	if (i == w->popped.count || w->device_asleep)
		return;
	begin(w, OP_UNPOP);
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

static void do_handle(struct world *w)
{
	struct flight *f;

	if (!w->popped.count)
		return;
	begin(w, OP_HANDLE);
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

static void do_push(struct world *w)
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
	begin(w, OP_PUSH);
	w->setup.device->push(w, f, count);
	for (i = 0; i < count; i++)
		flights_append(&w->pushed, f[i]);
	world_shim(w, OP_PUSH, NULL, NULL);
	shadow_compare(w);
	if (w->setup.device->in_flight(w) != w->popped.count + w->handled.count)
		world_fail(w, "the device counts %u in flight, there are %u",
			   w->setup.device->in_flight(w), w->popped.count + w->handled.count);
}

static void do_device_publish(struct world *w)
{
	unsigned int count = w->pushed.count;
	int call;

	begin(w, OP_DEVICE_PUBLISH);
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

static void do_device_arm(struct world *w)
{
	struct ref_arm arm = roll_arm(w, w->setup.device->library);
	int there;

	if (w->device_asleep)
		return;
	begin(w, OP_DEVICE_ARM);
	there = w->setup.device->arm(w, &arm);
	world_shim(w, OP_DEVICE_ARM, &there, NULL);
	if (w->setup.device->library)
		observe_arm(w, &arm, w->q.device);
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

static void do_device_disarm(struct world *w)
{
	if (w->device_asleep)
		return;
	begin(w, OP_DEVICE_DISARM);
	w->setup.device->disarm(w);
	world_shim(w, OP_DEVICE_DISARM, NULL, NULL);
	w->device_parked = true;
	shadow_device_disarm(w);
	shadow_compare(w);
}

/* Who sleeps was armed, found nothing, and must be told of what comes (2.7.7, 2.7.10, 2.8.10). */
static void check_sleepers(struct world *w)
{
	if (w->device_asleep && w->published.count)
		world_fail(w, "a kick was lost: the device sleeps over %u buffers",
			   w->published.count);
	if (w->driver_asleep && w->used.count)
		world_fail(w, "a call was lost: the driver sleeps over %u buffers",
			   w->used.count);
}

/* ---- Traffic. ---- */

static void (*const operations[])(struct world *w) = {
	do_add, do_publish, do_get, do_driver_arm, do_driver_disarm, do_pop, do_unpop,
	do_handle, do_push, do_device_publish, do_device_arm, do_device_disarm,
};
#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))

/* Moods change, so that rings run full and empty, and batches grow long and short. */
static void roll_mood(struct world *w, unsigned int *weight)
{
	static const unsigned int usual[OPERATIONS] = { 8, 6, 6, 2, 1, 8, 1, 10, 8, 5, 2, 1 };
	unsigned int i;

	for (i = 0; i < OPERATIONS; i++)
		weight[i] = 1 + usual[i] * (1 + dice_roll(&w->dice, 6));
	if (dice_one_in(&w->dice, 4))
		weight[dice_roll(&w->dice, OPERATIONS)] = 0;
}

static void step(struct world *w, const unsigned int *weight)
{
	unsigned int i, sum = 0, at;

	for (i = 0; i < OPERATIONS; i++)
		sum += weight[i];
	at = dice_roll(&w->dice, sum);
	for (i = 0; at >= weight[i]; i++)
		at -= weight[i];
	operations[i](w);
	check_sleepers(w);
	w->step++;
}

/* Everything comes home; no operation here depends on being told of anything. */
static void drain(struct world *w)
{
	unsigned int round;

	w->driver_asleep = w->device_asleep = false;
	for (round = 0; round < 4 * WORLD_FLIGHTS && w->idle.count < WORLD_FLIGHTS; round++) {
		if (world_failed(w))
			return;
		do_publish(w);
		do_pop(w);
		while (w->popped.count && !world_failed(w))
			do_handle(w);
		while (w->handled.count && !world_failed(w))
			do_push(w);
		do_device_publish(w);
		do_get(w);
	}
	if (w->idle.count < WORLD_FLIGHTS)
		world_fail(w, "not every buffer came back");
}

/* The positions of an idle queue, as transports move them (S-DEV and P-DEV ends alike). */
static uint32_t check_positions(struct world *w)
{
	uint32_t should = ref_driver_position(&w->shadow_driver);
	uint32_t drv = w->setup.driver->position(w), dev = w->setup.device->position(w);

	if (!w->shadow_off && (drv != should || dev != should))
		world_fail(w, "idle, the driver is at %#x, the device at %#x, the model at %#x",
			   drv, dev, should);
	return drv;
}

static void start(struct world *w, const uint32_t *position)
{
	w->driver_asleep = w->device_asleep = false;
	w->driver_parked = w->device_parked = false;
	w->driver_undecided = position != NULL;
	w->device_undecided = true;
	w->pushes = w->pops;
	begin(w, OP_START);
	if (w->setup.driver->start(w, position))
		return;
	w->driver_started = true;
	shadow_driver_start(w, position);
	shadow_compare(w);
	begin(w, OP_DEVICE_START);
	if (w->setup.device->start(w, position))
		return;
	w->device_started = true;
	shadow_device_start(w, position);
	shadow_compare(w);
}

static void stop(struct world *w)
{
	if (w->device_started)
		w->setup.device->stop(w);
	if (w->driver_started)
		w->setup.driver->stop(w);
	w->driver_started = w->device_started = false;
}

/* Both ends made anew, and going on where the old ones were. */
static void restart(struct world *w)
{
	uint32_t position = check_positions(w);

	if (world_failed(w))
		return;
	stop(w);
	start(w, &position);
	w->coverage->restarted++;
}

static uint32_t roll_position(struct world *w)
{
	uint32_t slot = dice_roll(&w->dice, w->q.size), wrap = dice_roll(&w->dice, 2);

	if (!w->q.packed)
		return 65536 - dice_roll(&w->dice, 8);
	return slot | wrap << 15 | slot << 16 | wrap << 31;
}

static void first_start(struct world *w)
{
	uint32_t position;

	if (!w->setup.far_start) {
		start(w, NULL);
		return;
	}
	position = roll_position(w) & (w->q.packed ? 0xffffffff : 0xffff);
	world_memory_lapped(w, position);
	start(w, &position);
}

static void setup(struct world *w, const struct setup *s, struct coverage *coverage)
{
	unsigned int i;

	memset(w, 0, sizeof(*w));
	w->setup = *s;
	w->coverage = coverage;
	w->q.packed = s->packed;
	w->q.event_idx = s->event_idx;
	w->q.indirect = s->indirect;
	w->q.in_order = s->in_order;
	w->q.size = s->size;
	w->dice.state = s->seed;
	w->long_chains = 1 + dice_roll(&w->dice, dice_one_in(&w->dice, 2) ? 2 : s->size);
	w->indirect_entries = 2 + dice_roll(&w->dice, at_most(s->size + 4u, 24));
	w->wide_ids = dice_one_in(&w->dice, 2);
	w->flight = calloc(WORLD_FLIGHTS, sizeof(w->flight[0]));
	if (!w->flight)
		abort();
	for (i = 0; i < WORLD_FLIGHTS; i++) {
		w->flight[i].index = i;
		flights_append(&w->idle, &w->flight[i]);
	}
	world_memory_create(w);
}

bool world_run(struct world *w, const struct setup *s, struct coverage *coverage)
{
	unsigned int weight[OPERATIONS];

	setup(w, s, coverage);
	first_start(w);
	roll_mood(w, weight);
	while (w->step < s->steps && !world_failed(w)) {
		step(w, weight);
		if (w->step % 64 == 0)
			roll_mood(w, weight);
		if (w->step % 512 == 0) {
			drain(w);
			if (dice_one_in(&w->dice, 2) && !world_failed(w))
				restart(w);
		}
	}
	if (!world_failed(w))
		drain(w);
	if (!world_failed(w))
		check_positions(w);
	stop(w);
	world_memory_destroy(w);
	free(w->flight);
	return !world_failed(w);
}
