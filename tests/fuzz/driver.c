/* SPDX-License-Identifier: MIT */
/*
 * The driver end with a device that does anything.
 *
 * The input chooses the ring, plays the program that adds and gets buffers, and
 * plays the device with raw bytes: used elements that are right, or wrong in
 * one field, and bytes thrown into the ring. Every buffer comes back exactly
 * once, from get or from detach, with a length that fits. As long as the device
 * has kept to the rules (clean), buffers come back in its order, with its
 * lengths, at once. S-DRV, P-DRV.
 */
#include <errno.h>

#include <virtq/driver.h>
#include <virtq/dump.h>
#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>

#include "input.h"

#define SEGS_MAX 12u
#define BITS (1u << VIRTQ_DESC_F_AVAIL | 1u << VIRTQ_DESC_F_USED)

enum state { FREE, ADDED, PUBLISHED, KEPT };

/* A buffer; its address is its token. */
struct buffer {
	enum state state;
	uint64_t writable_bytes;
	uint32_t elements;
	uint32_t entries;	/* ring entries it took, 0 if that is not known */
	uint32_t written;	/* what the device said, once it is used */
	uint32_t kept_id;	/* what get() called the entries that it keeps */
	/* as the device found it */
	uint16_t id;
	uint16_t slots;
};

/* Buffers in some order. */
struct list {
	struct buffer **at;
	uint32_t count;
};

struct run {
	struct input in;
	struct virtq_driver_config config;
	struct virtq_ring_shape shape;
	uint8_t *desc, *driver_area, *device_area, *tables;
	struct virtq_driver *q;
	void *state;		/* what it lies in, unless it is on the heap */
	bool on_heap;
	struct buffer *buffers;
	uint32_t buffer_count;
	struct list added;	/* not published */
	struct list offered;	/* published, and not used by the device */
	struct list used;	/* used, and not taken back */
	struct list kept;	/* taken back, with their ring entries */
	uint32_t in_flight;
	bool packed, in_order, indirect, event_idx, keeps;
	/* The device has done nothing yet that a device may not do. */
	bool clean;
	/* The device has seen what was published: its copies of ids are right. */
	bool followed;
	bool detached, live;
	int dead;
	struct virtq_fault fault;
	/* Where the device stands. */
	uint16_t avail_idx, used_idx;
	uint32_t avail_slot, used_slot;
	bool avail_wrap, used_wrap;
};

/* ---- Lists -------------------------------------------------------------- */

static void list_put(struct run *r, struct list *l, struct buffer *b)
{
	FUZZ_CHECK(l->count < r->buffer_count);
	l->at[l->count++] = b;
}

static struct buffer *list_take(struct list *l, uint32_t i)
{
	struct buffer *b = l->at[i];

	l->count--;
	memmove(l->at + i, l->at + i + 1, (l->count - i) * sizeof(struct buffer *));
	return b;
}

static void list_drop(struct list *l, const struct buffer *b)
{
	for (uint32_t i = 0; i < l->count; i++) {
		if (l->at[i] == b) {
			list_take(l, i);
			return;
		}
	}
}

static struct buffer *free_buffer(struct run *r)
{
	for (uint32_t i = 0; i < r->buffer_count; i++)
		if (r->buffers[i].state == FREE)
			return &r->buffers[i];
	return NULL;
}

/* ---- The device --------------------------------------------------------- */

/* Note the id of the list that was published next, which a spoilt ring may say wrongly. */
static void follow(struct run *r, struct buffer *b)
{
	uint32_t size = r->config.ring.size;

	if (!r->packed) {
		b->id = (uint16_t)get_le(r->driver_area + 4 + 2 * (r->avail_idx++ % size), 2);
		if (r->followed)
			FUZZ_CHECK(b->id < size);
		return;
	}
	for (b->slots = 0; b->slots < size;) {
		const uint8_t *d = r->desc + 16 * r->avail_slot;
		uint16_t flags = (uint16_t)get_le(d + 14, 2);

		if (r->followed)
			FUZZ_CHECK((flags & BITS) == (1u << (r->avail_wrap ? VIRTQ_DESC_F_AVAIL :
							      VIRTQ_DESC_F_USED)));
		b->id = (uint16_t)get_le(d + 12, 2);
		b->slots++;
		if (++r->avail_slot == size) {
			r->avail_slot = 0;
			r->avail_wrap = !r->avail_wrap;
		}
		if (!(flags & VIRTQ_DESC_F_NEXT))
			break;
	}
}

