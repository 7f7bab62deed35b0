/* SPDX-License-Identifier: MIT */
/*
 * Buffers that keep their ring entries: shown again as they were written, or
 * let go, and never both.
 */
#include "rig.h"

#include <stdlib.h>
#include <sys/mman.h>

#define CHAIN_ELEMS 3u

static void open_keeping(struct rig *r, const struct shape *shape)
{
	struct shape keeping = *shape;

	keeping.keep = true;
	rig_open(r, &keeping, RIG_BOTH);
}

static bool keeps(const struct shape *shape)
{
	return !shape->in_order;
}

/* Elements of a chain that is kept: in a packed ring, one or a table. */
static uint32_t elems(const struct shape *shape)
{
	return shape->packed && !shape->indirect ? 1 : CHAIN_ELEMS;
}

/* Ring entries of a chain of @count elements. */
static uint32_t entries(const struct shape *shape, uint32_t count)
{
	return shape->indirect && count > 1 ? 1 : count;
}

/* One chain, the first element readable, the others writable. */
static void add_chain(struct rig *r, uint32_t count, uintptr_t token)
{
	struct virtq_seg segs[CHAIN_ELEMS];
	struct virtq_buffer buf = { segs, 1, (uint16_t)(count - 1), token_of(token) };
	uint8_t mark[4];

	for (uint32_t i = 0; i < count; i++)
		segs[i] = (struct virtq_seg){ (i ? RIG_WRITABLE_GPA : RIG_DATA_GPA) +
					      token * 64 + i * 8, 4 + i };
	put32(mark, (uint32_t)token);
	rig_poke(r, segs[0].addr, mark, sizeof(mark));
	assert_int_equal(virtq_driver_add(r->driver, &buf, 1), 1);
}

/* The device finds the chain of add_chain() and uses it. */
static void use_chain(struct rig *r, uint32_t count, uintptr_t token)
{
	struct virtq_req *req;
	uint8_t mark[8];

	assert_int_equal(virtq_device_pop(r->device, &req, 1), 1);
	assert_int_equal(virtq_req_read(req, mark, sizeof(mark)), 4);
	assert_int_equal(get32(mark), token);
	if (count == CHAIN_ELEMS)
		assert_int_equal(virtq_req_write(req, "0123456789ab", 7), 7);
	virtq_device_push(r->device, &req, 1);
	virtq_device_publish(r->device);
}

/* The chains of add_chain() from @token on are shown, used, and taken back, @n of them. */
static void go_round(struct rig *r, uint32_t count, uintptr_t token, uint32_t n,
		     struct virtq_completion *done)
{
	virtq_driver_publish(r->driver);
	for (uint32_t i = 0; i < n; i++)
		use_chain(r, count, token + i);
	assert_int_equal(virtq_driver_get(r->driver, done, n), n);
}

/* Rings that are in order free as ever. */
static void test_which_layouts(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done = { .id = 0 };
	struct rig r;

	open_keeping(&r, shape);
	assert_int_equal(virtq_driver_keeps(r.driver), keeps(shape));
	rig_send(&r, 1);
	rig_serve(&r, 1);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	assert_int_equal(virtq_driver_room(r.driver), shape->size - keeps(shape));
	assert_int_equal(virtq_driver_in_flight(r.driver), 0);
	if (!keeps(shape)) {
		assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EINVAL);
		assert_int_equal(virtq_driver_free(r.driver, &done.id, 1), -EINVAL);
	}
	rig_close(&r);

	/* And nobody keeps who did not ask for it. */
	rig_open(&r, shape, RIG_BOTH);
	assert_int_equal(virtq_driver_keeps(r.driver), 0);
	rig_send(&r, 1);
	rig_serve(&r, 1);
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
	assert_int_equal(virtq_driver_room(r.driver), shape->size);
	assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EINVAL);
	assert_int_equal(virtq_driver_free(r.driver, &done.id, 1), -EINVAL);
	rig_close(&r);
}

/*
 * In a split ring the descriptors are not written when a chain is shown again, and in no
 * ring the table is; the device finds it whole.
 */
static void test_again(void **state)
{
	const struct shape *shape = *state;
	uint32_t rounds = 70000;	/* beyond what an index counts */
	uint32_t count = elems(shape), room = shape->size - entries(shape, count);
	struct virtq_completion done;
	struct rig r;

	open_keeping(&r, shape);
	add_chain(&r, count, 7);
	for (uint32_t i = 0; i < rounds; i++) {
		if (i == 1) {	/* from here on a store to it is a fault */
			piece_protect(&r.table, PROT_READ, PROT_READ);
			if (!shape->packed)
				piece_protect(&r.desc, PROT_READ, PROT_READ);
		}
		assert_int_equal(virtq_driver_in_flight(r.driver), 1);
		go_round(&r, count, 7, 1, &done);
		assert_int_equal(done.written, count == CHAIN_ELEMS ? 7 : 0);
		assert_int_equal(virtq_driver_in_flight(r.driver), 0);
		assert_int_equal(virtq_driver_room(r.driver), room);
		done.token = token_of(i);
		assert_int_equal(virtq_driver_again(r.driver, &done, 1), 1);
		assert_int_equal(virtq_driver_room(r.driver), room);
	}
	go_round(&r, count, 7, 1, &done);
	assert_int_equal(token_value(done.token), rounds - 1);
	rig_close(&r);
}

