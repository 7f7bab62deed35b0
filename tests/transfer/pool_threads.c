/* SPDX-License-Identifier: MIT */
/*
 * A pool for several threads: nothing is lost, nothing comes twice, and nobody who
 * sleeps is forgotten. A wake-up that is lost shows as a wait that ends by its
 * time limit, which is far longer than anything here takes.
 *
 *	pool_threads [PACKETS]
 *
 * Each packet costs some wake-ups between five threads, so that is what takes the time. What a
 * wake-up that is lost needs is not many packets but a full pool, which there always is.
 */
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>

#include "pool_rig.h"

#define LOST_MS 30000
#define OFFERERS 2u
#define TAKERS 2u
#define TURNS 3u		/* how often each goes out */

static unsigned int packets = 500;	/* of each who offers */

static const struct virtq_wait patient = { .timeout_ms = LOST_MS };

#define load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define add(p, n) __atomic_fetch_add((p), (n), __ATOMIC_SEQ_CST)

/* ---- A device that sleeps when there is nothing to do ------------------------------ */

struct crowd {
	struct rig r;
	unsigned int stop;		/* of the device */
	unsigned int served;
	unsigned int finished;		/* packets that went out TURNS times, and were freed */
	unsigned int next;		/* number of a packet */
	uint8_t *seen;			/* by number */
	unsigned int trouble;		/* calls that returned what they must not */
};

static void *device_run(void *arg)
{
	struct crowd *c = arg;
	struct pollfd kick = { virtq_port_kick_fd(c->r.port), POLLIN, 0 };

	while (!load(&c->stop)) {
		unsigned int n = rig_serve(&c->r, 5, 4, 0);

		add(&c->served, n);
		if (n)
			continue;
		virtq_notify_clear(kick.fd);
		if (virtq_device_arm(c->r.far.device) == 0)
			poll(&kick, 1, LOST_MS);
		virtq_device_disarm(c->r.far.device);
	}
	return NULL;
}

static pthread_t start(void *(*run)(void *), void *arg)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run, arg), 0);
	return thread;
}

static void device_stop(struct crowd *c, pthread_t device)
{
	add(&c->stop, 1);
	virtq_notify_send(virtq_port_kick_fd(c->r.port));
	pthread_join(device, NULL);
}

static void crowd_open(struct crowd *c, struct layout layout, uint32_t items)
{
	struct virtq_pool_config config = rig_config(layout);

	memset(c, 0, sizeof(*c));
	config.items = items;
	config.item_bytes = 64;
	config.threads = true;
	rig_open(&c->r, layout, &config);
}

/* ---- Some offer, some take, and they send on ---------------------------------------- */

struct packet {
	uint32_t number, turns;
};

/* Packets of one item or three, some of them forgotten: each brings another kind of room. */
static void *offer_run(void *arg)
{
	struct crowd *c = arg;

	for (unsigned int i = 0; i < packets; i++) {
		struct packet packet = { add(&c->next, 1), TURNS };
		uint8_t noise[130] = { 0 };
		struct virtq_span parts[] = { { &packet, sizeof(packet) }, { noise, 130 } };
		struct virtq_offer offers[2] = {
			{ .parts = parts, .part_count = i % 3 ? 1 : 2,
			  .writable_bytes = i % 4 ? 0 : 16 },
			{ .parts = parts + 1, .part_count = 1, .flags = VIRTQ_OFFER_FORGET },
		};
		int rc = virtq_pool_offer(c->r.pool, offers, i % 2 + 1, NULL, 0, &patient);

		/* Time was over, or somebody closed it. */
		if (rc != (int)(i % 2 + 1))
			add(&c->trouble, 1);
		if (rc < 0)
			break;
	}
	return NULL;
}

static void take_one(struct crowd *c, struct virtq_chain *chain)
{
	struct packet packet;

	if (virtq_pool_copy_out(c->r.pool, chain, VIRTQ_PART_READABLE, 0, &packet,
				sizeof(packet)) != sizeof(packet)) {
		add(&c->trouble, 1);
	} else if (--packet.turns) {
		virtq_pool_copy_in(c->r.pool, chain, 0, &packet, sizeof(packet));
		/* Others may have taken its place in the ring meanwhile: it is kept by hand. */
		while (virtq_pool_recycle(c->r.pool, chain, 1, 0) == -ENOSPC)
			sched_yield();
	} else {
		if (packet.number >= OFFERERS * packets || add(&c->seen[packet.number], 1))
			add(&c->trouble, 1);
		if (virtq_pool_free(c->r.pool, chain, 1) != 1)
			add(&c->trouble, 1);
		add(&c->finished, 1);
	}
}