/* Mark @slots used with one element; wrong in one field if the input wants it. */
static void write_used(struct run *r, uint32_t id, uint32_t len, uint32_t count, uint32_t slots)
{
	uint32_t size = r->config.ring.size;
	uint16_t step = (uint16_t)count;
	uint16_t flags = (uint16_t)((r->used_wrap ? BITS : 0) | (len ? VIRTQ_DESC_F_WRITE : 0));

	if (take_odd(&r->in)) {
		r->clean = false;
		/* The two may stand at different slots from now on. */
		r->followed &= !r->packed;
		switch (take_below(&r->in, 5)) {
		case 0: id = (uint32_t)take_number(&r->in); break;
		case 1: id += (uint32_t)(int32_t)(int8_t)take8(&r->in); break;
		case 2: len = (uint32_t)take_number(&r->in); break;
		case 3: step = (uint16_t)take_number(&r->in); break;
		default: flags ^= take16(&r->in); break;
		}
	}
	if (r->packed) {
		uint8_t *d = r->desc + 16 * r->used_slot;

		put_le(d + 8, len, 4);
		put_le(d + 12, id, 2);
		put_le(d + 14, flags, 2);
		r->used_slot += slots;
		if (r->used_slot >= size) {
			r->used_slot -= size;
			r->used_wrap = !r->used_wrap;
		}
		r->used_slot %= size;
		return;
	}
	put_le(r->device_area + 4 + 8 * (r->used_idx % size), id, 4);
	put_le(r->device_area + 4 + 8 * (r->used_idx % size) + 4, len, 4);
	r->used_idx = (uint16_t)(r->used_idx + step);
	put_le(r->device_area + 2, r->used_idx, 2);
}

/* Use one buffer, any of them; or, in order, the oldest ones at once. */
static void do_use(struct run *r)
{
	uint32_t count = 1, which = 0, slots = 0, len = 0;
	struct buffer *b = NULL;

	if (!r->offered.count)
		return;
	if (r->in_order)
		count += take_below(&r->in, r->offered.count);
	else
		which = take_below(&r->in, r->offered.count);
	for (uint32_t i = 0; i < count; i++) {
		b = list_take(&r->offered, which);
		slots += b->slots;
		b->written = b->writable_bytes > UINT32_MAX ? UINT32_MAX :
							      (uint32_t)b->writable_bytes;
		if (i + 1 == count)
			b->written = len = b->written && take8(&r->in) & 1 ?
					   take_below(&r->in, b->written) : b->written;
		list_put(r, &r->used, b);
	}
	write_used(r, b->id, len, count, slots);
}

/* The device may write all of shared memory, and so it does. */
static void do_scribble(struct run *r)
{
	uint8_t which = take8(&r->in);
	uint8_t *area = which % 3 == 0 ? r->device_area : which % 3 == 1 ? r->desc :
			r->driver_area;
	size_t size = which % 3 == 0 ? r->shape.device_bytes : which % 3 == 1 ?
		      r->shape.desc_bytes : r->shape.driver_bytes;
	size_t at = take_below(&r->in, (uint32_t)size), bytes = 1 + take_below(&r->in, 16);

	/*
	 * A split ring's driver reads back nothing of what it wrote: it goes on
	 * as if nothing had happened, and only the device may go astray.
	 */
	if (r->packed || area == r->device_area)
		r->clean = false;
	if (r->added.count || r->packed)
		r->followed = r->clean = false;
	while (bytes-- && at < size)
		area[at++] = take8(&r->in);
}

/* What tells the driver when to kick; any value is legal. */
static void do_event(struct run *r)
{
	if (r->packed) {
		uint32_t slot = take_below(&r->in, r->config.ring.size + 1);

		put_le(r->device_area, slot | (take8(&r->in) & 1u) << 15, 2);
		put_le(r->device_area + 2, take_below(&r->in, 4), 2);
	} else if (r->event_idx) {
		put_le(r->device_area + 4 + 8 * (size_t)r->config.ring.size, take16(&r->in), 2);
	} else {
		put_le(r->device_area, take8(&r->in) & VIRTQ_USED_F_NO_NOTIFY, 2);
	}
}

/* ---- The driver --------------------------------------------------------- */

