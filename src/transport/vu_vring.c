/* SPDX-License-Identifier: MIT */
/* One ring of a vhost-user session: stopped or started, disabled or enabled. */
#include "transport/vu_session.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/error.h"
#include "engine/engine.h"
#include "ring/layout.h"

void vuser_vring_init(struct vuser_vring *v)
{
	*v = (struct vuser_vring){ .kick_fd = -1, .call_fd = -1, .err_fd = -1,
				   .broken_fd = -1 };
}

struct virtq_features vuser_session_features(const struct vuser_session *s)
{
	struct virtq_features f = { { s->features, 0 } };

	f = virtq_features_without(f, VHOST_F_LOG_ALL);
	return virtq_features_without(f, VHOST_USER_F_PROTOCOL_FEATURES);
}

static bool has_all(const struct vuser_session *s, const struct vuser_vring *v)
{
	return s->features_known && s->memory.map && v->size && v->addr_known;
}

/* One area of a ring, by the address that the client has for it (VU-BE-033). */
static void *resolve_area(const struct vuser_session *s, uint64_t user, size_t bytes,
			  size_t align)
{
	return user % align ? NULL :
	       virtq_map_user_ptr(s->memory.map, user, bytes, VIRTQ_ACCESS_RW);
}

/*
 * Where a ring that has_all() lies in this process, now. UNTRUSTED: all of it
 * is the client's word, and each new memory table can make it false.
 */
static int resolve(const struct vuser_session *s, const struct vuser_vring *v,
		   struct virtq_ring *ring, struct virtq_error *err)
{
	struct virtq_ring_shape shape;

	ring->features = vuser_session_features(s);
	ring->size = v->size;
	if (virtq_ring_shape(ring->features, v->size, &shape))
		return error_set(err, -EINVAL, "no ring of that layout has %u entries", v->size);
	ring->desc = resolve_area(s, v->desc_user, shape.desc_bytes, shape.desc_align);
	ring->driver = resolve_area(s, v->driver_user, shape.driver_bytes, shape.driver_align);
	ring->device = resolve_area(s, v->device_user, shape.device_bytes, shape.device_align);
	if (!ring->desc || !ring->driver || !ring->device)
		return error_set(err, -EFAULT,
				 "the ring at 0x%llx, 0x%llx and 0x%llx is misaligned or not in shared memory",
				 (unsigned long long)v->desc_user,
				 (unsigned long long)v->driver_user,
				 (unsigned long long)v->device_user);
	return ring_check(ring, err);
}

/* The engine closes what it gets, and a ring that is halted may go on later. */
static int duplicate(int fd, int *copy)
{
	*copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return fd >= 0 && *copy < 0 ? -errno : 0;
}

static void put_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static struct virtq_engine *engine_of(const struct vuser_session *s, unsigned int i)
{
	return s->control ? s->control->home[i] :
	       s->config->engines[i % s->config->engine_count];
}

/* A queue that starts while all are paused stands still until they are resumed. */
static int pause_if_all_are(const struct vuser_session *s, struct virtq_engine_queue *queue,
			    const struct vuser_vring *v)
{
	int rc;

	if (!s->control || !s->control->paused)
		return 0;
	rc = virtq_engine_pause(&queue, 1, NULL);
	if (rc < 0)
		return rc;
	virtq_engine_queue_enable(queue, v->enabled);
	return 0;
}

/* Hand @device to its engine, with descriptors of the engine's own. */
static int add_to_engine(struct vuser_session *s, unsigned int i, struct virtq_device *device,
			 struct virtq_error *err)
{
	struct vuser_vring *v = &s->vrings[i];
	struct virtq_engine_queue_config config = {
		.model = s->config->model, .ring = device,
		.enabled = v->enabled && !(s->control && s->control->paused),
		.kick_fd = -1, .call_fd = -1, .err_fd = -1,
	};
	struct virtq_engine_queue *queue;
	int rc;

	v->broken_fd = virtq_notify_open();
	rc = v->broken_fd < 0 ? v->broken_fd : duplicate(v->broken_fd, &config.err_fd);
	if (!rc)
		rc = duplicate(v->kick_fd, &config.kick_fd);
	if (!rc)
		rc = duplicate(v->call_fd, &config.call_fd);
	if (!rc)
		rc = virtq_engine_add(engine_of(s, i), &config, &queue);
	if (!rc) {
		rc = pause_if_all_are(s, queue, v);
		if (rc) {
			virtq_engine_remove(queue);	/* with the descriptors it was given */
			put_fd(&v->broken_fd);
			return error_set_errno(err, rc, "queue %u cannot be paused", i);
		}
	}
	if (rc) {
		put_fd(&config.kick_fd);
		put_fd(&config.call_fd);
		put_fd(&config.err_fd);
		put_fd(&v->broken_fd);
		return error_set_errno(err, rc, "no engine takes queue %u", i);
	}
	virtq_engine_queue_coalesce(queue, s->config->coalesce_count, s->config->coalesce_us);
	v->device = device;
	v->queue = queue;
	pthread_mutex_lock(&s->counters->lock);
	s->counters->queue[i].live = queue;
	pthread_mutex_unlock(&s->counters->lock);
	return 0;
}

