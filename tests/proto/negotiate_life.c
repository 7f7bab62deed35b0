/* SPDX-License-Identifier: MIT */
/*
 * When a device may touch its queues: not before they are live, not after a
 * reset; with features that are frozen in between. Over the socket and within
 * one process.
 */
#include "negotiate.h"

#include <errno.h>
#include <stdlib.h>

#define RING_BYTES 0x8000u	/* at the start of a queue's memory; its buffers lie behind */

/* ---- Before it is live. ---- */

/*
 * L-005: buffers there and a kick sent, but not live yet (not enabled; before
 * that not even started): no buffer is used, no call made. Then all are served.
 */
static void test_nothing_before_live(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 2; i++) {
		uint8_t before[RING_BYTES];
		struct queue q;
		int fd = queue_join(r, &q, 1, layouts[i] | BIT_30, 8);

		for (uintptr_t n = 0; n < 4; n++)
			request(&q, 'e', n, true);
		virtq_notify_send(q.kick_fd);
		memcpy(before, q.memory, RING_BYTES);
		assert_int_equal(back_within(&q, 10), -1);
		queue_kick(&q);			/* started, not enabled */
		virtq_notify_send(q.kick_fd);
		assert_int_equal(back_within(&q, 10), -1);
		assert_false(signalled(q.call_fd));
		for (uintptr_t n = 0; n < 4; n++)
			assert_int_equal(q.memory[BUFFERS + 128 * n + 64], 0);
		/* The device says whether it wants kicks; it has not said that it used one. */
		if (i == 0)
			assert_memory_equal(before, q.memory, 8 * 16);
		queue_enable(&q, 1);
		for (int n = 0; n < 4; n++)
			assert_int_equal(back_within(&q, 2000), n);
		assert_true(readable(q.call_fd, 2000));	/* after the request is back */
		close(fd);
		queue_close(&q);
	}
}

/*
 * L-016: no kick is sent before the queue is live, and a queue into which
 * buffers went before that does not start.
 */
static void test_no_kick_before_live(void **state)
{
	struct virtq_transport *t;
	struct looker l;
	struct queue q;
	void *token;

	(void)state;
	t = looker_open(&l);
	queue_open(&q, -1, 0, layouts[1], 8);
	assert_int_equal(virtq_transport_accept(t, (struct virtq_features){ { layouts[1], 0 } },
						NULL), 0);
	assert_int_equal(virtq_transport_share(t, q.map, NULL), 0);
	request(&q, 'e', 0, false);
	assert_int_equal(virtq_transport_start(t, 0, q.driver, q.kick_fd, q.call_fd, NULL),
			 -EINVAL);
	assert_false(signalled(q.kick_fd));
	virtq_driver_stop(q.driver);
	assert_int_equal(virtq_driver_detach(q.driver, &token), 1);
	virtq_driver_destroy(q.driver);
	virtq_mapping_unref(q.mapping);
	virtq_map_unref(q.map);
	close(q.kick_fd);
	close(q.call_fd);
	close(q.err_fd);
	queue_open(&q, -1, 0, layouts[1], 8);
	assert_int_equal(virtq_transport_share(t, q.map, NULL), 0);
	assert_false(signalled(q.kick_fd));
	start(t, 0, &q);
	assert_int_equal(virtq_transport_alive(t), 1);
	assert_true(signalled(q.kick_fd));		/* VU-FE-017: once it is live */
	looker_close(&l, t);
	assert_int_equal(l.enables, 1);
	assert_int_equal(l.kicked_before, 0);
	queue_close(&q);
}

/* L-050: a queue number that the messages cannot carry, or the device does not have. */
static void test_queue_numbers(void **state)
{
	static const uint32_t numbers[] = { TOY_QUEUES, 255, 256, 65535, 65536, UINT32_MAX };
	struct rig *r = *state;
	struct virtq_transport *t;
	uint64_t features, beyond = 512;
	struct queue q;
	int fd;

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		fd = client_connect(r);
		client_negotiate(fd, ALL_PROTOCOL, layouts[0] | BIT_30);
		assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_NUM, numbers[i], 8), 1);
		assert_int_equal(client_ask_state(fd, VHOST_USER_SET_VRING_ENABLE, numbers[i], 1),
				 1);
		close(fd);
	}
	queue_open(&q, -1, 0, layouts[0], 8);
	/* A kick's number has eight bits, and the ninth means something else. */
	fd = client_connect(r);
	client_negotiate(fd, ALL_PROTOCOL, layouts[0] | BIT_30);
	assert_int_equal(client_ask_fds(fd, VHOST_USER_SET_VRING_KICK, &beyond, 8, &q.kick_fd, 1),
			 1);
	close(fd);
	t = open_world(r, 0, 0, &features);
	share(t, (const struct queue *[]){ &q }, 1);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		assert_int_equal(virtq_transport_start(t, numbers[i], q.driver, q.kick_fd, q.call_fd,
						       NULL), -EINVAL);
	virtq_transport_close(t);
	queue_close(&q);
}

