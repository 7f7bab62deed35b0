/* SPDX-License-Identifier: MIT */
/* The driver end as text. UNTRUSTED: see dump.h. */
#include "ring/driver.h"
#include "ring/dump.h"

/* ---- What the device has used and this end has not taken ------------------ */

struct used_walk {
	uint32_t buffers;	/* so far */
	uint32_t entries;	/* ring entries of these */
	uint16_t oldest;	/* in order: the first buffer behind these */
	/* The element found last. */
	uint32_t place, id, len, stands_for;
	bool known;		/* it names a buffer that the device has */
};

/* Buffers that the device has been shown and this end has not taken, nor detached. */
static uint64_t shown_count(const struct virtq_driver *q)
{
	return q->published > q->taken ? q->published - q->taken : 0;
}

static bool with_device(const struct virtq_driver *q, uint32_t id)
{
	return id < q->ring.size && q->chains[id].serial != NOT_IN_FLIGHT &&
	       q->chains[id].serial < q->published;
}

/* In order: all from the oldest to @last, which is in flight, become part of the walk. */
static void walk_batch(const struct virtq_driver *q, struct used_walk *w, uint32_t last)
{
	uint32_t at = w->oldest, size = q->ring.size;
	bool more = true;

	for (w->stands_for = 0; more && w->stands_for < size; w->stands_for++) {
		uint32_t entries = q->chains[at].entries;

		more = at != last;
		w->entries += entries;
		at += LAYOUT_IS_PACKED(q->layout) ? 1 : entries;
		if (at >= size)
			at -= size;
	}
	w->buffers += w->stands_for;
	w->oldest = (uint16_t)at;
}

/* What is left of a batch that this end has begun to take comes first. */
static struct used_walk walk_begin(const struct virtq_driver *q)
{
	struct used_walk w = { .oldest = q->batch.oldest };

	if (q->batch.open && with_device(q, q->batch.last))
		walk_batch(q, &w, q->batch.last);
	return w;
}

/* Copies of the next element's id and length, if there is one. UNTRUSTED. */
static bool walk_load(const struct virtq_driver *q, struct used_walk *w, uint32_t ready)
{
	const struct packed_ring *ring = &q->packed.ring;
	struct packed_cursor at = q->packed.used;
	uint16_t flags;

	if (!LAYOUT_IS_PACKED(q->layout)) {
		if (w->buffers >= ready)
			return false;
		w->place = (uint16_t)(q->split.used_seen + w->buffers);
		split_driver_reap(&q->split.ring, w->place, &w->id, &w->len);
		return true;
	}
	if (w->entries >= ring->size)
		return false;
	packed_advance(&at, w->entries, ring->size);
	flags = dump_slot_flags(ring, at.slot);
	if (!packed_is_used(flags, at.wrap))
		return false;
	w->place = at.slot;
	w->id = shm_load16(&ring->desc[at.slot].id);
	w->len = flags & VIRTQ_DESC_F_WRITE ? shm_load32(&ring->desc[at.slot].len) : 0;
	return true;
}

/* The next element; @ready: how many buffers the split ring's index says are used. */
static bool walk_next(const struct virtq_driver *q, struct used_walk *w, uint32_t ready)
{
	if (w->buffers >= shown_count(q) || !walk_load(q, w, ready))
		return false;
	w->known = with_device(q, w->id);
	if (w->known && LAYOUT_IS_IN_ORDER(q->layout)) {
		walk_batch(q, w, w->id);
		return true;
	}
	w->stands_for = 1;
	w->buffers++;
	w->entries += w->known ? q->chains[w->id].entries : 1;
	return true;
}

