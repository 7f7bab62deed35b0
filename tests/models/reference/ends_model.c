/* SPDX-License-Identifier: MIT */
/*
 * The model's ends as partners: they make every choice that the standard
 * leaves them at random, also those that no sensible implementation makes.
 */
#include "world.h"

#include <errno.h>
#include <stddef.h>

/* Entries in one of the model driver's tables; world_memory.c makes room for as many. */
#define TABLE_ENTRIES_MAX 32u
#define TABLE_STRIDE (16 * TABLE_ENTRIES_MAX + 16)

static int complain(struct world *w, const char *who, const char *what)
{
	world_fail(w, "the model's %s complains of its peer: %s", who, what);
	return -EBADMSG;
}

static int model_driver_start(struct world *w, const uint32_t *position)
{
	ref_driver_start(&w->real_driver, &w->q, &w->mem, position);
	return 0;
}

static void model_driver_stop(struct world *w)
{
	(void)w;
}

/* Free descriptors in any order: in order of the table only where 2.7.5.2 says so. */
static void choose_descriptors(struct world *w, struct ref_choice *c)
{
	struct ref_driver *d = &w->real_driver;
	uint16_t free_list[REF_MAX];
	unsigned int i, count = 0, first;

	for (i = 0; i < w->q.size; i++)
		if (!d->desc_busy[i])
			free_list[count++] = (uint16_t)i;
	first = d->next_desc < 0 ? dice_roll(&w->dice, w->q.size) : (unsigned int)d->next_desc;
	for (i = 0; i < c->main_count; i++) {
		unsigned int k = dice_roll(&w->dice, count);

		c->main[i] = free_list[k];
		free_list[k] = free_list[--count];
		if (w->q.in_order)
			c->main[i] = (uint16_t)((first + i) % w->q.size);
	}
}

static bool id_taken(const struct ref_driver *d, uint16_t id)
{
	unsigned int i;

	for (i = 0; i < d->count; i++)
		if (d->outstanding[i].id == id)
			return true;
	return false;
}

/* 2.8.13: sixteen bits, to the device just a name. */
static void choose_id(struct world *w, struct ref_choice *c)
{
	do
		c->id = (uint16_t)dice_roll(&w->dice, w->wide_ids ? 0x10000 : w->q.size);
	while (id_taken(&w->real_driver, c->id));
}

/* A table that is free, at any address: none of 2.7.5.3 and 2.8.7 asks for an alignment. */
static bool choose_table(struct world *w, struct ref_choice *c)
{
	unsigned int i = dice_roll(&w->dice, WORLD_TABLES);

	if (w->table_taken[i])
		return false;
	w->table_taken[i] = true;
	c->table = w->table_gpa + i * TABLE_STRIDE + dice_roll(&w->dice, 16);
	return true;
}

static void release_table(struct world *w, const struct flight *f)
{
	if (f->made.indirect)
		w->table_taken[(f->made.table - w->table_gpa) / TABLE_STRIDE] = false;
}

/* 2.7.5.3: entry 0 first, the others linked in any order, unless buffers are used in order. */
static void choose_entries(struct world *w, struct ref_choice *c)
{
	unsigned int i;

	for (i = 0; i < c->entry_count; i++)
		c->entry[i] = (uint16_t)i;
	if (w->q.packed || w->q.in_order)
		return;
	for (i = c->entry_count; i-- > 2;) {
		unsigned int k = 1 + dice_roll(&w->dice, i);
		uint16_t entry = c->entry[i];

		c->entry[i] = c->entry[k];
		c->entry[k] = entry;
	}
}

/*
 * How many descriptors and table entries: all direct, all in a table, or, on a
 * split ring (2.7.5.3.2), some of each. False if there is no room for that.
 */
static bool choose_form(struct world *w, unsigned int elements, struct ref_choice *c)
{
	unsigned int room = ref_driver_room(&w->real_driver), direct = 0;

	c->indirect = false;
	c->entry_count = 0;
	c->main_count = elements;
	if (!w->q.indirect || dice_one_in(&w->dice, 3))
		return elements <= room;
	if (!w->q.packed && dice_one_in(&w->dice, 2))
		direct = dice_roll(&w->dice, elements);
	if (elements - direct > TABLE_ENTRIES_MAX || direct + 1 > room)
		return elements <= room;
	if (!choose_table(w, c))
		return elements <= room;
	c->indirect = true;
	c->main_count = direct + 1;
	c->entry_count = elements - direct;
	return true;
}

static int model_driver_add(struct world *w, struct flight **f, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		struct ref_choice *c = &f[i]->made;

		if (w->real_driver.count == w->q.size ||
		    !choose_form(w, f[i]->buffer.count, c))
			break;
		if (w->q.packed)
			choose_id(w, c);
		else
			choose_descriptors(w, c);
		choose_entries(w, c);
		c->noise = (uint16_t)dice_next(&w->dice);
		if (ref_driver_add(&w->real_driver, f[i]->index, &f[i]->buffer, c))
			return complain(w, "driver", w->real_driver.complaint);
	}
	return i ? (int)i : -ENOSPC;
}

static int model_driver_publish(struct world *w)
{
	return ref_driver_publish(&w->real_driver);
}

static int model_driver_get(struct world *w, struct ref_used *used, unsigned int max)
{
	unsigned int n;

	for (n = 0; n < max; n++) {
		int rc = ref_driver_get(&w->real_driver, &used[n]);

		if (rc < 0)
			return complain(w, "driver", w->real_driver.complaint);
		if (rc == 0)
			break;
		release_table(w, &w->flight[used[n].cookie]);
	}
	return (int)n;
}

