/* SPDX-License-Identifier: MIT */
/* The two ring layouts in memory (VIRTIO 1.4, 2.7 and 2.8). No code. */
#ifndef VIRTQ_SPEC_RING_H
#define VIRTQ_SPEC_RING_H

#include <virtq/spec/types.h>

#define VIRTQ_QUEUE_SIZE_MAX		32768

/* Split: descriptor flags (2.7.5). */
#define VIRTQ_DESC_F_NEXT		1
#define VIRTQ_DESC_F_WRITE		2
#define VIRTQ_DESC_F_INDIRECT		4

/* Split: avail->flags and used->flags, without EVENT_IDX (2.7.6, 2.7.8). */
#define VIRTQ_AVAIL_F_NO_INTERRUPT	1
#define VIRTQ_USED_F_NO_NOTIFY		1

/* Alignment of the areas in bytes (2.7.1, 2.8.10.1). */
#define VIRTQ_DESC_ALIGN		16
#define VIRTQ_SPLIT_DRIVER_ALIGN	2
#define VIRTQ_SPLIT_DEVICE_ALIGN	4
#define VIRTQ_PACKED_EVENT_ALIGN	4

struct virtq_desc {
	virtq_le64 addr;
	virtq_le32 len;
	virtq_le16 flags;
	virtq_le16 next;
};

/* Followed by le16 ring[size] and le16 used_event. */
struct virtq_avail {
	virtq_le16 flags;
	virtq_le16 idx;
};

struct virtq_used_elem {
	virtq_le32 id;
	virtq_le32 len;
};

/* Followed by struct virtq_used_elem ring[size] and le16 avail_event. */
struct virtq_used {
	virtq_le16 flags;
	virtq_le16 idx;
};

/* Packed: descriptor flags beside NEXT, WRITE and INDIRECT, as bit numbers (2.8.1). */
#define VIRTQ_DESC_F_AVAIL		7
#define VIRTQ_DESC_F_USED		15

struct pvirtq_desc {
	virtq_le64 addr;
	virtq_le32 len;
	virtq_le16 id;
	virtq_le16 flags;
};

/* Packed: event suppression (2.8.10). off_wrap: offset in bits 0-14, wrap in 15. */
struct pvirtq_event_suppress {
	virtq_le16 off_wrap;
	virtq_le16 flags;
};

#define RING_EVENT_FLAGS_ENABLE		0x0
#define RING_EVENT_FLAGS_DISABLE	0x1
#define RING_EVENT_FLAGS_DESC		0x2

#endif
