/* SPDX-License-Identifier: MIT */
/*
 * Who is woken in a pool, step by step. The device is quiet: where a signal was another's
 * to take, it sends none.
 */
#include <time.h>

#include "sleepers.h"

static void open_threads(struct rig *r, const struct layout *layout)
{
	struct virtq_pool_config config = rig_config(*layout);

	config.size = 4;
	config.indirect_entries = 0;
	config.threads = true;
	rig_open(r, *layout, &config);
}

/* ---- Those outside and those inside --------------------------------------------------------- */

/* What was laid by waits for the one outside, and he has a signal. The other wants room. */
static void test_a_sleeper_outside_starves_nobody(void **state)
{
	struct virtq_chain chains[8];
	struct sleeper room;
	struct rig r;
	int fd;

	open_threads(&r, *state);
	fd = virtq_port_call_fd(r.port);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, NULL), 1);
	assert_int_equal(virtq_pool_arm(r.pool), 0);
	assert_int_equal(rig_serve(&r, 1, 8, 1), 1);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 5, 8, NULL, 0, NULL), 4);
	assert_true(fd_readable(fd));
	sleeper_start(&room, &r, false);
	assert_true(fd_readable(fd));
	assert_false(load(&room.done));
	assert_int_equal(rig_serve(&r, 1, 8, 1), 1);
	sleeper_end(&room, 1);
	assert_true(fd_readable(fd));
	assert_int_equal(virtq_pool_arm(r.pool), 1);
	assert_int_equal(virtq_pool_take(r.pool, chains, 8, NULL), 2);
	rig_close(&r);
}

/* And the other way round: his signal is for those inside, too. */
static void test_arming_outside_hands_on(void **state)
{
	struct sleeper taker;
	struct rig r;

	open_threads(&r, *state);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 8, NULL, 0, NULL), 2);
	sleeper_start(&taker, &r, true);
	serve_quietly(&r);
	assert_int_equal(virtq_pool_arm(r.pool), 1);
	sleeper_end(&taker, 1);
	rig_close(&r);
}

/* He armed, and was to sleep next; but an offer had to wait, and woke up by the same call. */
static void *serve_run(void *arg)
{
	pause_ms(20);
	rig_serve(arg, 3, 8, 1);
	return NULL;
}

static void test_waiting_for_room_keeps_what_was_armed(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[8];
	pthread_t device;
	struct rig r;
	int fd;

	config.indirect_entries = 0;
	rig_open(&r, *layout, &config);
	fd = virtq_port_call_fd(r.port);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 8, NULL, 0, NULL), 16);
	assert_int_equal(virtq_pool_arm(r.pool), 0);
	assert_int_equal(pthread_create(&device, NULL, serve_run, &r), 0);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 3, 8, NULL, 0, &forever), 3);
	pthread_join(device, NULL);
	assert_true(fd_readable(fd));
	assert_int_equal(virtq_pool_take(r.pool, chains, 8, NULL), 3);
	assert_int_equal(virtq_pool_arm(r.pool), 0);
	assert_false(fd_readable(fd));

	/* In vain: nothing came, and what comes still makes it readable. */
	{
		const struct virtq_wait briefly = { .timeout_ms = 5 };

		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, &briefly),
				 -ENOSPC);
	}
	assert_false(fd_readable(fd));
	assert_int_equal(rig_serve(&r, 1, 8, 1), 1);
	assert_true(fd_readable(fd));
	rig_close(&r);
}

/* Who finds something while he looks for room lays it by, and tells of both. */
static void test_whoever_looks_tells(void **state)
{
	for (unsigned int outside = 0; outside < 2; outside++) {
		struct sleeper room;
		struct rig r;

		open_threads(&r, *state);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 8, NULL, 0, NULL), 4);
		if (outside)
			assert_int_equal(virtq_pool_arm(r.pool), 0);
		sleeper_start(&room, &r, false);
		serve_quietly(&r);
		serve_quietly(&r);
		assert_false(fd_readable(virtq_port_call_fd(r.port)));
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, NULL), 1);
		sleeper_end(&room, 1);
		assert_int_equal(fd_readable(virtq_port_call_fd(r.port)), outside);
		rig_close(&r);
	}
}