/* Readable and writable buffers of one element come again as what they were. */
static void test_both_directions(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done[4];
	struct virtq_req *req;
	struct rig r;

	open_keeping(&r, shape);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(rig_add(&r, (i & 1 ? RIG_WRITABLE_GPA : RIG_DATA_GPA) + i * 64,
					 10 + i, i & 1, token_of(i)), 1);
	for (uint32_t turn = 0; turn < 3; turn++) {
		virtq_driver_publish(r.driver);
		for (uint32_t i = 0; i < 4; i++) {
			assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
			assert_int_equal(req->rd.bytes, i & 1 ? 0 : 10 + i);
			assert_int_equal(req->wr.bytes, i & 1 ? 10 + i : 0);
			virtq_req_wrote(req, req->wr.bytes);
			virtq_device_push(r.device, &req, 1);
		}
		virtq_device_publish(r.device);
		assert_int_equal(virtq_driver_get(r.driver, done, 4), 4);
		for (uint32_t i = 0; i < 4; i++)
			assert_int_equal(done[i].written, i & 1 ? 10 + i : 0);
		assert_int_equal(virtq_driver_again(r.driver, done, 4), 4);
	}
	rig_close(&r);
}

/* Whoever asked for a kick gets one also for what is shown again. */
static void test_kick(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct rig r;

	open_keeping(&r, shape);
	for (uint32_t i = 0; i < 2 * shape->size + 3; i++) {
		if (!i)
			assert_int_equal(rig_add(&r, RIG_DATA_GPA, 8, false, NULL), 1);
		assert_int_equal(virtq_device_arm(r.device), 0);
		assert_int_equal(virtq_driver_publish(r.driver), 1);
		rig_serve(&r, 1);
		assert_int_equal(virtq_driver_get(r.driver, &done, 1), 1);
		assert_int_equal(virtq_driver_again(r.driver, &done, 1), 1);
	}
	rig_close(&r);
}

/* In a packed ring a chain of several entries keeps none of them, and says so. */
static void test_several_entries(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct rig r;

	open_keeping(&r, shape);
	for (uint32_t i = 0; i < 3 * shape->size; i++) {
		add_chain(&r, CHAIN_ELEMS, 1);
		go_round(&r, CHAIN_ELEMS, 1, 1, &done);
		assert_int_equal(done.id, VIRTQ_NOT_KEPT);
		assert_int_equal(virtq_driver_room(r.driver), shape->size);
		assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EINVAL);
		assert_int_equal(virtq_driver_free(r.driver, &done.id, 1), -EINVAL);
		for (uint32_t id = 0; id < shape->size; id++)
			assert_int_equal(virtq_driver_free(r.driver, &id, 1), -EINVAL);
	}
	rig_close(&r);
}

/* A batch is shown again in the order asked for, as far as the ids are good. */
static void test_batch(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done[4], mixed[4];
	struct virtq_req *req;
	struct rig r;

	open_keeping(&r, shape);
	for (uintptr_t i = 0; i < 4; i++)
		add_chain(&r, 1, i);
	go_round(&r, 1, 0, 4, done);
	assert_int_equal(virtq_driver_again(r.driver, done, 0), 0);
	mixed[0] = done[2];
	mixed[1] = done[0];
	mixed[2] = done[2];	/* twice */
	mixed[3] = done[1];
	assert_int_equal(virtq_driver_again(r.driver, mixed, 4), 2);
	assert_int_equal(virtq_driver_in_flight(r.driver), 2);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), 0);
	virtq_driver_publish(r.driver);
	use_chain(&r, 1, 2);
	use_chain(&r, 1, 0);
	assert_int_equal(virtq_driver_get(r.driver, done, 4), 2);
	assert_int_equal(token_value(done[0].token), 2);
	assert_int_equal(token_value(done[1].token), 0);
	rig_close(&r);
}

