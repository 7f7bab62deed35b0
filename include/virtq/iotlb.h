/* SPDX-License-Identifier: MIT */
/*
 * What descriptors name when ACCESS_PLATFORM was negotiated: I/O virtual
 * addresses, whose translations come one by one and may be taken back.
 *
 * A table is a cache: an address that it does not know is not wrong, only not
 * known yet, and whoever keeps translations is asked for it (a *miss*). It may
 * forget a translation at any time, and never holds one that was taken back.
 *
 * Thread: a table belongs to the thread that owns the queues using it. No call
 * locks, blocks or, after set-up, allocates; other threads send updates there.
 */
#ifndef VIRTQ_IOTLB_H
#define VIRTQ_IOTLB_H

#include <stddef.h>
#include <stdint.h>

#include <virtq/api.h>
#include <virtq/error.h>
#include <virtq/mem.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_iotlb;

#define VIRTQ_IOTLB_ENTRIES_MAX 65536u

/**
 * virtq_iotlb_create - make an empty table on the heap
 * @out:     receives the table
 * @entries: how many pieces of memory it can know at once,
 *           1..VIRTQ_IOTLB_ENTRIES_MAX. A chain that lies in more pieces than
 *           that misses for ever: take at least as many as a chain may have
 *           elements, and some for each ring
 * @err:     filled on failure; may be NULL
 *
 * Return: 0, or -EINVAL, -ENOMEM.
 * Thread: any. Spec: VIRTIO 1.4, 6 (ACCESS_PLATFORM); vhost-user, IOMMU support.
 * Since: 0.1
 */
VIRTQ_API int virtq_iotlb_create(struct virtq_iotlb **out, uint32_t entries,
				 struct virtq_error *err);

/** virtq_iotlb_destroy - free it. No queue may use it any more. NULL is fine. */
VIRTQ_API void virtq_iotlb_destroy(struct virtq_iotlb *tlb);

/**
 * virtq_iotlb_bytes - memory that virtq_iotlb_init() needs; 0 if @entries is out of range
 * virtq_iotlb_init - make an empty table in the caller's memory
 * @memory:  virtq_iotlb_bytes(entries) bytes, aligned as for any object; it must
 *           stay until the last user of the table is gone
 * @out:     receives the table
 * @entries: as for virtq_iotlb_create()
 *
 * Return: 0, or -EINVAL.
 * Thread: any. Since: 0.1
 */
VIRTQ_API size_t virtq_iotlb_bytes(uint32_t entries);
VIRTQ_API int virtq_iotlb_init(void *memory, struct virtq_iotlb **out, uint32_t entries);

/**
 * virtq_iotlb_update - a translation is known now
 * @tlb:        the table
 * @iova:       first address, as descriptors name it
 * @size_bytes: length, bytes, not 0
 * @host:       where that is in this process. Borrowed: it must stay mapped until
 *              the translation was invalidated and the queues that use the table
 *              returned what they had taken before that
 * @access:     VIRTQ_ACCESS_...: what the device may do there
 *
 * Replaces what was known about any of these addresses. Pieces that continue
 * each other, here and there and with the same access, become one, so that a
 * driver that maps page by page takes one entry where its pages lie in a row.
 * In a full table the entry that was updated longest ago is forgotten; never
 * the one of this call.
 *
 * Return: 0, or -EINVAL (empty, wraps around either address space, @host NULL,
 *	no valid access); nothing has changed then.
 * Thread: the owner. Spec: vhost-user, IOTLB messages. Since: 0.1
 */
VIRTQ_API int virtq_iotlb_update(struct virtq_iotlb *tlb, uint64_t iova, uint64_t size_bytes,
				 void *host, unsigned int access);

/**
 * virtq_iotlb_invalidate - translations are taken back
 * @tlb:        the table
 * @iova:       first address
 * @size_bytes: length, bytes; 0 for all there is, whatever @iova says, and
 *              UINT64_MAX from 0 likewise. What would reach behind the last
 *              address ends there
 *
 * Afterwards no address in the range is known. Entries that reach out of it
 * keep the rest; if that leaves two parts where the table has room for one, the
 * longer stays.
 *
 * Thread: the owner. Spec: vhost-user, IOTLB messages. Since: 0.1
 */
VIRTQ_API void virtq_iotlb_invalidate(struct virtq_iotlb *tlb, uint64_t iova,
				      uint64_t size_bytes);

/**
 * virtq_iotlb_ptr - the pointer for an address, for rings and the like
 * @tlb:    the table
 * @iova:   first address
 * @len:    bytes, not 0
 * @access: what will be done there, VIRTQ_ACCESS_...
 * @out:    receives the pointer; untouched on failure
 *
 * All of it has to lie in one piece in this process, be it in several entries.
 * The pointer is good until the translation is invalidated; that the table
 * forgets it does not matter.
 *
 * Return: 0, or the first of these that a look from the front meets:
 *	-EAGAIN  part of it is not known yet; virtq_iotlb_known() says from where
 *	-EACCES  it is known, but @access is denied
 *	-EFAULT  it is known, but in pieces here; or it wraps around the address
 *	         space
 *	-EINVAL  @len is 0
 * Thread: the owner. Since: 0.1
 */
VIRTQ_API int virtq_iotlb_ptr(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len,
			      unsigned int access, void **out);

/**
 * virtq_iotlb_known - how many bytes from an address on are known
 * @tlb:  the table
 * @iova: first address
 * @len:  bytes to look at
 *
 * With whatever access, and in whatever pieces here. If it is less than @len,
 * @iova plus the answer is what to send a miss for.
 *
 * Return: 0..@len.
 * Thread: the owner. Spec: vhost-user, IOTLB messages (miss). Since: 0.1
 */
VIRTQ_API uint64_t virtq_iotlb_known(const struct virtq_iotlb *tlb, uint64_t iova, uint64_t len);

#ifdef __cplusplus
}
#endif

#endif
