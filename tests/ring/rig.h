/* SPDX-License-Identifier: MIT */
/*
 * A ring of any shape with a driver and a device end over one memory, and the
 * table of shapes that the ring tests run over.
 *
 * Every piece of memory is mapped twice. The driver's view and the device's
 * view grant each side what the standard lets it touch, so a store that a rule
 * forbids is a fault; and each piece ends at a page that nobody may touch.
 */
#ifndef TESTS_RING_RIG_H
#define TESTS_RING_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>

/* Descriptor flags of the packed ring, as masks. */
#define F_AVAIL ((uint16_t)(1u << VIRTQ_DESC_F_AVAIL))
#define F_USED ((uint16_t)(1u << VIRTQ_DESC_F_USED))
#define F_NEXT VIRTQ_DESC_F_NEXT
#define F_WRITE VIRTQ_DESC_F_WRITE
#define F_INDIRECT VIRTQ_DESC_F_INDIRECT

/* ---- One shape of ring -------------------------------------------------- */

struct shape {
	bool packed, event_idx, indirect, in_order;
	bool platform, notification_data, keep;	/* outside the table: a program's own shapes */
	uint32_t size;
	/*
	 * Where the ring stands when the ends are made: 0 for a new ring, else
	 * split: the index; packed: the slot, in the lap whose wrap bit is 0.
	 */
	bool moved;
	uint32_t start;
	char name[64];
};

struct virtq_features shape_features(const struct shape *shape);
/* The position both ends of a ring of that shape start from. */
uint32_t shape_position(const struct shape *shape);

/* ---- Memory ------------------------------------------------------------- */

/* One piece of memory, seen twice; it ends where both views end. */
struct piece {
	uint8_t *driver, *device;
	size_t bytes, slack;	/* usable bytes; unused ones between them and the guard page */
	void *driver_map, *device_map;
	size_t map_bytes;
};

void piece_map(struct piece *p, size_t bytes, size_t align);
/* What each view may do: PROT_READ, or PROT_READ | PROT_WRITE. */
void piece_protect(const struct piece *p, int driver, int device);
/* Fails if bytes in front of the piece or in its slack were written. Then unmaps it. */
void piece_unmap(struct piece *p);

/*
 * Regions of data, adjacent for the device, apart in this process: the first
 * half of them is readable to the device, the second half writable.
 */
#define RIG_REGIONS 4u
#define RIG_REGION_BYTES ((uint64_t)1 << 20)
#define RIG_DATA_GPA ((uint64_t)0x100000)
#define RIG_WRITABLE_GPA (RIG_DATA_GPA + RIG_REGIONS / 2 * RIG_REGION_BYTES)
#define RIG_END_GPA (RIG_DATA_GPA + RIG_REGIONS * RIG_REGION_BYTES)
/* Where the indirect tables are; a hole on both sides. */
#define RIG_TABLE_GPA ((uint64_t)0x40000000)
#define RIG_TABLE_ENTRIES 8u

/* ---- The rig ------------------------------------------------------------ */

/* Which ends the library plays; the others are played by the test with raw bytes. */
#define RIG_DRIVER 1u
#define RIG_DEVICE 2u
#define RIG_BOTH 3u

struct rig {
	struct shape shape;
	struct virtq_ring_shape areas;
	struct piece desc, driver_area, device_area, table;
	struct piece data[RIG_REGIONS];
	struct virtq_ring driver_ring, device_ring;	/* as each side sees it */
	struct virtq_map *map;
	struct virtq_driver *driver;
	struct virtq_device *device;
	struct virtq_device_config device_config;
	struct virtq_driver_config driver_config;
};

/* Memory only, poisoned if the ring is new, or as a ring that has run holds it. */
void rig_memory(struct rig *r, const struct shape *shape);
void rig_make_driver(struct rig *r);
void rig_make_device(struct rig *r);
/* All of it. What the driver may not write any more is taken from it. */
void rig_open(struct rig *r, const struct shape *shape, unsigned int ends);
void rig_close(struct rig *r);

/* The driver's pointer for an address in the data regions, to the end of the region. */
uint8_t *rig_at(struct rig *r, uint64_t gpa);
/* Copy to and from data memory across region borders, by address. */
void rig_poke(struct rig *r, uint64_t gpa, const void *src, size_t len);
void rig_peek(struct rig *r, uint64_t gpa, void *dst, size_t len);

/* Fails the test unless the fault is just this one. */
void rig_fault_is(struct virtq_fault f, enum virtq_fault_code code, uint32_t index, uint64_t value);

/* One writable or readable element, added; returns what add returned. */
int rig_add(struct rig *r, uint64_t addr, uint32_t len, bool writable, void *token);
/* Add @count one-byte writable buffers with tokens 0.., publish, and return the kick. */
int rig_send(struct rig *r, unsigned int count);
/* Pop @count, push them all as they are, publish, return the call. */
int rig_serve(struct rig *r, unsigned int count);
/* Get exactly @count. */
void rig_collect(struct rig *r, unsigned int count);

void *token_of(uintptr_t n);
uintptr_t token_value(const void *token);

/* ---- Raw bytes, little-endian ------------------------------------------- */

void put16(void *p, uint16_t v);
void put32(void *p, uint32_t v);
void put64(void *p, uint64_t v);
uint16_t get16(const void *p);
uint32_t get32(const void *p);
uint64_t get64(const void *p);

/* Fields of the split ring, in the driver's view; write through the right view. */
uint8_t *split_desc(struct rig *r, uint32_t slot);
uint8_t *avail_idx(struct rig *r);
uint8_t *avail_ring(struct rig *r, uint16_t idx);
uint8_t *used_event(struct rig *r);
uint8_t *used_idx(struct rig *r);	/* the device's view, as the three below */
uint8_t *used_ring(struct rig *r, uint16_t idx);
uint8_t *avail_event(struct rig *r);
uint8_t *used_flags(struct rig *r);

/* A copy of all ring memory and tables, to show that nothing has changed. */
struct snapshot {
	uint8_t *bytes;
	size_t len;
};

struct snapshot snapshot_take(struct rig *r);
/* Asserts that all is as it was, and frees the copy. */
void snapshot_same(struct rig *r, struct snapshot *s);

/* ---- The table of shapes ------------------------------------------------ */

/* Which shapes a case runs over. */
#define ONLY_SPLIT 1u
#define ONLY_PACKED 2u
#define ONLY_EVENT 4u
#define ONLY_NO_EVENT 8u
#define ONLY_INDIRECT 16u
#define ONLY_DIRECT 32u
#define ONLY_NEW 64u
#define NOT_HUGE 128u		/* all but 32768 entries */
#define AT_LEAST_2 256u
#define AT_LEAST_5 512u
#define AT_LEAST_256 1024u
#define ALSO_IN_ORDER 2048u	/* IN_ORDER too; without it none of those */

struct matrix {
	struct CMUnitTest *tests;
	size_t count, room;
};

/* Register @fn once for every shape that @only allows, named "name [shape]". */
void matrix_add(struct matrix *m, const char *name, CMUnitTestFunction fn, unsigned int only);
/* Once for each of a program's own @shapes. */
void matrix_add_shapes(struct matrix *m, const char *name, CMUnitTestFunction fn,
		       struct shape *shapes, size_t count);
/* Once, without a shape. */
void matrix_add_one(struct matrix *m, const char *name, CMUnitTestFunction fn);
/* Run all; the result of main(). */
int matrix_run(struct matrix *m, const char *group);

#endif
