/* SPDX-License-Identifier: MIT */
/*
 * A session of the vhost-user back end, fed messages over a socket pair.
 *
 * The messages are right unless the input spoils a field, their number of
 * descriptors, or how they are cut into pieces. A disk of a few sectors is
 * behind the session and an engine turns its rings, so that the client's
 * memory, which the input fills too, is looked at as well. What the back end
 * says must be well-formed, and no descriptor may be left over.
 * VU-BE-003, VU-BE-006, VU-BE-031, VU-BE-046.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <virtq/blk.h>
#include <virtq/notify.h>
#include <virtq/spec/virtio.h>

#include "transport/vu_session.h"

#include "../sanitizers.h"
#include "peer.h"

#define BIT(n) ((uint64_t)1 << (n))
#define QUEUES 2u
#define RING_SIZE 8u
#define FDS_MAX (VUSER_FDS_MAX + 3)
#define DISK_BYTES 16384u
#define MEMORY_BYTES 65536u		/* the client's; two regions of half of it */
#define HALF (MEMORY_BYTES / 2)
#define USER 0x7f0000000000u
#define HEADER_AT 0x4000u		/* of block requests, often */
#define HEADER_BYTES 16u
#define RANGE_BYTES 16u
#define RING_BYTES 1024u		/* each queue's ring has as much at the start */

/* Once for all inputs. */
static struct virtq_model *model;
static struct virtq_engine *engine;
static struct vuser_counters counters = { .lock = PTHREAD_MUTEX_INITIALIZER };
static struct vuser_channel channel = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1 };
static struct virtq_vhost_user_server_config config;
static uint64_t offered;
static int memory_fd, notify_fd;
static uint8_t *memory;

struct run {
	struct input in;
	struct vuser_session *session;
	int client, server;
	int short_fd;			/* a file that the client makes shorter, or -1 */
	bool packed;
	struct memory view;		/* the client's memory, as the driver needs it */
	struct peer peer;		/* drives queue 0 */
	bool over;
	unsigned int more_fds;		/* that ride on the next message, beyond all measure */
	/* A reply on its way. */
	uint8_t reply[sizeof(struct VhostUserHeader) + VUSER_PAYLOAD_MAX];
	size_t have;
};

/* ---- Messages ----------------------------------------------------------- */

static struct VhostUserMemoryRegion region(uint32_t half)
{
	return (struct VhostUserMemoryRegion){ half * HALF, HALF, USER + half * HALF,
					       half * HALF };
}

static struct VhostUserVringAddr ring_addr(const struct run *r, uint32_t index)
{
	struct virtq_features f = { { BIT(VIRTIO_F_VERSION_1) |
				      (r->packed ? BIT(VIRTIO_F_RING_PACKED) : 0), 0 } };
	struct virtq_ring_shape shape;
	uint64_t at = USER + index * RING_BYTES;

	FUZZ_CHECK(!virtq_ring_shape(f, RING_SIZE, &shape));
	return (struct VhostUserVringAddr){ index, 0, at, at + shape.device_offset,
					    at + shape.driver_offset, 0 };
}

