/* SPDX-License-Identifier: MIT */
/* Transfers that are staged: in flight for their owner, and not there for the device. */
#include "transfer_rig.h"

#include <fcntl.h>

static const struct rig_shape usual;
static const struct virtq_wait look = { 0, NULL };

static uint64_t kicks_of(struct rig *r)
{
	uint64_t kicks = 0;

	if (fd_readable(virtq_port_kick_fd(r->port)))
		assert_int_equal(read(virtq_port_kick_fd(r->port), &kicks, 8), 8);
	return kicks;
}

/* Several calls, one publication and one kick; by publish() or the next sending. */
static void staged_go_together(void **state)
{
	struct virtq_transfer *t[4], *done[4];
	struct virtq_piece pieces[2];
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 4; i++)
		t[i] = rig_prepare(&r, i, NULL);
	for (unsigned int round = 0; round < 6; round++) {
		assert_int_equal(virtq_device_arm(r.far.device), 0);
		assert_int_equal(virtq_transfer_stage(r.set, t, 2), 2);
		assert_int_equal(virtq_transfer_stage(r.set, t + 2, 1), 1);
		assert_int_equal(virtq_transfer_stage(r.set, t, 0), 0);
		assert_int_equal(kicks_of(&r), 0);
		assert_int_equal(rig_serve(&r, 4, NULL, 1, 1), 0);
		/* They are in flight. */
		assert_int_equal(virtq_transfers_in_flight(r.set), 3);
		assert_int_equal(virtq_transfer_id(t[2]), virtq_transfer_id(t[0]) + 2);
		assert_int_equal(virtq_transfer_check(t[1]), 0);
		assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), 0);
		assert_null(virtq_transfer_pieces(t[1], NULL, NULL));
		assert_int_equal(virtq_transfer_finish(t[1], pieces, 2), -EBUSY);
		assert_int_equal(virtq_transfer_stage(r.set, &t[1], 1), -EBUSY);
		assert_int_equal(virtq_transfer_send(r.set, &t[1], 1), -EBUSY);
		assert_int_equal(rig_serve(&r, 4, NULL, 1, 1), 0);
		if (round % 2)
			assert_int_equal(virtq_transfers_publish(r.set), 0);
		else
			rig_send(&r, t[3]);
		assert_int_equal(kicks_of(&r), 1);
		assert_int_equal(rig_serve(&r, 4, NULL, 1, 1), round % 2 ? 3 : 4);
		assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), round % 2 ? 3 : 4);
		for (unsigned int i = 0; i < 3; i++)
			assert_ptr_equal(done[i], t[i]);
	}
	/* Nothing to show is fine, and no kick. */
	assert_int_equal(virtq_device_arm(r.far.device), 0);
	assert_int_equal(virtq_transfers_publish(r.set), 0);
	assert_int_equal(kicks_of(&r), 0);
	rig_close(&r);
}

/* Before it sleeps, and before it says that one may, all is shown. */
static void who_waits_publishes(void **state)
{
	struct virtq_transfer *t, *done[1];
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, NULL);
	for (unsigned int way = 0; way < 3; way++) {
		assert_int_equal(virtq_device_arm(r.far.device), 0);
		assert_int_equal(virtq_transfer_stage(r.set, &t, 1), 1);
		if (way == 0)
			assert_int_equal(virtq_transfer_wait(t, &look), 0);
		else if (way == 1)
			assert_int_equal(virtq_transfers_poll(r.set, done, 1, &look), 0);
		else
			assert_int_equal(virtq_transfers_arm(r.set), 0);
		assert_int_equal(kicks_of(&r), 1);
		assert_int_equal(rig_serve(&r, 1, NULL, 1, 1), 1);
		assert_int_equal(virtq_transfer_check(t), 1);
	}
	rig_close(&r);
}

static void staged_and_abandoned(void **state)
{
	struct virtq_transfer *t, *done[1];
	struct told told = { 0 };
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 2, &told);
	assert_int_equal(virtq_transfer_stage(r.set, &t, 1), 1);
	virtq_transfer_abandon(t);
	/* The ring has it: it goes its way like any other. */
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 0);
	assert_int_equal(told.calls, 0);
	assert_int_equal(virtq_transfers_publish(r.set), 0);
	assert_int_equal(rig_serve(&r, 2, NULL, 9, 1), 1);
	assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 0);
	assert_int_equal(told.calls, 1);
	assert_int_equal(told.status, 0);
	assert_int_equal(told.pieces[1].written, 9);
	rig_close(&r);
	assert_int_equal(told.calls, 1);
}

