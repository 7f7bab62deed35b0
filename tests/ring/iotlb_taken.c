/* SPDX-License-Identifier: MIT */
/*
 * The device end with an IOTLB (ACCESS_PLATFORM): a translation that was taken
 * back is used no more, whatever the device end has kept of it, and what is known
 * but denied breaks the queue.
 */
#include "iotlb_rig.h"

/* ---- What was taken back --------------------------------------------------- */

/* Pages that can be taken away from this process. */
static uint8_t *loose_page(void)
{
	uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);

	assert_ptr_not_equal(page, MAP_FAILED);
	return page;
}

/* Send a single element and see it come with @base, or, if that is NULL, not come. */
static void pop_at(struct world *w, struct elem e, const uint8_t *base)
{
	struct virtq_req *req;
	struct virtq_cursor *c;

	if (!virtq_driver_in_flight(w->r.driver))
		add_chain(w, &e, 1, 0);
	virtq_driver_publish(w->r.driver);
	if (!base) {
		assert_int_equal(virtq_device_pop(w->r.device, &req, 1), -EAGAIN);
		assert_int_equal(virtq_device_miss(w->r.device).addr, e.iova);
		return;
	}
	assert_int_equal(virtq_device_pop(w->r.device, &req, 1), 1);
	c = e.writable ? &req->wr : &req->rd;
	assert_int_equal(c->count, 1);
	assert_ptr_equal(c->spans[0].base, base);
	/* The memory is there: a fault if it is what was taken away. */
	assert_int_equal(*(volatile uint8_t *)c->spans[0].base, *base);
	virtq_device_push(w->r.device, &req, 1);
	virtq_device_publish(w->r.device);
	rig_collect(&w->r, 1);
}

/*
 * A translation that two pops have used is taken back, replaced, or pushed out of a
 * table of one entry: the next pop knows. Two queues on one table both do.
 */
static void test_taken_back_is_not_used(void **state)
{
	for (uint32_t how = 0; how < 5; how++) {
		struct virtq_iotlb *tlb;
		struct world w[2];

		assert_int_equal(virtq_iotlb_create(&tlb, 1, NULL), 0);
		for (uint32_t i = 0; i < 2; i++)
			world_open_with(&w[i], *state, 0, tlb, 0);
		for (uint32_t round = 0; round < 8; round++) {
			struct elem e = { READ_IOVA + 16, 16, round % 2 };
			uint8_t *old = loose_page(), *now = loose_page();

			virtq_iotlb_update(tlb, READ_IOVA, PAGE, old, VIRTQ_ACCESS_RW);
			for (uint32_t i = 0; i < 4; i++)
				pop_at(&w[i % 2], e, old + 16);
			switch (how) {
			case 0:
				virtq_iotlb_invalidate(tlb, READ_IOVA, PAGE);
				break;
			case 1:
				virtq_iotlb_invalidate(tlb, 0, 0);
				break;
			case 2:
				virtq_iotlb_invalidate(tlb, READ_IOVA + 20, 1);
				break;
			case 3:
				virtq_iotlb_update(tlb, WRITE_IOVA, PAGE, old, VIRTQ_ACCESS_RW);
				virtq_iotlb_invalidate(tlb, READ_IOVA, PAGE);
				break;
			default:
				virtq_iotlb_update(tlb, READ_IOVA, PAGE, now, VIRTQ_ACCESS_RW);
			}
			assert_int_equal(mprotect(old, PAGE, PROT_NONE), 0);
			if (how == 2)
				e.iova += 4;
			for (uint32_t i = 0; i < 2 && how < 4; i++)
				pop_at(&w[i], e, NULL);
			virtq_iotlb_update(tlb, READ_IOVA, PAGE, now, VIRTQ_ACCESS_RW);
			for (uint32_t i = 0; i < 4; i++)
				pop_at(&w[i % 2], e, now + (how == 2 ? 20 : 16));
			munmap(old, PAGE);
			munmap(now, PAGE);
		}
		world_close(&w[0]);
		world_close(&w[1]);
		virtq_iotlb_destroy(tlb);
	}
}

