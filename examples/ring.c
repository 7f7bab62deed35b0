/* SPDX-License-Identifier: MIT */
/*
 * Both ends of one queue in plain memory: no transport, no thread, no file.
 * Run it with "packed" to see that nothing but one feature bit changes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/spec/virtio.h>

#define SIZE 8
#define MEMORY_BYTES 65536
#define MEMORY_GPA 0x40000000	/* what the device's addresses begin at */
#define BUFFERS 0x8000		/* buffers lie behind the ring */

static int fail(const char *what, const struct virtq_error *err)
{
	fprintf(stderr, "%s: %s\n", what, err->text);
	return EXIT_FAILURE;
}

/* The device: reverse what it reads into what it may write. */
static void serve(struct virtq_device *q)
{
	struct virtq_req *req;

	while (virtq_device_pop(q, &req, 1) == 1) {
		char text[64];
		size_t len = virtq_req_read(req, text, sizeof(text));

		for (size_t i = 0; i < len / 2; i++) {
			char c = text[i];

			text[i] = text[len - 1 - i];
			text[len - 1 - i] = c;
		}
		virtq_req_write(req, text, len);
		virtq_device_push(q, &req, 1);
	}
	virtq_device_publish(q);
}

int main(int argc, char **argv)
{
	static const char *const words[] = { "virtqueue", "driver", "device" };
	struct virtq_driver_config driver_config = { 0 };
	struct virtq_device_config device_config = { 0 };
	struct virtq_completion done[SIZE];
	struct virtq_features features = { { 0, 0 } };
	struct virtq_ring_shape shape;
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct virtq_error err;
	struct virtq_map *map;
	char *memory = aligned_alloc(4096, MEMORY_BYTES);
	int n;

	if (!memory)
		return EXIT_FAILURE;
	features = virtq_features_with(features, VIRTIO_F_VERSION_1);
	if (argc > 1 && !strcmp(argv[1], "packed"))
		features = virtq_features_with(features, VIRTIO_F_RING_PACKED);

	/* What the two share: one region, known to the device by another address. */
	struct virtq_region region = {
		.gpa = MEMORY_GPA, .size_bytes = MEMORY_BYTES, .host = memory, .fd = -1,
		.access = VIRTQ_ACCESS_RW,
	};
	if (virtq_map_create(&map, &region, 1, &err))
		return fail("map", &err);

	virtq_ring_shape(features, SIZE, &shape);
	driver_config.ring = (struct virtq_ring){
		.features = features, .size = SIZE, .desc = memory,
		.driver = memory + shape.driver_offset, .device = memory + shape.device_offset,
	};
	device_config.ring = driver_config.ring;
	device_config.map = map;
	if (virtq_driver_create(&driver, &driver_config, &err))
		return fail("driver", &err);
	if (virtq_device_create(&device, &device_config, &err))
		return fail("device", &err);

	/* Three buffers: a word to read, and as much room to write. One publication. */
	for (unsigned int i = 0; i < 3; i++) {
		char *at = memory + BUFFERS + i * 128;
		uint32_t len = (uint32_t)strlen(words[i]);
		struct virtq_seg segs[2];
		struct virtq_buffer buf = { segs, 1, 1, at + 64 };

		memcpy(at, words[i], len);
		if (virtq_map_seg(map, at, len, &segs[0], 1) != 1 ||
		    virtq_map_seg(map, at + 64, len, &segs[1], 1) != 1 ||
		    virtq_driver_add(driver, &buf, 1) != 1)
			return EXIT_FAILURE;
	}
	if (virtq_driver_publish(driver))
		printf("the device wants a kick\n");
	serve(device);
	n = virtq_driver_get(driver, done, SIZE);
	for (int i = 0; i < n; i++)
		printf("%.*s\n", (int)done[i].written, (char *)done[i].token);

	virtq_device_destroy(device);
	virtq_driver_destroy(driver);
	virtq_map_unref(map);
	free(memory);
	return n == 3 ? EXIT_SUCCESS : EXIT_FAILURE;
}
