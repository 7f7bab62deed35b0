/* SPDX-License-Identifier: MIT */
/* The engine: data, kicks and calls, over io_uring and over plain calls. */
#include "lane.h"

#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

/* ---- Setting up ------------------------------------------------------------ */

static void engines_refuse_nonsense(void **state)
{
	struct virtq_engine *engine = NULL;
	struct virtq_error err = { 0 };

	(void)state;
	assert_int_equal(virtq_engine_create(&engine, &(struct virtq_engine_config){
						.entries = 3 }, &err), -EINVAL);
	assert_non_null(strstr(err.text, "3 "));
	assert_int_equal(virtq_engine_create(&engine, &(struct virtq_engine_config){
						.entries = 1 << 20 }, &err), -EINVAL);
	assert_int_equal(virtq_engine_create(&engine, &(struct virtq_engine_config){
						.kind = (enum virtq_engine_kind)7 }, NULL), -EINVAL);
	assert_null(engine);
	virtq_engine_destroy(NULL);
	assert_int_equal(virtq_engine_create(&engine, &(struct virtq_engine_config){
						.kind = VIRTQ_ENGINE_AUTO }, &err), 0);
	assert_int_not_equal(virtq_engine_kind(engine), VIRTQ_ENGINE_AUTO);
	virtq_engine_destroy(engine);
}

/* ---- Data ------------------------------------------------------------------ */

static uint64_t latency_sum(const struct virtq_engine_stats *stats)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < VIRTQ_LATENCY_BUCKETS; i++)
		sum += stats->latency[i];
	return sum;
}

static void ten_thousand_requests(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, s->spin_us);
	struct virtq_engine_stats stats;
	struct disk disk;
	struct lane l;

	lane_begin(&l, engine, &disk, &s->shape);
	lane_run(&l, s->depth, 10000);

	virtq_engine_queue_stats(l.queue, &stats);
	assert_int_equal(stats.requests, 10000);
	assert_int_equal(stats.malformed, 0);
	assert_int_equal(stats.failed, 0);
	assert_int_equal(stats.bytes_read, l.read_bytes);
	assert_int_equal(stats.bytes_written, l.written_bytes);
	assert_true(stats.batches > 0 && stats.batches <= stats.requests);
	assert_true(stats.calls <= stats.batches);
	usleep(20000);		/* the last publication is counted after it is seen */
	virtq_engine_queue_stats(l.queue, &stats);
	assert_int_equal(stats.calls + stats.suppressed, stats.batches);
	assert_int_equal(latency_sum(&stats), 10000);
	lane_end(&l, engine, &disk);
}

static void direct_disk_holds_the_same_data(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, s->spin_us);
	struct virtq_model *probe;
	struct disk disk;
	struct lane l;
	char *path = file_make(4096);
	int rc = virtq_blk_create(&probe, &(struct virtq_blk_options){ .path = path,
								       .direct = true }, NULL);

	if (rc == 0)
		virtq_model_destroy(probe);
	file_drop(path);
	if (rc) {
		virtq_engine_destroy(engine);
		print_message("skipped: no O_DIRECT in this folder\n");
		skip();
	}
	disk_open(&disk, true, 1);
	lane_open(&l, engine, &disk, &s->shape, new_eventfd(), new_eventfd());
	lane_run(&l, s->depth, 2000);
	lane_end(&l, engine, &disk);
}

/* A model that reads its file from the start into whatever is writable. */
struct file_model {
	struct virtq_model model;
	int fd;
	int64_t result;		/* the engine's thread writes; read after removal */
};

static enum virtq_verdict file_start(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op)
{
	if (!req->wr.bytes)
		return VIRTQ_MALFORMED;
	*op = (struct virtq_op){ .kind = VIRTQ_OP_READ,
				 .fd = ((struct file_model *)(void *)model)->fd };
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict file_finish(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op, int64_t result)
{
	(void)req;
	(void)op;
	((struct file_model *)(void *)model)->result = result;
	return VIRTQ_DONE;
}

static const struct virtq_model_ops file_ops = {
	.name = "file", .req_bytes = sizeof(struct virtq_req),
	.start = file_start, .finish = file_finish,
};

/* Send @c through an engine of its own to @file; returns the used length. */
static uint32_t through_engine(const struct setting *s, struct file_model *file,
			       struct pair *p, const struct chain *c,
			       struct virtq_engine_stats *stats)
{
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct virtq_engine_queue *queue;
	struct virtq_completion done;
	int call = new_eventfd();

