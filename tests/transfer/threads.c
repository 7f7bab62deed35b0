/* SPDX-License-Identifier: MIT */
/*
 * A pool for several threads, with a device in a thread of its own: what several
 * threads offer comes back once, to one of several that take; who waits for room,
 * or for chains of which another took only one, is woken; and close and cancel
 * end every wait. A wake-up that is lost shows as a time without progress.
 *
 * The device sees the memory where the pool does, so that under TSan a byte that
 * both touch at once is a report.
 */
#include "far_end.h"

#include <pthread.h>
#include <time.h>

#include <virtq/pool.h>

#define OFFERERS 3u
#define TAKERS 3u
#define PACKETS 400u		/* of each offerer */
#define TOTAL (OFFERERS * PACKETS)
#define PATIENCE_MS 20000	/* without progress */

#define load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define count_up(p) __atomic_add_fetch((p), 1, __ATOMIC_SEQ_CST)

struct rig {
	struct layout layout;
	uint32_t size, items;
	struct virtq_pool *pool;
	struct far_end far;
	pthread_t device;
	bool stop;			/* the device's thread ends */
	unsigned int hold;		/* it returns chains only when it has so many */
	unsigned int offered, taken, ended, next;
	uint8_t seen[TOTAL];		/* how often each was taken */
	int complaint;			/* line of what was wrong first, negative */
	int results[16];
	int cancel_fd;
};

/* Of a thread, where cmocka's assertions are of no use. */
#define EXPECT(r, condition) do { \
	if (!(condition)) \
		store(&(r)->complaint, -__LINE__); \
} while (0)

static void complain_if_any(struct rig *r)
{
	if (load(&r->complaint))
		fail_msg("a thread says: line %d", -load(&r->complaint));
}

/* Until @count reaches @goal; a time without progress fails. */
static void await(struct rig *r, unsigned int *count, unsigned int goal)
{
	unsigned int last = load(count), idle_ms = 0;

	while (load(count) < goal) {
		unsigned int now;

		usleep(1000);
		now = load(count);
		idle_ms = now == last ? idle_ms + 1 : 0;
		last = now;
		if (idle_ms > PATIENCE_MS) {
			print_error("no progress at %u of %u: %u offered, %u taken\n", now, goal,
				    load(&r->offered), load(&r->taken));
			_exit(1);	/* threads are stuck: nothing can be taken down */
		}
	}
}

/* ---- The device ---------------------------------------------------------- */

static void *device_main(void *arg)
{
	struct rig *r = arg;
	struct virtq_device *q = r->far.device;
	int kick_fd = virtq_port_kick_fd(r->far.port), call_fd = virtq_port_call_fd(r->far.port);
	struct virtq_req *reqs[64];
	unsigned int have = 0;

	while (!load(&r->stop)) {
		int rc = virtq_device_pop(q, reqs + have, 64 - have);

		EXPECT(r, rc >= 0);
		if (rc < 0)
			break;
		have += (unsigned int)rc;
		if (have && have >= load(&r->hold)) {
			for (unsigned int i = 0; i < have; i++) {
				uint32_t tag = 0;

				virtq_req_read(reqs[i], &tag, sizeof(tag));
				virtq_req_write(reqs[i], &tag, sizeof(tag));
			}
			virtq_device_push(q, reqs, have);
			have = 0;
			if (virtq_device_publish(q))
				virtq_notify_send(call_fd);
		}
		/* The other order would take away a kick for what was not seen. */
		if (!rc) {
			virtq_notify_clear(kick_fd);
			if (!virtq_device_arm(q) && !load(&r->stop))
				virtq_notify_wait(kick_fd, 1000);
		}
	}
	return NULL;
}

static void rig_open(struct rig *r, struct layout layout, uint32_t size, uint32_t items)
{
	struct virtq_pool_config config = {
		.features = layout_features(layout), .size = size,
		.indirect_entries = size < 4 ? size : 4,
		.item_bytes = 64, .items = items, .threads = true,
	};
	struct virtq_error err;

	memset(r, 0, sizeof(*r));
	r->layout = layout;
	r->size = size;
	r->items = items;
	if (virtq_pool_create(&r->pool, &config, &err))
		fail_msg("%s", err.text);
	far_open(&r->far, virtq_pool_port(r->pool), NULL, 0, false);
	assert_int_equal(pthread_create(&r->device, NULL, device_main, r), 0);
}

static void rig_close(struct rig *r)
{
	virtq_pool_close(r->pool);
	store(&r->stop, true);
	virtq_notify_send(virtq_port_kick_fd(r->far.port));
	pthread_join(r->device, NULL);
	far_close(&r->far);
	virtq_pool_destroy(r->pool);
	complain_if_any(r);
}

static void start(pthread_t *threads, unsigned int count, void *(*fn)(void *arg), struct rig *r)
{
	for (unsigned int i = 0; i < count; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, fn, r), 0);
}

