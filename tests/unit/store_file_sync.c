/* SPDX-License-Identifier: MIT */
/*
 * The syncs of a file that several queues have: one at a time, which is for all
 * that waited when it began, and none is believed after one has failed, or after two whose
 * results were lost with their engines.
 *
 * The C library's fdatasync(), which is how the engine without io_uring syncs, is
 * one of this program's own: it counts, waits until it is told to end, and fails
 * once, as the kernel does. Where it has to be known who leads, that is a piece of
 * work that belongs to no engine, and which the test ends as it likes.
 */
#include "depot.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "dev/store_file.h"

#define QUEUES 4u
#define LATE 3u			/* the queue that all_wait() leaves alone */

/* ---- The kernel --------------------------------------------------------------- */

/* By the lock. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int begun, may_end;	/* counts of syncs */
	unsigned int fails;		/* the number of the one that does; 0 for none */
	unsigned int running, most;
} kernel = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

int fdatasync(int fd)
{
	unsigned int number;
	bool fails;

	pthread_mutex_lock(&kernel.lock);
	number = ++kernel.begun;
	if (++kernel.running > kernel.most)
		kernel.most = kernel.running;
	pthread_cond_broadcast(&kernel.changed);
	while (number > kernel.may_end)
		pthread_cond_wait(&kernel.changed, &kernel.lock);
	fails = number == kernel.fails;
	kernel.running--;
	pthread_mutex_unlock(&kernel.lock);
	if (fails) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

/* Begins anew: so many may end, and that one fails. */
static void kernel_open(unsigned int may_end, unsigned int fails)
{
	pthread_mutex_lock(&kernel.lock);
	kernel.begun = kernel.most = 0;
	kernel.may_end = may_end;
	kernel.fails = fails;
	pthread_mutex_unlock(&kernel.lock);
}

static void kernel_lets_end(unsigned int may_end)
{
	pthread_mutex_lock(&kernel.lock);
	kernel.may_end = may_end;
	pthread_cond_broadcast(&kernel.changed);
	pthread_mutex_unlock(&kernel.lock);
}

static void kernel_wait_begun(unsigned int number)
{
	pthread_mutex_lock(&kernel.lock);
	while (kernel.begun < number)
		pthread_cond_wait(&kernel.changed, &kernel.lock);
	pthread_mutex_unlock(&kernel.lock);
}

static void assert_syncs(const struct setting *s, unsigned int count)
{
	if (s->kind != VIRTQ_ENGINE_SYNC)
		return;		/* io_uring has its own */
	pthread_mutex_lock(&kernel.lock);
	assert_int_equal(kernel.begun, count);
	assert_int_equal(kernel.most, count != 0);
	pthread_mutex_unlock(&kernel.lock);
}

/* ---- A file, its queues, and one who leads -------------------------------------- */

static const struct work flush = { .kind = VIRTQ_STORE_FLUSH };
static const struct work plain = { .kind = VIRTQ_STORE_WRITE, .bytes = 4096 };
static const struct work stable = { .kind = VIRTQ_STORE_WRITE, .flags = VIRTQ_STORE_STABLE,
				    .offset = 8192, .bytes = 4096 };

struct yard {
	const struct setting *s;
	char *path;
	struct virtq_store *store;
	struct depot queues[QUEUES];	/* each on an engine of its own */
	bool gone[QUEUES];
	struct virtq_req req;		/* who leads, on none */
	struct virtq_store_io io;
	struct virtq_op op;
};

static struct yard *yard_open(void **state)
{
	struct yard *y = calloc(1, sizeof(*y));

	assert_non_null(y);
	y->s = *state;
	y->path = file_make(1 << 20);
	y->store = store_make(y->path, NULL);
	kernel_open(UINT32_MAX, 0);
	for (unsigned int i = 0; i < QUEUES; i++)
		depot_open_shared(&y->queues[i], y->s, y->store, 1);
	return y;
}

/* A queue is taken away with what it has in flight. */
static void yard_take_away(struct yard *y, unsigned int i, bool reset)
{
	struct depot *dp = &y->queues[i];

	y->gone[i] = true;
	if (!reset) {
		depot_close(dp);
		return;
	}
	dp->pair.device = virtq_engine_reset(dp->queue);
	virtq_engine_destroy(dp->engine);
	close(dp->kick);
	close(dp->call);
	pair_close(&dp->pair);
}

static struct sync_gate *gate_of(struct yard *y)
{
	return &container_of(y->store, struct file_store, store)->gate;
}

static unsigned int count_waiting(struct yard *y)
{
	struct sync_gate *gate = gate_of(y);
	unsigned int count = 0;

	pthread_mutex_lock(&gate->lock);
	for (struct virtq_store_io *io = gate->waiting; io; io = file_io_of(io)->next)
		count++;
	pthread_mutex_unlock(&gate->lock);
	return count;
}

static void yard_wait(struct yard *y, unsigned int waiting)
{
	uint64_t end = now_ms() + WAIT_MS;

	while (count_waiting(y) != waiting) {
		assert_true(now_ms() < end);
		usleep(200);
	}
}

/* Nobody waits, nobody leads, and all requests have come back. */
static void yard_close(struct yard *y)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		if (y->gone[i])
			continue;
		assert_int_equal(y->queues[i].busy, 0);
		assert_false(depot_reap(&y->queues[i], 0));
		depot_close(&y->queues[i]);
	}
	assert_int_equal(count_waiting(y), 0);
	assert_false(gate_of(y)->busy);
	virtq_store_close(y->store);
	file_drop(y->path);
	free(y);
}

