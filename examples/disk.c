/* SPDX-License-Identifier: MIT */
/*
 * Read the first sectors of a file through a virtual disk: driver and device
 * in one process, the device on an engine's thread.
 *
 *   disk FILE [packed]      or a disk in another process:      disk vhost-user:SOCKET [packed]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/virtq.h>

#define SIZE 16
#define MEMORY_BYTES 65536
#define MEMORY_GPA 0x10000000
#define DATA_BYTES 4096

static struct virtq_error err;

static void must(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "%s: %s\n", what, err.text);
		exit(EXIT_FAILURE);
	}
}

int main(int argc, char **argv)
{
	static const char prefix[] = "vhost-user:";
	struct virtq_engine_config engine_config = { .kind = VIRTQ_ENGINE_AUTO, .spin_us = 50 };
	struct virtq_features want = { { 0, 0 } };
	struct virtq_model *disk = NULL;
	struct virtq_engine *engine = NULL;
	struct virtq_driver_config config = { 0 };
	struct virtq_completion done;
	struct virtq_ring_shape shape;
	struct virtq_transport *t;
	struct virtq_mapping *memory;
	struct virtq_driver *q;
	struct virtq_map *map;
	struct virtq_seg segs[3];
	int kick = virtq_notify_open(), call = virtq_notify_open(), n, ok;
	char *host, *header, *data, *status;

	if (argc < 2)
		return fprintf(stderr, "usage: disk FILE|vhost-user:SOCKET [packed]\n"), 2;

	/* A way to a device: over a socket, or one of our own. */
	if (!strncmp(argv[1], prefix, sizeof(prefix) - 1)) {
		must(virtq_vhost_user_connect(&t, argv[1] + sizeof(prefix) - 1, 0, &err),
		     "connect");
	} else {
		struct virtq_blk_options options = { .path = argv[1], .read_only = true };

		must(virtq_blk_create(&disk, &options, &err), argv[1]);
		must(virtq_engine_create(&engine, &engine_config, &err), "engine");
		must(virtq_loopback_open(&t, disk, &engine, 1, &err), "loopback");
	}
	want = virtq_features_with(want, VIRTIO_F_VERSION_1);
	if (argc > 2)
		want = virtq_features_with(want, VIRTIO_F_RING_PACKED);
	must(virtq_transport_accept(t, want, &err), "features");

	/* Memory that both reach: the ring in front, the request behind it. */
	must(virtq_mapping_create(&memory, MEMORY_BYTES, &err), "memory");
	host = virtq_mapping_host(memory);
	struct virtq_region region = {
		.gpa = MEMORY_GPA, .size_bytes = MEMORY_BYTES, .host = host,
		.user = (uintptr_t)host, .fd = virtq_mapping_fd(memory),
		.access = VIRTQ_ACCESS_RW, .mapping = memory,
	};
	must(virtq_map_create(&map, &region, 1, &err), "map");
	must(virtq_transport_share(t, map, &err), "share");

	virtq_ring_shape(want, SIZE, &shape);
	config.ring = (struct virtq_ring){ want, SIZE, host, host + shape.driver_offset,
					   host + shape.device_offset };
	must(virtq_driver_create(&q, &config, &err), "driver");
	must(virtq_transport_start(t, 0, q, kick, call, &err), "start");

	/* One read: header to the device; data and a status byte from it. */
	header = host + 32768;
	data = header + 512;
	status = data + DATA_BYTES;
	virtq_blk_header((struct virtq_blk_req_hdr *)(void *)header, VIRTIO_BLK_T_IN, 0);
	*status = (char)0xff;
	virtq_map_seg(map, header, sizeof(struct virtq_blk_req_hdr), &segs[0], 1);
	virtq_map_seg(map, data, DATA_BYTES, &segs[1], 1);
	virtq_map_seg(map, status, 1, &segs[2], 1);
	must(virtq_driver_add(q, &(struct virtq_buffer){ segs, 1, 2, data }, 1), "add");
	if (virtq_driver_publish(q))
		virtq_notify_send(kick);
	while (!(n = virtq_driver_get(q, &done, 1)))
		if (!virtq_transport_alive(t))
			break;
		else if (!virtq_driver_arm(q))
			virtq_notify_wait(call, 100);
	ok = n == 1 && *status == VIRTIO_BLK_S_OK && done.written == DATA_BYTES + 1;
	if (ok)
		fwrite(done.token, 1, DATA_BYTES, stdout);

	virtq_transport_close(t);
	virtq_driver_destroy(q);
	virtq_map_unref(map);
	virtq_mapping_unref(memory);
	virtq_engine_destroy(engine);
	virtq_model_destroy(disk);
	return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
