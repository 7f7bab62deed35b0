/* SPDX-License-Identifier: MIT */
/*
 * What both ends of a queue say about its ring: where it lies, how large it
 * is, which features shape it, and what went wrong with it.
 */
#ifndef VIRTQ_RING_H
#define VIRTQ_RING_H

#include <stddef.h>
#include <stdint.h>

#include <virtq/api.h>
#include <virtq/error.h>
#include <virtq/features.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct virtq_ring - one ring in memory
 * @features: as negotiated; RING_PACKED, EVENT_IDX, INDIRECT_DESC and the
 *            like shape the ring, all other bits are ignored
 * @size:     entries: split a power of two 1..32768, packed any 1..32768
 * @desc:     Descriptor Area (split: descriptor table, packed: descriptor ring)
 * @driver:   Driver Area (split: available ring, packed: driver event suppression)
 * @device:   Device Area (split: used ring, packed: device event suppression)
 *
 * Spec: VIRTIO 1.4, 2.6, 2.7, 2.8. Since: 0.1
 */
struct virtq_ring {
	struct virtq_features features;
	uint32_t size;
	void *desc;
	void *driver;
	void *device;
};

/**
 * struct virtq_ring_shape - how much memory a ring takes, in bytes
 *
 * The three areas may lie anywhere, each aligned to @..._align. A program that
 * wants them in one piece allocates @total_bytes, aligned to @desc_align, puts
 * the Descriptor Area first and the others at the given offsets.
 */
struct virtq_ring_shape {
	size_t desc_bytes, driver_bytes, device_bytes;
	size_t desc_align, driver_align, device_align;
	size_t driver_offset, device_offset, total_bytes;
};

/**
 * virtq_ring_shape - how much memory a ring takes
 * @features: as negotiated
 * @size:     entries
 * @shape:    receives the answer
 *
 * Return: 0, or -EINVAL if no ring of that layout has that size.
 * Thread: any. Spec: VIRTIO 1.4, 2.7, 2.8.10.1. Since: 0.1
 */
VIRTQ_API int virtq_ring_shape(struct virtq_features features, uint32_t size,
			       struct virtq_ring_shape *shape);

/**
 * virtq_ring_features - the feature bits that the rings of this library serve
 *
 * A driver accepts at most these; a device may offer all of them where its
 * transport carries them.
 */
VIRTQ_API struct virtq_features virtq_ring_features(void);

/**
 * virtq_ring_features_usual - those that a device in software does well to offer
 *
 * Without ACCESS_PLATFORM, for which somebody has to translate; IN_ORDER, which
 * makes a fast request wait for a slow one in front of it; ORDER_PLATFORM, which
 * is for hardware; and notification data, which eventfds do not carry.
 */
VIRTQ_API struct virtq_features virtq_ring_features_usual(void);

/* What a peer did to a ring that no conforming peer does. */
enum virtq_fault_code {
	VIRTQ_FAULT_NONE = 0,
	/* seen by the device end */
	VIRTQ_FAULT_AVAIL_IDX,		/* claims more than the ring holds; value: the index */
	VIRTQ_FAULT_HEAD_RANGE,		/* head not below the size; value: the head */
	VIRTQ_FAULT_HEAD_BUSY,		/* head offered again while in flight; value: the head */
	VIRTQ_FAULT_NEXT_RANGE,		/* next outside its table; value: next */
	VIRTQ_FAULT_CHAIN_LOOP,		/* more descriptors than the table holds; value: how many */
	VIRTQ_FAULT_CHAIN_LENGTH,	/* more elements than the device takes; value: its limit */
	VIRTQ_FAULT_CHAIN_BYTES,	/* more than 2^32 bytes; value: bytes */
	VIRTQ_FAULT_CHAIN_ORDER,	/* readable after writable; value: descriptor index */
	VIRTQ_FAULT_CHAIN_BROKEN,	/* a later member is not available; value: its flags */
	VIRTQ_FAULT_INDIRECT_OFF,	/* INDIRECT was not negotiated; value: flags */
	VIRTQ_FAULT_INDIRECT_NESTED,	/* INDIRECT inside a table; value: flags */
	VIRTQ_FAULT_INDIRECT_NEXT,	/* INDIRECT together with NEXT; value: flags */
	VIRTQ_FAULT_INDIRECT_LENGTH,	/* 0, no multiple of 16, or over the limit; value: bytes */
	VIRTQ_FAULT_ADDRESS,		/* no memory, or denied; value: first such byte */
	VIRTQ_FAULT_RING_MEMORY,	/* the peer took memory away; value: 0 */
	/* seen by the driver end */
	VIRTQ_FAULT_USED_IDX,		/* more used than was published; value: the index */
	VIRTQ_FAULT_USED_ID,		/* unknown, repeated, or mid-chain; value: the id */
	VIRTQ_FAULT_USED_LENGTH,	/* longer than what was writable; value: the length */
	/* no fault of the peer's */
	VIRTQ_FAULT_ENGINE,		/* the device's engine has failed; value: errno */
};

/**
 * struct virtq_fault - why a queue is broken
 * @code:  what the peer did
 * @index: ring position at which it was seen (free-running or slot, by layout)
 * @value: the offending value, see enum virtq_fault_code
 *
 * Since: 0.1
 */
struct virtq_fault {
	enum virtq_fault_code code;
	uint32_t index;
	uint64_t value;
};

/** virtq_fault_text - a sentence part for a person: "next outside its table". */
VIRTQ_API const char *virtq_fault_text(enum virtq_fault_code code);

#ifdef __cplusplus
}
#endif

#endif
