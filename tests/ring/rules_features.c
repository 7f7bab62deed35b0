/* SPDX-License-Identifier: MIT */
/* Feature bits: sets of them, how a driver chooses, and what those mean to the rings. */
#include "rig.h"

#include <virtq/spec/blk.h>

#define BIT(n) ((uint64_t)1 << (n))

static const struct virtq_features all = { { UINT64_MAX, UINT64_MAX } };
static const struct virtq_features none = { { 0, 0 } };

static struct virtq_features set_of(const unsigned int *bits, size_t count)
{
	struct virtq_features f = none;

	for (size_t i = 0; i < count; i++)
		f = virtq_features_with(f, bits[i]);
	return f;
}
#define SET(...) set_of((const unsigned int[]){ __VA_ARGS__ }, \
			sizeof((const unsigned int[]){ __VA_ARGS__ }) / sizeof(unsigned int))

static void assert_set(struct virtq_features got, struct virtq_features want)
{
	if (got.word[0] != want.word[0] || got.word[1] != want.word[1])
		fail_msg("%llx %llx, not %llx %llx", (unsigned long long)got.word[1],
			 (unsigned long long)got.word[0], (unsigned long long)want.word[1],
			 (unsigned long long)want.word[0]);
}

/* F-031: each of 128 bits is a bit of its own; past them there is nothing. */
static void test_128_bits(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 128; i++) {
		struct virtq_features one = virtq_features_with(none, i);
		struct virtq_features others = virtq_features_without(all, i);

		assert_int_equal(one.word[i / 64], BIT(i % 64));
		assert_int_equal(one.word[1 - i / 64], 0);
		for (unsigned int k = 0; k < 128; k++) {
			assert_int_equal(virtq_features_has(one, k), k == i);
			assert_int_equal(virtq_features_has(others, k), k != i);
		}
		assert_true(virtq_features_subset(one, all));
		assert_false(virtq_features_subset(one, others));
		assert_set(virtq_features_and(one, others), none);
		assert_set(virtq_features_or(one, others), all);
	}
	for (unsigned int i = 128; i < 300; i++) {
		assert_false(virtq_features_has(all, i));
		assert_set(virtq_features_with(none, i), none);
		assert_set(virtq_features_without(all, i), all);
	}
}

/* F-031: bits 65 to 70 of a network device survive being chosen. */
static void test_high_bits_are_chosen(void **state)
{
	struct virtq_features high = SET(0, 1, 7, 8, 11, 12, 54, 55, 56, 65, 66, 67, 68, 69, 70);

	(void)state;
	assert_set(virtq_features_choose(VIRTIO_ID_NET, all, high), virtq_features_with(high, 32));
	assert_set(virtq_features_choose(VIRTIO_ID_NET, high, all), high);
}

/* F-001: of whatever is wanted, only what was offered; each bit by itself, too. */
static void test_only_what_is_offered(void **state)
{
	uint64_t random = 1;

	(void)state;
	for (unsigned int i = 0; i < 128; i++) {
		struct virtq_features one = virtq_features_with(none, i);

		assert_set(virtq_features_choose(0, none, one), none);
		assert_set(virtq_features_choose(0, virtq_features_without(all, i), one),
			   i == VIRTIO_F_VERSION_1 ? none : SET(32));
	}
	for (unsigned int i = 0; i < 20000; i++) {
		struct virtq_features f[2];

		for (unsigned int k = 0; k < 4; k++) {
			random = random * 6364136223846793005u + 1442695040888963407u;
			f[k / 2].word[k % 2] = random ^ random >> 33;
		}
		assert_true(virtq_features_subset(virtq_features_choose(i % 30, f[0], f[1]), f[0]));
	}
}

/* One bit and what it needs: all of @all, and one of @any if there are some. */
struct need {
	unsigned int device_id, bit, all[4], any[2];
};
#define NO 200u			/* no bit: out of range */
#define NET(bit, ...) { VIRTIO_ID_NET, bit, __VA_ARGS__ }
#define JUST(a) { a, NO, NO, NO }, { NO, NO }

