/* SPDX-License-Identifier: MIT */
/*
 * What is not served is refused where the two sides agree on it: the proof for
 * the rows "refused" of docs/conformance.md.
 */
#include "rig.h"

/* Neither end is made over such a ring, and both say why. */
static void no_end(const struct shape *shape, struct virtq_features features)
{
	struct virtq_error err = { 0 };
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct rig r;

	rig_memory(&r, shape);
	r.driver_config.ring = r.driver_ring;
	r.driver_config.ring.features = features;
	r.device_config.ring = r.device_ring;
	r.device_config.ring.features = features;
	r.device_config.map = r.map;
	assert_int_equal(virtq_driver_create(&driver, &r.driver_config, &err), -EINVAL);
	assert_non_null(strstr(err.text, "VERSION_1"));
	memset(&err, 0, sizeof(err));
	assert_int_equal(virtq_device_create(&device, &r.device_config, &err), -EINVAL);
	assert_non_null(strstr(err.text, "VERSION_1"));
	rig_close(&r);
}

/*
 * Legacy rings, whose fields are in the byte order of the guest and whose parts lie
 * in one block: nobody can make an end of one, on a machine of either byte order.
 */
static void test_legacy_rings(void **state)
{
	const struct shape *shape = *state;
	struct virtq_features f = virtq_features_without(shape_features(shape),
							 VIRTIO_F_VERSION_1);

	no_end(shape, f);
	no_end(shape, virtq_features_with(f, VIRTIO_F_ANY_LAYOUT));
	no_end(shape, virtq_features_with(f, VIRTIO_F_NOTIFY_ON_EMPTY));
}

/* Bits that a driver or a device that keeps to these functions never offers or accepts. */
static void test_features_not_served(void **state)
{
	static const unsigned int never[] = {
		VIRTIO_F_NOTIFY_ON_EMPTY, VIRTIO_F_ANY_LAYOUT, VIRTIO_F_SR_IOV, VIRTIO_F_ADMIN_VQ,
		VIRTIO_F_SUSPEND,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
		assert_false(virtq_features_has(virtq_ring_features(), never[i]));
		assert_false(virtq_features_has(virtq_ring_features_usual(), never[i]));
	}
}

int main(void)
{
	static struct shape shapes[] = {
		{ .size = 8, .name = "split" },
		{ .size = 5, .packed = true, .name = "packed" },
	};
	struct matrix m = { 0 };

	matrix_add_shapes(&m, "rings without VERSION_1", test_legacy_rings, shapes, 2);
	matrix_add_one(&m, "features that are not served", test_features_not_served);
	return matrix_run(&m, "what is refused");
}
