/* SPDX-License-Identifier: MIT */
/* The device end in this very process: no wire, only the ring and an engine. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <virtq/loopback.h>
#include <virtq/spec/virtio.h>

#include "base/check.h"
#include "base/error.h"
#include "transport/features.h"
#include "transport/transport.h"

struct loopback {
	struct virtq_transport transport;
	struct virtq_model *model;
	struct virtq_engine *const *engines;
	unsigned int engine_count;
	struct loopback_queue {
		struct virtq_engine_queue *queue;	/* NULL while stopped */
		struct virtq_device *device;
		int kick_fd, call_fd;			/* ours; the engine has others */
	} queues[];
};

static struct loopback *loopback_of(struct virtq_transport *t)
{
	return container_of(t, struct loopback, transport);
}

static int loopback_accept(struct virtq_transport *t, struct virtq_features features,
			   struct virtq_error *err)
{
	struct virtq_model *model = loopback_of(t)->model;

	if (model->ops->features_ok && model->ops->features_ok(model, features))
		return error_set(err, -EINVAL, "the device cannot work with features 0x%llx",
				 (unsigned long long)features.word[0]);
	return 0;
}

static int loopback_config_read(struct virtq_transport *t, unsigned int offset, void *dst,
				unsigned int len, struct virtq_error *err)
{
	struct virtq_model *model = loopback_of(t)->model;

	if (!model->ops->config_read)
		return error_set(err, -ENOTSUP, "the device has no configuration space");
	model->ops->config_read(model, offset, dst, len);
	return 0;
}

static int loopback_config_write(struct virtq_transport *t, unsigned int offset, const void *src,
				 unsigned int len, struct virtq_error *err)
{
	struct virtq_model *model = loopback_of(t)->model;

	if (!model->ops->config_write)
		return error_set(err, -ENOTSUP, "the device has no configuration to write");
	if (model->ops->config_write(model, offset, src, len))
		return error_set(err, -EIO, "the device refused %u bytes of configuration at %u",
				 len, offset);
	return 0;
}

static int duplicate(int fd, int *copy)
{
	*copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return fd >= 0 && *copy < 0 ? -errno : 0;
}

static int add(struct loopback *l, unsigned int i, const struct virtq_ring *ring,
	       const uint32_t *position, struct virtq_map *map, struct virtq_error *err)
{
	struct loopback_queue *lq = &l->queues[i];
	struct virtq_device_config device = {
		.ring = *ring, .position = position, .map = map,
		.max_segs = l->model->max_segs, .req_bytes = l->model->ops->req_bytes,
	};
	struct virtq_engine_queue_config config = {
		.model = l->model, .enabled = 1, .kick_fd = -1, .call_fd = -1, .err_fd = -1,
	};
	int rc = virtq_device_create(&config.ring, &device, err);

	if (rc)
		return rc;
	rc = duplicate(lq->kick_fd, &config.kick_fd);
	if (!rc)
		rc = duplicate(lq->call_fd, &config.call_fd);
	if (!rc)
		rc = virtq_engine_add(l->engines[i % l->engine_count], &config, &lq->queue);
	if (rc) {
		if (config.kick_fd >= 0)
			close(config.kick_fd);
		if (config.call_fd >= 0)
			close(config.call_fd);
		virtq_device_destroy(config.ring);
		lq->queue = NULL;
		return error_set_errno(err, rc, "no engine takes queue %u", i);
	}
	lq->device = config.ring;
	return 0;
}

/* With @forget what is in flight is not given back. */
static uint32_t take(struct loopback_queue *lq, bool forget)
{
	uint32_t position;

	if (forget)
		virtq_engine_reset(lq->queue);
	else
		virtq_engine_remove(lq->queue);
	position = virtq_device_position(lq->device);
	virtq_device_destroy(lq->device);
	lq->queue = NULL;
	lq->device = NULL;
	return position;
}

static void close_fds(struct loopback_queue *lq)
{
	if (lq->kick_fd >= 0)
		close(lq->kick_fd);
	if (lq->call_fd >= 0)
		close(lq->call_fd);
}

