/* SPDX-License-Identifier: MIT */
/*
 * The driver end of a queue: set-up, publishing, arming, the end. What it hands to
 * the device it remembers in private memory, and never reads back from the ring.
 */
#include <string.h>

#include <virtq/driver.h>
#include <virtq/spec/virtio.h>

#include "base/error.h"
#include "ring/driver.h"

/*
 * A table costs the device another cache miss: shorter chains have one only
 * where entries are scarce. Of three elements, direct takes 0.7 of the time.
 */
#define INDIRECT_FROM 4u

/* ---- Set-up ------------------------------------------------------------- */

static size_t chains_offset(void)
{
	return align_up(sizeof(struct virtq_driver), 64);
}

static size_t links_offset(uint32_t size)
{
	return chains_offset() + sizeof(struct chain) * (size_t)size;
}

static size_t kept_offset(uint32_t size)
{
	return (size_t)align_up(links_offset(size) + 2 * sizeof(uint16_t) * (size_t)size,
				sizeof(struct entry));
}

static bool has_kept(const struct virtq_driver_config *config)
{
	return config->keep && ring_layout_of(config->ring.features) == RING_PACKED;
}

size_t virtq_driver_bytes(const struct virtq_driver_config *config)
{
	return kept_offset(config->ring.size) +
	       (has_kept(config) ? sizeof(struct entry) * (size_t)config->ring.size : 0);
}

static int check_indirect(const struct virtq_driver_config *config, struct virtq_error *err)
{
	if (!config->indirect)
		return 0;
	if (!config->indirect_entries || config->indirect_entries > VIRTQ_QUEUE_SIZE_MAX)
		return error_set(err, -EINVAL, "an indirect table of %u entries cannot be",
				 config->indirect_entries);
	if ((uintptr_t)config->indirect % sizeof(struct virtq_desc))
		return error_set(err, -EINVAL, "indirect tables are not aligned to 16 bytes");
	return 0;
}

/* Clear the ring as the standard wants it before the device sees it (2.7.10.1, 2.8.13). */
static void clear_ring(const struct virtq_ring *ring)
{
	struct virtq_ring_shape shape;

	if (virtq_ring_shape(ring->features, ring->size, &shape))
		return;
	memset(ring->desc, 0, shape.desc_bytes);
	memset(ring->driver, 0, shape.driver_bytes);
	memset(ring->device, 0, shape.device_bytes);
}

/* Nothing may be in flight at a position to go on from: both sides stand at one place. */
static int check_position(const struct virtq_driver_config *config, struct virtq_error *err)
{
	uint32_t position;
	int rc;

	if (!config->position)
		return 0;
	position = *config->position;
	rc = ring_position_check(config->ring.features, config->ring.size, position, err);
	if (!rc && LAYOUT_IS_PACKED(ring_layout_of(config->ring.features)) &&
	    position >> 16 != (position & 0xffff))
		rc = error_set(err, -EINVAL, "0x%x is a position with buffers in flight",
			       position);
	return rc;
}

int virtq_driver_init(void *memory, struct virtq_driver **out,
		      const struct virtq_driver_config *config, struct virtq_error *err)
{
	struct virtq_driver *q = memory;
	bool event_idx = virtq_features_has(config->ring.features, VIRTIO_F_EVENT_IDX);
	bool platform = virtq_features_has(config->ring.features, VIRTIO_F_ORDER_PLATFORM);
	uint32_t position = config->position ? *config->position :
					       ring_position_start(config->ring.features);
	bool fresh = !config->position;
	uint16_t *links;
	int rc;

	rc = ring_check(&config->ring, err);
	if (!rc)
		rc = check_indirect(config, err);
	if (!rc)
		rc = check_position(config, err);
	if (rc)
		return rc;

	memset(memory, 0, virtq_driver_bytes(config));
	q->layout = ring_layout_of(config->ring.features);
	q->keeps = q->keep = config->keep && !LAYOUT_IS_IN_ORDER(q->layout);
	q->ring = config->ring;
	q->room = config->ring.size;
	q->notification_data = virtq_features_has(config->ring.features,
						  VIRTIO_F_NOTIFICATION_DATA);
	q->chains = (struct chain *)(void *)((uint8_t *)memory + chains_offset());
	for (uint32_t i = 0; i < config->ring.size; i++)
		q->chains[i].serial = NOT_IN_FLIGHT;
	links = (uint16_t *)(void *)((uint8_t *)memory + links_offset(config->ring.size));
	if (has_kept(config))
		q->kept = (struct entry *)(void *)((uint8_t *)memory +
						   kept_offset(config->ring.size));
	q->segs_max = config->segs_max ? config->segs_max : UINT32_MAX;
	if (config->indirect &&
	    virtq_features_has(config->ring.features, VIRTIO_F_INDIRECT_DESC)) {
		q->indirect_on = true;
		q->indirect = config->indirect;
		q->indirect_addr = config->indirect_addr;
		/* No chain may be longer than the queue, tables counted (2.7.5.3.1, 2.8.19). */
		q->indirect_entries = config->indirect_entries < config->ring.size ?
				      config->indirect_entries : config->ring.size;
		q->indirect_from = config->indirect_from ? config->indirect_from : INDIRECT_FROM;
	}
	if (LAYOUT_IS_PACKED(q->layout)) {
		packed_ring_set(&q->packed.ring, &config->ring, event_idx, platform);
		q->packed.in_order = LAYOUT_IS_IN_ORDER(q->layout);
		q->packed.free = links;
		packed_driver_reset(&q->packed, packed_cursor_of((uint16_t)position), fresh);
	} else {
		split_ring_set(&q->split.ring, &config->ring, event_idx, platform);
		q->split.in_order = LAYOUT_IS_IN_ORDER(q->layout);
		q->split.free = links;
		q->split.next = links + config->ring.size;
		split_driver_reset(&q->split, (uint16_t)position, fresh);
	}
	if (fresh)
		clear_ring(&config->ring);
	*out = q;
	return 0;
}

