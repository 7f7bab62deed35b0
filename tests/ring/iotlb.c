/* SPDX-License-Identifier: MIT */
/*
 * The device end with an IOTLB (ACCESS_PLATFORM): a chain of which something is
 * not known yet stays in the ring, whole, and nothing is lost over it. What was
 * taken back or is denied is in iotlb_taken.c, traffic at random in iotlb_random.c.
 */
#include "iotlb_rig.h"

/* ---- What is not known yet ----------------------------------------------- */

/*
 * An unknown address is asked for by its first byte and by what would be
 * done there, as often as one looks, and the map that holds the same number is
 * not looked at. Once known, the chain comes as it is.
 */
static void test_unknown_waits(void **state)
{
	static const uint64_t in_map[] = { RIG_DATA_GPA, RIG_WRITABLE_GPA };
	struct world w;

	world_open(&w, *state, 64);
	for (uint32_t i = 0; i < 6; i++) {
		bool writable = i % 2;
		struct elem e = { i < 2 ? in_map[i] : page_iova(writable, i), 100 + i, writable };
		struct virtq_req *req;

		if (i < 2)
			lay(&w, e.iova, PAGE, page_gpa(writable, i), access_of(writable));
		else
			lay_page(&w, writable, i);
		add_chain(&w, &e, 1, i);
		virtq_driver_publish(w.r.driver);
		assert_int_equal(pop_by_misses(&w, &e, 1, &req), 1);
		finish(&w, &e, 1, req, i);
	}
	world_close(&w);
}

/*
 * A chain of which all is unknown, its table too, is asked for piece by
 * piece in the order of the chain; every piece is a span of its own; what one
 * element made known serves the next.
 */
static void test_one_miss_after_the_other(void **state)
{
	const struct shape *shape = *state;
	uint32_t count = shape->size < 5 ? shape->size : 5;
	uint32_t readable = count / 2;
	struct elem e[5];
	struct world w;

	world_open(&w, shape, 64);
	for (uint32_t first = 0; first < 3 * 12; first += 12) {
		struct virtq_req *req;
		/* Over three pages; then inside the last of these; then pages further on. */
		const uint32_t offsets[] = { 4000, 2 * PAGE + 900, 3 * PAGE };

		for (uint32_t i = 0; i < count; i++) {
			uint32_t k = i < readable ? i : i - readable;

			e[i].writable = i >= readable;
			e[i].iova = page_iova(e[i].writable, first) + offsets[k];
			e[i].len = k ? 1 + 50 * k : 5000;
		}
		for (uint32_t page = first; page < first + 4; page++) {
			lay_page(&w, false, page);
			lay_page(&w, true, page);
		}
		if (first == 12)
			tell(&w, w.table);
		else
			forget(&w, w.table);
		add_chain(&w, e, count, first);
		virtq_driver_publish(w.r.driver);
		/* The table, unless it is known; three pages a direction, or four. */
		assert_int_equal(pop_by_misses(&w, e, count, &req),
				 (first != 12 && w.went_indirect) + (readable ? 3 : 0) +
				 (count - readable > 2 ? 4 : 3));
		finish(&w, e, count, req, first);
	}
	world_close(&w);
}

/*
 * A table in two pieces or three, apart in this process, cut at every byte,
 * between its entries and inside them. What is left where it lay as a whole is junk.
 */
