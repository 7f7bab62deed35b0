/* SPDX-License-Identifier: MIT */
/* The reference model: rules that both layouts share, and the choice of layout. */
#include "model.h"

#include <stddef.h>
#include <string.h>

uint64_t ref_buffer_bytes(const struct ref_buffer *b, bool writable)
{
	uint64_t bytes = 0;
	unsigned int i;

	for (i = 0; i < b->count; i++)
		if (b->element[i].writable == writable)
			bytes += b->element[i].len;
	return bytes;
}

int ref_driver_complain(struct ref_driver *d, const char *what)
{
	d->complaint = what;
	return -1;
}

int ref_device_complain(struct ref_device *d, const char *what)
{
	d->complaint = what;
	return -1;
}

/* 2.7.13.1 and 2.8: a buffer has at least one element. */
static const char *at_least_one_element(const struct ref_buffer *b)
{
	return b->count ? NULL : "2.7.13.1, 2.8: a buffer without elements";
}

/* 2.7.4.2 and 2.8.17: device-writable elements come after device-readable ones. */
static const char *readable_first(const struct ref_buffer *b)
{
	unsigned int i;

	for (i = 1; i < b->count; i++)
		if (b->element[i - 1].writable && !b->element[i].writable)
			return "2.7.4.2, 2.8.17: a readable element after a writable one";
	return NULL;
}

/* 2.7.5.2: no more than 2^32 bytes in all. */
static const char *bytes_bounded(const struct ref_buffer *b)
{
	if (ref_buffer_bytes(b, false) + ref_buffer_bytes(b, true) > (uint64_t)1 << 32)
		return "2.7.5.2: more than 2^32 bytes";
	return NULL;
}

/* 2.7.5.3.1 and 2.8.17: no more descriptors, those in a table included, than the queue size. */
static const char *no_longer_than_queue(const struct ref_queue *q, const struct ref_buffer *b)
{
	return b->count <= q->size ? NULL : "2.7.5.3.1, 2.8.17: longer than the queue size";
}

static const char *buffer_fault(const struct ref_queue *q, const struct ref_buffer *b)
{
	const char *what = at_least_one_element(b);

	if (!what)
		what = readable_first(b);
	if (!what)
		what = bytes_bounded(b);
	if (!what)
		what = no_longer_than_queue(q, b);
	return what;
}

/* 2.7.5.3.1 and 2.8.19: tables only if that was negotiated. */
static const char *indirect_negotiated(const struct ref_queue *q, const struct ref_choice *c)
{
	return q->indirect || !c->indirect ? NULL :
		"2.7.5.3.1, 2.8.19: INDIRECT was not negotiated";
}

/* Each element is described once: by a descriptor of its own, or by a table's entry. */
static const char *every_element_described(const struct ref_buffer *b, const struct ref_choice *c)
{
	unsigned int direct = c->indirect ? c->main_count - 1 : c->main_count;
	unsigned int in_table = c->indirect ? c->entry_count : 0;

	if (!c->main_count || (c->indirect && !c->entry_count))
		return "2.7.13.1, 2.8.21.1: nothing describes the buffer";
	return direct + in_table == b->count ? NULL :
		"2.7.13.1, 2.8.21.1: not as many descriptors as elements";
}

int ref_driver_check_buffer(struct ref_driver *d, const struct ref_buffer *b,
			    const struct ref_choice *c)
{
	const char *what = buffer_fault(d->q, b);

	if (!what)
		what = indirect_negotiated(d->q, c);
	if (!what)
		what = every_element_described(b, c);
	return what ? ref_driver_complain(d, what) : 0;
}

int ref_device_check_buffer(struct ref_device *d, const struct ref_buffer *b)
{
	const char *what = buffer_fault(d->q, b);

	return what ? ref_device_complain(d, what) : 0;
}

/* The visible outstanding buffer with that head (2.7.8) or id (2.8.6). */
struct ref_outstanding *ref_driver_find(struct ref_driver *d, uint16_t id)
{
	unsigned int i;

	for (i = 0; i < d->count - d->staged; i++)
		if (d->outstanding[i].id == id)
			return &d->outstanding[i];
	return NULL;
}

void ref_driver_forget(struct ref_driver *d, struct ref_outstanding *o)
{
	unsigned int at = (unsigned int)(o - d->outstanding);

	memmove(o, o + 1, (d->count - at - 1) * sizeof(*o));
	d->count--;
}

/* 2.8.1: the wrap counter changes when the last descriptor in the ring was passed. */
void ref_cursor_advance(const struct ref_queue *q, struct ref_cursor *c, unsigned int slots)
{
	while (slots--) {
		c->slot++;
		if (c->slot == q->size) {
			c->slot = 0;
			c->wrap = !c->wrap;
		}
	}
}

