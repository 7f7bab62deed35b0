/* SPDX-License-Identifier: MIT */
#include "local.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int local_open(struct local *local, struct virtq_model *model, bool packed,
	       struct virtq_error *err)
{
	const struct virtq_engine_config config = { .kind = VIRTQ_ENGINE_AUTO };
	struct virtq_features wanted = virtq_ring_features_usual(), required = { { 0, 0 } };
	int rc;

	*local = (struct local){ NULL };
	if (packed)
		required = virtq_features_with(required, VIRTIO_F_RING_PACKED);
	else
		wanted = virtq_features_without(wanted, VIRTIO_F_RING_PACKED);
	rc = virtq_engine_create(&local->engine, &config, err);
	if (!rc)
		rc = virtq_loopback_open(&local->transport, model, &local->engine, 1, err);
	if (!rc)
		rc = virtq_transport_negotiate(local->transport, model->ops->device_id, wanted,
					       required, &local->features, err);
	if (rc)
		local_close(local);
	return rc;
}

int local_open_disk(struct local *local, bool packed, struct virtq_error *err)
{
	struct virtq_blk_options options = { .read_only = true };
	char sector[VIRTQ_BLK_SECTOR_BYTES], path[32];
	struct virtq_model *disk;
	int fd = memfd_create("disk", MFD_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	for (int n = 0; n < LOCAL_DISK_SECTORS; n++) {
		memset(sector, n, sizeof(sector));
		if (write(fd, sector, sizeof(sector)) != sizeof(sector)) {
			close(fd);
			return -EIO;
		}
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	options.path = path;
	rc = virtq_blk_create(&disk, &options, err);
	close(fd);
	if (rc)
		return rc;
	rc = local_open(local, disk, packed, err);
	if (rc)
		virtq_model_destroy(disk);
	else
		local->disk = disk;
	return rc;
}

int local_start(struct local *local, const struct virtq_port *port,
		const struct virtq_region *more, struct virtq_error *err)
{
	struct virtq_region regions[2];
	unsigned int count;
	int rc;

	regions[0] = *virtq_port_regions(port, &count);
	if (more)
		regions[count++] = *more;
	rc = virtq_map_create(&local->map, regions, count, err);
	if (!rc)
		rc = virtq_transport_share(local->transport, local->map, err);
	if (!rc)
		rc = virtq_transport_start(local->transport, 0, virtq_port_driver(port),
					   virtq_port_kick_fd(port), virtq_port_call_fd(port),
					   err);
	return rc;
}

void local_close(struct local *local)
{
	if (local->transport)
		virtq_transport_close(local->transport);
	virtq_engine_destroy(local->engine);
	virtq_model_destroy(local->disk);
	virtq_map_unref(local->map);
	*local = (struct local){ NULL };
}