static void test_table_in_pieces(void **state)
{
	const struct shape *shape = *state;
	uint32_t count = shape->size < 4 ? shape->size : 4;
	struct elem e[4];
	struct world w;

	world_open(&w, shape, 64);
	for (uint32_t cut = 1; cut < 16 * count; cut++) {
		uint32_t second = cut + 1 + cut % 29, len = 16 * count;
		struct virtq_req *req;

		w.count = 0;
		virtq_iotlb_invalidate(w.tlb, 0, 0);
		for (uint32_t i = 0; i < count; i++) {
			e[i] = (struct elem){ page_iova(i > 0, cut % 7 + i) + cut, 32 + i, i > 0 };
			lay_page(&w, i > 0, cut % 7 + i);
		}
		add_chain(&w, e, count, cut);
		assert_true(w.went_indirect);
		assert_int_equal(w.table_len, len);
		if (second > len)
			second = len;
		lay_table(&w, 0, cut, 0);
		lay_table(&w, cut, second - cut, 5000);
		lay_table(&w, second, len - second, 9000);
		virtq_driver_publish(w.r.driver);
		assert_int_equal(pop_by_misses(&w, e, count, &req),
				 count + 2 + (second < len));
		finish(&w, e, count, req, cut);
	}
	world_close(&w);
}

/* An element over pieces that go on here and there is one span, however often it was told. */
static void test_adjacent_is_one_span(void **state)
{
	struct elem e = { page_iova(true, 0) + 10, 3 * PAGE, true };
	struct virtq_req *req;
	struct world w;

	world_open(&w, *state, 64);
	for (uint32_t page = 0; page < 4; page++)
		tell(&w, lay(&w, page_iova(true, page), PAGE, RIG_WRITABLE_GPA + page * PAGE,
			     VIRTQ_ACCESS_WRITE));
	add_chain(&w, &e, 1, 0);
	virtq_driver_publish(w.r.driver);
	assert_int_equal(virtq_device_pop(w.r.device, &req, 1), 1);
	assert_int_equal(req->wr.count, 1);
	assert_ptr_equal(req->wr.spans[0].base, w.trans[1].device + 10);
	assert_int_equal(req->wr.spans[0].len, 3 * PAGE);
	assert_int_equal(req->wr.bytes, 3 * PAGE);
	virtq_device_push(w.r.device, &req, 1);
	virtq_device_publish(w.r.device);
	rig_collect(&w.r, 1);
	world_close(&w);
}

/*
 * Chains in front of one that has to wait are handed out, by the fast way and by
 * the slow, and can be given back meanwhile; -EAGAIN comes when it is the first;
 * then it and those behind it.
 */
static void test_those_in_front_first(void **state)
{
	const struct shape *shape = *state;
	struct elem single[2] = { { page_iova(false, 1) + 5, 9, false },
				  { page_iova(true, 1) + 5, 9, true } };
	struct elem pair[2] = { { page_iova(false, 1), 7, false },
				{ page_iova(true, 1), 7, true } };
	struct elem late = { page_iova(false, 7) + 33, 8, false };
	struct virtq_req *reqs[5];
	struct world w;

	world_open(&w, shape, 64);
	for (uint32_t round = 0; round < 30; round++) {
		/* What stands in front: one or two singles, a pair and a single, or a single. */
		uint32_t front = round % 3 == 2 ? 1 : 2, back = round % 2;
		struct trans *wanted;

		w.count = 0;
		virtq_iotlb_invalidate(w.tlb, 0, 0);
		tell(&w, lay(&w, RIG_TABLE_GPA, w.r.table.bytes, RIG_TABLE_GPA, VIRTQ_ACCESS_READ));
		tell(&w, lay_page(&w, false, 1));
		tell(&w, lay_page(&w, true, 1));
		wanted = lay_page(&w, false, 7);
		for (uint32_t i = 0; i < front; i++) {
			if (round % 3 == 1 && i == 0)
				add_chain(&w, pair, 2, i);
			else
				add_chain(&w, &single[round / 3 % 2], 1, i);
		}
		add_chain(&w, &late, 1, front);
		if (back)
			add_chain(&w, &single[0], 1, front + 1);
		virtq_driver_publish(w.r.driver);

		assert_int_equal(virtq_device_pop(w.r.device, reqs, 5), front);
		assert_int_equal(virtq_device_in_flight(w.r.device), front);
		assert_int_equal(virtq_device_pop(w.r.device, reqs + front, 5 - front), -EAGAIN);
		assert_int_equal(virtq_device_miss(w.r.device).addr, late.iova);
		assert_int_equal(virtq_device_miss(w.r.device).access, VIRTQ_ACCESS_READ);
		if (round % 5) {
			virtq_device_push(w.r.device, reqs, front);
			virtq_device_publish(w.r.device);
			rig_collect(&w.r, front);
		}
		assert_int_equal(virtq_device_pop(w.r.device, reqs + front, 5 - front), -EAGAIN);
		tell(&w, wanted);
		assert_int_equal(virtq_device_pop(w.r.device, reqs + front, 5 - front), 1 + back);
		assert_ptr_equal(reqs[front]->rd.spans[0].base, wanted->device + 33);
		if (round % 5)
			virtq_device_push(w.r.device, reqs + front, 1 + back);
		else
			virtq_device_push(w.r.device, reqs, front + 1 + back);
		virtq_device_publish(w.r.device);
		rig_collect(&w.r, (round % 5 ? 0 : front) + 1 + back);
	}
	world_close(&w);
}

