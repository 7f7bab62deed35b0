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

#include <virtq/dump.h>

#include "driver.h"

/* ---- Buffers ------------------------------------------------------------ */

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

static void do_ask(struct run *r)
{
	uint32_t position = virtq_driver_position(r->q), size = r->config.ring.size;
	unsigned int lines = 0;

	virtq_driver_dump(r->q, count_line, &lines);
	FUZZ_CHECK(lines > 1 && lines < 200);

	FUZZ_CHECK((virtq_driver_kick_data(r->q, 7) & 0xffff) == 7);
	if (!r->packed) {
		FUZZ_CHECK(position <= UINT16_MAX);
		FUZZ_CHECK(position == r->avail_idx);
	} else {
		FUZZ_CHECK((position & 0x7fff) < size && (position >> 16 & 0x7fff) < size);
	}
}

void do_detach(struct run *r)
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

/* ---- Turns -------------------------------------------------------------- */

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = { .in = { data, size } };

	run_begin(&r);
	while (r.in.left) {
		turn(&r);
		check_always(&r);
	}
	do_detach(&r);
	FUZZ_CHECK(!r.in_flight);
	run_end(&r);
	return 0;
}
