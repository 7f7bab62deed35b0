/* SPDX-License-Identifier: MIT */
/* Both of our ends together: over a socket, and in one process. Same tests for both. */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const bool over_socket[2] = { true, false };

static struct virtq_transport *open_transport(struct rig *r, bool socket)
{
	struct virtq_transport *t = NULL;
	struct virtq_error err = { 0, "" };
	int rc = socket ? virtq_vhost_user_connect(&t, r->path, 2000, &err) :
			  virtq_loopback_open(&t, &r->toy.model, r->engines, 2, &err);

	if (rc)
		fail_msg("%s", err.text);
	return t;
}

static void call(int rc, const struct virtq_error *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

static void start(struct virtq_transport *t, struct queue *q, unsigned int index)
{
	struct virtq_error err = { 0, "" };

	call(virtq_transport_start(t, index, q->driver, q->kick_fd, q->call_fd, &err), &err);
}

/* From offered() to close(), each layout: requests are answered, the device is what it is. */
static void test_whole_life(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 4; i++) {
		uint64_t features = layouts[i % 2] | BIT(VIRTIO_F_EVENT_IDX) | BIT(6);
		struct virtq_transport *t = open_transport(r, over_socket[i / 2]);
		struct virtq_error err = { 0, "" };
		uint8_t config[6];
		struct queue q;

		assert_int_equal(virtq_transport_offered(t).word[0],
				 TOY_FEATURES | virtq_ring_features_usual().word[0] |
				 (over_socket[i / 2] ? 0 : BIT(VIRTIO_F_IN_ORDER)));
		assert_int_equal(virtq_transport_queues(t), TOY_QUEUES);
		assert_int_equal(virtq_transport_device_id(t), over_socket[i / 2] ? 0 : 42);
		call(virtq_transport_accept(t, (struct virtq_features){ { features, 0 } }, &err),
		     &err);
		call(virtq_transport_config_read(t, 12, config, sizeof(config), &err), &err);
		assert_memory_equal(config, "\xcc\xcd\xce\xcf\0\0", 6);
		queue_open(&q, -1, 2, features, 33 - 1);
		call(virtq_transport_share(t, q.map, &err), &err);
		start(t, &q, 2);
		for (unsigned int k = 0; k < 200; k++) {
			virtq_driver_arm(q.driver);
			queue_request(&q, 'e');
			assert_int_equal(virtq_notify_wait(q.call_fd, 2000), 1);
			queue_answered(&q);
		}
		assert_int_equal(virtq_transport_alive(t), 1);
		virtq_transport_close(t);
		queue_close(&q);
	}
}

/* Features that the device cannot work with are refused with a sentence, by both. */
static void test_refused_features(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 2; i++) {
		struct virtq_transport *t = open_transport(r, over_socket[i]);
		struct virtq_features bad = { { layouts[0] | BIT(5), 0 } };
		struct virtq_features good = { { layouts[0] | BIT(5) | BIT(6), 0 } };
		struct virtq_error err = { 0, "" };

		assert_true(virtq_transport_accept(t, bad, &err) < 0);
		assert_true(err.text[0]);
		call(virtq_transport_accept(t, good, &err), &err);
		virtq_transport_close(t);
	}
}

/* Stopped and started again, a queue goes on where it was; so does one made anew there. */
static void test_stop_and_go_on(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 4; i++) {
		struct virtq_features features = { { layouts[i % 2], 0 } };
		struct virtq_transport *t = open_transport(r, over_socket[i / 2]);
		struct virtq_error err = { 0, "" };
		struct virtq_driver_config again = { 0 };
		uint32_t position;
		struct queue q;
		void *token;

		call(virtq_transport_accept(t, features, &err), &err);
		queue_open(&q, -1, 0, layouts[i % 2], 8);
		call(virtq_transport_share(t, q.map, &err), &err);
		for (unsigned int k = 0; k < 30; k++) {
			start(t, &q, 0);
			for (unsigned int n = 0; n < 1 + k % 5; n++)
				queue_echo(&q);
			call(virtq_transport_stop(t, 0, &position, &err), &err);
			assert_int_equal(position, virtq_driver_position(q.driver));
			again.ring = *virtq_driver_ring(q.driver);
			again.position = k % 3 == 1 ? &position : NULL;
			if (k % 3 == 0) {
				/* What the device never took comes back; the ring is over then. */
				queue_request(&q, 'e');
				queue_unanswered(&q, 3);
				assert_int_equal(virtq_driver_detach(q.driver, &token), -EBUSY);
				virtq_driver_stop(q.driver);
				assert_int_equal(virtq_driver_detach(q.driver, &token), 1);
				assert_ptr_equal(token, &q);
			}
			if (k % 3 == 2)		/* goes on as it is */
				continue;
			/* Made anew: where it was, or at the start. */
			virtq_driver_destroy(q.driver);
			call(virtq_driver_create(&q.driver, &again, &err), &err);
			if (again.position)
				assert_int_equal(virtq_driver_position(q.driver), position);
		}
		virtq_transport_close(t);
		queue_close(&q);
	}
}

