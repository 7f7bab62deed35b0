/* SPDX-License-Identifier: MIT */
/*
 * Engines that have much to do or never rest: what a queue gets beside one that keeps the
 * engine busy, and what counters say where the engine always looks at its rings.
 */
#include "stand.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

#include <virtq/model.h>

#define MIB (1u << 20)

/* As stand_back(), but looks at the ring: the driver may not want to be called. */
static bool comes_back(struct stand *st, uint64_t ms)
{
	struct virtq_completion done;

	for (uint64_t start = now_ms(); now_ms() - start < ms; usleep(100))
		if (virtq_driver_get(st->pair.driver, &done, 1) == 1)
			return true;
	return false;
}

/* ---- Engines that never sleep ----------------------------------------------------- */

#define REQUESTS 4u
#define GAP_MS 300u
#define FAST_BUCKETS 18u	/* less than 131 ms */

struct restless {
	struct virtq_engine *engine;
	struct virtq_model model;
	struct stand st;
};

/* It looks at the ring because it is told so, or because there is no kick fd. */
static void restless_open(struct restless *r, const struct setting *s, bool by_config)
{
	r->engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .spin = by_config ? VIRTQ_SPIN_ALWAYS : VIRTQ_SPIN_AUTO });
	r->model = (struct virtq_model){ .ops = &quick_ops };
	stand_open_on(&r->st, r->engine, s, &r->model);
	virtq_driver_disarm(r->st.pair.driver);
	if (!by_config)
		assert_int_equal(virtq_engine_queue_set_fd(r->st.queue, VIRTQ_FD_KICK, -1), 0);
}

static void restless_send(struct restless *r)
{
	stand_send_holds(&r->st, 1);
	assert_true(comes_back(&r->st, WAIT_MS));
}

static void restless_close(struct restless *r)
{
	stand_close(&r->st);
	virtq_engine_destroy(r->engine);
}

/* The time in which there was nothing to do is not any request's. */
static void pauses_between_requests_are_no_latency(void **state)
{
	for (unsigned int by_config = 0; by_config < 2; by_config++) {
		struct virtq_engine_stats stats;
		struct restless r;
		uint64_t fast = 0, all = 0;

		restless_open(&r, *state, by_config);
		for (unsigned int i = 0; i < REQUESTS; i++) {
			usleep(GAP_MS * 1000);
			restless_send(&r);
		}
		virtq_engine_queue_stats(r.st.queue, &stats);
		for (unsigned int i = 0; i < VIRTQ_LATENCY_BUCKETS; i++) {
			all += stats.latency[i];
			fast += i < FAST_BUCKETS ? stats.latency[i] : 0;
		}
		assert_int_equal(all, REQUESTS);
		assert_int_equal(fast, REQUESTS);
		restless_close(&r);
	}
}

/* The counters of the last batch are to be seen though nothing comes after it. */
static void the_last_batch_is_counted_while_it_polls(void **state)
{
	for (unsigned int by_config = 0; by_config < 2; by_config++) {
		struct virtq_engine_stats stats;
		struct restless r;
		uint64_t start;

		restless_open(&r, *state, by_config);
		for (unsigned int i = 0; i < REQUESTS; i++)
			restless_send(&r);
		start = now_ms();
		do {
			usleep(1000);
			virtq_engine_queue_stats(r.st.queue, &stats);
		} while (stats.batches < REQUESTS && now_ms() - start < 5000);
		assert_int_equal(stats.requests, REQUESTS);
		assert_int_equal(stats.batches, REQUESTS);
		assert_int_equal(stats.suppressed, REQUESTS);
		assert_int_equal(stats.calls, 0);
		if (by_config)
			assert_int_equal(stats.sleeps, 0);
		restless_close(&r);
	}
}

/* ---- A queue with much to do ------------------------------------------------------- */

#define DISK_MIB 128u
#define FLOOD 32u		/* requests, each of the whole disk */
#define AT 3u			/* so many have begun when the other queue's comes */
#define FEW 8u