static void show_used(struct dump *o, const struct virtq_driver *q, uint32_t ready)
{
	const char *place = LAYOUT_IS_PACKED(q->layout) ? "slot" : "index";
	const char *name = LAYOUT_IS_PACKED(q->layout) ? "id" : "head";
	struct used_walk w = walk_begin(q);
	uint32_t shown = 0, more = 0;

	dump_add(o, "used and not taken:");
	dump_end(o);
	if (w.buffers) {
		dump_add(o, "  up to %s %u, written %u: taken in part, buffers left: %u", name,
			 q->batch.last, q->batch.length, w.buffers);
		dump_end(o);
	}
	while (walk_next(q, &w, ready)) {
		if (shown++ >= CHAINS_SHOWN) {
			more += w.stands_for;
			continue;
		}
		dump_add(o, "  %s %u: %s %u, written %u", place, w.place, name, w.id, w.len);
		if (!w.known)
			dump_add(o, ": NOT with the device");
		else if (w.len > q->chains[w.id].writable_bytes)
			dump_add(o, ": MORE than its %u", q->chains[w.id].writable_bytes);
		if (w.stands_for > 1)
			dump_add(o, ", stands for %u buffers", w.stands_for);
		dump_end(o);
	}
	if (more)
		dump_more(o, "  ", more, "buffers");
}

/* ---- What is in flight, by this end's own records -------------------------- */

/* The buffer that was added first among those not added before @floor. */
static const struct chain *oldest_from(const struct virtq_driver *q, uint64_t floor)
{
	const struct chain *oldest = NULL;

	for (uint32_t id = 0; id < q->ring.size; id++) {
		const struct chain *chain = &q->chains[id];

		if (chain->serial != NOT_IN_FLIGHT && chain->serial >= floor &&
		    (!oldest || chain->serial < oldest->serial))
			oldest = chain;
	}
	return oldest;
}

/* The descriptors by our own links, with what stands in memory where we wrote them. */
static void show_own_chain(struct dump *o, const struct virtq_driver *q, uint32_t head,
			   uint32_t entries)
{
	uint32_t slot = head, size = q->ring.size;

	for (uint32_t i = 0; i < entries && i < DESCS_SHOWN; i++) {
		struct split_desc d = split_desc_load(&q->split.ring.desc[slot]);
		bool linked = d.flags & VIRTQ_DESC_F_NEXT, more = i + 1 < entries;

		dump_add_split_desc(o, slot, &d);
		if (more)
			slot = LAYOUT_IS_IN_ORDER(q->layout) ? (slot + 1) % size :
							       q->split.next[slot];
		if (linked && !more)
			dump_add(o, " (OVERWRITTEN, was the last)");
		else if (more && (!linked || d.next != slot))
			dump_add(o, " (OVERWRITTEN, was next %u)", slot);
		dump_end(o);
	}
	if (entries > DESCS_SHOWN)
		dump_more(o, "    ", entries - DESCS_SHOWN, "descriptors");
}

static void show_in_flight(struct dump *o, const struct virtq_driver *q)
{
	uint64_t count = q->added - q->taken, floor = 0;
	uint32_t shown = 0;

	if (!count)
		return;
	dump_add(o, "in flight, oldest first:");
	dump_end(o);
	for (; shown < count && shown < CHAINS_SHOWN; shown++) {
		const struct chain *chain = oldest_from(q, floor);
		uint32_t id;

		if (!chain)
			break;
		id = (uint32_t)(chain - q->chains);
		dump_add(o, "  %s %u: token 0x%llx, ring entries %u, writable bytes %u%s",
			 LAYOUT_IS_PACKED(q->layout) ? "id" : "head", id,
			 (unsigned long long)(uintptr_t)chain->token, chain->entries,
			 chain->writable_bytes, chain->serial >= q->published ? ", staged" : "");
		dump_end(o);
		if (!LAYOUT_IS_PACKED(q->layout))
			show_own_chain(o, q, id, chain->entries);
		floor = chain->serial + 1;
	}
	if (count > shown)
		dump_more(o, "  ", count - shown, "buffers");
}

/* ---- The whole ------------------------------------------------------------ */

static void show_state(struct dump *o, const struct virtq_driver *q)
{
	if (q->fault.code != VIRTQ_FAULT_NONE) {
		dump_fault(o, &q->fault);
		return;
	}
	dump_add(o, "state: %s", q->dead ? "detached, to be destroyed or made anew" :
		 q->live ? "in use" : "nothing published since it was made or stopped");
	dump_end(o);
}

