/* SPDX-License-Identifier: MIT */
/*
 * How transfers end: abandoned, forgotten, lost with the queue or with the set.
 * Whatever happens, a release function runs once.
 */
#include "transfer_rig.h"

static const struct rig_shape usual;

/* ---- Abandoned -------------------------------------------------------------- */

static void abandoned_before_it_is_sent(void **state)
{
	struct told told = { 0 };
	struct rig r;

	rig_open(&r, *state, &usual);
	virtq_transfer_abandon(NULL);
	virtq_transfer_abandon(rig_prepare(&r, 3, &told));
	assert_told(&told, &r, 3, -ENODATA, 0);
	/* Nobody to tell is fine, too. */
	virtq_transfer_abandon(rig_prepare(&r, 0, NULL));
	rig_close(&r);
	assert_int_equal(told.calls, 1);
}

static void abandoned_in_flight(void **state)
{
	struct virtq_transfer *t, *done[4];
	struct told told = { 0 };
	uint8_t got[64];
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 1, &told);
	rig_send(&r, t);
	virtq_transfer_abandon(t);
	assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), 0);
	assert_int_equal(told.calls, 0);
	/* The device still has the memory, and it is as it was. */
	memset(r.data + 128, 0x21, 64);
	assert_int_equal(rig_serve(&r, 4, got, 64, 0x34), 1);
	assert_memory_equal(got, r.data + 128, 64);
	assert_int_equal(told.calls, 0);
	assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), 0);
	assert_told(&told, &r, 1, 0, 64);
	assert_int_equal(r.data[192 + 63], 0x34);
	rig_close(&r);
	assert_int_equal(told.calls, 1);
}

static void abandoned_after_it_was_used(void **state)
{
	struct virtq_transfer *t, *done[4];
	struct told told[3];
	struct rig r;

	rig_open(&r, *state, &usual);
	memset(told, 0, sizeof(told));
	for (unsigned int i = 0; i < 3; i++) {
		t = rig_prepare(&r, i, &told[i]);
		rig_send(&r, t);
		rig_serve(&r, 1, NULL, 5 + i, 1);
		/* Used and not noticed yet, noticed and not told, told. */
		if (i == 1)
			assert_int_equal(virtq_transfer_check(t), 1);
		if (i == 2)
			assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), 1);
		virtq_transfer_abandon(t);
		assert_int_equal(told[i].calls, i > 0);
		assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), 0);
		assert_told(&told[i], &r, i, 0, 5 + i);
	}
	rig_close(&r);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(told[i].calls, 1);
}

/* Whoever looks for room in the ring finds it, and ends it before he returns. */
static void abandoned_and_found_by_who_sends(void **state)
{
	static const struct rig_shape small = { .size = 4, .transfers_max = 8 };

	for (unsigned int stage = 0; stage < 2; stage++) {
		struct told told = { 0 };
		struct virtq_transfer *t[6];
		unsigned int sent = 0;
		struct rig r;

		rig_open(&r, *state, &small);
		for (unsigned int i = 0; i < 6; i++)
			t[i] = rig_prepare(&r, i, i ? NULL : &told);
		while (sent < 5 && virtq_transfer_send(r.set, &t[sent], 1) == 1)
			sent++;
		virtq_transfer_abandon(t[0]);
		assert_int_equal(rig_serve(&r, 1, NULL, 3, 1), 1);
		assert_int_equal(told.calls, 0);
		assert_int_equal((stage ? virtq_transfer_stage : virtq_transfer_send)
				 (r.set, &t[5], 1), 1);
		assert_told(&told, &r, 0, 0, 3);
		rig_close(&r);
	}
}

struct count {
	unsigned int calls;
	uint8_t *busy;
	uint8_t *data;
	bool refused;			/* the last sending */
};

static void give_back(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		      unsigned int writable, int status)
{
	struct count *count = arg;
	size_t slot = (size_t)((uint8_t *)pieces[0].base - count->data) / 128;

	assert_int_equal(readable, 1);
	assert_int_equal(writable, 1);
	assert_int_equal(status, count->refused ? -ENODATA : 0);
	assert_int_equal(count->busy[slot], 1);
	count->busy[slot] = 0;
	count->calls++;
}

