/* SPDX-License-Identifier: MIT */
/* A server's queues are paused, resumed and moved while a client drives them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "disk.h"

#define QUEUES 2u
#define STILL_MS 100		/* what would come would have come */
#define PATIENCE_MS 10000

struct rig {
	char dir[64], socket[96];
	struct virtq_engine *engine[2];
	struct virtq_model *model;
	struct virtq_vhost_user_server *server;
	pthread_t thread;
	int listen_fd;
	struct disk disk;
	unsigned int answered;
};

static struct virtq_error err;

#define must(rc) assert_return_code(rc, err.code)

static void *serve(void *arg)
{
	struct rig *r = arg;

	virtq_vhost_user_serve(r->server, NULL);
	return NULL;
}

static int set_up(void **state)
{
	static struct rig rig;
	struct rig *r = &rig;
	struct virtq_blk_options options = { .path = "ram:1M", .queues = QUEUES };
	struct virtq_engine_config engine = { .kind = VIRTQ_ENGINE_AUTO };
	struct virtq_vhost_user_server_config config = {
		.engines = r->engine, .engine_count = 1, .features = virtq_ring_features_usual(),
	};

	*r = (struct rig){ .dir = "/tmp/virtq-control.XXXXXX" };
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->socket, sizeof(r->socket), "%s/socket", r->dir);
	for (unsigned int i = 0; i < 2; i++)
		must(virtq_engine_create(&r->engine[i], &engine, &err));
	must(virtq_blk_create(&r->model, &options, &err));
	r->listen_fd = virtq_vhost_user_listen(r->socket, &err);
	must(r->listen_fd);
	config.model = r->model;
	config.listen_fd = r->listen_fd;
	must(virtq_vhost_user_server_create(&r->server, &config, &err));
	assert_int_equal(pthread_create(&r->thread, NULL, serve, r), 0);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	virtq_vhost_user_server_stop(r->server);
	pthread_join(r->thread, NULL);
	virtq_vhost_user_server_destroy(r->server);
	virtq_model_destroy(r->model);
	for (unsigned int i = 0; i < 2; i++)
		virtq_engine_destroy(r->engine[i]);
	close(r->listen_fd);
	unlink(r->socket);
	rmdir(r->dir);
	return 0;
}

static void connect_disk(struct rig *r)
{
	struct disk_way way = { .path = r->socket, .queues = QUEUES, .seed = 1 };

	if (disk_open(&r->disk, &way))
		fail_msg("%s", r->disk.err.text);
}

static int back(void *arg, struct disk_op *op)
{
	struct rig *r = arg;

	if (op->status != DISK_SILENT)
		assert_int_equal(op->status, VIRTIO_BLK_S_OK);
	r->answered++;
	disk_put(op);
	return 0;
}

static void send_read(struct rig *r, unsigned int queue)
{
	struct disk_op *op = disk_get(&r->disk.queue[queue]);

	assert_non_null(op);
	op->type = VIRTIO_BLK_T_IN;
	op->sector = 0;
	op->sectors = 8;
	assert_int_equal(disk_send(&r->disk, op), 0);
	assert_int_equal(disk_publish(&r->disk.queue[queue]), 0);
}

/* How many come back within the time, at most @most. */
static unsigned int come_back(struct rig *r, unsigned int most, unsigned int ms)
{
	uint64_t end = now_ns() + (uint64_t)ms * 1000000;

	r->answered = 0;
	while (r->answered < most && now_ns() < end) {
		disk_wait(&r->disk, 10);
		for (unsigned int i = 0; i < QUEUES; i++)
			assert_true(disk_reap(&r->disk, &r->disk.queue[i], back, r) >= 0);
	}
	return r->answered;
}

static void paused_queues_stand_still(void **state)
{
	struct rig *r = *state;

	connect_disk(r);
	send_read(r, 0);
	assert_int_equal(come_back(r, 1, PATIENCE_MS), 1);
	assert_int_equal(virtq_vhost_user_server_pause(r->server), 0);
	assert_int_equal(virtq_vhost_user_server_pause(r->server), -EALREADY);
	send_read(r, 0);
	send_read(r, 1);
	assert_int_equal(come_back(r, 2, STILL_MS), 0);
	virtq_vhost_user_server_resume(r->server);
	assert_int_equal(come_back(r, 2, PATIENCE_MS), 2);
	virtq_vhost_user_server_resume(r->server);	/* that nothing is paused is fine */
	send_read(r, 1);
	assert_int_equal(come_back(r, 1, PATIENCE_MS), 1);
	disk_close(&r->disk);
}

static void queues_that_start_while_paused_stand_still(void **state)
{
	struct rig *r = *state;

	assert_int_equal(virtq_vhost_user_server_pause(r->server), 0);	/* there is no client */
	connect_disk(r);
	send_read(r, 0);
	send_read(r, 1);
	assert_int_equal(come_back(r, 2, STILL_MS), 0);
	/* The client is served otherwise: it can stop a queue, and start it again. */
	assert_int_equal(virtq_transport_stop(r->disk.transport, 0, NULL, &err), 0);
	r->disk.queue[0].running = false;
	r->answered = 0;
	assert_int_equal(disk_take_back(&r->disk, &r->disk.queue[0], back, r), 0);
	assert_int_equal(r->answered, 1);
	assert_int_equal(disk_start_queue(&r->disk, 0), 0);
	send_read(r, 0);
	assert_int_equal(come_back(r, 2, STILL_MS), 0);
	virtq_vhost_user_server_resume(r->server);
	assert_int_equal(come_back(r, 2, PATIENCE_MS), 2);
	disk_close(&r->disk);
}

/* The engine that a queue left can go, and what is left there shows that it was left. */
static void moved_queues_are_turned_elsewhere(void **state)
{
	struct rig *r = *state;

	assert_int_equal(virtq_vhost_user_server_move(r->server, QUEUES, r->engine[1]), -EINVAL);
	assert_int_equal(virtq_vhost_user_server_move(r->server, 0, NULL), -EINVAL);
	assert_int_equal(virtq_vhost_user_server_move(r->server, 1, r->engine[1]), 0);
	connect_disk(r);		/* queue 1 starts there */
	send_read(r, 0);
	send_read(r, 1);
	assert_int_equal(come_back(r, 2, PATIENCE_MS), 2);
	/* Also while it is paused. */
	assert_int_equal(virtq_vhost_user_server_pause(r->server), 0);
	assert_int_equal(virtq_vhost_user_server_move(r->server, 0, r->engine[1]), 0);
	send_read(r, 0);
	assert_int_equal(come_back(r, 1, STILL_MS), 0);
	virtq_engine_destroy(r->engine[0]);
	r->engine[0] = NULL;
	virtq_vhost_user_server_resume(r->server);
	send_read(r, 1);
	assert_int_equal(come_back(r, 2, PATIENCE_MS), 2);
	disk_close(&r->disk);
	connect_disk(r);		/* and they stay there */
	send_read(r, 0);
	send_read(r, 1);
	assert_int_equal(come_back(r, 2, PATIENCE_MS), 2);
	disk_close(&r->disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(paused_queues_stand_still, set_up, tear_down),
		cmocka_unit_test_setup_teardown(queues_that_start_while_paused_stand_still, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(moved_queues_are_turned_elsewhere, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("control of a vhost-user server", tests, NULL, NULL);
}
