/* SPDX-License-Identifier: MIT */
/*
 * Engines to which the kernel says no in the middle of their work: reported, never
 * silent, never spinning, and everything comes to its end. A filter on system calls,
 * which the model puts on the engine's thread, is what says no.
 */
#include "stand.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <virtq/model.h>

#include "engine/engine.h"

/* Does what the first byte of a request says. */
struct trap {
	struct virtq_model model;
	int fds[2];
	unsigned int says;		/* the filter */
	struct virtq_req *held;		/* atomic */
	int started, denied;		/* atomic */
	int failed, unknown;		/* the engine's thread; read when it has reported */
	int reports, error;		/* atomic */
};

static enum virtq_verdict trap_start(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op)
{
	struct trap *t = (struct trap *)(void *)model;
	enum virtq_verdict verdict = VIRTQ_DONE;
	char what = 0;

	virtq_req_read(req, &what, 1);
	switch (what) {
	case 'r':
		*op = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = t->fds[0] };
		verdict = VIRTQ_SUBMIT;
		break;
	case 'p':
		*op = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = t->fds[0],
					 .flags = POLLIN };
		verdict = VIRTQ_SUBMIT;
		break;
	case 'h':
		__atomic_store_n(&t->held, req, __ATOMIC_SEQ_CST);
		verdict = VIRTQ_HOLD;
		break;
	case 'x':
		__atomic_store_n(&t->denied, deny_waiting(t->says), __ATOMIC_SEQ_CST);
		break;
	}
	__atomic_fetch_add(&t->started, 1, __ATOMIC_SEQ_CST);
	return verdict;
}

static enum virtq_verdict trap_finish(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op, int64_t result)
{
	struct trap *t = (struct trap *)(void *)model;

	t->failed += result == -EOWNERDEAD || result == -ECANCELED;
	t->unknown += result == -EOWNERDEAD;
	/* Once more, of an engine that cannot. */
	if (result == 88) {
		*op = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = t->fds[0] };
		return VIRTQ_SUBMIT;
	}
	(void)req;
	return VIRTQ_DONE;
}

static const struct virtq_model_ops trap_ops = {
	.name = "trap", .req_bytes = sizeof(struct virtq_req),
	.start = trap_start, .finish = trap_finish,
};

static void trap_report(void *arg, struct virtq_engine *engine, int error)
{
	struct trap *t = arg;

	(void)engine;
	__atomic_store_n(&t->error, error, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&t->reports, 1, __ATOMIC_SEQ_CST);
}

static void trap_init(struct trap *t)
{
	*t = (struct trap){ .model = { .ops = &trap_ops, .queues = 1, .max_segs = 4 },
			    .says = EPERM, .denied = 1 };
	assert_int_equal(pipe2(t->fds, O_CLOEXEC), 0);
}

/* An engine that reports to @t, and a queue of it. */
static struct virtq_engine *trap_open(struct trap *t, struct stand *st, const struct setting *s,
				      struct virtq_engine_config config)
{
	struct virtq_engine *engine;

	trap_init(t);
	config.kind = s->kind;
	config.failed = trap_report;
	config.failed_arg = t;
	engine = engine_with(&config);
	stand_open_on(st, engine, s, &t->model);
	return engine;
}

static void trap_close(struct trap *t, struct stand *st, struct virtq_engine *engine)
{
	stand_close(st);
	virtq_engine_destroy(engine);
	close(t->fds[0]);
	close(t->fds[1]);
}

/* One byte that says what, 64 that nobody shall write to. */
static void send_what(struct stand *st, const char *what)
{
	for (unsigned int at = 0; *what; at += 128, what++) {
		struct chain c = { .readable = 0 };

		st->pair.data[at] = (uint8_t)*what;
		memset(st->pair.data + at + 64, 0x55, 64);
		chain_readable(&c, at, 1);
		chain_writable(&c, at + 64, 64);
		stand_send(st, &c);
	}
}

static void wait_for(const int *what, int value)
{
	for (unsigned int ms = 0; __atomic_load_n(what, __ATOMIC_SEQ_CST) != value; ms++) {
		assert_true(ms < WAIT_MS);
		usleep(1000);
	}
}

