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