int vuser_vring_settle(struct vuser_session *s, unsigned int i, struct virtq_error *err)
{
	struct vuser_vring *v = &s->vrings[i];
	struct virtq_device_config config = {
		.map = s->memory.map,
		.max_segs = s->config->model->max_segs,
		.req_bytes = s->config->model->ops->req_bytes,
	};
	struct virtq_device *device;
	char text[64];
	uint32_t start;
	int rc;

	if (!v->kicked || v->queue || !has_all(s, v))
		return 0;
	rc = resolve(s, v, &config.ring, err);
	if (rc)
		return rc;
	/*
	 * Some front ends fill in only the lower half of a packed ring's first
	 * position. Taken at its word it would mean a ring that is full of
	 * requests nobody took, which nobody starts with.
	 */
	start = ring_position_start(config.ring.features);
	if (v->base_known && v->base == (start & UINT16_MAX))
		v->base = start;
	config.position = v->base_known ? &v->base : NULL;
	rc = virtq_device_create(&device, &config, err);
	if (rc)
		return rc;
	rc = add_to_engine(s, i, device, err);
	if (rc) {
		virtq_device_destroy(device);
		return rc;
	}
	snprintf(text, sizeof(text), "%u entries%s", v->size,
		 v->enabled ? "" : ", not enabled yet");
	vuser_session_event(s, VIRTQ_VU_QUEUE_STARTED, (int)i, text);
	return 0;
}

#define STATS_COUNTS (sizeof(struct virtq_engine_stats) / sizeof(uint64_t))

/* Nothing but counts, each of which adds up by itself. */
void vuser_stats_add(struct virtq_engine_stats *sum, const struct virtq_engine_stats *more)
{
	for (size_t i = 0; i < STATS_COUNTS; i++)
		((uint64_t *)sum)[i] += ((const uint64_t *)more)[i];
}

static void stats_subtract(struct virtq_engine_stats *from, const struct virtq_engine_stats *less)
{
	for (size_t i = 0; i < STATS_COUNTS; i++)
		((uint64_t *)from)[i] -= ((const uint64_t *)less)[i];
}

/*
 * The engine signals the client's error fd at once if the ring is broken, and
 * @broken_fd no more. It can do so without blocking; this thread cannot: the
 * client shares the open file, and may fill it and clear O_NONBLOCK (UNTRUSTED).
 * Without a descriptor to spare the client misses its signal.
 */
static void hand_over_err_fd(struct vuser_vring *v)
{
	int copy;

	if (duplicate(v->err_fd, &copy))
		copy = -1;
	if (virtq_engine_queue_set_fd(v->queue, VIRTQ_FD_ERR, copy))
		put_fd(&copy);
}

/* Remove the queue, which may take its time: who reads the counters does not have to wait. */
static void remove_counted(struct vuser_session *s, unsigned int i, bool forget,
			   struct virtq_engine_stats *final)
{
	struct vuser_counter *counter = &s->counters->queue[i];
	struct virtq_engine_stats shown, rest;

	/* Meanwhile the sum stays where it was seen last, so that it never goes back. */
	pthread_mutex_lock(&s->counters->lock);
	virtq_engine_queue_stats(counter->live, &shown);
	vuser_stats_add(&counter->past, &shown);
	counter->live = NULL;
	pthread_mutex_unlock(&s->counters->lock);
	engine_remove_stats(s->vrings[i].queue, forget, final);
	rest = *final;
	stats_subtract(&rest, &shown);
	pthread_mutex_lock(&s->counters->lock);
	vuser_stats_add(&counter->past, &rest);
	pthread_mutex_unlock(&s->counters->lock);
}

/*
 * VU-BE-020: when this returns, nothing of the ring is in flight any more. With
 * @forget nobody is interested in what was. Returns how many requests had to be
 * cancelled.
 */