static void *take_run(void *arg)
{
	struct crowd *c = arg;
	struct virtq_chain chains[3];

	for (;;) {
		int n = virtq_pool_take(c->r.pool, chains, 3, &patient);

		if (n <= 0) {
			if (n != -ESHUTDOWN)
				add(&c->trouble, 1);
			return NULL;
		}
		for (int i = 0; i < n; i++)
			take_one(c, &chains[i]);
	}
}

/* In somebody else's loop. */
static void *poll_run(void *arg)
{
	struct crowd *c = arg;
	struct pollfd call = { virtq_port_call_fd(c->r.port), POLLIN, 0 };
	struct virtq_chain chains[3];

	for (;;) {
		int n = virtq_pool_take(c->r.pool, chains, 3, NULL);

		for (int i = 0; i < n; i++)
			take_one(c, &chains[i]);
		if (n > 0)
			continue;
		n = virtq_pool_arm(c->r.pool);
		if (n < 0)
			return NULL;
		/* When all is done nobody calls any more. */
		if (!n && !poll(&call, 1, load(&c->finished) == OFFERERS * packets ? 10 : LOST_MS))
			add(&c->trouble, load(&c->finished) != OFFERERS * packets);
	}
}

static void run_crowd(struct layout layout, void *(*take)(void *), unsigned int takers)
{
	static struct crowd c;
	pthread_t device, offerers[OFFERERS], others[TAKERS];

	crowd_open(&c, layout, 14);
	c.seen = calloc(OFFERERS, packets);
	assert_non_null(c.seen);
	device = start(device_run, &c);
	for (unsigned int i = 0; i < takers; i++)
		others[i] = start(take, &c);
	for (unsigned int i = 0; i < OFFERERS; i++)
		offerers[i] = start(offer_run, &c);
	for (unsigned int i = 0; i < OFFERERS; i++)
		pthread_join(offerers[i], NULL);
	for (unsigned int waited = 0; load(&c.finished) < OFFERERS * packets; waited++) {
		struct timespec pause = { 0, 1000000 };

		if (waited > 2 * LOST_MS || load(&c.trouble))
			break;
		nanosleep(&pause, NULL);
	}
	virtq_pool_close(c.r.pool);
	virtq_notify_send(virtq_port_call_fd(c.r.port));
	for (unsigned int i = 0; i < takers; i++)
		pthread_join(others[i], NULL);
	device_stop(&c, device);
	free(c.seen);
	assert_int_equal(c.trouble, 0);
	assert_int_equal(c.finished, OFFERERS * packets);
	rig_close(&c.r);
}

static void test_offering_taking_recycling(void **state)
{
	run_crowd(*(struct layout *)*state, take_run, TAKERS);
}

static void test_with_somebody_elses_poll(void **state)
{
	run_crowd(*(struct layout *)*state, poll_run, 1);
	/* In two loops that share the fd. */
	run_crowd(*(struct layout *)*state, poll_run, 2);
}

/* ---- Who needs how much ---------------------------------------------------------------- */

struct asker {
	struct crowd *c;
	uint32_t bytes;
	int rc;
	unsigned int done;
};

static void *ask_run(void *arg)
{
	struct asker *a = arg;

	a->rc = virtq_pool_offer_writable(a->c->r.pool, 1, a->bytes, NULL, 0, &patient);
	add(&a->done, 1);
	return NULL;
}

static void await(unsigned int *what)
{
	struct timespec pause = { 0, 1000000 };

	for (unsigned int i = 0; !load(what) && i < LOST_MS; i++)
		nanosleep(&pause, NULL);
	assert_true(load(what));
}

