/* SPDX-License-Identifier: MIT */
/*
 * The pool, as time goes on: publishing and kicks, waiting, what a broken ring and a reset
 * leave of it, and its end. In every layout.
 */
#include <fcntl.h>
#include <pthread.h>
#include <time.h>

#include "pool_rig.h"

static const struct virtq_wait briefly = { .timeout_ms = 20 };

/* ---- Publishing ------------------------------------------------------------------------ */

static void test_one_publication_and_one_kick(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[8];
	struct virtq_pool_room room;
	uint64_t kicks;
	struct rig r;
	int fd;

	rig_open(&r, *layout, &config);
	fd = virtq_port_kick_fd(r.port);
	assert_int_equal(virtq_device_arm(r.far.device), 0);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 10, chains, VIRTQ_POOL_MORE, NULL),
			 4);
	assert_int_equal(rig_serve(&r, 9, 0, 0), 0);
	assert_false(fd_readable(fd));
	assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 10, chains, 0, NULL), 4);
	assert_int_equal(read(fd, &kicks, 8), 8);
	assert_int_equal(kicks, 1);
	assert_int_equal(rig_serve(&r, 9, 0, 0), 8);
	assert_int_equal(virtq_pool_take(r.pool, chains, 8, NULL), 8);
	assert_int_equal(virtq_pool_recycle(r.pool, chains, 8, VIRTQ_POOL_MORE), 8);
	assert_int_equal(rig_serve(&r, 9, 0, 0), 0);
	assert_int_equal(virtq_pool_publish(r.pool), 0);
	assert_int_equal(rig_serve(&r, 9, 0, 0), 8);
	room = virtq_pool_room(r.pool);
	assert_int_equal(room.in_flight, 8);

	/* What is with the device is with it, also if nobody could be told. */
	virtq_notify_clear(fd);
	assert_int_equal(virtq_device_arm(r.far.device), 0);
	{
		int null = open("/dev/null", O_RDONLY);

		assert_true(dup2(null, fd) == fd);
		close(null);
	}
	assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 10, NULL, 0, NULL), 2);
	assert_int_equal(virtq_pool_publish(r.pool), -EBADF);
	assert_int_equal(virtq_pool_publish(r.pool), 0);
	assert_int_equal(rig_serve(&r, 9, 0, 0), 2);
	rig_close(&r);
}

/* ---- Waiting ----------------------------------------------------------------------------- */

struct helper {
	struct rig *r;
	int delay_ms;
	unsigned int serve;
	int signal_fd;
	bool close;
};

static void *help(void *arg)
{
	struct helper *h = arg;
	struct timespec pause = { 0, h->delay_ms * 1000000L };
	unsigned int served = 0;

	nanosleep(&pause, NULL);
	/* The other thread may be late with its offers, on a machine that has much to do. */
	for (unsigned int i = 0; i < 20 && served < h->serve; i++) {
		served += rig_serve(h->r, h->serve - served, 1, 0);
		if (served < h->serve)
			nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
	}
	if (h->signal_fd >= 0)
		virtq_notify_send(h->signal_fd);
	if (h->close)
		virtq_pool_close(h->r->pool);
	return NULL;
}

static pthread_t start_help(struct helper *h)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, help, h), 0);
	return thread;
}

static void test_waiting_to_take(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct helper h = { .delay_ms = 20, .serve = 3, .signal_fd = -1 };
	struct virtq_chain chains[8];
	struct virtq_wait wait = forever;
	struct rig r;
	int cancel;

	rig_open(&r, *layout, &config);
	h.r = &r;
	cancel = virtq_notify_open();
	assert_true(cancel >= 0);
	wait.cancel_fd = &cancel;
	assert_int_equal(virtq_pool_offer_writable(r.pool, 6, 10, NULL, VIRTQ_POOL_MORE, NULL), 6);
	for (unsigned int turn = 0; turn < 3; turn++) {
		pthread_t thread = start_help(&h);

		/* It publishes what was not; and what is there is not waited for. */
		assert_int_equal(virtq_pool_take(r.pool, chains, 2, &wait), 2);
		pthread_join(thread, NULL);
		assert_int_equal(virtq_pool_take(r.pool, chains + 2, 8, &wait), 1);
		assert_int_equal(virtq_pool_take(r.pool, chains + 3, 5, &briefly), 0);
		assert_int_equal(virtq_pool_recycle(r.pool, chains, 3, VIRTQ_POOL_MORE), 3);
	}
	h.serve = 0;
	h.signal_fd = cancel;
	{
		pthread_t thread = start_help(&h);

		assert_int_equal(virtq_pool_take(r.pool, chains, 2, &wait), -ECANCELED);
		pthread_join(thread, NULL);
	}
	/* It is polled and never read: it goes on to say so. */
	assert_int_equal(virtq_pool_take(r.pool, chains, 2, &wait), -ECANCELED);
	assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
	assert_int_equal(virtq_pool_take(r.pool, chains, 2, &wait), 1);
	rig_close(&r);
	close(cancel);
}