static void check_always(struct run *r)
{
	struct virtq_fault fault = virtq_driver_fault(r->q);
	uint32_t room = virtq_driver_room(r->q), size = r->config.ring.size;

	FUZZ_CHECK(virtq_driver_in_flight(r->q) == r->in_flight);
	FUZZ_CHECK(r->detached || room + r->in_flight + r->kept.count <= size);
	FUZZ_CHECK(r->detached || r->in_flight || r->kept.count || room == size);
	if (r->clean)
		FUZZ_CHECK(fault.code == VIRTQ_FAULT_NONE);
	FUZZ_CHECK(fault.code == VIRTQ_FAULT_NONE ||
		   (fault.code >= VIRTQ_FAULT_USED_IDX && fault.code <= VIRTQ_FAULT_USED_LENGTH));
	if (r->fault.code != VIRTQ_FAULT_NONE)
		FUZZ_CHECK(fault.code == r->fault.code && fault.index == r->fault.index &&
			   fault.value == r->fault.value);
	r->fault = fault;
	if (fault.code != VIRTQ_FAULT_NONE)
		r->dead = -EBADMSG;
}

/* Fill in a buffer; false if it is one that add() has to refuse. */
static bool take_buffer(struct run *r, struct virtq_seg *segs, struct virtq_buffer *out,
			struct buffer *b)
{
	uint8_t how = take8(&r->in);
	uint32_t count = 1 + take_below(&r->in, how < 0xc0 ? 3 : SEGS_MAX);
	uint32_t readable = take_below(&r->in, count + 1);
	uint64_t total = 0;
	bool good = true;

	if (how == 0xfe)
		count = readable = 0;
	*b = (struct buffer){ .elements = count };
	for (uint32_t i = 0; i < count; i++) {
		segs[i].addr = take8(&r->in) * 0x1000u;
		segs[i].len = how < 0xf0 ? 1u + take8(&r->in) : (uint32_t)take_number(&r->in);
		good &= segs[i].len != 0;
		total += segs[i].len;
		if (i >= readable)
			b->writable_bytes += segs[i].len;
	}
	*out = (struct virtq_buffer){ .segs = segs, .readable = (uint16_t)readable,
				      .writable = (uint16_t)(count - readable), .token = b };
	return good && count && total <= (uint64_t)1 << 32;
}

/* All shared memory that the driver writes, to see that nothing has changed. */
static uint8_t *snapshot(const struct run *r)
{
	uint8_t *copy;

	if (r->config.ring.size > 64)
		return NULL;
	copy = malloc(r->shape.desc_bytes + r->shape.driver_bytes);
	FUZZ_CHECK(copy);
	memcpy(copy, r->desc, r->shape.desc_bytes);
	memcpy(copy + r->shape.desc_bytes, r->driver_area, r->shape.driver_bytes);
	return copy;
}

static void check_unchanged(const struct run *r, uint8_t *copy)
{
	if (copy) {
		FUZZ_CHECK(!memcmp(copy, r->desc, r->shape.desc_bytes));
		FUZZ_CHECK(!memcmp(copy + r->shape.desc_bytes, r->driver_area,
				   r->shape.driver_bytes));
	}
}

/* How many ring entries a buffer may take: one with a table, or one for each element. */
static bool may_take(const struct run *r, const struct buffer *b, uint32_t entries)
{
	bool table = r->indirect && b->elements > 1 &&
		     b->elements <= r->config.indirect_entries;

	return entries == b->elements || (table && entries == 1);
}

static bool too_long(const struct run *r, const struct buffer *b)
{
	return b->elements > r->config.ring.size ||
	       (r->config.segs_max && b->elements > r->config.segs_max);
}

static void check_refusal(const struct run *r, int rc, const struct buffer *b, bool good,
			  uint32_t room)
{
	if (r->dead) {
		FUZZ_CHECK(rc == r->dead);
		return;
	}
	/* What can never be is told before what cannot be now, or after. */
	FUZZ_CHECK(rc == -EINVAL ? !good : rc == -EMSGSIZE ? too_long(r, b) :
		   rc == -ENOSPC && b->elements > room);
}