/* Nobody polls: who prepares and sends finds out what is back. */
static void fire_and_forget(void **state)
{
	uint8_t busy[64] = { 0 };
	struct count count = { .busy = busy };
	struct rig r;

	rig_open(&r, *state, &usual);
	count.data = r.data;
	for (unsigned int i = 0; i < 10000; i++) {
		struct virtq_piece pieces[2];
		struct virtq_transfer *t;
		unsigned int slot = 0;
		int rc;

		while (busy[slot])
			slot++;
		pieces[0] = rig_piece(&r, 128 * slot, 64);
		pieces[1] = rig_piece(&r, 128 * slot + 64, 64);
		rc = virtq_transfer_prepare(r.set, &t, pieces, 1, 1, give_back, &count);
		if (!rc) {
			busy[slot] = 1;
			rc = virtq_transfer_send(r.set, &t, 1);
			assert_true(rc == 1 || rc == -ENOSPC);
			count.refused = rc != 1;
			assert_int_equal(virtq_transfer_status(t), rc == 1 ? 0 : -ENODATA);
			virtq_transfer_abandon(t);
			count.refused = false;
		}
		if (rc == -ENOSPC || i % 7 == 0)
			rig_serve(&r, 1 + i % 5, NULL, i % 64, 0);
		if (rc == -ENOSPC)
			i--;
	}
	rig_serve(&r, 64, NULL, 0, 0);
	assert_int_equal(virtq_transfers_poll(r.set, NULL, 0, NULL), 0);
	assert_int_equal(virtq_driver_in_flight(virtq_port_driver(r.port)), 0);
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(busy[i], 0);
	assert_true(count.calls >= 10000);
	rig_close(&r);
}

/* ---- Lost with the queue ------------------------------------------------------ */

enum { PREPARED, FLYING, LEFT, USED, TOLD, UNLOOKED, FATES };

/* One of each fate; and the device has broken the ring if @broken. */
static void set_fates(struct rig *r, struct virtq_transfer **t, struct told *told, bool broken)
{
	struct virtq_transfer *done[1];

	memset(told, 0, FATES * sizeof(*told));
	for (unsigned int i = 0; i < FATES; i++)
		t[i] = rig_prepare(r, i, &told[i]);
	rig_send(r, t[TOLD]);
	rig_serve(r, 1, NULL, 10 + TOLD, 1);
	assert_int_equal(virtq_transfers_poll(r->set, done, 1, NULL), 1);
	rig_send(r, t[USED]);
	rig_serve(r, 1, NULL, 10 + USED, 1);
	assert_int_equal(virtq_transfer_check(t[USED]), 1);
	rig_send(r, t[UNLOOKED]);
	rig_serve(r, 1, NULL, 10 + UNLOOKED, 1);
	rig_send(r, t[FLYING]);
	rig_send(r, t[LEFT]);
	virtq_transfer_abandon(t[LEFT]);
	if (broken)
		far_break(&r->far);
}

