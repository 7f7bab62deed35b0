/* SPDX-License-Identifier: MIT */
/*
 * Memory that both ends of a queue can reach.
 *
 * A *mapping* is memory of this process that is unmapped when nobody holds it
 * any more. A *region* says under which addresses a piece of memory is known.
 * A *map* is an immutable table of regions: the only place in the library where
 * an address written by a peer becomes a pointer. To change what a peer may
 * reach, build a new map and give that to the queues; requests in flight keep
 * the old one, and its memory, until they end.
 */
#ifndef VIRTQ_MEM_H
#define VIRTQ_MEM_H

#include <stddef.h>
#include <stdint.h>

#include <virtq/api.h>
#include <virtq/error.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_map;
struct virtq_mapping;

/** A piece of this process's memory. Same layout as POSIX struct iovec. */
struct virtq_span {
	void *base;
	size_t len;	/* bytes */
};

/** One element of a buffer as it stands in a descriptor. */
struct virtq_seg {
	uint64_t addr;	/* as the device sees it: guest physical or IOVA */
	uint32_t len;	/* bytes, not 0 */
};

/* Access that a region grants to the device, and that a look-up asks for. */
#define VIRTQ_ACCESS_READ	1u
#define VIRTQ_ACCESS_WRITE	2u
#define VIRTQ_ACCESS_RW		3u

/**
 * struct virtq_region - what one piece of memory is called by whom
 * @gpa:     address used in descriptors, bytes
 * @size_bytes: length, bytes, not 0
 * @host:    where it is in this process
 * @user:    where it is in the driver's process, for transports that name rings
 *           by that address (vhost-user, vhost-kernel); the driver's own side
 *           sets it to @host; 0 if nobody names it so
 * @fd:      file that holds it, to hand to a peer, or -1. Borrowed: must stay
 *           open as long as the map is (a mapping's own fd does)
 * @fd_offset_bytes: where in that file it begins
 * @access:  VIRTQ_ACCESS_...
 * @mapping: held by the map, so that the memory outlives its users; NULL for
 *           memory that the caller keeps alive
 *
 * Since: 0.1
 */
struct virtq_region {
	uint64_t gpa;
	uint64_t size_bytes;
	void *host;
	uint64_t user;
	int fd;
	uint64_t fd_offset_bytes;
	unsigned int access;
	struct virtq_mapping *mapping;
};

/**
 * virtq_mapping_create - new shared memory behind an anonymous file
 * @out:   receives the mapping, with one reference that the caller owns
 * @bytes: length; rounded up to whole pages; zeroed
 * @err:   filled on failure; may be NULL
 *
 * The file is sealed against shrinking, so a peer that holds it cannot make
 * this process fault.
 *
 * Return: 0, or -EINVAL (0 bytes or too many), -ENOMEM, -EMFILE, -ENFILE.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_mapping_create(struct virtq_mapping **out, uint64_t bytes,
				   struct virtq_error *err);

/**
 * virtq_mapping_open - map a piece of a peer's file
 * @out:    receives the mapping, with one reference that the caller owns
 * @fd:     the file; taken: it is closed when the mapping goes, and also on failure
 * @offset_bytes: where the piece begins in the file; need not be page-aligned
 * @bytes:  its length, not 0
 * @access: VIRTQ_ACCESS_RW, or VIRTQ_ACCESS_READ to map it read-only
 * @err:    filled on failure; may be NULL
 *
 * A page of it that is not there is brought while its user waits: an engine, with all
 * that it serves. So the file must be a memfd, or lie on tmpfs, ramfs, hugetlbfs or a
 * local disk's ext2 to ext4, XFS or btrfs. On any other file system (FUSE, NFS, overlays) it
 * may be up to somebody who never answers. This call asks the file system, and closing the
 * file may: it may wait for such a one, an engine never does.
 *
 * Return: 0, or -EINVAL (empty, overflowing, no regular file, on another file system, or a
 *	file shorter than offset_bytes + bytes), -ENOMEM, -ENOSPC (a process watches over 24576
 *	of these at most, see virtq_guard_install()), or what fstat, fstatfs and mmap say.
 * Thread: any. Spec: vhost-user, memory region description. Since: 0.1
 */
VIRTQ_API int virtq_mapping_open(struct virtq_mapping **out, int fd, uint64_t offset_bytes,
				 uint64_t bytes, unsigned int access,
				 struct virtq_error *err);