static void test_waiting_for_room(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct helper h = { .delay_ms = 20, .serve = 16, .signal_fd = -1 };
	const struct virtq_offer forget = { .writable_bytes = 1, .flags = VIRTQ_OFFER_FORGET };
	const struct virtq_wait look = { .timeout_ms = 0 };
	struct virtq_chain chains[24];
	struct rig r;
	pthread_t thread;

	rig_open(&r, *layout, &config);
	h.r = &r;
	/* Ring entries: any chain that comes back brings some, and is kept to be taken. */
	thread = start_help(&h);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 20, 1, NULL, 0, &forever), 20);
	pthread_join(thread, NULL);
	assert_room(&r, 4, 0, 20);
	assert_int_equal(virtq_pool_take(r.pool, chains, 24, NULL), 16);
	for (unsigned int i = 0; i < 16; i++)
		assert_true(chains[i].id == chains[0].id + i && chains[i].written == 1);
	assert_int_equal(virtq_pool_recycle(r.pool, chains, 16, 0) > 0, 1);
	rig_close(&r);

	/* Items: only what is freed as it comes back brings some. */
	config.items = 8;
	rig_open(&r, *layout, &config);
	h.r = &r;
	assert_int_equal(virtq_pool_offer_writable(r.pool, 8, 1, chains, 0, NULL), 8);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, &forever), -EDEADLK);
	assert_int_equal(rig_serve(&r, 2, 1, 0), 2);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, &forever), -EDEADLK);
	assert_room(&r, 0, 0, 8);
	assert_int_equal(virtq_pool_take(r.pool, chains, 1, NULL), 1);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, &forever), -EDEADLK);
	assert_int_equal(virtq_pool_free(r.pool, chains, 1), 1);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, &forever), 1);
	assert_int_equal(virtq_pool_abandon(r.pool, &chains[3], 1), 1);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, &briefly), -ENOSPC);
	thread = start_help(&h);
	/* The first is waited for; for the second nothing is left that could bring an item. */
	assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 1, NULL, 0, &forever), 1);
	pthread_join(thread, NULL);
	rig_close(&r);

	/* Without a wait the ring is looked into all the same, for entries and for items. */
	config.items = 24;
	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 1, NULL, 0, NULL), 16);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, NULL), -ENOSPC);
	assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 1, NULL, 0, NULL), 1);
	assert_room(&r, 7, 0, 17);
	rig_close(&r);
	config.items = 1;
	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer(r.pool, &forget, 1, NULL, 0, NULL), 1);
	/* It is in flight and brings an item: worth waiting for, if one may wait. */
	assert_int_equal(virtq_pool_offer(r.pool, &forget, 1, NULL, 0, NULL), -ENOSPC);
	assert_int_equal(virtq_pool_offer(r.pool, &forget, 1, NULL, 0, &look), -ENOSPC);
	assert_int_equal(virtq_pool_offer(r.pool, &forget, 1, NULL, 0, &briefly), -ENOSPC);
	assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, chains, 0, NULL), 1);
	/* This one brings none. */
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, &look), -ENOSPC);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, &briefly), -EDEADLK);
	/* Building one in place looks where something forgotten may be back, and says why not. */
	assert_int_equal(virtq_pool_abandon(r.pool, chains, 1), 1);
	assert_int_equal(virtq_pool_alloc(r.pool, 1, 0, chains), -ENOSPC);
	assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
	assert_int_equal(virtq_pool_alloc(r.pool, 1, 0, chains), 0);
	assert_int_equal(virtq_pool_free(r.pool, chains, 1), 1);
	assert_int_equal(virtq_pool_offer(r.pool, &forget, 1, NULL, 0, NULL), 1);
	far_break(&r.far);
	assert_int_equal(virtq_pool_alloc(r.pool, 1, 0, chains), -EBADMSG);
	rig_close(&r);
}

