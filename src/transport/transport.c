/* SPDX-License-Identifier: MIT */
/* The driver's way to a device: what is the same for all transports. */
#include "transport/transport.h"

#include <virtq/spec/virtio.h>

#include "base/check.h"
#include "base/error.h"
#include "ring/layout.h"
#include "transport/features.h"

void transport_set_offered(struct virtq_transport *t, struct virtq_features raw,
			   struct virtq_features carried)
{
	/* UNTRUSTED: what makes no sense is passed over (2.2.1), and the rest may do. */
	t->offered = features_consistent(t->device_id,
					 features_defined(t->device_id, raw, carried),
					 FEATURES_OFFERED);
}

struct virtq_features virtq_transport_offered(const struct virtq_transport *t)
{
	return t->offered;
}

unsigned int virtq_transport_device_id(const struct virtq_transport *t)
{
	return t->device_id;
}

unsigned int virtq_transport_queues(const struct virtq_transport *t)
{
	return t->queues;
}

int virtq_transport_accept(struct virtq_transport *t, struct virtq_features features,
			   struct virtq_error *err)
{
	struct virtq_features extra = {
		{ features.word[0] & ~t->offered.word[0], features.word[1] & ~t->offered.word[1] }
	};
	int rc;

	if (t->accepted)
		return error_set(err, -EINVAL, "features are settled until the device is reset");
	if (extra.word[0] || extra.word[1])
		return error_set(err, -EINVAL,
				 "feature bit %u and perhaps more are not among those offered, 0x%llx",
				 features_lowest(extra), (unsigned long long)t->offered.word[0]);
	/* Without it rings are in the byte order of the device, which we cannot know. */
	if (!virtq_features_has(features, VIRTIO_F_VERSION_1))
		return error_set(err, -EINVAL,
				 virtq_features_has(t->offered, VIRTIO_F_VERSION_1) ?
				 "VERSION_1 is offered and must be accepted" :
				 "the device offers no VERSION_1: it is too old to be driven");
	rc = features_check(t->device_id, features, FEATURES_ACCEPTED, err);
	if (!rc)
		rc = t->ops->accept(t, features, err);
	if (rc)
		return rc;
	t->accepted = true;
	t->features = features;
	return 0;
}

int virtq_transport_negotiate(struct virtq_transport *t, unsigned int device_id,
			      struct virtq_features wanted, struct virtq_features required,
			      struct virtq_features *accepted, struct virtq_error *err)
{
	struct virtq_features chosen, missing;
	int rc;

	if (device_id && t->device_id && device_id != t->device_id)
		return error_set(err, -EINVAL, "the device is of type %u, not %u", t->device_id,
				 device_id);
	chosen = virtq_features_choose(device_id ? device_id : t->device_id, t->offered,
				       virtq_features_or(wanted, required));
	missing.word[0] = required.word[0] & ~chosen.word[0];
	missing.word[1] = required.word[1] & ~chosen.word[1];
	if (missing.word[0] || missing.word[1])
		return error_set(err, -ENOTSUP,
				 "the device does not offer feature bit %u, without which it is of no use",
				 features_lowest(missing));
	if (!virtq_features_has(chosen, VIRTIO_F_VERSION_1))
		return error_set(err, -ENOTSUP,
				 "the device offers no VERSION_1: it is too old to be driven");
	rc = virtq_transport_accept(t, chosen, err);
	if (!rc && accepted)
		*accepted = chosen;
	return rc;
}

int virtq_transport_reset(struct virtq_transport *t, struct virtq_error *err)
{
	int rc = 0;

	for (unsigned int i = 0; i < t->queues && !rc; i++)
		if (t->running[i])
			rc = virtq_transport_stop(t, i, NULL, err);
	if (!rc)
		rc = t->ops->reset(t, err);
	if (rc)
		return rc;
	t->accepted = false;
	t->features = (struct virtq_features){ { 0, 0 } };
	for (unsigned int i = 0; i < t->queues; i++)
		t->was_reset[i] = true;
	return 0;
}

