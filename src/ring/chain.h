/* SPDX-License-Identifier: MIT */
/*
 * Station 2 of the device end: a descriptor chain becomes a request. Guest
 * addresses die here; past this file there are only pointers.
 *
 * UNTRUSTED: everything read here is the driver's word. Each descriptor is
 * copied once, checked, and only the copy is used.
 */
#ifndef VIRTQ_RING_CHAIN_H
#define VIRTQ_RING_CHAIN_H

#include <string.h>

#include "ring/device.h"

/* A chain being walked. */
struct walk {
	struct virtq_span *spans;	/* where elements go */
	uint32_t count;			/* elements so far */
	uint32_t readable;		/* of those, readable ones */
	uint32_t limit;			/* how many fit in @spans */
	uint64_t readable_bytes;
	uint64_t bytes;
	bool writing;			/* a writable element has been seen */
	uint16_t block;			/* of long chains, or NO_BLOCK */
	uint32_t index;			/* where the chain began, for the fault record */
};

/* More elements than fit inline: move to a block for long chains. */
NEVER_INLINE static int walk_grow(struct virtq_device *q, struct walk *w)
{
	struct virtq_span *block;

	if (w->count >= q->max_segs)
		return device_break(q, VIRTQ_FAULT_CHAIN_LENGTH, w->index, q->max_segs);
	if (!q->free_blocks)
		return -ENOSPC;
	w->block = q->block_stack[--q->free_blocks];
	block = q->blocks + (size_t)w->block * q->max_segs;
	memcpy(block, w->spans, w->count * sizeof(*block));
	w->spans = block;
	w->limit = q->max_segs;
	return 0;
}

/*
 * The first piece of @len bytes at @addr. UNTRUSTED: the driver's address. An
 * IOTLB may not know it yet; then the chain stays where it is until it does.
 */
NEVER_INLINE static int find_piece(struct virtq_device *q, uint64_t addr, uint64_t len,
				   unsigned int access, struct virtq_span *piece,
				   struct mem_hit *hit, uint32_t index)
{
	int rc = q->iotlb ? iotlb_piece(q->iotlb, addr, len, access, piece, hit) :
			    map_piece(q->map, addr, len, access, piece, hit);

	if (LIKELY(!rc))
		return 0;
	if (rc != -EAGAIN)
		return device_break(q, VIRTQ_FAULT_ADDRESS, index, addr);
	q->miss = (struct virtq_miss){ .addr = addr, .access = access };
	return rc;
}

/* An element outside the region used last, or over a border, or of length 0. */
NEVER_INLINE static int walk_add_slow(struct virtq_device *q, struct walk *w, uint64_t addr,
				      uint32_t len, unsigned int access)
{
	/* Nothing to access, so the address is not looked at (S-DEV-029). */
	while (len) {
		struct virtq_span piece;
		/* Looked up first: what is not known yet says nothing of how many pieces it is. */
		int rc = find_piece(q, addr, len, access, &piece, &q->hit, w->index);

		if (!rc && w->count == w->limit)
			rc = walk_grow(q, w);
		if (rc)
			return rc;
		w->spans[w->count++] = piece;
		len -= (uint32_t)piece.len;
		if (len && addr + piece.len < addr)
			return device_break(q, VIRTQ_FAULT_ADDRESS, w->index, addr);
		addr += piece.len;
	}
	return 0;
}

/* Append one element to the request. */
ALWAYS_INLINE int walk_add(struct virtq_device *q, struct walk *w, uint64_t addr, uint32_t len,
			   bool writable, uint32_t desc_index)
{
	unsigned int access = writable ? VIRTQ_ACCESS_WRITE : VIRTQ_ACCESS_READ;
	struct walk slow;
	int rc;

	if (writable != w->writing) {
		if (UNLIKELY(!writable))
			return device_break(q, VIRTQ_FAULT_CHAIN_ORDER, w->index, desc_index);
		w->writing = true;
		w->readable = w->count;
		w->readable_bytes = w->bytes;
	}
	w->bytes += len;
	if (UNLIKELY(w->bytes > MAX_CHAIN_BYTES))
		return device_break(q, VIRTQ_FAULT_CHAIN_BYTES, w->index, w->bytes);
	if (LIKELY(len && w->count < w->limit && hit_covers(&q->hit, addr, len, access))) {
		w->spans[w->count].base = q->hit.host + (addr - q->hit.addr);
		w->spans[w->count].len = len;
		w->count++;
		return 0;
	}
	/* A copy, so that @w itself has no address and can live in registers. */
	slow = *w;
	rc = walk_add_slow(q, &slow, addr, len, access);
	*w = slow;
	return rc;
}