static void test_room_for_the_one_is_none_for_the_other(void **state)
{
	static struct crowd c;
	struct asker large[2] = { { &c, 4 * 64, 0, 0 }, { &c, 4 * 64, 0, 0 } };
	struct asker small = { &c, 64, 0, 0 };
	struct virtq_chain chains[9];
	struct timespec pause = { 0, 10000000 };
	pthread_t threads[3];

	crowd_open(&c, *(struct layout *)*state, 9);
	for (unsigned int i = 0; i < 9; i++)
		assert_int_equal(virtq_pool_alloc(c.r.pool, 64, 0, &chains[i]), 0);
	threads[0] = start(ask_run, &large[0]);
	nanosleep(&pause, NULL);
	threads[1] = start(ask_run, &small);
	nanosleep(&pause, NULL);
	threads[2] = start(ask_run, &large[1]);
	nanosleep(&pause, NULL);
	assert_int_equal(virtq_pool_free(c.r.pool, chains, 1), 1);
	await(&small.done);
	assert_int_equal(load(&large[0].done) + load(&large[1].done), 0);
	for (unsigned int i = 1; i < 9; i++)
		assert_int_equal(virtq_pool_free(c.r.pool, &chains[i], 1), 1);
	await(&large[0].done);
	await(&large[1].done);
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(large[0].rc + large[1].rc + small.rc, 3);
	rig_close(&c.r);
}

/* ---- What reaches all who sleep ----------------------------------------------------------- */

struct sleeper {
	struct crowd *c;
	bool takes;
	unsigned int ready;
	int rc;
};

static void *sleep_run(void *arg)
{
	struct sleeper *s = arg;
	struct virtq_chain chain;

	add(&s->ready, 1);
	s->rc = s->takes ? virtq_pool_take(s->c->r.pool, &chain, 1, &patient) :
			   virtq_pool_offer_writable(s->c->r.pool, 1, 64, NULL, 0, &patient);
	return NULL;
}

/* More of them than the pool has eventfds for. */
#define SLEEPERS 20u

static unsigned int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void end_all(struct layout layout, bool broken)
{
	const unsigned int fds = open_fds();
	static struct crowd c;
	struct sleeper sleepers[SLEEPERS];
	struct virtq_chain held;
	struct timespec pause = { 0, 20000000 };
	pthread_t threads[SLEEPERS];

	crowd_open(&c, layout, 2);
	assert_int_equal(virtq_pool_alloc(c.r.pool, 1, 0, &held), 0);
	assert_int_equal(virtq_pool_offer_writable(c.r.pool, 1, 64, NULL, 0, NULL), 1);
	for (unsigned int i = 0; i < SLEEPERS; i++) {
		sleepers[i] = (struct sleeper){ &c, i % 2, 0, 0 };
		threads[i] = start(sleep_run, &sleepers[i]);
		await(&sleepers[i].ready);
	}
	nanosleep(&pause, NULL);
	if (broken) {
		struct virtq_req *req;

		/* The device names another buffer than it was given, which nobody offered. */
		assert_int_equal(virtq_device_pop(c.r.far.device, &req, 1), 1);
		req->id ^= 1;
		virtq_device_push(c.r.far.device, &req, 1);
		virtq_device_publish(c.r.far.device);
		virtq_notify_send(virtq_port_call_fd(c.r.port));
	} else {
		virtq_pool_close(c.r.pool);
	}
	for (unsigned int i = 0; i < SLEEPERS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(sleepers[i].rc, broken ? -EBADMSG : -ESHUTDOWN);
	}
	rig_close(&c.r);
	assert_int_equal(open_fds(), fds);
}

static void test_close_reaches_all(void **state)
{
	end_all(*(struct layout *)*state, false);
}

static void test_a_broken_ring_reaches_all(void **state)
{
	end_all(*(struct layout *)*state, true);
}

/* Whoever is asleep while the ring is made anew is woken by the new one. */
static void test_reset_under_sleepers(void **state)
{
	static struct crowd c;
	struct sleeper taker = { &c, true, 0, 0 }, offerer = { &c, false, 0, 0 };
	struct timespec pause = { 0, 20000000 };
	struct virtq_chain held;
	pthread_t threads[2];

	crowd_open(&c, *(struct layout *)*state, 2);
	assert_int_equal(virtq_pool_alloc(c.r.pool, 1, 0, &held), 0);
	assert_int_equal(virtq_pool_offer_writable(c.r.pool, 1, 64, NULL, 0, NULL), 1);
	threads[0] = start(sleep_run, &taker);
	threads[1] = start(sleep_run, &offerer);
	await(&taker.ready);
	await(&offerer.ready);
	nanosleep(&pause, NULL);
	virtq_driver_stop(c.r.q);
	/* Where the device end looks for the ring stays; nobody publishes before it is new. */
	assert_int_equal(virtq_pool_reset(c.r.pool), 1);
	pthread_join(threads[1], NULL);
	assert_int_equal(offerer.rc, 1);
	rig_again(&c.r);
	assert_int_equal(rig_serve(&c.r, 1, 1, 0), 1);
	pthread_join(threads[0], NULL);
	assert_int_equal(taker.rc, 1);
	rig_close(&c.r);
}

