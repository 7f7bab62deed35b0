/* SPDX-License-Identifier: MIT */
/* One queue reset, and made anew, while others run: over the socket and within one process. */
#include "negotiate.h"

#include <errno.h>
#include <sys/mman.h>

/* L-035: without RING_RESET agreed the call is refused, and the queue runs on. */
static void test_queue_reset_needs_the_feature(void **state)
{
	struct rig *r = *state;

	for (unsigned int world = 0; world < 4; world++) {
		struct virtq_error err = { 0, "" };
		uint64_t features;
		struct virtq_transport *t = open_world(r, world, 0, &features);
		struct queue q;
		void *token;

		queue_open(&q, -1, 0, features, 8);
		share(t, (const struct queue *[]){ &q }, 1);
		start(t, 0, &q);
		queue_echo(&q);
		assert_int_equal(virtq_transport_queue_reset(t, 0, &err), -ENOTSUP);
		assert_non_null(strstr(err.text, "RING_RESET"));
		/* L-028: so it is live, and nothing of it is given back. */
		request(&q, 's', 0, true);
		assert_int_equal(virtq_driver_detach(q.driver, &token), -EBUSY);
		assert_int_equal(write(r->toy.slow_fd[1], "x", 1), 1);
		assert_int_equal(back_within(&q, 2000), 0);
		queue_echo(&q);
		virtq_transport_close(t);
		queue_close(&q);
	}
}

/*
 * L-029, L-031, L-032, L-036: one queue is reset with a slow request in the device
 * and others behind it. The call comes back only when the device has confirmed; each
 * buffer comes back once; after that the ring's memory is taken away and nobody
 * misses it, nor is there a call. All the while another queue runs.
 */
static void test_queue_reset_while_others_run(void **state)
{
	struct rig *r = *state;

	for (unsigned int world = 0; world < 4; world++) {
		uint64_t features;
		struct virtq_transport *t = open_world(r, world, BIT(VIRTIO_F_RING_RESET) |
						       BIT(VIRTIO_F_EVENT_IDX), &features);
		struct virtq_error err = { 0, "" };
		unsigned int back[6] = { 0 };
		struct queue q, other;
		struct helper h;
		void *token;
		int n;

		queue_open(&other, -1, 0, features, 8);
		queue_open(&q, -1, 1, features, 16);
		share(t, (const struct queue *[]){ &other, &q }, 2);
		start(t, 0, &other);
		start(t, 1, &q);
		for (unsigned int k = 0; k < 21; k++) {
			queue_echo(&q);
			queue_echo(&other);
		}
		request(&q, 'h', 0, true);	/* which the device does not let go of */
		request(&q, 'e', 1, true);
		assert_int_equal(back_within(&q, 2000), 1);
		back[1]++;
		for (uintptr_t k = 2; k < 6; k++)
			request(&q, 'e', k, false);
		assert_int_equal(virtq_driver_detach(q.driver, &token), -EBUSY);	/* L-028 */
		helper_start(&h, r, 30);
		assert_int_equal(virtq_transport_queue_reset(t, 1, &err), 0);
		assert_true(helper_done(&h));		/* L-031 */
		pthread_join(h.thread, NULL);
		queue_echo(&other);
		while ((n = back_within(&q, 0)) >= 0)
			back[n]++;
		while (virtq_driver_detach(q.driver, &token) == 1)
			back[(uintptr_t)token - 1]++;
		for (unsigned int k = 0; k < 6; k++)
			assert_int_equal(back[k], 1);
		assert_int_equal(virtq_driver_in_flight(q.driver), 0);

		virtq_notify_clear(q.call_fd);
		assert_int_equal(mprotect(q.memory, QUEUE_BYTES, PROT_NONE), 0);
		for (unsigned int k = 0; k < 20; k++) {
			virtq_notify_send(q.kick_fd);
			queue_echo(&other);
		}
		assert_false(signalled(q.call_fd));
		assert_int_equal(mprotect(q.memory, QUEUE_BYTES, PROT_READ | PROT_WRITE), 0);
		/* A queue that does not run has nothing to be reset. */
		assert_int_equal(virtq_transport_queue_reset(t, 1, &err), -EINVAL);
		assert_int_equal(virtq_transport_queue_reset(t, TOY_QUEUES, &err), -EINVAL);
		virtq_transport_close(t);
		queue_close(&q);
		queue_close(&other);
	}
}

/*
 * L-030, L-033, L-037: from 256 entries to 64, elsewhere, and back, twelve times in
 * mid-lap: the device takes up the new ring from its start, with every call and
 * kick armed anew, while another queue goes on where it was. L-034: the old
 * driver end, which stands in mid-lap, is not started again.
 */