/* What is given up makes room. */
static void test_given_up_is_room(void **state)
{
	for (unsigned int way = 0; way < 2; way++) {
		struct virtq_chain chains[24];
		struct sleeper room;
		struct rig r;

		open_threads(&r, *state);
		for (unsigned int i = 0; i < 24; i++)
			assert_int_equal(virtq_pool_alloc(r.pool, 8, 0, &chains[i]), 0);
		sleeper_start(&room, &r, false);
		assert_int_equal((way ? virtq_pool_abandon : virtq_pool_free)(r.pool, chains, 1),
				 1);
		sleeper_end(&room, 1);
		rig_close(&r);
	}
}

/* ---- Handing on ------------------------------------------------------------- */

/* Cancelled, he does not look; the signal that he took was for the other. */
static void test_the_cancelled_hand_on(void **state)
{
	int cancel = virtq_notify_open();
	struct sleeper taker, room;
	struct virtq_wait wait = { -1, &cancel };
	struct rig r;

	assert_true(cancel >= 0);
	open_threads(&r, *state);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 8, NULL, 0, NULL), 4);
	sleeper_start(&room, &r, false);
	taker = (struct sleeper){ .r = &r, .wait = wait, .takes = true };
	sleeper_run(&taker);
	serve_quietly(&r);
	virtq_notify_send(cancel);
	sleeper_end(&taker, -ECANCELED);
	sleeper_end(&room, 1);
	rig_close(&r);
	close(cancel);
}

/* Two are laid by, and one taker is woken. He wakes the other, not who wants room. */
static void test_takers_hand_on_to_takers(void **state)
{
	struct sleeper takers[2], room;
	struct rig r;

	open_threads(&r, *state);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 8, NULL, 0, NULL), 4);
	sleeper_start(&takers[0], &r, true);
	sleeper_start(&takers[1], &r, true);
	serve_quietly(&r);
	serve_quietly(&r);
	/* He looks, lays them by, and sleeps on, as he needs the whole ring. */
	sleeper_start_for(&room, &r, 4 * ITEM);
	sleeper_end(&takers[0], 1);
	sleeper_end(&takers[1], 1);
	assert_false(load(&room.done));
	assert_int_equal(rig_serve(&r, 2, 8, 1), 2);
	sleeper_end(&room, 1);
	rig_close(&r);
}

/* A device that breaks the ring need not call: whoever finds it tells all who sleep. */
static void test_whoever_finds_it_broken_tells_all(void **state)
{
	for (unsigned int way = 0; way < 2; way++) {
		int fd;
		struct rig r;

		open_threads(&r, *state);
		fd = virtq_port_call_fd(r.port);
		/* And again, after a reset. */
		for (unsigned int turn = 0; turn < 2; turn++) {
			struct virtq_chain chains[4];
			struct sleeper taker;

			assert_int_equal(virtq_pool_offer_writable(r.pool, 3, 8, NULL, 0, NULL),
					 3);
			/* One is outside. */
			assert_int_equal(virtq_pool_arm(r.pool), 0);
			sleeper_start(&taker, &r, true);
			far_lie(&r.far, 4000, 1);
			/* One fits, and then it looks. */
			if (way)
				assert_int_equal(virtq_pool_take(r.pool, chains, 4, NULL),
						 -EBADMSG);
			else
				assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 8, NULL, 0,
									   NULL), 1);
			sleeper_end(&taker, -EBADMSG);
			assert_true(fd_readable(fd));
			virtq_driver_stop(r.q);
			assert_int_equal(virtq_pool_reset(r.pool), way ? 3 : 4);
			rig_again(&r);
		}
		rig_close(&r);
	}
}

/* The same of one owner, whose event loop sleeps over an offer that is made elsewhere in it. */
static void test_one_owner_is_told_of_a_broken_ring(void **state)
{
	for (unsigned int way = 0; way < 3; way++) {
		struct virtq_pool_config config = rig_config(*(const struct layout *)*state);
		const struct virtq_offer forget = { .writable_bytes = 8,
						    .flags = VIRTQ_OFFER_FORGET };
		const struct virtq_wait briefly = { .timeout_ms = 1 };
		struct virtq_chain chain;
		struct rig r;
		int fd;

		config.size = 4;
		config.items = way == 2 ? 3 : 8;
		config.indirect_entries = config.indirect_entries ? 4 : 0;
		rig_open(&r, *(const struct layout *)*state, &config);
		fd = virtq_port_call_fd(r.port);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 8, NULL, 0, NULL), 2);
		assert_int_equal(virtq_pool_offer(r.pool, &forget, 1, NULL, 0, NULL), 1);
		assert_int_equal(virtq_pool_arm(r.pool), 0);
		far_lie(&r.far, 4000, 1);
		assert_false(fd_readable(fd));
		if (way == 2)
			assert_int_equal(virtq_pool_alloc(r.pool, 8, 0, &chain), -EBADMSG);
		else
			assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 8, NULL, 0,
								   way ? &briefly : NULL), 1);
		assert_true(fd_readable(fd));
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), -EBADMSG);
		rig_close(&r);
	}
}

