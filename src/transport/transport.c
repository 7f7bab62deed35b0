/* SPDX-License-Identifier: MIT */
/* The driver's way to a device: what is the same for all transports. */
#include "transport/transport.h"

#include <virtq/spec/virtio.h>

#include "base/check.h"
#include "base/error.h"
#include "base/shm.h"

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

static int check_stopped(const struct virtq_transport *t, struct virtq_error *err)
{
	for (unsigned int i = 0; i < t->queues; i++)
		if (t->running[i])
			return error_set(err, -EINVAL, "queue %u runs: too late for features", i);
	return 0;
}

int virtq_transport_accept(struct virtq_transport *t, struct virtq_features features,
			   struct virtq_error *err)
{
	int rc = check_stopped(t, err);

	if (rc)
		return rc;
	if (!virtq_features_subset(features, t->offered))
		return error_set(err, -EINVAL,
				 "features 0x%llx are not all among those offered, 0x%llx",
				 (unsigned long long)features.word[0],
				 (unsigned long long)t->offered.word[0]);
	/* Without it rings are in the byte order of the device, which we cannot know. */
	if (!SHM_HOST_LITTLE_ENDIAN && !virtq_features_has(features, VIRTIO_F_VERSION_1))
		return error_set(err, -EINVAL, "on this host only VERSION_1 devices can be driven");
	rc = t->ops->accept(t, features, err);
	t->accepted = !rc;
	t->features = features;
	return rc;
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
	if (!rc)
		rc = t->ops->start(t, index, q, kick_fd, call_fd, err);
	if (!rc)
		t->running[index] = q;
	return rc;
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

int virtq_transport_alive(struct virtq_transport *t)
{
	return t->ops->alive ? t->ops->alive(t) : 1;
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
