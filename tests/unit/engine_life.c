/* SPDX-License-Identifier: MIT */
/* Queues of an engine that come, go, break, wait and change while others run. */
#include "lane.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "engine/engine.h"

/* ---- Several queues -------------------------------------------------------- */

static void *lane_thread(void *arg)
{
	lane_run(arg, 8, 3000);
	return NULL;
}

static void two_queues(const struct setting *s, struct virtq_engine *one,
		       struct virtq_engine *other)
{
	struct lane l[2];
	struct disk disk;
	pthread_t thread;

	disk_open(&disk, false, 2);
	for (unsigned int i = 0; i < 2; i++) {
		lane_open(&l[i], i ? other : one, &disk, &s->shape, new_eventfd(),
			  new_eventfd());
		l[i].zones = ZONES / 2;
		l[i].first_zone = i * ZONES / 2;
		l[i].random += i;
	}
	assert_int_equal(pthread_create(&thread, NULL, lane_thread, &l[1]), 0);
	lane_run(&l[0], 8, 3000);
	pthread_join(thread, NULL);
	assert_int_equal(l[1].done, 3000);
	lane_close(&l[1]);
	lane_run(&l[0], 8, 100);	/* the other one is not disturbed */
	lane_close(&l[0]);
	disk_close(&disk);
}

static void two_queues_on_one_engine(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, s->spin_us);

	two_queues(s, engine, engine);
	virtq_engine_destroy(engine);
}

static void two_queues_on_two_engines(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *one = engine_of(s->kind, s->entries, s->spin_us);
	struct virtq_engine *other = engine_of(s->kind, s->entries, s->spin_us);

	two_queues(s, one, other);
	virtq_engine_destroy(one);
	virtq_engine_destroy(other);
}

static void handles_are_used_again(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct disk disk;

	disk_open(&disk, false, 4);
	for (unsigned int round = 0; round < 50; round++) {
		struct lane l[3];

		for (unsigned int i = 0; i < 3; i++) {
			lane_open(&l[i], engine, &disk, &s->shape, new_eventfd(),
				  new_eventfd());
		}
		for (unsigned int i = 0; i < 3; i++)
			lane_run(&l[i], 4, 8);
		for (unsigned int i = 0; i < 3; i++)
			lane_close(&l[(i + round) % 3]);
	}
	virtq_engine_destroy(engine);
	disk_close(&disk);
}

/* ---- Starting and stopping ------------------------------------------------- */

static void remove_under_load_drains(void **state)	/* VU-BE: a stopped ring is left alone */
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, s->spin_us);
	struct disk disk;

	disk_open(&disk, false, 1);
	for (unsigned int round = 0; round < 100; round++) {
		struct virtq_engine_stats final;
		uint64_t back, left = 0;
		struct lane l;
		void *token;

		lane_open(&l, engine, &disk, &s->shape, new_eventfd(), new_eventfd());
		l.random += round;
		lane_run(&l, 16, 20);
		lane_fill(&l, 40, l.sent + 40);
		if (round % 3)
			usleep(round % 3 * 20);
		l.pair.device = engine_remove_stats(l.queue, false, &final);
		l.queue = NULL;
		assert_int_equal(virtq_device_in_flight(l.pair.device), 0);

		/* What it took came back, checked; what it did not take it did not touch. */
		lane_reap(&l);
		back = l.done;
		assert_int_equal(final.requests, back);
		virtq_driver_stop(l.pair.driver);
		while (virtq_driver_detach(l.pair.driver, &token) == 1) {
			struct job *job = token;
			unsigned int zone = (unsigned int)(job - l.jobs);

			assert_int_equal(l.pair.data[STATUS_AT(zone)], 0xff);
			if (job->type == VIRTIO_BLK_T_OUT)	/* never written: believe the file */
				file_read(disk.path, job->sector * 512u,
					  disk.expect + job->sector * 512u, job->sectors * 512u);
			left++;
		}
		assert_int_equal(back + left, l.sent);
		lane_close(&l);
	}
	virtq_engine_destroy(engine);
	disk_close(&disk);
}