static uint64_t take_from_engine(struct vuser_session *s, unsigned int i, bool forget)
{
	struct vuser_vring *v = &s->vrings[i];
	struct virtq_engine_stats before, final;

	virtq_engine_queue_stats(v->queue, &before);
	/* What ends while it drains is counted as it ends; a reset has nothing to drain. */
	if (!forget)
		virtq_engine_pause(&v->queue, 1, NULL);
	/* Not told yet that it broke: find out while there is an engine to signal with. */
	if (v->broken_fd >= 0) {
		virtq_engine_queue_enable(v->queue, 0);	/* cannot break any more */
		hand_over_err_fd(v);
	}
	remove_counted(s, i, forget, &final);
	v->queue = NULL;
	v->base = virtq_device_position(v->device);
	v->base_known = true;
	vuser_vring_broke(s, i);
	virtq_device_destroy(v->device);
	v->device = NULL;
	put_fd(&v->broken_fd);
	return final.cancelled - before.cancelled;
}

static void halt(struct vuser_session *s, unsigned int i, bool forget, const char *why)
{
	uint64_t cancelled;
	char text[128];

	if (!s->vrings[i].queue)
		return;
	cancelled = take_from_engine(s, i, forget);
	if (cancelled && !forget)
		snprintf(text, sizeof(text), "%s; %llu requests did not end in time and failed",
			 why, (unsigned long long)cancelled);
	else
		snprintf(text, sizeof(text), "%s", why);
	vuser_session_event(s, VIRTQ_VU_QUEUE_STOPPED, (int)i, text);
}

void vuser_vring_halt(struct vuser_session *s, unsigned int i, const char *why)
{
	halt(s, i, false, why);
}

void vuser_vring_save(const struct vuser_vring *v, struct vuser_vring_before *before)
{
	*before = (struct vuser_vring_before){
		.ran = v->queue != NULL, .enabled = v->enabled,
		.base = v->base, .base_known = v->base_known,
	};
}

void vuser_vring_undo(struct vuser_session *s, unsigned int i,
		      const struct vuser_vring_before *before)
{
	struct vuser_vring *v = &s->vrings[i];

	vuser_vring_set_enable(s, i, before->enabled, NULL);
	if (before->ran)
		return;
	if (v->queue) {
		uint32_t start = v->base_known ? v->base :
				 ring_position_start(vuser_session_features(s));

		vuser_vring_halt(s, i, "another queue could not start");
		if (v->base != start)
			return;	/* it worked in between: that is where to go on */
	}
	v->base = before->base;
	v->base_known = before->base_known;
}

void vuser_vring_remap(struct vuser_session *s, unsigned int i)
{
	struct vuser_vring *v = &s->vrings[i];
	struct virtq_error err;
	struct virtq_ring ring;

	if (v->queue && resolve(s, v, &ring, &err)) {
		vuser_vring_halt(s, i, err.text);
		return;
	}
	/* A queue that still holds several older maps is drained and added anew. */
	if (v->queue && virtq_engine_queue_set_map(v->queue, s->memory.map, &ring))
		vuser_vring_halt(s, i, "to be started again with its new memory");
	/*
	 * Also what was halted earlier, if its memory is back (VU-BE-037). If it
	 * is not, the ring waits, and that is no fault of this message.
	 */
	(void)vuser_vring_settle(s, i, NULL);
}

int vuser_vring_set_num(struct vuser_session *s, unsigned int i, uint32_t size,
			struct virtq_error *err)
{
	struct vuser_vring *v = &s->vrings[i];
	struct virtq_ring_shape shape;

	if (v->queue)
		return error_set(err, -EBUSY, "the size of queue %u cannot change while it runs",
				 i);
	if (!size || size > s->config->model->queue_size_max ||
	    (s->features_known && virtq_ring_shape(vuser_session_features(s), size, &shape)))
		return error_set(err, -EINVAL, "queue %u cannot have %u entries", i, size);
	v->size = size;
	return vuser_vring_settle(s, i, err);
}

int vuser_vring_set_base(struct vuser_session *s, unsigned int i, uint32_t base,
			 struct virtq_error *err)
{
	struct vuser_vring *v = &s->vrings[i];

	if (v->queue)
		return error_set(err, -EBUSY,
				 "the position of queue %u cannot change while it runs", i);
	/* Until the layout is known, virtq_device_create() is who refuses. */
	if (s->features_known && v->size) {
		int rc = ring_position_check(vuser_session_features(s), v->size, base, err);

		if (rc)
			return rc;
	}
	v->base = base;
	v->base_known = true;
	return 0;
}

int vuser_vring_set_addr(struct vuser_session *s, unsigned int i,
			 const struct VhostUserVringAddr *addr, struct virtq_error *err)
{
	struct vuser_vring *v = &s->vrings[i];
	struct vuser_vring changed = *v;
	struct virtq_ring ring;
	int rc;

	/* LOG is a flag for back ends that offered LOG_ALL; there are no others. */
	if (addr->flags)
		return error_set(err, -EINVAL, "queue %u has address flags 0x%x", i,
				 addr->flags);
	changed.desc_user = addr->descriptor;
	changed.driver_user = addr->available;
	changed.device_user = addr->used;
	changed.addr_known = true;
	if (has_all(s, &changed)) {
		rc = resolve(s, &changed, &ring, err);
		if (rc)
			return rc;
	}
	*v = changed;
	if (!v->queue)
		return vuser_vring_settle(s, i, err);
	vuser_vring_remap(s, i);
	return 0;
}

