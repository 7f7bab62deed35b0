/* SPDX-License-Identifier: MIT */
/* ACCESS_PLATFORM at the ring: addresses that somebody translates, taken as they are given. */
#include "rig.h"

#include <virtq/iotlb.h>

#define IOVA 0xffffa00000000000u
#define PAGE 4096u

/* F-017: who wants what the rings serve accepts ACCESS_PLATFORM where it is offered. */
static void test_access_platform_is_accepted(void **state)
{
	struct virtq_features all = { { UINT64_MAX, UINT64_MAX } };
	struct virtq_features f = virtq_features_choose(0, all, virtq_ring_features());

	(void)state;
	assert_true(virtq_features_has(f, VIRTIO_F_ACCESS_PLATFORM));
	/* Not by who did not ask: somebody has to translate. */
	f = virtq_features_choose(0, all, virtq_ring_features_usual());
	assert_false(virtq_features_has(f, VIRTIO_F_ACCESS_PLATFORM));
}

/* The platform's map of I/O addresses: pages in reverse order, far from where they are. */
static uint64_t iova_of(uint64_t gpa)
{
	uint64_t page = (gpa - RIG_DATA_GPA) / PAGE;

	return IOVA + (1024 - page) * PAGE + gpa % PAGE;
}

/*
 * F-018: descriptors carry what the platform's map says, and nothing else would
 * do: the device finds the bytes by its translations, and does not find those
 * whose physical address was passed.
 */
static void test_translated_addresses_travel(void **state)
{
	const struct shape *shape = *state;
	struct virtq_iotlb *tlb;
	struct virtq_req *req;
	struct rig r;

	rig_memory(&r, shape);
	r.driver_ring.features = virtq_features_with(r.driver_ring.features,
						     VIRTIO_F_ACCESS_PLATFORM);
	r.device_ring.features = r.driver_ring.features;
	rig_make_driver(&r);
	assert_int_equal(virtq_iotlb_create(&tlb, 64, NULL), 0);
	for (uint64_t page = 0; page < 8; page++)
		assert_int_equal(virtq_iotlb_update(tlb, iova_of(RIG_DATA_GPA + page * PAGE), PAGE,
						    r.data[0].device + page * PAGE,
						    VIRTQ_ACCESS_READ), 0);
	r.device_config.iotlb = tlb;
	rig_make_device(&r);
	for (uint32_t i = 0; i < 20; i++) {
		uint64_t gpa = RIG_DATA_GPA + i % 8 * PAGE + i;
		uint8_t byte = 0;
		const uint8_t *desc;

		*rig_at(&r, gpa) = (uint8_t)(i + 100);
		assert_int_equal(rig_add(&r, iova_of(gpa), 1, false, NULL), 1);
		virtq_driver_publish(r.driver);
		desc = shape->packed ? r.desc.driver + 16 * (size_t)(i % shape->size) :
				       split_desc(&r, get16(avail_ring(&r, (uint16_t)i)));
		assert_int_equal(get64(desc), iova_of(gpa));
		assert_int_equal(virtq_device_pop(r.device, &req, 1), 1);
		assert_int_equal(virtq_req_read(req, &byte, 1), 1);
		assert_int_equal(byte, i + 100);
		virtq_device_push(r.device, &req, 1);
		virtq_device_publish(r.device);
		rig_collect(&r, 1);
	}
	/* The physical address is no I/O address: not known. */
	assert_int_equal(rig_add(&r, RIG_DATA_GPA, 1, false, NULL), 1);
	virtq_driver_publish(r.driver);
	assert_int_equal(virtq_device_pop(r.device, &req, 1), -EAGAIN);
	rig_close(&r);
	virtq_iotlb_destroy(tlb);
}

int main(void)
{
	struct shape shapes[] = {
		{ .size = 8, .name = "split" }, { .packed = true, .size = 7, .name = "packed" },
		{ .size = 8, .in_order = true, .name = "split in order" },
		{ .packed = true, .size = 7, .in_order = true, .name = "packed in order" },
	};
	struct matrix m = { 0 };

	matrix_add_one(&m, "F-017 ACCESS_PLATFORM is accepted", test_access_platform_is_accepted);
	matrix_add_shapes(&m, "F-018 translated addresses travel",
			  test_translated_addresses_travel, shapes, 4);
	return matrix_run(&m, "ACCESS_PLATFORM at the ring");
}