static void disabled_queue_is_left_alone(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct disk disk;
	struct lane l;

	lane_begin(&l, engine, &disk, &s->shape);
	lane_run(&l, 4, 50);
	virtq_engine_queue_enable(l.queue, false);
	lane_fill(&l, 4, l.sent + 4);
	virtq_notify_send(l.kick_fd);
	usleep(50000);
	assert_int_equal(lane_reap(&l), 0);
	assert_idle();
	/* Looked at at once, whether or not a kick comes. */
	virtq_notify_clear(l.kick_fd);
	virtq_engine_queue_enable(l.queue, true);
	while (l.done < l.sent)
		lane_wait(&l);
	lane_end(&l, engine, &disk);
}

/* Only the split ring has an index that a driver can lie about without a descriptor. */
static void broken_queue_signals_and_spares_others(void **state)	/* S-DEV: avail idx */
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct virtq_engine_stats stats;
	struct lane good, bad;
	struct disk disk;
	int err_fd = new_eventfd();
	uint16_t *avail_idx;

	disk_open(&disk, false, 1);
	lane_open(&good, engine, &disk, &s->shape, new_eventfd(), new_eventfd());
	lane_open(&bad, engine, &disk, &(struct pair_shape){ .size = 16 }, new_eventfd(),
		  new_eventfd());
	assert_int_equal(virtq_engine_queue_set_fd(bad.queue, VIRTQ_FD_ERR, dup_of(err_fd)), 0);
	lane_run(&bad, 1, 10);
	assert_int_equal(poll(&(struct pollfd){ err_fd, POLLIN, 0 }, 1, 0), 0);

	avail_idx = (uint16_t *)(void *)((uint8_t *)bad.pair.ring.driver + 2);
	__atomic_store_n(avail_idx, (uint16_t)(*avail_idx + 17), __ATOMIC_RELEASE);
	virtq_notify_send(bad.kick_fd);
	assert_int_equal(virtq_notify_wait(err_fd, WAIT_MS), 1);
	lane_run(&good, 4, 200);
	virtq_engine_queue_stats(bad.queue, &stats);
	assert_int_equal(stats.requests, 10);
	usleep(20000);
	assert_idle();
	bad.pair.device = virtq_engine_remove(bad.queue);
	bad.queue = NULL;
	assert_int_equal(virtq_device_fault(bad.pair.device).code, VIRTQ_FAULT_AVAIL_IDX);
	lane_close(&bad);
	lane_close(&good);
	close(err_fd);
	virtq_engine_destroy(engine);
	disk_close(&disk);
}

/* ---- Requests that wait until the test lets them go ------------------------ */

/* Every request reads four bytes from a pipe: io_uring leaves it waiting there. */
struct slow_model {
	struct virtq_model model;
	int fd;
	unsigned int finished;		/* the engine's thread writes, after it is removed we read */
};

static enum virtq_verdict slow_start(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op)
{
	struct slow_model *slow = (struct slow_model *)(void *)model;

	(void)req;
	*op = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = slow->fd };
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict slow_finish(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op, int64_t result)
{
	struct slow_model *slow = (struct slow_model *)(void *)model;

	(void)op;
	if (result == 4 && req->written == 4)
		slow->finished++;
	return VIRTQ_DONE;
}

static const struct virtq_model_ops slow_ops = {
	.name = "slow", .req_bytes = sizeof(struct virtq_req),
	.start = slow_start, .finish = slow_finish,
};

static void send_four_bytes(struct pair *p, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct chain c = { .readable = 0 };

		/* In two pieces, so that it takes a vector. */
		chain_writable(&c, i * 16, 1);
		chain_writable(&c, i * 16 + 8, 3);
		chain_add(p, &c, p);
	}
	virtq_driver_publish(p->driver);
}

static void wait_back(struct pair *p, unsigned int n)
{
	struct virtq_completion done;

	for (unsigned int waited = 0; n && waited < WAIT_MS; waited++) {
		while (n && virtq_driver_get(p->driver, &done, 1) == 1) {
			assert_int_equal(done.written, 4);
			n--;
		}
		if (n)
			usleep(1000);
	}
	assert_int_equal(n, 0);
}

struct remover {
	struct virtq_engine_queue *queue;
	struct virtq_device *device;
	int done_fd;
};