static void test_wrong_ids(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion bad[] = { { .id = shape->size }, { .id = UINT32_MAX },
					  { .id = 0 } }, done;
	struct rig r;

	open_keeping(&r, shape);
	for (unsigned int i = 0; i < 3; i++) {	/* nothing is kept yet */
		assert_int_equal(virtq_driver_again(r.driver, &bad[i], 1), -EINVAL);
		assert_int_equal(virtq_driver_free(r.driver, &bad[i].id, 1), -EINVAL);
	}
	add_chain(&r, 1, 1);
	for (uint32_t id = 0; id < shape->size; id++)	/* nor while it is in flight */
		assert_int_equal(virtq_driver_free(r.driver, &id, 1), -EINVAL);
	go_round(&r, 1, 1, 1, &done);
	assert_int_equal(virtq_driver_free(r.driver, &done.id, 1), 1);
	assert_int_equal(virtq_driver_room(r.driver), shape->size);
	assert_int_equal(virtq_driver_free(r.driver, &done.id, 1), -EINVAL);
	assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EINVAL);
	assert_int_equal(virtq_driver_room(r.driver), shape->size);
	rig_close(&r);
}

/* What is let go is free for others, all of it, and the ring fills up as ever. */
static void test_let_go(void **state)
{
	const struct shape *shape = *state;
	uint32_t length = elems(shape), count = shape->size / entries(shape, length);
	struct virtq_completion *done = calloc(count, sizeof(*done));
	uint32_t *ids = calloc(count + 1, sizeof(*ids));
	struct virtq_buffer one = { &(struct virtq_seg){ RIG_DATA_GPA, 1 }, 1, 0, NULL };
	struct rig r;

	assert_true(done && ids);
	if (count > 1000)
		count = 1000;
	open_keeping(&r, shape);
	for (uint32_t turn = 0; turn < 3; turn++) {
		for (uint32_t i = 0; i < count; i++)
			add_chain(&r, length, i);
		go_round(&r, length, 0, count, done);
		for (uint32_t i = 0; i < count; i++)
			ids[i] = done[i * 7919 % count].id;
		ids[count] = ids[0];	/* twice: so far, and no further */
		assert_int_equal(virtq_driver_free(r.driver, ids, 0), 0);
		assert_int_equal(virtq_driver_free(r.driver, ids, 1), 1);
		assert_int_equal(virtq_driver_free(r.driver, ids + 1, count), count - 1);
		assert_int_equal(virtq_driver_room(r.driver), shape->size);
	}
	for (uint32_t i = 0; i < shape->size; i++)
		assert_int_equal(virtq_driver_add(r.driver, &one, 1), 1);
	assert_int_equal(virtq_driver_add(r.driver, &one, 1), -ENOSPC);
	free(done);
	free(ids);
	rig_close(&r);
}

/* What is kept is not with the device, whatever that says. */
static void test_device_uses_what_is_kept(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done;
	struct rig r;

	open_keeping(&r, shape);
	add_chain(&r, 1, 1);
	add_chain(&r, 1, 2);
	go_round(&r, 1, 1, 1, &done);
	if (shape->packed) {
		uint32_t slot = (shape->moved ? shape->start : 0) + 1;
		bool wrap = !shape->moved ^ (slot >= shape->size);
		uint8_t *desc = r.desc.device + 16 * (slot % shape->size);

		put16(desc + 12, (uint16_t)done.id);
		put16(desc + 14, wrap ? F_AVAIL | F_USED : 0);
	} else {
		uint32_t at = (shape->moved ? shape->start : 0) + 1;

		put32(r.device_area.device + 4 + 8 * (at % shape->size), done.id);
		put16(r.device_area.device + 2, (uint16_t)(at + 1));
	}
	assert_int_equal(virtq_driver_get(r.driver, &done, 1), -EBADMSG);
	assert_int_equal(virtq_driver_fault(r.driver).code, VIRTQ_FAULT_USED_ID);
	assert_int_equal(virtq_driver_again(r.driver, &done, 1), -EBADMSG);
	rig_close(&r);
}

/* A buffer shown again and taken back unpublished keeps nothing; detach gives only what is in flight. */
static void test_unadd_and_detach(void **state)
{
	const struct shape *shape = *state;
	struct virtq_completion done[3], back[3];
	uint32_t count = elems(shape), each = entries(shape, count);
	void *token;
	struct rig r;

	open_keeping(&r, shape);
	for (uintptr_t i = 0; i < 3; i++)
		add_chain(&r, count, i);
	go_round(&r, count, 0, 3, done);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 3), 0);
	assert_int_equal(virtq_driver_again(r.driver, done, 2), 2);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 1), 1);
	assert_int_equal(token_value(back[0].token), 1);
	assert_int_equal(virtq_driver_room(r.driver), shape->size - 2 * each);
	assert_int_equal(virtq_driver_again(r.driver, &done[1], 1), -EINVAL);
	assert_int_equal(virtq_driver_free(r.driver, &done[1].id, 1), -EINVAL);
	/* The other one is shown, and never comes back; the third is kept. */
	virtq_driver_publish(r.driver);
	virtq_driver_stop(r.driver);
	assert_int_equal(virtq_driver_detach(r.driver, &token), 1);
	assert_int_equal(token_value(token), 0);
	assert_int_equal(virtq_driver_detach(r.driver, &token), 0);
	assert_int_equal(virtq_driver_again(r.driver, &done[2], 1), -ESHUTDOWN);
	rig_close(&r);
}

