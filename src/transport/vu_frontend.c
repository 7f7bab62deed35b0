/* SPDX-License-Identifier: MIT */
/* The vhost-user front end: drives a device in another process. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <virtq/notify.h>
#include <virtq/vhost_user.h>

#include "base/check.h"
#include "base/error.h"
#include "ring/layout.h"
#include "transport/features.h"
#include "transport/transport.h"
#include "transport/vu_call.h"

#define TIMEOUT_MS_DEFAULT 10000u

#define BIT(n) ((uint64_t)1 << (n))

/* What this front end makes use of; it agrees on no more (VU-FE-006). */
#define PROTOCOL_FEATURES (BIT(VHOST_USER_PROTOCOL_F_MQ) | \
			   BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) | \
			   BIT(VHOST_USER_PROTOCOL_F_CONFIG) | \
			   BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ) | \
			   BIT(VHOST_USER_PROTOCOL_F_RESET_DEVICE) | \
			   BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))

struct vuser_frontend {
	struct virtq_transport transport;
	struct vuser_caller c;
	uint64_t raw_features;
	uint64_t protocol_offered;
	uint64_t protocol_agreed;
	uint64_t mem_slots;
};

static const struct transport_ops frontend_ops;

static struct vuser_frontend *frontend_of(struct virtq_transport *t)
{
	return container_of(t, struct vuser_frontend, transport);
}

static bool agreed(const struct vuser_frontend *fe, unsigned int bit)
{
	return fe->protocol_agreed & BIT(bit);
}

/* ---- Opening. ---- */

/* The back end's way to say that the configuration changed. One that takes none does without. */
static int open_channel(struct vuser_frontend *fe, struct virtq_error *err)
{
	int theirs, rc;

	rc = vuser_listener_open(&fe->c.listener, fe->c.acks, &theirs);
	if (rc)
		return error_set_errno(err, rc, "cannot make a channel for the back end");
	vuser_msg_init(&fe->c.msg, VHOST_USER_SET_BACKEND_REQ_FD);
	fe->c.msg.fds[0] = theirs;
	fe->c.msg.fd_count = 1;
	rc = vuser_call(&fe->c, err);
	close(theirs);
	if (rc == -EIO) {
		vuser_listener_close(&fe->c.listener);
		rc = 0;
	}
	return rc;
}

static int negotiate_protocol(struct vuser_frontend *fe, struct virtq_error *err)
{
	uint64_t queues = 1, common;
	int rc;

	rc = vuser_get_u64(&fe->c, VHOST_USER_GET_PROTOCOL_FEATURES, &fe->protocol_offered,
			   err);
	if (rc)
		return rc;
	common = fe->protocol_offered & PROTOCOL_FEATURES;
	/* All that we would hear of on the channel is the configuration. */
	if (!(common & BIT(VHOST_USER_PROTOCOL_F_CONFIG)))
		common &= ~BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ);
	rc = vuser_set_u64(&fe->c, VHOST_USER_SET_PROTOCOL_FEATURES, common, err);
	if (rc)
		return rc;
	fe->protocol_agreed = common;
	fe->c.acks = agreed(fe, VHOST_USER_PROTOCOL_F_REPLY_ACK);
	if (agreed(fe, VHOST_USER_PROTOCOL_F_MQ)) {
		rc = vuser_get_u64(&fe->c, VHOST_USER_GET_QUEUE_NUM, &queues, err);
		if (rc)
			return rc;
	}
	if (!queues)
		return error_set(err, -EPROTO, "the back end says that it has no queue");
	fe->transport.queues = queues < TRANSPORT_QUEUES_MAX ? (unsigned int)queues :
							       TRANSPORT_QUEUES_MAX;
	if (agreed(fe, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))
		rc = vuser_get_u64(&fe->c, VHOST_USER_GET_MAX_MEM_SLOTS, &fe->mem_slots, err);
	if (!rc && agreed(fe, VHOST_USER_PROTOCOL_F_BACKEND_REQ))
		rc = open_channel(fe, err);
	return rc;
}

