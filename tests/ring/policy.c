/* SPDX-License-Identifier: MIT */
/*
 * Which chains go into an indirect table, which do not, and which are refused:
 * by length, by room, by what was negotiated and by what the caller allows.
 */
#include "rig.h"

#include <stdlib.h>

#define SEGS_MAX 1500u

struct policy {
	uint32_t table_entries, from, segs_max;
};

struct world {
	struct rig r;
	struct policy policy;
	uint32_t at;			/* where the next chain will stand: index or slot */
	uint64_t seed;
	struct virtq_seg segs[SEGS_MAX];
};

/* A driver with @policy; memory for tables is there whether they are negotiated or not. */
static void open_with(struct world *w, const struct shape *shape, struct policy policy)
{
	struct rig *r = &w->r;
	uint32_t position = shape_position(shape);

	memset(w, 0, sizeof(*w));
	rig_memory(r, shape);
	w->policy = policy;
	w->at = shape->moved ? shape->start : 0;
	for (uint32_t i = 0; i < SEGS_MAX; i++)
		w->segs[i] = (struct virtq_seg){ RIG_WRITABLE_GPA + 16 * i, 1 + i % 16 };
	r->driver_config.ring = r->driver_ring;
	r->driver_config.position = shape->moved ? &position : NULL;
	r->driver_config.indirect = r->table.driver;
	r->driver_config.indirect_addr = RIG_TABLE_GPA;
	r->driver_config.indirect_entries = policy.table_entries;
	r->driver_config.indirect_from = policy.from;
	r->driver_config.segs_max = policy.segs_max;
	assert_int_equal(virtq_driver_create(&r->driver, &r->driver_config, NULL), 0);
	r->driver_config.position = NULL;
	rig_make_device(r);
}

static int add(struct world *w, uint32_t count, uintptr_t token)
{
	struct virtq_buffer buf = { w->segs, 0, (uint16_t)count, token_of(token) };

	return virtq_driver_add(w->r.driver, &buf, 1);
}

static void take_back(struct world *w)
{
	struct virtq_completion back;

	assert_int_equal(virtq_driver_unadd(w->r.driver, &back, 1), 1);
}

/* The head descriptor of the chain added last, and its head or id. */
static const uint8_t *head_desc(struct world *w, uint32_t *head)
{
	const uint8_t *desc;

	if (!w->r.shape.packed) {
		*head = get16(avail_ring(&w->r, (uint16_t)w->at));
		return split_desc(&w->r, *head);
	}
	desc = w->r.desc.driver + 16 * (size_t)w->at;
	*head = get16(desc + 12);
	return desc;
}

/* What the header of the library says about a chain of @count with @room left. */
static int expected(const struct world *w, uint32_t room, uint32_t count, bool *table)
{
	const struct policy *p = &w->policy;
	uint32_t size = w->r.shape.size, from = p->from ? p->from : 4;
	/* No chain may be longer than the queue, be it in a table. */
	uint32_t longest = p->table_entries < size ? p->table_entries : size;

	*table = false;
	if (p->segs_max && count > p->segs_max)
		return -EMSGSIZE;
	if (w->r.shape.indirect && count > 1 && count <= longest) {
		bool scarce = 2 * room < size;

		*table = count >= from || scarce || count > room;
	}
	if (*table)
		return room ? 1 : -ENOSPC;
	if (count > size)
		return -EMSGSIZE;
	return count <= room ? 1 : -ENOSPC;
}

