/* SPDX-License-Identifier: MIT */
/* Transfers: sleeping until they are back, kicks that fail, and pages that are closed meanwhile. */
#include "transfer_rig.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static const struct rig_shape usual;

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- Waiting ---------------------------------------------------------------- */

static void wait_ends_in_time(void **state)
{
	struct virtq_wait wait = { .timeout_ms = 30 };
	struct virtq_transfer *t, *done[1];
	int64_t start;
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, NULL);
	/* It is with the caller: there is nothing to wait for. */
	assert_int_equal(virtq_transfer_wait(t, &wait), 1);
	rig_send(&r, t);
	assert_int_equal(virtq_transfer_wait(t, NULL), 0);
	start = now_ms();
	assert_int_equal(virtq_transfer_wait(t, &wait), 0);
	assert_true(now_ms() - start >= 30);
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, &wait), 0);
	assert_true(now_ms() - start >= 60);
	wait.timeout_ms = 0;
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, &wait), 0);
	rig_close(&r);
}

static void wait_ends_by_fd_and_shutdown(void **state)
{
	int cancel = virtq_notify_open();
	struct virtq_wait wait = { .timeout_ms = -1, .cancel_fd = &cancel };
	struct virtq_transfer *t, *other, *done[1];
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, NULL);
	other = rig_prepare(&r, 1, NULL);
	rig_send(&r, t);
	rig_send(&r, other);
	virtq_notify_send(cancel);
	assert_int_equal(virtq_transfer_wait(t, &wait), -ECANCELED);
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, &wait), -ECANCELED);
	assert_true(fd_readable(cancel));
	virtq_port_shutdown(r.port);
	assert_int_equal(virtq_transfer_wait(t, &wait), -ESHUTDOWN);
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, &wait), -ESHUTDOWN);
	/* What is back is told all the same. */
	rig_serve(&r, 1, NULL, 0, 0);
	assert_int_equal(virtq_transfer_wait(t, &wait), 1);
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, &wait), 1);
	rig_close(&r);
	close(cancel);
}

static void *serve_late(void *arg)
{
	struct rig *r = arg;

	/* One by one, so that the first call comes for another than the one waited for. */
	for (unsigned int left = 3; left;) {
		nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
		left -= rig_serve(r, 1, NULL, 6, 6);
	}
	return NULL;
}

static void wait_for_a_device_in_another_thread(void **state)
{
	struct virtq_wait forever = { .timeout_ms = -1 };
	struct virtq_transfer *t[3], *done[3];
	pthread_t device;
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 3; i++)
		t[i] = rig_prepare(&r, i, NULL);
	for (unsigned int round = 0; round < 3; round++) {
		unsigned int n = 0;

		assert_int_equal(virtq_transfer_send(r.set, t, 3), 3);
		assert_int_equal(pthread_create(&device, NULL, serve_late, &r), 0);
		assert_int_equal(virtq_transfer_wait(t[2], &forever), 1);
		assert_int_equal(virtq_transfer_written(t[2]), 6);
		while (n < 3) {
			int rc = virtq_transfers_poll(r.set, done + n, 3 - n, &forever);

			assert_in_range(rc, 1, 3);
			n += (unsigned int)rc;
		}
		assert_ptr_equal(done[2], t[2]);
		pthread_join(device, NULL);
	}
	rig_close(&r);
}

/* With EVENT_IDX or flags: a call is asked for by arming, and not any more once something came. */
static void arm_asks_for_one_call(void **state)
{
	struct virtq_transfer *t[3], *done[1];
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 3; i++)
		t[i] = rig_prepare(&r, i, NULL);
	assert_int_equal(virtq_transfer_send(r.set, t, 3), 3);
	assert_int_equal(virtq_transfers_arm(r.set), 0);
	assert_int_equal(rig_serve(&r, 1, NULL, 0, 0), 1);
	assert_true(fd_readable(virtq_port_call_fd(r.port)));
	assert_int_equal(virtq_transfers_arm(r.set), 1);
	/* What a check has found waits for poll. */
	assert_int_equal(virtq_transfer_check(t[0]), 1);
	assert_int_equal(virtq_transfers_arm(r.set), 1);
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 1);
	assert_int_equal(virtq_transfers_arm(r.set), 0);
	assert_false(fd_readable(virtq_port_call_fd(r.port)));
	assert_int_equal(rig_serve(&r, 1, NULL, 0, 0), 1);
	assert_true(fd_readable(virtq_port_call_fd(r.port)));
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 1);
	virtq_notify_clear(virtq_port_call_fd(r.port));
	assert_int_equal(rig_serve(&r, 1, NULL, 0, 0), 1);
	assert_false(fd_readable(virtq_port_call_fd(r.port)));
	rig_close(&r);
}