static void test_somebody_elses_poll(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[16];
	struct rig r;
	int fd;

	rig_open(&r, *layout, &config);
	fd = virtq_port_call_fd(r.port);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 10, NULL, VIRTQ_POOL_MORE, NULL),
			 16);
	for (unsigned int turn = 0; turn < 5; turn++) {
		assert_int_equal(virtq_pool_arm(r.pool), 0);
		assert_false(fd_readable(fd));
		assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
		assert_true(fd_readable(fd));
		assert_int_equal(virtq_pool_arm(r.pool), 1);
		assert_int_equal(virtq_pool_take(r.pool, chains, 2, NULL), 1);
		assert_int_equal(virtq_pool_recycle(r.pool, chains, 1, 0), 1);
	}
	/* What was laid by is there to be taken, though the ring is empty. */
	assert_int_equal(rig_serve(&r, 2, 1, 0), 2);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 9, ITEM, NULL, 0, NULL), 2);
	assert_int_equal(virtq_pool_arm(r.pool), 1);
	assert_int_equal(virtq_pool_take(r.pool, chains, 9, NULL), 2);
	assert_int_equal(virtq_pool_arm(r.pool), 0);
	far_break(&r.far);
	assert_int_equal(virtq_pool_arm(r.pool), 1);
	assert_int_equal(virtq_pool_take(r.pool, chains, 2, NULL), -EBADMSG);
	assert_int_equal(virtq_pool_arm(r.pool), -EBADMSG);
	rig_close(&r);

	/* Who takes is awake; unless somebody else may have armed it, who sleeps still. */
	for (unsigned int threads = 0; threads < 2; threads++) {
		config.threads = threads;
		rig_open(&r, *layout, &config);
		fd = virtq_port_call_fd(r.port);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 10, NULL, 0, NULL), 16);
		assert_int_equal(virtq_pool_arm(r.pool), 0);
		assert_int_equal(virtq_pool_take(r.pool, chains, 2, NULL), 0);
		assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
		/* In a split ring the event index of before stands: the call comes all the same. */
		if (threads || layout->packed || !layout->event_idx)
			assert_int_equal(fd_readable(fd), threads);
		assert_int_equal(virtq_pool_take(r.pool, chains, 2, NULL), 1);
		/* A reset is for all to know. */
		assert_int_equal(virtq_pool_arm(r.pool), 0);
		virtq_driver_stop(r.q);
		assert_int_equal(virtq_pool_reset(r.pool), 15);
		assert_true(fd_readable(fd));
		rig_close(&r);
	}
}

/* ---- The end, and beginning again ----------------------------------------------------------- */

static void test_close(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct helper h = { .delay_ms = 20, .signal_fd = -1, .close = true };
	struct virtq_offer offer = { .writable_bytes = 5 };
	struct virtq_chain chains[4];
	struct virtq_span span;
	uint8_t byte;
	pthread_t thread;
	struct rig r;

	rig_open(&r, *layout, &config);
	h.r = &r;
	assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 10, chains, 0, NULL), 4);
	assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
	assert_int_equal(virtq_pool_take(r.pool, chains, 1, NULL), 1);
	thread = start_help(&h);
	assert_int_equal(virtq_pool_take(r.pool, chains + 1, 1, &forever), -ESHUTDOWN);
	pthread_join(thread, NULL);
	virtq_pool_close(r.pool);
	assert_int_equal(virtq_pool_take(r.pool, chains, 1, &forever), -ESHUTDOWN);
	assert_int_equal(virtq_pool_offer(r.pool, &offer, 1, chains, 0, &forever), -ESHUTDOWN);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, chains, 0, NULL), -ESHUTDOWN);
	assert_int_equal(virtq_pool_recycle(r.pool, chains, 1, 0), -ESHUTDOWN);
	assert_int_equal(virtq_pool_free(r.pool, chains, 1), -ESHUTDOWN);
	assert_int_equal(virtq_pool_abandon(r.pool, chains, 1), -ESHUTDOWN);
	assert_int_equal(virtq_pool_alloc(r.pool, 1, 1, chains), -ESHUTDOWN);
	assert_int_equal(virtq_pool_spans(r.pool, chains, VIRTQ_PART_WRITABLE, &span, 1),
			 -ESHUTDOWN);
	assert_int_equal(virtq_pool_copy_out(r.pool, chains, VIRTQ_PART_WRITABLE, 0, &byte, 1),
			 -ESHUTDOWN);
	assert_int_equal(virtq_pool_copy_in(r.pool, chains, 0, &byte, 1), -ESHUTDOWN);
	assert_int_equal(virtq_pool_resize(r.pool, chains, 1), -ESHUTDOWN);
	assert_int_equal(virtq_pool_publish(r.pool), -ESHUTDOWN);
	assert_int_equal(virtq_pool_arm(r.pool), -ESHUTDOWN);
	assert_int_equal(virtq_pool_reset(r.pool), -ESHUTDOWN);
	assert_room(&r, 20, 1, 3);
	rig_close(&r);
	virtq_pool_destroy(NULL);
}