static int model_driver_arm(struct world *w, const struct ref_arm *arm)
{
	return ref_driver_arm(&w->real_driver, arm);
}

/* With EVENT_IDX on a split ring: any index will do (2.7.7.1); it may come round. */
static void model_driver_disarm(struct world *w)
{
	ref_driver_disarm(&w->real_driver);
	if (!w->q.packed && w->q.event_idx)
		ref_put16(&w->mem, split_used_event_at(&w->q), (uint16_t)dice_next(&w->dice));
}

static uint32_t model_driver_room(struct world *w)
{
	return ref_driver_room(&w->real_driver);
}

static uint32_t model_driver_in_flight(struct world *w)
{
	return w->real_driver.count;
}

static uint32_t model_driver_position(struct world *w)
{
	return ref_driver_position(&w->real_driver);
}

const struct driver_end model_driver = {
	.name = "model",
	.start = model_driver_start, .stop = model_driver_stop,
	.add = model_driver_add, .publish = model_driver_publish,
	.get = model_driver_get, .arm = model_driver_arm, .disarm = model_driver_disarm,
	.room = model_driver_room, .in_flight = model_driver_in_flight,
	.position = model_driver_position,
};

static int model_device_start(struct world *w, const uint32_t *position)
{
	ref_device_start(&w->real_device, &w->q, &w->mem, position);
	return 0;
}

static void model_device_stop(struct world *w)
{
	(void)w;
}

static int model_device_pop(struct world *w, unsigned int max)
{
	static struct ref_request nobodys;
	unsigned int n;

	for (n = 0; n < max; n++) {
		struct flight *f = n < w->published.count ? w->published.at[n] : NULL;
		int rc = ref_device_pop(&w->real_device, f ? &f->real : &nobodys);

		if (rc < 0)
			return complain(w, "device", w->real_device.complaint);
		if (rc == 0)
			break;
		if (!f) {
			world_fail(w, "the model's device popped what nobody published");
			return -EBADMSG;
		}
		f->handle = &f->real;
	}
	return (int)n;
}

static void model_device_check(struct world *w, const struct flight *f)
{
	const struct ref_request *req = f->handle;

	if (!same_elements(&f->buffer, &req->buffer))
		world_fail(w, "buffer %u: the model's device took other elements", f->serial);
}

static int model_device_unpop(struct world *w, struct flight *f)
{
	ref_device_unpop(&w->real_device, f->handle);
	return 0;
}

static void model_device_handle(struct world *w, struct flight *f)
{
	const struct ref_request *req = f->handle;
	uint64_t n = 0;
	unsigned int k, i;

	for (k = 0; k < req->buffer.count; k++) {
		const struct ref_element *e = &req->buffer.element[k];

		for (i = 0; !e->writable && i < e->len; i++, n++)
			if (ref_get8(&w->mem, e->addr + i) != flight_readable_byte(f, n)) {
				world_fail(w, "buffer %u: the model's device read byte %llu wrong",
					   f->serial, (unsigned long long)n);
				return;
			}
	}
	flight_write_plainly(&w->mem, f, &req->buffer);
}

static void model_device_push(struct world *w, struct flight **f, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		ref_device_complete(&w->real_device, f[i]->handle, f[i]->len,
				    f[i]->prefix || f[i]->tail);
}

/*
 * 2.7.9, 2.8.8: batches of any size, as long as those skipped were used
 * completely; the length of a buffer that is not last in its batch is lost.
 */
static void choose_batches(struct world *w, unsigned int *batch)
{
	const struct ref_device *d = &w->real_device;
	unsigned int at = 0, size;

	while (at < d->done_count) {
		size = 1;
		while (at + size < d->done_count && d->done[at + size - 1].whole &&
		       !dice_one_in(&w->dice, 4))
			size++;
		if (size > 1)
			w->coverage->batched++;
		*batch++ = size;
		at += size;
	}
}

static int model_device_publish(struct world *w)
{
	unsigned int batch[REF_MAX];
	bool call;

	if (w->q.in_order)
		choose_batches(w, batch);
	call = ref_device_publish(&w->real_device, w->q.in_order ? batch : NULL);
	if (w->real_device.complaint)
		return complain(w, "device", w->real_device.complaint);
	return call;
}

static int model_device_arm(struct world *w, const struct ref_arm *arm)
{
	return ref_device_arm(&w->real_device, arm);
}

static void model_device_disarm(struct world *w)
{
	ref_device_disarm(&w->real_device);
	if (!w->q.packed && w->q.event_idx)
		ref_put16(&w->mem, split_avail_event_at(&w->q), (uint16_t)dice_next(&w->dice));
}

static uint32_t model_device_in_flight(struct world *w)
{
	return w->popped.count + w->handled.count;
}

static uint32_t model_device_position(struct world *w)
{
	return ref_device_position(&w->real_device);
}

const struct device_end model_device = {
	.name = "model",
	.start = model_device_start, .stop = model_device_stop,
	.pop = model_device_pop, .check = model_device_check, .unpop = model_device_unpop,
	.handle = model_device_handle, .push = model_device_push, .publish = model_device_publish,
	.arm = model_device_arm, .disarm = model_device_disarm,
	.in_flight = model_device_in_flight, .position = model_device_position,
};