static void lead(struct yard *y)
{
	y->io = (struct virtq_store_io){ .req = &y->req, .kind = VIRTQ_STORE_FLUSH };
	assert_int_equal(y->store->ops->start(y->store, &y->io, &y->op), VIRTQ_SUBMIT);
	assert_int_equal(y->op.kind, VIRTQ_OP_SYNC);
}

static void lead_end(struct yard *y, int result)
{
	assert_int_equal(y->store->ops->finish(y->store, &y->io, &y->op, result), VIRTQ_DONE);
	assert_int_equal(y->io.result, result);
}

/* Each queue but one has one that waits behind whoever leads. Their tags are 0. */
static void all_wait(struct yard *y)
{
	lead(y);
	for (unsigned int i = 0; i < LATE; i++) {
		assert_int_equal(depot_send(&y->queues[i], i == 1 ? &stable : &flush), 0);
		yard_wait(y, i + 1);	/* in this order */
	}
}

/* ---- Who shares whose ------------------------------------------------------------- */

/* BLK-DEV-017, BLK-DEV-018: a sync that had begun before is none for those that come. */
static void those_that_wait_share_the_next(void **state)
{
	struct yard *y = yard_open(state);

	all_wait(y);
	/* Reads and writes need not wait. */
	assert_int_equal(depot_do(&y->queues[0], &plain), 0);
	assert_int_equal(y->queues[0].busy, 1);
	assert_syncs(y->s, 0);
	lead_end(y, 0);
	for (unsigned int i = 0; i < LATE; i++)
		assert_int_equal(depot_wait(&y->queues[i], 0), 0);
	assert_syncs(y->s, 1);
	/* Alone each has one of its own. */
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_int_equal(depot_do(&y->queues[i], i ? &flush : &stable), 0);
	assert_syncs(y->s, 1 + QUEUES);
	yard_close(y);
}