/* Add a chain of @count and see that it went where it should. Returns what add said. */
static int try(struct world *w, uint32_t count, uintptr_t token)
{
	uint32_t room = virtq_driver_room(w->r.driver), size = w->r.shape.size, head;
	uint32_t stride = w->policy.table_entries < size ? w->policy.table_entries : size;
	const uint8_t *desc;
	struct snapshot s;
	bool table;
	int rc = expected(w, room, count, &table);

	if (rc < 0) {
		s = snapshot_take(&w->r);
		assert_int_equal(add(w, count, token), rc);
		assert_int_equal(virtq_driver_room(w->r.driver), room);
		snapshot_same(&w->r, &s);
		return rc;
	}
	assert_int_equal(add(w, count, token), 1);
	assert_int_equal(virtq_driver_room(w->r.driver), room - (table ? 1 : count));
	desc = head_desc(w, &head);
	if (table) {
		assert_int_equal(get64(desc), RIG_TABLE_GPA + 16 * (uint64_t)stride * head);
		assert_int_equal(get32(desc + 8), 16 * count);
	} else {
		assert_int_equal(get64(desc), w->segs[0].addr);
		assert_int_equal(get32(desc + 8), w->segs[0].len);
	}
	return rc;
}

/* Publish the chain added last, and see it through to the end. */
static void pass_on(struct world *w, uint32_t count, uint32_t entries)
{
	struct virtq_req *req;

	virtq_driver_publish(w->r.driver);
	assert_int_equal(virtq_device_pop(w->r.device, &req, 1), 1);
	assert_int_equal(req->wr.count, count);
	for (uint32_t i = 0; i < count; i++)
		assert_ptr_equal(req->wr.spans[i].base, w->r.data[2].device + 16 * i);
	virtq_device_push(w->r.device, &req, 1);
	virtq_device_publish(w->r.device);
	rig_collect(&w->r, 1);
	w->at = w->r.shape.packed ? (w->at + entries) % w->r.shape.size : (w->at + 1) & 0xffff;
}

/* ---- By length and room ------------------------------------------------------ */

/*
 * S-DRV-015, P-DRV-018: in an empty ring chains of four and more go into a table,
 * and up to as many as one holds; shorter and longer ones lie in the ring; without
 * the feature all do.
 */
static void test_by_length(void **state)
{
	const struct shape *shape = *state;
	struct world w;

	open_with(&w, shape, (struct policy){ .table_entries = 8 });
	for (uint32_t round = 0; round < 3; round++)
		for (uint32_t count = 1; count <= 12; count++) {
			bool table = shape->indirect && count >= 4 && count <= 8;

			assert_int_equal(try(&w, count, 0), 1);
			assert_int_equal(virtq_driver_room(w.r.driver),
					 shape->size - (table ? 1 : count));
			pass_on(&w, count, table ? 1 : count);
		}
	rig_close(&w.r);
}

/* With any room left, from all to none, chains of any length, under @policy. */
static void all_rooms(const struct shape *shape, struct policy policy)
{
	uint32_t size = shape->size;
	struct world w;

	open_with(&w, shape, policy);
	for (uint32_t room = size + 1; room-- > 0;) {
		assert_int_equal(virtq_driver_room(w.r.driver), room);
		for (uint32_t count = 1; count <= 12; count++)
			if (try(&w, count, 0) > 0)
				take_back(&w);
		assert_int_equal(add(&w, 1, 1), room ? 1 : -ENOSPC);
		w.at = shape->packed ? (w.at + 1) % size : (w.at + 1) & 0xffff;
	}
	rig_close(&w.r);
}

/*
 * S-DRV-014, S-DRV-024, P-DRV-015, P-DRV-017, P-DRV-022: with all the room there can
 * be left: less than half, just fitting, one too few, none. Table, ring or refusal
 * are what they should be, and a refusal leaves everything as it was.
 */
static void test_by_room(void **state)
{
	static const uint32_t entries[] = { 1, 2, 8, 64 }, from[] = { 0, 1, 3, 8, 100 };
	const struct shape *shape = *state;

	/* In a large ring tables of 64 would take more memory than the rig has for them. */
	for (uint32_t i = 0; i < (shape->size > 8 ? 3 : 4); i++)
		for (uint32_t k = 0; k < 5; k++)
			all_rooms(shape, (struct policy){ entries[i], from[k], 0 });
}

