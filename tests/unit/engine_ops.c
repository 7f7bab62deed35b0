/* SPDX-License-Identifier: MIT */
/* What a model may ask of an engine: every kind of operation, links, its own memory, holding. */
#include "stand.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <linux/falloc.h>

/* ---- Operations ------------------------------------------------------------- */

static void long_writes_go_in_pieces(void **state)
{
	char *path = file_make(4096);
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	uint8_t now[4096];
	struct stand st;

	s.first = (struct virtq_op){ .kind = VIRTQ_OP_WRITE, .offset = 100,
				     .fd = open(path, O_RDWR | O_CLOEXEC) };
	stand_open(&st, *state, &s.model);
	for (unsigned int i = 0; i < 3300; i++)
		st.pair.data[i] = (uint8_t)(i * 7);
	for (unsigned int i = 0; i < 1100; i++)		/* writev takes 1024 at once */
		chain_readable(&c, 3 * i, 2);
	assert_int_equal(stand_do(&st, &c), 0);
	stand_close(&st);
	assert_int_equal(s.result, 2200);
	assert_int_equal(s.rd_left, 0);
	assert_int_equal(s.last.offset, 2300);
	file_read(path, 0, now, sizeof(now));
	for (unsigned int i = 0; i < sizeof(now); i++)
		assert_int_equal(now[i], i < 100 || i >= 2300 ? file_pattern(i) :
			(uint8_t)(((i - 100) / 2 * 3 + (i - 100) % 2) * 7));
	close(s.first.fd);
	file_drop(path);
}

/* More spans than one call takes, of the model's own; the chain is filled by finish(). */
static void own_spans_leave_the_request_alone(void **state)
{
	char *path = file_make(4096);
	struct scripted s = { .model = { .ops = &scripted_ops }, .answer_from_spans = true };
	struct chain c = { .readable = 0 };
	uint8_t now[300];
	struct stand st;
	unsigned int at = 0;

	for (unsigned int i = 0; i < 1100; i++) {
		s.spans[i] = (struct virtq_span){ s.memory + at, 1 + i % 3 };
		at += 1 + i % 3;
	}
	s.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .offset = 50, .spans = s.spans,
				     .span_count = 1100, .fd = open(path, O_RDWR | O_CLOEXEC) };
	stand_open(&st, *state, &s.model);
	chain_writable(&c, 0, 1000);
	chain_writable(&c, 2000, 2000);
	assert_int_equal(stand_do(&st, &c), at);
	assert_int_equal(s.result, at);
	assert_int_equal(s.wr_left, 3000);	/* not moved by the engine */
	for (unsigned int i = 0; i < at; i++)
		assert_int_equal(st.pair.data[i < 1000 ? i : i + 1000], file_pattern(i + 50));

	/* And the other way, with a chain that has nothing to read. */
	for (unsigned int i = 0; i < 300; i++)
		s.memory[i] = (uint8_t)~i;
	s.spans[0] = (struct virtq_span){ s.memory, 100 };
	s.spans[1] = (struct virtq_span){ s.memory + 100, 200 };
	s.first.kind = VIRTQ_OP_WRITE;
	s.first.span_count = 2;
	s.answer_from_spans = false;
	assert_int_equal(stand_do(&st, &c), 0);
	assert_int_equal(s.result, 300);
	stand_close(&st);
	file_read(path, 50, now, sizeof(now));
	assert_memory_equal(now, s.memory, sizeof(now));
	close(s.first.fd);
	file_drop(path);
}

static void allocate_changes_the_file(void **state)
{
	char *path = file_make(16384);
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	uint8_t now[16384];
	struct stand st;

	s.first = (struct virtq_op){ .kind = VIRTQ_OP_ALLOCATE, .offset = 4096, .bytes = 8192,
				     .flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				     .fd = open(path, O_RDWR | O_CLOEXEC) };
	stand_open(&st, *state, &s.model);
	chain_writable(&c, 0, 1);
	stand_do(&st, &c);
	assert_int_equal(s.result, 0);
	file_read(path, 0, now, sizeof(now));
	for (unsigned int i = 0; i < sizeof(now); i++)
		assert_int_equal(now[i], i < 4096 || i >= 12288 ? file_pattern(i) : 0);
	/* A refusal arrives as it is. */
	s.first.flags = 0;
	s.first.bytes = 0;
	stand_do(&st, &c);
	assert_int_equal(s.result, -EINVAL);
	stand_close(&st);
	close(s.first.fd);
	file_drop(path);
}

