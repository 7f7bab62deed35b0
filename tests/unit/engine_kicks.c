/* SPDX-License-Identifier: MIT */
/*
 * Kicks that mean nothing, that never end, that nobody takes, on engines that hear of
 * them in different ways; and rings with nothing to be taken for other reasons.
 */
#include "old_kernel.h"
#include "stand.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <virtq/iotlb.h>

#include "engine/uring.h"

/* How an engine hears of kicks. */
struct way {
	enum virtq_engine_kind kind;
	uint32_t forbid;
	bool packed, old_kernel;
};

static const struct way multishot = { VIRTQ_ENGINE_URING, 0, false, false };
static const struct way single_shot = { VIRTQ_ENGINE_URING, VIRTQ_USE_MULTISHOT, true, false };
static const struct way refused = { VIRTQ_ENGINE_URING, 0, false, true };
static const struct way epoll = { VIRTQ_ENGINE_SYNC, 0, false, false };

#define ON_WAYS(test) \
	ON(multishot, test), ON(single_shot, test), ON(refused, test), ON(epoll, test)

static struct virtq_engine *engine_by(const struct way *way)
{
	struct virtq_engine *engine;

	old_kernel_set(way->old_kernel);
	engine = engine_with(&(struct virtq_engine_config){
		.kind = way->kind, .forbid = way->forbid, .spin = VIRTQ_SPIN_OFF });
	if (way->kind == VIRTQ_ENGINE_URING)
		assert_int_equal(virtq_engine_uses(engine) & VIRTQ_USE_MULTISHOT,
				 VIRTQ_USE_MULTISHOT & ~way->forbid);
	return engine;
}

static void lane_by(struct lane *l, struct virtq_engine *engine, struct disk *disk,
		    const struct way *way, int kick_fd)
{
	disk_open(disk, false, 1);
	lane_open(l, engine, disk,
		  &(struct pair_shape){ .packed = way->packed, .event_idx = true, .size = 256 },
		  kick_fd, new_eventfd());
}

/* ---- Kicks --------------------------------------------------------------------- */

static void every_kick_is_heard(void **state)
{
	struct virtq_engine *engine = engine_by(*state);
	struct virtq_engine_stats stats;
	struct disk disk;
	struct lane l;

	lane_by(&l, engine, &disk, *state, new_eventfd());
	lane_run(&l, 1, 1000);
	lane_run(&l, 16, 1000);
	virtq_engine_queue_stats(l.queue, &stats);
	assert_int_equal(stats.requests, 2000);
	assert_true(stats.kicks > 0);
	assert_idle();
	lane_end(&l, engine, &disk);
}

/* A kernel before 5.13 says that it has no multishot polls when it is asked for the first. */
static void what_the_kernel_refuses_is_not_asked_for_again(void **state)
{
	struct virtq_engine *engine = engine_by(*state);
	struct disk disk;
	struct lane l;

	lane_by(&l, engine, &disk, *state, new_eventfd());
	lane_run(&l, 1, 100);
	assert_int_equal(virtq_engine_uses(engine) & VIRTQ_USE_MULTISHOT, 0);
	assert_int_equal(old_kernel_refused(), 1);
	lane_end(&l, engine, &disk);
}

/* Step until there is nothing to do, and nothing to wait for but the fd. */
static void step_to_sleep(struct virtq_engine *engine)
{
	for (uint64_t start = now_ms(); virtq_engine_step(engine) >= 0;)
		assert_true(now_ms() - start < WAIT_MS);
}