static void do_add(struct run *r)
{
	struct virtq_seg segs[3][SEGS_MAX];
	struct virtq_buffer bufs[3];
	struct buffer *chosen[3];
	bool good[3];
	uint32_t wanted = take8(&r->in) < 0xa0 ? 1 : 3, count = 0, taken;
	uint32_t room = virtq_driver_room(r->q);
	uint8_t *before;
	int rc;

	while (count < wanted) {
		struct buffer *b = free_buffer(r);

		if (!b)
			break;
		good[count] = take_buffer(r, segs[count], &bufs[count], b);
		b->state = ADDED;	/* so that the next one is another */
		chosen[count++] = b;
	}
	before = snapshot(r);
	rc = virtq_driver_add(r->q, bufs, count);
	FUZZ_CHECK(rc <= (int)count && (rc > 0 || rc < 0 || !count));
	if (rc < 0)
		check_unchanged(r, before);
	free(before);
	if (rc < 0)
		check_refusal(r, rc, chosen[0], good[0], room);
	for (uint32_t i = 0; i < count; i++) {
		if ((int)i < rc) {
			FUZZ_CHECK(good[i] && !r->dead);
			FUZZ_CHECK(!r->config.segs_max ||
				   chosen[i]->elements <= r->config.segs_max);
			list_put(r, &r->added, chosen[i]);
			r->in_flight++;
		} else {
			chosen[i]->state = FREE;
		}
	}
	taken = room - virtq_driver_room(r->q);
	if (rc <= 0)
		FUZZ_CHECK(!taken);
	else if (rc == 1)
		FUZZ_CHECK(may_take(r, chosen[0], taken));
	if (rc == 1)
		chosen[0]->entries = taken;
}

/* Buffers that the device has not seen come back, youngest first, and their entries are free. */
static void do_unadd(struct run *r)
{
	struct virtq_completion back[4];
	uint32_t max = 1 + take_below(&r->in, 4), room = virtq_driver_room(r->q), freed = 0;
	uint32_t waiting = r->added.count;
	bool known = true;
	int rc = virtq_driver_unadd(r->q, back, max);

	if (r->dead) {
		FUZZ_CHECK(rc == r->dead);
		return;
	}
	FUZZ_CHECK(rc == (int)(max < waiting ? max : waiting));
	for (int i = 0; i < rc; i++) {
		struct buffer *b = list_take(&r->added, r->added.count - 1);

		FUZZ_CHECK(back[i].token == b && !back[i].written);
		b->state = FREE;
		r->in_flight--;
		known &= b->entries != 0;
		freed += b->entries;
	}
	FUZZ_CHECK(!known || virtq_driver_room(r->q) == room + freed);
}

static void do_publish(struct run *r)
{
	int rc = virtq_driver_publish(r->q);

	FUZZ_CHECK(rc == 0 || rc == 1);
	if (r->dead)
		return;
	r->live |= r->added.count > 0;
	while (r->added.count) {
		struct buffer *b = list_take(&r->added, 0);

		b->state = PUBLISHED;
		follow(r, b);
		if (b->entries && r->followed && r->packed)
			FUZZ_CHECK(b->slots == b->entries);
		list_put(r, &r->offered, b);
	}
}

/* A token came back: of a buffer that was away, and for the last time. */
static struct buffer *give_back(struct run *r, void *token)
{
	struct buffer *b = token;

	FUZZ_CHECK(b >= r->buffers && b < r->buffers + r->buffer_count);
	FUZZ_CHECK(((uintptr_t)token - (uintptr_t)r->buffers) % sizeof(*b) == 0);
	FUZZ_CHECK(b->state == ADDED || b->state == PUBLISHED);
	FUZZ_CHECK(r->in_flight--);
	return b;
}

static void do_get(struct run *r)
{
	struct virtq_completion done[16];
	uint32_t max = 1 + take_below(&r->in, take8(&r->in) < 0xc0 ? 2 : 16);
	uint32_t waiting = r->used.count, room = virtq_driver_room(r->q), freed = 0;
	bool known = true;
	int rc = virtq_driver_get(r->q, done, max);

	if (r->dead)
		FUZZ_CHECK(rc == r->dead);
	FUZZ_CHECK(rc <= (int)max && (rc >= 0 || rc == -EBADMSG || rc == -ESHUTDOWN));
	if (r->clean && !r->dead)
		FUZZ_CHECK(rc == (int)(max < waiting ? max : waiting));
	for (int i = 0; i < rc; i++) {
		struct buffer *b = give_back(r, done[i].token);

		/* Not before the device was shown it. */
		FUZZ_CHECK(b->state == PUBLISHED);
		FUZZ_CHECK(done[i].written <= b->writable_bytes);
		if (r->clean) {
			FUZZ_CHECK(r->used.at[0] == b);
			FUZZ_CHECK(done[i].written == b->written);
		}
		list_drop(&r->used, b);
		list_drop(&r->offered, b);
		/* In a packed ring one entry is kept, and no more. */
		if (r->keeps && b->entries && r->packed)
			FUZZ_CHECK((done[i].id != VIRTQ_NOT_KEPT) == (b->entries == 1));
		if (r->keeps && done[i].id != VIRTQ_NOT_KEPT) {
			b->kept_id = done[i].id;
			b->state = KEPT;
			list_put(r, &r->kept, b);
			continue;
		}
		b->state = FREE;
		known &= b->entries != 0;
		freed += b->entries;
	}
	if (rc > 0 && known)
		FUZZ_CHECK(virtq_driver_room(r->q) == room + freed);
}

