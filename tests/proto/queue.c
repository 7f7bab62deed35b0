/* SPDX-License-Identifier: MIT */
/* See rig.h: a queue of the client's. */
#include "rig.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

const uint64_t layouts[2] = {
	BIT(VIRTIO_F_VERSION_1),
	BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED),
};

void queue_open(struct queue *q, int fd, uint32_t index, uint64_t features, uint32_t size)
{
	struct virtq_features f = { { features, 0 } };
	struct virtq_driver_config config = { .ring = { .features = f, .size = size } };
	struct virtq_region region = { 0 };
	struct virtq_ring_shape shape;

	memset(q, 0, sizeof(*q));
	q->fd = fd;
	q->index = index;
	q->gpa = QUEUE_GPA + (uint64_t)index * QUEUE_BYTES;
	assert_int_equal(virtq_mapping_create(&q->mapping, QUEUE_BYTES, NULL), 0);
	q->memory = virtq_mapping_host(q->mapping);
	region.gpa = q->gpa;
	region.size_bytes = QUEUE_BYTES;
	region.host = q->memory;
	region.user = (uintptr_t)q->memory;
	region.fd = virtq_mapping_fd(q->mapping);
	region.access = VIRTQ_ACCESS_RW;
	region.mapping = q->mapping;
	assert_int_equal(virtq_map_create(&q->map, &region, 1, NULL), 0);
	assert_int_equal(virtq_ring_shape(f, size, &shape), 0);
	config.ring.desc = q->memory;
	config.ring.driver = q->memory + shape.driver_offset;
	config.ring.device = q->memory + shape.device_offset;
	assert_int_equal(virtq_driver_create(&q->driver, &config, NULL), 0);
	q->kick_fd = virtq_notify_open();
	q->call_fd = virtq_notify_open();
	q->err_fd = virtq_notify_open();
}

void queue_close(struct queue *q)
{
	virtq_driver_destroy(q->driver);
	virtq_map_unref(q->map);
	virtq_mapping_unref(q->mapping);
	close(q->kick_fd);
	close(q->call_fd);
	close(q->err_fd);
}

struct VhostUserMemoryRegion queue_region(const struct queue *q)
{
	return (struct VhostUserMemoryRegion){ q->gpa, QUEUE_BYTES, (uintptr_t)q->memory, 0 };
}

struct VhostUserVringAddr queue_addr(const struct queue *q)
{
	const struct virtq_ring *ring = virtq_driver_ring(q->driver);

	return (struct VhostUserVringAddr){
		.index = q->index,
		.descriptor = (uintptr_t)ring->desc,
		.used = (uintptr_t)ring->device,
		.available = (uintptr_t)ring->driver,
	};
}

void queues_share(const struct queue *const *q, unsigned int count)
{
	struct VhostUserMemory table = { .nregions = count };
	int fds[TOY_QUEUES];

	for (unsigned int i = 0; i < count; i++) {
		table.regions[i] = queue_region(q[i]);
		fds[i] = virtq_mapping_fd(q[i]->mapping);
	}
	assert_int_equal(client_ask_fds(q[0]->fd, VHOST_USER_SET_MEM_TABLE, &table,
					8 + count * sizeof(table.regions[0]), fds, count), 0);
}

void queue_share(const struct queue *q)
{
	queues_share(&q, 1);
}

void queue_set_up(struct queue *q)
{
	struct VhostUserVringAddr addr = queue_addr(q);
	uint64_t index = q->index;

	assert_int_equal(client_ask_state(q->fd, VHOST_USER_SET_VRING_NUM, q->index,
					  virtq_driver_ring(q->driver)->size), 0);
	assert_int_equal(client_ask_state(q->fd, VHOST_USER_SET_VRING_BASE, q->index,
					  virtq_driver_position(q->driver)), 0);
	assert_int_equal(client_ask(q->fd, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr)), 0);
	assert_int_equal(client_ask_fds(q->fd, VHOST_USER_SET_VRING_CALL, &index, 8,
					&q->call_fd, 1), 0);
	assert_int_equal(client_ask_fds(q->fd, VHOST_USER_SET_VRING_ERR, &index, 8,
					&q->err_fd, 1), 0);
}