/* A message of that type as a client would send it, for queue @index. */
static void fill(const struct run *r, struct vuser_msg *msg, uint32_t request, uint32_t index)
{
	vuser_msg_init(msg, request);
	switch (request) {
	case VHOST_USER_SET_FEATURES:
		msg->payload.u64 = BIT(VIRTIO_F_VERSION_1) | BIT(VHOST_USER_F_PROTOCOL_FEATURES) |
				   BIT(VIRTIO_F_INDIRECT_DESC) |
				   (r->packed ? BIT(VIRTIO_F_RING_PACKED) : 0);
		break;
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		msg->payload.u64 = BIT(VHOST_USER_PROTOCOL_F_MQ) |
				   BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
				   BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
				   BIT(VHOST_USER_PROTOCOL_F_CONFIG) |
				   BIT(VHOST_USER_PROTOCOL_F_RESET_DEVICE) |
				   BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
		break;
	case VHOST_USER_SET_MEM_TABLE:
		vuser_msg_set_regions(msg, 2);
		msg->payload.memory.regions[0] = region(0);
		msg->payload.memory.regions[1] = region(1);
		msg->fd_count = 2;
		break;
	case VHOST_USER_ADD_MEM_REG:
		msg->payload.mem_reg.region = region(index);
		msg->fd_count = 1;
		break;
	case VHOST_USER_REM_MEM_REG: msg->payload.mem_reg.region = region(index); break;
	case VHOST_USER_SET_VRING_NUM:
		msg->payload.state = (struct VhostUserVringState){ index, RING_SIZE };
		break;
	case VHOST_USER_SET_VRING_BASE:
		msg->payload.state = (struct VhostUserVringState){ index,
								   r->packed ? 0x80008000 : 0 };
		break;
	case VHOST_USER_SET_VRING_ADDR: msg->payload.addr = ring_addr(r, index); break;
	case VHOST_USER_SET_VRING_ENABLE:
		msg->payload.state = (struct VhostUserVringState){ index, 1 };
		break;
	case VHOST_USER_GET_VRING_BASE: msg->payload.state.index = index; break;
	case VHOST_USER_SET_VRING_KICK:
	case VHOST_USER_SET_VRING_CALL:
	case VHOST_USER_SET_VRING_ERR:
		msg->payload.u64 = index;
		msg->fd_count = 1;
		break;
	case VHOST_USER_SET_BACKEND_REQ_FD: msg->fd_count = 1; break;
	case VHOST_USER_GET_CONFIG: vuser_msg_set_config(msg, 0, 60); break;
	case VHOST_USER_SET_CONFIG: vuser_msg_set_config(msg, 32, 1); break;
	default: break;
	}
	for (unsigned int i = 0; i < msg->fd_count; i++)
		msg->fds[i] = request == VHOST_USER_SET_MEM_TABLE ||
			      request == VHOST_USER_ADD_MEM_REG ? memory_fd :
			      request == VHOST_USER_SET_BACKEND_REQ_FD ? r->client : notify_fd;
}

/* A file of the client's own that can be made shorter while it is mapped. */
static int short_file(struct run *r)
{
	if (r->short_fd < 0) {
		r->short_fd = memfd_create("fuzz-short", MFD_CLOEXEC);
		FUZZ_CHECK(r->short_fd >= 0 && !ftruncate(r->short_fd, MEMORY_BYTES));
	}
	return r->short_fd;
}

static void spoil(struct run *r, struct vuser_msg *msg)
{
	uint8_t how = take8(&r->in);
	uint32_t at;

	switch (how % 8) {
	case 0: msg->header.request = take8(&r->in); break;
	case 1: msg->header.flags = take8(&r->in); break;
	case 2: msg->header.size = (uint32_t)take_number(&r->in) % VUSER_PAYLOAD_MAX; break;
	case 3:
		msg->fd_count = take_below(&r->in, VUSER_FDS_MAX + 1);
		for (unsigned int i = 0; i < msg->fd_count; i++)
			msg->fds[i] = take8(&r->in) & 1 ? notify_fd : memory_fd;
		r->more_fds = how >> 6;
		break;
	case 4:
		for (unsigned int i = 0; i < msg->fd_count; i++)
			msg->fds[i] = short_file(r);
		break;
	default:	/* one field of the payload */
		at = take_below(&r->in, msg->header.size ? msg->header.size : 1) & ~3u;
		if (how & 8)
			put_le(msg->payload.bytes + (at & ~7u), take_number(&r->in), 8);
		else
			put_le(msg->payload.bytes + at, take_number(&r->in), 4);
		break;
	}
}

/* ---- The socket --------------------------------------------------------- */

/* Some bytes; with @msg they carry its descriptors. */
static void send_piece(struct run *r, const uint8_t *from, size_t bytes,
		       const struct vuser_msg *msg)
{
	union { char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))]; struct cmsghdr align; } control;
	unsigned int count = msg ? msg->fd_count : 0;
	int fds[FDS_MAX];
	struct iovec iov = { (void *)(uintptr_t)from, bytes };
	struct msghdr out = { .msg_iov = &iov, .msg_iovlen = 1 };

	for (unsigned int i = 0; i < count; i++)
		fds[i] = msg->fds[i];
	for (; msg && r->more_fds; r->more_fds--)
		fds[count++] = notify_fd;
	if (count) {
		struct cmsghdr *c = (struct cmsghdr *)(void *)control.bytes;

		memset(&control, 0, sizeof(control));
		out.msg_control = control.bytes;
		out.msg_controllen = CMSG_SPACE(count * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	}
	FUZZ_CHECK(sendmsg(r->client, &out, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)bytes);
}