static void *remove_thread(void *arg)
{
	struct remover *r = arg;

	r->device = virtq_engine_remove(r->queue);
	virtq_notify_send(r->done_fd);
	return NULL;
}

static void remove_waits_for_what_is_in_flight(void **state)
{
	struct virtq_engine *engine = engine_of(VIRTQ_ENGINE_URING, 8, 0);
	struct slow_model slow = { .model = { .ops = &slow_ops, .queues = 1 } };
	struct remover r = { .done_fd = new_eventfd() };
	pthread_t thread;
	struct pair p;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	slow.fd = fds[0];
	pair_open(&p, *state, &slow.model, 4096);
	send_four_bytes(&p, 5);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &slow.model, .ring = p.device, .enabled = true,
				.kick_fd = new_eventfd(), .call_fd = -1, .err_fd = -1 },
				&r.queue), 0);
	usleep(50000);	/* popped, and waiting in the kernel */
	assert_int_equal(pthread_create(&thread, NULL, remove_thread, &r), 0);
	usleep(50000);
	send_four_bytes(&p, 3);	/* too late: must not be taken */
	assert_int_equal(virtq_notify_wait(r.done_fd, 100), 0);
	for (unsigned int i = 0; i < 5; i++) {
		/* Short pieces: the engine puts them together. */
		assert_int_equal(write(fds[1], "ab", 2), 2);
		usleep(2000);
		assert_int_equal(write(fds[1], "cd", 2), 2);
	}
	/* Pieces mix among the five; give each what it still lacks. */
	assert_int_equal(virtq_notify_wait(r.done_fd, WAIT_MS), 1);
	pthread_join(thread, NULL);
	assert_int_equal(virtq_device_in_flight(r.device), 0);
	assert_int_equal(slow.finished, 5);
	wait_back(&p, 5);
	assert_int_equal(virtq_driver_in_flight(p.driver), 3);
	close(fds[0]);
	close(fds[1]);
	close(r.done_fd);
	pair_close(&p);
	virtq_engine_destroy(engine);
}

/* One queue that takes all credits must not keep another from its one. */
static void every_queue_has_a_credit(void **state)
{
	struct virtq_engine *engine = engine_of(VIRTQ_ENGINE_URING, 1, 0);
	struct slow_model slow = { .model = { .ops = &slow_ops, .queues = 1 } };
	struct virtq_engine_queue *queue;
	struct disk disk;
	struct lane l;
	struct pair p;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	slow.fd = fds[0];
	pair_open(&p, *state, &slow.model, 4096);
	send_four_bytes(&p, 8);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &slow.model, .ring = p.device, .enabled = true,
				.kick_fd = new_eventfd(), .call_fd = -1, .err_fd = -1 },
				&queue), 0);
	disk_open(&disk, false, 1);
	lane_open(&l, engine, &disk, &(struct pair_shape){ .size = 256 }, new_eventfd(),
		  new_eventfd());
	lane_run(&l, 16, 300);
	usleep(20000);
	assert_idle();	/* out of credits is no reason to spin */
	/* And the chains that waited in the ring are taken as credits come back. */
	assert_int_equal(write(fds[1], "0123456789abcdef0123456789abcdef", 32), 32);
	wait_back(&p, 8);
	p.device = virtq_engine_remove(queue);
	assert_int_equal(slow.finished, 8);
	lane_close(&l);
	close(fds[0]);
	close(fds[1]);
	pair_close(&p);
	virtq_engine_destroy(engine);
	disk_close(&disk);
}

struct mapper {
	struct virtq_engine_queue *queue;
	struct pair *pair;
	int done_fd, result;
};

static void *map_thread(void *arg)
{
	struct mapper *m = arg;
	struct virtq_map *map = pair_new_map(m->pair);

	m->result = virtq_engine_queue_set_map(m->queue, map, &m->pair->ring);
	virtq_map_unref(map);
	virtq_notify_send(m->done_fd);
	return NULL;
}