static void who_comes_during_the_next_waits_for_another(void **state)
{
	struct yard *y = yard_open(state);

	kernel_open(0, 0);
	all_wait(y);
	lead_end(y, 0);
	kernel_wait_begun(1);	/* the first queue leads; two are covered */
	depot_send(&y->queues[LATE], &flush);
	yard_wait(y, 3);
	kernel_lets_end(1);
	for (unsigned int i = 0; i < LATE; i++)
		assert_int_equal(depot_wait(&y->queues[i], 0), 0);
	kernel_wait_begun(2);
	assert_false(depot_reap(&y->queues[LATE], 20));
	kernel_lets_end(2);
	assert_int_equal(depot_wait(&y->queues[LATE], 0), 0);
	assert_syncs(y->s, 2);
	yard_close(y);
}

/* ---- Errors ------------------------------------------------------------------------ */

static void assert_all_fail(struct yard *y)
{
	for (unsigned int i = 0; i < QUEUES; i++) {
		assert_int_equal(depot_do(&y->queues[i], &flush), -EIO);
		assert_int_equal(depot_do(&y->queues[i], &stable), -EIO);
		assert_int_equal(depot_do(&y->queues[i], &plain), 0);
	}
}

/* BLK-DEV-017, BLK-DEV-018: nobody who waited can know either. */
static void an_error_fails_those_that_wait(void **state)
{
	struct yard *y = yard_open(state);

	all_wait(y);
	lead_end(y, -ENOSPC);
	for (unsigned int i = 0; i < LATE; i++)
		assert_int_equal(depot_wait(&y->queues[i], 0), -EIO);
	assert_all_fail(y);
	assert_syncs(y->s, 0);
	yard_close(y);
}

/* The kernel tells it once: the next sync would succeed. */
static void an_error_is_told_to_all_that_share_it(void **state)
{
	struct yard *y = yard_open(state);

	kernel_open(0, 1);
	all_wait(y);
	lead_end(y, 0);
	kernel_wait_begun(1);
	depot_send(&y->queues[LATE], &stable);
	yard_wait(y, 3);
	kernel_lets_end(UINT32_MAX);
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_int_equal(depot_wait(&y->queues[i], 0), -EIO);
	assert_all_fail(y);
	assert_syncs(y->s, 1);
	yard_close(y);
}

/* ---- Results that are lost ------------------------------------------------------------ */

/* What the next sync would be made through. */
static int fd_of_next(struct yard *y)
{
	lead(y);
	lead_end(y, -ECANCELED);
	return y->op.fd;
}

static void lose_one(struct yard *y, int fd)
{
	lead(y);
	assert_int_equal(y->op.fd, fd);
	lead_end(y, -EOWNERDEAD);
}

/*
 * BLK-DEV-017, BLK-DEV-018: nobody knows what the kernel has told, so the same opened file
 * is not asked again before another one has been.
 */
static void a_lost_result_is_asked_for_elsewhere(void **state)
{
	struct yard *y = yard_open(state);
	int first = fd_of_next(y), second;

	all_wait(y);
	assert_int_equal(y->op.fd, first);
	lead_end(y, -EOWNERDEAD);
	for (unsigned int i = 0; i < LATE; i++)
		assert_int_equal(depot_wait(&y->queues[i], 0), 0);
	assert_syncs(y->s, 1);
	second = fd_of_next(y);
	assert_int_not_equal(second, first);
	/* Each makes up for the other, over and over. */
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(depot_do(&y->queues[i], &flush), 0);
		lose_one(y, i % 2 ? first : second);
		assert_int_equal(depot_do(&y->queues[i], &stable), 0);
	}
	yard_close(y);
}

/* Neither has answered since: one of them may have been told of an error. */
static void two_lost_results_in_a_row_are_a_failure(void **state)
{
	for (unsigned int way = 0; way < 2; way++) {
		struct yard *y = yard_open(state);
		int first = fd_of_next(y), second;

		lose_one(y, first);
		second = fd_of_next(y);		/* cancelled: no answer */
		if (way) {
			lose_one(y, second);
		} else {
			all_wait(y);
			lead_end(y, -EOWNERDEAD);
			for (unsigned int i = 0; i < LATE; i++)
				assert_true(depot_wait(&y->queues[i], 0) < 0);
		}
		assert_all_fail(y);
		assert_syncs(y->s, 0);
		yard_close(y);
	}
}