/* Take what the back end said, and look whether it is well-formed. */
static void take_replies(struct run *r)
{
	for (;;) {
		struct VhostUserHeader header;
		size_t want = sizeof(header);
		ssize_t n;

		if (r->have >= sizeof(header)) {
			memcpy(&header, r->reply, sizeof(header));
			FUZZ_CHECK(header.flags == (VHOST_USER_VERSION | VHOST_USER_REPLY_MASK));
			FUZZ_CHECK(header.size <= sizeof(struct VhostUserConfig));
			want += header.size;
		}
		if (r->have == want && r->have >= sizeof(header)) {
			r->have = 0;
			continue;
		}
		n = recv(r->client, r->reply + r->have, want - r->have, MSG_DONTWAIT);
		if (n <= 0)
			break;
		r->have += (size_t)n;
	}
	FUZZ_CHECK(!r->have);
}

/* Let the session take all that has arrived, as virtq_vhost_user_serve() does. */
static void serve(struct run *r)
{
	struct virtq_error err;
	int waiting, rc;

	while (!r->over && !ioctl(r->server, FIONREAD, &waiting) && waiting) {
		rc = vuser_session_serve(r->session, &err);
		if (rc) {
			FUZZ_CHECK(rc < 0 && err.code == rc && err.text[0]);
			r->over = true;
		}
		take_replies(r);
	}
	for (unsigned int i = 0; i < QUEUES && !r->over; i++)
		vuser_vring_broke(r->session, i);
}

static void send_message(struct run *r, const struct vuser_msg *msg)
{
	uint8_t wire[sizeof(msg->header) + VUSER_PAYLOAD_MAX];
	size_t bytes = sizeof(msg->header) + msg->header.size, cut = 0;

	memcpy(wire, &msg->header, sizeof(msg->header));
	memcpy(wire + sizeof(msg->header), &msg->payload, msg->header.size);
	if (take_odd(&r->in))
		cut = take_below(&r->in, (uint32_t)bytes);
	if (cut) {
		send_piece(r, wire, cut, msg);
		serve(r);
	}
	if (!r->over)
		send_piece(r, wire + cut, bytes - cut, cut && take8(&r->in) < 0xf0 ? NULL : msg);
	serve(r);
}

static void send_right(struct run *r, uint32_t request, uint32_t index)
{
	static struct vuser_msg msg;

	fill(r, &msg, request, index);
	if (take_odd(&r->in))
		spoil(r, &msg);
	if (!r->over)
		send_message(r, &msg);
}

/* From nothing to a ring that runs. */
static void send_beginning(struct run *r, uint32_t index)
{
	static const uint8_t requests[] = {
		VHOST_USER_SET_OWNER, VHOST_USER_GET_FEATURES, VHOST_USER_SET_PROTOCOL_FEATURES,
		VHOST_USER_SET_FEATURES, VHOST_USER_SET_MEM_TABLE, VHOST_USER_SET_VRING_NUM,
		VHOST_USER_SET_VRING_BASE, VHOST_USER_SET_VRING_ADDR, VHOST_USER_SET_VRING_CALL,
		VHOST_USER_SET_VRING_ERR, VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_ENABLE,
	};

	for (unsigned int i = 0; i < sizeof(requests); i++)
		send_right(r, requests[i], index);
}

static void send_any(struct run *r)
{
	static struct vuser_msg msg;
	uint32_t request = take8(&r->in) % 48;

	if (vuser_rule(request)) {
		fill(r, &msg, request, take_below(&r->in, QUEUES + 1));
	} else {
		memset(&msg, 0, sizeof(msg));
		msg.header = (struct VhostUserHeader){ request, VHOST_USER_VERSION,
						       take8(&r->in) };
	}
	if (take8(&r->in) & 1)
		msg.header.flags |= VHOST_USER_NEED_REPLY_MASK;
	if (take8(&r->in) & 1)
		spoil(r, &msg);
	send_message(r, &msg);
}

