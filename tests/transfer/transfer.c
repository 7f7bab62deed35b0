/* SPDX-License-Identifier: MIT */
/* Transfers: prepared, sent, told, and taken back. How they end otherwise: transfer_life.c. */
#include "transfer_rig.h"

static const struct rig_shape usual;

/* ---- Pieces --------------------------------------------------------------- */

/* S-DRV-036: what was written is a prefix, so it fills the writable pieces in order. */
static void two_readable_two_writable(void **state)
{
	static const size_t lengths[] = { 0, 1, 5, 6, 7, 12, 13 };
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 7; i++) {
		struct virtq_piece pieces[4] = {
			rig_piece(&r, 0, 3), rig_piece(&r, 100, 4),
			rig_piece(&r, 200, 6), rig_piece(&r, 300, 7),
		};
		size_t wrote = lengths[i], first = wrote < 6 ? wrote : 6;
		unsigned int readable = 0, writable = 0;
		const struct virtq_piece *own;
		struct virtq_transfer *t;
		uint8_t got[8] = { 0 };

		memcpy(r.data, "abc", 3);
		memcpy(r.data + 100, "defg", 4);
		memset(r.data + 200, 0xee, 200);
		assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 2, 2, NULL, NULL), 0);
		for (unsigned int k = 0; k < 4; k++) {
			assert_null(pieces[k].base);
			assert_int_equal(pieces[k].len, 0);
			assert_int_equal(pieces[k].written, 0);
		}
		rig_send(&r, t);
		assert_int_equal(virtq_transfer_check(t), 0);
		assert_int_equal(rig_serve(&r, 8, got, wrote, 0x5a), 1);
		assert_string_equal((char *)got, "abcdefg");
		assert_int_equal(virtq_transfer_check(t), 1);
		assert_int_equal(virtq_transfer_status(t), 0);
		assert_int_equal(virtq_transfer_written(t), wrote);
		own = virtq_transfer_pieces(t, &readable, &writable);
		assert_int_equal(readable, 2);
		assert_int_equal(writable, 2);
		assert_ptr_equal(own[3].base, r.data + 300);
		assert_int_equal(own[3].written, wrote - first);
		assert_int_equal(virtq_transfer_finish(t, pieces, 4), 4);
		assert_ptr_equal(pieces[1].base, r.data + 100);
		assert_int_equal(pieces[1].len, 4);
		assert_int_equal(pieces[0].written + pieces[1].written, 0);
		assert_int_equal(pieces[2].written, first);
		assert_int_equal(pieces[3].written, wrote - first);
		for (size_t k = 0; k < 6; k++)
			assert_int_equal(r.data[200 + k], k < first ? 0x5a : 0xee);
		for (size_t k = 0; k < 7; k++)
			assert_int_equal(r.data[300 + k], k < wrote - first ? 0x5a : 0xee);
	}
	rig_close(&r);
}

/* The device has it, or somebody says that he knows. */
static void pieces_hidden_in_flight(void **state)
{
	unsigned int readable = 9, writable = 9;
	struct virtq_piece pieces[2];
	struct virtq_transfer *t;
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, NULL);
	assert_int_equal(virtq_transfer_id(t), 0);
	assert_ptr_equal(virtq_transfer_pieces(t, NULL, NULL)->base, r.data);
	for (unsigned int i = 0; i < 3; i++) {
		rig_send(&r, t);
		assert_null(virtq_transfer_pieces(t, &readable, &writable));
		assert_ptr_equal(virtq_transfer_pieces_unsafe(t, &readable, &writable)[1].base,
				 r.data + 64);
		assert_int_equal(readable, 1);
		assert_int_equal(writable, 1);
		/* Of an earlier sending nothing is told. */
		assert_int_equal(virtq_transfer_pieces_unsafe(t, NULL, NULL)[1].written, 0);
		assert_int_equal(virtq_transfer_written(t), 0);
		assert_int_equal(virtq_transfer_finish(t, pieces, 2), -EBUSY);
		assert_int_equal(virtq_transfer_send(r.set, &t, 1), -EBUSY);
		rig_serve(&r, 1, NULL, 9, 1);
		assert_int_equal(virtq_transfer_check(t), 1);
		assert_int_equal(virtq_transfer_pieces(t, NULL, NULL)[1].written, 9);
		assert_int_equal(virtq_transfer_finish(t, pieces, 1), -ENOSPC);
	}
	assert_int_equal(virtq_transfer_finish(t, pieces, 2), 2);
	rig_close(&r);
}