/* More maps than a queue can hold at once: the change waits for requests to end. */
static void map_changes_under_load(void **state)
{
	struct virtq_engine *engine = engine_of(VIRTQ_ENGINE_URING, 8, 0);
	struct slow_model slow = { .model = { .ops = &slow_ops, .queues = 1 } };
	struct mapper m = { .done_fd = new_eventfd() };
	unsigned int changes = 0, sent = 0;
	pthread_t thread;
	struct pair p;
	int fds[2], kick = new_eventfd();

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	slow.fd = fds[0];
	pair_open(&p, *state, &slow.model, 4096);
	m.pair = &p;
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &slow.model, .ring = p.device, .enabled = true,
				.kick_fd = dup_of(kick), .call_fd = -1, .err_fd = -1 },
				&m.queue), 0);
	for (;;) {
		send_four_bytes(&p, 1);
		sent++;
		virtq_notify_send(kick);
		usleep(30000);	/* popped: it holds the newest map */
		assert_int_equal(pthread_create(&thread, NULL, map_thread, &m), 0);
		if (virtq_notify_wait(m.done_fd, 200) == 0)
			break;
		pthread_join(thread, NULL);
		assert_int_equal(m.result, 0);
		assert_true(++changes < 100);
	}
	assert_true(changes >= 2);
	assert_int_equal(write(fds[1], "0123456789abcdef0123456789abcdef", sent * 4), sent * 4);
	assert_int_equal(virtq_notify_wait(m.done_fd, WAIT_MS), 1);
	pthread_join(thread, NULL);
	assert_int_equal(m.result, 0);
	wait_back(&p, sent);
	send_four_bytes(&p, 1);
	virtq_notify_send(kick);
	assert_int_equal(write(fds[1], "wxyz", 4), 4);
	wait_back(&p, 1);
	assert_memory_equal(p.data + 8, "xyz", 3);
	p.device = virtq_engine_remove(m.queue);
	close(kick);
	close(fds[0]);
	close(fds[1]);
	close(m.done_fd);
	pair_close(&p);
	virtq_engine_destroy(engine);
}

/* A map that cannot be taken because nothing ends: the caller hears of it. */
static void map_change_does_not_wait_for_ever(void **state)
{
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = VIRTQ_ENGINE_URING, .drain_ms = 200 });
	struct slow_model slow = { .model = { .ops = &slow_ops, .queues = 1 } };
	struct virtq_engine_queue *queue;
	unsigned int changes = 0;
	int fds[2], kick = new_eventfd(), rc;
	struct pair p;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	slow.fd = fds[0];
	pair_open(&p, *state, &slow.model, 4096);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &slow.model, .ring = p.device, .enabled = true,
				.kick_fd = dup_of(kick), .call_fd = -1, .err_fd = -1 },
				&queue), 0);
	do {
		struct virtq_map *map = pair_new_map(&p);

		send_four_bytes(&p, 1);
		virtq_notify_send(kick);
		usleep(30000);	/* popped: it holds the newest map */
		rc = virtq_engine_queue_set_map(queue, map, &p.ring);
		virtq_map_unref(map);
		assert_true(changes++ < 100);
	} while (!rc);
	assert_int_equal(rc, -EBUSY);
	assert_true(changes > 2);
	assert_int_equal(write(fds[1], "0123456789abcdef0123456789abcdef", changes * 4), changes * 4);
	wait_back(&p, changes);
	p.device = virtq_engine_remove(queue);
	close(kick);
	close(fds[0]);
	close(fds[1]);
	pair_close(&p);
	virtq_engine_destroy(engine);
}

static const struct pair_shape split_shape = { false, true, 256 };
static const struct pair_shape packed_shape = { true, true, 256 };

#define ON_SHAPES(test) ON(split_shape, test), ON(packed_shape, test)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(two_queues_on_one_engine),
		ON_ALL(two_queues_on_two_engines),
		ON_ENGINES(handles_are_used_again),
		ON_ALL(remove_under_load_drains),
		ON(uring_tiny, remove_under_load_drains),
		ON_ALL(disabled_queue_is_left_alone),
		ON_ENGINES(broken_queue_signals_and_spares_others),
		ON_SHAPES(remove_waits_for_what_is_in_flight),
		ON_SHAPES(every_queue_has_a_credit),
		ON_SHAPES(map_changes_under_load),
		ON_SHAPES(map_change_does_not_wait_for_ever),
	};

	return cmocka_run_group_tests_name("engine life", tests, NULL, NULL) ? 1 : 0;
}