/* Where there are no such filters (an emulator) there is nothing to test. */
static void wait_until_denied(struct trap *t)
{
	for (unsigned int ms = 0; __atomic_load_n(&t->denied, __ATOMIC_SEQ_CST) > 0; ms++) {
		assert_true(ms < WAIT_MS);
		usleep(1000);
	}
	if (t->denied < 0) {
		print_message("skipped: no filter on system calls: %s\n", strerror(-t->denied));
		skip();
	}
}

static void failure_is_reported_and_all_comes_to_an_end(void **state)
{
	const struct setting *s = *state;
	const char *what = s->kind == VIRTQ_ENGINE_URING ? "pprrh" : "pph";
	unsigned int count = (unsigned int)strlen(what);
	struct virtq_engine *engine, *other = engine_of(s->kind, 0, 0);
	struct virtq_engine_queue *queue = NULL;
	struct trap t;
	struct stand st;
	char word[4] = "";
	int err = new_eventfd();

	engine = trap_open(&t, &st, s, (struct virtq_engine_config){ .drain_ms = 5000 });
	assert_int_equal(virtq_engine_error(engine), 0);
	assert_int_equal(virtq_engine_queue_set_fd(st.queue, VIRTQ_FD_ERR, dup_of(err)), 0);
	send_what(&st, what);
	wait_for(&t.started, (int)count);
	usleep(20000);			/* with the kernel */
	send_what(&st, "x");
	wait_until_denied(&t);

	wait_for(&t.reports, 1);
	assert_int_equal(t.error, -EPERM);
	assert_int_equal(virtq_engine_error(engine), -EPERM);
	assert_int_equal(virtq_engine_kind(engine), s->kind);
	assert_int_equal(virtq_notify_wait(err, WAIT_MS), 1);
	/* All but the held one have failed, and the driver is called for it. */
	for (unsigned int i = 0; i < count; i++)
		assert_int_equal(stand_back(&st), 0);
	assert_int_equal(t.failed, count - 1);
	assert_int_equal(t.unknown, count - 1);
	for (unsigned int at = 64; at < 128 * count; at += 128)
		for (unsigned int i = 0; i < 64; i++)
			assert_int_equal(st.pair.data[at + i], 0x55);
	assert_idle();

	/* The kernel has let go: what comes now is for others. */
	assert_int_equal(write(t.fds[1], "abc", 3), 3);
	usleep(20000);
	assert_int_equal(read(t.fds[0], word, 3), 3);
	assert_string_equal(word, "abc");

	/* What was held ends when it ends, here with one operation more. */
	virtq_engine_complete(t.held, 88);
	assert_int_equal(stand_back(&st), 0);
	assert_int_equal(t.failed, count);
	assert_int_equal(t.unknown, count - 1);	/* that one was not begun */

	/* Nothing is taken any more, not even a queue; but messages are answered. */
	send_what(&st, "d");
	usleep(50000);
	assert_int_equal(t.started, count + 1);
	assert_int_equal(virtq_engine_pause(&st.queue, 1, NULL), 0);
	virtq_engine_resume(st.queue);
	assert_int_equal(virtq_engine_move(st.queue, other), 0);
	assert_int_equal(virtq_engine_move(st.queue, engine), -EIO);
	st.pair.device = virtq_engine_remove(st.queue);
	st.queue = NULL;
	assert_int_equal(virtq_device_fault(st.pair.device).code, VIRTQ_FAULT_ENGINE);
	assert_int_equal(virtq_device_fault(st.pair.device).value, EPERM);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &t.model, .ring = st.pair.device, .enabled = true,
				.kick_fd = -1, .call_fd = -1, .err_fd = -1 }, &queue), -EIO);
	assert_null(queue);
	assert_int_equal(t.reports, 1);
	trap_close(&t, &st, engine);
	virtq_engine_destroy(other);
	close(err);
}

/* Polled queues, and an engine told never to sleep: once it has failed it does. */
static void a_failed_engine_does_not_spin(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine;
	struct trap t;
	struct stand st;

	engine = trap_open(&t, &st, s, (struct virtq_engine_config){ .spin = VIRTQ_SPIN_ALWAYS });
	send_what(&st, "x");
	wait_until_denied(&t);
	stand_back(&st);
	if (s->kind == VIRTQ_ENGINE_SYNC) {
		/* Without one of these it would not even look at its epoll. */
		send_what(&st, "p");
		stand_back(&st);
	}
	wait_for(&t.reports, 1);
	usleep(50000);
	assert_idle();
	trap_close(&t, &st, engine);
}