int vuser_vring_set_enable(struct vuser_session *s, unsigned int i, uint32_t enable,
			   struct virtq_error *err)
{
	struct vuser_vring *v = &s->vrings[i];

	if (enable > 1)
		return error_set(err, -EINVAL, "queue %u can be enabled (1) or disabled (0), not %u",
				 i, enable);
	v->enabled = enable;	/* remembered while stopped, too (VU-BE-015) */
	if (v->queue)
		virtq_engine_queue_enable(v->queue, v->enabled);
	return 0;
}

/*
 * UNTRUSTED: only what a signal can go through, and nothing whose reader or
 * writer could make us wait. The flag may be cleared again by the client, which
 * shares the open file; whoever reads or writes does not rely on it alone.
 */
static int check_notifier(int fd, unsigned int i, struct virtq_error *err)
{
	int flags, domain = AF_UNIX;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, -errno, "cannot look at a descriptor of queue %u", i);
	/* An eventfd has no type at all. */
	if ((st.st_mode & S_IFMT) && !S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode))
		return error_set(err, -EINVAL,
				 "a descriptor of queue %u is no eventfd, pipe or socket", i);
	/* Others may take their time at close(), for as long as their peer likes. */
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){ sizeof(domain) });
	if (domain != AF_UNIX)
		return error_set(err, -EINVAL, "a descriptor of queue %u is a socket of a network",
				 i);
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_set_errno(err, -errno, "cannot use a descriptor of queue %u", i);
	return 0;
}

int vuser_vring_set_fd(struct vuser_session *s, unsigned int i, enum virtq_engine_fd which,
		       int fd, struct virtq_error *err)
{
	struct vuser_vring *v = &s->vrings[i];
	int *mine = which == VIRTQ_FD_KICK ? &v->kick_fd :
		    which == VIRTQ_FD_CALL ? &v->call_fd : &v->err_fd;
	int copy = -1, rc = 0;

	if (fd >= 0)
		rc = check_notifier(fd, i, err);
	/* The engine gets the client's error fd when the ring breaks; until then broken_fd. */
	if (!rc && v->queue && which != VIRTQ_FD_ERR) {
		rc = duplicate(fd, &copy);
		if (!rc)
			rc = virtq_engine_queue_set_fd(v->queue, which, copy);
		if (rc) {
			put_fd(&copy);
			error_set_errno(err, rc, "cannot use a descriptor of queue %u", i);
		}
	}
	if (rc) {
		put_fd(&fd);
		return rc;
	}
	put_fd(mine);
	*mine = fd;
	if (which != VIRTQ_FD_KICK)
		return 0;
	v->kicked = true;	/* VU-BE-013; the engine does not wait for a kick (VU-BE-014) */
	return vuser_vring_settle(s, i, err);
}

uint32_t vuser_vring_stop(struct vuser_session *s, unsigned int i)
{
	struct vuser_vring *v = &s->vrings[i];

	vuser_vring_halt(s, i, "as the client asked");
	v->kicked = false;
	put_fd(&v->kick_fd);
	return v->base_known ? v->base : ring_position_start(vuser_session_features(s));
}

void vuser_vring_reset(struct vuser_session *s, unsigned int i)
{
	struct vuser_vring *v = &s->vrings[i];
	int call_fd, err_fd;

	halt(s, i, true, "the device was reset");
	put_fd(&v->kick_fd);
	call_fd = v->call_fd;
	err_fd = v->err_fd;
	vuser_vring_init(v);
	v->call_fd = call_fd;
	v->err_fd = err_fd;
}

void vuser_vring_broke(struct vuser_session *s, unsigned int i)
{
	struct vuser_vring *v = &s->vrings[i];
	struct virtq_fault fault;
	char text[160];

	if (v->broken_fd < 0 || virtq_notify_wait(v->broken_fd, 0) != 1)
		return;
	/*
	 * The engine wrote the fault before it signalled, and does not touch it
	 * again. A message there and back makes what it wrote ours to read.
	 */
	if (v->queue)
		hand_over_err_fd(v);
	put_fd(&v->broken_fd);
	fault = virtq_device_fault(v->device);
	snprintf(text, sizeof(text), "%s (at %u: 0x%llx)", virtq_fault_text(fault.code),
		 fault.index, (unsigned long long)fault.value);
	vuser_session_event(s, VIRTQ_VU_QUEUE_BROKEN, (int)i, text);
}