/* UNTRUSTED: a device that breaks the ring. */
static void test_broken_and_reset(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[16], held, waiting[16];
	struct rig r;

	rig_open(&r, *layout, &config);
	for (unsigned int turn = 0; turn < 3; turn++) {
		assert_int_equal(virtq_pool_offer_writable(r.pool, 10, 1500, chains, 0, NULL) > 0,
				 1);
		assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
		assert_int_equal(virtq_pool_take(r.pool, &held, 1, NULL), 1);
		assert_int_equal(virtq_pool_abandon(r.pool, &chains[1], 1), 1);
		assert_int_equal(rig_serve(&r, 2, 1, 7), 2);
		far_break(&r.far);
		/* Good ones first. Number 1 is forgotten, so number 2 is what comes. */
		assert_int_equal(virtq_pool_take(r.pool, waiting, 8, NULL), 1);
		assert_true(waiting[0].id == chains[2].id);
		assert_int_equal(virtq_pool_take(r.pool, waiting + 1, 8, &forever), -EBADMSG);
		assert_int_equal(virtq_pool_recycle(r.pool, waiting, 1, 0), -EBADMSG);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, &forever),
				 -EBADMSG);
		/* What is the caller's still is. */
		assert_int_equal(virtq_pool_free(r.pool, waiting, 1), 1);
		assert_int_equal(virtq_pool_reset(r.pool), -EBUSY);
		virtq_driver_stop(r.q);
		assert_true(virtq_pool_reset(r.pool) > 0);
		rig_again(&r);
		assert_room(&r, 22, 1, 0);
		/* It has no entries of the new ring, and gets some. */
		assert_int_equal(virtq_pool_recycle(r.pool, &held, 1, 0), 1);
		assert_int_equal(rig_serve(&r, 1, 5, 5), 1);
		assert_int_equal(virtq_pool_take(r.pool, &held, 1, NULL), 1);
		assert_int_equal(held.written, 5);
		assert_int_equal(virtq_pool_free(r.pool, &held, 1), 1);
		assert_room(&r, 24, 0, 0);
	}
	rig_close(&r);
}

static void test_reset_keeps_what_was_used(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[16], taken[8];
	const struct virtq_offer forget[2] = {
		{ .writable_bytes = 1, .flags = VIRTQ_OFFER_FORGET },
		{ .writable_bytes = 1, .flags = VIRTQ_OFFER_FORGET },
	};
	uint8_t out[64];
	struct rig r;

	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 6, 64, chains, 0, NULL), 6);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 64, chains + 6, VIRTQ_POOL_MORE,
						   NULL), 1);
	assert_int_equal(rig_serve(&r, 2, 64, 3), 2);
	/* Counted too: one that is abandoned, and the one that is not published. */
	assert_int_equal(virtq_pool_abandon(r.pool, &chains[5], 1), 1);
	assert_int_equal(virtq_pool_reset(r.pool), -EBUSY);
	virtq_driver_stop(r.q);
	assert_int_equal(virtq_pool_reset(r.pool), 5);
	rig_again(&r);
	assert_room(&r, 22, 0, 2);
	assert_int_equal(virtq_pool_free(r.pool, &chains[6], 1), -ESTALE);
	assert_int_equal(virtq_pool_take(r.pool, taken, 8, &forever), 2);
	assert_true(taken[0].id == chains[0].id && taken[1].id == chains[1].id);
	assert_int_equal(virtq_pool_copy_out(r.pool, &taken[1], VIRTQ_PART_WRITTEN, 0, out, 64),
			 64);
	assert_filled(out, 4, 64);
	assert_int_equal(virtq_pool_recycle(r.pool, taken, 2, 0), 2);
	assert_int_equal(rig_serve(&r, 9, 1, 0), 2);
	/* A second time, with nothing in flight. */
	assert_int_equal(virtq_pool_take(r.pool, taken, 8, NULL), 2);
	assert_int_equal(virtq_pool_free(r.pool, taken, 2), 2);
	virtq_driver_stop(r.q);
	assert_int_equal(virtq_pool_reset(r.pool), 0);
	rig_again(&r);
	/* Of two that nobody wants, the one that it used is not among those freed by it. */
	assert_int_equal(virtq_pool_offer(r.pool, forget, 2, NULL, 0, NULL), 2);
	assert_int_equal(rig_serve(&r, 1, 1, 0), 1);
	virtq_driver_stop(r.q);
	assert_int_equal(virtq_pool_reset(r.pool), 1);
	rig_again(&r);
	assert_room(&r, 24, 0, 0);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 16, 64, chains, 0, NULL), 16);
	rig_close(&r);
}