/* A kick fd that cannot be read without waiting: a read of it is out when the engine fails. */
static void a_failed_engine_leaves_nothing_to_wait_for(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine, *other = engine_of(s->kind, 0, 0);
	char dir[] = "/tmp/virtq-failed-XXXXXX", path[64];
	int kick = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), file;
	struct trap t;
	struct stand st;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/file", dir);
	file = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_true(file >= 0 && inotify_add_watch(kick, dir, IN_MODIFY) >= 0);
	engine = trap_open(&t, &st, s, (struct virtq_engine_config){ .spin = VIRTQ_SPIN_OFF });
	assert_int_equal(virtq_engine_queue_set_fd(st.queue, VIRTQ_FD_KICK, kick), 0);
	send_what(&st, "d");
	assert_int_equal(write(file, "a", 1), 1);
	stand_back(&st);
	usleep(20000);
	send_what(&st, "x");
	assert_int_equal(write(file, "a", 1), 1);
	wait_until_denied(&t);
	wait_for(&t.reports, 1);
	if (s->kind == VIRTQ_ENGINE_URING)
		assert_true(st.queue->plain_drain);
	assert_int_equal(virtq_engine_move(st.queue, other), 0);
	for (int kind = 0; kind < AUX_COUNT; kind++)
		assert_false(st.queue->aux[kind].again);
	trap_close(&t, &st, engine);
	virtq_engine_destroy(other);
	close(file);
	unlink(path);
	rmdir(dir);
}

/* A kernel that asks to come later, whenever it is asked. */
static void what_never_passes_is_a_failure(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine;
	struct trap t;
	struct stand st;

	for (int busy = 0; busy < 2; busy++) {
		engine = trap_open(&t, &st, s, (struct virtq_engine_config){
			.spin = VIRTQ_SPIN_OFF });
		t.says = busy ? EBUSY : EAGAIN;
		send_what(&st, "px");
		wait_until_denied(&t);
		/* Meanwhile messages are answered. */
		virtq_engine_queue_enable(st.queue, true);
		assert_int_equal(virtq_engine_error(engine), 0);
		wait_for(&t.reports, 1);
		assert_int_equal(t.error, busy ? -EBUSY : -EAGAIN);
		stand_back(&st);
		stand_back(&st);
		assert_idle();
		trap_close(&t, &st, engine);
	}
}

/* An engine that cannot be woken any more. */
static void a_wakeup_that_cannot_be_read_is_a_failure(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine;
	struct trap t;
	struct stand st;
	int wake;

	engine = trap_open(&t, &st, s, (struct virtq_engine_config){ .spin = VIRTQ_SPIN_OFF });
	usleep(20000);			/* asleep, with a read that the kernel has */
	wake = dup_of(engine->wake_fd);
	close(engine->wake_fd);
	virtq_notify_send(wake);
	wait_for(&t.reports, 1);
	assert_int_equal(t.error, -EIO);
	assert_idle();
	trap_close(&t, &st, engine);
	close(wake);
}

/* What has failed takes no kick that is for whoever comes next on the same eventfd. */
static void a_removed_queue_takes_no_kick(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine;
	struct trap t;
	struct stand st;

	for (unsigned int round = 0; round < 20; round++) {
		engine = trap_open(&t, &st, s, (struct virtq_engine_config){
			.spin = VIRTQ_SPIN_OFF });
		usleep(2000);
		send_what(&st, "x");
		wait_until_denied(&t);
		while (!virtq_engine_error(engine))
			;		/* no sleep: what is left ends soon */
		st.pair.device = virtq_engine_remove(st.queue);
		st.queue = NULL;
		virtq_notify_clear(st.kick);
		virtq_notify_send(st.kick);
		usleep(20000);
		assert_int_equal(poll(&(struct pollfd){ st.kick, POLLIN, 0 }, 1, 0), 1);
		trap_close(&t, &st, engine);
	}
}