/* Show what is kept again, or let it go; or something that is not kept. */
static void do_kept(struct run *r)
{
	uint8_t how = take8(&r->in);
	uint32_t room = virtq_driver_room(r->q);
	struct virtq_completion again = { .id = (uint32_t)how << 24 | take8(&r->in) };
	struct buffer *b = NULL;
	int rc;

	if (r->kept.count && how & 1)
		b = list_take(&r->kept, take_below(&r->in, r->kept.count));
	if (b)
		again.id = b->kept_id;
	else
		for (uint32_t i = 0; i < r->kept.count; i++)
			if (r->kept.at[i]->kept_id == again.id)
				return;
	again.token = b;
	if (how & 2) {
		rc = virtq_driver_free(r->q, &again.id, 1);
		FUZZ_CHECK(rc == (b ? 1 : -EINVAL));
		if (!b)
			return;
		FUZZ_CHECK(b->entries ? virtq_driver_room(r->q) == room + b->entries :
					virtq_driver_room(r->q) > room);
		b->state = FREE;
		return;
	}
	rc = virtq_driver_again(r->q, &again, 1);
	FUZZ_CHECK(rc == (r->dead ? r->dead : b ? 1 : -EINVAL));
	FUZZ_CHECK(virtq_driver_room(r->q) == room);
	if (b && r->dead) {
		list_put(r, &r->kept, b);
	} else if (b) {
		b->state = ADDED;
		list_put(r, &r->added, b);
		r->in_flight++;
	}
}

static void do_arm(struct run *r)
{
	uint8_t after = take8(&r->in);
	int rc = after < 0xa0 ? virtq_driver_arm(r->q) : virtq_driver_arm_after(r->q, after & 31);

	FUZZ_CHECK(rc == 0 || rc == 1);
	if (r->clean && !r->detached)
		FUZZ_CHECK(rc == (r->used.count > 0));
}

static void on_line(void *arg, const char *text)
{
	++*(unsigned int *)arg;
	FUZZ_CHECK(strlen(text) <= VIRTQ_DUMP_COLUMNS && !strchr(text, '\n'));
}

static void do_ask(struct run *r)
{
	uint32_t position = virtq_driver_position(r->q), size = r->config.ring.size;
	unsigned int lines = 0;

	virtq_driver_dump(r->q, on_line, &lines);
	FUZZ_CHECK(lines > 1 && lines < 200);

	FUZZ_CHECK((virtq_driver_kick_data(r->q, 7) & 0xffff) == 7);
	if (!r->packed) {
		FUZZ_CHECK(position <= UINT16_MAX);
		FUZZ_CHECK(position == r->avail_idx);
	} else {
		FUZZ_CHECK((position & 0x7fff) < size && (position >> 16 & 0x7fff) < size);
	}
}

/* ---- A queue's beginning and end ---------------------------------------- */

static void open_queue(struct run *r, const uint32_t *position)
{
	uint32_t at = position ? *position : r->packed ? 0x80008000 : 0;

	r->config.position = position;
	if (r->on_heap) {
		FUZZ_CHECK(!virtq_driver_create(&r->q, &r->config, NULL));
	} else {
		FUZZ_CHECK(!posix_memalign(&r->state, 64, virtq_driver_bytes(&r->config)));
		FUZZ_CHECK(!virtq_driver_init(r->state, &r->q, &r->config, NULL));
	}
	FUZZ_CHECK(virtq_driver_ring(r->q)->desc == r->desc);
	FUZZ_CHECK(virtq_driver_room(r->q) == r->config.ring.size);
	r->keeps = virtq_driver_keeps(r->q);
	FUZZ_CHECK(r->keeps == (r->config.keep && !r->in_order));
	while (r->kept.count)
		list_take(&r->kept, 0)->state = FREE;
	FUZZ_CHECK(virtq_driver_position(r->q) == at);
	r->clean = r->followed = true;
	r->detached = r->live = false;
	r->dead = 0;
	r->fault = virtq_driver_fault(r->q);
	r->avail_idx = r->used_idx = (uint16_t)at;
	r->avail_slot = r->used_slot = at & 0x7fff;
	r->avail_wrap = r->used_wrap = at >> 15 & 1;
}