/*
 * S-DRV-042, S-DRV-025: what is shown again and taken back unpublished is free, all of it
 * and once; what is still kept is not.
 */
static void test_unadd_frees(void **state)
{
	const struct shape *shape = *state;
	uint32_t each = entries(shape, CHAIN_ELEMS), slot;
	uint16_t at = (uint16_t)((shape->moved ? shape->start : 0) + 3);
	struct virtq_buffer one = { &(struct virtq_seg){ RIG_DATA_GPA, 1 }, 1, 0, NULL };
	bool *taken = calloc(shape->size, sizeof(*taken));
	struct virtq_completion done[3], back[3];
	struct rig r;

	assert_non_null(taken);
	open_keeping(&r, shape);
	for (uintptr_t i = 0; i < 3; i++)
		add_chain(&r, CHAIN_ELEMS, i);
	go_round(&r, CHAIN_ELEMS, 0, 3, done);
	assert_int_equal(virtq_driver_again(r.driver, done, 2), 2);
	assert_int_equal(virtq_driver_unadd(r.driver, back, 3), 2);
	slot = done[2].id;
	for (uint32_t i = 0; i < each; i++) {
		taken[slot] = true;
		slot = get16(split_desc(&r, slot) + 14);
	}
	for (uint32_t i = each; i < shape->size; i++) {
		assert_int_equal(virtq_driver_add(r.driver, &one, 1), 1);
		slot = get16(avail_ring(&r, at++));
		assert_true(slot < shape->size && !taken[slot]);
		taken[slot] = true;
	}
	assert_int_equal(virtq_driver_add(r.driver, &one, 1), -ENOSPC);
	free(taken);
	rig_close(&r);
}

/* Between chains that are kept others come and go, and the entries of no two overlap. */
static void test_among_others(void **state)
{
	const struct shape *shape = *state;
	uint32_t length = elems(shape);
	bool tight = shape->size < 2 * entries(shape, CHAIN_ELEMS);
	struct virtq_completion kept, done;
	struct rig r;

	open_keeping(&r, shape);
	add_chain(&r, length, 1);
	go_round(&r, length, 1, 1, &kept);
	for (uintptr_t i = 2; i < 200; i++) {
		uint32_t other = i & 1 || tight ? 1 : CHAIN_ELEMS;

		add_chain(&r, other, i);
		if (i % 3 == 0)
			assert_int_equal(virtq_driver_again(r.driver, &kept, 1), 1);
		go_round(&r, other, i, 1, &done);
		assert_int_equal(token_value(done.token), i);
		assert_int_equal(virtq_driver_free(r.driver, &done.id, 1),
				 done.id == VIRTQ_NOT_KEPT ? -EINVAL : 1);
		if (i % 3 == 0) {
			use_chain(&r, length, 1);
			assert_int_equal(virtq_driver_get(r.driver, &kept, 1), 1);
			assert_int_equal(token_value(kept.token), 1);
		}
	}
	rig_close(&r);
}

int main(void)
{
	struct matrix m = { 0 };

	matrix_add(&m, "which layouts", test_which_layouts, ALSO_IN_ORDER);
	matrix_add(&m, "again", test_again, AT_LEAST_5 | NOT_HUGE);
	matrix_add(&m, "both directions", test_both_directions, AT_LEAST_5);
	matrix_add(&m, "kick", test_kick, NOT_HUGE);
	matrix_add(&m, "several entries", test_several_entries,
		   ONLY_PACKED | ONLY_DIRECT | AT_LEAST_5 | NOT_HUGE);
	matrix_add(&m, "batch", test_batch, AT_LEAST_5);
	matrix_add(&m, "wrong ids", test_wrong_ids, 0);
	matrix_add(&m, "let go", test_let_go, AT_LEAST_256 | NOT_HUGE);
	matrix_add(&m, "device uses what is kept", test_device_uses_what_is_kept, AT_LEAST_2);
	matrix_add(&m, "unadd and detach", test_unadd_and_detach, AT_LEAST_256);
	matrix_add(&m, "S-DRV-042 unadd frees", test_unadd_frees, ONLY_SPLIT | AT_LEAST_256);
	matrix_add(&m, "among others", test_among_others, AT_LEAST_5 | NOT_HUGE);
	return matrix_run(&m, "kept ring entries");
}