/* A kick that was read when the engine failed is no hang-up of the fd. */
static void the_last_kick_is_a_kick(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine, *other = engine_of(s->kind, 0, 0);
	struct trap t;
	struct stand st;

	engine = trap_open(&t, &st, s, (struct virtq_engine_config){
		.spin = VIRTQ_SPIN_OFF, .stepped = true });
	for (unsigned int i = 0; i < 20; i++)
		virtq_engine_step(engine);
	virtq_notify_send(st.kick);
	usleep(2000);
	engine->failed = -EPERM;
	virtq_engine_step(engine);
	assert_int_equal(virtq_engine_error(engine), -EPERM);
	assert_false(st.queue->kick_dead);
	assert_int_equal(virtq_engine_move(st.queue, other), 0);
	assert_false(st.queue->kick_dead);
	trap_close(&t, &st, engine);
	virtq_engine_destroy(other);
}

/* The signal to be on the safe side is no call for a batch; one that was owed is. */
static void calls_add_up_to_the_end(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine_stats stats;
	struct virtq_engine *engine;
	struct trap t;
	struct stand st;

	for (unsigned int owed = 0; owed < 2; owed++) {
		engine = trap_open(&t, &st, s, (struct virtq_engine_config){
			.spin = VIRTQ_SPIN_OFF, .stepped = true });
		if (owed)
			virtq_engine_queue_coalesce(st.queue, 8, 1000000);
		send_what(&st, "pd");		/* one stays, one is answered */
		for (unsigned int i = 0; i < 20; i++)
			virtq_engine_step(engine);
		assert_int_equal(st.queue->owes_call, owed);
		virtq_notify_clear(st.call);
		engine->failed = -EPERM;
		virtq_engine_step(engine);
		assert_int_equal(poll(&(struct pollfd){ st.call, POLLIN, 0 }, 1, 0), 1);
		for (unsigned int ms = 0; !t.failed; ms++) {
			assert_true(ms < WAIT_MS);
			virtq_engine_step(engine);
			usleep(1000);
		}
		for (unsigned int i = 0; i < 20; i++)
			virtq_engine_step(engine);
		virtq_engine_queue_stats(st.queue, &stats);
		assert_int_equal(stats.batches, 2);
		assert_int_equal(stats.calls + stats.suppressed + stats.coalesced, 2);
		trap_close(&t, &st, engine);
	}
}

/* The filter stays on the thread that steps: one that ends after this test. */
struct stepper {
	const struct setting *s;
	struct trap *t;
	struct virtq_driver *driver;
	struct virtq_device *device;
	unsigned int steps, back;
	int wait, error, fd_changed;
};

static void *stepper_thread(void *arg)
{
	struct stepper *p = arg;
	struct virtq_engine_queue *queue;
	struct virtq_completion done;
	struct virtq_engine *engine;
	int fd;

	if (virtq_engine_create(&engine, &(struct virtq_engine_config){
			.kind = p->s->kind, .stepped = true }, NULL))
		return NULL;
	fd = virtq_engine_fd(engine);
	/* Its calls turn the engine, which fails in the middle of this one. */
	virtq_engine_add(engine, &(struct virtq_engine_queue_config){
		.model = &p->t->model, .ring = p->device, .enabled = true,
		.kick_fd = virtq_notify_open(), .call_fd = -1, .err_fd = -1 }, &queue);
	for (p->steps = 0; p->steps < 1000 && p->back < 2 && p->t->denied >= 0; p->steps++) {
		p->wait = virtq_engine_step(engine);
		p->back += virtq_driver_get(p->driver, &done, 1) == 1;
		poll(NULL, 0, p->wait < 0 || p->wait > 10 ? 10 : p->wait);
	}
	/* Without the filter nothing else ends what is polled for. */
	if (p->t->denied < 0 && write(p->t->fds[1], "", 1) != 1)
		return NULL;
	for (unsigned int i = 0; i < 100000 && !(p->wait = virtq_engine_step(engine)); i++)
		;	/* it spins for a moment, as any does */
	p->error = virtq_engine_error(engine);
	p->fd_changed = virtq_engine_fd(engine) != fd;
	p->device = virtq_engine_remove(queue);
	virtq_engine_destroy(engine);
	return NULL;
}