/* ---- Indirect tables ---------------------------------------------------- */

/* Where an indirect table lies, checked: @count entries at @host, or scattered. */
struct walk_table {
	const uint8_t *host;	/* NULL if it crosses a region border */
	uint64_t addr;
	uint32_t count;
	struct mem_hit hit;
};

/* The entry at @slot as two 64-bit words, each read once. */
ALWAYS_INLINE int table_entry(struct virtq_device *q, struct walk_table *table,
			      uint32_t slot, struct virtq_desc *copy, uint32_t index)
{
	size_t off = (size_t)slot * sizeof(*copy), done = 0;

	if (LIKELY(table->host)) {
		/* Tables need not be aligned, so this is bytes; still a single read of each. */
		shm_copy_in(copy, table->host + off, sizeof(*copy));
		return 0;
	}
	while (done < sizeof(*copy)) {
		struct virtq_span piece;
		int rc = find_piece(q, table->addr + off + done, sizeof(*copy) - done,
				    VIRTQ_ACCESS_READ, &piece, &table->hit, index);

		if (rc)
			return rc;
		shm_copy_in((uint8_t *)copy + done, piece.base, piece.len);
		done += piece.len;
	}
	return 0;
}

/* Check the descriptor that refers to a table; its WRITE flag means nothing (2.7.5.3.2). */
NEVER_INLINE static int table_open(struct virtq_device *q, struct walk_table *table,
				   uint64_t addr, uint32_t len, uint32_t index)
{
	struct virtq_span piece;
	uint64_t end;
	int rc;

	if (!len || len % sizeof(struct virtq_desc) ||
	    len / sizeof(struct virtq_desc) > q->max_segs)
		return device_break(q, VIRTQ_FAULT_INDIRECT_LENGTH, index, len);
	if (add_overflows(addr, len - 1, &end))
		return device_break(q, VIRTQ_FAULT_ADDRESS, index, addr);
	table->addr = addr;
	table->count = len / (uint32_t)sizeof(struct virtq_desc);
	rc = find_piece(q, addr, len, VIRTQ_ACCESS_READ, &piece, &table->hit, index);
	table->host = !rc && piece.len == len ? piece.base : NULL;
	return rc;
}

ALWAYS_INLINE int walk_split_table(struct virtq_device *q, struct walk *w, uint64_t addr,
				   uint32_t len)
{
	struct walk_table table;
	uint32_t slot = 0, hops = 0;
	int rc = table_open(q, &table, addr, len, w->index);

	while (!rc) {
		struct virtq_desc raw;
		struct split_desc d;

		if (hops++ == table.count)
			return device_break(q, VIRTQ_FAULT_CHAIN_LOOP, w->index, hops);
		rc = table_entry(q, &table, slot, &raw, w->index);
		if (rc)
			break;
		d = split_desc_load(&raw);
		if (d.flags & VIRTQ_DESC_F_INDIRECT)
			return device_break(q, VIRTQ_FAULT_INDIRECT_NESTED, w->index, d.flags);
		rc = walk_add(q, w, d.addr, d.len, d.flags & VIRTQ_DESC_F_WRITE, slot);
		if (rc || !(d.flags & VIRTQ_DESC_F_NEXT))
			break;
		if (d.next >= table.count)
			return device_break(q, VIRTQ_FAULT_NEXT_RANGE, w->index, d.next);
		slot = d.next;
	}
	return rc;
}