/* What is published before a start or after a stop is with a device for all that is known. */
static void test_published_to_nobody(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_chain chains[4];
	struct rig r;

	rig_open(&r, *layout, &config);
	for (unsigned int turn = 0; turn < 3; turn++) {
		/* Not yet started, or just stopped. */
		assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 8, NULL, 0, NULL), 4);
		assert_int_equal(virtq_pool_reset(r.pool), -EBUSY);
		assert_int_equal(virtq_port_renew(r.port), -EBUSY);
		assert_room(&r, 20, 0, 4);
		virtq_driver_stop(virtq_port_driver(r.port));
		assert_int_equal(virtq_pool_reset(r.pool), 4);
		rig_again(&r);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 4, 8, NULL, 0, NULL), 4);
		assert_int_equal(rig_serve(&r, 4, 8, 1), 4);
		assert_int_equal(virtq_pool_take(r.pool, chains, 4, NULL), 4);
		assert_int_equal(virtq_pool_free(r.pool, chains, 4), 4);
		virtq_driver_stop(r.q);
		/* Unpublished it is nobody's, until somebody arms. */
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, VIRTQ_POOL_MORE,
							   NULL), 1);
		if (turn == 1)
			assert_int_equal(virtq_pool_reset(r.pool), 1);
		else
			assert_int_equal(virtq_pool_arm(r.pool), 0);
		if (turn != 1) {
			assert_int_equal(virtq_pool_reset(r.pool), -EBUSY);
			virtq_driver_stop(r.q);
			assert_int_equal(virtq_pool_reset(r.pool), 1);
		}
		assert_room(&r, 24, 0, 0);
	}
	rig_close(&r);
}

/* Abandoned though it was to be forgotten: it is one chain that comes back, not two. */
static void test_forgotten_once(void **state)
{
	const struct layout *layout = *state;
	struct virtq_pool_config config = rig_config(*layout);
	struct virtq_offer forget = { .writable_bytes = 8, .flags = VIRTQ_OFFER_FORGET };
	struct virtq_chain chain, held[4];
	struct rig r;

	config.items = 4;
	rig_open(&r, *layout, &config);
	assert_int_equal(virtq_pool_offer(r.pool, &forget, 1, &chain, 0, NULL), 1);
	assert_int_equal(virtq_pool_abandon(r.pool, &chain, 1), 1);
	assert_int_equal(rig_serve(&r, 1, 8, 1), 1);
	assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 0);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(virtq_pool_alloc(r.pool, 8, 0, &held[i]), 0);
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, NULL), 1);
	/* Nothing in flight brings an item: whoever waited would wait for himself. */
	assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 8, NULL, 0, &forever), -EDEADLK);
	rig_close(&r);
}

int main(void)
{
	static const struct in_all tests[] = {
		IN_ALL(test_one_publication_and_one_kick),
		IN_ALL(test_waiting_to_take),
		IN_ALL(test_waiting_for_room),
		IN_ALL(test_somebody_elses_poll),
		IN_ALL(test_close),
		IN_ALL(test_broken_and_reset),
		IN_ALL(test_reset_keeps_what_was_used), IN_ALL(test_forgotten_once),
		IN_ALL(test_published_to_nobody),
	};

	return run_in_all("pool, as time goes on", tests, sizeof(tests) / sizeof(tests[0]));
}