/* ---- Sending -------------------------------------------------------------- */

static void sent_again_with_new_content(void **state)
{
	struct virtq_transfer *t;
	struct rig r;

	rig_open(&r, *state, &usual);
	t = rig_prepare(&r, 0, NULL);
	/* More often than the ring has entries. */
	for (unsigned int i = 1; i <= 100; i++) {
		struct virtq_transfer *done[2];
		uint8_t got[64];

		memset(r.data, (int)i, 64);
		rig_send(&r, t);
		assert_int_equal(virtq_transfer_id(t), i);
		assert_int_equal(rig_serve(&r, 8, got, i % 65, (uint8_t)~i), 1);
		assert_memory_equal(got, r.data, 64);
		assert_int_equal(virtq_transfers_poll(r.set, done, 2, NULL), 1);
		assert_ptr_equal(done[0], t);
		assert_int_equal(virtq_transfer_written(t), i % 65);
		if (i % 65)
			assert_int_equal(r.data[64 + i % 65 - 1], (uint8_t)~i);
	}
	rig_close(&r);
}

/* Many, in one call, more than it takes in one gulp; told in the order of the device. */
static void batch_in_order(void **state)
{
	static const struct rig_shape shape = { .size = 256, .transfers_max = 100 };
	struct virtq_transfer *all[100], *done[100];
	uint8_t got[100 * 64];
	struct rig r;

	rig_open(&r, *state, &shape);
	for (unsigned int i = 0; i < 100; i++) {
		all[i] = rig_prepare(&r, i, NULL);
		memset(r.data + 128 * (size_t)i, (int)i, 64);
	}
	for (unsigned int round = 0; round < 3; round++) {
		assert_int_equal(virtq_transfer_send(r.set, all, 100), 100);
		assert_int_equal(rig_serve(&r, 200, got, 8, 1), 100);
		for (unsigned int i = 0; i < 100; i++)
			assert_int_equal(got[64 * i], i);
		/* Leftovers stay, also those that a check has taken out of the ring. */
		assert_int_equal(virtq_transfers_poll(r.set, done, 7, NULL), 7);
		assert_int_equal(virtq_transfer_check(all[50]), 1);
		assert_int_equal(virtq_transfers_poll(r.set, done + 7, 40, NULL), 40);
		assert_int_equal(virtq_transfers_poll(r.set, done + 47, 100 - 47, NULL), 53);
		assert_int_equal(virtq_transfers_poll(r.set, done, 1, NULL), 0);
		for (unsigned int i = 0; i < 100; i++) {
			assert_ptr_equal(done[i], all[i]);
			assert_int_equal(virtq_transfer_id(all[i]), 100 * round + i + 1);
		}
	}
	rig_close(&r);
}

/* One publication and one kick for all: the device's view of avail moves once. */
static void one_kick_for_a_batch(void **state)
{
	struct virtq_transfer *all[8];
	uint64_t kicks = 0;
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 4; i++)
		all[i] = rig_prepare(&r, i, NULL);
	assert_int_equal(virtq_device_arm(r.far.device), 0);
	assert_int_equal(virtq_transfer_send(r.set, all, 4), 4);
	assert_int_equal(read(virtq_port_kick_fd(r.port), &kicks, 8), 8);
	assert_int_equal(kicks, 1);
	assert_int_equal(rig_serve(&r, 8, NULL, 0, 0), 4);
	virtq_device_disarm(r.far.device);
	assert_int_equal(virtq_transfer_send(r.set, all, 0), 0);
	assert_false(fd_readable(virtq_port_kick_fd(r.port)));
	rig_close(&r);
}

