/* SPDX-License-Identifier: MIT */
/* What both ends of a queue have to say as text. UNTRUSTED: see dump.h. */
#include "ring/dump.h"

#include <stdarg.h>

#include <virtq/spec/virtio.h>

/* ---- Lines -------------------------------------------------------------- */

static void put_char(struct dump *o, char c)
{
	if (o->len < VIRTQ_DUMP_COLUMNS)
		o->text[o->len++] = c;
}

static void put_number(struct dump *o, uint64_t value, unsigned int base)
{
	char digits[20];
	unsigned int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (n)
		put_char(o, digits[--n]);
}

void dump_add(struct dump *o, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	for (; *fmt; fmt++) {
		bool wide = false;

		if (*fmt != '%') {
			put_char(o, *fmt);
			continue;
		}
		while (*++fmt == 'l')
			wide = true;
		if (*fmt == 's') {
			for (const char *s = va_arg(args, const char *); *s; s++)
				put_char(o, *s);
		} else {
			uint64_t v = wide ? va_arg(args, unsigned long long) :
					    va_arg(args, unsigned int);

			put_number(o, v, *fmt == 'x' ? 16 : 10);
		}
	}
	va_end(args);
}

void dump_add_cursor(struct dump *o, struct packed_cursor at)
{
	dump_add(o, "slot %u wrap %u", at.slot, (unsigned int)at.wrap);
}

void dump_end(struct dump *o)
{
	o->text[o->len] = '\0';
	o->line(o->arg, o->text);
	o->len = 0;
}

void dump_more(struct dump *o, const char *indent, uint64_t count, const char *what)
{
	dump_add(o, "%s... %llu more %s", indent, (unsigned long long)count, what);
	dump_end(o);
}

/* ---- What both ends begin with ------------------------------------------ */

