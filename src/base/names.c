/* SPDX-License-Identifier: MIT */
/* The standard's names, for people. */
#include <stddef.h>

#include <virtq/features.h>
#include <virtq/spec/blk.h>
#include <virtq/spec/virtio.h>
#include <virtq/version.h>

struct bit_name {
	unsigned int bit;
	const char *name;
};

/* Bits 24 to 50 mean the same for every device type (VIRTIO 1.4, 2.2 and 6). */
static const struct bit_name reserved_bits[] = {
	{ VIRTIO_F_NOTIFY_ON_EMPTY, "NOTIFY_ON_EMPTY" },
	{ VIRTIO_F_ANY_LAYOUT, "ANY_LAYOUT" },
	{ VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC" },
	{ VIRTIO_F_EVENT_IDX, "EVENT_IDX" },
	{ VIRTIO_F_VERSION_1, "VERSION_1" },
	{ VIRTIO_F_ACCESS_PLATFORM, "ACCESS_PLATFORM" },
	{ VIRTIO_F_RING_PACKED, "RING_PACKED" },
	{ VIRTIO_F_IN_ORDER, "IN_ORDER" },
	{ VIRTIO_F_ORDER_PLATFORM, "ORDER_PLATFORM" },
	{ VIRTIO_F_SR_IOV, "SR_IOV" },
	{ VIRTIO_F_NOTIFICATION_DATA, "NOTIFICATION_DATA" },
	{ VIRTIO_F_NOTIF_CONFIG_DATA, "NOTIF_CONFIG_DATA" },
	{ VIRTIO_F_RING_RESET, "RING_RESET" },
	{ VIRTIO_F_ADMIN_VQ, "ADMIN_VQ" },
	{ VIRTIO_F_SUSPEND, "SUSPEND" },
	{ 0, NULL },
};

static const struct bit_name blk_bits[] = {
	{ VIRTIO_BLK_F_SIZE_MAX, "SIZE_MAX" },
	{ VIRTIO_BLK_F_SEG_MAX, "SEG_MAX" },
	{ VIRTIO_BLK_F_GEOMETRY, "GEOMETRY" },
	{ VIRTIO_BLK_F_RO, "RO" },
	{ VIRTIO_BLK_F_BLK_SIZE, "BLK_SIZE" },
	{ VIRTIO_BLK_F_FLUSH, "FLUSH" },
	{ VIRTIO_BLK_F_TOPOLOGY, "TOPOLOGY" },
	{ VIRTIO_BLK_F_CONFIG_WCE, "CONFIG_WCE" },
	{ VIRTIO_BLK_F_MQ, "MQ" },
	{ VIRTIO_BLK_F_DISCARD, "DISCARD" },
	{ VIRTIO_BLK_F_WRITE_ZEROES, "WRITE_ZEROES" },
	{ VIRTIO_BLK_F_LIFETIME, "LIFETIME" },
	{ VIRTIO_BLK_F_SECURE_ERASE, "SECURE_ERASE" },
	{ VIRTIO_BLK_F_ZONED, "ZONED" },
	{ 0, NULL },
};

static const char *find(const struct bit_name *names, unsigned int bit)
{
	for (; names->name; names++)
		if (names->bit == bit)
			return names->name;
	return NULL;
}

const char *virtq_feature_name(unsigned int device_id, unsigned int bit)
{
	const char *name = find(reserved_bits, bit);

	if (!name && device_id == VIRTIO_ID_BLOCK)
		name = find(blk_bits, bit);
	return name;
}

const char *virtq_version(void)
{
	return VIRTQ_VERSION;
}
