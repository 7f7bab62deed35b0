/* SPDX-License-Identifier: MIT */
/* Sizes and alignments of rings, and what is refused at set-up. */
#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>

#include "base/check.h"
#include "base/error.h"
#include "base/shm.h"
#include "ring/layout.h"

enum ring_layout ring_layout_of(struct virtq_features features)
{
	bool packed = virtq_features_has(features, VIRTIO_F_RING_PACKED);

	if (virtq_features_has(features, VIRTIO_F_IN_ORDER))
		return packed ? RING_PACKED_IN_ORDER : RING_SPLIT_IN_ORDER;
	return packed ? RING_PACKED : RING_SPLIT;
}

struct virtq_features virtq_ring_features(void)
{
	struct virtq_features f = { { 0, 0 } };

	f = virtq_features_with(f, VIRTIO_F_INDIRECT_DESC);
	f = virtq_features_with(f, VIRTIO_F_EVENT_IDX);
	f = virtq_features_with(f, VIRTIO_F_VERSION_1);
	f = virtq_features_with(f, VIRTIO_F_ACCESS_PLATFORM);
	f = virtq_features_with(f, VIRTIO_F_RING_PACKED);
	f = virtq_features_with(f, VIRTIO_F_IN_ORDER);
	f = virtq_features_with(f, VIRTIO_F_ORDER_PLATFORM);
	f = virtq_features_with(f, VIRTIO_F_NOTIFICATION_DATA);
	f = virtq_features_with(f, VIRTIO_F_NOTIF_CONFIG_DATA);
	f = virtq_features_with(f, VIRTIO_F_RING_RESET);
	return f;
}

struct virtq_features virtq_ring_features_usual(void)
{
	struct virtq_features f = virtq_ring_features();

	f = virtq_features_without(f, VIRTIO_F_ACCESS_PLATFORM);
	f = virtq_features_without(f, VIRTIO_F_IN_ORDER);
	f = virtq_features_without(f, VIRTIO_F_ORDER_PLATFORM);
	f = virtq_features_without(f, VIRTIO_F_NOTIFICATION_DATA);
	return virtq_features_without(f, VIRTIO_F_NOTIF_CONFIG_DATA);
}

static bool size_fits(enum ring_layout layout, uint32_t size)
{
	return size >= 1 && size <= VIRTQ_QUEUE_SIZE_MAX &&
	       (LAYOUT_IS_PACKED(layout) || is_power_of_2(size));
}

int virtq_ring_shape(struct virtq_features features, uint32_t size,
		     struct virtq_ring_shape *shape)
{
	enum ring_layout layout = ring_layout_of(features);

	if (!size_fits(layout, size))
		return -EINVAL;
	shape->desc_bytes = sizeof(struct virtq_desc) * size;
	shape->desc_align = VIRTQ_DESC_ALIGN;
	if (LAYOUT_IS_PACKED(layout)) {
		shape->driver_bytes = shape->device_bytes = sizeof(struct pvirtq_event_suppress);
		shape->driver_align = shape->device_align = VIRTQ_PACKED_EVENT_ALIGN;
	} else {
		/* Both with the event word at the end (2.7.6, 2.7.8). */
		shape->driver_bytes = sizeof(struct virtq_avail) + 2 * (size_t)size + 2;
		shape->driver_align = VIRTQ_SPLIT_DRIVER_ALIGN;
		shape->device_bytes = sizeof(struct virtq_used) +
				      sizeof(struct virtq_used_elem) * (size_t)size + 2;
		shape->device_align = VIRTQ_SPLIT_DEVICE_ALIGN;
	}
	/* What the two sides write shares no cache line. */
	shape->driver_offset = align_up(shape->desc_bytes, 64);
	shape->device_offset = align_up(shape->driver_offset + shape->driver_bytes, 64);
	shape->total_bytes = shape->device_offset + shape->device_bytes;
	return 0;
}

static bool aligned(const void *p, size_t alignment)
{
	return p && (uintptr_t)p % alignment == 0;
}

int ring_check(const struct virtq_ring *ring, struct virtq_error *err)
{
	struct virtq_ring_shape shape;

	if (virtq_ring_shape(ring->features, ring->size, &shape))
		return error_set(err, -EINVAL, "no %s ring has %u entries",
				 LAYOUT_IS_PACKED(ring_layout_of(ring->features)) ? "packed" : "split",
				 ring->size);
	if (!aligned(ring->desc, shape.desc_align) ||
	    !aligned(ring->driver, shape.driver_align) ||
	    !aligned(ring->device, shape.device_align))
		return error_set(err, -EINVAL,
				 "a ring area is missing or not aligned to %u, %u and %u bytes",
				 (unsigned int)shape.desc_align, (unsigned int)shape.driver_align,
				 (unsigned int)shape.device_align);
	if (!virtq_features_has(ring->features, VIRTIO_F_VERSION_1))
		return error_set(err, -EINVAL,
				 "rings without VERSION_1, as before VIRTIO 1.0, are not served");
	return 0;
}

uint32_t ring_position_start(struct virtq_features features)
{
	/* Slot 0 on both sides, both wrap counters 1 (2.8.1). */
	return LAYOUT_IS_PACKED(ring_layout_of(features)) ? 0x80008000 : 0;
}

int ring_position_check(struct virtq_features features, uint32_t size, uint32_t position,
			struct virtq_error *err)
{
	if (LAYOUT_IS_PACKED(ring_layout_of(features)) ?
	    (position & 0x7fff) >= size || (position >> 16 & 0x7fff) >= size :
	    position > UINT16_MAX)
		return error_set(err, -EINVAL, "0x%x is no position in this ring of %u entries",
				 position, size);
	return 0;
}

const char *virtq_fault_text(enum virtq_fault_code code)
{
	switch (code) {
	case VIRTQ_FAULT_NONE: return "no fault";
	case VIRTQ_FAULT_AVAIL_IDX: return "available index claims more than the ring holds";
	case VIRTQ_FAULT_HEAD_RANGE: return "head outside the descriptor table";
	case VIRTQ_FAULT_HEAD_BUSY: return "head offered again while in flight";
	case VIRTQ_FAULT_NEXT_RANGE: return "next outside its table";
	case VIRTQ_FAULT_CHAIN_LOOP: return "chain does not end";
	case VIRTQ_FAULT_CHAIN_LENGTH: return "chain has more elements than the device takes";
	case VIRTQ_FAULT_CHAIN_BYTES: return "chain has more than 2^32 bytes";
	case VIRTQ_FAULT_CHAIN_ORDER: return "readable element after a writable one";
	case VIRTQ_FAULT_CHAIN_BROKEN: return "later member of a list is not available";
	case VIRTQ_FAULT_INDIRECT_OFF: return "indirect table although not negotiated";
	case VIRTQ_FAULT_INDIRECT_NESTED: return "indirect table inside an indirect table";
	case VIRTQ_FAULT_INDIRECT_NEXT: return "indirect table in the middle of a list";
	case VIRTQ_FAULT_INDIRECT_LENGTH: return "indirect table of an impossible length";
	case VIRTQ_FAULT_ADDRESS: return "address outside the memory that may be used so";
	case VIRTQ_FAULT_RING_MEMORY: return "ring or buffers in memory that is not there";
	case VIRTQ_FAULT_USED_IDX: return "used index claims more than was in flight";
	case VIRTQ_FAULT_USED_ID: return "used id names no buffer in flight";
	case VIRTQ_FAULT_USED_LENGTH: return "used length exceeds what was writable";
	case VIRTQ_FAULT_ENGINE: return "the engine that turns the queue has failed";
	}
	return "unknown fault";
}