/* The same words of the header in numbers: a ring of eight, or of five. */
static void test_half_of_the_ring(void **state)
{
	/* Ring entries that a chain of two takes with that much room left. */
	static const uint8_t of_eight[] = { 0, 1, 1, 1, 2, 2, 2, 2, 2 };
	static const uint8_t of_five[] = { 0, 1, 1, 2, 2, 2 };
	const struct shape *shape = *state;
	const uint8_t *takes = shape->size == 8 ? of_eight : of_five;
	struct world w;

	open_with(&w, shape, (struct policy){ .table_entries = 8 });
	for (uint32_t room = shape->size; room; room--) {
		assert_int_equal(virtq_driver_room(w.r.driver), room);
		assert_int_equal(add(&w, 2, 0), 1);
		assert_int_equal(virtq_driver_room(w.r.driver), room - takes[room]);
		take_back(&w);
		assert_int_equal(add(&w, 1, 0), 1);
	}
	assert_int_equal(add(&w, 2, 0), -ENOSPC);
	rig_close(&w.r);
}

/* ---- Limits -------------------------------------------------------------------- */

/*
 * S-DRV-011, P-DRV-015, P-DRV-022: longer than the caller allows is refused, as the
 * standard's example with 1500 elements and 128 allowed, even where ring or table
 * would hold it; just as long is taken; those in front of it in one call are added.
 */
static void test_segs_max(void **state)
{
	static const uint32_t limits[] = { 1, 2, 4, 5, 8, 128 };
	const struct shape *shape = *state;

	for (uint32_t i = 0; i < 6; i++) {
		uint32_t limit = limits[i], room;
		struct virtq_buffer bufs[3];
		struct snapshot s;
		struct world w;

		open_with(&w, shape, (struct policy){ 8, 0, limit });
		assert_int_equal(try(&w, limit, 0), 1);
		take_back(&w);
		s = snapshot_take(&w.r);
		assert_int_equal(add(&w, limit + 1, 0), -EMSGSIZE);
		assert_int_equal(add(&w, SEGS_MAX, 0), -EMSGSIZE);
		assert_int_equal(virtq_driver_room(w.r.driver), shape->size);
		assert_int_equal(virtq_driver_in_flight(w.r.driver), 0);
		snapshot_same(&w.r, &s);

		for (uint32_t k = 0; k < 3; k++)
			bufs[k] = (struct virtq_buffer){ w.segs, 0, 1, token_of(k) };
		/* Readable ones count, too. */
		bufs[1].readable = (uint16_t)limit;
		assert_int_equal(virtq_driver_add(w.r.driver, bufs, 3), 1);
		room = virtq_driver_room(w.r.driver);
		assert_int_equal(room, shape->size - 1);
		assert_int_equal(virtq_driver_add(w.r.driver, bufs + 1, 2), -EMSGSIZE);
		assert_int_equal(virtq_driver_add(w.r.driver, bufs + 2, 1), 1);

		/* It can never fit, so this is said of a full ring also. */
		while (virtq_driver_room(w.r.driver))
			assert_int_equal(add(&w, 1, 0), 1);
		assert_int_equal(add(&w, limit + 1, 0), -EMSGSIZE);
		assert_int_equal(add(&w, limit, 0), -ENOSPC);
		rig_close(&w.r);
	}
}

/* With no limit of the caller's the ring is one. */
static void test_without_segs_max(void **state)
{
	const struct shape *shape = *state;
	struct world w;

	open_with(&w, shape, (struct policy){ .table_entries = 8 });
	assert_int_equal(add(&w, SEGS_MAX, 0), shape->size >= SEGS_MAX ? 1 : -EMSGSIZE);
	rig_close(&w.r);
}

/*
 * S-DRV-014, P-DRV-015: a ring of four and tables of five or of sixty-four: a chain of
 * five is refused, one of four is not, and tables lie no farther apart than needed:
 * behind the memory for them is none.
 */
static void test_never_longer_than_the_ring(void **state)
{
	static const uint32_t entries[] = { 5, 8, 64, 32768 };
	const struct shape *shape = *state;

	for (uint32_t i = 0; i < 4; i++) {
		struct world w;

		open_with(&w, shape, (struct policy){ entries[i], 2, 0 });
		for (uint32_t count = 5; count <= 70; count++)
			assert_int_equal(try(&w, count, 0), -EMSGSIZE);
		for (uint32_t k = 0; k < 4; k++) {
			assert_int_equal(try(&w, 4, k), 1);
			w.at = (w.at + 1) & (shape->packed ? 3 : 0xffff);
		}
		assert_int_equal(try(&w, 4, 0), -ENOSPC);
		assert_int_equal(try(&w, 5, 0), -EMSGSIZE);
		rig_close(&w.r);
	}
}