/* Memory comes and goes under a running queue: few regions, many, and few again. */
static void test_share_while_running(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 4; i++) {
		struct virtq_features features = { { layouts[i % 2], 0 } };
		struct virtq_transport *t = open_transport(r, over_socket[i / 2]);
		struct virtq_error err = { 0, "" };
		struct virtq_region regions[20];
		struct virtq_mapping *page;
		struct virtq_map *many;
		struct queue q;
		unsigned int n;

		call(virtq_transport_accept(t, features, &err), &err);
		queue_open(&q, -1, 0, layouts[i % 2], 16);
		call(virtq_mapping_create(&page, 4096, &err), &err);
		regions[0] = *virtq_map_regions(q.map, &n);
		for (n = 1; n < 20; n++)
			regions[n] = (struct virtq_region){
				.gpa = 0x1000000 + n * 4096u, .size_bytes = 4096,
				.host = virtq_mapping_host(page), .user = 0x1000000 + n * 4096u,
				.fd = virtq_mapping_fd(page), .access = VIRTQ_ACCESS_RW,
				.mapping = page };
		call(virtq_map_create(&many, regions, 20, &err), &err);
		call(virtq_transport_share(t, q.map, &err), &err);
		start(t, &q, 1);
		for (unsigned int k = 0; k < 10; k++) {
			queue_echo(&q);
			call(virtq_transport_share(t, many, &err), &err);
			queue_echo(&q);
			call(virtq_transport_share(t, q.map, &err), &err);
		}
		virtq_transport_close(t);
		virtq_map_unref(many);
		virtq_mapping_unref(page);
		queue_close(&q);
	}
}

/* A driver that breaks its ring gets no answers any more, and a new start afterwards. */
static void test_broken_queue_is_started_anew(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < 2; i++) {
		struct virtq_features features = { { layouts[0], 0 } };
		struct virtq_transport *t = open_transport(r, over_socket[i]);
		struct virtq_error err = { 0, "" };
		struct virtq_driver_config fresh = { 0 };
		struct queue q;

		call(virtq_transport_accept(t, features, &err), &err);
		queue_open(&q, -1, 0, layouts[0], 16);
		call(virtq_transport_share(t, q.map, &err), &err);
		start(t, &q, 0);
		queue_echo(&q);
		queue_break(&q);
		queue_unanswered(&q, 20);
		call(virtq_transport_stop(t, 0, NULL, &err), &err);
		fresh.ring = *virtq_driver_ring(q.driver);
		virtq_driver_destroy(q.driver);
		call(virtq_driver_create(&q.driver, &fresh, &err), &err);
		start(t, &q, 0);
		queue_echo(&q);
		virtq_transport_close(t);
		queue_close(&q);
	}
}

/* A back end that goes away is noticed, and nothing hangs. */
static void test_back_end_goes_away(void **state)
{
	struct rig *r = *state;
	struct virtq_features features = { { layouts[0], 0 } };
	struct virtq_transport *t = open_transport(r, true);
	struct virtq_error err = { 0, "" };
	struct queue q;
	int fd;

	call(virtq_transport_accept(t, features, &err), &err);
	queue_open(&q, -1, 0, layouts[0], 16);
	call(virtq_transport_share(t, q.map, &err), &err);
	start(t, &q, 0);
	queue_echo(&q);
	/* To be slept on: quiet as long as it is there, and then not any more. */
	fd = virtq_transport_fd(t);
	assert_true(fd >= 0);
	assert_false(readable(fd, 0));
	virtq_vhost_user_server_stop(r->server);
	pthread_join(r->thread, NULL);
	assert_true(readable(fd, 10000));
	assert_int_equal(virtq_transport_alive(t), 0);
	assert_true(virtq_transport_stop(t, 0, NULL, &err) < 0);
	assert_true(err.text[0]);
	assert_true(virtq_transport_config_read(t, 0, &err, 1, NULL) < 0);
	assert_int_equal(virtq_transport_fd(t), -1);
	virtq_transport_close(t);
	queue_close(&q);
	rig_serve(r);
}

/* What a loopback cannot be made of. */
static void test_loopback_arguments(void **state)
{
	struct rig *r = *state;
	struct virtq_model many = r->toy.model;
	struct virtq_transport *t;
	struct virtq_error err;
	struct queue q;

	assert_int_equal(virtq_loopback_open(&t, NULL, r->engines, 1, &err), -EINVAL);
	assert_int_equal(virtq_loopback_open(&t, &many, r->engines, 0, &err), -EINVAL);
	many.queues = 0;
	assert_int_equal(virtq_loopback_open(&t, &many, r->engines, 1, &err), -EINVAL);
	/* More entries than the device takes. */
	t = open_transport(r, false);
	call(virtq_transport_accept(t, (struct virtq_features){ { layouts[0], 0 } }, &err), &err);
	queue_open(&q, -1, 0, layouts[0], TOY_QUEUE_SIZE_MAX * 2);
	call(virtq_transport_share(t, q.map, &err), &err);
	assert_int_equal(virtq_transport_start(t, 0, q.driver, -1, -1, &err), -EINVAL);
	virtq_transport_close(t);
	queue_close(&q);
	/* Without kicks and calls, both ends poll. */
	t = open_transport(r, false);
	call(virtq_transport_accept(t, (struct virtq_features){ { layouts[1], 0 } }, &err), &err);
	queue_open(&q, -1, 0, layouts[1], 7);
	call(virtq_transport_share(t, q.map, &err), &err);
	call(virtq_transport_start(t, 0, q.driver, -1, -1, &err), &err);
	for (unsigned int i = 0; i < 20; i++)
		queue_echo(&q);
	virtq_transport_close(t);
	queue_close(&q);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_whole_life),
		CASE(test_refused_features),
		CASE(test_stop_and_go_on),
		CASE(test_share_while_running),
		CASE(test_broken_queue_is_started_anew),
		CASE(test_back_end_goes_away),
		CASE(test_loopback_arguments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
