/* SPDX-License-Identifier: MIT */
/* The device end as text. UNTRUSTED: see dump.h. */
#include "ring/device.h"
#include "ring/dump.h"

/* ---- What is on loan ------------------------------------------------------ */

/* In order: what was popped and has not gone out, whose turn it is first. */
static void show_order(struct dump *o, const struct virtq_device *q)
{
	uint32_t size = q->ring.size, count = size - q->free_slots, at = q->order_first;
	const char *name = LAYOUT_IS_PACKED(q->layout) ? "id" : "head";

	if (!count)
		return;
	dump_add(o, "popped, in the order of their turns:");
	dump_end(o);
	for (uint32_t i = 0; i < count && i < CHAINS_SHOWN; i++) {
		const struct virtq_req *req = q->order[at];

		if (req->sequence)
			dump_add(o, "  %s %u: on loan, writable bytes %u", name, req->id,
				 req->capacity);
		else
			dump_add(o, "  %s %u: pushed, written %u of %u, waits for its turn",
				 name, req->id, req->written, req->capacity);
		dump_end(o);
		at = at + 1 < size ? at + 1 : 0;
	}
	if (count > CHAINS_SHOWN)
		dump_more(o, "  ", count - CHAINS_SHOWN, "requests");
}

/* Out of order: the heads on loan, and their chains as they stand in memory by now. */
static void show_busy(struct dump *o, const struct virtq_device *q)
{
	uint32_t count = 0;

	for (uint32_t head = 0; head < q->ring.size; head++) {
		if (!q->head_busy[head])
			continue;
		if (!count) {
			dump_add(o, "on loan, by head:");
			dump_end(o);
		}
		if (count++ >= CHAINS_SHOWN)
			continue;
		dump_add(o, "  head %u:", head);
		dump_end(o);
		dump_split_chain(o, &q->split.ring, (uint16_t)head);
	}
	if (count > CHAINS_SHOWN)
		dump_more(o, "  ", count - CHAINS_SHOWN, "heads");
}

/* ---- What waits ----------------------------------------------------------- */

static void show_split_waiting(struct dump *o, const struct virtq_device *q, uint32_t ready)
{
	const struct split_ring *ring = &q->split.ring;

	if (!ready)
		return;
	dump_add(o, "waiting to be popped:");
	dump_end(o);
	for (uint32_t i = 0; i < ready && i < CHAINS_SHOWN; i++) {
		uint16_t idx = (uint16_t)(q->split.avail_seen + i);
		uint16_t head = split_device_head(ring, idx);

		dump_add(o, "  index %u: head %u", idx, head);
		if (head >= q->ring.size)
			dump_add(o, ": OUTSIDE the table");
		else if (q->head_busy[head])
			dump_add(o, ": ALREADY on loan");
		dump_end(o);
		if (head < q->ring.size)
			dump_split_chain(o, ring, head);
	}
	if (ready > CHAINS_SHOWN)
		dump_more(o, "  ", ready - CHAINS_SHOWN, "chains");
}

/* How many lists, and slots of these, are available from the cursor on. */
static uint32_t count_lists(const struct virtq_device *q, uint32_t *slots)
{
	struct packed_cursor at = q->packed.avail;
	uint32_t lists = 0;

	for (*slots = 0; *slots < q->ring.size; (*slots)++) {
		uint16_t flags = dump_slot_flags(&q->packed.ring, at.slot);

		if (!packed_is_avail(flags, at.wrap))
			break;
		if (!(flags & VIRTQ_DESC_F_NEXT))
			lists++;
		packed_advance(&at, 1, q->ring.size);
	}
	return lists;
}

/* ---- The whole ------------------------------------------------------------ */

static void show_state(struct dump *o, const struct virtq_device *q)
{
	if (q->fault.code != VIRTQ_FAULT_NONE) {
		dump_fault(o, &q->fault);
	} else {
		dump_add(o, "state: in use");
		dump_end(o);
	}
	if (!q->iotlb)
		return;
	dump_add(o, "translation: by an IOTLB");
	if (q->miss.access)
		dump_add(o, "; missed last: 0x%llx for %s", (unsigned long long)q->miss.addr,
			 q->miss.access & VIRTQ_ACCESS_WRITE ? "writing" : "reading");
	dump_end(o);
}

static void show_requests(struct dump *o, const struct virtq_device *q, uint32_t waiting,
			  uint32_t pushed)
{
	dump_add(o, "requests: %u waiting, %u on loan; pushed and not published: %u%s; "
		 "blocks for long chains: %u", waiting, q->on_loan, pushed,
		 LAYOUT_IS_PACKED(q->layout) ? " (ring entries)" : "", q->free_blocks);
	dump_end(o);
}

