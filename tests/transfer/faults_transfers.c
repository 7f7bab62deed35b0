/* SPDX-License-Identifier: MIT */
/* The faults of faults.c that are about transfers. */
#include "far_end.h"

#include <virtq/transfer.h>

/* ---- Transfers ----------------------------------------------------------------------------- */

#define ARENA 65536u

struct set_rig {
	struct virtq_port *port;
	struct virtq_transfers *set;
	struct far_end far;
	uint8_t *arena;
	unsigned int released;
	int status;
};

static void set_open(struct set_rig *r, struct layout layout)
{
	struct virtq_port_config port = { .features = layout_features(layout), .size = 8,
					  .indirect_entries = 2 };
	struct virtq_transfers_config config = { .transfers_max = 16, .pieces_max = 4 };
	struct virtq_region region = { .size_bytes = ARENA, .fd = -1, .access = VIRTQ_ACCESS_RW };
	struct virtq_error err;

	memset(r, 0, sizeof(*r));
	r->arena = calloc(1, ARENA);
	assert_non_null(r->arena);
	region.gpa = (uintptr_t)r->arena;
	region.host = r->arena;
	if (virtq_port_create(&r->port, &port, &err))
		fail_msg("%s", err.text);
	far_open(&r->far, r->port, &region, 1, true);
	config.port = r->port;
	config.map = r->far.map;
	if (virtq_transfers_create(&r->set, &config, &err))
		fail_msg("%s", err.text);
}

static void set_close(struct set_rig *r)
{
	virtq_driver_stop(virtq_port_driver(r->port));
	virtq_transfers_destroy(r->set);
	far_close(&r->far);
	virtq_port_destroy(r->port);
	free(r->arena);
}

static void on_release(void *arg, const struct virtq_piece *pieces, unsigned int readable,
		       unsigned int writable, int status)
{
	struct set_rig *r = arg;

	assert_non_null(pieces[0].base);
	assert_int_equal(readable + writable, 2);
	r->released++;
	r->status = status;
}

/* One readable and one writable piece of the arena, its @i-th. */
static struct virtq_transfer *prepare(struct set_rig *r, unsigned int i)
{
	uint8_t *at = r->arena + (size_t)i * 200;
	struct virtq_piece pieces[] = { { at, 100, 0 }, { at + 100, 100, 0 } };
	struct virtq_transfer *t;

	memset(at, (int)i, 100);
	assert_int_equal(virtq_transfer_prepare(r->set, &t, pieces, 1, 1, on_release, r), 0);
	assert_null(pieces[0].base);
	return t;
}

static unsigned int set_serve(struct set_rig *r)
{
	struct virtq_req *reqs[16];
	int rc = virtq_device_pop(r->far.device, reqs, 16);

	assert_true(rc >= 0);
	for (int i = 0; i < rc; i++) {
		uint8_t bytes[100];

		assert_int_equal(virtq_req_read(reqs[i], bytes, 100), 100);
		assert_int_equal(virtq_req_write(reqs[i], bytes, 100), 100);
	}
	virtq_device_push(r->far.device, reqs, (unsigned int)rc);
	virtq_device_publish(r->far.device);
	return (unsigned int)rc;
}

#define EACH_SET(r) \
	for (unsigned int each_ = 0; each_ < LAYOUTS; each_++) \
		for (bool once_ = (set_open(r, layout_at(each_)), true); once_; \
		     once_ = false, set_close(r))

static void test_batch_of_transfers_all_come_back(void **state)
{
	struct set_rig r;

	(void)state;
	EACH_SET(&r) {
		struct virtq_transfer *t[4], *done[8];

		for (unsigned int i = 0; i < 4; i++)
			t[i] = prepare(&r, i + 1);
		assert_int_equal(virtq_transfer_send(r.set, t, 4), 4);
		assert_int_equal(set_serve(&r), 4);
		assert_int_equal(virtq_transfers_poll(r.set, done, 8, NULL), 4);
		for (unsigned int i = 0; i < 4; i++) {
			struct virtq_piece pieces[2];

			assert_ptr_equal(done[i], t[i]);
			assert_int_equal(virtq_transfer_id(t[i]), i + 1);
			assert_int_equal(virtq_transfer_finish(t[i], pieces, 2), 2);
			assert_int_equal(pieces[1].written, 100);
			assert_int_equal(*(uint8_t *)pieces[1].base, i + 1);
		}
		assert_int_equal(r.released, 0);
	}
}