/*
 * Long chains: ten thousand looks at one whose last page is not known cost no
 * block; with both on loan it is -ENOSPC as ever, and with one back it goes on.
 */
static void test_blocks_are_not_lost(void **state)
{
	const struct shape *shape = *state;
	uint32_t count = shape->indirect ? 2 : 1;
	struct elem e[2] = { { page_iova(true, 0) + 1, 9 * PAGE, true },
			     { page_iova(true, 3), 2 * PAGE, true } };
	struct virtq_req *reqs[3];
	struct trans *last = NULL;
	struct world w;

	world_open_with(&w, shape, 64, NULL, 2);
	tell(&w, w.table);
	for (uint32_t page = 0; page < 10; page++) {
		last = lay_page(&w, true, page);
		if (page < 9)
			tell(&w, last);
	}
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < 3; i++)
			add_chain(&w, e, count, i);
		virtq_driver_publish(w.r.driver);
		for (uint32_t i = 0; i < 10000; i++)
			assert_int_equal(virtq_device_pop(w.r.device, reqs, 3), -EAGAIN);
		assert_int_equal(virtq_device_miss(w.r.device).addr, page_iova(true, 9));
		tell(&w, last);
		assert_int_equal(virtq_device_pop(w.r.device, reqs, 3), 2);
		expect_spans(&w, e, count, reqs[0]);
		expect_spans(&w, e, count, reqs[1]);
		assert_ptr_not_equal(reqs[0]->wr.spans, reqs[1]->wr.spans);
		assert_int_equal(virtq_device_pop(w.r.device, &reqs[2], 1), -ENOSPC);

		/* The same while one of two blocks is on loan, and the other in and out. */
		virtq_device_push(w.r.device, &reqs[round % 2], 1);
		forget(&w, last);
		for (uint32_t i = 0; i < 10000; i++)
			assert_int_equal(virtq_device_pop(w.r.device, &reqs[2], 1), -EAGAIN);
		tell(&w, last);
		assert_int_equal(virtq_device_pop(w.r.device, &reqs[2], 1), 1);
		expect_spans(&w, e, count, reqs[2]);
		/* Nor is it the other's. */
		expect_spans(&w, e, count, reqs[1 - round % 2]);
		virtq_device_push(w.r.device, &reqs[2], 1);
		virtq_device_push(w.r.device, &reqs[1 - round % 2], 1);
		virtq_device_publish(w.r.device);
		rig_collect(&w.r, 3);
		forget(&w, last);
	}
	world_close(&w);
}

/* ---- Small tables ------------------------------------------------------------ */

/*
 * A table with just as many entries as a chain has pieces goes forward, by at
 * most one miss a piece, whatever it has to forget for that. One that is too
 * small waits for ever without harm, until larger pieces are told.
 */
