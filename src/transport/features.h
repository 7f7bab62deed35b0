/* SPDX-License-Identifier: MIT */
/*
 * Which feature bits may be offered and accepted: what a transport carries, what
 * a device type has, and which bit needs which other (VIRTIO 1.4, 2.2 and 5.x.3).
 */
#ifndef VIRTQ_TRANSPORT_FEATURES_H
#define VIRTQ_TRANSPORT_FEATURES_H

#include <virtq/error.h>
#include <virtq/features.h>

/*
 * The device-independent bits of transports whose notifications are file
 * descriptors: neither those of a bus, nor those that need a value in the
 * notification, a device status register, or an IOMMU to be spoken to.
 */
struct virtq_features features_of_fd_transports(void);

/*
 * @set without what no device of that type may offer over a transport that
 * carries @carried: reserved bits, those of other transports, those that belong
 * to the transport itself, and those that the type does not have. @device_id
 * 0 or not known here: all bits of device types are let through.
 */
struct virtq_features features_defined(unsigned int device_id, struct virtq_features set,
				       struct virtq_features carried);

/* Who is asked: a few bits need others in what is offered, but not in what is accepted. */
enum features_of { FEATURES_OFFERED, FEATURES_ACCEPTED };

/* @set without the bits whose prerequisites are not in it. */
struct virtq_features features_consistent(unsigned int device_id, struct virtq_features set,
					  enum features_of side);

/* 0, or -EINVAL and which bit of @set lacks what. */
int features_check(unsigned int device_id, struct virtq_features set, enum features_of side,
		   struct virtq_error *err);

/* The lowest bit number in @set, which has one. */
unsigned int features_lowest(struct virtq_features set);

#endif