/* It looks, tells nothing, and does not wait: not for ever, and not for what is there. */
static void poll_for_none_looks(void **state)
{
	struct virtq_wait forever = { .timeout_ms = -1 };
	struct virtq_transfer *t[2], *done[2];
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 2; i++)
		t[i] = rig_prepare(&r, i, NULL);
	assert_int_equal(virtq_transfer_send(r.set, t, 2), 2);
	assert_int_equal(virtq_transfers_poll(r.set, NULL, 0, &forever), 0);
	assert_int_equal(virtq_transfers_in_flight(r.set), 2);
	assert_int_equal(rig_serve(&r, 1, NULL, 5, 1), 1);
	assert_int_equal(virtq_transfers_in_flight(r.set), 2);
	assert_int_equal(virtq_transfers_poll(r.set, NULL, 0, &forever), 0);
	assert_int_equal(virtq_transfers_in_flight(r.set), 1);
	/* What it found waits in front of the error. */
	far_break(&r.far);
	assert_int_equal(virtq_transfers_poll(r.set, NULL, 0, NULL), 0);
	assert_int_equal(virtq_transfers_arm(r.set), 1);
	assert_int_equal(virtq_transfers_poll(r.set, done, 2, NULL), 1);
	assert_ptr_equal(done[0], t[0]);
	assert_int_equal(virtq_transfer_written(t[0]), 5);
	assert_int_equal(virtq_transfers_poll(r.set, NULL, 0, NULL), -EBADMSG);
	assert_int_equal(virtq_transfers_arm(r.set), -EBADMSG);
	virtq_driver_stop(virtq_port_driver(r.port));
	rig_close(&r);
}

/* The device uses one, and has not come to call for it yet. */
static void use_silently(struct rig *r)
{
	struct virtq_req *req;

	assert_int_equal(virtq_device_pop(r->far.device, &req, 1), 1);
	virtq_device_push(r->far.device, &req, 1);
	virtq_device_publish(r->far.device);
}

/*
 * An event loop that sleeps on what arm() said hears of whatever a call finds
 * that it makes for another reason, on a full ring or with no transfer left.
 */
static void found_by_who_sends_is_called_for(void **state)
{
	static const struct rig_shape small = { .size = 4, .transfers_max = 8, .pieces_max = 2 };
	enum { SEND, STAGE, PREPARE, BROKEN, WAYS };

	for (unsigned int way = 0; way < WAYS; way++) {
		struct virtq_transfer *t[8], *done[8];
		struct virtq_piece pieces[2];
		struct rig r;
		int call, n;

		rig_open(&r, *state, &small);
		call = virtq_port_call_fd(r.port);
		for (unsigned int i = 0; i < 8; i++)
			t[i] = rig_prepare(&r, i, NULL);
		n = virtq_transfer_send(r.set, t, 8);
		assert_in_range(n, 2, 4);
		if (way == PREPARE)
			virtq_transfer_abandon(t[1]);
		assert_int_equal(virtq_transfers_arm(r.set), 0);
		assert_false(fd_readable(call));
		if (way == BROKEN)
			far_break(&r.far);
		else
			use_silently(&r);
		if (way == STAGE) {
			assert_int_equal(virtq_transfer_stage(r.set, t + n, 1), 1);
		} else if (way == PREPARE) {
			pieces[0] = rig_piece(&r, 0, 8);
			pieces[1] = rig_piece(&r, 8, 8);
			assert_int_equal(virtq_transfer_prepare(r.set, &t[1], pieces, 1, 1, NULL,
								NULL), -ENOSPC);
		} else {
			assert_int_equal(virtq_transfer_send(r.set, t + n, 1),
					 way == SEND ? 1 : -ENOSPC);
		}
		assert_true(fd_readable(call));
		assert_int_equal(virtq_transfers_poll(r.set, done, 8, NULL),
				 way == BROKEN ? -EBADMSG : 1);
		virtq_driver_stop(virtq_port_driver(r.port));
		rig_close(&r);
	}
}