/* ---- Stopped and started, while others offer all the time ------------------------------------ */

#define STOPS 20u

static void *trade_run(void *arg)
{
	/* If all of them wait, nobody takes. */
	const struct virtq_wait shortly = { .timeout_ms = 20 };
	struct crowd *c = arg;
	struct virtq_chain chains[4];
	unsigned int n = 0;

	while (!load(&c->finished)) {
		/* Some wait until it goes on, some do not; some leave it to others to publish. */
		unsigned int flags = n % 3 ? 0 : VIRTQ_POOL_MORE;
		int rc = virtq_pool_offer_writable(c->r.pool, 2, 64, NULL, flags,
						   n % 2 ? &shortly : NULL);
		int got;

		n++;
		if (rc < 0 && rc != -EAGAIN && rc != -ENOSPC)
			add(&c->trouble, 1);
		got = virtq_pool_take(c->r.pool, chains, 4, NULL);
		for (int i = 0; i < got; i++) {
			rc = i % 2 ? virtq_pool_recycle(c->r.pool, &chains[i], 1, 0) : 0;
			if (rc != 1 && virtq_pool_free(c->r.pool, &chains[i], 1) != 1)
				add(&c->trouble, 1);
			if (rc < 0 && rc != -EAGAIN && rc != -ENOSPC)
				add(&c->trouble, 1);
		}
		if (got < 0)
			add(&c->trouble, 1);
	}
	return NULL;
}

/* Nothing is with the device between pause and resume: each reset is granted at once. */
static void test_stops_while_others_offer(void **state)
{
	static struct crowd c;
	pthread_t device, traders[3];

	crowd_open(&c, *(struct layout *)*state, 24);
	device = start(device_run, &c);
	for (unsigned int i = 0; i < 3; i++)
		traders[i] = start(trade_run, &c);
	for (unsigned int i = 0; i < STOPS; i++) {
		unsigned int served = load(&c.served);

		for (unsigned int waited = 0; load(&c.served) == served; waited++) {
			struct timespec pause = { 0, 1000000 };

			assert_true(waited < LOST_MS);
			nanosleep(&pause, NULL);
		}
		assert_int_equal(virtq_pool_pause(c.r.pool), 0);
		device_stop(&c, device);
		virtq_driver_stop(c.r.q);
		assert_true(virtq_pool_reset(c.r.pool) >= 0);
		rig_again(&c.r);
		/* Others offer all the time, and the new ring is empty. */
		assert_int_equal(virtq_pool_room(c.r.pool).entries, 16);
		c.stop = 0;
		device = start(device_run, &c);
		assert_int_equal(virtq_pool_resume(c.r.pool), 0);
	}
	add(&c.finished, 1);
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(traders[i], NULL);
	device_stop(&c, device);
	assert_int_equal(c.trouble, 0);
	rig_close(&c.r);
}

int main(int argc, char **argv)
{
	static const struct in_all tests[] = {
		IN_ALL(test_offering_taking_recycling), IN_ALL(test_with_somebody_elses_poll),
		IN_ALL(test_room_for_the_one_is_none_for_the_other),
		IN_ALL(test_close_reaches_all), IN_ALL(test_a_broken_ring_reaches_all),
		IN_ALL(test_reset_under_sleepers), IN_ALL(test_stops_while_others_offer),
	};

	if (argc > 2 || (argc == 2 && !(packets = (unsigned int)strtoul(argv[1], NULL, 0)))) {
		fprintf(stderr, "usage: %s [PACKETS]\n", argv[0]);
		return 2;
	}
	return run_in_all("pool, several threads", tests, sizeof(tests) / sizeof(tests[0]));
}
