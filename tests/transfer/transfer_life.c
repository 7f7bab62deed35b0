/* SPDX-License-Identifier: MIT */
/*
 * How transfers end: abandoned, forgotten, lost with the queue or with the set.
 * Whatever happens, a release function runs once.
 */
#include "transfer_rig.h"

static const struct rig_shape usual;

static void assert_told(const struct told *told, const struct rig *r, unsigned int i, int status,
			size_t written)
{
	assert_int_equal(told->calls, 1);
	assert_int_equal(told->readable, 1);
	assert_int_equal(told->writable, 1);
	assert_int_equal(told->status, status);
	assert_ptr_equal(told->pieces[0].base, r->data + 128 * i);
	assert_ptr_equal(told->pieces[1].base, r->data + 128 * i + 64);
	assert_int_equal(told->pieces[0].len, 64);
	assert_int_equal(told->pieces[0].written, 0);
	assert_int_equal(told->pieces[1].written, written);
}

/* ---- Abandoned -------------------------------------------------------------- */

static void abandoned_before_it_is_sent(void **state)
{
	struct told told = { 0 };
	struct rig r;

	rig_open(&r, *state, &usual);
	virtq_transfer_abandon(NULL);
	virtq_transfer_abandon(rig_prepare(&r, 3, &told));
	assert_told(&told, &r, 3, 0, 0);
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

struct count {
	unsigned int calls;
	uint8_t *busy;
	uint8_t *data;
};

static void give_back(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		      unsigned int writable, int status)
{
	struct count *count = arg;
	size_t slot = (size_t)((uint8_t *)pieces[0].base - count->data) / 128;

	assert_int_equal(readable, 1);
	assert_int_equal(writable, 1);
	assert_int_equal(status, 0);
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
			virtq_transfer_abandon(t);
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

/* ---- Release functions that go on ------------------------------------------- */

struct relay {
	struct rig *r;
	unsigned int left, calls;
	struct virtq_transfer *other;	/* to be ended in passing */
	struct told *other_told;
};

/* Its own slot, and its ring entries, are free for what it sends. */
static void send_next(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		      unsigned int writable, int status)
{
	struct relay *relay = arg;
	struct virtq_piece mine[2] = { pieces[0], pieces[1] }, was[2] = { pieces[0], pieces[1] };
	struct virtq_transfer *t;

	assert_int_equal(status, 0);
	relay->calls++;
	if (!relay->left)
		return;
	relay->left--;
	mine[0].base = (uint8_t *)mine[0].base + 1;
	assert_int_equal(virtq_transfer_prepare(relay->r->set, &t, mine, readable, writable,
						send_next, relay), 0);
	assert_int_equal(virtq_transfer_send(relay->r->set, &t, 1), 1);
	virtq_transfer_abandon(t);
	/* Ours are ours until we return. */
	assert_memory_equal(pieces, was, sizeof(was));
	if (relay->other) {
		t = relay->other;
		relay->other = NULL;
		virtq_transfer_abandon(t);
		assert_int_equal(relay->other_told->calls, 1);
		assert_memory_equal(pieces, was, sizeof(was));
	}
}

static void release_prepares_and_sends(void **state)
{
	static const struct rig_shape one = { .size = 2, .transfers_max = 1, .pieces_max = 2 };
	struct relay relay = { .left = 20 };
	struct virtq_piece pieces[2];
	struct virtq_transfer *t, *done[2];
	struct rig r;

	rig_open(&r, *state, &one);
	relay.r = &r;
	pieces[0] = rig_piece(&r, 0, 10);
	pieces[1] = rig_piece(&r, 1000, 10);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, send_next, &relay), 0);
	rig_send(&r, t);
	virtq_transfer_abandon(t);
	for (unsigned int i = 1; i <= 21; i++) {
		assert_int_equal(rig_serve(&r, 4, NULL, 1, 1), 1);
		assert_int_equal(virtq_transfers_poll(r.set, done, 2, NULL), 0);
		assert_int_equal(relay.calls, i);
	}
	assert_int_equal(rig_serve(&r, 4, NULL, 1, 1), 0);
	rig_close(&r);
	assert_int_equal(relay.calls, 21);
}