	file->model.ops = &file_ops;
	file->model.queues = 1;
	file->model.max_segs = PAIR_SEGS_MAX;
	pair_open(p, &(struct pair_shape){ .packed = s->shape.packed, .size = 2048 },
		  &file->model, 8192);
	chain_add(p, c, p);
	virtq_driver_publish(p->driver);
	/* No kick: the engine looks at once. */
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &file->model, .ring = p->device, .enabled = true,
				.kick_fd = new_eventfd(), .call_fd = dup_of(call),
				.err_fd = -1 }, &queue), 0);
	assert_int_equal(virtq_notify_wait(call, WAIT_MS), 1);
	assert_int_equal(virtq_driver_get(p->driver, &done, 1), 1);
	virtq_engine_queue_stats(queue, stats);
	p->device = virtq_engine_remove(queue);
	virtq_engine_destroy(engine);
	close(call);
	return done.written;
}

static void long_vectors_go_in_pieces(void **state)
{
	struct file_model file = { .result = 0 };
	struct virtq_engine_stats stats;
	struct chain c = { .readable = 0 };
	char *path = file_make(4096);
	struct pair p;

	file.fd = open(path, O_RDONLY | O_CLOEXEC);
	for (unsigned int i = 0; i < 1100; i++)		/* readv takes 1024 at once */
		chain_writable(&c, 3 * i, 2);
	assert_int_equal(through_engine(*state, &file, &p, &c, &stats), 2200);
	assert_int_equal(file.result, 2200);
	assert_int_equal(stats.bytes_read, 2200);
	for (unsigned int i = 0; i < 2200; i++)
		assert_int_equal(p.data[i / 2 * 3 + i % 2], file_pattern(i));
	pair_close(&p);
	close(file.fd);
	file_drop(path);
}

/* BLK-DEV-033: only what was read. */
static void end_of_file_ends_a_read(void **state)
{
	struct file_model file = { .result = 0 };
	struct virtq_engine_stats stats;
	struct chain c = { .readable = 0 };
	char *path = file_make(700);
	struct pair p;

	file.fd = open(path, O_RDONLY | O_CLOEXEC);
	chain_writable(&c, 0, 512);
	chain_writable(&c, 1024, 512);
	assert_int_equal(through_engine(*state, &file, &p, &c, &stats), 700);
	assert_int_equal(file.result, 700);
	assert_int_equal(stats.failed, 0);
	pair_close(&p);
	close(file.fd);
	file_drop(path);
}

static void failed_and_malformed_are_counted(void **state)
{
	struct file_model file = { .result = 0 };
	struct virtq_engine_stats stats;
	struct chain c = { .readable = 0 };
	struct pair p;

	file.fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	chain_readable(&c, 0, 16);
	assert_int_equal(through_engine(*state, &file, &p, &c, &stats), 0);
	assert_int_equal(stats.requests, 1);
	assert_int_equal(stats.malformed, 1);
	assert_int_equal(stats.failed, 0);
	pair_close(&p);

	chain_writable(&c, 64, 16);
	assert_int_equal(through_engine(*state, &file, &p, &c, &stats), 0);
	assert_int_equal(file.result, -EISDIR);
	assert_int_equal(stats.malformed, 0);
	assert_int_equal(stats.failed, 1);
	pair_close(&p);
	close(file.fd);
}

/* ---- Kicks and calls ------------------------------------------------------- */

static void polled_queue_needs_no_kick(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct virtq_engine_stats stats;
	struct disk disk;
	struct lane l;

	disk_open(&disk, false, 1);
	lane_open(&l, engine, &disk, &s->shape, -1, -1);
	lane_run(&l, 4, 500);
	virtq_engine_queue_stats(l.queue, &stats);
	assert_int_equal(stats.kicks, 0);
	assert_int_equal(stats.calls, 0);
	lane_end(&l, engine, &disk);
}

static void idle_engine_sleeps(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 1000);
	struct virtq_engine_stats stats;
	struct disk disk;
	struct lane l;

	lane_begin(&l, engine, &disk, &s->shape);
	lane_run(&l, 4, 100);
	usleep(20000);
	assert_idle();
	virtq_engine_queue_stats(l.queue, &stats);
	assert_true(stats.sleeps > 0);
	/* And it wakes up again. */
	lane_run(&l, 4, 100);
	lane_end(&l, engine, &disk);
}