static int loopback_start(struct virtq_transport *t, unsigned int i, struct virtq_driver *q,
			  int kick_fd, int call_fd, struct virtq_error *err)
{
	struct loopback *l = loopback_of(t);
	uint32_t position = virtq_driver_position(q);
	struct loopback_queue *lq = &l->queues[i];
	int rc;

	if (virtq_driver_ring(q)->size > l->model->queue_size_max)
		return error_set(err, -EINVAL, "queue %u cannot have %u entries, only %u", i,
				 virtq_driver_ring(q)->size, l->model->queue_size_max);
	lq->call_fd = -1;
	rc = duplicate(kick_fd, &lq->kick_fd);
	if (!rc)
		rc = duplicate(call_fd, &lq->call_fd);
	if (rc)
		error_set_errno(err, rc, "cannot duplicate the descriptors of queue %u", i);
	else
		rc = add(l, i, virtq_driver_ring(q), &position, t->map, err);
	if (rc)
		close_fds(lq);
	return rc;
}

static int loopback_stop(struct virtq_transport *t, unsigned int i, uint32_t *position,
			 struct virtq_error *err)
{
	struct loopback_queue *lq = &loopback_of(t)->queues[i];

	(void)err;
	*position = take(lq, false);
	close_fds(lq);
	return 0;
}

static int loopback_queue_reset(struct virtq_transport *t, unsigned int i,
				struct virtq_error *err)
{
	struct loopback_queue *lq = &loopback_of(t)->queues[i];

	(void)err;
	take(lq, true);
	close_fds(lq);
	return 0;
}

static int loopback_reset(struct virtq_transport *t, struct virtq_error *err)
{
	struct virtq_model *model = loopback_of(t)->model;

	(void)err;
	if (model->ops->reset)
		model->ops->reset(model);
	return 0;
}

/* The rings stay where they are in this process; what changes is what they may name. */
static int loopback_share(struct virtq_transport *t, struct virtq_map *map,
			  struct virtq_error *err)
{
	struct loopback *l = loopback_of(t);
	int rc = 0;

	for (unsigned int i = 0; i < t->queues && !rc; i++) {
		struct loopback_queue *lq = &l->queues[i];
		struct virtq_ring ring;
		uint32_t position;

		if (!lq->queue)
			continue;
		ring = *virtq_device_ring(lq->device);
		rc = virtq_engine_queue_set_map(lq->queue, map, &ring);
		if (rc == -EBUSY) {
			position = take(lq, false);
			rc = add(l, i, &ring, &position, map, err);
			if (rc) {
				close_fds(lq);
				t->running[i] = NULL;
			}
		} else if (rc) {
			error_set_errno(err, rc, "queue %u does not take the memory", i);
		}
	}
	return rc;
}

static void loopback_close(struct virtq_transport *t)
{
	loopback_reset(t, NULL);
	free(loopback_of(t));
}

static const struct transport_ops loopback_ops = {
	.accept = loopback_accept,
	.config_read = loopback_config_read,
	.config_write = loopback_config_write,
	.share = loopback_share,
	.start = loopback_start,
	.stop = loopback_stop,
	.queue_reset = loopback_queue_reset,
	.reset = loopback_reset,
	.close = loopback_close,
};

int virtq_loopback_open(struct virtq_transport **out, struct virtq_model *model,
			struct virtq_engine *const *engines, unsigned int count,
			struct virtq_error *err)
{
	struct virtq_features carried = features_of_fd_transports();
	struct loopback *l;
	int rc;

	if (!model || !engines || !count)
		return error_set(err, -EINVAL, "a loopback needs a model and an engine");
	if (!model->queues || model->queues > TRANSPORT_QUEUES_MAX)
		return error_set(err, -EINVAL, "a device has 1 to %u queues, not %u",
				 TRANSPORT_QUEUES_MAX, model->queues);
	rc = features_check(model->ops->device_id, model->features, FEATURES_OFFERED, err);
	if (rc)
		return rc;
	l = calloc(1, sizeof(*l) + model->queues * sizeof(l->queues[0]));
	if (!l)
		return error_set(err, -ENOMEM, "no memory for a transport");
	l->transport.ops = &loopback_ops;
	l->transport.device_id = model->ops->device_id;
	/* For hardware, which this is not; it would only cost. */
	carried = virtq_features_without(carried, VIRTIO_F_ORDER_PLATFORM);
	transport_set_offered(&l->transport, virtq_features_or(model->features, carried), carried);
	l->transport.queues = model->queues;
	l->model = model;
	l->engines = engines;
	l->engine_count = count;
	*out = &l->transport;
	return 0;
}