/* ---- Reset of the device. ---- */

/*
 * L-009: a reset with a request in the device; from its answer on the device
 * neither writes nor calls, however it is kicked and whatever that request waited
 * for, until the queue is set up anew.
 */
static void test_silent_after_reset(void **state)
{
	struct rig *r = *state;

	skip_unless_requests_overlap(r);
	for (unsigned int i = 0; i < 2; i++) {
		int fd;
		uint8_t *before = malloc(QUEUE_BYTES);
		struct virtq_driver_config again = { 0 };
		struct queue q;
		char byte;

		assert_non_null(before);
		fd = queue_join(r, &q, 0, layouts[i] | BIT_30, 8);
		queue_run(&q);
		request(&q, 's', 0, true);
		request(&q, 'e', 1, true);
		assert_int_equal(back_within(&q, 2000), 1);	/* so the slow one is in it */
		assert_int_equal(client_ask(fd, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
		memcpy(before, q.memory, QUEUE_BYTES);
		virtq_notify_clear(q.call_fd);
		assert_int_equal(write(r->toy.slow_fd[1], "!", 1), 1);
		for (unsigned int k = 0; k < 20; k++) {
			virtq_notify_send(q.kick_fd);
			sleep_ms(1);
		}
		assert_memory_equal(before, q.memory, QUEUE_BYTES);
		assert_false(signalled(q.call_fd));
		assert_int_equal(read(r->toy.slow_fd[0], &byte, 1), 1);
		/* New: from the start, and it works. */
		again.ring = *virtq_driver_ring(q.driver);
		virtq_driver_destroy(q.driver);
		assert_int_equal(virtq_driver_create(&q.driver, &again, NULL), 0);
		assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, layouts[i] | BIT_30),
				 0);
		queue_set_up(&q);
		queue_run(&q);
		close(fd);
		queue_close(&q);
		free(before);
	}
}

/*
 * F-012, F-032: what was accepted once is accepted again after a reset, and
 * nothing else, or again, in between; with traffic each time. L-036 after a
 * device reset: what was in flight comes back once.
 */
static void test_again_after_reset(void **state)
{
	struct rig *r = *state;

	for (unsigned int world = 0; world < 4; world++) {
		struct virtq_error err = { 0, "" };
		uint64_t features;
		struct virtq_transport *t = open_world(r, world, BIT(6), &features);
		struct virtq_features set = { { features, 0 } }, other = { { BIT(32), 0 } };

		for (unsigned int round = 0; round < 5; round++) {
			struct queue q[2];
			int resets;
			void *token;

			for (unsigned int i = 0; i < 2; i++)
				queue_open(&q[i], -1, i, features, 8);
			share(t, (const struct queue *[]){ &q[0], &q[1] }, 2);
			assert_int_equal(virtq_transport_accept(t, other, &err), -EINVAL);
			assert_non_null(strstr(err.text, "until the device is reset"));
			assert_int_equal(virtq_transport_accept(t, set, &err), -EINVAL);
			for (unsigned int i = 0; i < 2; i++) {
				start(t, i, &q[i]);
				queue_echo(&q[i]);
			}
			assert_int_equal(virtq_transport_accept(t, set, &err), -EINVAL);
			queue_echo(&q[0]);
			request(&q[1], 'e', 3, false);
			resets = __atomic_load_n(&r->toy.resets, __ATOMIC_SEQ_CST);
			assert_int_equal(virtq_transport_reset(t, &err), 0);
			assert_int_equal(__atomic_load_n(&r->toy.resets, __ATOMIC_SEQ_CST), resets + 1);
			assert_int_equal((back_within(&q[1], 0) == 3) +
					 (virtq_driver_detach(q[1].driver, &token) == 1), 1);
			/* Not before new features; and not a driver end that stands elsewhere. */
			assert_int_equal(virtq_transport_start(t, 0, q[0].driver, -1, -1, &err),
					 -EINVAL);
			assert_int_equal(virtq_transport_accept(t, set, &err), 0);
			assert_int_equal(virtq_transport_start(t, 0, q[0].driver, -1, -1, &err),
					 -EINVAL);
			assert_non_null(strstr(err.text, "made anew"));
			queue_close(&q[0]);
			queue_close(&q[1]);
		}
		virtq_transport_close(t);
	}
}