struct flood {
	struct virtq_model_ops ops;
	struct virtq_model model;	/* the disk, but for start() */
	struct virtq_model *disk;
	struct pair many, one;
	int kick;			/* of the other queue */
	unsigned int begun;		/* the engine's thread, until @served */
	unsigned int between;		/* of the many, from AT until the one */
	bool submits;			/* it shall not: the disk is nothing */
	bool served;			/* atomic */
};

static struct flood *flood_of(struct virtq_model *model)
{
	return (struct flood *)(void *)((char *)model - offsetof(struct flood, model));
}

static bool is_served(const struct flood *f)
{
	return __atomic_load_n(&f->served, __ATOMIC_SEQ_CST);
}

/* For both queues: the one is known by its length. */
static enum virtq_verdict flood_start(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op)
{
	struct flood *f = flood_of(model);

	if (req->wr.bytes < MIB) {
		f->between = f->begun - AT;
		f->submits |= f->disk->ops->start(f->disk, req, op) != VIRTQ_DONE;
		__atomic_store_n(&f->served, true, __ATOMIC_SEQ_CST);
		return VIRTQ_DONE;
	}
	if (f->begun++ == AT) {
		virtq_driver_publish(f->one.driver);
		virtq_notify_send(f->kick);
	}
	/* Once it is known how it goes there is no need to wait for the rest. */
	if (is_served(f))
		return VIRTQ_DONE;
	f->submits |= f->disk->ops->start(f->disk, req, op) != VIRTQ_DONE;
	return VIRTQ_DONE;
}

/* Reads of @elements MiB, or of one sector; all to the same memory. */
static void flood_add(struct pair *p, unsigned int elements)
{
	struct chain c = { .readable = 0 };

	chain_readable(&c, 0, sizeof(struct virtq_blk_req_hdr));
	for (unsigned int i = 0; i < elements; i++)
		chain_writable(&c, MIB, MIB);
	if (!elements)
		chain_writable(&c, MIB, 512);
	chain_writable(&c, 64, 1);
	chain_add(p, &c, p);
}

static void flood_open(struct pair *p, struct flood *f, const struct setting *s,
		       struct virtq_engine *engine, int kick, struct virtq_engine_queue **queue)
{
	struct virtq_blk_req_hdr hdr;

	pair_open(p, &(struct pair_shape){ .packed = s->shape.packed, .size = 8192 }, &f->model,
		  2 * MIB);
	virtq_blk_header(&hdr, VIRTIO_BLK_T_IN, 0);
	memcpy(p->data, &hdr, sizeof(hdr));
	p->data[64] = 0xff;
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
		.model = &f->model, .ring = p->device, .enabled = true,
		.kick_fd = dup_of(kick), .call_fd = -1, .err_fd = -1 }, queue), 0);
	p->device = NULL;
}

/* Requests that are answered as they are started leave some of the time to others. */
static void a_flood_leaves_room_for_others(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind });
	struct virtq_engine_queue *queues[2];
	struct virtq_completion done;
	struct flood f = { .kick = new_eventfd() };
	int kick = new_eventfd();
	uint64_t start;

	f.disk = disk_make(&(struct virtq_blk_options){ .path = "null:128M", .queues = 2 });
	assert_int_equal(f.disk->ops->features_ok(f.disk, f.disk->features), 0);
	f.model = *f.disk;
	f.ops = *f.disk->ops;
	f.ops.start = flood_start;
	f.model.ops = &f.ops;
	flood_open(&f.many, &f, s, engine, kick, &queues[0]);
	flood_open(&f.one, &f, s, engine, f.kick, &queues[1]);
	usleep(20000);
	flood_add(&f.one, 0);		/* published by the engine's thread */
	for (unsigned int i = 0; i < FLOOD; i++)
		flood_add(&f.many, DISK_MIB);
	virtq_driver_publish(f.many.driver);
	virtq_notify_send(kick);

	for (start = now_ms(); !is_served(&f) && now_ms() - start < 3 * WAIT_MS;)
		usleep(1000);
	assert_true(is_served(&f));
	assert_false(f.submits);
	assert_in_range(f.between, 0, FEW);
	for (start = now_ms(); virtq_driver_get(f.one.driver, &done, 1) != 1; usleep(100))
		assert_true(now_ms() - start < WAIT_MS);
	assert_int_equal(done.written, 512 + 1);
	assert_int_equal(f.one.data[64], VIRTIO_BLK_S_OK);
	f.many.device = virtq_engine_remove(queues[0]);
	f.one.device = virtq_engine_remove(queues[1]);
	pair_close(&f.many);
	pair_close(&f.one);
	virtq_engine_destroy(engine);
	virtq_model_destroy(f.disk);
	close(kick);
	close(f.kick);
}