static void partly_sent_when_full(void **state)
{
	static const struct rig_shape shape = { .size = 8, .pieces_max = 3, .transfers_max = 20 };
	struct virtq_transfer *all[20], *done[20];
	const struct virtq_piece *own;
	struct told told = { 0 };
	int sent, more;
	struct rig r;

	rig_open(&r, *state, &shape);
	for (unsigned int i = 0; i < 20; i++) {
		struct virtq_piece pieces[3] = { rig_piece(&r, 300 * i, 100),
			rig_piece(&r, 300 * i + 100, 100), rig_piece(&r, 300 * i + 200, 100) };

		assert_int_equal(virtq_transfer_prepare(r.set, &all[i], pieces, 2, 1,
							tell_release, &told), 0);
	}
	/* Directly three entries each, so two; in tables one each, at least when it gets tight. */
	sent = virtq_transfer_send(r.set, all, 20);
	assert_in_range(sent, 2, 8);
	assert_int_equal(virtq_transfer_send(r.set, all + sent, 20 - (unsigned int)sent), -ENOSPC);
	assert_int_equal(virtq_transfer_id(all[sent]), 0);
	own = virtq_transfer_pieces(all[sent], NULL, NULL);
	assert_ptr_equal(own[2].base, r.data + 300 * sent + 200);
	assert_int_equal(virtq_transfer_check(all[sent]), 1);
	assert_int_equal(rig_serve(&r, 1, NULL, 10, 1), 1);
	/* Nobody has asked yet, but there is room. */
	more = virtq_transfer_send(r.set, all + sent, 1);
	assert_int_equal(more, 1);
	assert_int_equal(virtq_transfer_id(all[sent]), sent + 1);
	assert_int_equal(virtq_transfers_poll(r.set, done, 20, NULL), 1);
	assert_ptr_equal(done[0], all[0]);
	assert_int_equal(told.calls, 0);
	/* In flight in the middle: what is in front of it goes. */
	rig_serve(&r, 20, NULL, 0, 0);
	assert_int_equal(virtq_transfers_poll(r.set, done, 20, NULL), sent);
	rig_send(&r, all[1]);
	assert_int_equal(virtq_transfer_send(r.set, all, 2), 1);
	assert_int_equal(virtq_transfer_check(all[0]), 0);
	rig_serve(&r, 20, NULL, 0, 0);
	assert_int_equal(virtq_transfers_poll(r.set, done, 20, NULL), 2);
	/* Twice in one call: the second one is in flight. */
	all[1] = all[0];
	assert_int_equal(virtq_transfer_send(r.set, all, 2), 1);
	rig_serve(&r, 20, NULL, 0, 0);
	assert_int_equal(virtq_transfers_poll(r.set, done, 20, NULL), 1);
	rig_close(&r);
	assert_int_equal(told.calls, 20);
}

/* Entries that a transfer keeps are not missing to another. */
static void kept_entries_make_room(void **state)
{
	static const struct rig_shape shape = { .size = 4, .transfers_max = 9 };
	struct virtq_transfer *all[9], *done[9];
	struct rig r;

	rig_open(&r, *state, &shape);
	for (unsigned int i = 0; i < 9; i++)
		all[i] = rig_prepare(&r, i, NULL);
	for (unsigned int round = 0; round < 50; round++) {
		uint8_t got[64];
		unsigned int i = round * 5 % 9;

		r.data[128 * i] = (uint8_t)round;
		assert_int_equal(virtq_transfer_send(r.set, &all[i], 1), 1);
		assert_int_equal(rig_serve(&r, 9, got, 2, (uint8_t)round), 1);
		assert_int_equal(got[0], (uint8_t)round);
		assert_int_equal(virtq_transfers_poll(r.set, done, 9, NULL), 1);
		assert_ptr_equal(done[0], all[i]);
		assert_int_equal(r.data[128 * i + 64], (uint8_t)round);
	}
	/* Fresh ones and such as keep entries in one call, in the order asked for. */
	for (unsigned int round = 0; round < 50; round++) {
		struct virtq_transfer *two[2] = { all[round % 9], all[(round * 4 + 1) % 9] };
		uint8_t got[128] = { 0 };

		if (two[0] == two[1])
			continue;
		r.data[128 * (round % 9)] = 1;
		r.data[128 * ((round * 4 + 1) % 9)] = 2;
		assert_int_equal(virtq_transfer_send(r.set, two, 2), 2);
		assert_int_equal(rig_serve(&r, 9, got, 2, 0), 2);
		assert_int_equal(got[0], 1);
		assert_int_equal(got[64], 2);
		assert_int_equal(virtq_transfers_poll(r.set, done, 9, NULL), 2);
		assert_ptr_equal(done[0], two[0]);
		assert_ptr_equal(done[1], two[1]);
	}
	rig_close(&r);
}