/* With one that the device knows of, or with none: then nobody need be stopped. */
static void staged_and_reset(void **state)
{
	for (unsigned int known = 0; known < 2; known++) {
		struct virtq_transfer *t[3], *done[3];
		struct told told = { 0 };
		struct rig r;

		rig_open(&r, *state, &usual);
		t[0] = rig_prepare(&r, 0, NULL);
		t[1] = rig_prepare(&r, 1, &told);
		t[2] = rig_prepare(&r, 2, NULL);
		if (known)
			rig_send(&r, t[2]);
		assert_int_equal(virtq_transfer_stage(r.set, t, 2), 2);
		virtq_transfer_abandon(t[1]);
		if (known) {
			assert_int_equal(virtq_transfers_reset(r.set, NULL), -EBUSY);
			virtq_driver_stop(virtq_port_driver(r.port));
		}
		assert_int_equal(virtq_transfers_reset(r.set, NULL), 2 + known);
		far_start(&r.far);
		assert_int_equal(told.calls, 1);
		assert_int_equal(told.status, -ECANCELED);
		assert_int_equal(virtq_transfer_check(t[0]), 1);
		assert_int_equal(virtq_transfer_status(t[0]), -ECANCELED);
		assert_int_equal(virtq_transfers_in_flight(r.set), 0);
		assert_int_equal(virtq_transfers_poll(r.set, done, 3, NULL), 1 + known);
		/* They do not come out of the new ring. */
		assert_int_equal(virtq_transfers_publish(r.set), 0);
		assert_int_equal(rig_serve(&r, 3, NULL, 1, 1), 0);
		rig_send(&r, t[0]);
		assert_int_equal(rig_serve(&r, 3, NULL, 1, 1), 1);
		assert_int_equal(virtq_transfer_check(t[0]), 1);
		rig_close(&r);
		assert_int_equal(told.calls, 1);
	}
}

static void staged_and_destroyed(void **state)
{
	struct virtq_transfer *t[2];
	struct told told[2];
	struct rig r;

	memset(told, 0, sizeof(told));
	rig_open(&r, *state, &usual);
	t[0] = rig_prepare(&r, 0, &told[0]);
	t[1] = rig_prepare(&r, 1, &told[1]);
	assert_int_equal(virtq_transfer_stage(r.set, t, 2), 2);
	virtq_transfer_abandon(t[1]);
	rig_close(&r);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(told[i].calls, 1);
		assert_int_equal(told[i].status, -ECANCELED);
		assert_int_equal(told[i].pieces[1].written, 0);
	}
}

/* What does not fit stays with the caller; what was staged goes all the same. */
static void staged_until_it_is_full(void **state)
{
	static const struct rig_shape small = { .size = 4, .pieces_max = 2 };
	struct virtq_transfer *t[8], *done[8];
	struct told told = { 0 };
	struct rig r;
	int n, more;

	rig_open(&r, *state, &small);
	for (unsigned int i = 0; i < 8; i++)
		t[i] = rig_prepare(&r, i, i ? NULL : &told);
	n = virtq_transfer_stage(r.set, t, 8);
	assert_in_range(n, 2, 4);
	assert_int_equal(virtq_transfer_stage(r.set, t + n, 1), -ENOSPC);
	assert_int_equal(virtq_transfer_send(r.set, t + n, 1), -ENOSPC);
	assert_int_equal(virtq_transfer_id(t[n]), 0);
	assert_int_equal(rig_serve(&r, 8, NULL, 1, 1), 0);
	assert_int_equal(virtq_transfers_publish(r.set), 0);
	assert_int_equal(rig_serve(&r, 8, NULL, 1, 1), n);
	/* It looks for room, and finds what is used; one of them is nobody's. */
	virtq_transfer_abandon(t[0]);
	more = virtq_transfer_stage(r.set, t + n, 8 - (unsigned int)n);
	assert_in_range(more, 2, 4);
	assert_int_equal(told.calls, 1);
	assert_int_equal(virtq_transfers_poll(r.set, done, 8, NULL), n - 1);
	rig_close(&r);
}

/* S-DRV: what was published is with the device, whatever became of the kick. Told once. */
static void publish_says_that_the_kick_failed(void **state)
{
	struct virtq_transfer *t;
	struct rig r;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), fd;

	assert_true(null >= 0);
	rig_open(&r, *state, &usual);
	fd = virtq_port_kick_fd(r.port);
	t = rig_prepare(&r, 0, NULL);
	assert_int_equal(virtq_device_arm(r.far.device), 0);
	assert_int_equal(dup2(null, fd), fd);
	close(null);
	assert_int_equal(virtq_transfer_stage(r.set, &t, 1), 1);
	assert_int_equal(virtq_transfers_publish(r.set), -EBADF);
	assert_int_equal(virtq_transfers_publish(r.set), 0);
	assert_int_equal(virtq_transfers_kick_error(r.set), 0);
	assert_int_equal(rig_serve(&r, 1, NULL, 1, 1), 1);
	assert_int_equal(virtq_transfer_check(t), 1);
	rig_close(&r);
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(staged_go_together), EACH(who_waits_publishes), EACH(staged_and_abandoned),
		EACH(staged_and_reset), EACH(staged_and_destroyed), EACH(staged_until_it_is_full),
		EACH(publish_says_that_the_kick_failed),
	};

	return rig_run("staged transfers", each, sizeof(each) / sizeof(each[0]), NULL, 0);
}