/* Of an entry that lost its middle the two ends serve on, and only these. */
static void test_middle_taken_back(void **state)
{
	uint8_t *page = loose_page();
	struct world w;

	world_open(&w, *state, 8);
	for (uint32_t writable = 0; writable < 2; writable++) {
		struct elem e = { READ_IOVA, 10, writable };

		virtq_iotlb_update(w.tlb, READ_IOVA, PAGE, page, VIRTQ_ACCESS_RW);
		pop_at(&w, e, page);
		pop_at(&w, e, page);
		virtq_iotlb_invalidate(w.tlb, READ_IOVA + 100, 50);
		pop_at(&w, e, page);
		e.iova = READ_IOVA + 90;
		pop_at(&w, e, page + 90);
		e.iova = READ_IOVA + 150;
		pop_at(&w, e, page + 150);
		e.iova = READ_IOVA + 149;
		pop_at(&w, e, NULL);
		virtq_iotlb_update(w.tlb, READ_IOVA + 100, 50, page + 100, VIRTQ_ACCESS_RW);
		pop_at(&w, e, page + 149);
	}
	munmap(page, PAGE);
	world_close(&w);
}

/* A table whose memory went elsewhere, and is gone where it was. */
static void test_table_moves(void **state)
{
	struct elem e[2] = { { page_iova(false, 1), 3, false }, { page_iova(true, 1), 3, true } };
	struct virtq_req *req;
	struct world w;

	world_open(&w, *state, 16);
	for (uint32_t round = 0; round < 6; round++) {
		w.count = 0;
		virtq_iotlb_invalidate(w.tlb, 0, 0);
		lay_page(&w, false, 1);
		lay_page(&w, true, 1);
		add_chain(&w, e, 2, round);
		assert_true(w.went_indirect);
		if (round % 2) {
			lay_table(&w, 0, w.table_len, 64 * round);
			piece_protect(&w.r.table, PROT_READ | PROT_WRITE, PROT_NONE);
		} else {
			lay(&w, RIG_TABLE_GPA, w.r.table.bytes, RIG_TABLE_GPA, VIRTQ_ACCESS_READ);
			piece_protect(&w.r.table, PROT_READ | PROT_WRITE, PROT_READ);
		}
		virtq_driver_publish(w.r.driver);
		assert_int_equal(pop_by_misses(&w, e, 2, &req), 3);
		finish(&w, e, 2, req, round);
	}
	world_close(&w);
}

/* A request handed back is translated anew when it comes again. */
static void test_unpopped_is_translated_anew(void **state)
{
	struct elem e = { page_iova(false, 3), 20, false };
	struct virtq_req *req;
	struct trans *t;
	struct world w;

	world_open(&w, *state, 8);
	t = lay_page(&w, false, 3);
	for (uint32_t round = 0; round < 10; round++) {
		add_chain(&w, &e, 1, round);
		virtq_driver_publish(w.r.driver);
		tell(&w, t);
		assert_int_equal(virtq_device_pop(w.r.device, &req, 1), 1);
		assert_int_equal(virtq_device_unpop(w.r.device, req), 0);
		forget(&w, t);
		assert_int_equal(pop_by_misses(&w, &e, 1, &req), 1);
		finish(&w, &e, 1, req, round);
	}
	world_close(&w);
}