/* @used: of those the device has been shown. */
static void show_buffers(struct dump *o, const struct virtq_driver *q, uint64_t used)
{
	uint64_t shown = shown_count(q), staged = q->added - q->taken - shown;

	if (used > shown)
		used = shown;
	dump_add(o, "buffers: %llu staged, %llu with the device, %llu used and not taken; "
		 "%u of %u ring entries free", (unsigned long long)staged,
		 (unsigned long long)(shown - used), (unsigned long long)used, q->room,
		 q->ring.size);
	dump_end(o);
}

static void show_split(struct dump *o, const struct virtq_driver *q)
{
	const struct split_driver *drv = &q->split;
	const struct split_ring *ring = &drv->ring;
	uint16_t avail_idx = shm_load16(&ring->avail->idx);
	/* [B] acquire, as in split_driver_ready(): the elements shown are not older. */
	uint16_t used_idx = shm_observe16(&ring->used->idx, ring->platform);
	uint16_t claim = (uint16_t)(used_idx - drv->used_seen);
	uint64_t shown = shown_count(q);
	uint32_t ready = claim <= shown ? claim : 0;
	struct dump_asked asked = {
		.word = shm_load16(ring->event_idx ? split_avail_event(ring) : &ring->used->flags),
		.decided = drv->decided,
		.decided_idx = drv->avail_decided,
		.staged_idx = drv->avail_idx,
	};
	uint16_t own = shm_load16(ring->event_idx ? split_used_event(ring) : &ring->avail->flags);

	show_buffers(o, q, ready);
	dump_add(o, "available index: %u in memory, %u published, %u staged", avail_idx,
		 drv->avail_published, drv->avail_idx);
	if (avail_idx != drv->avail_published)
		dump_add(o, ": OVERWRITTEN in memory");
	dump_end(o);
	dump_add(o, "used index: %u in memory, %u taken", used_idx, drv->used_seen);
	if (claim > shown)
		dump_add(o, ": IMPOSSIBLE, claims %u used of %llu", claim,
			 (unsigned long long)shown);
	dump_end(o);
	dump_split_asked(o, &dump_kick, ring->event_idx, &asked);
	dump_split_wish(o, &dump_call, ring->event_idx, own, drv->wish, drv->used_seen, ready);
	if (ready)
		show_used(o, q, ready);
	show_in_flight(o, q);
}

static void show_packed(struct dump *o, const struct virtq_driver *q)
{
	const struct packed_driver *drv = &q->packed;
	const struct packed_ring *ring = &drv->ring;
	struct used_walk w = walk_begin(q);
	uint32_t entries = q->ring.size - q->room, left = w.buffers;

	while (walk_next(q, &w, 0))
		;
	show_buffers(o, q, w.buffers);
	dump_add(o, "available cursor: ");
	dump_add_cursor(o, packed_cursor_of(packed_driver_next(drv)));
	dump_add(o, " published, ");
	dump_add_cursor(o, drv->fill.avail);
	dump_add(o, " staged");
	dump_end(o);
	dump_turn(o, ring, "used", drv->used, "used", packed_used_flags(drv->used.wrap));
	dump_packed_asked(o, &dump_kick, ring, ring->device_event, drv->decided, drv->fill.avail,
			  drv->fill.moved);
	/* What is left of a batch has had its call. */
	dump_packed_wish(o, &dump_call, ring, ring->driver_event, drv->wish, drv->used,
			 w.buffers > left ? w.entries : 0);
	if (w.buffers)
		show_used(o, q, 0);
	show_in_flight(o, q);
	if (entries) {
		dump_add(o, "slots from the used cursor on:");
		dump_end(o);
		dump_slots(o, ring, drv->used, entries);
	}
}

void virtq_driver_dump(const struct virtq_driver *q, void (*line)(void *arg, const char *text),
		       void *arg)
{
	struct dump o = { .line = line, .arg = arg };

	dump_head(&o, "driver", &q->ring, q->layout);
	show_state(&o, q);
	if (LAYOUT_IS_PACKED(q->layout))
		show_packed(&o, q);
	else
		show_split(&o, q);
}