/* ---- Coming back ---------------------------------------------------------- */

/* The device returns them the other way round, unless it has promised not to. */
/* As many as the caller has room for, whatever comes in one piece from the ring. */
static void many_told_at_once(void **state)
{
	enum { MANY = 70 };
	static const struct rig_shape large = { .size = 256, .transfers_max = MANY + 2 };
	struct virtq_transfer *all[MANY], *done[MANY + 2];
	struct rig r;

	rig_open(&r, *state, &large);
	for (unsigned int i = 0; i < MANY; i++)
		all[i] = rig_prepare(&r, i, NULL);
	for (unsigned int round = 0; round < 2; round++) {
		assert_int_equal(virtq_transfer_send(r.set, all, MANY), MANY);
		assert_int_equal(rig_serve(&r, MANY, NULL, 1, 1), MANY);
		assert_int_equal(virtq_transfers_poll(r.set, done, MANY - 1, NULL), MANY - 1);
		assert_int_equal(virtq_transfers_poll(r.set, done + MANY - 1, 3, NULL), 1);
		for (unsigned int i = 0; i < MANY; i++)
			assert_ptr_equal(done[i], all[i]);
	}
	rig_close(&r);
}

static void told_as_the_device_returned_them(void **state)
{
	const struct setting *on = *state;
	struct virtq_transfer *all[6], *done[6];
	struct virtq_req *reqs[6];
	struct virtq_piece pieces[2];
	struct rig r;

	rig_open(&r, on, &usual);
	for (unsigned int i = 0; i < 6; i++)
		all[i] = rig_prepare(&r, i, NULL);
	assert_int_equal(virtq_transfer_send(r.set, all, 6), 6);
	assert_int_equal(virtq_device_pop(r.far.device, reqs, 6), 6);
	for (unsigned int i = 0; i < 6; i++) {
		virtq_device_push(r.far.device, &reqs[on->layout.in_order ? i : 5 - i], 1);
		virtq_device_publish(r.far.device);
	}
	if (!on->layout.in_order) {
		for (unsigned int i = 0; i < 3; i++) {
			struct virtq_transfer *t = all[i];

			all[i] = all[5 - i];
			all[5 - i] = t;
		}
	}
	/* Out of order, and finished, and sent again, and abandoned before it is told. */
	assert_int_equal(virtq_transfer_check(all[3]), 1);
	assert_int_equal(virtq_transfer_finish(all[3], pieces, 2), 2);
	assert_int_equal(virtq_transfer_check(all[1]), 1);
	rig_send(&r, all[1]);
	assert_int_equal(virtq_transfer_check(all[1]), 0);
	virtq_transfer_abandon(all[0]);
	assert_int_equal(virtq_transfers_poll(r.set, done, 6, NULL), 3);
	assert_ptr_equal(done[0], all[2]);
	assert_ptr_equal(done[1], all[4]);
	assert_ptr_equal(done[2], all[5]);
	rig_serve(&r, 1, NULL, 3, 3);
	assert_int_equal(virtq_transfers_poll(r.set, done, 6, NULL), 1);
	assert_ptr_equal(done[0], all[1]);
	assert_int_equal(virtq_transfer_id(all[1]), 7);
	rig_close(&r);
}