/**
 * virtq_guard_install - survive peers that shorten the files they shared
 * @err: filled on failure; may be NULL
 *
 * Touching a page behind the end of a file raises SIGBUS. This installs a
 * handler for the whole process that puts zeros in place of what vanished from
 * a mapping made by virtq_mapping_open(), and passes every other SIGBUS on to
 * the handler that was there before. Engines break the queues of such a peer
 * (VIRTQ_FAULT_RING_MEMORY). Programs that serve
 * untrusted clients call it once at start; a library cannot decide that.
 *
 * Return: 0 or -errno. Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_guard_install(struct virtq_error *err);

/** virtq_mapping_ref - one more holder of @mapping. Thread: any. */
VIRTQ_API void virtq_mapping_ref(struct virtq_mapping *mapping);
/** virtq_mapping_unref - one holder fewer; the last unmaps it. NULL is fine. Thread: any. */
VIRTQ_API void virtq_mapping_unref(struct virtq_mapping *mapping);
/** virtq_mapping_host - its first byte in this process. */
VIRTQ_API void *virtq_mapping_host(const struct virtq_mapping *mapping);
/** virtq_mapping_bytes - its length in bytes. */
VIRTQ_API uint64_t virtq_mapping_bytes(const struct virtq_mapping *mapping);
/** virtq_mapping_fd - the file behind it, open as long as the mapping is. */
VIRTQ_API int virtq_mapping_fd(const struct virtq_mapping *mapping);

/**
 * virtq_map_create - build a table of regions
 * @out:     receives the map, with one reference that the caller owns
 * @regions: in any order; copied; each mapping named in it gains a reference
 * @count:   0..VIRTQ_MAP_REGIONS_MAX
 * @err:     filled on failure; may be NULL
 *
 * Return: 0, or -EINVAL (a region is empty, wraps around the address space, or
 *	overlaps another by @gpa or by @user), -ENOMEM.
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_map_create(struct virtq_map **out, const struct virtq_region *regions,
			       unsigned int count, struct virtq_error *err);
#define VIRTQ_MAP_REGIONS_MAX 4096u

/**
 * virtq_map_bytes - memory that virtq_map_init() needs for @count regions
 * virtq_map_init - build a table of regions in the caller's memory
 * @memory: virtq_map_bytes(count) bytes, aligned as for any object; it and the
 *          mappings must stay until the last user of the map is gone
 *
 * As virtq_map_create() for programs without a heap; such a map counts no
 * references and the regions' @mapping must be NULL.
 *
 * Return: 0 or -EINVAL.
 * Thread: any. Since: 0.1
 */
VIRTQ_API size_t virtq_map_bytes(unsigned int count);
VIRTQ_API int virtq_map_init(void *memory, struct virtq_map **out,
			     const struct virtq_region *regions, unsigned int count);

/** virtq_map_ref - one more holder of @map. Thread: any. */
VIRTQ_API void virtq_map_ref(struct virtq_map *map);
/** virtq_map_unref - one holder fewer; the last lets the mappings go. NULL is fine. Thread: any. */
VIRTQ_API void virtq_map_unref(struct virtq_map *map);

/** virtq_map_regions - the table, sorted by address, and its length in @count. */
VIRTQ_API const struct virtq_region *virtq_map_regions(const struct virtq_map *map,
						       unsigned int *count);

/**
 * virtq_map_ptr - the pointer for an address in a descriptor
 * @map:    the table
 * @gpa:    first byte
 * @len:    bytes, not 0
 * @access: what will be done there
 *
 * Return: the pointer if all of it lies in one region that grants @access,
 *	otherwise NULL.
 * Thread: any. Since: 0.1
 */
VIRTQ_API void *virtq_map_ptr(const struct virtq_map *map, uint64_t gpa, uint64_t len,
			      unsigned int access);

/** virtq_map_user_ptr - as virtq_map_ptr() for an address of the driver's process. */
VIRTQ_API void *virtq_map_user_ptr(const struct virtq_map *map, uint64_t user, uint64_t len,
				   unsigned int access);

/**
 * virtq_map_seg - the addresses under which the device knows a piece of memory
 * @map:  the table
 * @host: first byte in this process
 * @len:  bytes, not 0
 * @segs: receives up to @max elements that cover the piece in order, split
 *        where regions meet
 * @max:  capacity of @segs
 *
 * Return: how many elements were written, or -EFAULT (part of it is in no
 *	region), -ENOSPC (more than @max are needed).
 * Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_map_seg(const struct virtq_map *map, const void *host, size_t len,
			    struct virtq_seg *segs, unsigned int max);

#ifdef __cplusplus
}
#endif

#endif