static int negotiate(struct vuser_frontend *fe, struct virtq_error *err)
{
	struct virtq_features raw = { { 0, 0 } };
	int rc;

	rc = vuser_call_empty(&fe->c, VHOST_USER_SET_OWNER, err);
	if (!rc)
		rc = vuser_get_u64(&fe->c, VHOST_USER_GET_FEATURES, &fe->raw_features, err);
	if (rc)
		return rc;
	/* The protocol carries 64 bits; two of them, 26 and 30, are its own. */
	raw.word[0] = fe->raw_features;
	transport_set_offered(&fe->transport, raw, features_of_fd_transports());
	/* VU-FE-005: offered is enough, acknowledged comes later. */
	if (fe->raw_features & BIT(VHOST_USER_F_PROTOCOL_FEATURES))
		rc = negotiate_protocol(fe, err);
	return rc;
}

int virtq_vhost_user_attach(struct virtq_transport **out, int fd, unsigned int timeout_ms,
			    struct virtq_error *err)
{
	struct vuser_frontend *fe = calloc(1, sizeof(*fe));
	int rc;

	if (!fe) {
		close(fd);
		return error_set(err, -ENOMEM, "no memory for a transport");
	}
	fe->transport.ops = &frontend_ops;
	fe->transport.queues = 1;
	fe->c.fd = fd;
	fe->c.listener.fd = -1;
	fe->c.timeout_ms = timeout_ms ? timeout_ms : TIMEOUT_MS_DEFAULT;
	fe->mem_slots = VHOST_MEMORY_BASELINE_NREGIONS;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	rc = negotiate(fe, err);
	if (rc) {
		vuser_hang_up(&fe->c, rc);
		free(fe);
		return rc;
	}
	*out = &fe->transport;
	return 0;
}