static const struct {
	unsigned int bit;
	const char *name;
} shaping[] = {
	{ VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC" },
	{ VIRTIO_F_EVENT_IDX, "EVENT_IDX" },
	{ VIRTIO_F_ACCESS_PLATFORM, "ACCESS_PLATFORM" },
	{ VIRTIO_F_RING_PACKED, "RING_PACKED" },
	{ VIRTIO_F_IN_ORDER, "IN_ORDER" },
	{ VIRTIO_F_ORDER_PLATFORM, "ORDER_PLATFORM" },
	{ VIRTIO_F_NOTIFICATION_DATA, "NOTIFICATION_DATA" },
};

void dump_head(struct dump *o, const char *end, const struct virtq_ring *ring,
	       enum ring_layout layout)
{
	bool any = false;

	dump_add(o, "%s end, %s ring%s, %u %s", end, LAYOUT_IS_PACKED(layout) ? "packed" : "split",
		 LAYOUT_IS_IN_ORDER(layout) ? " in order" : "", ring->size,
		 ring->size == 1 ? "entry" : "entries");
	dump_end(o);
	dump_add(o, "features:");
	for (size_t i = 0; i < sizeof(shaping) / sizeof(shaping[0]); i++) {
		if (!virtq_features_has(ring->features, shaping[i].bit))
			continue;
		dump_add(o, " %s", shaping[i].name);
		any = true;
	}
	if (!any)
		dump_add(o, " none that shape the ring");
	dump_end(o);
	dump_add(o, "memory: descriptors 0x%llx, driver area 0x%llx, device area 0x%llx",
		 (unsigned long long)(uintptr_t)ring->desc,
		 (unsigned long long)(uintptr_t)ring->driver,
		 (unsigned long long)(uintptr_t)ring->device);
	dump_end(o);
}

void dump_fault(struct dump *o, const struct virtq_fault *fault)
{
	dump_add(o, "state: BROKEN: %s, at %u, value 0x%llx", virtq_fault_text(fault->code),
		 fault->index, (unsigned long long)fault->value);
	/* Indices and lengths rather than addresses. */
	if (fault->value <= UINT32_MAX)
		dump_add(o, " = %llu", (unsigned long long)fault->value);
	dump_end(o);
}

/* ---- Who wants to be notified of what ----------------------------------- */

const struct dump_words dump_kick = {
	.one = "kick", .asker = "device", .event = "avail_event", .flags = "used flags",
};
const struct dump_words dump_call = {
	.one = "call", .asker = "driver", .event = "used_event", .flags = "available flags",
};

/* Behind by less than half a round of the index, rather than ahead by more. */
static bool gone_by(uint16_t ahead)
{
	return ahead >= 0x8000;
}

/* How an index that is asked for fares against what is decided and what is staged. */
static void add_split_outlook(struct dump *o, const struct dump_words *w,
			      const struct dump_asked *asked)
{
	uint16_t ahead = (uint16_t)(asked->word - asked->decided_idx);
	uint16_t staged = (uint16_t)(asked->staged_idx - asked->decided_idx);

	if (!asked->decided)
		dump_add(o, "the first publish %ss in any case", w->one);
	else if (staged && ahead < staged)
		dump_add(o, "next publish, to %u, %ss", asked->staged_idx, w->one);
	else if (staged)
		dump_add(o, "next publish, to %u, does not %s", asked->staged_idx, w->one);
	else if (gone_by(ahead))
		dump_add(o, "passed or parked, none until it asks again");
	else
		dump_add(o, "a publish to %u or beyond %ss", (uint16_t)(asked->word + 1), w->one);
}

void dump_split_asked(struct dump *o, const struct dump_words *w, bool event_idx,
		      const struct dump_asked *asked)
{
	dump_add(o, "%ss: the %s wants ", w->one, w->asker);
	if (!event_idx) {
		dump_add(o, "%s (%s 0x%x)", asked->word & 1 ? "none" : "one for every publish",
			 w->flags, asked->word);
	} else {
		dump_add(o, "one when the index passes %s %u: ", w->event, asked->word);
		add_split_outlook(o, w, asked);
	}
	dump_end(o);
}

void dump_split_wish(struct dump *o, const struct dump_words *w, bool event_idx, uint16_t word,
		     enum event_wish wish, uint16_t seen, uint32_t waiting)
{
	const char *field = event_idx ? w->event : w->flags;
	uint16_t ahead = (uint16_t)(word - seen);

	dump_add(o, "%ss: ", w->one);
	if (wish == WISH_UNKNOWN)
		dump_add(o, "this end has not asked yet; %s of before: %u", field, word);
	else if (!event_idx && (word & 1) != (wish == WISH_DISARMED))
		dump_add(o, "this end asked for %s, but %s are OVERWRITTEN: 0x%x",
			 wish == WISH_DISARMED ? "none" : "some", field, word);
	else if (wish == WISH_DISARMED)
		dump_add(o, "this end asked for none (%s %u)", field, word);
	else if (!event_idx)
		dump_add(o, "this end asked for one at every publish (%s 0x%x)%s", field, word,
			 waiting ? ": one was due" : "");
	else
		dump_add(o, "this end asked for one when the index passes %s %u: %s", field, word,
			 gone_by(ahead) ? "gone by, none until it asks again" :
			 ahead < waiting ? "it has, one was due" : "it has not yet");
	dump_end(o);
}

uint32_t dump_slots_between(struct packed_cursor from, struct packed_cursor to, uint32_t size)
{
	return (to.slot + (to.wrap != from.wrap ? size : 0) + 2 * size - from.slot) % (2 * size);
}

/* An event structure, both halves read at once. UNTRUSTED. */
struct event_word {
	struct packed_cursor at;
	uint16_t flags;
};

static struct event_word load_event(const struct pvirtq_event_suppress *event)
{
	uint32_t word = shm_load32((const virtq_le32 *)(const void *)event);

	return (struct event_word){ packed_cursor_of((uint16_t)word), (uint16_t)(word >> 16) };
}

/* Does it name a place? Other values but "disable" ask for every one. */
static bool names_place(const struct event_word *event, const struct packed_ring *ring)
{
	return event->flags == RING_EVENT_FLAGS_DESC && ring->event_idx &&
	       event->at.slot < ring->size;
}

static void add_event(struct dump *o, const struct event_word *event)
{
	dump_add(o, "event flags %u", event->flags);
	if (event->flags > RING_EVENT_FLAGS_DISABLE) {
		dump_add(o, ", ");
		dump_add_cursor(o, event->at);
	}
}

/* By the rules of packed_event_wanted(). */
static void add_packed_outlook(struct dump *o, const struct dump_words *w, uint32_t size,
			       const struct event_word *event, bool decided,
			       struct packed_cursor now, uint32_t moved)
{
	/* Counted from where the last decision was taken. */
	uint32_t ahead = moved > size ? 0 :
			 (dump_slots_between(now, event->at, size) + moved) % (2 * size);

	if (!decided) {
		dump_add(o, "the first publish %ss in any case", w->one);
	} else if (moved) {
		dump_add(o, "next publish, to ");
		dump_add_cursor(o, now);
		dump_add(o, ahead < moved ? ", %ss" : ", does not %s", w->one);
	} else if (ahead >= size) {
		dump_add(o, "passed or parked, none until it asks again");
	} else {
		dump_add(o, "a publish of %u or more entries %ss", ahead + 1, w->one);
	}
}

void dump_packed_asked(struct dump *o, const struct dump_words *w, const struct packed_ring *ring,
		       const struct pvirtq_event_suppress *other, bool decided,
		       struct packed_cursor now, uint32_t moved)
{
	struct event_word event = load_event(other);

	dump_add(o, "%ss: the %s wants ", w->one, w->asker);
	if (names_place(&event, ring)) {
		dump_add(o, "one when the cursor passes ");
		dump_add_cursor(o, event.at);
		dump_add(o, ": ");
		add_packed_outlook(o, w, ring->size, &event, decided, now, moved);
	} else {
		dump_add(o, "%s (", event.flags == RING_EVENT_FLAGS_DISABLE ?
			 "none" : "one for every publish");
		add_event(o, &event);
		dump_add(o, "%s)", event.flags > RING_EVENT_FLAGS_DISABLE ?
			 ", which means nothing here" : "");
	}
	dump_end(o);
}

void dump_packed_wish(struct dump *o, const struct dump_words *w, const struct packed_ring *ring,
		      const struct pvirtq_event_suppress *own, enum event_wish wish,
		      struct packed_cursor seen, uint32_t waiting)
{
	struct event_word event = load_event(own);
	bool place = names_place(&event, ring);
	/* Armed by the clearing of a new ring, it asks for every one, with EVENT_IDX too. */
	bool ours = wish == WISH_DISARMED ? event.flags == RING_EVENT_FLAGS_DISABLE :
					    event.flags == RING_EVENT_FLAGS_ENABLE || place;

	dump_add(o, "%ss: ", w->one);
	if (wish == WISH_UNKNOWN) {
		dump_add(o, "this end has not asked yet; of before: ");
		add_event(o, &event);
	} else if (!ours) {
		dump_add(o, "this end asked for %s, but that is OVERWRITTEN: ",
			 wish == WISH_DISARMED ? "none" : "some");
		add_event(o, &event);
	} else if (place) {
		uint32_t ahead = dump_slots_between(seen, event.at, ring->size);

		dump_add(o, "this end asked for one when the cursor passes ");
		dump_add_cursor(o, event.at);
		dump_add(o, ": %s", ahead >= ring->size ? "gone by, none until it asks again" :
			 ahead < waiting ? "it has, one was due" : "it has not yet");
	} else {
		dump_add(o, "this end asked for %s (event flags %u)%s",
			 wish == WISH_DISARMED ? "none" : "one at every publish", event.flags,
			 wish == WISH_ARMED && waiting ? ": one was due" : "");
	}
	dump_end(o);
}

/* ---- Descriptors -------------------------------------------------------- */

/* Address, length and flags by name; nothing about what comes next. */
static void add_desc(struct dump *o, uint64_t addr, uint32_t len, uint16_t flags, uint16_t known)
{
	dump_add(o, "0x%llx len %u %s", (unsigned long long)addr, len,
		 flags & VIRTQ_DESC_F_INDIRECT ? "indirect table" :
		 flags & VIRTQ_DESC_F_WRITE ? "writable" : "readable");
	if (flags & ~known)
		dump_add(o, " (flags 0x%x)", flags);
}

void dump_add_split_desc(struct dump *o, uint32_t slot, const struct split_desc *d)
{
	dump_add(o, "    desc %u: ", slot);
	add_desc(o, d->addr, d->len, d->flags,
		 VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT);
	if (d->flags & VIRTQ_DESC_F_NEXT)
		dump_add(o, " next %u", d->next);
}

/* Where a chain goes on, or -1. UNTRUSTED. */
static int follow(const struct split_desc *d, uint32_t size)
{
	bool on = d->flags & VIRTQ_DESC_F_NEXT && !(d->flags & VIRTQ_DESC_F_INDIRECT);

	return on && d->next < size ? d->next : -1;
}

void dump_split_chain(struct dump *o, const struct split_ring *ring, uint16_t head)
{
	uint32_t hops = 0, size = ring->mask + 1;
	struct split_desc d;
	int slot = head;

	do {
		d = split_desc_load(&ring->desc[slot]);
		if (hops++ < DESCS_SHOWN) {
			dump_add_split_desc(o, (uint32_t)slot, &d);
			dump_end(o);
		}
		slot = follow(&d, size);
	} while (slot >= 0 && hops < size);

	if (hops > DESCS_SHOWN)
		dump_more(o, "    ", hops - DESCS_SHOWN, "descriptors");
	if (!(d.flags & VIRTQ_DESC_F_NEXT))
		return;
	if (slot >= 0)
		dump_add(o, "    (it DOES NOT END)");
	else if (d.flags & VIRTQ_DESC_F_INDIRECT)
		dump_add(o, "    (NOTHING MAY FOLLOW an indirect table)");
	else
		dump_add(o, "    (next %u is OUTSIDE the table)", d.next);
	dump_end(o);
}

uint16_t dump_slot_flags(const struct packed_ring *ring, uint32_t slot)
{
	/* [A] and [B] acquire, as both ends do it: id, address and length are not older. */
	return shm_observe16(&ring->desc[slot].flags, ring->platform);
}

void dump_turn(struct dump *o, const struct packed_ring *ring, const char *cursor,
	       struct packed_cursor at, const char *wanted, uint16_t turn)
{
	uint16_t flags = dump_slot_flags(ring, at.slot);

	dump_add(o, "%s cursor: ", cursor);
	dump_add_cursor(o, at);
	dump_add(o, "; %s there is AVAIL %u USED %u, found AVAIL %u USED %u (flags 0x%x)", wanted,
		 !!(turn & PACKED_AVAIL), !!(turn & PACKED_USED), !!(flags & PACKED_AVAIL),
		 !!(flags & PACKED_USED), flags);
	dump_end(o);
}

static void show_slot(struct dump *o, const struct packed_ring *ring, struct packed_cursor at)
{
	uint16_t flags = dump_slot_flags(ring, at.slot);
	struct packed_desc d = packed_desc_load(&ring->desc[at.slot], flags);
	uint16_t known = PACKED_AVAIL | PACKED_USED | VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE |
			 VIRTQ_DESC_F_INDIRECT;

	dump_add(o, "  slot %u: ", at.slot);
	if (packed_is_used(flags, at.wrap)) {
		dump_add(o, "used, id %u, written %u", d.id,
			 flags & VIRTQ_DESC_F_WRITE ? d.len : 0);
		if (flags & ~known)
			dump_add(o, " (flags 0x%x)", flags);
	} else if (packed_is_avail(flags, at.wrap)) {
		dump_add(o, "available, id %u, ", d.id);
		add_desc(o, d.addr, d.len, flags, known);
		if (flags & VIRTQ_DESC_F_NEXT)
			dump_add(o, " next");
	} else {
		/* What else the flags say is old: a head that is held back has none yet. */
		dump_add(o, "flags 0x%x of the lap before, id %u, 0x%llx len %u", flags, d.id,
			 (unsigned long long)d.addr, d.len);
	}
	dump_end(o);
}

void dump_slots(struct dump *o, const struct packed_ring *ring, struct packed_cursor at,
		uint32_t count)
{
	uint32_t shown = count < SLOTS_SHOWN ? count : SLOTS_SHOWN;

	for (uint32_t i = 0; i < shown; i++) {
		show_slot(o, ring, at);
		packed_advance(&at, 1, ring->size);
	}
	if (count > shown)
		dump_more(o, "  ", count - shown, "slots");
}