static void poll_waits_for_events(void **state)
{
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	struct stand st;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	s.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = fds[0], .flags = POLLIN };
	stand_open(&st, *state, &s.model);
	chain_writable(&c, 0, 4);
	stand_send(&st, &c);
	assert_int_equal(virtq_notify_wait(st.call, 50), 0);
	assert_idle();
	assert_int_equal(write(fds[1], "abcd", 4), 4);
	assert_int_equal(stand_back(&st), 0);
	assert_int_equal(s.result, POLLIN);
	assert_int_equal(s.last.kind, VIRTQ_OP_POLL);
	/* There already: no need to wait. Then what it was waited for. */
	s.then[0] = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fds[0] };
	s.then_count = 1;
	assert_int_equal(stand_do(&st, &c), 4);
	assert_int_equal(s.result, 4);
	assert_int_equal(s.last.kind, VIRTQ_OP_READ);
	assert_memory_equal(st.pair.data, "abcd", 4);
	/* An fd that is none. */
	s.first.fd = 1 << 20;
	stand_do(&st, &c);
	assert_int_equal(s.result, -EBADF);
	assert_int_equal(s.last.kind, VIRTQ_OP_POLL);
	stand_close(&st);
	close(fds[0]);
	close(fds[1]);
}

static void timeouts_end_in_their_order(void **state)
{
	static const unsigned int ms[] = { 150, 50, 250, 100, 200 };
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct virtq_completion done;
	struct stand st;
	uint64_t start;

	s.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .fd = -1 };
	stand_open(&st, *state, &s.model);
	start = now_ms();
	for (unsigned int i = 0; i < 5; i++) {
		struct chain c = { .readable = 0 };
		uint64_t ns = ms[i] * (uint64_t)1000000;

		memcpy(st.pair.data + 16 * i, &ns, sizeof(ns));
		chain_readable(&c, 16 * i, sizeof(ns));
		chain_add(&st.pair, &c, (void *)(uintptr_t)&ms[i]);
		virtq_driver_publish(st.pair.driver);
		virtq_notify_send(st.kick);
	}
	for (unsigned int i = 0; i < 5; i++) {
		while (virtq_driver_get(st.pair.driver, &done, 1) != 1)
			assert_int_equal(virtq_notify_wait(st.call, WAIT_MS), 1);
		assert_int_equal(*(const unsigned int *)done.token, 50 * (i + 1));
		assert_true(now_ms() - start >= 50 * (i + 1));
	}
	assert_int_equal(s.result, 0);
	assert_int_equal(s.finished, 5);
	stand_close(&st);
}

/* Requests of known length are counted where they belong, also across removal. */
static void latencies_are_counted(void **state)
{
	static const struct { uint32_t us; unsigned int low, high; } cases[] = {
		/* 3 ms is in [12], 2048 to 4096 us; it may take longer on a busy machine. */
		{ 3000, 12, 18 }, { 40000, 16, 20 }, { 300000, 19, 21 },
	};
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct virtq_engine_stats stats, before = { 0 };
	struct chain c = { .readable = 0 };
	struct stand st;

	s.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT };
	stand_open(&st, *state, &s.model);
	chain_readable(&c, 0, 8);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t ns = cases[i].us * (uint64_t)1000, within = 0, all = 0;

		memcpy(st.pair.data, &ns, sizeof(ns));
		stand_do(&st, &c);
		virtq_engine_queue_stats(st.queue, &stats);
		for (unsigned int b = 0; b < VIRTQ_LATENCY_BUCKETS; b++) {
			uint64_t more = stats.latency[b] - before.latency[b];

			all += more;
			within += b >= cases[i].low && b <= cases[i].high ? more : 0;
		}
		assert_int_equal(all, 1);
		assert_int_equal(within, 1);
		before = stats;
	}
	stand_close(&st);
}