/* Memory under another map leads nowhere by itself: with a table, addresses are I/O addresses. */
static void test_other_map_same_translations(void **state)
{
	struct elem e = { page_iova(false, 3), 20, false }, in_map = { RIG_DATA_GPA, 20, false };
	struct virtq_req *req;
	struct world w;

	world_open(&w, *state, 8);
	tell(&w, lay_page(&w, false, 3));
	for (uint32_t round = 0; round < 5; round++) {
		add_chain(&w, &e, 1, 0);
		virtq_driver_publish(w.r.driver);
		assert_int_equal(virtq_device_set_map(w.r.device, w.r.map, &w.r.device_ring), 0);
		assert_int_equal(virtq_device_pop(w.r.device, &req, 1), 1);
		finish(&w, &e, 1, req, 0);
	}
	assert_int_equal(virtq_device_set_map(w.r.device, w.r.map, &w.r.device_ring), 0);
	add_chain(&w, &in_map, 1, 0);
	virtq_driver_publish(w.r.driver);
	assert_int_equal(virtq_device_pop(w.r.device, &req, 1), -EAGAIN);
	assert_int_equal(virtq_device_miss(w.r.device).addr, RIG_DATA_GPA);
	world_close(&w);
}

/* ---- What is denied -------------------------------------------------------- */

/* The next pop breaks the queue for good, naming @byte. */
static void expect_denied(struct world *w, uint64_t byte)
{
	uint32_t position = virtq_device_position(w->r.device) & 0xffff;
	struct virtq_fault fault;
	struct virtq_req *req;

	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(virtq_device_pop(w->r.device, &req, 1), -EBADMSG);
		assert_int_equal(virtq_device_in_flight(w->r.device), 0);
		/* Told later makes no difference. */
		virtq_iotlb_update(w->tlb, byte & ~(uint64_t)(PAGE - 1), PAGE,
				   w->r.data[2].device, VIRTQ_ACCESS_RW);
	}
	fault = virtq_device_fault(w->r.device);
	assert_int_equal(fault.code, VIRTQ_FAULT_ADDRESS);
	assert_int_equal(fault.value, byte);
	assert_int_equal(fault.index, w->r.shape.packed ? position & 0x7fff : position);
}

/*
 * VU-BE-090: known, but not for this: no miss but a broken queue, and the first
 * byte that may not be accessed is named, be it in the second piece of an element.
 */
static void test_denied(void **state)
{
	for (uint32_t how = 0; how < 8; how++) {
		bool writable = how % 2, granted_before = how / 2 % 2, second = how / 4;
		unsigned int wrong = access_of(!writable);
		uint64_t page = page_iova(writable, 4);
		struct elem e = { page + PAGE - 10, 20, writable };
		struct virtq_req *req;
		struct trans *t[2];
		struct world w;

		world_open(&w, *state, 8);
		t[0] = lay_page(&w, writable, 4);
		t[1] = lay_page(&w, writable, 5);
		for (uint32_t i = 0; i < 3 && granted_before; i++) {
			add_chain(&w, &e, 1, 0);
			virtq_driver_publish(w.r.driver);
			assert_int_equal(pop_by_misses(&w, &e, 1, &req), i ? 0 : 2);
			finish(&w, &e, 1, req, 0);
		}
		t[second]->access = wrong;
		tell(&w, t[0]);
		tell(&w, t[1]);
		add_chain(&w, &e, 1, 0);
		virtq_driver_publish(w.r.driver);
		expect_denied(&w, second ? page + PAGE : e.iova);
		world_close(&w);
	}
}

/* VU-BE-090: what was granted one way, and used so just before, is denied the other way. */
static void test_denied_beside_granted(void **state)
{
	for (uint32_t granted = 0; granted < 2; granted++) {
		struct elem e = { page_iova(granted, 4) + 10, 20, granted };
		struct virtq_req *req;
		struct world w;

		world_open(&w, *state, 8);
		tell(&w, lay_page(&w, granted, 4));
		for (uint32_t i = 0; i < 3; i++) {
			add_chain(&w, &e, 1, 0);
			virtq_driver_publish(w.r.driver);
			assert_int_equal(virtq_device_pop(w.r.device, &req, 1), 1);
			finish(&w, &e, 1, req, 0);
		}
		e.writable = !granted;
		add_chain(&w, &e, 1, 0);
		virtq_driver_publish(w.r.driver);
		expect_denied(&w, e.iova);
		world_close(&w);
	}
}