/* What is to be told next may end in a release function, and is then not told. */
static void release_ends_another(void **state)
{
	struct told told = { 0 };
	struct relay relay = { .left = 1, .other_told = &told };
	struct virtq_transfer *t[3], *done[4];
	struct virtq_piece pieces[2];
	struct rig r;

	rig_open(&r, *state, &usual);
	relay.r = &r;
	pieces[0] = rig_piece(&r, 1024, 10);
	pieces[1] = rig_piece(&r, 2048, 10);
	t[0] = rig_prepare(&r, 0, NULL);
	t[1] = rig_prepare(&r, 1, &told);
	relay.other = t[1];
	assert_int_equal(virtq_transfer_prepare(r.set, &t[2], pieces, 1, 1, send_next, &relay), 0);
	assert_int_equal(virtq_transfer_send(r.set, t, 3), 3);
	virtq_transfer_abandon(t[2]);
	assert_int_equal(rig_serve(&r, 3, NULL, 1, 1), 3);
	assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), 1);
	assert_ptr_equal(done[0], t[0]);
	assert_told(&told, &r, 1, 0, 1);
	/* It has sent one more, which ends with the set. */
	assert_int_equal(rig_serve(&r, 3, NULL, 1, 1), 1);
	rig_close(&r);
	assert_int_equal(relay.calls, 2);
	assert_int_equal(told.calls, 1);
}

struct latecomer {
	struct rig *r;
	struct virtq_transfer *t;
	unsigned int calls;
};

/* The device uses another meanwhile, which is found for want of a transfer. */
static void find_another(void *arg, const struct virtq_piece *pieces, unsigned int readable,
			 unsigned int writable, int status)
{
	struct virtq_piece mine[2] = { pieces[0], pieces[1] };
	struct latecomer *late = arg;
	struct virtq_transfer *none;

	assert_int_equal(status, 0);
	late->calls++;
	assert_int_equal(rig_serve(late->r, 1, NULL, 1, 1), 1);
	assert_int_equal(virtq_transfer_prepare(late->r->set, &late->t, mine, readable, writable,
						NULL, NULL), 0);
	mine[0] = pieces[0];
	mine[1] = pieces[1];
	assert_int_equal(virtq_transfer_prepare(late->r->set, &none, mine, readable, writable,
						NULL, NULL), -ENOSPC);
}

/*
 * What comes back while release functions run is for the next call, or one could
 * last for ever; and that there is a next one arm() sees to.
 */
static void found_in_a_release_is_due(void **state)
{
	static const struct rig_shape two = { .transfers_max = 2 };

	for (unsigned int way = 0; way < 3; way++) {
		struct virtq_wait forever = { .timeout_ms = -1 };
		struct virtq_transfer *t, *other, *done[2];
		struct latecomer late = { 0 };
		struct virtq_piece pieces[2];
		struct told told = { 0 };
		struct rig r;

		rig_open(&r, *state, &two);
		late.r = &r;
		pieces[0] = rig_piece(&r, 1024, 64);
		pieces[1] = rig_piece(&r, 2048, 64);
		assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, find_another,
							&late), 0);
		other = rig_prepare(&r, 0, &told);
		rig_send(&r, t);
		rig_send(&r, other);
		virtq_transfer_abandon(t);
		virtq_transfer_abandon(other);
		assert_int_equal(rig_serve(&r, 1, NULL, 1, 1), 1);
		if (way == 0)
			assert_int_equal(virtq_transfers_arm(r.set), 1);
		else
			assert_int_equal(virtq_transfers_poll(r.set, done, 2, NULL), 0);
		assert_int_equal(late.calls, 1);
		assert_int_equal(told.calls, 0);
		if (way == 2) {
			/* Not slept over: the other one is all there is. */
			virtq_port_shutdown(r.port);
			assert_int_equal(virtq_transfers_poll(r.set, done, 2, &forever),
					 -ESHUTDOWN);
		} else {
			assert_int_equal(virtq_transfers_poll(r.set, done, 2, NULL), 0);
		}
		assert_told(&told, &r, 0, 0, 1);
		virtq_transfer_abandon(late.t);
		rig_close(&r);
	}
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
		rig_close(&r);
		assert_told(&told[PREPARED], &r, PREPARED, 0, 0);
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

