/* SPDX-License-Identifier: MIT */
/* Memory from the system: anonymous files, peers' files, and maps on the heap. */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/shm.h"
#include "mem/guard.h"
#include "mem/map.h"

struct virtq_mapping {
	struct shm_refs refs;
	void *host;		/* first byte asked for */
	uint64_t bytes;
	void *pages;		/* what was mapped: whole pages around it */
	size_t pages_bytes;
	int fd;
	int guard;		/* token of guard_watch(), negative for none */
};

/*
 * The pieces in which @fd can be mapped: pages, or huge ones. Offsets are
 * rounded down to it and lengths up, which munmap() of huge pages insists on.
 */
static uint64_t mapping_unit(int fd)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct statfs fs;

	if (fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 0 &&
	    is_power_of_2((uint64_t)fs.f_bsize) && (uint64_t)fs.f_bsize > page)
		return (uint64_t)fs.f_bsize;
	return page;
}

/* Map @bytes at @offset_bytes of @fd, which the mapping takes over on success. */
static int map_file(struct virtq_mapping **out, int fd, uint64_t offset_bytes, uint64_t bytes,
		    unsigned int access, struct virtq_error *err)
{
	uint64_t unit = mapping_unit(fd);
	uint64_t lead = offset_bytes % unit, end, total;
	struct virtq_mapping *m;
	int prot = PROT_READ;

	if (!bytes || add_overflows(offset_bytes, bytes, &end) || end > INT64_MAX ||
	    add_overflows(lead, bytes, &total) || total > SIZE_MAX - unit)
		return error_set(err, -EINVAL,
				 "a memory region of %llu bytes at file offset %llu cannot be",
				 (unsigned long long)bytes, (unsigned long long)offset_bytes);
	m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(err, -ENOMEM, "no memory for a mapping");
	if (access & VIRTQ_ACCESS_WRITE)
		prot |= PROT_WRITE;
	m->pages_bytes = (size_t)align_up(total, unit);
	m->pages = mmap(NULL, m->pages_bytes, prot, MAP_SHARED, fd, (off_t)(offset_bytes - lead));
	if (m->pages == MAP_FAILED) {
		int code = -errno;

		free(m);
		return error_set_errno(err, code, "cannot map %llu bytes of shared memory",
				       (unsigned long long)bytes);
	}
	m->host = (uint8_t *)m->pages + lead;
	m->bytes = bytes;
	m->fd = fd;
	m->guard = -1;
	m->refs.count = 1;
	*out = m;
	return 0;
}

int virtq_mapping_create(struct virtq_mapping **out, uint64_t bytes, struct virtq_error *err)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	int fd, rc;

	if (!bytes || bytes > (uint64_t)INT64_MAX - page)
		return error_set(err, -EINVAL, "cannot make %llu bytes of shared memory",
				 (unsigned long long)bytes);
	bytes = align_up(bytes, page);
	fd = memfd_create("virtq", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return error_set_errno(err, -errno, "cannot make an anonymous file");
	if (ftruncate(fd, (off_t)bytes) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		rc = error_set_errno(err, -errno, "cannot make %llu bytes of shared memory",
				     (unsigned long long)bytes);
	else
		rc = map_file(out, fd, 0, bytes, VIRTQ_ACCESS_RW, err);
	if (rc)
		close(fd);
	return rc;
}

/*
 * Do the pages of @fd come without anybody being asked who may never answer? A fault on
 * them holds up the thread that touches them, and every queue that it serves, until the
 * page is there: for ever, if it is a server's (FUSE, NFS) and the server does not care. Nor is
 * there a way to tell beforehand which page is there. So only memory, and file systems
 * of local disks that memory of guests is kept on.
 *
 * UNTRUSTED: even this asks a server, which may hold up the thread that asks; as may
 * closing the file. That is never an engine's.
 */
static int check_pager(int fd, struct virtq_error *err)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return error_set_errno(err, -errno, "cannot look at a shared memory file");
	switch ((uint32_t)fs.f_type) {
	case TMPFS_MAGIC:	/* memfd too */
	case HUGETLBFS_MAGIC:
	case RAMFS_MAGIC:
	case EXT4_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
		return 0;
	default:
		return error_set(err, -EINVAL,
				 "shared memory must be a memfd or lie on tmpfs, hugetlbfs, ext4, XFS or btrfs, not on a file system (0x%x) that may wait for others to bring a page",
				 (unsigned int)fs.f_type);
	}
}