/* ---- The ring of queue 0 ------------------------------------------------ */

static void set_area(struct run *r, unsigned int i, uint32_t at, uint32_t bytes)
{
	r->view.areas[i] = (struct area){ memory + at, at, bytes, VIRTQ_ACCESS_RW };
}

/* The client's memory, in the shape that struct peer writes to. */
static void set_view(struct run *r)
{
	struct virtq_features f = { { BIT(VIRTIO_F_VERSION_1) |
				      (r->packed ? BIT(VIRTIO_F_RING_PACKED) : 0), 0 } };
	struct virtq_ring_shape shape;
	uint32_t driver, device;

	FUZZ_CHECK(!virtq_ring_shape(f, RING_SIZE, &shape) && shape.total_bytes <= RING_BYTES);
	driver = (uint32_t)shape.driver_offset;
	device = (uint32_t)shape.device_offset;
	r->view.ring.features = f;
	r->view.ring.size = RING_SIZE;
	r->view.area_count = AREA_DATA;
	set_area(r, AREA_FIRST, HALF - 2048, 2048);	/* up to where the regions meet */
	set_area(r, AREA_SECOND, HALF, 2048);
	set_area(r, AREA_READ_ONLY, HEADER_AT, HEADER_BYTES);	/* a header, often */
	set_area(r, AREA_WRITE_ONLY, 0x5000, 1);	/* a status */
	set_area(r, AREA_TABLES, 0x2000, TABLE_BYTES);
	set_area(r, AREA_TOP, MEMORY_BYTES - 1024, 1024);
	set_area(r, AREA_DESC, 0, (uint32_t)shape.desc_bytes);
	set_area(r, AREA_DRIVER, driver, (uint32_t)shape.driver_bytes);
	set_area(r, AREA_DEVICE, device, (uint32_t)shape.device_bytes);
	memset(memory, 0, MEMORY_BYTES);
	peer_init(&r->peer, &r->view, true, 1024, r->packed ? 0x80008000 : 0);
}

/* What DISCARD, WRITE_ZEROES and SECURE_ERASE are about: near the disk's end, often. */
static void put_range(struct run *r)
{
	uint8_t *range = r->view.areas[AREA_READ_ONLY].host + HEADER_BYTES;

	put_le(range, take_below(&r->in, 40), 8);
	put_le(range + 8, take_odd(&r->in) ? take16(&r->in) : take_below(&r->in, 40), 4);
	put_le(range + 12, take_odd(&r->in) ? take8(&r->in) : take_below(&r->in, 2), 4);
}

static void do_offer(struct run *r)
{
	static const uint8_t types[] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH,
					 VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD,
					 VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_SECURE_ERASE,
					 VIRTIO_BLK_T_GET_LIFETIME };
	uint8_t how = take8(&r->in);

	/* With bit 3 a range follows the header, in the same area. */
	set_area(r, AREA_READ_ONLY, HEADER_AT, how & 8 ? HEADER_BYTES + RANGE_BYTES : HEADER_BYTES);
	if (how & 8)
		put_range(r);
	put_le(r->view.areas[AREA_READ_ONLY].host,
	       how & 8 ? types[4 + (how & 3)] : how & 4 ? how : types[how & 3], 4);
	put_le(r->view.areas[AREA_READ_ONLY].host + 8, take_below(&r->in, 40), 8);
	/* What is used is not waited for: all of it counts as back once the ring is full. */
	if (!peer_offer(&r->peer, &r->in))
		for (uint16_t id = 0; id < RING_SIZE; id++)
			peer_release(&r->peer, id);
	r->peer.queued = 0;
	virtq_notify_send(notify_fd);
}