static void close_queue(struct run *r)
{
	if (r->on_heap)
		virtq_driver_destroy(r->q);
	else
		free(r->state);
}

/* Take back what is away. It may not be asked for while the device may have it. */
static void do_detach(struct run *r)
{
	void *token;
	int rc;

	if (r->live && take8(&r->in) & 1) {
		FUZZ_CHECK(virtq_driver_detach(r->q, &token) == -EBUSY);
		return;
	}
	virtq_driver_stop(r->q);
	r->live = false;
	r->detached = true;
	while ((rc = virtq_driver_detach(r->q, &token)) == 1)
		give_back(r, token)->state = FREE;
	FUZZ_CHECK(rc == 0 && !r->in_flight);
	for (uint32_t i = 0; i < r->buffer_count; i++)
		FUZZ_CHECK(r->buffers[i].state == FREE || r->buffers[i].state == KEPT);
	r->added.count = r->offered.count = r->used.count = 0;
	if (!r->dead)
		r->dead = -ESHUTDOWN;
}

/* Make the queue anew: where it stands if it is quiet, or from the beginning. */
static void do_anew(struct run *r)
{
	uint32_t position;
	bool quiet = !r->in_flight && !r->dead && r->clean;

	if (r->in_flight)
		do_detach(r);
	if (r->in_flight)
		return;
	position = virtq_driver_position(r->q);
	close_queue(r);
	r->on_heap = take8(&r->in) & 1;
	open_queue(r, quiet ? &position : NULL);
}

/*
 * A second queue over the same ring, with one thing wrong in its configuration,
 * or nearly. It goes on at a position, so that it leaves the ring as it is.
 */
static void do_refuse(struct run *r)
{
	struct virtq_driver_config c = r->config;
	uint64_t number = take_number(&r->in);
	uint32_t position = r->packed ? 0x80008000 : 0;
	struct virtq_ring_shape shape;
	struct virtq_error err;
	struct virtq_driver *q;
	size_t bytes = 64;
	void *state;
	int rc;

	c.position = &position;
	switch (take_below(&r->in, 7)) {
	case 0: c.ring.size = (uint32_t)number; break;
	case 1: c.ring.features = virtq_features_without(c.ring.features, take8(&r->in)); break;
	case 2: c.ring.desc = number ? (uint8_t *)c.ring.desc + number % 16 : NULL; break;
	case 3: c.ring.device = number ? (uint8_t *)c.ring.device + number % 16 : NULL; break;
	case 4: c.indirect_entries = (uint32_t)number; break;
	case 5: c.indirect = (uint8_t *)c.ring.desc + number % 32; break;
	default: position = take32(&r->in); break;
	}
	if (!virtq_ring_shape(c.ring.features, c.ring.size, &shape))
		bytes = virtq_driver_bytes(&c);
	FUZZ_CHECK(!posix_memalign(&state, 64, bytes));
	rc = virtq_driver_init(state, &q, &c, &err);
	if (!rc)
		FUZZ_CHECK(!virtq_ring_shape(c.ring.features, c.ring.size, &shape) &&
			   virtq_driver_room(q) == c.ring.size);
	else
		FUZZ_CHECK(rc == -EINVAL && err.code == rc && err.text[0]);
	free(state);
}

static void turn(struct run *r)
{
	switch (take_below(&r->in, 23)) {
	case 0: case 1: case 2: case 3: case 4: do_add(r); break;
	case 5: case 6: do_publish(r); break;
	case 7: case 8: case 9: case 10: do_use(r); break;
	case 11: case 12: case 13: do_get(r); break;
	case 14: do_arm(r); break;
	case 15: virtq_driver_disarm(r->q); break;
	case 16: do_event(r); break;
	case 17: do_scribble(r); break;
	case 18: do_ask(r); break;
	case 19: do_refuse(r); break;
	case 20: do_unadd(r); break;
	case 21: do_kept(r); break;
	default: take8(&r->in) & 1 ? do_detach(r) : do_anew(r); break;
	}
}