/* Ids never come again, not for the same memory, nor after a reset. */
static void ids_never_repeat(void **state)
{
	uint64_t last = 0;
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 300; i++) {
		struct virtq_piece pieces[2];
		struct virtq_transfer *t = rig_prepare(&r, i % 8, NULL);

		assert_int_equal(virtq_transfer_id(t), 0);
		rig_send(&r, t);
		assert_true(virtq_transfer_id(t) > last);
		last = virtq_transfer_id(t);
		if (i % 50 == 49)
			assert_int_equal(rig_reset(&r), 1);
		else
			rig_serve(&r, 1, NULL, 0, 0);
		assert_int_equal(virtq_transfer_check(t), 1);
		assert_int_equal(virtq_transfer_id(t), last);
		assert_int_equal(virtq_transfer_finish(t, pieces, 2), 2);
	}
	assert_int_equal(last, 300);
	rig_close(&r);
}

/* ---- What is refused ------------------------------------------------------ */

static void assert_untouched(const struct virtq_piece *is, const struct virtq_piece *was,
			     unsigned int count)
{
	assert_memory_equal(is, was, count * sizeof(*is));
}

static void refused_prepare_returns_everything(void **state)
{
	static const struct rig_shape shape = { .transfers_max = 1, .pieces_max = 4,
						.ring_segs_max = 3 };
	struct virtq_piece was[5], pieces[5];
	struct virtq_transfer *t = NULL;
	static uint8_t elsewhere[8];
	struct rig r;

	rig_open(&r, *state, &shape);
	for (unsigned int i = 0; i < 5; i++)
		was[i] = rig_piece(&r, 64 * i, 64);
	memcpy(pieces, was, sizeof(was));
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 5, 0, NULL, NULL), -EMSGSIZE);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, UINT32_MAX, NULL, NULL),
			 -EMSGSIZE);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 2, 2, NULL, NULL), -EMSGSIZE);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 0, 0, NULL, NULL), -EINVAL);
	assert_untouched(pieces, was, 5);
	was[1].len = pieces[1].len = 0;
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 2, 1, NULL, NULL), -EINVAL);
#if SIZE_MAX > UINT32_MAX
	was[1].len = pieces[1].len = ((size_t)1 << 32) - 63;
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 2, 0, NULL, NULL), -EINVAL);
	was[1].len = pieces[1].len = SIZE_MAX;
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, NULL, NULL), -EINVAL);
#endif
	was[1] = pieces[1] = (struct virtq_piece){ elsewhere, 8, 0 };
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, NULL, NULL), -EFAULT);
	assert_int_equal(virtq_transfer_prepare_unchecked(r.set, &t, pieces, 1, 1, NULL, NULL),
			 -EFAULT);
	/* Its first byte is known to the device, its last is not. */
	was[1] = pieces[1] = rig_piece(&r, RIG_DATA_BYTES - 8, 9);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, NULL, NULL), -EFAULT);
	assert_untouched(pieces, was, 5);
	assert_null(t);
	/* After all that there still is the one that there was. */
	was[1] = pieces[1] = rig_piece(&r, 64, 64);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, NULL, NULL), 0);
	memcpy(pieces, was, sizeof(was));
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, NULL, NULL), -ENOSPC);
	assert_untouched(pieces, was, 5);
	rig_close(&r);
}

/* More elements than there is memory for, or than the whole ring could take. */
static void never_fits(void **state)
{
	static const struct rig_shape shape = { .size = 2, .pieces_max = 3 };
	struct virtq_piece pieces[3];
	struct virtq_transfer *t;
	struct rig r;

	rig_open(&r, *state, &shape);
	for (unsigned int i = 0; i < 3; i++)
		pieces[i] = rig_piece(&r, 64 * i, 64);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 2, 1, NULL, NULL), -EMSGSIZE);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, NULL, NULL), 0);
	rig_send(&r, t);
	rig_serve(&r, 1, NULL, 5, 5);
	assert_int_equal(virtq_transfer_check(t), 1);
	rig_close(&r);
}

