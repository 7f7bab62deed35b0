/* SPDX-License-Identifier: MIT */
/* A world's life: random legal traffic, and what both ends must make of it. */
#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

unsigned int at_most(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

void world_begin(struct world *w, enum operation op)
{
	w->op = op;
	w->now++;
	w->coverage->operation[op]++;
}

bool world_element_crosses(struct world *w, const struct ref_element *e)
{
	unsigned int i;

	for (i = 0; i < w->mem.count; i++) {
		const struct ref_area *a = &w->mem.area[i];

		if (e->addr >= a->gpa && e->addr - a->gpa < a->bytes)
			return e->addr + e->len > a->gpa + a->bytes;
	}
	return false;
}

/* A partner that is the model may ask for any place ahead; a library's asks for the next. */
struct ref_arm world_roll_arm(struct world *w, bool library)
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
void world_observe_arm(struct world *w, struct ref_arm *arm, uint64_t event)
{
	if (w->q.packed && ref_get16(&w->mem, event + 2) == REF_EVENT_ENABLE)
		arm->desc = false;
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
	world_add, world_publish, world_get, world_driver_arm, world_driver_disarm,
	world_pop, world_unpop, world_handle, world_push, world_device_publish,
	world_device_arm, world_device_disarm,
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
		world_publish(w);
		world_pop(w);
		while (w->popped.count && !world_failed(w))
			world_handle(w);
		while (w->handled.count && !world_failed(w))
			world_push(w);
		world_device_publish(w);
		world_get(w);
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
	world_begin(w, OP_START);
	if (w->setup.driver->start(w, position))
		return;
	w->driver_started = true;
	world_shim(w, OP_START, NULL, NULL);
	shadow_driver_start(w, position);
	shadow_compare(w);
	world_begin(w, OP_DEVICE_START);
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
