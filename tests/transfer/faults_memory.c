/* SPDX-License-Identifier: MIT */
/* The faults of faults.c that are about the end of a pool, its memory, and devices that lie. */
#include "faults_rig.h"

/* ---- The end ------------------------------------------------------------------------ */

static void test_close_twice_closes_nothing_twice(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		int fds[16];

		assert_int_equal(virtq_pool_offer_writable(r.pool, 3, 4, NULL, 0, NULL), 3);
		virtq_pool_close(r.pool);
		/* Whatever numbers are free now, these take them. */
		for (unsigned int i = 0; i < 16; i++) {
			fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
			assert_true(fds[i] >= 0);
		}
		virtq_pool_close(r.pool);
		virtq_pool_close(r.pool);
		for (unsigned int i = 0; i < 16; i++) {
			assert_true(fcntl(fds[i], F_GETFD) >= 0);
			close(fds[i]);
		}
		assert_int_equal(virtq_pool_take(r.pool, &(struct virtq_chain){ 0 }, 1, &ever),
				 -ESHUTDOWN);
	}
	virtq_pool_destroy(NULL);
}

static void test_everything_is_given_back(void **state)
{
	unsigned int fds = 0, maps = 0;
	struct rig r;

	(void)state;
	for (unsigned int round = 0; round < 3; round++) {
		EACH_LAYOUT(&r) {
			struct virtq_chain chain;

			assert_int_equal(virtq_pool_alloc(r.pool, 1, 0, &chain), 0);
			assert_int_equal(virtq_pool_offer_writable(r.pool, 3, 4, NULL, 0, NULL), 3);
		}
		/* The first round warms up what is the C library's. */
		if (!round) {
			fds = count_fds();
			maps = count_lines("/proc/self/maps");
		}
	}
	assert_int_equal(count_fds(), fds);
	/* A leak would be three mappings a round and layout; an allocator may take some. */
	assert_in_range(count_lines("/proc/self/maps"), 0, maps + 4);
}

static void test_fd_0_is_an_fd(void **state)
{
	struct virtq_pool_config config = usual(layout_at(0));
	int kept = dup(0), fd;
	struct virtq_wait wait = { -1, &fd };
	struct virtq_pool *pool;
	struct virtq_chain chain;
	unsigned int count;

	(void)state;
	close(0);
	fd = virtq_notify_open();
	assert_int_equal(fd, 0);
	assert_int_equal(virtq_pool_create(&pool, &config, NULL), 0);
	virtq_notify_send(fd);
	assert_int_equal(virtq_pool_take(pool, &chain, 1, &wait), -ECANCELED);
	virtq_pool_destroy(pool);
	assert_true(fcntl(0, F_GETFD) >= 0);
	/* One of the pool's own is 0, used and closed as any other. */
	close(0);
	count = count_fds();
	assert_int_equal(virtq_pool_create(&pool, &config, NULL), 0);
	assert_true(fcntl(0, F_GETFD) >= 0);
	virtq_pool_destroy(pool);
	assert_int_equal(count_fds(), count);
	if (kept >= 0) {
		assert_int_equal(dup2(kept, 0), 0);
		close(kept);
	}
}

static void test_failed_set_up_leaves_nothing(void **state)
{
	struct virtq_pool_config config = usual(layout_at(0)), bad = config;
	unsigned int fds = count_fds();
	struct virtq_pool *pool = NULL;
	struct virtq_error err = { 0 };
	struct rlimit kept, few;

	(void)state;
	bad.size = 3;
	assert_int_equal(virtq_pool_create(&pool, &bad, &err), -EINVAL);
	assert_true(err.code == -EINVAL && err.text[0]);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &kept), 0);
	/* No more fds after none, one, two ... of those it opens. */
	for (rlim_t limit = 3;; limit++) {
		int rc;

		few = kept;
		few.rlim_cur = limit;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
		rc = virtq_pool_create(&pool, &config, NULL);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &kept), 0);
		if (!rc)
			break;
		assert_int_equal(rc, -EMFILE);
		assert_int_equal(count_fds(), fds);
	}
	virtq_pool_destroy(pool);
	assert_int_equal(count_fds(), fds);
}