static void turn(struct run *r)
{
	switch (take_below(&r->in, 16)) {
	case 0: case 1: case 2: case 3: case 4: send_any(r); break;
	case 5: send_beginning(r, take_below(&r->in, QUEUES)); break;
	case 6: send_right(r, VHOST_USER_GET_VRING_BASE, take_below(&r->in, QUEUES)); break;
	case 7: send_right(r, VHOST_USER_SET_VRING_KICK, take_below(&r->in, QUEUES)); break;
	case 8: send_right(r, VHOST_USER_SET_MEM_TABLE, 0); break;
	case 9: case 10: case 11: case 12: do_offer(r); break;
	case 13: peer_scribble(&r->peer, &r->in); break;
	case 14: peer_set_event(&r->peer, &r->in); break;
	default:
		if (r->short_fd >= 0)
			FUZZ_CHECK(!ftruncate(r->short_fd, take16(&r->in)));
		vuser_channel_tell(&channel);
		break;
	}
}

/* ---- Around it ---------------------------------------------------------- */

/* The lowest free descriptor: grows when one is left over. */
static int lowest_fd(void)
{
	int fd = fcntl(notify_fd, F_DUPFD_CLOEXEC, 3);

	FUZZ_CHECK(fd >= 0);
	close(fd);
	return fd;
}

static void on_event(void *arg, enum virtq_vhost_user_event event, int queue, const char *text)
{
	(void)arg;
	FUZZ_CHECK(event <= VIRTQ_VU_NACKED && queue >= -1 && queue < (int)QUEUES && text[0]);
}

static void set_up_once(void)
{
	struct virtq_engine_config engine_config = { .kind = VIRTQ_ENGINE_SYNC };
	struct virtq_blk_options disk = { .queues = QUEUES, .queue_size_max = 16 };
	int disk_fd = memfd_create("fuzz-disk", MFD_CLOEXEC);
	struct virtq_error err;
	char path[64];

#if UNDER_TSAN
	printf("the client's memory is written while the engine reads it: a race, on purpose\n");
	exit(77);
#endif
	FUZZ_CHECK(disk_fd >= 0 && !ftruncate(disk_fd, DISK_BYTES));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk_fd);
	disk.path = path;
	FUZZ_CHECK(!virtq_blk_create(&model, &disk, &err));
	FUZZ_CHECK(!virtq_engine_create(&engine, &engine_config, &err));
	FUZZ_CHECK(!virtq_guard_install(&err));	/* for files that become shorter */
	counters.queue = calloc(QUEUES, sizeof(*counters.queue));
	memory_fd = memfd_create("fuzz-memory", MFD_CLOEXEC);
	FUZZ_CHECK(counters.queue && memory_fd >= 0 && !ftruncate(memory_fd, MEMORY_BYTES));
	memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	FUZZ_CHECK(memory != MAP_FAILED);
	notify_fd = virtq_notify_open();
	FUZZ_CHECK(notify_fd >= 0);
	config = (struct virtq_vhost_user_server_config){
		.model = model, .engines = &engine, .engine_count = 1, .listen_fd = -1,
		.features = virtq_ring_features_usual(), .event = on_event,
	};
	offered = virtq_features_or(model->features, config.features).word[0] |
		  BIT(VIRTIO_F_IN_ORDER) | BIT(VHOST_USER_F_PROTOCOL_FEATURES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = { .in = { data, size }, .short_fd = -1 };
	int sockets[2], before;
	uint8_t how;

	if (!model)
		set_up_once();
	before = lowest_fd();	/* libFuzzer opens some, too, between inputs */
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets));
	r.client = sockets[0];
	r.server = sockets[1];
	FUZZ_CHECK(!vuser_session_open(&r.session, r.server, &config, &counters, &channel,
				       offered));
	how = take8(&r.in);
	r.packed = how & 1;
	set_view(&r);
	if (!(how & 2))
		send_beginning(&r, 0);
	while (r.in.left && !r.over)
		turn(&r);
	vuser_session_halt(r.session);
	vuser_session_close(r.session);
	close(r.client);
	if (r.short_fd >= 0)
		close(r.short_fd);
	peer_fini(&r.peer);
	virtq_notify_clear(notify_fd);
	FUZZ_CHECK(lowest_fd() == before);
	return 0;
}