static void join(pthread_t *threads, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static const struct virtq_wait ever = { -1, NULL };

/* ---- Many threads at both ends of the pool ---------------------------------- */

static void *offerer(void *arg)
{
	struct rig *r = arg;

	for (unsigned int i = 0; i < PACKETS; i++) {
		uint32_t tag = count_up(&r->next) - 1;
		struct virtq_span part = { &tag, sizeof(tag) };
		struct virtq_offer offer = { .parts = &part, .part_count = 1,
					     .writable_bytes = r->size > 1 ? 4 : 0 };
		int rc = virtq_pool_offer(r->pool, &offer, 1, NULL, 0, &ever);

		EXPECT(r, rc == 1);
		if (rc != 1)
			break;
		count_up(&r->offered);
	}
	return NULL;
}

/* One at a time: what is left over is for the others, who must be told. */
static void *taker(void *arg)
{
	struct rig *r = arg;

	for (;;) {
		struct virtq_chain chain;
		uint32_t tag = UINT32_MAX, echo = UINT32_MAX;
		int rc = virtq_pool_take(r->pool, &chain, 1, &ever);

		if (rc == -ESHUTDOWN)
			break;
		EXPECT(r, rc == 1);
		if (rc != 1)
			break;
		EXPECT(r, virtq_pool_copy_out(r->pool, &chain, VIRTQ_PART_READABLE, 0, &tag,
					      4) == 4);
		if (r->size > 1) {
			EXPECT(r, virtq_pool_copy_out(r->pool, &chain, VIRTQ_PART_WRITTEN, 0,
						      &echo, 4) == 4);
			EXPECT(r, echo == tag);
		}
		EXPECT(r, tag < TOTAL);
		if (tag < TOTAL)
			count_up(&r->seen[tag]);
		EXPECT(r, virtq_pool_free(r->pool, &chain, 1) == 1);
		count_up(&r->taken);
	}
	return NULL;
}

static void through(struct layout layout, uint32_t size, uint32_t items)
{
	pthread_t offerers[OFFERERS], takers[TAKERS];
	struct rig *r = calloc(1, sizeof(*r));
	struct virtq_pool_room room;

	assert_non_null(r);
	rig_open(r, layout, size, items);
	start(takers, TAKERS, taker, r);
	start(offerers, OFFERERS, offerer, r);
	await(r, &r->taken, TOTAL);
	join(offerers, OFFERERS);
	room = virtq_pool_room(r->pool);
	assert_int_equal(room.items, items);
	assert_int_equal(room.entries, size);
	assert_int_equal(room.held + room.in_flight, 0);
	virtq_pool_close(r->pool);
	join(takers, TAKERS);
	for (uint32_t i = 0; i < TOTAL; i++)
		assert_int_equal(r->seen[i], 1);
	rig_close(r);
	free(r);
}

static void test_nothing_is_lost_between_many_threads(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		through(layout_at(i), 1, 2);
		through(layout_at(i), layout_at(i).packed ? 3 : 4, 4);
		through(layout_at(i), 16, 6);
	}
}

/* ---- Leftovers ---------------------------------------------------------------- */

static void *take_once(void *arg)
{
	struct rig *r = arg;
	struct virtq_chain chain;

	EXPECT(r, virtq_pool_take(r->pool, &chain, 1, &ever) == 1);
	EXPECT(r, virtq_pool_free(r->pool, &chain, 1) == 1);
	count_up(&r->taken);
	return NULL;
}

/*
 * As many sleepers as chains, which come back with one signal: the first to wake
 * sees all, takes one, and has to see to it that the others wake.
 */
static void test_what_one_leaves_wakes_another(void **state)
{
	enum { SLEEPERS = 4, ROUNDS = 60 };
	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i += 1) {
		struct rig *r = calloc(1, sizeof(*r));

		assert_non_null(r);
		rig_open(r, layout_at(i), 4, 4);
		r->hold = SLEEPERS;
		for (unsigned int round = 0; round < ROUNDS; round++) {
			pthread_t threads[SLEEPERS];

			start(threads, SLEEPERS, take_once, r);
			if (round % 2)
				usleep(200);
			assert_int_equal(virtq_pool_offer_writable(r->pool, SLEEPERS, 4, NULL, 0,
								   NULL), SLEEPERS);
			await(r, &r->taken, (round + 1) * SLEEPERS);
			join(threads, SLEEPERS);
		}
		rig_close(r);
		free(r);
	}
}

static void *offer_once(void *arg)
{
	struct rig *r = arg;

	EXPECT(r, virtq_pool_offer_writable(r->pool, 1, 4, NULL, 0, &ever) == 1);
	count_up(&r->offered);
	return NULL;
}