static void test_full_ring_leaves_transfers_with_the_caller(void **state)
{
	struct set_rig r;

	(void)state;
	EACH_SET(&r) {
		unsigned int fit = layout_at(each_).indirect ? 8 : 4, n;
		struct virtq_transfer *t[10];
		int rc;

		for (unsigned int i = 0; i < 10; i++)
			t[i] = prepare(&r, i);
		rc = virtq_transfer_send(r.set, t, 10);
		/* Tables are for rings that are filling up, so some go without. */
		assert_in_range(rc, layout_at(each_).indirect ? 5 : 4, fit);
		n = (unsigned int)rc;
		assert_int_equal(virtq_transfer_send(r.set, t + n, 10 - n), -ENOSPC);
		for (unsigned int i = n; i < 10; i++) {
			assert_int_equal(virtq_transfer_check(t[i]), 1);
			assert_int_equal(virtq_transfer_id(t[i]), 0);
			assert_non_null(virtq_transfer_pieces(t[i], NULL, NULL));
		}
		set_serve(&r);
		assert_int_equal(virtq_transfers_poll(r.set, (struct virtq_transfer *[16]){ NULL },
						      16, NULL), n);
		/* They go when there is room. */
		for (unsigned int i = 0; i < n; i++)
			virtq_transfer_abandon(t[i]);
		assert_true(virtq_transfer_send(r.set, t + n, 10 - n) >= 1);
	}
}

static void test_failed_prepare_leaves_the_pieces(void **state)
{
	struct set_rig r;

	(void)state;
	EACH_SET(&r) {
		struct virtq_piece pieces[5];
		struct virtq_transfer *t;

		for (unsigned int i = 0; i < 5; i++)
			pieces[i] = (struct virtq_piece){ r.arena + i * 10, 10, 0 };
		assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 3, 2, on_release, &r),
				 -EMSGSIZE);
		pieces[3].len = 0;
		assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 2, 2, on_release, &r),
				 -EINVAL);
		for (unsigned int i = 0; i < 5; i++)
			assert_ptr_equal(pieces[i].base, r.arena + i * 10);
		assert_int_equal(r.released, 0);
	}
	assert_int_equal(r.released, 0);
}

static void test_abandoned_memory_is_kept_until_the_device_is_done(void **state)
{
	struct set_rig r;

	(void)state;
	EACH_SET(&r) {
		struct virtq_transfer *t = prepare(&r, 7), *done[4];

		assert_int_equal(virtq_transfer_send(r.set, &t, 1), 1);
		virtq_transfer_abandon(t);
		assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), 0);
		assert_int_equal(r.released, 0);
		assert_int_equal(set_serve(&r), 1);
		assert_int_equal(virtq_transfers_poll(r.set, done, 4, NULL), 0);
		assert_int_equal(r.released, 1);
		assert_int_equal(r.status, 0);
	}
	/* And not again at the end. */
	assert_int_equal(r.released, 1);
}

static void test_forgotten_transfers_end_with_the_set(void **state)
{
	struct set_rig r;

	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		struct virtq_transfer *t[3];

		set_open(&r, layout_at(i));
		for (unsigned int k = 0; k < 3; k++)
			t[k] = prepare(&r, k);
		assert_int_equal(virtq_transfer_send(r.set, t, 2), 2);
		set_close(&r);
		assert_int_equal(r.released, 3);
	}
}

static void test_transfers_are_not_copied(void **state)
{
	struct set_rig r;

	(void)state;
	EACH_SET(&r) {
		struct virtq_transfer *t = prepare(&r, 5);
		struct virtq_req *req;

		assert_int_equal(virtq_transfer_send(r.set, &t, 1), 1);
		assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
		assert_ptr_equal(req->rd.spans[0].base, r.arena + 1000);
		assert_ptr_equal(req->wr.spans[0].base, r.arena + 1100);
		virtq_device_push(r.far.device, &req, 1);
		virtq_device_publish(r.far.device);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_batch_of_transfers_all_come_back),
		cmocka_unit_test(test_full_ring_leaves_transfers_with_the_caller),
		cmocka_unit_test(test_failed_prepare_leaves_the_pieces),
		cmocka_unit_test(test_abandoned_memory_is_kept_until_the_device_is_done),
		cmocka_unit_test(test_forgotten_transfers_end_with_the_set),
		cmocka_unit_test(test_transfers_are_not_copied),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