static void reset_brings_all_back(void **state)
{
	struct virtq_transfer *t[FATES], *done[FATES];
	struct told told[FATES];

	for (unsigned int broken = 0; broken < 2; broken++) {
		int status = broken ? -EBADMSG : -ECANCELED;
		struct virtq_piece pieces[2];
		struct rig r;

		rig_open(&r, *state, &usual);
		set_fates(&r, t, told, broken);
		assert_int_equal(virtq_transfers_reset(r.set, NULL), -EBUSY);
		assert_int_equal(virtq_transfer_check(t[PREPARED]), 1);
		assert_int_equal(virtq_transfer_status(t[PREPARED]), -ENODATA);
		assert_int_equal(told[LEFT].calls, 0);
		assert_int_equal(rig_reset(&r), 2);
		assert_told(&told[LEFT], &r, LEFT, status, 0);
		assert_int_equal(virtq_transfer_check(t[FLYING]), 1);
		assert_int_equal(virtq_transfer_status(t[FLYING]), status);
		assert_int_equal(virtq_transfer_written(t[FLYING]), 0);
		/* What the device had used was used, whether one had looked or not. */
		assert_int_equal(virtq_transfer_status(t[UNLOOKED]), 0);
		assert_int_equal(virtq_transfer_written(t[UNLOOKED]), 10 + UNLOOKED);
		assert_int_equal(virtq_transfers_poll(r.set, done, FATES, NULL), 3);
		assert_ptr_equal(done[0], t[USED]);
		assert_ptr_equal(done[1], t[UNLOOKED]);
		assert_ptr_equal(done[2], t[FLYING]);
		/* They go on, all of them. */
		for (unsigned int i = 0; i < FATES; i++) {
			if (i == LEFT)
				continue;
			assert_int_equal(virtq_transfer_send(r.set, &t[i], 1), 1);
			assert_int_equal(virtq_transfer_status(t[i]), 0);
			rig_serve(&r, 1, NULL, i, 1);
			assert_int_equal(virtq_transfer_check(t[i]), 1);
			assert_int_equal(virtq_transfer_written(t[i]), i);
			assert_int_equal(virtq_transfer_finish(t[i], pieces, 2), 2);
		}
		rig_close(&r);
		for (unsigned int i = 0; i < FATES; i++)
			assert_int_equal(told[i].calls, i == LEFT);
	}
}

static void destroy_releases_all(void **state)
{
	struct virtq_transfer *t[FATES];
	struct told told[FATES];

	for (unsigned int broken = 0; broken < 2; broken++) {
		int status = broken ? -EBADMSG : -ECANCELED;
		struct rig r;

		rig_open(&r, *state, &usual);
		set_fates(&r, t, told, broken);
		virtq_transfers_destroy(r.set);
		r.set = NULL;
		/* Nothing is left in the port, which can be made anew. */
		assert_int_equal(virtq_driver_in_flight(virtq_port_driver(r.port)), 0);
		assert_int_equal(virtq_port_renew(r.port), 0);
		rig_close(&r);
		assert_told(&told[PREPARED], &r, PREPARED, -ENODATA, 0);
		assert_told(&told[FLYING], &r, FLYING, status, 0);
		assert_told(&told[LEFT], &r, LEFT, status, 0);
		assert_told(&told[USED], &r, USED, 0, 10 + USED);
		assert_told(&told[TOLD], &r, TOLD, 0, 10 + TOLD);
		assert_told(&told[UNLOOKED], &r, UNLOOKED, 0, 10 + UNLOOKED);
	}
}

/* Abandoned after a reset: it is told how the transfer ended. */
static void abandoned_after_a_reset(void **state)
{
	struct told told = { 0 };
	struct virtq_transfer *t;
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, &told);
	rig_send(&r, t);
	assert_int_equal(rig_reset(&r), 1);
	assert_int_equal(rig_reset(&r), 0);
	virtq_transfer_abandon(t);
	assert_told(&told, &r, 0, -ECANCELED, 0);
	rig_close(&r);
}

/* What is published before a start or after a stop is with a device for all that is known. */
static void published_to_nobody(void **state)
{
	const struct virtq_wait briefly = { .timeout_ms = 1 };
	struct virtq_transfer *t, *done;
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, NULL);
	for (unsigned int turn = 0; turn < 3; turn++) {
		/* Staged it is nobody's, until a wait shows it. */
		assert_int_equal(virtq_transfer_stage(r.set, &t, 1), 1);
		if (turn) {
			assert_int_equal(virtq_transfers_poll(r.set, &done, 1, &briefly), 0);
			assert_int_equal(virtq_transfers_reset(r.set, NULL), -EBUSY);
			assert_int_equal(virtq_transfer_check(t), 0);
			virtq_driver_stop(virtq_port_driver(r.port));
		}
		assert_int_equal(virtq_transfers_reset(r.set, NULL), 1);
		far_start(&r.far);
		assert_int_equal(virtq_transfers_poll(r.set, &done, 1, NULL), 1);
		assert_ptr_equal(done, t);
		assert_int_equal(virtq_transfer_status(t), -ECANCELED);
		rig_send(&r, t);
		assert_int_equal(rig_serve(&r, 1, NULL, 1, 1), 1);
		assert_int_equal(virtq_transfer_check(t), 1);
		virtq_driver_stop(virtq_port_driver(r.port));
	}
	rig_close(&r);
}