/* One call frees room for all of them. */
static void test_room_for_many_wakes_many(void **state)
{
	enum { SLEEPERS = 4, ROUNDS = 60 };
	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i += 1) {
		struct rig *r = calloc(1, sizeof(*r));
		struct virtq_chain held[SLEEPERS];

		assert_non_null(r);
		rig_open(r, layout_at(i), 8, SLEEPERS);
		for (unsigned int round = 0; round < ROUNDS; round++) {
			pthread_t threads[SLEEPERS];

			for (unsigned int k = 0; k < SLEEPERS; k++)
				assert_int_equal(virtq_pool_alloc(r->pool, 0, 4, &held[k]), 0);
			start(threads, SLEEPERS, offer_once, r);
			if (round % 2)
				usleep(200);
			assert_int_equal(virtq_pool_free(r->pool, held, SLEEPERS), SLEEPERS);
			await(r, &r->offered, (round + 1) * SLEEPERS);
			join(threads, SLEEPERS);
			for (unsigned int k = 0; k < SLEEPERS;) {
				int rc = virtq_pool_take(r->pool, held, SLEEPERS, &ever);

				assert_in_range(rc, 1, SLEEPERS);
				assert_int_equal(virtq_pool_free(r->pool, held, (unsigned int)rc),
						 rc);
				k += (unsigned int)rc;
			}
		}
		rig_close(r);
		free(r);
	}
}

/* ---- Ends of waits ---------------------------------------------------------------- */

static void ended(struct rig *r, int rc)
{
	r->results[count_up(&r->next) - 1] = rc;
	count_up(&r->ended);
}

static void *wait_to_take(void *arg)
{
	struct rig *r = arg;
	struct virtq_wait wait = { -1, r->cancel_fd ? &r->cancel_fd : NULL };
	struct virtq_chain chain;
	int rc = virtq_pool_take(r->pool, &chain, 1, &wait);

	ended(r, rc);
	return NULL;
}

static void *wait_to_take_for_ever(void *arg)
{
	struct rig *r = arg;
	struct virtq_chain chain;
	int rc = virtq_pool_take(r->pool, &chain, 1, &ever);

	ended(r, rc);
	return NULL;
}

static void *wait_for_room(void *arg)
{
	struct rig *r = arg;
	struct virtq_wait wait = { -1, r->cancel_fd ? &r->cancel_fd : NULL };
	int rc = virtq_pool_offer_writable(r->pool, 1, 4, NULL, 0, &wait);

	ended(r, rc);
	return NULL;
}

/* @count threads of each kind wait: full is the pool, and the device returns nothing. */
static void make_wait(struct rig *r, pthread_t *threads, unsigned int count, struct layout layout)
{
	int fd = r->cancel_fd;

	rig_open(r, layout, 4, 4);
	r->cancel_fd = fd;
	store(&r->hold, 1000);
	assert_int_equal(virtq_pool_offer_writable(r->pool, 4, 4, NULL, 0, NULL), 4);
	start(threads, count, wait_to_take, r);
	start(threads + count, count, wait_for_room, r);
	usleep(5000);
	assert_int_equal(load(&r->ended), 0);
}

static void test_close_wakes_all_who_wait(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		struct rig *r = calloc(1, sizeof(*r));
		pthread_t threads[6];

		assert_non_null(r);
		make_wait(r, threads, 3, layout_at(i));
		virtq_pool_close(r->pool);
		await(r, &r->ended, 6);
		join(threads, 6);
		for (unsigned int k = 0; k < 6; k++)
			assert_int_equal(r->results[k], -ESHUTDOWN);
		virtq_pool_close(r->pool);
		assert_int_equal(virtq_pool_offer_writable(r->pool, 1, 4, NULL, 0, NULL),
				 -ESHUTDOWN);
		rig_close(r);
		free(r);
	}
}

static void test_a_cancel_fd_wakes_all_who_have_it(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		struct rig *r = calloc(1, sizeof(*r));
		pthread_t threads[7];
		int fd = virtq_notify_open();

		assert_non_null(r);
		r->cancel_fd = fd;
		make_wait(r, threads, 3, layout_at(i));
		/* One more, who has none. */
		start(threads + 6, 1, wait_to_take_for_ever, r);
		usleep(2000);
		assert_int_equal(virtq_notify_send(fd), 0);
		await(r, &r->ended, 6);
		for (unsigned int k = 0; k < 6; k++)
			assert_int_equal(r->results[k], -ECANCELED);
		usleep(2000);
		assert_int_equal(load(&r->ended), 6);
		/* It is polled and never read. */
		assert_true(fd_readable(fd));
		virtq_pool_close(r->pool);
		join(threads, 7);
		assert_int_equal(r->results[6], -ESHUTDOWN);
		rig_close(r);
		close(fd);
		free(r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_lost_between_many_threads),
		cmocka_unit_test(test_what_one_leaves_wakes_another),
		cmocka_unit_test(test_room_for_many_wakes_many),
		cmocka_unit_test(test_close_wakes_all_who_wait),
		cmocka_unit_test(test_a_cancel_fd_wakes_all_who_have_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