static void linked_operations_stop_at_the_first_failure(void **state)
{
	char *path = file_make(4096);
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	struct stand st;
	uint8_t now[512];
	int fd = open(path, O_RDWR | O_CLOEXEC), closed = 1 << 20;

	stand_open(&st, *state, &s.model);
	chain_readable(&c, 0, 512);
	chain_writable(&c, 1024, 512);
	memset(st.pair.data, 0xa5, 512);
	/* Write, make stable, wait a little, read back. */
	s.first = (struct virtq_op){ .kind = VIRTQ_OP_WRITE, .fd = fd, .offset = 512 };
	s.then[0] = (struct virtq_op){ .kind = VIRTQ_OP_SYNC, .fd = fd };
	s.then[1] = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = 1000 };
	s.then[2] = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fd, .offset = 512 };
	s.then_count = 3;
	assert_int_equal(stand_do(&st, &c), 512);
	assert_int_equal(s.result, 512);
	assert_int_equal(s.last.kind, VIRTQ_OP_READ);
	assert_int_equal(s.finished, 1);
	assert_memory_equal(st.pair.data + 1024, st.pair.data, 512);

	/* The second fails: the third is not performed, and finish() sees which it was. */
	memset(st.pair.data, 0x5a, 512);
	s.then[0].fd = closed;
	s.then[1] = (struct virtq_op){ .kind = VIRTQ_OP_ALLOCATE, .fd = fd, .bytes = 4096,
				       .flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
	s.then_count = 2;
	assert_int_equal(stand_do(&st, &c), 0);
	assert_int_equal(s.result, -EBADF);
	assert_int_equal(s.last.kind, VIRTQ_OP_SYNC);
	file_read(path, 512, now, sizeof(now));
	assert_memory_equal(now, st.pair.data, sizeof(now));

	/* Short is not as a whole: the file ends first. */
	s.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fd, .offset = 4000 };
	s.then_count = 1;
	assert_int_equal(stand_do(&st, &c), 96);
	assert_int_equal(s.result, 96);
	assert_int_equal(s.last.kind, VIRTQ_OP_READ);
	stand_close(&st);
	close(fd);
	file_drop(path);
}

/* -EAGAIN: again after a pause, and not for ever. (With io_uring such a pipe makes it wait.) */
static void what_is_short_is_tried_again(void **state)
{
	struct scripted s = { .model = { .ops = &scripted_ops } };
	struct chain c = { .readable = 0 };
	struct stand st;
	uint64_t start;
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	s.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = fds[0] };
	stand_open(&st, *state, &s.model);
	chain_writable(&c, 0, 4);
	stand_send(&st, &c);
	assert_int_equal(virtq_notify_wait(st.call, 100), 0);
	assert_int_equal(write(fds[1], "ab", 2), 2);
	assert_int_equal(virtq_notify_wait(st.call, 100), 0);
	assert_int_equal(write(fds[1], "cd", 2), 2);
	assert_int_equal(stand_back(&st), 4);
	assert_memory_equal(st.pair.data, "abcd", 4);

	start = now_ms();
	stand_send(&st, &c);
	assert_idle();		/* pauses are slept through */
	assert_int_equal(stand_back(&st), 0);
	assert_int_equal(s.result, -EAGAIN);
	assert_in_range(now_ms() - start, 500, 10000);
	stand_close(&st);
	close(fds[0]);
	close(fds[1]);
}

/* ---- Holding ---------------------------------------------------------------- */

/* Two threads of the model end what a third, the engine, hands them. */
static void held_requests_end_from_other_threads(void **state)
{
	struct holder h;
	struct stand st;

	holder_init(&h);
	stand_open(&st, *state, &h.model);	/* skips, perhaps: the threads after it */
	holder_start(&h);
	for (unsigned int round = 0; round < 300; round++) {
		stand_send_holds(&st, 16);
		for (unsigned int i = 0; i < 16; i++)
			assert_int_equal(stand_back(&st), 2);
	}
	stand_close(&st);
	holder_stop(&h);
	assert_int_equal(h.finished, 300 * 16);
	assert_int_equal(h.wrong, 0);
}

static void a_hold_may_end_before_it_began(void **state)
{
	struct virtq_engine_stats stats;
	struct holder h;
	struct stand st;

	holder_init(&h);
	h.at_once = true;
	stand_open(&st, *state, &h.model);
	stand_send_holds(&st, 64);
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(stand_back(&st), 2);
	virtq_engine_queue_stats(st.queue, &stats);
	assert_int_equal(stats.requests, 64);
	assert_int_equal(stats.failed, 0);
	stand_close(&st);
	assert_int_equal(h.finished, 64);
}

static void finish_may_hold_again(void **state)
{
	struct holder h;
	struct stand st;

	holder_init(&h);
	h.again = 3;
	stand_open(&st, *state, &h.model);
	stand_send_holds(&st, 1);
	for (int i = 0; i < 3; i++)
		virtq_engine_complete(holder_take(&h), i);
	assert_int_equal(virtq_notify_wait(st.call, 20), 0);
	assert_idle();		/* nothing is polled for while the model has it */
	virtq_engine_complete(holder_take(&h), 77);
	assert_int_equal(stand_back(&st), 2);
	stand_close(&st);
	assert_int_equal(h.finished, 1);
}