/* Each of the polls that were under way when it said so is made anew. */
static void all_refused_polls_are_made_anew(void **state)
{
	struct virtq_model model = { .ops = &quick_ops };
	struct pollfd news = { .events = POLLIN };
	struct chain c = { .readable = 0 };
	struct virtq_engine *engine;
	struct engine_msg enable[3];
	struct stand st[3];

	(void)state;
	old_kernel_set(false);
	engine = engine_with(&(struct virtq_engine_config){
		.kind = VIRTQ_ENGINE_URING, .spin = VIRTQ_SPIN_OFF, .stepped = true });
	news.fd = virtq_engine_fd(engine);
	for (unsigned int i = 0; i < 3; i++) {
		stand_open_on(&st[i], engine, &uring_split, &model);
		virtq_engine_queue_enable(st[i].queue, false);
		enable[i] = (struct engine_msg){ .kind = MSG_ENABLE, .queue = st[i].queue,
						 .enabled = true };
	}
	old_kernel_set(true);
	for (unsigned int i = 0; i < 3; i++)
		engine_send(engine, &enable[i]);
	for (unsigned int i = 0; i < 3; i++)
		engine_await(engine, &enable[i]);
	step_to_sleep(engine);
	assert_int_equal(old_kernel_refused(), 3);
	assert_int_equal(virtq_engine_uses(engine) & VIRTQ_USE_MULTISHOT, 0);
	chain_writable(&c, 0, 1);
	for (unsigned int i = 0; i < 6; i++) {
		struct virtq_completion done;

		stand_send(&st[i % 3], &c);
		assert_int_equal(poll(&news, 1, WAIT_MS), 1);
		step_to_sleep(engine);
		assert_int_equal(virtq_driver_get(st[i % 3].pair.driver, &done, 1), 1);
	}
	for (unsigned int i = 0; i < 3; i++)
		stand_close(&st[i]);
	virtq_engine_destroy(engine);
}

/* The kernel ends a multishot poll that has no room for its completion, as if all were well. */
static void a_poll_that_ends_without_a_word_is_made_anew(void **state)
{
	struct virtq_model model = { .ops = &quick_ops };
	struct pollfd news = { .events = POLLIN };
	struct chain c = { .readable = 0 };
	const struct engine_aux *kicks;
	struct virtq_completion done;
	struct virtq_engine *engine;
	struct io_uring *ring;
	struct stand st;
	uint32_t before;

	(void)state;
	old_kernel_set(false);
	engine = engine_with(&(struct virtq_engine_config){
		.kind = VIRTQ_ENGINE_URING, .spin = VIRTQ_SPIN_OFF, .stepped = true });
	assert_true(virtq_engine_uses(engine) & VIRTQ_USE_MULTISHOT);
	ring = &engine->uring->ring;
	news.fd = virtq_engine_fd(engine);
	stand_open_on(&st, engine, &uring_split, &model);
	step_to_sleep(engine);
	kicks = &st.queue->aux[AUX_POLL];
	chain_writable(&c, 0, 1);
	for (unsigned int i = 0; i < 3; i++) {
		/* Fill the ring of completions with what the engine ignores; then kick. */
		while (io_uring_cq_ready(ring) < *ring->cq.kring_entries) {
			io_uring_prep_nop(io_uring_get_sqe(ring));
			assert_int_equal(io_uring_submit(ring), 1);
		}
		before = kicks->generation;
		stand_send(&st, &c);
		step_to_sleep(engine);
		assert_int_equal(virtq_driver_get(st.pair.driver, &done, 1), 1);
		/* It has ended, or this shows nothing; and the next one hears the next kick. */
		assert_int_not_equal(kicks->generation, before);
		stand_send(&st, &c);
		assert_int_equal(poll(&news, 1, WAIT_MS), 1);
		step_to_sleep(engine);
		assert_int_equal(virtq_driver_get(st.pair.driver, &done, 1), 1);
	}
	stand_close(&st);
	virtq_engine_destroy(engine);
}

struct storm {
	int fd;
	bool quit;		/* atomic */
};

static void *storm_thread(void *arg)
{
	struct storm *s = arg;

	while (!__atomic_load_n(&s->quit, __ATOMIC_ACQUIRE))
		virtq_notify_send(s->fd);
	return NULL;
}