void queue_kick(struct queue *q)
{
	uint64_t index = q->index;

	assert_int_equal(client_ask_fds(q->fd, VHOST_USER_SET_VRING_KICK, &index, 8,
					&q->kick_fd, 1), 0);
}

void queue_enable(struct queue *q, uint32_t enable)
{
	assert_int_equal(client_ask_state(q->fd, VHOST_USER_SET_VRING_ENABLE, q->index, enable),
			 0);
}

#define REQUEST_OFFSET 0x80000u

void queue_request(struct queue *q, char kind)
{
	uint64_t gpa = q->gpa + REQUEST_OFFSET;
	struct virtq_seg segs[2] = { { gpa, 1 }, { gpa + 64, 1 } };
	struct virtq_buffer buffer = { segs, 1, 1, q };

	q->memory[REQUEST_OFFSET] = (uint8_t)kind;
	q->memory[REQUEST_OFFSET + 64] = 0;
	assert_int_equal(virtq_driver_add(q->driver, &buffer, 1), 1);
	if (virtq_driver_publish(q->driver))
		virtq_notify_send(q->kick_fd);
}

static bool answer_within(struct queue *q, int ms)
{
	struct virtq_completion done;

	for (int i = 0; i <= ms; i++) {
		int n = virtq_driver_get(q->driver, &done, 1);

		assert_true(n >= 0);
		if (n) {
			assert_int_equal(done.written, 1);
			return true;
		}
		usleep(1000);
	}
	return false;
}

void queue_answered(struct queue *q)
{
	if (!answer_within(q, 2000))
		fail_msg("no answer from queue %u", q->index);
	assert_int_equal(q->memory[REQUEST_OFFSET + 64] != 0, 1);
}

void queue_unanswered(struct queue *q, int ms)
{
	assert_false(answer_within(q, ms));
}

void queue_kick_taken(struct queue *q)
{
	for (unsigned int ms = 0; readable(q->kick_fd, 0); ms++) {
		assert_true(ms < 10000);
		sleep_ms(1);
	}
}

void queue_echo(struct queue *q)
{
	queue_request(q, 'e');
	queue_answered(q);
}

struct virtq_req *queue_hold(struct rig *r, struct queue *q)
{
	struct virtq_req *held;

	__atomic_store_n(&r->toy.held, NULL, __ATOMIC_SEQ_CST);
	queue_request(q, 'h');
	while (!(held = __atomic_load_n(&r->toy.held, __ATOMIC_SEQ_CST)))
		sched_yield();
	return held;
}

int queue_join(struct rig *r, struct queue *q, uint32_t index, uint64_t features, uint32_t size)
{
	int fd = client_connect(r);

	client_negotiate(fd, ALL_PROTOCOL, features);
	queue_open(q, fd, index, features & ~BIT_30, size);
	queue_share(q);
	queue_set_up(q);
	return fd;
}

void queue_run(struct queue *q)
{
	queue_kick(q);
	queue_enable(q, 1);
	queue_echo(q);
}

void queue_leave(struct rig *r, struct queue *q)
{
	unsigned int gone = rig_events(r, VIRTQ_VU_DISCONNECTED);

	close(q->fd);
	rig_await(r, VIRTQ_VU_DISCONNECTED, gone + 1, NULL);
	queue_close(q);
}

void queue_break(struct queue *q)
{
	struct virtq_avail *avail = virtq_driver_ring(q->driver)->driver;

	__atomic_store_n(&avail->idx.raw, (uint16_t)0x7070, __ATOMIC_RELEASE);
	virtq_notify_send(q->kick_fd);
}