/* ---- Whose table ------------------------------------------------------------------ */

/*
 * S-DRV-025, P-DRV-040: each table goes with a head or id, so that no two chains in
 * flight share one: whatever the order of completions, what the device reads at the
 * end, long after it was published, is what was added.
 */
static void test_table_of_the_head(void **state)
{
	const struct shape *shape = *state;
	uint32_t size = shape->size, fill[256];
	struct virtq_req *loans[256];
	uint8_t taken[256] = { 0 };
	struct world w;

	open_with(&w, shape, (struct policy){ 8, 2, 0 });
	for (uint32_t i = 0; i < size; i++)
		fill[i] = i;
	for (uint32_t round = 0, count = size; round < 8; round++) {
		/* Buffers with tokens fill[0..count) go in, each of elements of its own. */
		for (uint32_t i = 0; i < count; i++) {
			uint32_t head, elems = 2 + fill[i] % (size < 8 ? size - 1 : 7);
			struct virtq_buffer buf = { w.segs + fill[i], 0, (uint16_t)elems,
						    token_of(fill[i]) };

			assert_int_equal(virtq_driver_add(w.r.driver, &buf, 1), 1);
			assert_true(get64(head_desc(&w, &head)) >= RIG_TABLE_GPA);
			assert_int_equal(taken[head], 0);
			taken[head] = 1;
			w.at = shape->packed ? (w.at + 1) % size : (w.at + 1) & 0xffff;
		}
		assert_int_equal(virtq_driver_room(w.r.driver), 0);
		virtq_driver_publish(w.r.driver);
		assert_int_equal(virtq_device_pop(w.r.device, loans + size - count, count), count);
		/* By the tables in memory, as they are now, of all that is in flight. */
		for (uint32_t i = 0; i < size; i++) {
			const uint8_t *table = w.r.table.driver +
					       16 * (size_t)(size < 8 ? size : 8) * loans[i]->id;

			for (uint32_t k = 0; k < loans[i]->wr.count; k++) {
				const struct virtq_span *span = &loans[i]->wr.spans[k];
				uint64_t off = (uint64_t)((uint8_t *)span->base -
							  w.r.data[2].device);

				assert_int_equal(get64(table + 16 * k), RIG_WRITABLE_GPA + off);
				assert_int_equal(get32(table + 16 * k + 8), span->len);
			}
		}
		/* Some go back, at random; in order, the oldest. */
		count = 1 + (round * 7) % size;
		for (uint32_t i = 0; i < count; i++) {
			uint32_t one = shape->in_order ? 0 : (round * 31 + i * 17) % (size - i);

			taken[loans[one]->id] = 0;
			virtq_device_push(w.r.device, &loans[one], 1);
			memmove(loans + one, loans + one + 1,
				(size - i - 1 - one) * sizeof(loans[0]));
		}
		virtq_device_publish(w.r.device);
		for (uint32_t i = 0; i < count; i++) {
			struct virtq_completion done;

			assert_int_equal(virtq_driver_get(w.r.driver, &done, 1), 1);
			fill[i] = (uint32_t)token_value(done.token);
		}
	}
	rig_close(&w.r);
}

/*
 * Tables in the midst of the data: an element and, in the same region, tables behind
 * each other. The device end, which has just found data there, takes none of them
 * for data.
 */