/* F-032: on the wire: while a queue runs another set is refused, and the old one is in force. */
static void test_frozen_while_queues_run(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 2; i++) {
		struct queue q;
		int fd = queue_join(r, &q, 0, layouts[i] | BIT_30, 8);

		queue_run(&q);
		assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES,
						layouts[!i] | BIT_30), 1);
		assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES,
						layouts[i] | BIT(29) | BIT_30), 1);
		queue_echo(&q);
		client_get_base(fd, 0);
		assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES,
						layouts[!i] | BIT_30), 0);
		close(fd);
		queue_close(&q);
	}
}

/* F-021: from session to session the layout follows the bit; a ring of the other is refused. */
static void test_layout_follows_the_bit(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 8; i++) {
		unsigned int world = i * 5 % 4;
		uint64_t features;
		struct virtq_transport *t = open_world(r, world, 0, &features);
		struct queue right, wrong;

		queue_open(&wrong, -1, 1, layouts[!(world % 2)], 8);
		queue_open(&right, -1, 0, features, 8);
		share(t, (const struct queue *[]){ &right, &wrong }, 2);
		assert_int_equal(virtq_transport_start(t, 1, wrong.driver, wrong.kick_fd,
						       wrong.call_fd, NULL), -EINVAL);
		start(t, 0, &right);
		for (unsigned int k = 0; k < 20; k++)
			queue_echo(&right);
		virtq_transport_close(t);
		queue_close(&right);
		queue_close(&wrong);
	}
}

/* F-022: agreed, IN_ORDER holds on every queue: a fast request waits for the slow one before it. */
static void test_in_order_on_every_queue(void **state)
{
	struct rig *r = *state;

	skip_unless_requests_overlap(r);
	for (unsigned int world = 2; world < 4; world++) {
		uint64_t features;
		struct virtq_transport *t = open_world(r, world, BIT(VIRTIO_F_IN_ORDER), &features);
		struct queue q[2];

		for (unsigned int i = 0; i < 2; i++)
			queue_open(&q[i], -1, i, features, 8);
		share(t, (const struct queue *[]){ &q[0], &q[1] }, 2);
		for (unsigned int i = 0; i < 2; i++) {
			start(t, i, &q[i]);
			request(&q[i], 's', 0, true);
			request(&q[i], 'e', 1, true);
			request(&q[i], 'e', 2, true);
		}
		for (unsigned int i = 0; i < 2; i++)
			assert_int_equal(back_within(&q[i], 15), -1);
		assert_int_equal(write(r->toy.slow_fd[1], "xx", 2), 2);
		for (unsigned int i = 0; i < 2; i++)
			for (int n = 0; n < 3; n++)
				assert_int_equal(back_within(&q[i], 2000), n);
		virtq_transport_close(t);
		queue_close(&q[0]);
		queue_close(&q[1]);
	}
}

/* ---- Configuration space before the features are settled. ---- */

/* L-011, L-020: it is shown before anything was accepted, every byte of it. */
static void test_config_before_features(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 2; i++) {
		struct virtq_transport *t;
		uint8_t byte;

		if (i)
			assert_int_equal(virtq_loopback_open(&t, &r->toy.model, r->engines, 2,
							     NULL), 0);
		else
			assert_int_equal(virtq_vhost_user_connect(&t, r->path, 2000, NULL), 0);
		for (unsigned int at = 0; at < TOY_CONFIG_BYTES; at++) {
			assert_int_equal(virtq_transport_config_read(t, at, &byte, 1, NULL), 0);
			assert_int_equal(byte, 0xc0 + at);
		}
		virtq_transport_close(t);
	}
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_nothing_before_live),
		cmocka_unit_test(test_no_kick_before_live),
		CASE(test_queue_numbers),
		CASE(test_silent_after_reset),
		CASE(test_again_after_reset),
		CASE(test_frozen_while_queues_run),
		CASE(test_layout_follows_the_bit),
		CASE(test_in_order_on_every_queue),
		CASE(test_config_before_features),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
