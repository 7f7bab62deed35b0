/* SPDX-License-Identifier: MIT */
/* Tables of shared memory: from messages to maps. */
#include "transport/vu_memory.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

static bool same_file(int a, int b)
{
	struct stat sa, sb;

	return !fstat(a, &sa) && !fstat(b, &sb) && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

/* As REM_MEM_REG identifies a region: the offset in the file does not count. */
static bool same_place(const struct virtq_region *r, const struct VhostUserMemoryRegion *wire)
{
	return r->gpa == wire->guest_phys_addr && r->size_bytes == wire->memory_size &&
	       r->user == wire->userspace_addr;
}

/*
 * Make a region of what a message says; the caller owns its mapping reference
 * then. @fd is taken. UNTRUSTED: sums and the file's length are checked by
 * virtq_mapping_open(), overlaps by virtq_map_create().
 */
static int open_region(const struct vuser_memory *m, struct virtq_region *out,
		       const struct VhostUserMemoryRegion *wire, int fd,
		       struct virtq_error *err)
{
	int rc;

	for (unsigned int i = 0; i < m->count; i++) {
		const struct virtq_region *old = &m->regions[i];

		if (!same_place(old, wire) || old->fd_offset_bytes != wire->mmap_offset ||
		    !same_file(old->fd, fd))
			continue;
		close(fd);
		virtq_mapping_ref(old->mapping);
		*out = *old;
		return 0;
	}
	memset(out, 0, sizeof(*out));
	rc = virtq_mapping_open(&out->mapping, fd, wire->mmap_offset, wire->memory_size,
				VIRTQ_ACCESS_RW, err);
	if (rc)
		return rc;
	out->gpa = wire->guest_phys_addr;
	out->size_bytes = wire->memory_size;
	out->user = wire->userspace_addr;
	out->host = virtq_mapping_host(out->mapping);
	out->fd = virtq_mapping_fd(out->mapping);
	out->fd_offset_bytes = wire->mmap_offset;
	out->access = VIRTQ_ACCESS_RW;
	return 0;
}

/* Build the map of @count @regions and put it in place of the old one. */
static int use_regions(struct vuser_memory *m, const struct virtq_region *regions,
		       unsigned int count, struct virtq_error *err)
{
	struct virtq_map *map;
	int rc = virtq_map_create(&map, regions, count, err);

	if (rc)
		return rc;
	virtq_map_unref(m->map);
	m->map = map;
	return 0;
}

int vuser_memory_set(struct vuser_memory *m, struct vuser_msg *msg, struct virtq_error *err)
{
	struct virtq_region regions[VHOST_MEMORY_BASELINE_NREGIONS] = { { 0 } };
	unsigned int count = msg->payload.memory.nregions, opened = 0;
	int rc = 0;

	while (opened < count && !rc) {
		rc = open_region(m, &regions[opened], &msg->payload.memory.regions[opened],
				 vuser_take_fd(msg, opened), err);
		opened += !rc;
	}
	if (!rc)
		rc = use_regions(m, regions, count, err);
	if (rc) {
		while (opened)
			virtq_mapping_unref(regions[--opened].mapping);
		return rc;
	}
	for (unsigned int i = 0; i < m->count; i++)
		virtq_mapping_unref(m->regions[i].mapping);
	memcpy(m->regions, regions, count * sizeof(regions[0]));
	m->count = count;
	return 0;
}

int vuser_memory_add(struct vuser_memory *m, struct vuser_msg *msg, struct virtq_error *err)
{
	struct virtq_region *added = &m->regions[m->count];
	int rc;

	if (m->count == VUSER_MEM_SLOTS)
		return error_set(err, -ENOSPC, "all %u memory slots are in use",
				 VUSER_MEM_SLOTS);
	rc = open_region(m, added, &msg->payload.mem_reg.region, vuser_take_fd(msg, 0), err);
	if (rc)
		return rc;
	rc = use_regions(m, m->regions, m->count + 1, err);
	if (rc)
		virtq_mapping_unref(added->mapping);
	else
		m->count++;
	return rc;
}

int vuser_memory_remove(struct vuser_memory *m, const struct vuser_msg *msg,
			struct virtq_error *err)
{
	const struct VhostUserMemoryRegion *wire = &msg->payload.mem_reg.region;
	struct virtq_region removed;
	unsigned int i = 0;
	int rc;

	while (i < m->count && !same_place(&m->regions[i], wire))
		i++;
	if (i == m->count)
		return error_set(err, -EINVAL,
				 "there is no memory region at 0x%llx of %llu bytes to remove",
				 (unsigned long long)wire->guest_phys_addr,
				 (unsigned long long)wire->memory_size);
	/* Its place goes to the last one; on failure they change places again. */
	removed = m->regions[i];
	m->regions[i] = m->regions[m->count - 1];
	rc = use_regions(m, m->regions, m->count - 1, err);
	if (rc) {
		m->regions[i] = removed;
		return rc;
	}
	m->count--;
	virtq_mapping_unref(removed.mapping);
	return 0;
}

void vuser_memory_drop(struct vuser_memory *m)
{
	for (unsigned int i = 0; i < m->count; i++)
		virtq_mapping_unref(m->regions[i].mapping);
	m->count = 0;
	virtq_map_unref(m->map);
	m->map = NULL;
}