static void test_tables_beside_data(void **state)
{
	const struct shape *shape = *state;
	const struct virtq_seg data = { RIG_DATA_GPA + 64, 32 };
	uint32_t position = shape_position(shape);
	struct rig r;

	memset(&r, 0, sizeof(r));
	rig_memory(&r, shape);
	r.driver_config.ring = r.driver_ring;
	r.driver_config.position = shape->moved ? &position : NULL;
	r.driver_config.indirect = r.data[0].driver + 4096;
	r.driver_config.indirect_addr = RIG_DATA_GPA + 4096;
	r.driver_config.indirect_entries = 2;
	r.driver_config.indirect_from = 2;
	assert_int_equal(virtq_driver_create(&r.driver, &r.driver_config, NULL), 0);
	rig_make_device(&r);
	for (uint32_t round = 0; round < 2 * shape->size + 2; round++) {
		struct virtq_seg two[2] = { { RIG_DATA_GPA + 256, 9 }, { RIG_DATA_GPA + 512, 7 } };
		struct virtq_buffer bufs[] = {
			{ &data, 1, 0, token_of(0) }, { two, 2, 0, token_of(1) },
		};
		struct virtq_req *reqs[2];

		for (uint32_t i = 0; i < 2; i++) {
			assert_int_equal(virtq_driver_add(r.driver, &bufs[i], 1), 1);
			/* Both in one pop, or each alone. */
			if (round % 2 && i == 0)
				continue;
			virtq_driver_publish(r.driver);
			assert_int_equal(virtq_device_pop(r.device, reqs + (i && !(round % 2)), 2),
					 round % 2 ? 2 : 1);
		}
		assert_int_equal(reqs[0]->rd.count, 1);
		assert_int_equal(reqs[0]->rd.bytes, 32);
		assert_int_equal(reqs[1]->rd.count, 2);
		assert_ptr_equal(reqs[1]->rd.spans[0].base, r.data[0].device + 256);
		assert_ptr_equal(reqs[1]->rd.spans[1].base, r.data[0].device + 512);
		assert_int_equal(reqs[1]->rd.bytes, 16);
		virtq_device_push(r.device, reqs, 2);
		virtq_device_publish(r.device);
		rig_collect(&r, 2);
	}
	rig_close(&r);
}

int main(void)
{
	const unsigned int all = ALSO_IN_ORDER;
	struct shape four[] = {
		{ .size = 4, .indirect = true, .name = "split 4" },
		{ .size = 4, .indirect = true, .in_order = true, .name = "split 4 in order" },
		{ .size = 4, .indirect = true, .packed = true, .name = "packed 4" },
		{ .size = 4, .indirect = true, .packed = true, .in_order = true,
		  .name = "packed 4 in order" },
	};
	struct shape half[] = {
		{ .size = 8, .indirect = true, .name = "split 8" },
		{ .size = 8, .indirect = true, .in_order = true, .name = "split 8 in order" },
		{ .size = 8, .indirect = true, .packed = true, .name = "packed 8" },
		{ .size = 5, .indirect = true, .packed = true, .name = "packed 5" },
		{ .size = 5, .indirect = true, .packed = true, .in_order = true,
		  .name = "packed 5 in order" },
	};
	struct matrix m = { 0 };

	matrix_add(&m, "S-DRV-015 P-DRV-018 by length", test_by_length,
		   all | AT_LEAST_256 | ONLY_NO_EVENT);
	matrix_add(&m, "by room", test_by_room, all | NOT_HUGE | ONLY_NO_EVENT);
	matrix_add_shapes(&m, "half of the ring", test_half_of_the_ring, half, 5);
	matrix_add(&m, "S-DRV-011 longer than allowed", test_segs_max,
		   all | AT_LEAST_256 | ONLY_NO_EVENT);
	matrix_add(&m, "without a limit", test_without_segs_max, all);
	matrix_add_shapes(&m, "S-DRV-014 never longer than the ring",
			  test_never_longer_than_the_ring, four, 4);
	matrix_add(&m, "S-DRV-025 P-DRV-040 the table of the head", test_table_of_the_head,
		   all | AT_LEAST_2 | NOT_HUGE | ONLY_INDIRECT);
	matrix_add(&m, "tables beside data", test_tables_beside_data,
		   all | AT_LEAST_2 | NOT_HUGE | ONLY_INDIRECT);
	return matrix_run(&m, "which chains go indirect");
}