/* ---- Devices that lie --------------------------------------------------------------- */

static void test_device_lies_break_only_the_queue(void **state)
{
	struct rig r, good;

	(void)state;
	EACH_LAYOUT(&r) {
		rig_open(&good, r.layout);
		for (unsigned int lie = 0; lie < 4; lie++) {
			struct virtq_chain held, chains[2];
			struct virtq_req *reqs[2];
			uint32_t id;

			assert_int_equal(virtq_pool_alloc(r.pool, 3, 0, &held), 0);
			assert_int_equal(virtq_pool_copy_in(r.pool, &held, 0, "abc", 3), 3);
			assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 64, chains, 0, NULL),
					 2);
			assert_int_equal(virtq_device_pop(r.far.device, reqs, 2), 2);
			switch (lie) {
			case 0:
				far_lie(&r.far, 0xffff, 0);
				break;
			case 1:		/* of nothing that is in flight */
				for (id = 0; id == reqs[0]->id || id == reqs[1]->id; id++)
					;
				far_lie(&r.far, id, 0);
				break;
			case 2:		/* more than there was to write */
				far_lie(&r.far, reqs[0]->id, 65);
				break;
			default:	/* in a split ring the id has 32 bits */
				far_lie(&r.far,
					reqs[0]->id + (r.layout.packed ? 0x8000u : 0x10000u), 0);
			}
			if (virtq_pool_take(r.pool, chains, 2, &ever) != -EBADMSG)
				fail_msg("%s believes lie %u", layout_name(r.layout), lie);
			assert_int_equal(virtq_pool_take(r.pool, chains, 2, NULL), -EBADMSG);
			assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 1, NULL, 0, NULL),
					 -EBADMSG);
			/* What is the caller's stays so, and others do not notice. */
			assert_int_equal(virtq_pool_copy_out(r.pool, &held, VIRTQ_PART_READABLE, 0,
							     chains, 8), 3);
			assert_int_equal(virtq_pool_offer_writable(good.pool, 1, 1, NULL, 0, NULL),
					 1);
			serve(&good, 1, 1, false);
			assert_int_equal(virtq_pool_take(good.pool, chains, 1, NULL), 1);
			assert_int_equal(virtq_pool_free(good.pool, chains, 1), 1);
			virtq_driver_stop(virtq_port_driver(r.far.port));
			assert_int_equal(virtq_pool_reset(r.pool), 2);
			far_start(&r.far);
			assert_int_equal(virtq_pool_free(r.pool, &held, 1), 1);
			all_free(&r);
		}
		rig_close(&good);
	}
}

/* The device writes over its own copy of descriptors: nothing is read back from there. */
static void test_scribbled_descriptors_change_nothing(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		struct virtq_chain chains[2];
		struct virtq_req *reqs[2];

		assert_int_equal(virtq_pool_offer_writable(r.pool, 2, 200, NULL, 0, NULL), 2);
		assert_int_equal(virtq_device_pop(r.far.device, reqs, 2), 2);
		for (uint32_t i = 0; i < 8; i++)
			/* Not flags, which in a packed ring say whose it is. */
			memset((uint8_t *)r.far.ring.desc + 16 * i, 0x01,
			       r.layout.packed ? 12 : 16);
		for (int i = 0; i < 2; i++)
			assert_int_equal(virtq_req_write(reqs[i], i ? "one" : "two", 3), 3);
		virtq_device_push(r.far.device, reqs, 2);
		virtq_device_publish(r.far.device);
		assert_int_equal(virtq_pool_take(r.pool, chains, 2, NULL), 2);
		for (int i = 0; i < 2; i++) {
			char got[8] = "";

			assert_int_equal(chains[i].written, 3);
			assert_int_equal(virtq_pool_copy_out(r.pool, &chains[i], VIRTQ_PART_WRITTEN,
							     0, got, 8), 3);
			assert_string_equal(got, i ? "one" : "two");
		}
		assert_int_equal(virtq_pool_free(r.pool, chains, 2), 2);
		all_free(&r);
	}
}