/* 5.1.3.1 and 5.9.3.1, once more, in numbers and by hand. */
static const struct need needs[] = {
	NET(7, JUST(1)), NET(8, JUST(1)), NET(10, JUST(1)), NET(54, JUST(1)), NET(55, JUST(1)),
	NET(9, { NO, NO, NO, NO }, { 7, 8 }),
	NET(65, { 7, 8, 54, 55 }, { NO, NO }), NET(66, JUST(65)),
	NET(11, JUST(0)), NET(12, JUST(0)), NET(14, JUST(0)), NET(56, JUST(0)),
	NET(13, { NO, NO, NO, NO }, { 11, 12 }),
	NET(67, { 11, 12, 56, NO }, { NO, NO }), NET(68, JUST(67)),
	NET(18, JUST(17)), NET(19, JUST(17)), NET(21, JUST(17)), NET(22, JUST(17)),
	NET(23, JUST(17)), NET(53, JUST(17)), NET(60, JUST(17)), NET(52, JUST(17)),
	NET(61, { NO, NO, NO, NO }, { 11, 12 }),
	NET(51, { 17, NO, NO, NO }, { 60, 57 }), NET(64, { 17, 60, NO, NO }, { NO, NO }),
	{ VIRTIO_ID_CRYPTO, 1, JUST(0) }, { VIRTIO_ID_CRYPTO, 5, JUST(0) },
};

/* F-002: a bit goes when what it needs is not wanted, or not offered; MQ without CTRL_VQ. */
static void test_prerequisites(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
		const struct need *n = &needs[i];
		struct virtq_features without;

		assert_true(virtq_features_has(virtq_features_choose(n->device_id, all, all),
					       n->bit));
		for (unsigned int k = 0; k < 4; k++) {
			without = virtq_features_without(all, n->all[k]);
			if (n->all[k] == NO)
				continue;
			assert_false(virtq_features_has(
				virtq_features_choose(n->device_id, all, without), n->bit));
			/* F-003: what was offered makes no sense; the rest is taken. */
			assert_false(virtq_features_has(
				virtq_features_choose(n->device_id, without, all), n->bit));
		}
		if (n->any[0] == NO)
			continue;
		for (unsigned int k = 0; k < 2; k++) {
			without = virtq_features_without(all, n->any[k]);
			assert_true(virtq_features_has(
				virtq_features_choose(n->device_id, all, without), n->bit));
		}
		without = virtq_features_without(virtq_features_without(all, n->any[0]), n->any[1]);
		assert_false(virtq_features_has(virtq_features_choose(n->device_id, all, without),
						n->bit));
	}
	/* One goes and takes the next along: checksums, TSO, the tunnel, the tunnel's checksum. */
	assert_set(virtq_features_choose(VIRTIO_ID_NET, all,
					 SET(11, 12, 13, 56, 67, 68, 5)), SET(5, 32));
	/* Which type it is decides: a disk's bit 22 or 7 is none. */
	assert_set(virtq_features_choose(VIRTIO_ID_BLOCK, all, SET(7, 22, 9)), SET(9, 32));
}

/* F-003: CONFIG_WCE may be accepted alone, but not be offered so (5.2.5.2). */
static void test_config_wce(void **state)
{
	const unsigned int wce = VIRTIO_BLK_F_CONFIG_WCE, flush = VIRTIO_BLK_F_FLUSH;

	(void)state;
	assert_set(virtq_features_choose(VIRTIO_ID_BLOCK, all, SET(wce)), SET(wce, 32));
	assert_set(virtq_features_choose(VIRTIO_ID_BLOCK, virtq_features_without(all, flush),
					 SET(wce)), SET(32));
}

/*
 * F-004, F-007: offered all 128 bits and wanting all, a driver takes none that
 * are reserved (44 to 49), legacy or the transport's (24 to 27, 30, 31), nor
 * those that the type does not have. F-029, F-033: never 26 and 30.
 */
