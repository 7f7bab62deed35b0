/* SPDX-License-Identifier: MIT */
/* Release functions that go on: what they may do, and when it has an effect. */
#include "transfer_rig.h"

static const struct rig_shape usual;

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
	struct virtq_transfer *t, *done[2];
	struct rig r;

	rig_open(&r, *state, &one);
	relay.r = &r;
	t = rig_prepare_with(&r, 0, send_next, &relay);
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
	struct rig r;

	rig_open(&r, *state, &usual);
	relay.r = &r;
	t[0] = rig_prepare(&r, 0, NULL);
	t[1] = rig_prepare(&r, 1, &told);
	relay.other = t[1];
	t[2] = rig_prepare_with(&r, 8, send_next, &relay);
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
		struct told told = { 0 };
		struct rig r;

		rig_open(&r, *state, &two);
		late.r = &r;
		t = rig_prepare_with(&r, 8, find_another, &late);
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

static void shut_down(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		      unsigned int writable, int status)
{
	const struct rig *r = arg;

	(void)pieces;
	(void)readable;
	(void)writable;
	(void)status;
	virtq_port_shutdown(r->port);
}

/* What came back while release functions ran is ended before somebody sleeps. */
static void found_in_a_release_is_not_slept_over(void **state)
{
	static const struct rig_shape two = { .transfers_max = 2 };
	struct virtq_wait long_enough = { .timeout_ms = 5000 };
	struct virtq_transfer *t, *other, *done[2];
	struct latecomer late = { 0 };
	struct rig r;

	rig_open(&r, *state, &two);
	late.r = &r;
	t = rig_prepare_with(&r, 8, find_another, &late);
	other = rig_prepare_with(&r, 0, shut_down, &r);
	rig_send(&r, t);
	rig_send(&r, other);
	virtq_transfer_abandon(t);
	virtq_transfer_abandon(other);
	assert_int_equal(rig_serve(&r, 1, NULL, 1, 1), 1);
	assert_int_equal(virtq_transfers_poll(r.set, done, 2, &long_enough), -ESHUTDOWN);
	virtq_transfer_abandon(late.t);
	rig_close(&r);
}

/* ---- While the queue is reset, or the set ends ----------------------------- */

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
	struct virtq_transfer *t;
	struct rig r;

	rig_open(&r, *state, &usual);
	relief.set = r.set;
	t = rig_prepare_with(&r, 8, send_another, &relief);
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
	struct rig r;

	rig_open(&r, *state, &usual);
	words.set = r.set;
	rig_prepare_with(&r, 8, try_to_go_on, &words);
	words.other = rig_prepare(&r, 0, &told);
	rig_close(&r);
	assert_int_equal(words.calls, 1);
	assert_int_equal(words.prepare_rc, -ENOSPC);
	assert_int_equal(words.send_rc, -ESHUTDOWN);
	assert_int_equal(told.calls, 1);
}

struct attempt {
	struct virtq_transfers *set;
	int stage_rc, publish_rc;
};

static void try_to_stage(void *arg, const struct virtq_piece *pieces, unsigned int readable,
			 unsigned int writable, int status)
{
	struct virtq_piece mine[2] = { pieces[0], pieces[1] };
	struct attempt *attempt = arg;
	struct virtq_transfer *t;

	(void)status;
	assert_int_equal(virtq_transfer_prepare(attempt->set, &t, mine, readable, writable, NULL,
						NULL), 0);
	attempt->stage_rc = virtq_transfer_stage(attempt->set, &t, 1);
	attempt->publish_rc = virtq_transfers_publish(attempt->set);
}

/* In a release function: as ever; while the set is reset, not before it is over. */
static void staged_in_a_release_function(void **state)
{
	for (unsigned int reset = 0; reset < 2; reset++) {
		struct attempt attempt = { 0 };
		struct virtq_transfer *t;
		struct rig r;

		rig_open(&r, *state, &usual);
		attempt.set = r.set;
		t = rig_prepare_with(&r, 0, try_to_stage, &attempt);
		assert_int_equal(virtq_transfer_stage(r.set, &t, 1), 1);
		virtq_transfer_abandon(t);
		if (reset) {
			assert_int_equal(rig_reset(&r), 1);
		} else {
			assert_int_equal(virtq_transfers_publish(r.set), 0);
			assert_int_equal(rig_serve(&r, 2, NULL, 1, 1), 1);
			assert_int_equal(virtq_transfers_poll(r.set, &t, 1, NULL), 0);
		}
		assert_int_equal(attempt.stage_rc, reset ? -ESHUTDOWN : 1);
		assert_int_equal(attempt.publish_rc, reset ? -ESHUTDOWN : 0);
		assert_int_equal(rig_serve(&r, 2, NULL, 1, 1), !reset);
		rig_close(&r);
	}
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(release_prepares_and_sends), EACH(release_ends_another),
		EACH(found_in_a_release_is_due),
		EACH(found_in_a_release_is_not_slept_over), EACH(nothing_sent_while_it_is_reset),
		EACH(nothing_new_while_it_ends), EACH(staged_in_a_release_function),
	};

	return rig_run("release functions", each, sizeof(each) / sizeof(each[0]), NULL, 0);
}