/* A file's own finish(), but the engine whose turn it is to lead fails in that moment. */
static struct {
	struct virtq_store_ops ops;
	const struct virtq_store_ops *files;
	int denied;		/* 1: not yet; atomic */
} trap;

static enum virtq_verdict trap_finish(struct virtq_store *store, struct virtq_store_io *io,
				      struct virtq_op *op, int64_t result)
{
	if (io->req->queue && io->kind == VIRTQ_STORE_FLUSH &&
	    __atomic_load_n(&trap.denied, __ATOMIC_SEQ_CST) == 1)
		__atomic_store_n(&trap.denied, deny_waiting(EPERM), __ATOMIC_SEQ_CST);
	return trap.files->finish(store, io, op, result);
}

static void an_engine_that_fails_takes_no_flush_with_it(void **state)
{
	static const unsigned int from[] = { 0, 0, 1, 2 };
	struct yard *y = yard_open(state);
	int first = fd_of_next(y), result;

	trap.files = y->store->ops;
	trap.ops = *trap.files;
	trap.ops.finish = trap_finish;
	trap.denied = 1;
	y->store->ops = &trap.ops;
	lead(y);
	for (unsigned int i = 0; i < sizeof(from) / sizeof(from[0]); i++) {
		depot_send(&y->queues[from[i]], from[i] == 1 ? &stable : &flush);
		yard_wait(y, i + 1);
	}
	lead_end(y, 0);
	result = depot_wait(&y->queues[0], 0);
	/* Where there are no such filters (an emulator) there is nothing to test. */
	if (trap.denied == 0) {
		assert_int_equal(result, -EOWNERDEAD);
		assert_int_equal(depot_wait(&y->queues[0], 1), -ECANCELED);
	} else {
		assert_int_equal(depot_wait(&y->queues[0], 1), 0);
	}
	for (unsigned int i = 1; i < LATE; i++)
		assert_int_equal(depot_wait(&y->queues[i], 0), 0);
	/* Those of other engines, among them one that has the queue next. */
	for (unsigned int i = 1; i < QUEUES; i++) {
		assert_int_equal(depot_do(&y->queues[i], &flush), 0);
		assert_int_equal(depot_do(&y->queues[i], &stable), 0);
	}
	assert_int_equal(fd_of_next(y) == first, trap.denied != 0);
	y->store->ops = trap.files;
	yard_close(y);
	if (trap.denied) {
		print_message("skipped: no filter on system calls: %s\n", strerror(-trap.denied));
		skip();
	}
}

/* ---- Cancelled ---------------------------------------------------------------------- */

static void who_waits_can_be_cancelled(void **state)
{
	for (unsigned int way = 0; way < 2 * LATE; way++) {
		struct yard *y = yard_open(state);
		unsigned int gone = way / 2;

		all_wait(y);
		yard_take_away(y, gone, way % 2);
		assert_int_equal(y->queues[gone].result[0], -ECANCELED);
		assert_int_equal(count_waiting(y), LATE - 1);
		lead_end(y, 0);
		for (unsigned int i = 0; i < LATE; i++)
			if (i != gone)
				assert_int_equal(depot_wait(&y->queues[i], 0), 0);
		assert_syncs(y->s, 1);
		yard_close(y);
	}
}

static void all_that_wait_can_be_cancelled(void **state)
{
	struct yard *y = yard_open(state);

	all_wait(y);
	for (unsigned int i = LATE; i--; ) {
		yard_take_away(y, i, i % 2);
		assert_int_equal(y->queues[i].result[0], -ECANCELED);
	}
	assert_int_equal(count_waiting(y), 0);
	lead_end(y, 0);
	assert_syncs(y->s, 0);
	/* As if nothing had been. */
	lead(y);
	lead_end(y, 0);
	yard_close(y);
}