static void test_reserved_bits_are_ignored(void **state)
{
	static const struct {
		unsigned int device_id;
		struct virtq_features own;
	} types[] = {
		{ VIRTIO_ID_BLOCK, { { 0x3fe76, 0 } } },
		{ VIRTIO_ID_NET, { { 0xfbfc000000ffffaf, 0x7f } } },
		{ VIRTIO_ID_CRYPTO, { { 0x3f, 0 } } },
		{ 0, { { 0xfffc000000ffffff, UINT64_MAX } } },
		{ 42, { { 0xfffc000000ffffff, UINT64_MAX } } },
	};
	/* 28, 29, 32 to 41, 43 */
	const uint64_t ring = 0xbff30000000;

	(void)state;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct virtq_features want = types[i].own;

		want.word[0] |= ring;
		assert_set(virtq_features_choose(types[i].device_id, all, all), want);
	}
}

/* F-005: whatever is missing from the offer, what is left is chosen. */
static void test_falls_back(void **state)
{
	struct virtq_features usual = virtq_ring_features_usual();

	(void)state;
	for (unsigned int i = 0; i < 64; i++)
		assert_set(virtq_features_choose(0, virtq_features_without(usual, i), usual),
			   virtq_features_without(usual, i));
	assert_set(virtq_features_choose(0, SET(32), usual), SET(32));
}

/* F-013: VERSION_1 is taken whenever it is offered, wanted or not. */
static void test_version_1_is_accepted(void **state)
{
	(void)state;
	assert_set(virtq_features_choose(0, all, none), SET(32));
	assert_set(virtq_features_choose(VIRTIO_ID_BLOCK, SET(32, 9), SET(9)), SET(9, 32));
	assert_set(virtq_features_choose(0, SET(9), SET(9, 32)), SET(9));
}

/* F-020, F-023: who wants what the rings serve takes RING_PACKED and ORDER_PLATFORM. */
static void test_ring_bits_are_accepted(void **state)
{
	(void)state;
	assert_true(virtq_features_has(virtq_features_choose(0, all, virtq_ring_features_usual()),
				       VIRTIO_F_RING_PACKED));
	assert_true(virtq_features_has(virtq_features_choose(0, all, virtq_ring_features()),
				       VIRTIO_F_RING_PACKED));
	assert_true(virtq_features_has(virtq_features_choose(0, all, virtq_ring_features()),
				       VIRTIO_F_ORDER_PLATFORM));
}

/*
 * F-027: over a transport that carries it, as PCI does, NOTIF_CONFIG_DATA is
 * taken, and what the device configured goes out in place of the queue's number.
 */
static void test_notif_config_data(void **state)
{
	const struct shape *shape = *state;
	struct virtq_features f = virtq_features_choose(0, all, virtq_ring_features());
	struct rig r;

	assert_true(virtq_features_has(f, VIRTIO_F_NOTIF_CONFIG_DATA));
	rig_memory(&r, shape);
	r.driver_ring.features = virtq_features_with(r.driver_ring.features,
						     VIRTIO_F_NOTIF_CONFIG_DATA);
	rig_make_driver(&r);
	rig_send(&r, 1);
	assert_int_equal(virtq_driver_kick_data(r.driver, 0xc0de) & 0xffff, 0xc0de);
	assert_int_equal(virtq_driver_kick_data(r.driver, 0xc0de) >> 16,
			 !shape->notification_data ? 0 : shape->packed ? 0x8001 : 1);
	rig_close(&r);
}

/* Where the descriptor of the one direct buffer in flight is. */
static uint8_t *only_descriptor(struct rig *r, uint32_t at)
{
	return r->shape.packed ? r->desc.driver + 16 * (size_t)(at % r->shape.size) :
				 split_desc(r, get16(avail_ring(r, (uint16_t)at)));
}

/*
 * F-018: the driver end puts the addresses that it is given into descriptors,
 * bit by bit, whatever they mean on this machine; with ACCESS_PLATFORM the
 * caller gives it translated ones, without physical ones.
 */
