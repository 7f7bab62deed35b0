/* SPDX-License-Identifier: MIT */
/* Which feature bits may be offered and accepted. The tables are the standard's. */
#include "transport/features.h"

#include <stddef.h>

#include <virtq/ring.h>
#include <virtq/spec/blk.h>
#include <virtq/spec/virtio.h>

#include "base/error.h"

#define BIT(n) ((uint64_t)1 << (n))
#define BITS(first, last) ((BIT((last) - (first)) * 2 - 1) << (first))
#define LOW(word) { { (word), 0 } }
#define HIGH(word) { { 0, (word) } }

/* One bit that needs others: all of @all, and one of @any unless that is empty. */
struct requirement {
	unsigned int bit;
	struct virtq_features all, any;
	bool offered_only;
};

/* What is known of a device type. */
struct device_type {
	unsigned int device_id;
	struct virtq_features bits;	/* those it has, of its own */
	const struct requirement *requirements;
	size_t count;
};

/*
 * CONFIG_WCE: a device that offers it MUST offer FLUSH (5.2.5.2); a driver may
 * accept it alone and then starts with a write-through cache.
 */
static const struct requirement blk_requirements[] = {
	{ VIRTIO_BLK_F_CONFIG_WCE, LOW(BIT(VIRTIO_BLK_F_FLUSH)), .offered_only = true },
};

/* 5.1.3 */
enum {
	NET_CSUM = 0, NET_GUEST_CSUM = 1, NET_GUEST_TSO4 = 7, NET_GUEST_TSO6 = 8,
	NET_GUEST_ECN = 9, NET_GUEST_UFO = 10, NET_HOST_TSO4 = 11, NET_HOST_TSO6 = 12,
	NET_HOST_ECN = 13, NET_HOST_UFO = 14, NET_CTRL_VQ = 17, NET_CTRL_RX = 18,
	NET_CTRL_VLAN = 19, NET_GUEST_ANNOUNCE = 21, NET_MQ = 22, NET_CTRL_MAC_ADDR = 23,
	NET_HASH_TUNNEL = 51, NET_VQ_NOTF_COAL = 52, NET_NOTF_COAL = 53, NET_GUEST_USO4 = 54,
	NET_GUEST_USO6 = 55, NET_HOST_USO = 56, NET_HASH_REPORT = 57, NET_RSS = 60,
	NET_RSC_EXT = 61, NET_RSS_CONTEXT = 64, NET_GUEST_UDP_TUNNEL_GSO = 65,
	NET_GUEST_UDP_TUNNEL_GSO_CSUM = 66, NET_HOST_UDP_TUNNEL_GSO = 67,
	NET_HOST_UDP_TUNNEL_GSO_CSUM = 68,
};

/* 5.1.3.1 */
static const struct requirement net_requirements[] = {
	{ NET_GUEST_TSO4, LOW(BIT(NET_GUEST_CSUM)) },
	{ NET_GUEST_TSO6, LOW(BIT(NET_GUEST_CSUM)) },
	{ NET_GUEST_ECN, .any = LOW(BIT(NET_GUEST_TSO4) | BIT(NET_GUEST_TSO6)) },
	{ NET_GUEST_UFO, LOW(BIT(NET_GUEST_CSUM)) },
	{ NET_GUEST_USO4, LOW(BIT(NET_GUEST_CSUM)) },
	{ NET_GUEST_USO6, LOW(BIT(NET_GUEST_CSUM)) },
	{ NET_GUEST_UDP_TUNNEL_GSO, LOW(BIT(NET_GUEST_TSO4) | BIT(NET_GUEST_TSO6) |
					BIT(NET_GUEST_USO4) | BIT(NET_GUEST_USO6)) },
	{ NET_GUEST_UDP_TUNNEL_GSO_CSUM, HIGH(BIT(NET_GUEST_UDP_TUNNEL_GSO - 64)) },
	{ NET_HOST_TSO4, LOW(BIT(NET_CSUM)) },
	{ NET_HOST_TSO6, LOW(BIT(NET_CSUM)) },
	{ NET_HOST_ECN, .any = LOW(BIT(NET_HOST_TSO4) | BIT(NET_HOST_TSO6)) },
	{ NET_HOST_UFO, LOW(BIT(NET_CSUM)) },
	{ NET_HOST_USO, LOW(BIT(NET_CSUM)) },
	{ NET_HOST_UDP_TUNNEL_GSO, LOW(BIT(NET_HOST_TSO4) | BIT(NET_HOST_TSO6) |
				       BIT(NET_HOST_USO)) },
	{ NET_HOST_UDP_TUNNEL_GSO_CSUM, HIGH(BIT(NET_HOST_UDP_TUNNEL_GSO - 64)) },
	{ NET_CTRL_RX, LOW(BIT(NET_CTRL_VQ)) },
	{ NET_CTRL_VLAN, LOW(BIT(NET_CTRL_VQ)) },
	{ NET_GUEST_ANNOUNCE, LOW(BIT(NET_CTRL_VQ)) },
	{ NET_MQ, LOW(BIT(NET_CTRL_VQ)) },
	{ NET_CTRL_MAC_ADDR, LOW(BIT(NET_CTRL_VQ)) },
	{ NET_NOTF_COAL, LOW(BIT(NET_CTRL_VQ)) },
	{ NET_RSC_EXT, .any = LOW(BIT(NET_HOST_TSO4) | BIT(NET_HOST_TSO6)) },
	{ NET_RSS, LOW(BIT(NET_CTRL_VQ)) },
	{ NET_VQ_NOTF_COAL, LOW(BIT(NET_CTRL_VQ)) },
	{ NET_HASH_TUNNEL, LOW(BIT(NET_CTRL_VQ)), LOW(BIT(NET_RSS) | BIT(NET_HASH_REPORT)) },
	{ NET_RSS_CONTEXT, LOW(BIT(NET_CTRL_VQ) | BIT(NET_RSS)) },
};