/* VU-BE-090: the same for tables, which need READ; and the ones in front come first. */
static void test_table_denied(void **state)
{
	const struct shape *shape = *state;

	for (uint32_t cut = 0; cut < 32; cut += 4) {
		struct elem e[2] = { { page_iova(false, 1), 3, false },
				     { page_iova(true, 1), 3, true } };
		bool in_front = cut % 8 && shape->size > 2;
		struct virtq_req *req;
		struct world w;

		world_open(&w, shape, 16);
		tell(&w, lay_page(&w, false, 1));
		tell(&w, lay_page(&w, true, 1));
		if (in_front)
			add_chain(&w, &e[1], 1, 0);
		add_chain(&w, e, 2, 1);
		if (cut)
			tell(&w, lay_table(&w, 0, cut, 0));
		lay_table(&w, cut, 32 - cut, 128);
		w.trans[w.count - 1].access = VIRTQ_ACCESS_WRITE;
		tell(&w, &w.trans[w.count - 1]);
		virtq_driver_publish(w.r.driver);
		if (in_front) {
			struct virtq_req *two[2];

			assert_int_equal(virtq_device_pop(w.r.device, two, 2), 1);
			req = two[0];
			virtq_device_push(w.r.device, &req, 1);
		}
		expect_denied(&w, w.table_iova + cut);
		world_close(&w);
	}
}

/* Elements up to the last address there is are served; further ones break the queue. */
static void test_end_of_addresses(void **state)
{
	uint8_t *page = loose_page();

	for (uint32_t i = 0; i < 6; i++) {
		bool writable = i % 2;
		uint64_t last_page = 0 - (uint64_t)PAGE;
		uint32_t len = i < 2 ? 8 : i < 4 ? 9 : UINT32_MAX;
		struct elem e = { last_page + PAGE - 8, len, writable };
		struct world w;

		world_open(&w, *state, 8);
		virtq_iotlb_update(w.tlb, last_page, PAGE, page, VIRTQ_ACCESS_RW);
		virtq_iotlb_update(w.tlb, 0, PAGE, page, VIRTQ_ACCESS_RW);
		if (i < 2) {
			pop_at(&w, e, page + PAGE - 8);
			pop_at(&w, e, page + PAGE - 8);
		} else {
			add_chain(&w, &e, 1, 0);
			virtq_driver_publish(w.r.driver);
			expect_denied(&w, e.iova);
		}
		world_close(&w);
	}
	munmap(page, PAGE);
}

int main(void)
{
	const unsigned int all = ALSO_IN_ORDER;
	struct shape platform[PLATFORM_SHAPES];
	struct matrix m = { 0 };

	platform_shapes(platform);
	matrix_add(&m, "taken back is not used", test_taken_back_is_not_used, all | NOT_HUGE);
	matrix_add(&m, "the middle taken back", test_middle_taken_back, all | NOT_HUGE);
	matrix_add(&m, "a table moves", test_table_moves,
		   all | NOT_HUGE | AT_LEAST_2 | ONLY_INDIRECT);
	matrix_add(&m, "unpopped is translated anew", test_unpopped_is_translated_anew,
		   all | NOT_HUGE);
	matrix_add(&m, "another map, the same translations", test_other_map_same_translations,
		   all | NOT_HUGE);
	matrix_add(&m, "VU-BE-090 denied", test_denied, all | NOT_HUGE);
	matrix_add(&m, "VU-BE-090 denied beside granted", test_denied_beside_granted,
		   all | NOT_HUGE);
	matrix_add(&m, "VU-BE-090 a table denied", test_table_denied,
		   all | NOT_HUGE | AT_LEAST_2 | ONLY_INDIRECT);
	matrix_add(&m, "the end of addresses", test_end_of_addresses, all | NOT_HUGE);
	matrix_add_shapes(&m, "taken back is not used", test_taken_back_is_not_used, platform,
			  PLATFORM_SHAPES);
	return matrix_run(&m, "what an IOTLB knows no more, or denies");
}