/* ---- An fd that is slow to close --------------------------------------------------- */

#define LINGER_S 30		/* SOON_MS is much less */
#define SOON_MS 5000u

/* One end of a connection with more to send than its peer, the other end, takes. */
static int lingering_socket(int *peer)
{
	struct sockaddr_in here = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger linger = { 1, LINGER_S };
	static const char junk[65536];
	socklen_t len = sizeof(here);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), unsent = 0;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), little = 4096;

	assert_true(listener >= 0 && fd >= 0);
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
	assert_int_equal(bind(listener, (struct sockaddr *)(void *)&here, len), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)(void *)&here, &len), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)(void *)&here, len), 0);
	*peer = accept(listener, NULL, NULL);
	assert_true(*peer >= 0);
	close(listener);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	while (send(fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
		;
	assert_int_equal(ioctl(fd, SIOCOUTQ, &unsent), 0);
	assert_true(unsent > 0);
	return fd;
}

struct closer {
	struct stand st;
	int which;			/* enum virtq_engine_fd; -1: all, with the queue */
};

static void *closer_thread(void *arg)
{
	struct closer *c = arg;

	if (c->which < 0) {
		c->st.pair.device = virtq_engine_remove(c->st.queue);
		c->st.queue = NULL;
	} else {
		virtq_engine_queue_set_fd(c->st.queue, (enum virtq_engine_fd)c->which, -1);
	}
	return NULL;
}

/* What a peer has made of its fd is not for the others to wait for. */
static void an_fd_that_lingers_keeps_nobody(void **state)
{
	const struct setting *s = *state;
	struct virtq_engine *engine = engine_of(s->kind, 0, 0);
	struct virtq_model model = { .ops = &quick_ops };
	struct stand other;

	stand_open_on(&other, engine, s, &model);
	for (int which = -1; which <= VIRTQ_FD_ERR; which++) {
		struct closer c = { .which = which };
		bool back = true;
		pthread_t thread;
		int peer;

		stand_open_on(&c.st, engine, s, &model);
		assert_int_equal(virtq_engine_queue_set_fd(
			c.st.queue, which < 0 ? VIRTQ_FD_CALL : (enum virtq_engine_fd)which,
			lingering_socket(&peer)), 0);
		assert_int_equal(pthread_create(&thread, NULL, closer_thread, &c), 0);
		for (unsigned int i = 0; back && i < 50; i++) {
			stand_send_holds(&other, 1);
			back = comes_back(&other, SOON_MS);
			usleep(2000);
		}
		close(peer);		/* nothing is left to linger for */
		pthread_join(thread, NULL);
		assert_true(back);
		stand_close(&c.st);
	}
	stand_close(&other);
	virtq_engine_destroy(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(pauses_between_requests_are_no_latency),
		ON_ENGINES(the_last_batch_is_counted_while_it_polls),
		ON_ENGINES(a_flood_leaves_room_for_others),
		ON_ENGINES(an_fd_that_lingers_keeps_nobody),
	};

	return cmocka_run_group_tests_name("engine busy", tests, NULL, NULL) ? 1 : 0;
}