/* Whoever looks is awake, also if there is nothing: no call is wanted before he arms again. */
static void looking_takes_the_wish_back(void **state)
{
	int cancel = virtq_notify_open();
	struct virtq_wait soon = { .timeout_ms = 1 }, cancelled = { -1, &cancel };
	struct virtq_transfer *t, *back, *done[1];
	struct rig r;

	assert_true(cancel >= 0);
	virtq_notify_send(cancel);
	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, NULL);
	back = rig_prepare(&r, 1, NULL);
	/* A device sends its first call whether it is wanted or not. */
	rig_send(&r, back);
	assert_int_equal(rig_serve(&r, 1, NULL, 0, 0), 1);
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 1);
	for (unsigned int way = 0; way < 6; way++) {
		rig_send(&r, t);
		assert_int_equal(virtq_transfers_arm(r.set), 0);
		if (way == 0)
			assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 0);
		else if (way == 1)
			assert_int_equal(virtq_transfer_check(t), 0);
		else if (way == 2)
			assert_int_equal(virtq_transfer_check(back), 1);
		else if (way == 3)
			assert_int_equal(virtq_transfer_wait(t, &soon), 0);
		else if (way == 4)
			assert_int_equal(virtq_transfers_poll(r.set, done, 1, &soon), 0);
		else
			assert_int_equal(virtq_transfer_wait(t, &cancelled), -ECANCELED);
		assert_int_equal(rig_serve(&r, 1, NULL, 0, 0), 1);
		assert_false(fd_readable(virtq_port_call_fd(r.port)));
		assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 1);
	}
	rig_close(&r);
	close(cancel);
}

struct stream {
	struct rig *r;
	int64_t until_ms;
	unsigned int releases;
};

/* Sent again and answered at once, so that there is always something to release. */
static void send_on(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		    unsigned int writable, int status)
{
	struct virtq_piece mine[2] = { pieces[0], pieces[1] };
	struct stream *stream = arg;
	struct virtq_transfer *t;

	stream->releases++;
	if (status || now_ms() > stream->until_ms)
		return;
	assert_int_equal(virtq_transfer_prepare(stream->r->set, &t, mine, readable, writable,
						send_on, stream), 0);
	rig_send(stream->r, t);
	virtq_transfer_abandon(t);
	rig_serve(stream->r, 1, NULL, 1, 1);
}

/* Time and cancel fd count also while others keep coming back. */
static void wait_ends_though_others_come_back(void **state)
{
	int cancel = virtq_notify_open();
	struct virtq_transfer *never, *t;
	struct virtq_piece pieces[2];
	struct stream stream;
	struct virtq_req *req;
	struct rig r;

	/* In order nothing comes back before the first. */
	if (((const struct setting *)*state)->layout.in_order) {
		close(cancel);
		return;
	}
	virtq_notify_send(cancel);
	rig_open(&r, *state, &usual);
	never = rig_prepare(&r, 0, NULL);
	rig_send(&r, never);
	assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
	for (unsigned int way = 0; way < 3; way++) {
		struct virtq_wait wait = { .timeout_ms = way == 0 ? 20 : way == 1 ? -1 : 0,
					   .cancel_fd = way == 1 ? &cancel : NULL };
		int64_t start = now_ms();

		/* So that it ends, if wrongly. */
		stream = (struct stream){ .r = &r, .until_ms = start + 3000 };
		pieces[0] = rig_piece(&r, 1024, 64);
		pieces[1] = rig_piece(&r, 2048, 64);
		assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, send_on, &stream),
				 0);
		rig_send(&r, t);
		virtq_transfer_abandon(t);
		rig_serve(&r, 1, NULL, 1, 1);
		assert_int_equal(virtq_transfer_wait(never, &wait), way == 1 ? -ECANCELED : 0);
		assert_true(now_ms() < stream.until_ms);
		assert_true(now_ms() - start >= (way == 0 ? 20 : 0));
		assert_true(stream.releases > 0);
		/* The last one. */
		stream.until_ms = 0;
		assert_int_equal(virtq_transfer_check(never), 0);
		assert_int_equal(virtq_transfers_in_flight(r.set), 1);
	}
	virtq_driver_stop(virtq_port_driver(r.port));
	rig_close(&r);
	close(cancel);
}