int virtq_vhost_user_connect(struct virtq_transport **out, const char *path,
			     unsigned int timeout_ms, struct virtq_error *err)
{
	struct sockaddr_un addr;
	unsigned int wait_ms = timeout_ms ? timeout_ms : TIMEOUT_MS_DEFAULT;
	struct timeval wait = { wait_ms / 1000, wait_ms % 1000 * 1000 };
	int fd, rc = vuser_address(&addr, path, err);

	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot make a socket");
	/* A full backlog makes connect wait; this is what bounds the wait. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	do
		rc = connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
	while (rc == -EINTR);
	if (rc) {
		close(fd);
		return error_set_errno(err, rc == -EAGAIN ? -ETIMEDOUT : rc,
				       "cannot connect to %s", path);
	}
	return virtq_vhost_user_attach(out, fd, timeout_ms, err);
}

/* ---- The transport's operations. ---- */

static int frontend_accept(struct virtq_transport *t, struct virtq_features features,
			   struct virtq_error *err)
{
	struct vuser_frontend *fe = frontend_of(t);
	uint64_t wire = features.word[0];

	/* Bit 30 is not the driver's: it says that rings begin disabled (VU-FE-008). */
	wire |= fe->raw_features & BIT(VHOST_USER_F_PROTOCOL_FEATURES);
	return vuser_set_u64(&fe->c, VHOST_USER_SET_FEATURES, wire, err);
}

static int frontend_config_read(struct virtq_transport *t, unsigned int offset, void *dst,
				unsigned int len, struct virtq_error *err)
{
	struct vuser_frontend *fe = frontend_of(t);
	int rc;

	if (!agreed(fe, VHOST_USER_PROTOCOL_F_CONFIG))
		return error_set(err, -ENOTSUP, "the back end shows no configuration space");
	/* From the start: there are back ends that ignore the offset. */
	vuser_msg_init(&fe->c.msg, VHOST_USER_GET_CONFIG);
	vuser_msg_set_config(&fe->c.msg, 0, offset + len);
	rc = vuser_call(&fe->c, err);
	if (rc)
		return rc;
	if (!fe->c.rx.msg.header.size)	/* VU-FE-032 */
		return error_set(err, -EIO,
				 "the back end refused to show %u bytes of configuration space",
				 offset + len);
	memcpy(dst, fe->c.rx.msg.payload.config.region + offset, len);
	return 0;
}

static int frontend_config_write(struct virtq_transport *t, unsigned int offset, const void *src,
				 unsigned int len, struct virtq_error *err)
{
	struct vuser_frontend *fe = frontend_of(t);

	if (!agreed(fe, VHOST_USER_PROTOCOL_F_CONFIG))
		return error_set(err, -ENOTSUP, "the back end shows no configuration space");
	vuser_msg_init(&fe->c.msg, VHOST_USER_SET_CONFIG);
	vuser_msg_set_config(&fe->c.msg, offset, len);
	fe->c.msg.payload.config.flags = VHOST_USER_CONFIG_WRITABLE;
	memcpy(fe->c.msg.payload.config.region, src, len);
	return vuser_call(&fe->c, err);
}

static uint32_t frontend_config_generation(struct virtq_transport *t)
{
	struct vuser_frontend *fe = frontend_of(t);

	vuser_listener_serve(&fe->c.listener);
	return fe->c.listener.config_changes;
}

static int frontend_config_fd(const struct virtq_transport *t)
{
	return ((const struct vuser_frontend *)(const void *)t)->c.listener.fd;
}

static struct VhostUserMemoryRegion wire_region(const struct virtq_region *r)
{
	return (struct VhostUserMemoryRegion){
		.guest_phys_addr = r->gpa,
		.memory_size = r->size_bytes,
		.userspace_addr = r->user,
		.mmap_offset = r->fd_offset_bytes,
	};
}

/* VU-FE-013, 014 */
static int share_table(struct vuser_frontend *fe, const struct virtq_region *regions,
		       unsigned int count, struct virtq_error *err)
{
	vuser_msg_init(&fe->c.msg, VHOST_USER_SET_MEM_TABLE);
	vuser_msg_set_regions(&fe->c.msg, count);
	for (unsigned int i = 0; i < count; i++) {
		fe->c.msg.payload.memory.regions[i] = wire_region(&regions[i]);
		fe->c.msg.fds[i] = regions[i].fd;
	}
	fe->c.msg.fd_count = count;
	return vuser_call(&fe->c, err);
}

static bool contains(const struct virtq_region *regions, unsigned int count,
		     const struct virtq_region *r)
{
	for (unsigned int i = 0; i < count; i++)
		if (regions[i].gpa == r->gpa && regions[i].size_bytes == r->size_bytes &&
		    regions[i].user == r->user && regions[i].mapping == r->mapping &&
		    regions[i].fd == r->fd)
			return true;
	return false;
}

/* Send @request for each of @regions that is not among @others (VU-FE-015, 016). */
static int share_difference(struct vuser_frontend *fe, uint32_t request,
			    const struct virtq_region *regions, unsigned int count,
			    const struct virtq_region *others, unsigned int other_count,
			    struct virtq_error *err)
{
	int rc = 0;

	for (unsigned int i = 0; i < count && !rc; i++) {
		if (contains(others, other_count, &regions[i]))
			continue;
		vuser_msg_init(&fe->c.msg, request);
		fe->c.msg.payload.mem_reg.region = wire_region(&regions[i]);
		if (request == VHOST_USER_ADD_MEM_REG) {
			fe->c.msg.fds[0] = regions[i].fd;
			fe->c.msg.fd_count = 1;
		}
		rc = vuser_call(&fe->c, err);
	}
	return rc;
}

static int frontend_share(struct virtq_transport *t, struct virtq_map *map,
			  struct virtq_error *err)
{
	struct vuser_frontend *fe = frontend_of(t);
	unsigned int count, old_count = 0;
	const struct virtq_region *regions = virtq_map_regions(map, &count), *old = NULL;
	int rc;

	for (unsigned int i = 0; i < count; i++)
		if (!regions[i].user)
			return error_set(err, -EINVAL, "the memory at 0x%llx has no user address",
					 (unsigned long long)regions[i].gpa);
	if (count > fe->mem_slots)
		return error_set(err, -EINVAL, "the back end takes %llu memory regions, not %u",
				 (unsigned long long)fe->mem_slots, count);
	if (count <= VHOST_MEMORY_BASELINE_NREGIONS)
		return share_table(fe, regions, count, err);
	if (t->map)
		old = virtq_map_regions(t->map, &old_count);
	/* First remove, then add: the two may overlap (VU-FE-012). */
	rc = share_difference(fe, VHOST_USER_REM_MEM_REG, old, old_count, regions, count, err);
	if (!rc)
		rc = share_difference(fe, VHOST_USER_ADD_MEM_REG, regions, count, old, old_count,
				      err);
	/* Half a table is no state to go on from. */
	if (rc == -EIO)
		vuser_hang_up(&fe->c, rc);
	return rc;
}

static int set_vring_addr(struct vuser_frontend *fe, unsigned int index,
			  const struct virtq_ring *ring, struct virtq_error *err)
{
	struct VhostUserVringAddr *addr = &fe->c.msg.payload.addr;
	const struct virtq_map *map = fe->transport.map;
	struct virtq_ring_shape shape;

	vuser_msg_init(&fe->c.msg, VHOST_USER_SET_VRING_ADDR);
	addr->index = index;
	if (virtq_ring_shape(ring->features, ring->size, &shape) ||
	    transport_user_address(map, ring->desc, shape.desc_bytes, &addr->descriptor) ||
	    transport_user_address(map, ring->driver, shape.driver_bytes, &addr->available) ||
	    transport_user_address(map, ring->device, shape.device_bytes, &addr->used))
		return error_set(err, -EINVAL, "the ring of queue %u is not in shared memory",
				 index);
	return vuser_call(&fe->c, err);
}

static int frontend_start(struct virtq_transport *t, unsigned int index, struct virtq_driver *q,
			  int kick_fd, int call_fd, struct virtq_error *err)
{
	struct vuser_frontend *fe = frontend_of(t);
	const struct virtq_ring *ring = virtq_driver_ring(q);
	int rc;

	rc = vuser_set_state(&fe->c, VHOST_USER_SET_VRING_NUM, index, ring->size, err);
	if (!rc)
		rc = vuser_set_state(&fe->c, VHOST_USER_SET_VRING_BASE, index,
				     virtq_driver_position(q), err);
	if (!rc)
		rc = set_vring_addr(fe, index, ring, err);
	if (!rc)
		rc = vuser_set_fd(&fe->c, VHOST_USER_SET_VRING_CALL, index, call_fd, err);
	if (!rc)
		rc = vuser_set_fd(&fe->c, VHOST_USER_SET_VRING_KICK, index, kick_fd, err);
	if (!rc && fe->raw_features & BIT(VHOST_USER_F_PROTOCOL_FEATURES)) {
		rc = vuser_set_state(&fe->c, VHOST_USER_SET_VRING_ENABLE, index, 1, err);
		if (rc)		/* started all the same */
			vuser_set_state(&fe->c, VHOST_USER_GET_VRING_BASE, index, 0, NULL);
	}
	/* VU-FE-017: older back ends start a ring only when they see a kick. */
	if (!rc && kick_fd >= 0)
		virtq_notify_send(kick_fd);
	return rc;
}

static int frontend_stop(struct virtq_transport *t, unsigned int index, uint32_t *position,
			 struct virtq_error *err)
{
	struct vuser_frontend *fe = frontend_of(t);
	const struct virtq_ring *ring = virtq_driver_ring(t->running[index]);
	int rc = vuser_set_state(&fe->c, VHOST_USER_GET_VRING_BASE, index, 0, err);
	struct VhostUserVringState base;

	if (rc)
		return rc;
	base = fe->c.rx.msg.payload.state;
	/* UNTRUSTED: somebody will start a ring there (VU-FE-041). */
	if (base.index != index)
		rc = error_set(err, -EPROTO, "the back end stopped queue %u instead of %u",
			       base.index, index);
	else if (ring_position_check(ring->features, ring->size, base.num, NULL))
		rc = error_set(err, -EPROTO,
			       "the back end stopped queue %u of %u entries at 0x%x, where no ring can be",
			       index, ring->size, base.num);
	if (rc)
		return vuser_hang_up(&fe->c, rc);
	*position = base.num;
	return 0;
}

static int frontend_queue_reset(struct virtq_transport *t, unsigned int index,
				struct virtq_error *err)
{
	struct vuser_frontend *fe = frontend_of(t);
	uint32_t forgotten;
	int rc = 0;

	if (fe->raw_features & BIT(VHOST_USER_F_PROTOCOL_FEATURES))
		rc = vuser_set_state(&fe->c, VHOST_USER_SET_VRING_ENABLE, index, 0, err);
	/* Its answer is the confirmation. Where to begin again is told at each start. */
	return rc ? rc : frontend_stop(t, index, &forgotten, err);
}

static int frontend_reset(struct virtq_transport *t, struct virtq_error *err)
{
	struct vuser_frontend *fe = frontend_of(t);

	/* Where there is no such message, all rings stopped is what the protocol has for it. */
	return agreed(fe, VHOST_USER_PROTOCOL_F_RESET_DEVICE) ?
	       vuser_call_empty(&fe->c, VHOST_USER_RESET_DEVICE, err) : 0;
}

static int frontend_alive(struct virtq_transport *t)
{
	struct vuser_frontend *fe = frontend_of(t);
	char byte;
	ssize_t n;

	if (fe->c.fd < 0)
		return 0;
	n = recv(fe->c.fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static int frontend_fd(const struct virtq_transport *t)
{
	return ((const struct vuser_frontend *)(const void *)t)->c.fd;
}

static void frontend_close(struct virtq_transport *t)
{
	struct vuser_frontend *fe = frontend_of(t);

	vuser_hang_up(&fe->c, 0);
	free(fe);
}

static const struct transport_ops frontend_ops = {
	.accept = frontend_accept,
	.config_read = frontend_config_read,
	.config_write = frontend_config_write,
	.config_generation = frontend_config_generation,
	.config_fd = frontend_config_fd,
	.share = frontend_share,
	.start = frontend_start,
	.stop = frontend_stop,
	.queue_reset = frontend_queue_reset,
	.reset = frontend_reset,
	.alive = frontend_alive,
	.fd = frontend_fd,
	.close = frontend_close,
};

/* ---- What only this transport can tell; 0 for any other. ---- */

static const struct vuser_frontend *peek(const struct virtq_transport *t)
{
	return t->ops == &frontend_ops ? (const struct vuser_frontend *)(const void *)t : NULL;
}

uint64_t virtq_vhost_user_raw_features(const struct virtq_transport *t)
{
	return peek(t) ? peek(t)->raw_features : 0;
}

uint64_t virtq_vhost_user_protocol_features(const struct virtq_transport *t)
{
	return peek(t) ? peek(t)->protocol_offered : 0;
}

uint64_t virtq_vhost_user_mem_slots(const struct virtq_transport *t)
{
	return peek(t) ? peek(t)->mem_slots : 0;
}

const char *virtq_vhost_user_protocol_name(unsigned int bit)
{
	return vuser_protocol_name(bit);
}
