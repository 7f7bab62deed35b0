/* SPDX-License-Identifier: MIT */
/* A set of feature bits (VIRTIO 1.4, 2.2): 128 of them, addressed by number. */
#ifndef VIRTQ_FEATURES_H
#define VIRTQ_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

#include <virtq/api.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct virtq_features - a feature set
 * @word: bit n of the standard is bit n % 64 of word[n / 64], host byte order
 *
 * A transport that carries 64 bits sends word[0] and reads word[1] as 0.
 *
 * Since: 0.1
 */
struct virtq_features {
	uint64_t word[2];
};

/** virtq_features_has - is bit number @bit, 0..127, in @set? */
static inline bool virtq_features_has(struct virtq_features set, unsigned int bit)
{
	return bit < 128 && (set.word[bit / 64] >> (bit % 64) & 1) != 0;
}

/** virtq_features_with - @set with bit number @bit, 0..127, added */
static inline struct virtq_features virtq_features_with(struct virtq_features set,
							unsigned int bit)
{
	if (bit < 128)
		set.word[bit / 64] |= (uint64_t)1 << (bit % 64);
	return set;
}

/** virtq_features_without - @set with bit number @bit, 0..127, removed */
static inline struct virtq_features virtq_features_without(struct virtq_features set,
							   unsigned int bit)
{
	if (bit < 128)
		set.word[bit / 64] &= ~((uint64_t)1 << (bit % 64));
	return set;
}

/** virtq_features_and - the bits that are in both sets */
static inline struct virtq_features virtq_features_and(struct virtq_features a,
						       struct virtq_features b)
{
	a.word[0] &= b.word[0];
	a.word[1] &= b.word[1];
	return a;
}

/** virtq_features_or - the bits that are in either set */
static inline struct virtq_features virtq_features_or(struct virtq_features a,
						      struct virtq_features b)
{
	a.word[0] |= b.word[0];
	a.word[1] |= b.word[1];
	return a;
}

/** virtq_features_subset - is every bit of @part also in @whole? */
static inline bool virtq_features_subset(struct virtq_features part,
					 struct virtq_features whole)
{
	return !(part.word[0] & ~whole.word[0]) && !(part.word[1] & ~whole.word[1]);
}

/**
 * virtq_features_choose - what a driver accepts of what a device offers
 * @device_id: the device type (VIRTIO_ID_...), 0 if it is not known
 * @offered:   by the device
 * @wanted:    what the driver would make use of
 *
 * Leaves out what was not offered, what the standard reserves or does not
 * define for that device type, and every bit whose prerequisite is left out
 * (a network device's MQ without CTRL_VQ). VERSION_1 is in if it was offered.
 *
 * Return: the set to accept: a subset of @offered.
 * Thread: any. Spec: VIRTIO 1.4, 2.2.1 and 5.x.3. Since: 0.1
 */
VIRTQ_API struct virtq_features virtq_features_choose(unsigned int device_id,
						      struct virtq_features offered,
						      struct virtq_features wanted);

/**
 * virtq_feature_name - the standard's name of a feature bit
 * @device_id: the device type (VIRTIO_ID_...), 0 if it is not known
 * @bit:       the bit's number, 0..127
 *
 * Return: the name without its VIRTIO_ and device prefix ("VERSION_1",
 *	"SEG_MAX"), or NULL if the number has no name for that device type.
 *
 * Thread: any. Spec: VIRTIO 1.4, 6 and 5.x.3. Since: 0.1
 */
VIRTQ_API const char *virtq_feature_name(unsigned int device_id, unsigned int bit);

#ifdef __cplusplus
}
#endif

#endif