static void show_split(struct dump *o, const struct virtq_device *q)
{
	const struct split_device *dev = &q->split;
	const struct split_ring *ring = &dev->ring;
	/* [A] acquire, as in split_device_ready(): the chains shown are not older. */
	uint16_t avail_idx = shm_observe16(&ring->avail->idx, ring->platform);
	uint16_t used_idx = shm_load16(&ring->used->idx);
	uint16_t claim = (uint16_t)(avail_idx - dev->avail_seen);
	uint16_t known = (uint16_t)(dev->avail_known - dev->avail_seen);
	uint32_t ready = claim <= q->ring.size ? claim : 0;
	struct dump_asked asked = {
		.word = shm_load16(ring->event_idx ? split_used_event(ring) : &ring->avail->flags),
		.decided = dev->decided,
		.decided_idx = dev->used_decided,
		/* A batch in order gets its place only when it is published. */
		.staged_idx = (uint16_t)(dev->used_idx + q->batch.count),
	};
	uint16_t own = shm_load16(ring->event_idx ? split_avail_event(ring) : &ring->used->flags);

	show_requests(o, q, ready, (uint16_t)(asked.staged_idx - dev->used_published));
	dump_add(o, "available index: %u in memory, %u popped", avail_idx, dev->avail_seen);
	if (claim > q->ring.size)
		dump_add(o, ": IMPOSSIBLE, claims %u in a ring of %u", claim, q->ring.size);
	else if (known > claim && known <= q->ring.size)
		dump_add(o, ": WENT BACK, it was %u", dev->avail_known);
	dump_end(o);
	dump_add(o, "used index: %u in memory, %u published, %u staged", used_idx,
		 dev->used_published, asked.staged_idx);
	if (used_idx != dev->used_published)
		dump_add(o, ": OVERWRITTEN in memory");
	dump_end(o);
	dump_split_wish(o, &dump_kick, ring->event_idx, own, dev->wish, dev->avail_seen, ready);
	dump_split_asked(o, &dump_call, ring->event_idx, &asked);
	if (LAYOUT_IS_IN_ORDER(q->layout))
		show_order(o, q);
	else
		show_busy(o, q);
	show_split_waiting(o, q, ready);
}

/* Where the driver has been shown slots up to. */
static struct packed_cursor published_cursor(const struct packed_device *dev)
{
	struct packed_cursor at = dev->give.used;

	if (dev->give.staged) {
		/* The lap before this one, if what is staged goes round the end. */
		at.wrap = at.wrap == (at.slot > dev->give.staged_slot);
		at.slot = dev->give.staged_slot;
	}
	return at;
}

static void show_packed(struct dump *o, const struct virtq_device *q)
{
	const struct packed_device *dev = &q->packed;
	const struct packed_ring *ring = &dev->ring;
	struct packed_cursor staged = dev->give.used;
	uint32_t slots, lists = count_lists(q, &slots), popped;
	/* All that has been pushed since, a batch in order that has no place yet included. */
	uint32_t moved = dev->give.moved + q->batch.entries;

	packed_advance(&staged, q->batch.entries, ring->size);
	popped = dump_slots_between(staged, dev->avail, ring->size);
	if (popped > ring->size)
		popped = ring->size;

	show_requests(o, q, lists, moved);
	dump_turn(o, ring, "available", dev->avail, "available",
		  packed_avail_flags(dev->avail.wrap));
	dump_add(o, "used cursor: ");
	dump_add_cursor(o, published_cursor(dev));
	dump_add(o, " published, ");
	dump_add_cursor(o, staged);
	dump_add(o, " staged");
	dump_end(o);
	dump_packed_wish(o, &dump_kick, ring, ring->device_event, dev->wish, dev->avail, slots);
	dump_packed_asked(o, &dump_call, ring, ring->driver_event, dev->decided, staged, moved);
	if (LAYOUT_IS_IN_ORDER(q->layout))
		show_order(o, q);
	if (popped) {
		dump_add(o, "slots popped and not given back:");
		dump_end(o);
		dump_slots(o, ring, staged, popped);
	}
	if (slots) {
		dump_add(o, "slots waiting to be popped:");
		dump_end(o);
		dump_slots(o, ring, dev->avail, slots);
	}
}

void virtq_device_dump(const struct virtq_device *q, void (*line)(void *arg, const char *text),
		       void *arg)
{
	struct dump o = { .line = line, .arg = arg };

	dump_head(&o, "device", &q->ring, q->layout);
	show_state(&o, q);
	if (LAYOUT_IS_PACKED(q->layout))
		show_packed(&o, q);
	else
		show_split(&o, q);
}