int virtq_mapping_open(struct virtq_mapping **out, int fd, uint64_t offset_bytes,
		       uint64_t bytes, unsigned int access, struct virtq_error *err)
{
	uint64_t end;
	struct stat st;
	int rc = 0;

	if (fstat(fd, &st) < 0)
		rc = error_set_errno(err, -errno, "cannot look at a shared memory file");
	else if (!S_ISREG(st.st_mode))
		rc = error_set(err, -EINVAL, "shared memory that is no regular file is not taken");
	/* Touching a page behind the end of a file kills the process that does it. */
	else if (add_overflows(offset_bytes, bytes, &end) || end > (uint64_t)st.st_size)
		rc = error_set(err, -EINVAL,
			       "a memory region of %llu bytes at offset %llu reaches behind its file of %llu bytes",
			       (unsigned long long)bytes, (unsigned long long)offset_bytes,
			       (unsigned long long)st.st_size);
	else
		rc = check_pager(fd, err);
	if (!rc)
		rc = map_file(out, fd, offset_bytes, bytes, access, err);
	if (rc) {
		if (fd >= 0)
			close(fd);
		return rc;
	}
	/* A child process has no business in a peer's memory. */
	madvise((*out)->pages, (*out)->pages_bytes, MADV_DONTFORK);
	/*
	 * A sealed file keeps its pages, but for huge ones. It is watched all the same,
	 * since what is watched is counted: pieces of memory are not without end.
	 */
	(*out)->guard = guard_watch((*out)->pages, (*out)->pages_bytes,
				    (size_t)mapping_unit(fd));
	if ((*out)->guard < 0) {
		rc = error_set(err, (*out)->guard,
			       "this process holds as many memory regions of peers as it can watch over");
		virtq_mapping_unref(*out);
	}
	return rc;
}

void virtq_mapping_ref(struct virtq_mapping *mapping)
{
	shm_refs_get(&mapping->refs);
}

void virtq_mapping_unref(struct virtq_mapping *mapping)
{
	if (!mapping || !shm_refs_put(&mapping->refs))
		return;
	guard_forget(mapping->guard);
	munmap(mapping->pages, mapping->pages_bytes);
	close(mapping->fd);
	free(mapping);
}

void *virtq_mapping_host(const struct virtq_mapping *mapping)
{
	return mapping->host;
}

uint64_t virtq_mapping_bytes(const struct virtq_mapping *mapping)
{
	return mapping->bytes;
}

int virtq_mapping_fd(const struct virtq_mapping *mapping)
{
	return mapping->fd;
}

bool map_lost(const struct virtq_map *map)
{
	for (uint32_t i = 0; i < map->count; i++)
		if (map->regions[i].mapping && guard_lost(map->regions[i].mapping->guard))
			return true;
	return false;
}

static void release_map(struct virtq_map *map)
{
	for (uint32_t i = 0; i < map->count; i++)
		virtq_mapping_unref(map->regions[i].mapping);
	free(map);
}

int virtq_map_create(struct virtq_map **out, const struct virtq_region *regions,
		     unsigned int count, struct virtq_error *err)
{
	struct virtq_map *map;
	int rc;

	if (count > VIRTQ_MAP_REGIONS_MAX)
		return error_set(err, -EINVAL, "%u memory regions are more than %u", count,
				 VIRTQ_MAP_REGIONS_MAX);
	map = calloc(1, virtq_map_bytes(count));
	if (!map)
		return error_set(err, -ENOMEM, "no memory for a table of %u regions", count);
	rc = map_fill(map, regions, count, err);
	if (rc) {
		free(map);
		return rc;
	}
	for (unsigned int i = 0; i < count; i++)
		if (regions[i].mapping)
			virtq_mapping_ref(regions[i].mapping);
	map->refs.count = 1;
	map->release = release_map;
	*out = map;
	return 0;
}