static void kick_may_be_a_pipe(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	int kick[2], call[2];
	struct disk disk;
	struct lane l;

	assert_int_equal(pipe2(kick, O_CLOEXEC), 0);
	assert_int_equal(pipe2(call, O_CLOEXEC), 0);
	disk_open(&disk, false, 1);
	lane_open(&l, engine, &disk, &s->shape, kick[0], call[1]);
	/* The lane kicks and waits at the other ends; the engine has its own. */
	close(kick[0]);
	close(call[1]);
	l.kick_fd = kick[1];
	l.call_fd = call[0];
	lane_run(&l, 1, 2000);

	/* The peer goes: nothing spins, nothing fails, and what comes next works. */
	close(l.kick_fd);
	l.kick_fd = -1;
	usleep(20000);
	assert_idle();
	l.kick_fd = new_eventfd();
	assert_int_equal(virtq_engine_queue_set_fd(l.queue, VIRTQ_FD_KICK, dup_of(l.kick_fd)), 0);
	lane_run(&l, 1, 200);
	lane_end(&l, engine, &disk);
}

static void files_are_no_kicks(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct virtq_engine_queue *queue = NULL;
	struct disk disk;
	struct lane l;
	int fd;

	disk_open(&disk, false, 1);
	fd = open(disk.path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	lane_open(&l, engine, &disk, &s->shape, new_eventfd(), new_eventfd());
	assert_int_equal(virtq_engine_queue_set_fd(l.queue, VIRTQ_FD_KICK, fd), -EINVAL);
	l.pair.device = virtq_engine_remove(l.queue);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = disk.model, .ring = l.pair.device, .enabled = true,
				.kick_fd = fd, .call_fd = -1, .err_fd = -1 }, &queue), -EINVAL);
	assert_null(queue);
	l.queue = NULL;
	/* Nothing was taken. */
	assert_true(fcntl(fd, F_GETFD) >= 0);
	close(fd);
	lane_end(&l, engine, &disk);
}

/* A driver that lets its call fd fill up, and makes it blocking, loses calls and nothing else. */
static void full_blocking_call_fd(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	const uint64_t full = UINT64_MAX - 1;
	struct disk disk;
	struct lane l;
	int call = new_eventfd();

	disk_open(&disk, false, 1);
	lane_open(&l, engine, &disk, &(struct pair_shape){ .packed = s->shape.packed,
								.size = s->shape.size },
		  new_eventfd(), call);
	assert_int_equal(write(call, &full, sizeof(full)), sizeof(full));
	assert_int_equal(fcntl(call, F_SETFL, fcntl(call, F_GETFL) & ~O_NONBLOCK), 0);
	l.call_fd = -1;		/* never waited for; calls stay asked for */
	lane_run(&l, 4, 1000);
	/* Once there is room again calls arrive again. */
	l.call_fd = call;
	assert_int_equal(virtq_notify_wait(call, WAIT_MS), 1);
	lane_run(&l, 1, 100);
	/* And a queue whose call is stuck can be removed. */
	assert_int_equal(fcntl(call, F_SETFL, fcntl(call, F_GETFL) | O_NONBLOCK), 0);
	virtq_notify_clear(call);
	assert_int_equal(write(call, &full, sizeof(full)), sizeof(full));
	assert_int_equal(fcntl(call, F_SETFL, fcntl(call, F_GETFL) & ~O_NONBLOCK), 0);
	l.call_fd = -1;
	lane_run(&l, 4, 10);
	l.call_fd = call;
	lane_end(&l, engine, &disk);
}

static void fds_change_under_load(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct disk disk;
	struct lane l;

	lane_begin(&l, engine, &disk, &s->shape);
	for (unsigned int i = 0; i < 200; i++) {
		int old_kick = l.kick_fd, old_call = l.call_fd;

		lane_fill(&l, 16, l.sent + 16);
		if (i % 2) {
			l.kick_fd = new_eventfd();
			assert_int_equal(virtq_engine_queue_set_fd(l.queue, VIRTQ_FD_KICK,
								   dup_of(l.kick_fd)), 0);
			close(old_kick);
		} else {
			l.call_fd = new_eventfd();
			assert_int_equal(virtq_engine_queue_set_fd(l.queue, VIRTQ_FD_CALL,
								   dup_of(l.call_fd)), 0);
			close(old_call);
		}
		lane_run(&l, 16, 20);
	}
	while (l.done < l.sent)
		lane_wait(&l);
	lane_end(&l, engine, &disk);
}