static void test_small_table_goes_forward(void **state)
{
	const struct shape *shape = *state;
	uint32_t count = shape->size < 2 ? 1 : 2;
	/* Two pages of the writable element, one of the readable, one of the table. */
	uint32_t entries = 2 + (count > 1) + (count > 1 && shape->indirect);
	struct elem e[2];
	struct virtq_req *req;
	struct world w;

	world_open(&w, shape, entries);
	for (uint32_t page = 0; page < 40; page++) {
		lay_page(&w, false, page);
		lay_page(&w, true, page);
	}
	for (uint32_t i = 0; i < 300; i++) {
		uint32_t to = 37 * i % 39, from = 11 * i % 40;

		e[count - 1] = (struct elem){ page_iova(true, to) + 4000, 200, true };
		if (count > 1)
			e[0] = (struct elem){ page_iova(false, from) + 7, 9, false };
		add_chain(&w, e, count, i);
		virtq_driver_publish(w.r.driver);
		/* The table may have forgotten what the world believes it knows. */
		assert_in_range(pop_by_told_misses(&w, &req), 0, entries);
		finish(&w, e, count, req, i);
	}
	/* One page more than it holds. */
	e[count - 1] = (struct elem){ page_iova(true, 0) + 4000, 200 + PAGE * (entries - 1), true };
	add_chain(&w, e, count, 0);
	virtq_driver_publish(w.r.driver);
	for (uint32_t i = 0; i < 1000; i++) {
		assert_int_equal(virtq_device_pop(w.r.device, &req, 1), -EAGAIN);
		tell(&w, trans_at(&w, virtq_device_miss(w.r.device).addr));
	}
	virtq_iotlb_invalidate(w.tlb, 0, 0);
	virtq_iotlb_update(w.tlb, WRITE_IOVA, 64 * PAGE, w.r.data[2].device, VIRTQ_ACCESS_WRITE);
	for (uint32_t i = 0; virtq_device_pop(w.r.device, &req, 1) == -EAGAIN; i++) {
		assert_in_range(i, 0, 1);
		assert_true(virtq_device_miss(w.r.device).addr < WRITE_IOVA ||
			    virtq_device_miss(w.r.device).addr >= WRITE_IOVA + 64 * PAGE);
		tell(&w, trans_at(&w, virtq_device_miss(w.r.device).addr));
	}
	assert_int_equal(req->wr.count, 1);
	assert_int_equal(req->wr.bytes, e[count - 1].len);
	assert_ptr_equal(req->wr.spans[0].base, w.r.data[2].device + 4000);
	world_close(&w);
}

int main(void)
{
	const unsigned int all = ALSO_IN_ORDER;
	struct shape platform[PLATFORM_SHAPES];
	struct matrix m = { 0 };

	platform_shapes(platform);
	matrix_add(&m, "the unknown waits", test_unknown_waits, all);
	matrix_add(&m, "one miss after the other", test_one_miss_after_the_other, all | NOT_HUGE);
	matrix_add(&m, "a table in pieces", test_table_in_pieces,
		   all | NOT_HUGE | AT_LEAST_2 | ONLY_INDIRECT);
	matrix_add(&m, "adjacent pieces are one span", test_adjacent_is_one_span, all | NOT_HUGE);
	matrix_add(&m, "those in front first", test_those_in_front_first,
		   all | NOT_HUGE | AT_LEAST_5);
	matrix_add(&m, "blocks are not lost", test_blocks_are_not_lost,
		   all | NOT_HUGE | AT_LEAST_5);
	matrix_add(&m, "a small table goes forward", test_small_table_goes_forward,
		   all | NOT_HUGE);
	matrix_add_shapes(&m, "the unknown waits", test_unknown_waits, platform, PLATFORM_SHAPES);
	matrix_add_shapes(&m, "one miss after the other", test_one_miss_after_the_other, platform,
			  PLATFORM_SHAPES);
	return matrix_run(&m, "what an IOTLB does not know yet");
}