static void test_queue_comes_back_changed(void **state)
{
	struct rig *r = *state;

	for (unsigned int world = 0; world < 4; world++) {
		uint64_t features;
		struct virtq_transport *t = open_world(r, world, BIT(VIRTIO_F_RING_RESET) |
						       BIT(VIRTIO_F_EVENT_IDX), &features);
		struct virtq_error err = { 0, "" };
		struct queue q, other;

		queue_open(&other, -1, 0, features, 8);
		share(t, (const struct queue *[]){ &other }, 1);
		start(t, 0, &other);
		for (unsigned int round = 0; round < 12; round++) {
			uint32_t size = round % 2 ? 64 : 256;

			/* New memory at another address; the old is not shared any more. */
			queue_open(&q, -1, 1 + round % 2, features, size);
			share(t, (const struct queue *[]){ &other, &q }, 2);
			start(t, 1, &q);
			for (unsigned int k = 0; k < size + size / 3 + round; k++) {
				/* Sleeps for each: a kick or call too few would not end. */
				virtq_driver_arm(q.driver);
				request(&q, 'e', 0, true);
				if (virtq_notify_wait(q.call_fd, 2000) != 1)
					fail_msg("world %u, round %u: call %u did not come", world,
						 round, k);
				assert_int_equal(back_within(&q, 0), 0);
				if (k % 16 == 0)
					queue_echo(&other);
			}
			assert_int_equal(virtq_transport_queue_reset(t, 1, &err), 0);
			assert_int_equal(virtq_transport_start(t, 1, q.driver, q.kick_fd, q.call_fd,
							       &err), -EINVAL);
			assert_non_null(strstr(err.text, "made anew"));
			queue_echo(&other);
			queue_close(&q);
		}
		virtq_transport_close(t);
		queue_close(&other);
	}
}

/* L-034, L-037: at re-enabling, each field of the queue is written again, and the start state. */
static void test_re_enable_on_the_wire(void **state)
{
	const uint64_t features = layouts[1] | BIT(VIRTIO_F_RING_RESET);
	struct virtq_transport *t;
	struct queue q[2];
	struct looker l;

	(void)state;
	t = looker_open(&l);
	assert_int_equal(virtq_transport_accept(t, (struct virtq_features){ { features, 0 } },
						NULL), 0);
	queue_open(&q[0], -1, 1, features, 100);
	queue_open(&q[1], -1, 2, features, 33);
	share(t, (const struct queue *[]){ &q[0], &q[1] }, 2);
	start(t, 0, &q[0]);
	assert_int_equal(virtq_transport_queue_reset(t, 0, NULL), 0);
	start(t, 0, &q[1]);
	/* Stopped is not reset: it goes on where it was, and stays enabled until then. */
	assert_int_equal(virtq_transport_stop(t, 0, NULL, NULL), 0);
	looker_close(&l, t);
	assert_int_equal(l.size_count, 2);
	assert_int_equal(l.sizes[0], 100);
	assert_int_equal(l.sizes[1], 33);
	assert_int_equal(l.base_count, 2);
	assert_int_equal(l.bases[0], 0x80008000);
	assert_int_equal(l.bases[1], 0x80008000);
	assert_int_equal(l.address_count, 2);
	assert_int_equal(l.addresses[0], (uintptr_t)q[0].memory);
	assert_int_equal(l.addresses[1], (uintptr_t)q[1].memory);
	assert_int_equal(l.call_count, 2);
	assert_int_equal(l.kick_count, 2);
	assert_int_equal(l.enables, 2);
	assert_int_equal(l.disables, 1);
	assert_int_equal(l.get_bases, 2);
	queue_close(&q[0]);
	queue_close(&q[1]);
}

/* L-031, L-032: a device that does not confirm: the buffers stay the device's. */
static void test_unconfirmed_reset(void **state)
{
	struct rig *r = *state;
	struct virtq_error err = { 0, "" };
	struct virtq_transport *t;
	struct virtq_features f = { { layouts[0] | BIT(VIRTIO_F_RING_RESET), 0 } };
	struct queue q;
	void *token;

	skip_unless_requests_overlap(r);
	assert_int_equal(virtq_vhost_user_connect(&t, r->path, 100, NULL), 0);
	assert_int_equal(virtq_transport_accept(t, f, NULL), 0);
	queue_open(&q, -1, 0, f.word[0], 8);
	share(t, (const struct queue *[]){ &q }, 1);
	start(t, 0, &q);
	request(&q, 's', 0, true);
	request(&q, 'e', 1, true);
	assert_int_equal(back_within(&q, 2000), 1);
	assert_int_equal(virtq_transport_queue_reset(t, 0, &err), -ETIMEDOUT);
	assert_int_equal(virtq_driver_detach(q.driver, &token), -EBUSY);
	assert_int_equal(write(r->toy.slow_fd[1], "x", 1), 1);
	virtq_transport_close(t);
	queue_close(&q);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_queue_reset_needs_the_feature),
		CASE(test_queue_reset_while_others_run),
		CASE(test_queue_comes_back_changed),
		cmocka_unit_test(test_re_enable_on_the_wire),
		CASE(test_unconfirmed_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