/* ---- Memory and contents --------------------------------------------------------------- */

static void test_memory_shareable(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		const struct virtq_region *region;
		struct virtq_chain chain;
		unsigned int count;
		char got[4];

		/* The device of this rig has mapped the fd by itself, at another place. */
		region = virtq_port_regions(r.far.port, &count);
		assert_int_equal(count, 1);
		assert_true(region->fd >= 0);
		assert_ptr_not_equal(region->host, r.far.regions[0].host);
		/* It cannot be made shorter by who has it. */
		assert_int_not_equal(ftruncate(region->fd, 0), 0);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 4, NULL, 0, NULL), 1);
		for (struct virtq_req *req; virtq_device_pop(r.far.device, &req, 1) == 1;) {
			virtq_req_write(req, "back", 4);
			virtq_device_push(r.far.device, &req, 1);
			virtq_device_publish(r.far.device);
		}
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(virtq_pool_copy_out(r.pool, &chain, VIRTQ_PART_WRITTEN, 0, got, 4),
				 4);
		assert_memory_equal(got, "back", 4);
	}
}

static void test_addresses_are_the_devices(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		struct virtq_pool_config config = usual(layout_at(i));
		unsigned int count;
		struct rig r;

		config.gpa = UINT64_C(0x123456789000);
		rig_open_as(&r, layout_at(i), &config);
		assert_int_equal(virtq_port_regions(r.far.port, &count)->gpa, config.gpa);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 8, 64, NULL, 0, NULL), 8);
		/* The device's map knows no other address than these. */
		assert_int_equal(serve(&r, 8, 64, false), 8);
		rig_close(&r);
	}
}

static void test_whole_chain_copied_not_only_its_tail(void **state)
{
	static uint8_t bytes[300], got[300];
	struct rig r;

	(void)state;
	for (unsigned int i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 13 + 5);
	EACH_LAYOUT(&r) {
		struct virtq_span spans[8];
		struct virtq_chain chain;
		struct virtq_req *req;
		size_t at = 0;
		int rc;

		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 300, NULL, 0, NULL), 1);
		assert_int_equal(virtq_device_pop(r.far.device, &req, 1), 1);
		assert_int_equal(virtq_req_write(req, bytes, 300), 300);
		virtq_device_push(r.far.device, &req, 1);
		virtq_device_publish(r.far.device);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(virtq_pool_copy_out(r.pool, &chain, VIRTQ_PART_WRITTEN, 0, got,
						     300),
				 300);
		assert_memory_equal(got, bytes, 300);
		/* And the same in place. */
		rc = virtq_pool_spans(r.pool, &chain, VIRTQ_PART_WRITTEN, spans, 8);
		assert_int_equal(rc, 5);
		for (int i = 0; i < rc; at += spans[i++].len)
			assert_memory_equal(spans[i].base, bytes + at, spans[i].len);
		assert_int_equal(at, 300);
	}
}

static void test_used_length_limits_contents(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		for (uint32_t bytes = 0; bytes <= 130; bytes += 65) {
			uint8_t got[200];
			struct virtq_span spans[4];
			struct virtq_chain chain;

			assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 200, NULL, 0, NULL),
					 1);
			serve(&r, 1, bytes, false);
			assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
			assert_int_equal(chain.written, bytes);
			/* Whatever the caller makes of the number, the pool knows better. */
			chain.written = 200;
			assert_int_equal(virtq_pool_copy_out(r.pool, &chain, VIRTQ_PART_WRITTEN, 0,
							     got, 200), bytes);
			assert_int_equal(virtq_pool_spans(r.pool, &chain, VIRTQ_PART_WRITTEN, spans,
							  4),
					 (bytes + 63) / 64);
			assert_int_equal(virtq_pool_free(r.pool, &chain, 1), 1);
		}
	}
}