/* A set leaves the port as it found it. */
static void next_set_keeps_again(void **state)
{
	const struct setting *on = *state;
	struct virtq_transfers_config config = { .transfers_max = 4, .pieces_max = 2 };
	struct virtq_driver *q;
	uint32_t room;
	struct rig r;

	rig_open(&r, on, &usual);
	config.port = r.port;
	config.map = r.map;
	q = virtq_port_driver(r.port);
	room = virtq_driver_room(q);
	for (unsigned int round = 0; round < 3; round++) {
		int keeps = virtq_driver_keeps(q);
		struct virtq_transfer *t = NULL;
		struct virtq_piece piece;

		assert_int_equal(keeps, on->keep && !on->layout.in_order);
		piece = rig_piece(&r, 0, 64);
		assert_int_equal(virtq_transfer_prepare(r.set, &t, &piece, 1, 0, NULL, NULL), 0);
		for (unsigned int i = 0; i < 3; i++) {
			rig_send(&r, t);
			assert_int_equal(rig_serve(&r, 1, NULL, 0, 0), 1);
			assert_int_equal(virtq_transfer_check(t), 1);
		}
		assert_int_equal(room - virtq_driver_room(q), keeps);
		virtq_transfers_destroy(r.set);
		assert_int_equal(virtq_driver_room(q), room);
		/* Under no set, too: the port's owner gets what its config says. */
		for (unsigned int i = 0; i < 2; i++) {
			struct virtq_seg seg = { .addr = RIG_GPA, .len = 8 };
			struct virtq_buffer buf = { &seg, 1, 0, &seg };
			struct virtq_completion done;

			assert_int_equal(virtq_driver_add(q, &buf, 1), 1);
			virtq_driver_publish(q);
			assert_int_equal(rig_serve(&r, 1, NULL, 0, 0), 1);
			assert_int_equal(virtq_driver_get(q, &done, 1), 1);
			assert_int_equal(room - virtq_driver_room(q), keeps);
			if (keeps)
				assert_int_equal(virtq_driver_free(q, &done.id, 1), 1);
		}
		assert_int_equal(virtq_transfers_create(&r.set, &config, NULL), 0);
	}
	rig_close(&r);
}

/* ... and that nobody is to be called: the first one ended while it was armed. */
static void next_set_is_not_called(void **state)
{
	struct virtq_transfers_config config = { .transfers_max = 4, .pieces_max = 2 };
	struct virtq_transfer *t;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, *state, &usual);
	config.port = r.port;
	config.map = r.map;
	/* A device calls for the first one in any case. */
	t = rig_prepare(&r, 0, NULL);
	rig_send(&r, t);
	assert_int_equal(rig_serve(&r, 1, NULL, 1, 1), 1);
	assert_int_equal(virtq_transfer_check(t), 1);
	virtq_transfer_abandon(t);
	assert_int_equal(virtq_transfers_arm(r.set), 0);
	virtq_transfers_destroy(r.set);
	assert_int_equal(virtq_transfers_create(&r.set, &config, NULL), 0);
	t = rig_prepare(&r, 0, NULL);
	rig_send(&r, t);
	assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
	virtq_device_push(r.far.device, &req, 1);
	assert_int_equal(virtq_device_publish(r.far.device), 0);
	assert_int_equal(virtq_transfer_check(t), 1);
	rig_close(&r);
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(abandoned_before_it_is_sent), EACH(abandoned_in_flight),
		EACH(abandoned_after_it_was_used), EACH(fire_and_forget), EACH(abandoned_and_found_by_who_sends),
		EACH(reset_brings_all_back), EACH(destroy_releases_all),
		EACH(abandoned_after_a_reset), EACH(published_to_nobody),
		EACH(next_set_keeps_again), EACH(next_set_is_not_called),
	};

	return rig_run("transfers end", each, sizeof(each) / sizeof(each[0]), NULL, 0);
}