/* Packed tables are read straight through; only WRITE counts in them (2.8.7). */
ALWAYS_INLINE int walk_packed_table(struct virtq_device *q, struct walk *w, uint64_t addr,
				    uint32_t len)
{
	struct walk_table table;
	int rc = table_open(q, &table, addr, len, w->index);

	for (uint32_t slot = 0; !rc && slot < table.count; slot++) {
		union { struct virtq_desc split; struct pvirtq_desc packed; } raw;

		rc = table_entry(q, &table, slot, &raw.split, w->index);
		if (!rc)
			rc = walk_add(q, w, le64_value(raw.packed.addr),
				      le32_value(raw.packed.len),
				      le16_value(raw.packed.flags) & VIRTQ_DESC_F_WRITE, slot);
	}
	return rc;
}

/* ---- The two layouts ---------------------------------------------------- */

/* The chain that begins with @d, a copy of the descriptor at @head. */
ALWAYS_INLINE int walk_split(struct virtq_device *q, struct walk *w, uint16_t head,
			     struct split_desc d)
{
	uint32_t slot = head, hops = 0, size = q->ring.size;

	for (;;) {
		int rc;

		if (UNLIKELY(d.flags & VIRTQ_DESC_F_INDIRECT)) {
			if (!q->indirect_on)
				return device_break(q, VIRTQ_FAULT_INDIRECT_OFF, w->index, d.flags);
			if (d.flags & VIRTQ_DESC_F_NEXT)
				return device_break(q, VIRTQ_FAULT_INDIRECT_NEXT, w->index,
						    d.flags);
			return walk_split_table(q, w, d.addr, d.len);
		}
		rc = walk_add(q, w, d.addr, d.len, d.flags & VIRTQ_DESC_F_WRITE, slot);
		if (UNLIKELY(rc))
			return rc;
		if (!(d.flags & VIRTQ_DESC_F_NEXT))
			return 0;
		if (UNLIKELY(d.next >= size))
			return device_break(q, VIRTQ_FAULT_NEXT_RANGE, w->index, d.next);
		if (UNLIKELY(++hops == size))
			return device_break(q, VIRTQ_FAULT_CHAIN_LOOP, w->index, size + 1);
		slot = d.next;
		d = split_desc_load(&q->split.ring.desc[slot]);
	}
}

/*
 * The list that begins with @d, a copy of the next available descriptor.
 * *@id and *@entries say what to echo and how much to skip.
 */
ALWAYS_INLINE int walk_packed(struct virtq_device *q, struct walk *w, struct packed_desc d,
			      uint16_t *id, uint16_t *entries)
{
	struct packed_cursor at = q->packed.avail;
	uint32_t n = 0, size = q->ring.size;

	for (;;) {
		int rc;

		n++;
		if (UNLIKELY(d.flags & VIRTQ_DESC_F_INDIRECT)) {
			if (!q->indirect_on)
				return device_break(q, VIRTQ_FAULT_INDIRECT_OFF, w->index, d.flags);
			if (n > 1 || d.flags & VIRTQ_DESC_F_NEXT)
				return device_break(q, VIRTQ_FAULT_INDIRECT_NEXT, w->index,
						    d.flags);
			*id = d.id;
			*entries = 1;
			return walk_packed_table(q, w, d.addr, d.len);
		}
		rc = walk_add(q, w, d.addr, d.len, d.flags & VIRTQ_DESC_F_WRITE, at.slot);
		if (UNLIKELY(rc))
			return rc;
		if (!(d.flags & VIRTQ_DESC_F_NEXT)) {
			*id = d.id;
			*entries = (uint16_t)n;
			return 0;
		}
		if (UNLIKELY(n == size))
			return device_break(q, VIRTQ_FAULT_CHAIN_LOOP, w->index, size + 1);
		packed_advance(&at, 1, size);
		/* Ordered by the acquire of the head's flags: a list is published whole. */
		d.flags = shm_load16(&q->packed.ring.desc[at.slot].flags);
		if (UNLIKELY(!packed_is_avail(d.flags, at.wrap)))
			return device_break(q, VIRTQ_FAULT_CHAIN_BROKEN, w->index, d.flags);
		d = packed_desc_load(&q->packed.ring.desc[at.slot], d.flags);
	}
}

#endif
