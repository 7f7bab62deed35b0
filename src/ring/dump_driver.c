/* SPDX-License-Identifier: MIT */
/* The driver end as text. UNTRUSTED: see dump.h. */
#include <virtq/dump.h>

#include "ring/driver.h"
#include "ring/dump.h"

/* A walk over what the device has used and this end has not taken. */
struct used_walk {
	uint32_t buffers;	/* so far */
	uint32_t entries;	/* ring entries of these */
	uint16_t oldest;	/* in order: the first buffer behind these */
	/* The element found last. */
	uint32_t place, id, len, stands_for;
	bool known;		/* it names a buffer that the device has */
};

/* In order: all from the oldest to @last, which is in flight, become part of the walk. */
static void walk_batch(const struct virtq_driver *q, struct used_walk *w, uint16_t last)
{
	uint32_t at = w->oldest, size = q->ring.size;

	w->stands_for = 0;
	while (w->stands_for < size) {
		uint32_t entries = q->chains[at].entries, next;
		bool end = at == last;

		w->stands_for++;
		w->entries += entries;
		next = LAYOUT_IS_PACKED(q->layout) ? at + 1 : at + entries;
		at = next >= size ? next - size : next;
		if (end)
			break;
	}
	w->buffers += w->stands_for;
	w->oldest = (uint16_t)at;
}

/* What is left of a batch that this end has begun to take comes first. */
static struct used_walk walk_begin(const struct virtq_driver *q)
{
	struct used_walk w = { .oldest = q->batch.oldest };

	if (q->batch.open && q->chains[q->batch.last].entries)
		walk_batch(q, &w, q->batch.last);
	return w;
}

/* The next element; @ready: how many buffers the split ring's index says are used. */
static bool walk_next(const struct virtq_driver *q, struct used_walk *w, uint32_t ready)
{
	uint64_t published = q->published - q->taken;

	if (w->buffers >= published)
		return false;
	if (LAYOUT_IS_PACKED(q->layout)) {
		struct packed_cursor at = q->packed.used;

		if (w->entries >= q->ring.size)
			return false;
		packed_advance(&at, w->entries, q->ring.size);
		w->place = at.slot;
		if (!packed_driver_reap(&q->packed.ring, at.slot, packed_used_flags(at.wrap),
					&w->id, &w->len))
			return false;
	} else {
		if (w->buffers >= ready)
			return false;
		w->place = (uint16_t)(q->split.used_seen + w->buffers);
		split_driver_reap(&q->split.ring, w->place, &w->id, &w->len);
	}
	w->known = w->id < q->ring.size && q->chains[w->id].entries &&
		   q->chains[w->id].serial < q->published;
	if (w->known && LAYOUT_IS_IN_ORDER(q->layout)) {
		walk_batch(q, w, (uint16_t)w->id);
		return true;
	}
	w->stands_for = 1;
	w->buffers++;
	w->entries += w->known ? q->chains[w->id].entries : 1;
	return true;
}

