/* SPDX-License-Identifier: MIT */
/*
 * Both ends of a queue as text for people. Runs without a C library, changes
 * nothing, and stays inside the ring's areas.
 *
 * UNTRUSTED: everything read from those areas. It is displayed, and used as an
 * index only after a check; every loop has a bound of this end's own.
 */
#include <stdarg.h>

#include <virtq/dump.h>
#include <virtq/spec/virtio.h>

#include "ring/device.h"
#include "ring/driver.h"

/* How much of a long list is shown. */
#define CHAINS_SHOWN 8u
#define DESCS_SHOWN 8u
#define SLOTS_SHOWN 16u

/* ---- Lines -------------------------------------------------------------- */

struct dump {
	void (*line)(void *arg, const char *text);
	void *arg;
	uint32_t len;
	char text[VIRTQ_DUMP_COLUMNS + 1];
};

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

/* Append to the line: %s, %u and %x, the last two with ll as well. */
__attribute__((format(printf, 2, 3)))
static void dump_add(struct dump *o, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	for (; *fmt; fmt++) {
		unsigned int longs = 0;

		if (*fmt != '%') {
			put_char(o, *fmt);
			continue;
		}
		while (*++fmt == 'l')
			longs++;
		if (*fmt == 's') {
			for (const char *s = va_arg(args, const char *); *s; s++)
				put_char(o, *s);
		} else {
			uint64_t v = longs ? va_arg(args, unsigned long long) :
					     va_arg(args, unsigned int);

			put_number(o, v, *fmt == 'x' ? 16 : 10);
		}
	}
	va_end(args);
}

static void dump_end(struct dump *o)
{
	o->text[o->len] = '\0';
	o->line(o->arg, o->text);
	o->len = 0;
}

static void dump_add_cursor(struct dump *o, struct packed_cursor at)
{
	dump_add(o, "slot %u wrap %u", at.slot, (unsigned int)at.wrap);
}

static void dump_more(struct dump *o, const char *indent, uint64_t count, const char *what)
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

static void dump_head(struct dump *o, const char *end, const struct virtq_ring *ring,
		      enum ring_layout layout)
{
	bool any = false;

	dump_add(o, "%s end, %s ring%s of %u entries", end,
	    LAYOUT_IS_PACKED(layout) ? "packed" : "split",
	    LAYOUT_IS_IN_ORDER(layout) ? " in order" : "", ring->size);
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
	    (unsigned long long)(uintptr_t)ring->desc, (unsigned long long)(uintptr_t)ring->driver,
	    (unsigned long long)(uintptr_t)ring->device);
	dump_end(o);
}

static void dump_fault(struct dump *o, const struct virtq_fault *fault)
{
	dump_add(o, "state: BROKEN: %s, at %u, value %llu (0x%llx)", virtq_fault_text(fault->code),
	    fault->index, (unsigned long long)fault->value, (unsigned long long)fault->value);
	dump_end(o);
}

/* ---- Who wants to be notified of what ----------------------------------- */

/* The words for one direction of notifications. */
struct dump_words {
	const char *one;	/* "kick" */
	const char *peer;	/* at the other end, who decides or asks */
	const char *index;	/* whose moving on gives one */
	const char *event;	/* fields of the split ring */
	const char *flags;
};

static const struct dump_words kick_at_driver = {
	"kick", "device", "available", "avail_event", "used flags",
};
static const struct dump_words call_at_driver = {
	"call", "device", "used", "used_event", "available flags",
};
static const struct dump_words kick_at_device = {
	"kick", "driver", "available", "avail_event", "used flags",
};
static const struct dump_words call_at_device = {
	"call", "driver", "used", "used_event", "available flags",
};

/* Behind by less than half a round of the index, rather than ahead by more. */
static bool gone_by(uint16_t ahead)
{
	return ahead >= 0x8000;
}

/* What the peer asked this end for, and what the next publish will make of it. */
static void dump_split_asked(struct dump *o, const struct dump_words *w, bool event_idx,
			     uint16_t word, bool decided, uint16_t decided_idx, uint16_t staged_idx)
{
	uint16_t ahead = (uint16_t)(word - decided_idx);
	uint16_t staged = (uint16_t)(staged_idx - decided_idx);

	dump_add(o, "%ss: the %s wants ", w->one, w->peer);
	if (!event_idx) {
		dump_add(o, "%s (%s 0x%x)", word & 1 ? "none" : "one for every publish", w->flags, word);
	} else {
		dump_add(o, "one when the %s index passes %u (%s): ", w->index, word, w->event);
		if (!decided)
			dump_add(o, "the first publish %ss in any case", w->one);
		else if (staged)
			dump_add(o, "the next publish, to %u, %s%s", staged_idx,
			    ahead < staged ? w->one : "does not ", ahead < staged ? "s" : w->one);
		else if (gone_by(ahead))
			dump_add(o, "it has, the %s was due; none until it asks again", w->one);
		else
			dump_add(o, "a publish to %u or beyond %ss", (uint16_t)(word + 1), w->one);
	}
	dump_end(o);
}

