/* SPDX-License-Identifier: MIT */
/* The device end as text. UNTRUSTED: see dump.h. */
#include <virtq/dump.h>

#include "ring/device.h"
#include "ring/dump.h"

static void show_device_state(struct dump *o, const struct virtq_device *q)
{
	if (q->fault.code != VIRTQ_FAULT_NONE) {
		dump_fault(o, &q->fault);
	} else {
		dump_add(o, "state: in use");
		dump_end(o);
	}
	if (q->iotlb) {
		dump_add(o, "translation: by an IOTLB");
		if (q->miss.access)
			dump_add(o, "; missed last: 0x%llx for %s", (unsigned long long)q->miss.addr,
			    q->miss.access & VIRTQ_ACCESS_WRITE ? "writing" : "reading");
		dump_end(o);
	}
}

static void show_device_requests(struct dump *o, const struct virtq_device *q, uint32_t waiting,
				 uint32_t pushed, const char *unit)
{
	dump_add(o, "requests: %u waiting, %u on loan; %u %s pushed and not published; ", waiting,
	    q->on_loan, pushed, unit);
	dump_add(o, "blocks for long chains: %u free", q->free_blocks);
	dump_end(o);
}

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
			dump_add(o, "  %s %u: on loan, %u bytes writable", name, req->id, req->capacity);
		else
			dump_add(o, "  %s %u: pushed, %u of %u bytes written, kept back until its turn",
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

static void show_split_waiting(struct dump *o, const struct virtq_device *q, uint16_t ready)
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

static void show_split_device(struct dump *o, const struct virtq_device *q)
{
	const struct split_device *dev = &q->split;
	const struct split_ring *ring = &dev->ring;
	/* [A] acquire, as in split_device_ready(): the chains shown are not older. */
	uint16_t avail_idx = shm_observe16(&ring->avail->idx, ring->platform);
	uint16_t ready = (uint16_t)(avail_idx - dev->avail_seen);
	uint16_t used_idx = shm_load16(&ring->used->idx);
	/* A batch in order has its place only when it is published. */
	uint16_t staged_idx = (uint16_t)(dev->used_idx + q->batch.count);
	bool sane = ready <= q->ring.size;

	show_device_requests(o, q, sane ? ready : 0, (uint16_t)(staged_idx - dev->used_published),
			     "requests");
	dump_add(o, "available index: %u in memory, %u popped", avail_idx, dev->avail_seen);
	if (!sane)
		dump_add(o, ": IMPOSSIBLE, claims %u in a ring of %u", ready, q->ring.size);
	else if ((uint16_t)(dev->avail_known - dev->avail_seen) > ready)
		dump_add(o, ": it was %u and WENT BACK", dev->avail_known);
	dump_end(o);
	dump_add(o, "used index: %u in memory, %u published, %u staged", used_idx, dev->used_published,
	    staged_idx);
	if (used_idx != dev->used_published)
		dump_add(o, ": OVERWRITTEN in memory");
	dump_end(o);
	dump_split_wish(o, &kick_at_device, ring->event_idx,
			shm_load16(ring->event_idx ? split_avail_event(ring) : &ring->used->flags),
			dev->wish, dev->avail_seen, sane ? ready : 0);
	dump_split_asked(o, &call_at_device, ring->event_idx,
			 shm_load16(ring->event_idx ? split_used_event(ring) : &ring->avail->flags),
			 dev->decided, dev->used_decided, staged_idx);
	if (LAYOUT_IS_IN_ORDER(q->layout))
		show_order(o, q);
	else
		show_busy(o, q);
	show_split_waiting(o, q, sane ? ready : 0);
}

/* How many lists, and slots of these, are available from the cursor on. */
static uint32_t count_lists(const struct virtq_device *q, uint32_t *slots)
{
	struct packed_cursor at = q->packed.avail;
	uint32_t lists = 0;

	for (*slots = 0; *slots < q->ring.size; (*slots)++) {
		uint16_t flags = packed_device_flags(&q->packed.ring, at.slot);

		if (!packed_is_avail(flags, at.wrap))
			break;
		if (!(flags & VIRTQ_DESC_F_NEXT))
			lists++;
		packed_advance(&at, 1, q->ring.size);
	}
	return lists;
}

static void show_packed_device(struct dump *o, const struct virtq_device *q)
{
	const struct packed_device *dev = &q->packed;
	const struct packed_ring *ring = &dev->ring;
	struct packed_cursor staged = dev->give.used, published = staged;
	uint32_t slots, lists = count_lists(q, &slots), taken;
	/* All that has been pushed since, batches in order that have no place yet included. */
	uint32_t moved = dev->give.moved + q->batch.entries;

	packed_advance(&staged, q->batch.entries, ring->size);
	if (dev->give.staged) {
		published.wrap = published.wrap == (published.slot > dev->give.staged_slot);
		published.slot = dev->give.staged_slot;
	}
	taken = dump_slots_between(staged, dev->avail, ring->size);
	if (taken > ring->size)
		taken = ring->size;

	show_device_requests(o, q, lists, moved, "ring entries");
	dump_add(o, "available cursor: ");
	dump_add_turn(o, ring, dev->avail, "available", packed_avail_flags(dev->avail.wrap));
	dump_add(o, "used cursor: ");
	dump_add_cursor(o, published);
	dump_add(o, " published, ");
	dump_add_cursor(o, staged);
	dump_add(o, " staged");
	dump_end(o);
	dump_packed_wish(o, &kick_at_device, ring, ring->device_event, dev->wish, dev->avail,
			 slots);
	dump_packed_asked(o, &call_at_device, ring, ring->driver_event, dev->decided, staged,
			  moved);
	if (LAYOUT_IS_IN_ORDER(q->layout))
		show_order(o, q);
	if (taken) {
		dump_add(o, "slots popped and not given back:");
		dump_end(o);
		dump_slots(o, ring, staged, taken);
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
	show_device_state(&o, q);
	if (LAYOUT_IS_PACKED(q->layout))
		show_packed_device(&o, q);
	else
		show_split_device(&o, q);
}