struct relief {
	struct virtq_transfers *set;
	int prepare_rc, send_rc, calls;
};

static void send_another(void *arg, const struct virtq_piece *pieces, unsigned int readable,
			 unsigned int writable, int status)
{
	struct virtq_piece mine[2] = { pieces[0], pieces[1] };
	struct relief *relief = arg;
	struct virtq_transfer *t = NULL;

	relief->calls++;
	assert_int_equal(status, -ECANCELED);
	relief->prepare_rc = virtq_transfer_prepare(relief->set, &t, mine, readable, writable,
						    NULL, NULL);
	relief->send_rc = virtq_transfer_send(relief->set, &t, 1);
	virtq_transfer_abandon(t);
}

/* Nothing is sent before a reset is over: a queue is started with nothing in flight. */
static void nothing_sent_while_it_is_reset(void **state)
{
	struct relief relief = { 0 };
	struct virtq_piece pieces[2];
	struct virtq_transfer *t;
	struct rig r;

	rig_open(&r, *state, &usual);
	relief.set = r.set;
	pieces[0] = rig_piece(&r, 1024, 10);
	pieces[1] = rig_piece(&r, 2048, 10);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, send_another, &relief), 0);
	rig_send(&r, t);
	virtq_transfer_abandon(t);
	assert_int_equal(rig_reset(&r), 1);
	assert_int_equal(relief.calls, 1);
	assert_int_equal(relief.prepare_rc, 0);
	assert_int_equal(relief.send_rc, -ESHUTDOWN);
	assert_int_equal(virtq_driver_in_flight(virtq_port_driver(r.port)), 0);
	/* Afterwards all is as ever. */
	t = rig_prepare(&r, 0, NULL);
	rig_send(&r, t);
	rig_serve(&r, 1, NULL, 7, 1);
	assert_int_equal(virtq_transfer_check(t), 1);
	rig_close(&r);
}

struct last_words {
	struct virtq_transfers *set;
	struct virtq_transfer *other;
	int prepare_rc, send_rc, calls;
};

static void try_to_go_on(void *arg, const struct virtq_piece *pieces, unsigned int readable,
			 unsigned int writable, int status)
{
	struct virtq_piece mine[2] = { pieces[0], pieces[1] };
	struct last_words *words = arg;
	struct virtq_transfer *t;

	(void)status;
	words->calls++;
	words->prepare_rc = virtq_transfer_prepare(words->set, &t, mine, readable, writable,
						   NULL, NULL);
	assert_ptr_equal(mine[0].base, pieces[0].base);
	words->send_rc = virtq_transfer_send(words->set, &words->other, 1);
	/* Whose turn comes later: it is released here, and not again. */
	virtq_transfer_abandon(words->other);
}

/* In a set that ends nothing begins. */
static void nothing_new_while_it_ends(void **state)
{
	struct last_words words = { 0 };
	struct told told = { 0 };
	struct virtq_piece pieces[2];
	struct virtq_transfer *t;
	struct rig r;

	rig_open(&r, *state, &usual);
	words.set = r.set;
	pieces[0] = rig_piece(&r, 1024, 10);
	pieces[1] = rig_piece(&r, 2048, 10);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, try_to_go_on, &words), 0);
	words.other = rig_prepare(&r, 0, &told);
	rig_close(&r);
	assert_int_equal(words.calls, 1);
	assert_int_equal(words.prepare_rc, -ENOSPC);
	assert_int_equal(words.send_rc, -ESHUTDOWN);
	assert_int_equal(told.calls, 1);
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(abandoned_before_it_is_sent), EACH(abandoned_in_flight),
		EACH(abandoned_after_it_was_used), EACH(fire_and_forget),
		EACH(release_prepares_and_sends), EACH(release_ends_another),
		EACH(reset_brings_all_back), EACH(destroy_releases_all),
		EACH(abandoned_after_a_reset), EACH(nothing_new_while_it_ends),
		EACH(nothing_sent_while_it_is_reset), EACH(found_in_a_release_is_due),
		EACH(next_set_keeps_again),
	};

	return rig_run("transfers end", each, sizeof(each) / sizeof(each[0]), NULL, 0);
}