/* What this end asked the peer for: @word is what stands in memory. */
static void dump_split_wish(struct dump *o, const struct dump_words *w, bool event_idx,
			    uint16_t word, enum event_wish wish, uint16_t seen, uint32_t waiting)
{
	const char *field = event_idx ? w->event : w->flags;
	uint16_t ahead = (uint16_t)(word - seen);

	dump_add(o, "%ss: ", w->one);
	if (wish == WISH_UNKNOWN) {
		dump_add(o, "this end has not asked yet; %s of before: %u", field, word);
	} else if (wish == WISH_DISARMED) {
		dump_add(o, "this end asked for none (%s %u)", field, word);
		if (!event_idx && !(word & 1))
			dump_add(o, ", but that has been overwritten");
	} else if (!event_idx) {
		dump_add(o, "this end asked for one at every publish (%s 0x%x)", field, word);
		if (word & 1)
			dump_add(o, ", but that has been overwritten");
		else if (waiting)
			dump_add(o, ": one was due");
	} else {
		dump_add(o, "this end asked for one when the %s index passes %u (%s): ", w->index, word,
		    field);
		if (gone_by(ahead))
			dump_add(o, "gone by, none until it asks again");
		else
			dump_add(o, ahead < waiting ? "it has, one was due" : "it has not yet");
	}
	dump_end(o);
}

/* From one place in the packed ring to another, in slots, going round two laps. */
static uint32_t dump_slots_between(struct packed_cursor from, struct packed_cursor to, uint32_t size)
{
	return (to.slot + (to.wrap != from.wrap ? size : 0) + 2 * size - from.slot) % (2 * size);
}

/* An event structure, both halves read at once. */
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

/*
 * As dump_split_asked(), by the rules of packed_event_wanted(): @moved slots,
 * those before @now, are staged.
 */
static void dump_packed_asked(struct dump *o, const struct dump_words *w,
			      const struct packed_ring *ring,
			      const struct pvirtq_event_suppress *peer, bool decided,
			      struct packed_cursor now, uint32_t moved)
{
	struct event_word event = load_event(peer);
	uint32_t ahead;
	bool yes;

	dump_add(o, "%ss: the %s wants ", w->one, w->peer);
	if (event.flags == RING_EVENT_FLAGS_DISABLE) {
		dump_add(o, "none (event flags 1)");
		dump_end(o);
		return;
	}
	if (!names_place(&event, ring)) {
		dump_add(o, "one for every publish (event flags %u", event.flags);
		if (event.flags != RING_EVENT_FLAGS_ENABLE) {
			dump_add(o, ", ");
			dump_add_cursor(o, event.at);
			dump_add(o, ", means nothing here");
		}
		dump_add(o, ")");
		dump_end(o);
		return;
	}
	dump_add(o, "one when the %s cursor passes ", w->index);
	dump_add_cursor(o, event.at);
	dump_add(o, ": ");
	/* From where the last decision was taken. */
	ahead = moved > ring->size ? 0 :
		(dump_slots_between(now, event.at, ring->size) + moved) % (2 * ring->size);
	yes = ahead < moved;
	if (!decided) {
		dump_add(o, "the first publish %ss in any case", w->one);
	} else if (moved) {
		dump_add(o, "the next publish, to ");
		dump_add_cursor(o, now);
		dump_add(o, ", %s%s", yes ? w->one : "does not ", yes ? "s" : w->one);
	} else if (ahead >= ring->size) {
		dump_add(o, "it has, the %s was due; none until it asks again", w->one);
	} else {
		dump_add(o, "a publish of %u entries or more %ss", ahead + 1, w->one);
	}
	dump_end(o);
}

/* As dump_split_wish(): this end stands at @seen, and @waiting slots from there are its turn. */
static void dump_packed_wish(struct dump *o, const struct dump_words *w,
			     const struct packed_ring *ring,
			     const struct pvirtq_event_suppress *own, enum event_wish wish,
			     struct packed_cursor seen, uint32_t waiting)
{
	struct event_word event = load_event(own);
	uint16_t written = ring->event_idx ? RING_EVENT_FLAGS_DESC : RING_EVENT_FLAGS_ENABLE;
	/* A new ring is cleared, and nobody has armed it. */
	bool mine = wish == WISH_DISARMED ? event.flags == RING_EVENT_FLAGS_DISABLE :
		    event.flags == written || event.flags == RING_EVENT_FLAGS_ENABLE;