/* What the model holds when its queue is taken away ends, too, and so does what it holds then. */
static void removal_cancels_what_is_held(void **state)
{
	struct holder h;
	struct stand st;

	holder_init(&h);
	h.again = 5;
	stand_open(&st, *state, &h.model);
	stand_send_holds(&st, 20);
	holder_wait(&h, 20);
	stand_close(&st);
	assert_int_equal(h.cancelled, 25);	/* five of them twice */
	assert_int_equal(h.finished, 20);
	assert_int_equal(h.result, -ECANCELED);
}

/* Cancelled by the engine, completed by the threads: each request ends once, whoever is first. */
static void cancel_may_be_late(void **state)
{
	for (unsigned int round = 0; round < 50; round++) {
		struct holder h;
		struct stand st;
	
		holder_init(&h);
		stand_open(&st, *state, &h.model);
		stand_send_holds(&st, 32);
		holder_wait(&h, 32);
		holder_start(&h);
		stand_close(&st);
		holder_stop(&h);
		assert_int_equal(h.finished, 32);
		assert_int_equal(h.wrong, 0);
	}
}

/* ---- What is counted ---------------------------------------------------------- */

static enum virtq_verdict telling_start(struct virtq_model *model, struct virtq_req *req,
					struct virtq_op *op)
{
	(void)model, (void)op;
	/* Nothing is left of the request that had its place before. */
	if (req->bytes_read || req->bytes_written || req->failed)
		return VIRTQ_MALFORMED;
	req->bytes_read = 5;
	req->bytes_written = 70;
	req->failed = 1;
	if (req->rd.bytes == 16)
		return VIRTQ_DONE;
	op->kind = VIRTQ_OP_SYNC;
	op->fd = -1;
	return VIRTQ_SUBMIT;
}

/* The operation has failed, and the driver is not told so. */
static enum virtq_verdict telling_finish(struct virtq_model *model, struct virtq_req *req,
					 struct virtq_op *op, int64_t result)
{
	(void)model, (void)op;
	req->failed = result != -EBADF;
	return VIRTQ_DONE;
}

static void the_model_says_what_a_request_counts_as(void **state)
{
	static const struct virtq_model_ops ops = {
		.name = "telling", .req_bytes = sizeof(struct virtq_req),
		.start = telling_start, .finish = telling_finish,
	};
	struct virtq_model model = { .ops = &ops };
	struct virtq_engine_stats stats;
	struct chain c = { .readable = 0 };
	struct stand st;

	stand_open(&st, *state, &model);
	for (unsigned int i = 1; i <= 200; i++) {
		c = (struct chain){ .readable = 0 };
		chain_readable(&c, 0, i % 2 ? 16 : 17);
		stand_send(&st, &c);
		stand_back(&st);
	}
	virtq_engine_queue_stats(st.queue, &stats);
	assert_int_equal(stats.requests, 200);
	assert_int_equal(stats.malformed, 0);
	assert_int_equal(stats.failed, 100);
	assert_int_equal(stats.bytes_read, 200 * 5);
	assert_int_equal(stats.bytes_written, 200 * 70);
	stand_close(&st);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(long_writes_go_in_pieces),
		ON_ENGINES(own_spans_leave_the_request_alone),
		ON_ENGINES(allocate_changes_the_file),
		ON_ENGINES(poll_waits_for_events),
		ON_ENGINES(timeouts_end_in_their_order),
		ON_ENGINES(latencies_are_counted),
		ON_ENGINES(linked_operations_stop_at_the_first_failure),
		ON(sync_split_event, what_is_short_is_tried_again),
		ON(sync_packed, what_is_short_is_tried_again),
		ON_ENGINES(held_requests_end_from_other_threads),
		ON_ENGINES(a_hold_may_end_before_it_began),
		ON_ENGINES(finish_may_hold_again),
		ON_ENGINES(removal_cancels_what_is_held),
		ON_ENGINES(cancel_may_be_late),
		ON_ENGINES(the_model_says_what_a_request_counts_as),
	};

	return cmocka_run_group_tests_name("engine operations", tests, NULL, NULL) ? 1 : 0;
}