/* ---- The end of a wait ------------------------------------------------------ */

/* What is used between the look and the arming is found: no call will come for it. */
static void test_used_before_it_was_armed(void **state)
{
	for (unsigned int threads = 0; threads < 2; threads++) {
		struct virtq_pool_config config = rig_config(*(const struct layout *)*state);
		struct virtq_wait wait = { .timeout_ms = LOST_MS };
		struct timespec begin, now;
		struct virtq_chain chain;
		struct rig r;

		config.threads = threads;
		rig_open(&r, *(const struct layout *)*state, &config);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, NULL), 1);
		late_device = &r;
		clock_gettime(CLOCK_MONOTONIC, &begin);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &wait), 1);
		clock_gettime(CLOCK_MONOTONIC, &now);
		assert_true(now.tv_sec - begin.tv_sec < LOST_MS / 2000);
		rig_close(&r);
	}
}

/* When nobody sleeps any more, calls are not wanted. */
static void test_the_last_one_disarms(void **state)
{
	for (unsigned int threads = 0; threads < 2; threads++) {
		struct virtq_pool_config config = rig_config(*(const struct layout *)*state);
		struct virtq_wait wait = { .timeout_ms = 2 };
		struct virtq_chain chain;
		struct virtq_req *req;
		struct rig r;

		config.threads = threads;
		rig_open(&r, *(const struct layout *)*state, &config);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 8, NULL, 0, NULL), 2);
		/* The first call of a device is sent in any case. */
		assert_int_equal(rig_serve(&r, 1, 8, 1), 1);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &wait), 0);
		assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
		virtq_device_push(r.far.device, &req, 1);
		assert_int_equal(virtq_device_publish(r.far.device), 0);
		rig_close(&r);
	}
}

/* A kick that could not be sent is told by who would wait for its effect. */
static void test_wait_tells_of_the_kick(void **state)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct virtq_pool_config config = rig_config(*(const struct layout *)*state);
	struct virtq_wait wait = { .timeout_ms = LOST_MS };
	struct virtq_chain chain;
	struct rig r;
	int fd;

	assert_true(null >= 0);
	rig_open(&r, *(const struct layout *)*state, &config);
	fd = virtq_port_kick_fd(r.port);
	assert_int_equal(virtq_device_arm(r.far.device), 0);
	assert_int_equal(dup2(null, fd), fd);
	close(null);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, NULL), 1);
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &wait), -EBADF);
	assert_int_equal(rig_serve(&r, 1, 8, 1), 1);
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &wait), 1);
	rig_close(&r);
}

/* He is awake, and has not left the pool yet. */
static void test_close_awaits_who_was_asleep(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct sleeper taker;
	struct rig r;

	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 8, NULL, 0, NULL), 4);
	sleeper_start(&taker, &r, true);
	cleared = 0;
	add(&slow_clear, 1);
	pause_ms(10);
	virtq_pool_close(r.pool);
	assert_int_equal(load(&cleared), 1);
	add(&slow_clear, -1);
	sleeper_end(&taker, -ESHUTDOWN);
	rig_close(&r);
}

/* Whoever destroys it frees it while he who slept is about to return: he looks at it no more. */
static void test_destroy_awaits_who_was_asleep(void **state)
{
	const struct layout *layout = *state;

	for (unsigned int way = 0; way < 4; way++) {
		struct virtq_pool_config config = rig_config(*layout);
		struct sleeper sleeper;
		struct rig r;

		config.threads = way & 1;
		rig_open(&r, *layout, &config);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 8, NULL, 0, NULL), 16);
		sleeper_start(&sleeper, &r, way & 2);
		add(&slow_unlock, 1);
		pause_ms(5);
		far_close(&r.far);
		virtq_pool_destroy(r.pool);
		sleeper_end(&sleeper, -ESHUTDOWN);
		add(&slow_unlock, -1);
		assert_int_equal(load(&bad_unlocks), 0);
	}
}