int virtq_transport_config_read(struct virtq_transport *t, unsigned int offset, void *dst,
				unsigned int len, struct virtq_error *err)
{
	if (offset > TRANSPORT_CONFIG_BYTES || len > TRANSPORT_CONFIG_BYTES - offset)
		return error_set(err, -EINVAL,
				 "%u bytes at %u are not in a configuration space of %u bytes",
				 len, offset, TRANSPORT_CONFIG_BYTES);
	return len ? t->ops->config_read(t, offset, dst, len, err) : 0;
}

int virtq_transport_config_write(struct virtq_transport *t, unsigned int offset, const void *src,
				 unsigned int len, struct virtq_error *err)
{
	if (offset > TRANSPORT_CONFIG_BYTES || len > TRANSPORT_CONFIG_BYTES - offset)
		return error_set(err, -EINVAL,
				 "%u bytes at %u are not in a configuration space of %u bytes",
				 len, offset, TRANSPORT_CONFIG_BYTES);
	if (!t->accepted)
		return error_set(err, -EINVAL,
				 "features must be accepted before the configuration is written");
	return len ? t->ops->config_write(t, offset, src, len, err) : 0;
}

uint32_t virtq_transport_config_generation(struct virtq_transport *t)
{
	return t->ops->config_generation ? t->ops->config_generation(t) : 0;
}

int virtq_transport_config_fd(const struct virtq_transport *t)
{
	return t->ops->config_fd ? t->ops->config_fd(t) : -1;
}

int transport_user_address(const struct virtq_map *map, const void *host, size_t bytes,
			   uint64_t *user)
{
	unsigned int count;
	const struct virtq_region *regions = virtq_map_regions(map, &count);

	for (unsigned int i = 0; i < count; i++) {
		uint64_t at = (uintptr_t)host - (uintptr_t)regions[i].host;

		if (at < regions[i].size_bytes && bytes <= regions[i].size_bytes - at) {
			*user = regions[i].user + at;
			return 0;
		}
	}
	return -EINVAL;
}

static bool ring_is_in(const struct virtq_map *map, const struct virtq_ring *ring)
{
	struct virtq_ring_shape shape;
	uint64_t user;

	return !virtq_ring_shape(ring->features, ring->size, &shape) &&
	       !transport_user_address(map, ring->desc, shape.desc_bytes, &user) &&
	       !transport_user_address(map, ring->driver, shape.driver_bytes, &user) &&
	       !transport_user_address(map, ring->device, shape.device_bytes, &user);
}

int virtq_transport_share(struct virtq_transport *t, struct virtq_map *map,
			  struct virtq_error *err)
{
	unsigned int count;
	const struct virtq_region *regions = virtq_map_regions(map, &count);
	int rc;

	for (unsigned int i = 0; i < count; i++)
		if (regions[i].fd < 0)
			return error_set(err, -EINVAL,
					 "the memory at 0x%llx has no file that could be shared",
					 (unsigned long long)regions[i].gpa);
	for (unsigned int i = 0; i < t->queues; i++)
		if (t->running[i] && !ring_is_in(map, virtq_driver_ring(t->running[i])))
			return error_set(err, -EINVAL,
					 "the ring of queue %u, which runs, is not in that memory",
					 i);
	rc = t->ops->share(t, map, err);
	if (rc)
		return rc;
	virtq_map_ref(map);
	virtq_map_unref(t->map);
	t->map = map;
	return 0;
}

/* Features about which the two ends of a ring must be of one mind, or it does not work. */
static struct virtq_features shaping_features(struct virtq_features set)
{
	struct virtq_features mask = virtq_ring_features();

	mask = virtq_features_without(mask, VIRTIO_F_VERSION_1);
	/* A driver may do without indirect tables at any time. */
	mask = virtq_features_without(mask, VIRTIO_F_INDIRECT_DESC);
	return virtq_features_and(set, mask);
}

static int check_ring(const struct virtq_transport *t, const struct virtq_driver *q,
		      struct virtq_error *err)
{
	const struct virtq_ring *ring = virtq_driver_ring(q);
	struct virtq_features ours = shaping_features(ring->features);
	struct virtq_features theirs = shaping_features(t->features);