static void test_addresses_as_given(void **state)
{
	const struct shape *shape = *state;
	struct rig r;

	for (unsigned int with = 0; with < 2; with++) {
		uint64_t random = 99;

		rig_memory(&r, shape);
		if (with)
			r.driver_ring.features = virtq_features_with(r.driver_ring.features,
								     VIRTIO_F_ACCESS_PLATFORM);
		rig_make_driver(&r);
		for (uint32_t i = 0; i < shape->size; i++) {
			static const uint64_t edges[] = { 0, 1, UINT64_MAX - 9, BIT(63), 0xffffffff };
			uint64_t addr = i < 5 ? edges[i] : (random = random * 6364136223846793005u + 1);

			assert_int_equal(rig_add(&r, addr, 8, i & 1, NULL), 1);
			virtq_driver_publish(r.driver);
			assert_int_equal(get64(only_descriptor(&r, i)), addr);
			assert_int_equal(get32(only_descriptor(&r, i) + 8), 8);
		}
		rig_close(&r);
	}
}

#define IOVA_EDGE ((uint64_t)1 << 52)

static const struct virtq_seg far_apart[5] = {
	{ UINT64_MAX - 9, 8 }, { 0, 8 }, { 0x123456789abcdef0, 8 }, { 1, 8 }, { IOVA_EDGE, 8 },
};

/* F-018: the same for all buffers of a batch, and for all elements of a chain. */
static void test_many_addresses_as_given(void **state)
{
	const struct shape *shape = *state;
	const struct virtq_buffer chain = { far_apart, 1, 4, NULL };
	struct virtq_buffer batch[5];

	for (unsigned int i = 0; i < 5; i++)
		batch[i] = (struct virtq_buffer){ &far_apart[i], i < 2, i >= 2, NULL };
	for (unsigned int chained = 0; chained < 2; chained++) {
		uint8_t *desc;
		struct rig r;

		rig_memory(&r, shape);
		rig_make_driver(&r);
		assert_int_equal(virtq_driver_add(r.driver, chained ? &chain : batch,
						  chained ? 1 : 5), chained ? 1 : 5);
		desc = only_descriptor(&r, 0);
		for (unsigned int i = 0; i < 5; i++) {
			if (!chained || shape->packed)
				desc = only_descriptor(&r, i);
			else if (i)
				desc = split_desc(&r, get16(desc + 14));
			assert_int_equal(get64(desc), far_apart[i].addr);
		}
		rig_close(&r);
	}
}

/* F-018: the same for tables, and for what is in them. */
static void test_table_addresses_as_given(void **state)
{
	const struct shape *shape = *state;
	const struct virtq_buffer buf = { far_apart, 1, 4, NULL };
	const uint64_t iova = 0xfedc000000000000;
	struct rig r;

	rig_memory(&r, shape);
	r.driver_config.indirect = r.table.driver;
	r.driver_config.indirect_addr = iova;
	r.driver_config.indirect_entries = RIG_TABLE_ENTRIES;
	r.driver_config.ring = r.driver_ring;
	assert_int_equal(virtq_driver_create(&r.driver, &r.driver_config, NULL), 0);
	for (uint32_t i = 0; i < 5; i++) {
		uint64_t table;

		assert_int_equal(virtq_driver_add(r.driver, &buf, 1), 1);
		virtq_driver_publish(r.driver);
		assert_true(get16(only_descriptor(&r, i) + (shape->packed ? 14 : 12)) & F_INDIRECT);
		table = get64(only_descriptor(&r, i)) - iova;
		assert_true(table <= r.table.bytes - 80);
		for (unsigned int k = 0; k < 5; k++)
			assert_int_equal(get64(r.table.driver + table + 16 * k), far_apart[k].addr);
	}
	rig_close(&r);
}