/* A position, by layout: the same place for both sides. */
static uint32_t take_position(struct run *r)
{
	uint16_t at = (uint16_t)take_number(&r->in);

	if (!r->packed)
		return at;
	at = (uint16_t)((at & 0x7fff) % r->config.ring.size | (at & 0x8000));
	return (uint32_t)at << 16 | at;
}

/* A quiet ring that stands there: the packed ring's slots from there on used in the lap before. */
static void write_position(struct run *r, uint32_t position)
{
	uint16_t at = (uint16_t)position;

	for (uint32_t slot = 0; r->packed && slot < r->config.ring.size; slot++)
		if ((at >> 15) ^ (slot >= (at & 0x7fffu)))
			put_le(r->desc + slot * 16 + 14, BITS, 2);
	if (!r->packed)
		put_le(r->device_area + 2, at, 2);
}

static uint8_t *area(size_t bytes)
{
	uint8_t *p = malloc(bytes);

	FUZZ_CHECK(p);
	memset(p, 0, bytes);
	return p;
}

static void list_make(struct run *r, struct list *l)
{
	l->at = malloc(r->buffer_count * sizeof(struct buffer *));
	FUZZ_CHECK(l->at);
}

static void begin(struct run *r)
{
	uint8_t how = take8(&r->in);
	uint32_t code = take8(&r->in);
	struct virtq_features f = virtq_features_with((struct virtq_features){ { 0, 0 } },
						      VIRTIO_F_VERSION_1);
	uint32_t size, position;

	r->packed = how & 1;
	r->in_order = how & 2;
	r->event_idx = how & 4;
	size = r->packed ? (1 + (code < 0xf0 ? code % 24 : take16(&r->in) % 400u)) :
			   1u << (code < 0xf0 ? code % 6 : code % 10);
	if (r->packed)
		f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	if (r->in_order)
		f = virtq_features_with(f, VIRTIO_F_IN_ORDER);
	if (r->event_idx)
		f = virtq_features_with(f, VIRTIO_F_EVENT_IDX);
	if (how & 8)
		f = virtq_features_with(f, VIRTIO_F_INDIRECT_DESC);
	if (how & 64)
		f = virtq_features_with(f, VIRTIO_F_ORDER_PLATFORM);
	if (how & 32)
		f = virtq_features_with(f, VIRTIO_F_NOTIFICATION_DATA);
	FUZZ_CHECK(!virtq_ring_shape(f, size, &r->shape));
	r->desc = area(r->shape.desc_bytes);
	r->driver_area = area(r->shape.driver_bytes);
	r->device_area = area(r->shape.device_bytes);
	r->config = (struct virtq_driver_config){
		.ring = { f, size, r->desc, r->driver_area, r->device_area },
	};
	if (how & 16) {
		static const uint8_t entries[] = { 4, 1, 2, 12 };

		r->config.indirect_entries = entries[code >> 6];
		r->tables = area((size_t)size * r->config.indirect_entries * 16);
		r->config.indirect = r->tables;
		r->config.indirect_addr = 0x123450000;
		r->config.indirect_from = take8(&r->in) & 3;
	}
	r->config.keep = how & 32;
	r->config.segs_max = take_odd(&r->in) ? 1 + take_below(&r->in, 8) : 0;
	r->indirect = (how & 24) == 24;
	r->buffer_count = size + 3;
	r->buffers = calloc(r->buffer_count, sizeof(*r->buffers));
	FUZZ_CHECK(r->buffers);
	list_make(r, &r->added);
	list_make(r, &r->offered);
	list_make(r, &r->used);
	list_make(r, &r->kept);
	position = how & 128 ? take_position(r) : 0;
	if (how & 128)
		write_position(r, position);
	open_queue(r, how & 128 ? &position : NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = { .in = { data, size } };

	begin(&r);
	while (r.in.left) {
		turn(&r);
		check_always(&r);
	}
	do_detach(&r);
	FUZZ_CHECK(!r.in_flight);
	close_queue(&r);
	free(r.desc);
	free(r.driver_area);
	free(r.device_area);
	free(r.tables);
	free(r.buffers);
	free(r.added.at);
	free(r.offered.at);
	free(r.used.at);
	free(r.kept.at);
	return 0;
}