/* UNTRUSTED: the device names what there is not; what it has stays with it. */
static void broken_ring_is_told(void **state)
{
	struct virtq_transfer *all[3], *done[3];
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 3; i++)
		all[i] = rig_prepare(&r, i, NULL);
	assert_int_equal(virtq_transfer_send(r.set, all, 2), 2);
	rig_serve(&r, 1, NULL, 4, 4);
	far_break(&r.far);
	assert_int_equal(virtq_transfers_poll(r.set, done, 3, NULL), 1);
	assert_ptr_equal(done[0], all[0]);
	assert_int_equal(virtq_transfers_poll(r.set, done, 3, NULL), -EBADMSG);
	assert_int_equal(virtq_transfer_check(all[0]), 1);
	assert_int_equal(virtq_transfer_check(all[1]), -EBADMSG);
	assert_int_equal(virtq_transfer_wait(all[1], &(struct virtq_wait){ .timeout_ms = -1 }),
			 -EBADMSG);
	assert_null(virtq_transfer_pieces(all[1], NULL, NULL));
	assert_int_equal(virtq_transfer_send(r.set, &all[2], 1), -EBADMSG);
	assert_int_equal(virtq_transfer_send(r.set, &all[0], 1), -EBADMSG);
	assert_int_equal(virtq_transfers_arm(r.set), -EBADMSG);
	assert_int_equal(virtq_transfer_id(all[2]), 0);
	/* As before: back, with what was written. */
	assert_int_equal(virtq_transfer_written(all[0]), 4);
	rig_close(&r);
}

static void impossible_sets(void **state)
{
	struct virtq_transfers_config good = { .transfers_max = 4, .pieces_max = 4 }, c;
	struct virtq_transfers *set = NULL;
	struct virtq_error err;
	struct rig r;
	struct setting on = { .keep = false };

	(void)state;
	rig_open(&r, &on, &usual);
	good.port = r.port;
	for (unsigned int i = 0; i < 9; i++) {
		c = good;
		switch (i) {
		case 0: c.port = NULL; break;
		case 1: c.driver = virtq_port_driver(r.port); break;
		case 2: c.transfers_max = 0; break;
		case 3: c.transfers_max = 65537; break;
		case 4: c.pieces_max = 0; break;
		case 5: c.pieces_max = 32769; break;
		case 6: c.segs_max = 3; break;
		case 7: c.segs_max = 32769; break;
		case 8:
			c.map = r.map;
			c.translate = (int64_t (*)(void *, const void *, size_t, uint64_t *))1;
			break;
		}
		memset(&err, 0, sizeof(err));
		assert_int_equal(virtq_transfers_create(&set, &c, &err), -EINVAL);
		assert_int_equal(err.code, -EINVAL);
		assert_true(strlen(err.text) > 20);
		if (i == 6)
			assert_string_equal(err.text, "3 elements are too few for 4 pieces");
		if (i == 7)
			assert_string_equal(err.text,
					    "no transfer has 32769 elements, but at most 32768");
		assert_int_equal(virtq_transfers_bytes(&c), 0);
	}
	assert_null(set);
	assert_int_equal(virtq_transfers_create(&set, &good, NULL), 0);
	virtq_transfers_destroy(set);
	virtq_transfers_destroy(NULL);
	rig_close(&r);
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(two_readable_two_writable), EACH(pieces_hidden_in_flight),
		EACH(sent_again_with_new_content), EACH(batch_in_order),
		EACH(one_kick_for_a_batch), EACH(partly_sent_when_full),
		EACH(kept_entries_make_room), EACH(many_told_at_once), EACH(told_as_the_device_returned_them),
		EACH(ids_never_repeat), EACH(refused_prepare_returns_everything),
		EACH(never_fits), EACH(broken_ring_is_told),
	};
	static const struct CMUnitTest single[] = { cmocka_unit_test(impossible_sets) };

	return rig_run("transfers", each, sizeof(each) / sizeof(each[0]), single, 1);
}