/* A call may have gone to the old fd when nobody read it any more. */
static void new_call_fd_is_signalled(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct disk disk;
	struct lane l;
	int fresh = new_eventfd();

	lane_begin(&l, engine, &disk, &s->shape);
	assert_int_equal(virtq_driver_arm(l.pair.driver), 0);
	lane_fill(&l, 1, 1);
	assert_int_equal(poll(&(struct pollfd){ l.call_fd, POLLIN, 0 }, 1, WAIT_MS), 1);
	assert_int_equal(virtq_engine_queue_set_fd(l.queue, VIRTQ_FD_CALL, dup_of(fresh)), 0);
	assert_int_equal(virtq_notify_wait(fresh, WAIT_MS), 1);
	assert_int_equal(lane_reap(&l), 1);
	close(fresh);
	lane_end(&l, engine, &disk);
}

/* Wait for one buffer by looking, not asleep. */
static void spin_back(struct pair *p)
{
	struct virtq_completion done;
	time_t give_up = time(NULL) + WAIT_MS / 1000;

	for (unsigned int spins = 1; virtq_driver_get(p->driver, &done, 1) != 1; spins++)
		if (spins % 65536 == 0 && time(NULL) > give_up)
			fail_msg("a kick was lost");
	assert_int_equal(done.written, 1);
}

static void no_kick_is_drained_unseen(void **state)	/* N-DEV: look again after arming */
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	/* The driver's next kick comes while the last is being drained. */
	struct virtq_model quick = { .ops = &quick_ops, .queues = 1 };
	struct virtq_engine_queue *queue;
	int kick = new_eventfd();
	struct pair p;

	pair_open(&p, &s->shape, &quick, 4096);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &quick, .ring = p.device, .enabled = true,
				.kick_fd = dup_of(kick), .call_fd = -1, .err_fd = -1 },
				&queue), 0);
	virtq_driver_disarm(p.driver);
	for (unsigned int i = 0; i < 100000; i++) {
		struct chain c = { .readable = 0 };

		chain_writable(&c, 0, 1);
		chain_add(&p, &c, &p);
		if (virtq_driver_publish(p.driver))
			virtq_notify_send(kick);
		spin_back(&p);
	}
	p.device = virtq_engine_remove(queue);
	close(kick);
	pair_close(&p);
	virtq_engine_destroy(engine);
}

static void closed_fd_reaches_the_peer(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, s->entries, 0);
	struct pollfd p = { .events = 0 };
	struct disk disk;
	struct lane l;
	int kick[2], call[2];

	assert_int_equal(pipe2(kick, O_CLOEXEC), 0);
	assert_int_equal(pipe2(call, O_CLOEXEC), 0);
	disk_open(&disk, false, 1);
	lane_open(&l, engine, &disk, &s->shape, kick[0], call[1]);
	close(kick[0]);
	close(call[1]);
	l.kick_fd = kick[1];
	l.call_fd = call[0];
	lane_run(&l, 2, 50);
	l.pair.device = virtq_engine_remove(l.queue);
	l.queue = NULL;
	/* Nobody holds the engine's ends any more, the kernel's io_uring included. */
	p.fd = kick[1];
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	assert_true(p.revents & POLLERR);
	p.fd = call[0];
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	assert_true(p.revents & POLLHUP);
	lane_end(&l, engine, &disk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(engines_refuse_nonsense),
		ON_ALL(ten_thousand_requests),
		ON(uring_tiny, ten_thousand_requests),
		ON(uring_single, ten_thousand_requests),
		ON(uring_spin, ten_thousand_requests),
		ON(sync_single, ten_thousand_requests),
		ON(sync_spin, ten_thousand_requests),
		ON_ENGINES(direct_disk_holds_the_same_data),
		ON_ENGINES(long_vectors_go_in_pieces),
		ON_ENGINES(end_of_file_ends_a_read),
		ON_ENGINES(failed_and_malformed_are_counted),
		ON_ALL(polled_queue_needs_no_kick),
		ON_ENGINES(idle_engine_sleeps),
		ON_ALL(kick_may_be_a_pipe),
		ON_ENGINES(files_are_no_kicks),
		ON_ALL(full_blocking_call_fd),
		ON_ALL(fds_change_under_load),
		ON_ENGINES(new_call_fd_is_signalled),
		ON_ALL(no_kick_is_drained_unseen),
		ON_ENGINES(closed_fd_reaches_the_peer),
	};

	return cmocka_run_group_tests_name("engine", tests, NULL, NULL) ? 1 : 0;
}