/* 5.9.3.1: the stateless modes, 1 to 5, need REVISION_1. */
static const struct requirement crypto_requirements[] = {
	{ 1, LOW(BIT(0)) }, { 2, LOW(BIT(0)) }, { 3, LOW(BIT(0)) }, { 4, LOW(BIT(0)) },
	{ 5, LOW(BIT(0)) },
};

#define TABLE(array) (array), sizeof(array) / sizeof((array)[0])

static const struct device_type device_types[] = {
	{ VIRTIO_ID_BLOCK, LOW(BITS(1, 2) | BITS(4, 6) | BITS(9, 17)), TABLE(blk_requirements) },
	{ VIRTIO_ID_NET, { { BITS(0, 3) | BIT(5) | BITS(7, 23) | BITS(50, 57) | BITS(59, 63),
			     BITS(0, 6) } }, TABLE(net_requirements) },
	{ VIRTIO_ID_CRYPTO, LOW(BITS(0, 5)), TABLE(crypto_requirements) },
};

/*
 * Bits of device types whose members are not known here (2.2). 41 and 42, which
 * are theirs on paper, are given to nothing but administration queues, on PCI.
 */
static const struct device_type unknown_type = {
	0, { { BITS(0, 23) | BITS(50, 63), UINT64_MAX } }, NULL, 0,
};

/* What a driver may want for any device type (6); the other bits are reserved or legacy. */
#define INDEPENDENT (BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX) | \
		     BITS(VIRTIO_F_VERSION_1, VIRTIO_F_ADMIN_VQ) | BIT(VIRTIO_F_SUSPEND))

static const struct device_type *type_of(unsigned int device_id)
{
	for (size_t i = 0; i < sizeof(device_types) / sizeof(device_types[0]); i++)
		if (device_types[i].device_id == device_id)
			return &device_types[i];
	return &unknown_type;
}

struct virtq_features features_of_fd_transports(void)
{
	struct virtq_features f = virtq_ring_features();

	f = virtq_features_without(f, VIRTIO_F_ACCESS_PLATFORM);
	f = virtq_features_without(f, VIRTIO_F_NOTIFICATION_DATA);
	return virtq_features_without(f, VIRTIO_F_NOTIF_CONFIG_DATA);
}

struct virtq_features features_defined(unsigned int device_id, struct virtq_features set,
				       struct virtq_features carried)
{
	return virtq_features_and(set, virtq_features_or(type_of(device_id)->bits, carried));
}

static bool satisfied(const struct requirement *r, struct virtq_features set,
		      enum features_of side)
{
	struct virtq_features any = virtq_features_and(r->any, set);

	if (!virtq_features_has(set, r->bit) || (r->offered_only && side != FEATURES_OFFERED))
		return true;
	return virtq_features_subset(r->all, set) &&
	       ((!r->any.word[0] && !r->any.word[1]) || any.word[0] || any.word[1]);
}

struct virtq_features features_consistent(unsigned int device_id, struct virtq_features set,
					  enum features_of side)
{
	const struct device_type *type = type_of(device_id);
	bool changed;

	/* A bit that goes can take others with it. */
	do {
		changed = false;
		for (size_t i = 0; i < type->count; i++) {
			if (satisfied(&type->requirements[i], set, side))
				continue;
			set = virtq_features_without(set, type->requirements[i].bit);
			changed = true;
		}
	} while (changed);
	return set;
}

unsigned int features_lowest(struct virtq_features set)
{
	return set.word[0] ? (unsigned int)__builtin_ctzll(set.word[0]) :
			     64 + (unsigned int)__builtin_ctzll(set.word[1]);
}

static struct virtq_features outside(struct virtq_features part, struct virtq_features whole)
{
	return (struct virtq_features){ { part.word[0] & ~whole.word[0],
					  part.word[1] & ~whole.word[1] } };
}

int features_check(unsigned int device_id, struct virtq_features set, enum features_of side,
		   struct virtq_error *err)
{
	const struct device_type *type = type_of(device_id);

	for (size_t i = 0; i < type->count; i++) {
		const struct requirement *r = &type->requirements[i];

		if (satisfied(r, set, side))
			continue;
		if (!virtq_features_subset(r->all, set))
			return error_set(err, -EINVAL,
					 "feature bit %u of device type %u needs bit %u, which is missing",
					 r->bit, device_id, features_lowest(outside(r->all, set)));
		return error_set(err, -EINVAL,
				 "feature bit %u of device type %u needs bit %u or a bit like it",
				 r->bit, device_id, features_lowest(r->any));
	}
	return 0;
}

struct virtq_features virtq_features_choose(unsigned int device_id,
					    struct virtq_features offered,
					    struct virtq_features wanted)
{
	struct virtq_features independent = LOW(INDEPENDENT);

	offered = features_defined(device_id, offered, independent);
	offered = features_consistent(device_id, offered, FEATURES_OFFERED);
	wanted = virtq_features_with(wanted, VIRTIO_F_VERSION_1);
	return features_consistent(device_id, virtq_features_and(wanted, offered),
				   FEATURES_ACCEPTED);
}