/* Something is there again and again, and it is never anything for him. */
static void test_time_is_over_for_who_never_sleeps(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	const struct virtq_wait briefly = { .timeout_ms = 5 };
	struct virtq_chain chain;
	struct rig r;

	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 8, NULL, 0, NULL), 16);
	always_ready = 1000;
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, &briefly), 0);
	assert_true(load(&always_ready) > 0);
	always_ready = 1000;
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, &briefly), -ENOSPC);
	assert_true(load(&always_ready) > 0);
	always_ready = 0;
	rig_close(&r);
}

/* ---- Pauses ----------------------------------------------------------------- */

static void test_paused_and_resumed(void **state)
{
	const struct virtq_wait briefly = { .timeout_ms = 5 };
	struct virtq_offer offer = { .writable_bytes = 8 };
	struct virtq_chain chains[4];
	struct sleeper room;
	struct rig r;

	open_threads(&r, *state);
	for (unsigned int turn = 0; turn < 3; turn++) {
		assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 8, NULL, VIRTQ_POOL_MORE,
							   NULL), 2);
		/* What was offered before is published first. Twice is as good as once. */
		assert_int_equal(virtq_pool_pause(r.pool), 0);
		assert_int_equal(virtq_pool_pause(r.pool), 0);
		assert_int_equal(rig_serve(&r, 4, 8, 1), 2);
		assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, NULL), -EAGAIN);
		assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, NULL, 0, &briefly), -EAGAIN);
		sleeper_start(&room, &r, false);
		/* All else goes on; nothing is published whatever is done. */
		assert_int_equal(virtq_pool_take(r.pool, chains, 4, NULL), 2);
		assert_int_equal(virtq_pool_recycle(r.pool, chains, 2, 0), -EAGAIN);
		assert_int_equal(virtq_pool_alloc(r.pool, 8, 0, &chains[2]), 0);
		assert_int_equal(virtq_pool_free(r.pool, &chains[2], 1), 1);
		assert_int_equal(virtq_pool_publish(r.pool), 0);
		virtq_driver_stop(r.q);
		assert_int_equal(virtq_pool_arm(r.pool), 0);
		assert_int_equal(virtq_pool_reset(r.pool), 0);
		rig_again(&r);
		assert_false(load(&room.done));
		assert_int_equal(virtq_pool_resume(r.pool), 0);
		sleeper_end(&room, 1);
		assert_int_equal(virtq_pool_recycle(r.pool, chains, 2, 0), 2);
		assert_int_equal(rig_serve(&r, 4, 8, 1), 3);
		assert_int_equal(virtq_pool_take(r.pool, chains, 4, NULL), 3);
		assert_int_equal(virtq_pool_free(r.pool, chains, 3), 3);
	}
	assert_int_equal(virtq_pool_pause(r.pool), 0);
	sleeper_start(&room, &r, false);
	virtq_pool_close(r.pool);
	sleeper_end(&room, -ESHUTDOWN);
	assert_int_equal(virtq_pool_pause(r.pool), -ESHUTDOWN);
	assert_int_equal(virtq_pool_resume(r.pool), -ESHUTDOWN);
	rig_close(&r);
}

/* One owner would wait for himself. */
static void test_one_owner_pauses(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct rig r;

	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, NULL), 1);
	assert_int_equal(virtq_pool_pause(r.pool), 0);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, NULL), -EAGAIN);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, &forever), -EDEADLK);
	assert_int_equal(virtq_pool_resume(r.pool), 0);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, NULL), 1);
	rig_close(&r);
}

int main(void)
{
	static const struct in_all tests[] = {
		IN_ALL(test_a_sleeper_outside_starves_nobody),
		IN_ALL(test_arming_outside_hands_on),
		IN_ALL(test_waiting_for_room_keeps_what_was_armed),
		IN_ALL(test_whoever_looks_tells), IN_ALL(test_given_up_is_room),
		IN_ALL(test_the_cancelled_hand_on), IN_ALL(test_takers_hand_on_to_takers),
		IN_ALL(test_whoever_finds_it_broken_tells_all),
		IN_ALL(test_one_owner_is_told_of_a_broken_ring),
		IN_ALL(test_used_before_it_was_armed), IN_ALL(test_the_last_one_disarms),
		IN_ALL(test_wait_tells_of_the_kick), IN_ALL(test_close_awaits_who_was_asleep),
		IN_ALL(test_destroy_awaits_who_was_asleep),
		IN_ALL(test_time_is_over_for_who_never_sleeps),
		IN_ALL(test_paused_and_resumed), IN_ALL(test_one_owner_pauses),
	};

	return run_in_all("pool, who is woken", tests, sizeof(tests) / sizeof(tests[0]));
}
