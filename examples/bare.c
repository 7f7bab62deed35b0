/* SPDX-License-Identifier: MIT */
/*
 * The ring without a C library: memory of our own, no heap, no system call but
 * the one that ends the program. What a kernel, a unikernel or firmware does.
 *
 * Built with -ffreestanding -nostdlib from src/ring, src/mem/map.c and iotlb.c,
 * and src/base/error.c; all they want from outside is memcpy(), memset() and
 * memmove().
 */
#include <stddef.h>
#include <stdint.h>

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/spec/virtio.h>

#define SIZE 16
#define GPA 0x1000

/* A compiler may call these for any copy or initialisation. */
void *memcpy(void *restrict dst, const void *restrict src, size_t len);
void *memset(void *dst, int value, size_t len);
void *memmove(void *dst, const void *src, size_t len);
void _start(void);

void *memcpy(void *restrict dst, const void *restrict src, size_t len)
{
	volatile uint8_t *to = dst;
	const uint8_t *from = src;

	while (len--)
		*to++ = *from++;
	return dst;
}

/* No IOTLB here, so nobody calls it. */
void *memmove(void *dst, const void *src, size_t len)
{
	(void)src;
	(void)len;
	return dst;
}

void *memset(void *dst, int value, size_t len)
{
	volatile uint8_t *to = dst;

	while (len--)
		*to++ = (uint8_t)value;
	return dst;
}

static _Alignas(64) uint8_t shared[8192];	/* ring and buffers */
static _Alignas(64) uint8_t driver_memory[8192], device_memory[65536], map_memory[1024];

/* Send numbers through a queue, have the device double them; 0 if all came back right. */
static int run(struct virtq_features features)
{
	struct virtq_region region = {
		.gpa = GPA, .size_bytes = sizeof(shared), .host = shared, .fd = -1,
		.access = VIRTQ_ACCESS_RW,
	};
	struct virtq_driver_config driver_config = { 0 };
	struct virtq_device_config device_config = { .long_chains = 1, .max_segs = 16 };
	uint32_t *cells = (uint32_t *)(void *)(shared + 4096);
	struct virtq_ring_shape shape;
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct virtq_map *map;

	if (virtq_map_bytes(1) > sizeof(map_memory) ||
	    virtq_map_init(map_memory, &map, &region, 1) ||
	    virtq_ring_shape(features, SIZE, &shape) || shape.total_bytes > 4096)
		return 1;
	driver_config.ring = (struct virtq_ring){ features, SIZE, shared,
						  shared + shape.driver_offset,
						  shared + shape.device_offset };
	device_config.ring = driver_config.ring;
	device_config.map = map;
	if (virtq_driver_bytes(&driver_config) > sizeof(driver_memory) ||
	    virtq_device_bytes(&device_config) > sizeof(device_memory) ||
	    virtq_driver_init(driver_memory, &driver, &driver_config, NULL) ||
	    virtq_device_init(device_memory, &device, &device_config, NULL))
		return 2;

	for (uint32_t round = 0; round < 100000; round++) {
		struct virtq_seg segs[2] = { { GPA + 4096, 4 }, { GPA + 4100, 4 } };
		struct virtq_buffer buf = { segs, 1, 1, cells };
		struct virtq_completion done;
		struct virtq_req *req;
		uint32_t number;

		cells[0] = round;
		if (virtq_driver_add(driver, &buf, 1) != 1)
			return 3;
		virtq_driver_publish(driver);
		if (virtq_device_pop(device, &req, 1) != 1 ||
		    virtq_req_read(req, &number, 4) != 4)
			return 4;
		number *= 2;
		virtq_req_write(req, &number, 4);
		virtq_device_push(device, &req, 1);
		virtq_device_publish(device);
		if (virtq_driver_get(driver, &done, 1) != 1 || done.written != 4 ||
		    done.token != cells || cells[1] != 2 * round)
			return 5;
	}
	virtq_device_fini(device);
	return 0;
}

#if defined(__x86_64__)
__attribute__((force_align_arg_pointer))	/* nobody has called this */
#endif
void _start(void)
{
	struct virtq_features f = { { (uint64_t)1 << VIRTIO_F_VERSION_1, 0 } };
	int status = run(f);

	if (!status)
		status = run(virtq_features_with(f, VIRTIO_F_RING_PACKED));
#if defined(__x86_64__)
	__asm__ __volatile__("syscall" :: "a"(231L), "D"((long)status) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
	register long x0 __asm__("x0") = status, x8 __asm__("x8") = 94;

	__asm__ __volatile__("svc 0" :: "r"(x0), "r"(x8) : "memory");
#endif
	__builtin_unreachable();
}