	dump_add(o, "%ss: ", w->one);
	if (wish == WISH_UNKNOWN) {
		dump_add(o, "this end has not asked yet; event flags of before: %u, ", event.flags);
		dump_add_cursor(o, event.at);
	} else if (!mine) {
		dump_add(o, "this end asked for %s, but that has been overwritten: event flags %u, ",
		    wish == WISH_DISARMED ? "none" : "some", event.flags);
		dump_add_cursor(o, event.at);
	} else if (wish == WISH_DISARMED) {
		dump_add(o, "this end asked for none (event flags 1)");
	} else if (!names_place(&event, ring)) {
		dump_add(o, "this end asked for one at every publish (event flags %u)%s", event.flags,
		    waiting ? ": one was due" : "");
	} else {
		uint32_t ahead = dump_slots_between(seen, event.at, ring->size);

		dump_add(o, "this end asked for one when the %s cursor passes ", w->index);
		dump_add_cursor(o, event.at);
		dump_add(o, ": %s", ahead >= ring->size ? "gone by, none until it asks again" :
			       ahead < waiting ? "it has, one was due" : "it has not yet");
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

static void dump_split_desc(struct dump *o, uint32_t slot, const struct split_desc *d)
{
	dump_add(o, "    desc %u: ", slot);
	add_desc(o, d->addr, d->len, d->flags,
		 VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT);
	if (d->flags & VIRTQ_DESC_F_NEXT)
		dump_add(o, " next %u", d->next);
}

/* The chain at @head, below the size, as it stands in memory. */
static void dump_split_chain(struct dump *o, const struct split_ring *ring, uint16_t head)
{
	uint32_t slot = head, hops = 0, size = ring->mask + 1;
	struct split_desc d;

	for (;;) {
		d = split_desc_load(&ring->desc[slot]);
		if (hops++ < DESCS_SHOWN) {
			dump_split_desc(o, slot, &d);
			dump_end(o);
		}
		if (!(d.flags & VIRTQ_DESC_F_NEXT) || d.flags & VIRTQ_DESC_F_INDIRECT ||
		    d.next >= size || hops == size)
			break;
		slot = d.next;
	}
	if (hops > DESCS_SHOWN)
		dump_more(o, "    ", hops - DESCS_SHOWN, "descriptors");
	if (!(d.flags & VIRTQ_DESC_F_NEXT))
		return;
	if (d.flags & VIRTQ_DESC_F_INDIRECT)
		dump_add(o, "    (nothing may follow an indirect table)");
	else if (d.next >= size)
		dump_add(o, "    (next %u is outside the table)", d.next);
	else
		dump_add(o, "    (it does not end)");
	dump_end(o);
}

/* One descriptor of a packed ring, as somebody sees it who is in that lap. */
static void show_slot(struct dump *o, const struct packed_ring *ring, struct packed_cursor at)
{
	uint16_t flags = packed_device_flags(ring, at.slot);
	struct packed_desc d = packed_desc_load(&ring->desc[at.slot], flags);
	uint16_t known = PACKED_AVAIL | PACKED_USED | VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE |
			 VIRTQ_DESC_F_INDIRECT;

	dump_add(o, "  slot %u: ", at.slot);
	if (packed_is_used(flags, at.wrap)) {
		dump_add(o, "used, id %u", d.id);
		if (flags & VIRTQ_DESC_F_WRITE)
			dump_add(o, ", %u bytes written", d.len);
		else
			dump_add(o, ", nothing written");
		if (flags & ~known)
			dump_add(o, " (flags 0x%x)", flags);
	} else {
		dump_add(o, "%s, id %u, ", packed_is_avail(flags, at.wrap) ? "available" :
		    "of the lap before", d.id);
		add_desc(o, d.addr, d.len, flags, known);
		if (flags & VIRTQ_DESC_F_NEXT)
			dump_add(o, " next");
	}
	dump_end(o);
}

static void dump_slots(struct dump *o, const struct packed_ring *ring, struct packed_cursor at,
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

/* Whose turn the flags at a cursor say it is, beside whose it is waited for. */
static void dump_add_turn(struct dump *o, const struct packed_ring *ring, struct packed_cursor at,
		     const char *wanted, uint16_t turn)
{
	uint16_t flags = packed_device_flags(ring, at.slot);

	dump_add_cursor(o, at);
	dump_add(o, "; %s there is AVAIL %u USED %u, found AVAIL %u USED %u (flags 0x%x)", wanted,
	    !!(turn & PACKED_AVAIL), !!(turn & PACKED_USED), !!(flags & PACKED_AVAIL),
	    !!(flags & PACKED_USED), flags);
	dump_end(o);
}