static void a_stepped_engine_fails_as_well(void **state)
{
	struct stepper p = { .s = *state };
	struct stand st = { .queue = NULL };
	pthread_t thread;
	struct trap t;

	trap_init(&t);
	virtq_engine_destroy(engine_of(p.s->kind, 0, 0));	/* skips, where there is none */
	p.t = &t;
	st.kick = new_eventfd();
	st.call = new_eventfd();
	pair_open(&st.pair, &(struct pair_shape){ .size = 64 }, &t.model, 4096);
	send_what(&st, "px");
	p.driver = st.pair.driver;
	p.device = st.pair.device;
	assert_int_equal(pthread_create(&thread, NULL, stepper_thread, &p), 0);
	pthread_join(thread, NULL);
	st.pair.device = p.device;
	wait_until_denied(&t);
	assert_int_equal(p.back, 2);
	assert_int_equal(p.error, -EPERM);
	assert_true(p.wait > 0);	/* comes again without the fd */
	assert_true(p.fd_changed);
	assert_true(p.steps < 200);
	stand_close(&st);
	close(t.fds[0]);
	close(t.fds[1]);
}

struct drainer {
	struct trap *t;
	struct stand *st;
	struct virtq_device *device;
	uint64_t kicks, sleeps;
};

static void *drainer_thread(void *arg)
{
	struct drainer *d = arg;
	struct virtq_engine_queue *queue;
	struct virtq_engine *engine;

	if (virtq_engine_create(&engine, &(struct virtq_engine_config){
			.kind = VIRTQ_ENGINE_URING, .stepped = true,
			.spin = VIRTQ_SPIN_OFF }, NULL))
		return NULL;
	if (virtq_engine_add(engine, &(struct virtq_engine_queue_config){
			.model = &d->t->model, .ring = d->device, .enabled = true,
			.kick_fd = dup_of(d->st->kick), .call_fd = -1, .err_fd = -1 }, &queue))
		return NULL;
	for (unsigned int i = 0; i < 20; i++)
		virtq_engine_step(engine);
	send_what(d->st, "x");
	for (unsigned int i = 0; i < 20 && !(d->t->started && queue->stats.kicks); i++)
		virtq_engine_step(engine);
	d->kicks = queue->stats.kicks;
	/* The drain is staged in the first of these, and stays so: the kernel takes nothing. */
	virtq_engine_step(engine);
	d->sleeps = queue->stats.sleeps;
	for (unsigned int i = 0; i < 20; i++)
		virtq_engine_step(engine);
	d->sleeps = queue->stats.sleeps - d->sleeps;
	d->device = virtq_engine_remove(queue);
	virtq_engine_destroy(engine);
	return NULL;
}

/* A drain that the kernel has not taken yet could swallow a kick that comes meanwhile. */
static void no_sleep_before_the_kick_is_drained(void **state)
{
	struct stand st = { .queue = NULL };
	struct drainer d = { .kicks = 0 };
	pthread_t thread;
	struct trap t;

	(void)state;
	trap_init(&t);
	t.says = EAGAIN;
	virtq_engine_destroy(engine_of(VIRTQ_ENGINE_URING, 0, 0));	/* skips, without */
	st.kick = new_eventfd();
	st.call = new_eventfd();
	pair_open(&st.pair, &(struct pair_shape){ .size = 64 }, &t.model, 4096);
	d.t = &t;
	d.st = &st;
	d.device = st.pair.device;
	assert_int_equal(pthread_create(&thread, NULL, drainer_thread, &d), 0);
	pthread_join(thread, NULL);
	st.pair.device = d.device;
	assert_int_equal(d.kicks, 1);
	assert_int_equal(d.sleeps, 0);
	stand_close(&st);
	close(t.fds[0]);
	close(t.fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(failure_is_reported_and_all_comes_to_an_end),
		ON_ENGINES(a_failed_engine_does_not_spin),
		ON_ENGINES(a_failed_engine_leaves_nothing_to_wait_for),
		ON_ENGINES(a_removed_queue_takes_no_kick),
		ON_ENGINES(the_last_kick_is_a_kick),
		ON_ENGINES(calls_add_up_to_the_end),
		ON(uring_split, what_never_passes_is_a_failure),
		ON(uring_split, a_wakeup_that_cannot_be_read_is_a_failure),
		ON_ENGINES(a_stepped_engine_fails_as_well),
		ON(uring_split, no_sleep_before_the_kick_is_drained),
	};

	return cmocka_run_group_tests_name("engine failed", tests, NULL, NULL) ? 1 : 0;
}