static void test_short_destination_is_no_error(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		uint8_t got[101];
		struct virtq_chain chain;

		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 200, NULL, 0, NULL), 1);
		serve(&r, 1, 200, false);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		got[100] = 0x77;
		assert_int_equal(virtq_pool_copy_out(r.pool, &chain, VIRTQ_PART_WRITTEN, 0, got,
						     100),
				 100);
		assert_int_equal(got[100], 0x77);
		assert_int_equal(virtq_pool_copy_out(r.pool, &chain, VIRTQ_PART_WRITTEN, 150, got,
						     100),
				 50);
	}
}

static void test_length_beyond_65535_not_truncated(void **state)
{
	static uint8_t bytes[70000], got[70000];

	(void)state;
	memset(bytes, 0x3c, sizeof(bytes));
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		struct virtq_pool_config config = usual(layout_at(i));
		struct virtq_chain chain;
		struct rig r;

		rig_open_as(&r, layout_at(i), &config);
		/* As many items as 0, 1 and 2 in 16 bits. */
		for (uint32_t items = 65536; items < 65539; items++)
			assert_int_equal(virtq_pool_offer_writable(r.pool, 1, items * 64, &chain, 0,
								   &ever), -EMSGSIZE);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 65536 + 1, 64, NULL, 0, NULL),
				 8);
		rig_close(&r);

		config.item_bytes = 131072;
		rig_open_as(&r, layout_at(i), &config);
		assert_int_equal(offer_bytes(&r, bytes, 70000, NULL, NULL), 1);
		serve(&r, 1, 0, false);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(virtq_pool_copy_out(r.pool, &chain, VIRTQ_PART_READABLE, 0, got,
						     70000),
				 70000);
		assert_memory_equal(got, bytes, 70000);
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 70000, NULL, 0, NULL), 1);
		serve(&r, 1, 66000, false);
		assert_int_equal(virtq_pool_take(r.pool, &chain, 1, NULL), 1);
		assert_int_equal(chain.written, 66000);
		rig_close(&r);
	}
}

static void test_an_item_need_not_be_a_page(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < LAYOUTS; i++) {
		struct virtq_pool_config config = usual(layout_at(i));
		uint32_t sizes[] = { 64, 192, 1536, 4096, 20480 };

		for (unsigned int k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
			struct rig r;

			config.item_bytes = sizes[k];
			rig_open_as(&r, layout_at(i), &config);
			assert_int_equal(virtq_pool_offer_writable(r.pool, 8, sizes[k], NULL, 0,
								   NULL), 8);
			assert_int_equal(serve(&r, 8, sizes[k], false), 8);
			rig_close(&r);
		}
	}
}

/* S-DRV, P-DRV: a chain in an indirect table takes one entry of the ring. */
static void test_a_table_takes_one_entry(void **state)
{
	struct rig r;

	(void)state;
	EACH_LAYOUT(&r) {
		assert_int_equal(virtq_pool_offer_writable(r.pool, 1, 6 * 64, NULL, 0, NULL), 1);
		assert_int_equal(virtq_pool_room(r.pool).entries, r.layout.indirect ? 7 : 2);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_close_twice_closes_nothing_twice),
		cmocka_unit_test(test_everything_is_given_back),
		cmocka_unit_test(test_fd_0_is_an_fd),
		cmocka_unit_test(test_failed_set_up_leaves_nothing),
		cmocka_unit_test(test_device_lies_break_only_the_queue),
		cmocka_unit_test(test_scribbled_descriptors_change_nothing),
		cmocka_unit_test(test_memory_shareable),
		cmocka_unit_test(test_addresses_are_the_devices),
		cmocka_unit_test(test_whole_chain_copied_not_only_its_tail),
		cmocka_unit_test(test_used_length_limits_contents),
		cmocka_unit_test(test_short_destination_is_no_error),
		cmocka_unit_test(test_length_beyond_65535_not_truncated),
		cmocka_unit_test(test_an_item_need_not_be_a_page),
		cmocka_unit_test(test_a_table_takes_one_entry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