/* A driver that kicks without end is served meanwhile, and costs nothing once it stops. */
static void a_storm_of_kicks_passes(void **state)
{
	struct virtq_engine *engine = engine_by(*state);
	struct storm storm = { .quit = false };
	struct disk disk;
	pthread_t thread;
	struct lane l;

	lane_by(&l, engine, &disk, *state, new_eventfd());
	storm.fd = l.kick_fd;
	assert_int_equal(pthread_create(&thread, NULL, storm_thread, &storm), 0);
	lane_run(&l, 8, 300);
	usleep(100000);
	lane_run(&l, 1, 100);
	__atomic_store_n(&storm.quit, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	usleep(20000);
	assert_idle();
	lane_run(&l, 1, 100);
	lane_end(&l, engine, &disk);
}

/* Each read of such an eventfd takes one of 2^63 away: it is readable for ever. */
static int endless_eventfd(void)
{
	int fd = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void kick_endlessly(int fd)
{
	const uint64_t many = UINT64_MAX / 2;

	assert_int_equal(write(fd, &many, sizeof(many)), sizeof(many));
}

static void a_kick_that_is_never_drained_does_not_spin(void **state)
{
	struct virtq_engine *engine = engine_by(*state);
	struct disk disk;
	struct lane l;

	lane_by(&l, engine, &disk, *state, endless_eventfd());
	kick_endlessly(l.kick_fd);
	usleep(100000);
	assert_idle();
	/* And it is a kick like any other. */
	lane_run(&l, 1, 200);
	lane_run(&l, 16, 200);
	usleep(100000);
	assert_idle();
	lane_end(&l, engine, &disk);
}

/* Readable again as soon as it was read: it is left alone for a millisecond in between. */
static void a_kick_that_renews_itself_does_not_spin(void **state)
{
	struct virtq_engine *engine = engine_by(*state);
	const struct itimerspec always = { { 0, 1 }, { 0, 1 } };
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	struct virtq_engine_stats stats;
	struct disk disk;
	uint64_t begin;
	struct lane l;

	assert_true(timer >= 0);
	begin = engine_now_ns();
	assert_int_equal(timerfd_settime(timer, 0, &always, NULL), 0);
	lane_by(&l, engine, &disk, *state, timer);
	usleep(300000);
	virtq_engine_queue_stats(l.queue, &stats);
	assert_in_range(stats.kicks, 1, 100 + 2 * (engine_now_ns() - begin) / 1000000);
	assert_int_equal(virtq_engine_pause(&l.queue, 1, NULL), 0);
	virtq_engine_resume(l.queue);
	lane_end(&l, engine, &disk);
}

/* Nor of a queue that nobody looks at: paused, or not enabled yet. */
static void kicks_for_nobody_do_not_spin(void **state)
{
	struct virtq_engine *engine = engine_by(*state);
	struct disk disk;
	struct lane l;

	lane_by(&l, engine, &disk, *state, endless_eventfd());
	assert_int_equal(virtq_engine_pause(&l.queue, 1, NULL), 0);
	kick_endlessly(l.kick_fd);
	usleep(100000);
	assert_idle();
	virtq_engine_queue_enable(l.queue, false);
	virtq_engine_resume(l.queue);
	lane_fill(&l, 4, 4);
	usleep(100000);
	assert_idle();
	assert_int_equal(lane_reap(&l), 0);
	virtq_engine_queue_enable(l.queue, true);
	while (l.done < 4)
		lane_wait(&l);
	lane_end(&l, engine, &disk);
}

/* ---- Credits of queues that somebody else serves ---------------------------------- */

/* Queues without a kick fd that are paused or not enabled: their credits are for the others. */
static void who_takes_nothing_has_no_share(void **state)
{
	struct virtq_engine *engine = engine_by(*state);
	uint32_t all = engine->credits;
	struct disk disk;
	struct lane l[3];

	disk_open(&disk, false, 3);
	for (unsigned int i = 0; i < 3; i++)
		lane_open(&l[i], engine, &disk, &(struct pair_shape){ .size = 64 },
			  i ? -1 : new_eventfd(), -1);
	virtq_engine_queue_enable(l[0].queue, true);	/* a message: what follows is read after it */
	assert_int_equal(engine->reserve, all / 6);
	virtq_engine_queue_enable(l[1].queue, false);
	assert_int_equal(virtq_engine_pause(&l[2].queue, 1, NULL), 0);
	assert_int_equal(engine->reserve, all);
	assert_int_equal(engine->shared, 0);
	assert_idle();		/* nor are they polled */
	/* One that is resumed gets its own back. */
	virtq_engine_resume(l[2].queue);
	assert_int_equal(engine->reserve, all / 4);
	for (unsigned int i = 0; i < 3; i++)
		lane_close(&l[i]);
	virtq_engine_destroy(engine);
	disk_close(&disk);
}

/* ---- Addresses that are not known yet ---------------------------------------------- */

/* What waits for a translation waits in the ring: the queue is not broken, the engine not busy. */
static void a_miss_is_waited_out(void **state)
{
	struct virtq_engine *engine = engine_by(*state);
	struct virtq_model fill = { .ops = &quick_ops };
	struct virtq_device_config config;
	struct virtq_completion done;
	struct virtq_iotlb *tlb;
	struct chain c = { .readable = 0 };
	struct stand st = { .queue = NULL };

	assert_int_equal(virtq_iotlb_create(&tlb, 64, NULL), 0);
	st.kick = new_eventfd();
	st.call = new_eventfd();
	pair_open(&st.pair, &(struct pair_shape){ .size = 64 }, &fill, 4096);
	virtq_device_destroy(st.pair.device);
	config = (struct virtq_device_config){ .ring = st.pair.ring, .map = st.pair.map,
					       .iotlb = tlb };
	assert_int_equal(virtq_device_create(&st.pair.device, &config, NULL), 0);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = &fill, .ring = st.pair.device, .enabled = true,
				.kick_fd = dup_of(st.kick), .call_fd = dup_of(st.call),
				.err_fd = -1 }, &st.queue), 0);
	chain_writable(&c, 0, 1);
	stand_send(&st, &c);
	usleep(50000);
	assert_idle();
	assert_int_equal(virtq_driver_get(st.pair.driver, &done, 1), 0);
	assert_int_equal(virtq_engine_pause(&st.queue, 1, NULL), 0);
	assert_int_equal(virtq_device_fault(st.pair.device).code, VIRTQ_FAULT_NONE);
	assert_int_equal(virtq_device_miss(st.pair.device).addr, PAIR_DATA_GPA);
	assert_int_equal(virtq_iotlb_update(tlb, PAIR_DATA_GPA, 4096, st.pair.data,
					    VIRTQ_ACCESS_RW), 0);
	virtq_engine_resume(st.queue);
	assert_int_equal(stand_back(&st), 1);
	assert_int_equal(stand_do(&st, &c), 1);
	stand_close(&st);
	virtq_engine_destroy(engine);
	virtq_iotlb_destroy(tlb);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_WAYS(every_kick_is_heard),
		ON(refused, what_the_kernel_refuses_is_not_asked_for_again),
		cmocka_unit_test(all_refused_polls_are_made_anew),
		cmocka_unit_test(a_poll_that_ends_without_a_word_is_made_anew),
		ON_WAYS(a_storm_of_kicks_passes),
		ON_WAYS(a_kick_that_is_never_drained_does_not_spin),
		ON_WAYS(a_kick_that_renews_itself_does_not_spin),
		ON_WAYS(kicks_for_nobody_do_not_spin),
		ON(multishot, who_takes_nothing_has_no_share),
		ON(epoll, who_takes_nothing_has_no_share),
		ON(multishot, a_miss_is_waited_out),
		ON(epoll, a_miss_is_waited_out),
	};

	return cmocka_run_group_tests_name("engine kicks", tests, NULL, NULL) ? 1 : 0;
}