/* F-021: the same memory, from one session to the next: the bit alone says what is written. */
static void test_layout_follows_the_bit(void **state)
{
	static const struct shape shape = { .packed = true, .size = 8 };
	struct rig r;

	(void)state;
	/* All areas in memory that is aligned and large enough for either. */
	rig_memory(&r, &(struct shape){ .size = 64 });
	for (unsigned int i = 0; i < 6; i++) {
		bool packed = i & 1;
		struct virtq_driver_config drv = { .ring = r.driver_ring };
		struct virtq_device_config dev = { .ring = r.device_ring, .map = r.map };
		struct virtq_req *req;

		drv.ring.features = dev.ring.features = packed ? shape_features(&shape) : SET(32);
		drv.ring.size = dev.ring.size = shape.size;
		drv.ring.driver = r.desc.driver + 256;
		drv.ring.device = r.desc.driver + 512;
		dev.ring.driver = r.desc.device + 256;
		dev.ring.device = r.desc.device + 512;
		assert_int_equal(virtq_driver_create(&r.driver, &drv, NULL), 0);
		assert_int_equal(virtq_device_create(&r.device, &dev, NULL), 0);
		rig_send(&r, 1);
		assert_int_equal(get16(r.desc.driver + 256 + 2), !packed);	/* avail->idx */
		assert_int_equal(get16(r.desc.driver + 14),
				 packed ? F_AVAIL | F_WRITE : 0);
		assert_int_equal(get16(r.desc.driver + 12), packed ? 0 : F_WRITE);
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
		virtq_device_push(r.device, &req, 1);
		virtq_device_publish(r.device);
		assert_int_equal(get16(r.desc.driver + 512 + 2), !packed);	/* used->idx */
		assert_int_equal(get16(r.desc.driver + 14) & (F_AVAIL | F_USED),
				 packed ? F_AVAIL | F_USED : 0);
		rig_collect(&r, 1);
		virtq_driver_destroy(r.driver);
		virtq_device_destroy(r.device);
	}
	r.driver = NULL;
	r.device = NULL;
	rig_close(&r);
}

int main(void)
{
	struct shape data[4] = {
		{ .size = 8, .name = "split" }, { .packed = true, .size = 7, .name = "packed" },
		{ .size = 8, .notification_data = true, .name = "split with data" },
		{ .packed = true, .size = 7, .notification_data = true, .name = "packed with data" },
	};
	struct matrix m = { 0 };

	matrix_add_one(&m, "F-031 128 bits", test_128_bits);
	matrix_add_one(&m, "F-031 high bits are chosen", test_high_bits_are_chosen);
	matrix_add_one(&m, "F-001 only what is offered", test_only_what_is_offered);
	matrix_add_one(&m, "F-002 F-003 prerequisites", test_prerequisites);
	matrix_add_one(&m, "F-003 CONFIG_WCE", test_config_wce);
	matrix_add_one(&m, "F-004 F-007 reserved bits are ignored", test_reserved_bits_are_ignored);
	matrix_add_one(&m, "F-005 falls back", test_falls_back);
	matrix_add_one(&m, "F-013 VERSION_1 is accepted", test_version_1_is_accepted);
	matrix_add_one(&m, "F-020 F-023 ring bits are accepted", test_ring_bits_are_accepted);
	matrix_add_shapes(&m, "F-027 NOTIF_CONFIG_DATA", test_notif_config_data, data, 4);
	matrix_add(&m, "F-018 addresses as given", test_addresses_as_given,
		   ONLY_NEW | AT_LEAST_5 | NOT_HUGE | ALSO_IN_ORDER);
	matrix_add(&m, "F-018 many addresses as given", test_many_addresses_as_given,
		   ONLY_NEW | AT_LEAST_5 | ONLY_DIRECT | NOT_HUGE | ALSO_IN_ORDER);
	matrix_add(&m, "F-018 table addresses as given", test_table_addresses_as_given,
		   ONLY_NEW | AT_LEAST_5 | ONLY_INDIRECT | NOT_HUGE | ALSO_IN_ORDER);
	matrix_add_one(&m, "F-021 layout follows the bit", test_layout_follows_the_bit);
	return matrix_run(&m, "rules of features");
}