	if (!virtq_features_subset(ours, theirs) || !virtq_features_subset(theirs, ours))
		return error_set(err, -EINVAL,
				 "the queue was made for ring features 0x%llx, but 0x%llx were accepted",
				 (unsigned long long)ours.word[0],
				 (unsigned long long)theirs.word[0]);
	if (virtq_features_has(ring->features, VIRTIO_F_INDIRECT_DESC) &&
	    !virtq_features_has(t->features, VIRTIO_F_INDIRECT_DESC))
		return error_set(err, -EINVAL,
				 "the queue uses indirect tables, which were not accepted");
	if (!ring_is_in(t->map, ring))
		return error_set(err, -EINVAL, "the queue's ring is not in shared memory");
	/* The position would be past them, and the device would never see them. */
	if (virtq_driver_in_flight(q))
		return error_set(err, -EINVAL,
				 "%u buffers are in the queue before it is started",
				 virtq_driver_in_flight(q));
	return 0;
}

int virtq_transport_start(struct virtq_transport *t, unsigned int index,
			  struct virtq_driver *q, int kick_fd, int call_fd,
			  struct virtq_error *err)
{
	int rc;

	if (index >= t->queues)
		return error_set(err, -EINVAL, "there is no queue %u, only %u of them", index,
				 t->queues);
	if (t->running[index])
		return error_set(err, -EINVAL, "queue %u runs already", index);
	if (!t->accepted || !t->map)
		return error_set(err, -EINVAL,
				 "features must be accepted and memory shared before queue %u can start",
				 index);
	rc = check_ring(t, q, err);
	if (rc)
		return rc;
	/* The device has forgotten where it was; so must the driver (2.6.1.2.2). */
	if (t->was_reset[index] &&
	    virtq_driver_position(q) != ring_position_start(t->features))
		return error_set(err, -EINVAL,
				 "queue %u was reset: its driver end must be made anew", index);
	rc = t->ops->start(t, index, q, kick_fd, call_fd, err);
	if (rc)
		return rc;
	t->running[index] = q;
	t->was_reset[index] = false;
	return 0;
}

int virtq_transport_stop(struct virtq_transport *t, unsigned int index, uint32_t *position,
			 struct virtq_error *err)
{
	uint32_t unwanted;
	int rc;

	if (index >= t->queues || !t->running[index])
		return error_set(err, -EINVAL, "queue %u does not run", index);
	rc = t->ops->stop(t, index, position ? position : &unwanted, err);
	virtq_driver_stop(t->running[index]);
	t->running[index] = NULL;
	return rc;
}

int virtq_transport_queue_reset(struct virtq_transport *t, unsigned int index,
				struct virtq_error *err)
{
	int rc;

	if (!virtq_features_has(t->features, VIRTIO_F_RING_RESET))
		return error_set(err, -ENOTSUP,
				 "RING_RESET was not accepted: queue %u cannot be reset alone",
				 index);
	if (index >= t->queues || !t->running[index])
		return error_set(err, -EINVAL, "queue %u does not run", index);
	rc = t->ops->queue_reset(t, index, err);
	/* Not confirmed: the device may still use what it was given (2.6.1.1.2). */
	if (rc)
		return rc;
	virtq_driver_stop(t->running[index]);
	t->running[index] = NULL;
	t->was_reset[index] = true;
	return 0;
}

int virtq_transport_alive(struct virtq_transport *t)
{
	return t->ops->alive ? t->ops->alive(t) : 1;
}

int virtq_transport_fd(const struct virtq_transport *t)
{
	return t->ops->fd ? t->ops->fd(t) : -1;
}

void virtq_transport_close(struct virtq_transport *t)
{
	struct virtq_map *map;

	if (!t)
		return;
	for (unsigned int i = 0; i < t->queues; i++)
		if (t->running[i])
			virtq_transport_stop(t, i, NULL, NULL);
	map = t->map;
	t->ops->close(t);
	virtq_map_unref(map);
}