void ref_driver_start(struct ref_driver *d, const struct ref_queue *q, struct ref_memory *mem,
		      const uint32_t *position)
{
	memset(d, 0, sizeof(*d));
	d->q = q;
	d->mem = mem;
	if (q->packed)
		packed_driver_start(d, position);
	else
		split_driver_start(d, position);
}

unsigned int ref_driver_room(const struct ref_driver *d)
{
	unsigned int i, room = 0;

	if (d->q->packed)
		return d->slots_free;
	for (i = 0; i < d->q->size; i++)
		room += !d->desc_busy[i];
	return room;
}

int ref_driver_add(struct ref_driver *d, uint32_t cookie, const struct ref_buffer *b,
		   const struct ref_choice *c)
{
	struct ref_outstanding *o;

	if (ref_driver_check_buffer(d, b, c))
		return -1;
	/* 2.7, 2.8.10.1: at most Queue Size buffers at any given time. */
	if (d->count == d->q->size)
		return ref_driver_complain(d, "2.7, 2.8.10.1: more buffers than the queue size");
	if (d->q->packed ? packed_driver_add(d, b, c) : split_driver_add(d, b, c))
		return -1;
	o = &d->outstanding[d->count++];
	d->staged++;
	o->cookie = cookie;
	o->id = d->q->packed ? c->id : c->main[0];
	o->main_count = c->main_count;
	memcpy(o->main, c->main, c->main_count * sizeof(c->main[0]));
	o->writable_bytes = ref_buffer_bytes(b, true);
	return 0;
}

bool ref_driver_publish(struct ref_driver *d)
{
	bool kick;

	if (!d->staged)
		return false;
	kick = d->q->packed ? packed_driver_publish(d) : split_driver_publish(d);
	d->staged = 0;
	return kick;
}

int ref_driver_get(struct ref_driver *d, struct ref_used *used)
{
	return d->q->packed ? packed_driver_get(d, used) : split_driver_get(d, used);
}

bool ref_driver_arm(struct ref_driver *d, const struct ref_arm *arm)
{
	return d->q->packed ? packed_driver_arm(d, arm) : split_driver_arm(d, arm);
}

void ref_driver_disarm(struct ref_driver *d)
{
	if (d->q->packed)
		packed_driver_disarm(d);
	else
		split_driver_disarm(d);
}

static uint32_t cursors_position(const struct ref_cursor *avail, const struct ref_cursor *used)
{
	return (uint32_t)avail->slot | (uint32_t)avail->wrap << 15 |
	       (uint32_t)used->slot << 16 | (uint32_t)used->wrap << 31;
}

uint32_t ref_driver_position(const struct ref_driver *d)
{
	return d->q->packed ? cursors_position(&d->avail, &d->used) : d->avail_idx;
}

void ref_device_start(struct ref_device *d, const struct ref_queue *q, struct ref_memory *mem,
		      const uint32_t *position)
{
	memset(d, 0, sizeof(*d));
	d->q = q;
	d->mem = mem;
	if (q->packed)
		packed_device_start(d, position);
	else
		split_device_start(d, position);
}

int ref_device_pop(struct ref_device *d, struct ref_request *req)
{
	return d->q->packed ? packed_device_pop(d, req) : split_device_pop(d, req);
}

void ref_device_unpop(struct ref_device *d, const struct ref_request *req)
{
	if (d->q->packed)
		packed_device_unpop(d, req);
	else
		split_device_unpop(d, req);
}

void ref_device_complete(struct ref_device *d, const struct ref_request *req, uint32_t len,
			 bool wrote)
{
	struct ref_done *done = &d->done[d->done_count++];

	done->id = req->id;
	done->main_count = req->main_count;
	done->len = len;
	done->wrote = wrote;
	done->whole = len == ref_buffer_bytes(&req->buffer, true);
}

bool ref_device_publish(struct ref_device *d, const unsigned int *batch)
{
	bool call;

	if (!d->done_count)
		return false;
	call = d->q->packed ? packed_device_publish(d, batch) : split_device_publish(d, batch);
	d->done_count = 0;
	return call;
}

bool ref_device_arm(struct ref_device *d, const struct ref_arm *arm)
{
	return d->q->packed ? packed_device_arm(d, arm) : split_device_arm(d, arm);
}

void ref_device_disarm(struct ref_device *d)
{
	if (d->q->packed)
		packed_device_disarm(d);
	else
		split_device_disarm(d);
}

uint32_t ref_device_position(const struct ref_device *d)
{
	return d->q->packed ? cursors_position(&d->avail, &d->used) : d->last_avail;
}