/* What was sent was sent; why it was not announced is told once, also by a wait. */
static void kick_that_fails(void **state)
{
	struct virtq_wait wait = { .timeout_ms = 10000 };
	struct virtq_transfer *t, *done[1];
	int kick, null;
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, NULL);
	kick = virtq_port_kick_fd(r.port);
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(null >= 0 && dup2(null, kick) == kick);
	assert_int_equal(virtq_transfers_kick_error(r.set), 0);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(virtq_device_arm(r.far.device), 0);
		assert_int_equal(virtq_transfer_send(r.set, &t, 1), 1);
		assert_int_equal(virtq_transfer_check(t), 0);
		if (i == 0)
			assert_int_equal(virtq_transfers_kick_error(r.set), -EBADF);
		else if (i == 1)
			assert_int_equal(virtq_transfer_wait(t, &wait), -EBADF);
		else
			assert_int_equal(virtq_transfers_poll(r.set, done, 1, &wait), -EBADF);
		assert_int_equal(virtq_transfers_kick_error(r.set), 0);
		assert_int_equal(rig_serve(&r, 1, NULL, 0, 0), 1);
		assert_int_equal(virtq_transfer_check(t), 1);
	}
	rig_close(&r);
	close(null);
}

/* ---- Guard mode --------------------------------------------------------------- */

#define PAGE 4096u

/* Does a process like this one survive touching that byte? */
static bool touch(volatile uint8_t *at)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (!child) {
		signal(SIGSEGV, SIG_DFL);
		*at = *at;
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status))
		return WEXITSTATUS(status) == 0;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSEGV);
	return false;
}

static void assert_open(uint8_t *data, bool open)
{
	/* The piece begins in the middle of page 0 and ends in the middle of page 3. */
	assert_true(touch(data + 100));
	assert_int_equal(touch(data + PAGE), open);
	assert_int_equal(touch(data + 3 * PAGE - 1), open);
	assert_true(touch(data + 3 * PAGE));
	/* The other one is one page exactly. */
	assert_true(touch(data + 4 * PAGE - 1));
	assert_int_equal(touch(data + 4 * PAGE), open);
	assert_true(touch(data + 5 * PAGE));
}

static void guard_closes_what_is_in_flight(void **state)
{
	static const struct rig_shape guarded = { .guard = true };
	struct virtq_piece pieces[3];
	struct virtq_transfer *t, *done[1];
	struct rig r;

	if (sysconf(_SC_PAGESIZE) != PAGE) {
		print_message("pages of %ld bytes: not tried\n", sysconf(_SC_PAGESIZE));
		skip();
	}
	rig_open(&r, *state, &guarded);
	pieces[0] = rig_piece(&r, 100, 3 * PAGE);
	pieces[1] = rig_piece(&r, 4 * PAGE, PAGE);
	pieces[2] = rig_piece(&r, 6 * PAGE + 1, PAGE);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 2, NULL, NULL), 0);
	assert_open(r.data, true);
	for (unsigned int i = 0; i < 3; i++) {
		rig_send(&r, t);
		assert_open(r.data, false);
		assert_true(touch(r.data + 6 * PAGE + 1));	/* no whole page */
		/* The device has a view of its own. */
		if (i < 2)
			assert_int_equal(rig_serve(&r, 1, NULL, PAGE, 0x77), 1);
		assert_false(touch(r.data + 4 * PAGE));
		if (i == 0)
			assert_int_equal(virtq_transfer_check(t), 1);
		else if (i == 1)
			assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 1);
		else
			assert_int_equal(rig_reset(&r), 1);
		assert_open(r.data, true);
		assert_int_equal(r.data[4 * PAGE], 0x77);
	}
	rig_send(&r, t);
	virtq_transfers_destroy(r.set);
	r.set = NULL;
	assert_open(r.data, true);
	rig_close(&r);
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(wait_ends_in_time), EACH(wait_ends_by_fd_and_shutdown),
		EACH(wait_for_a_device_in_another_thread), EACH(arm_asks_for_one_call),
		EACH(poll_for_none_looks), EACH(found_by_who_sends_is_called_for),
		EACH(looking_takes_the_wish_back), EACH(wait_ends_though_others_come_back),
		EACH(kick_that_fails),
	};
	/* A process for every byte that is tried, so not over all layouts. */
	static struct setting split = { .keep = true }, packed = { .layout.packed = true };
	const struct CMUnitTest single[] = {
		cmocka_unit_test_prestate(guard_closes_what_is_in_flight, &split),
		cmocka_unit_test_prestate(guard_closes_what_is_in_flight, &packed),
	};

	return rig_run("transfers wait", each, sizeof(each) / sizeof(each[0]), single, 2);
}