static void show_used(struct dump *o, const struct virtq_driver *q, uint32_t ready)
{
	struct used_walk w = walk_begin(q);
	uint32_t shown = 0, more = 0;

	if (w.buffers) {
		dump_add(o, "  %u left of what ends with %s %u, %u bytes written", w.buffers,
		    LAYOUT_IS_PACKED(q->layout) ? "id" : "head", q->batch.last, q->batch.length);
		dump_end(o);
	}
	while (walk_next(q, &w, ready)) {
		if (shown++ >= CHAINS_SHOWN) {
			more += w.stands_for;
			continue;
		}
		if (LAYOUT_IS_PACKED(q->layout))
			dump_add(o, "  slot %u: id %u, %u bytes written", w.place, w.id, w.len);
		else
			dump_add(o, "  index %u: head %u, %u bytes written", w.place, w.id, w.len);
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

/* The buffer in flight that was added first among those not added before @floor. */
static const struct chain *oldest_from(const struct virtq_driver *q, uint64_t floor)
{
	const struct chain *oldest = NULL;

	for (uint32_t id = 0; id < q->ring.size; id++) {
		const struct chain *chain = &q->chains[id];

		if (chain->entries && chain->serial >= floor &&
		    (!oldest || chain->serial < oldest->serial))
			oldest = chain;
	}
	return oldest;
}

/* The descriptors by our own links, with what stands in memory where we wrote them. */
static void show_own_chain(struct dump *o, const struct virtq_driver *q, uint16_t head,
			   uint32_t entries)
{
	uint16_t slot = head;

	for (uint32_t i = 0; i < entries && i < DESCS_SHOWN; i++) {
		struct split_desc d = split_desc_load(&q->split.ring.desc[slot]);
		bool linked = d.flags & VIRTQ_DESC_F_NEXT, more = i + 1 < entries;

		dump_split_desc(o, slot, &d);
		if (more)
			slot = q->split.next[slot];
		if (linked && !more)
			dump_add(o, " (OVERWRITTEN: it was the last)");
		else if (more && (!linked || d.next != slot))
			dump_add(o, " (OVERWRITTEN: next was %u)", slot);
		dump_end(o);
	}
	if (entries > DESCS_SHOWN)
		dump_more(o, "    ", entries - DESCS_SHOWN, "descriptors");
}

static void show_in_flight(struct dump *o, const struct virtq_driver *q)
{
	uint64_t count = q->added - q->taken, floor = 0;
	uint32_t shown = 0;

	for (; shown < count && shown < CHAINS_SHOWN; shown++) {
		const struct chain *chain = oldest_from(q, floor);
		uint16_t id;

		if (!chain)
			break;
		id = (uint16_t)(chain - q->chains);
		dump_add(o, "  %s %u: token 0x%llx, %u ring %s, %u bytes writable%s",
		    LAYOUT_IS_PACKED(q->layout) ? "id" : "head", id,
		    (unsigned long long)(uintptr_t)chain->token, chain->entries,
		    chain->entries == 1 ? "entry" : "entries", chain->writable_bytes,
		    chain->serial >= q->published ? ", staged" : "");
		dump_end(o);
		if (!LAYOUT_IS_PACKED(q->layout))
			show_own_chain(o, q, id, chain->entries);
		floor = chain->serial + 1;
	}
	if (count > shown)
		dump_more(o, "  ", count - shown, "buffers");
}

static void show_driver_state(struct dump *o, const struct virtq_driver *q)
{
	if (q->fault.code != VIRTQ_FAULT_NONE) {
		dump_fault(o, &q->fault);
		return;
	}
	dump_add(o, "state: %s", q->dead ? "detached, to be destroyed or made anew" :
	       q->live ? "in use" : "nothing published since it was made or stopped");
	dump_end(o);
}

/* @used: of those the device has been shown; more than there are counts as none. */
static void show_driver_buffers(struct dump *o, const struct virtq_driver *q, uint64_t used)
{
	uint64_t shown = q->published - q->taken;

	dump_add(o, "buffers: %llu staged, %llu with the device, %llu used and not taken; "
	    "%u of %u ring entries free", (unsigned long long)(q->added - q->published),
	    (unsigned long long)(shown - used), (unsigned long long)used, q->room, q->ring.size);
	dump_end(o);
}

static void show_split_driver(struct dump *o, const struct virtq_driver *q)
{
	const struct split_driver *drv = &q->split;
	const struct split_ring *ring = &drv->ring;
	uint16_t avail_idx = shm_load16(&ring->avail->idx);
	/* [B] acquire, as in split_driver_ready(): the elements shown are not older. */
	uint16_t used_idx = shm_observe16(&ring->used->idx, ring->platform);
	uint16_t ready = (uint16_t)(used_idx - drv->used_seen);
	bool sane = ready <= q->published - q->taken;

	show_driver_buffers(o, q, sane ? ready : 0);
	dump_add(o, "available index: %u in memory, %u published, %u staged", avail_idx,
	    drv->avail_published, drv->avail_idx);
	if (avail_idx != drv->avail_published)
		dump_add(o, ": OVERWRITTEN in memory");
	dump_end(o);
	dump_add(o, "used index: %u in memory, %u taken", used_idx, drv->used_seen);
	if (!sane)
		dump_add(o, ": IMPOSSIBLE, claims %u used of %llu", ready,
		    (unsigned long long)(q->published - q->taken));
	dump_end(o);
	dump_split_asked(o, &kick_at_driver, ring->event_idx,
			 shm_load16(ring->event_idx ? split_avail_event(ring) : &ring->used->flags),
			 drv->decided, drv->avail_decided, drv->avail_idx);
	dump_split_wish(o, &call_at_driver, ring->event_idx,
			shm_load16(ring->event_idx ? split_used_event(ring) : &ring->avail->flags),
			drv->wish, drv->used_seen, sane ? ready : 0);
	if (sane && ready) {
		dump_add(o, "used and not taken:");
		dump_end(o);
		show_used(o, q, ready);
	}
	if (q->added != q->taken) {
		dump_add(o, "in flight, oldest first:");
		dump_end(o);
		show_in_flight(o, q);
	}
}

static void show_packed_driver(struct dump *o, const struct virtq_driver *q)
{
	const struct packed_driver *drv = &q->packed;
	const struct packed_ring *ring = &drv->ring;
	struct used_walk w = walk_begin(q);
	uint32_t entries = q->ring.size - q->room, left = w.buffers;

	while (walk_next(q, &w, 0))
		;
	show_driver_buffers(o, q, w.buffers);
	dump_add(o, "available cursor: ");
	dump_add_cursor(o, packed_cursor_of(packed_driver_next(drv)));
	dump_add(o, " published, ");
	dump_add_cursor(o, drv->fill.avail);
	dump_add(o, " staged");
	dump_end(o);
	dump_add(o, "used cursor: ");
	dump_add_turn(o, ring, drv->used, "used", packed_used_flags(drv->used.wrap));
	dump_packed_asked(o, &kick_at_driver, ring, ring->device_event, drv->decided,
			  drv->fill.avail, drv->fill.moved);
	/* What is left of a batch has had its call. */
	dump_packed_wish(o, &call_at_driver, ring, ring->driver_event, drv->wish, drv->used,
			 w.buffers > left ? w.entries : 0);
	if (w.buffers) {
		dump_add(o, "used and not taken:");
		dump_end(o);
		show_used(o, q, 0);
	}
	if (q->added != q->taken) {
		dump_add(o, "in flight, oldest first:");
		dump_end(o);
		show_in_flight(o, q);
	}
	if (entries) {
		dump_add(o, "their slots, from the used cursor on:");
		dump_end(o);
		dump_slots(o, ring, drv->used, entries);
	}
}

void virtq_driver_dump(const struct virtq_driver *q, void (*line)(void *arg, const char *text),
		       void *arg)
{
	struct dump o = { .line = line, .arg = arg };

	dump_head(&o, "driver", &q->ring, q->layout);
	show_driver_state(&o, q);
	if (LAYOUT_IS_PACKED(q->layout))
		show_packed_driver(&o, q);
	else
		show_split_driver(&o, q);
}