/* ---- Publishing and arming ---------------------------------------------- */

int virtq_driver_publish(struct virtq_driver *q)
{
	if (q->published == q->added || UNLIKELY(q->dead))
		return 0;
	q->published = q->added;
	q->live = true;
	if (LAYOUT_IS_PACKED(q->layout)) {
		packed_driver_publish(&q->packed);
		return packed_driver_needs_kick(&q->packed);
	}
	split_driver_publish(&q->split);
	return split_driver_needs_kick(&q->split);
}

int virtq_driver_arm_after(struct virtq_driver *q, uint32_t count)
{
	uint64_t in_flight = q->published - q->taken;
	bool ready;

	/* Of what will never be used nobody is told. */
	if (count > in_flight)
		count = (uint32_t)in_flight;
	if (!count)
		count = 1;
	ready = LAYOUT_IS_PACKED(q->layout) ? packed_driver_arm(&q->packed, count) :
					      split_driver_arm(&q->split, count);
	/* What is left of a batch has no mark of its own in the ring. */
	return ready || q->batch.open;
}

int virtq_driver_arm(struct virtq_driver *q)
{
	return virtq_driver_arm_after(q, 1);
}

void virtq_driver_disarm(struct virtq_driver *q)
{
	if (LAYOUT_IS_PACKED(q->layout))
		packed_driver_disarm(&q->packed);
	else
		split_driver_disarm(&q->split);
}

void virtq_driver_stop(struct virtq_driver *q)
{
	q->live = false;
}

int virtq_driver_detach(struct virtq_driver *q, void **token)
{
	if (q->live)
		return -EBUSY;
	/* The ring no longer says what is free: it has to be made anew. */
	if (!q->dead)
		q->dead = -ESHUTDOWN;
	for (; q->detach_at < q->ring.size; q->detach_at++) {
		struct chain *chain = &q->chains[q->detach_at];

		if (chain->serial >= KEPT)
			continue;
		*token = chain->token;
		chain->serial = NOT_IN_FLIGHT;
		q->taken++;
		return 1;
	}
	return 0;
}

uint32_t virtq_driver_kick_data(const struct virtq_driver *q, uint16_t vq_id)
{
	uint16_t next = LAYOUT_IS_PACKED(q->layout) ? packed_driver_next(&q->packed) :
						      q->split.avail_published;

	return q->notification_data ? (uint32_t)next << 16 | vq_id : vq_id;
}

/* ---- Questions ---------------------------------------------------------- */

const struct virtq_ring *virtq_driver_ring(const struct virtq_driver *q)
{
	return &q->ring;
}

uint32_t virtq_driver_room(const struct virtq_driver *q)
{
	return q->room;
}

int virtq_driver_keeps(const struct virtq_driver *q)
{
	return q->keeps;
}

uint32_t virtq_driver_in_flight(const struct virtq_driver *q)
{
	return (uint32_t)(q->added - q->taken);
}

struct virtq_fault virtq_driver_fault(const struct virtq_driver *q)
{
	return q->fault;
}

uint32_t virtq_driver_position(const struct virtq_driver *q)
{
	if (LAYOUT_IS_PACKED(q->layout))
		return (uint32_t)packed_off_wrap(q->packed.used) << 16 |
		       packed_driver_next(&q->packed);
	return q->split.avail_published;
}