/* Those that share a sync which is under way. */
static void who_shares_can_be_cancelled(void **state)
{
	for (unsigned int way = 0; way < 4; way++) {
		struct yard *y = yard_open(state);
		unsigned int gone = 1 + way / 2;

		kernel_open(0, 0);
		all_wait(y);
		lead_end(y, 0);
		kernel_wait_begun(1);
		depot_send(&y->queues[LATE], &flush);
		yard_wait(y, 3);
		yard_take_away(y, gone, way % 2);
		assert_int_equal(y->queues[gone].result[0], -ECANCELED);
		kernel_lets_end(1);
		assert_int_equal(depot_wait(&y->queues[0], 0), 0);
		assert_int_equal(depot_wait(&y->queues[3 - gone], 0), 0);
		kernel_wait_begun(2);
		kernel_lets_end(2);
		assert_int_equal(depot_wait(&y->queues[LATE], 0), 0);
		assert_syncs(y->s, 2);
		yard_close(y);
	}
}

/* A sync that was not performed is none; the next one leads, and nobody hangs. */
static void who_leads_can_be_cancelled(void **state)
{
	struct yard *y = yard_open(state);

	all_wait(y);
	lead_end(y, -ECANCELED);
	for (unsigned int i = 0; i < LATE; i++)
		assert_int_equal(depot_wait(&y->queues[i], 0), 0);
	assert_syncs(y->s, 1);
	/* With nobody behind it, too. */
	lead(y);
	lead_end(y, -ECANCELED);
	assert_int_equal(depot_do(&y->queues[0], &flush), 0);
	assert_syncs(y->s, 2);
	yard_close(y);
}

/* Queues come and go, whatever their requests are at. */
static void queues_come_and_go(void **state)
{
	struct yard *y = yard_open(state);
	struct shadow dice = { .random = 0x2545f4914f6cdd1du };

	for (unsigned int round = 0; round < 150; round++) {
		unsigned int gone = (unsigned int)(shadow_random(&dice) % (2 * QUEUES));

		for (unsigned int i = 0; i < 8 * QUEUES; i++)
			depot_send(&y->queues[i % QUEUES], shadow_random(&dice) % 2 ? &flush :
				   shadow_random(&dice) % 2 ? &stable : &plain);
		if (gone < QUEUES) {
			struct depot *dp = &y->queues[gone];

			yard_take_away(y, gone, shadow_random(&dice) % 2);
			for (unsigned int tag = 0; tag < 8; tag++)
				assert_true(dp->result[tag] == 0 || dp->result[tag] == DEPOT_NONE ||
					    dp->result[tag] == -ECANCELED);
			depot_open_shared(dp, y->s, y->store, 1);
			y->gone[gone] = false;
		}
		for (unsigned int i = 0; i < QUEUES; i++)
			for (unsigned int tag = 0; tag < 8; tag++)
				if (y->queues[i].busy & 1u << tag)
					assert_int_equal(depot_wait(&y->queues[i], tag), 0);
	}
	yard_close(y);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(those_that_wait_share_the_next),
		ON(sync_split, who_comes_during_the_next_waits_for_another),
		ON_ENGINES(an_error_fails_those_that_wait),
		ON(sync_split, an_error_is_told_to_all_that_share_it),
		ON_ENGINES(a_lost_result_is_asked_for_elsewhere),
		ON_ENGINES(two_lost_results_in_a_row_are_a_failure),
		ON(uring_split, an_engine_that_fails_takes_no_flush_with_it),
		ON_ENGINES(who_waits_can_be_cancelled),
		ON_ENGINES(all_that_wait_can_be_cancelled),
		ON(sync_split, who_shares_can_be_cancelled),
		ON_ENGINES(who_leads_can_be_cancelled),
		ON_ENGINES(queues_come_and_go),
	};

	return cmocka_run_group_tests_name("store file sync", tests, NULL, NULL) ? 1 : 0;
}
