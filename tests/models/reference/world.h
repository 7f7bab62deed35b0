/* SPDX-License-Identifier: MIT */
/*
 * One queue with a driver end and a device end, random legal traffic through
 * it, and the books by which it is judged. Either end is the library's or the
 * model's; a second model of each end, the shadow, repeats every operation on
 * a copy of memory, which must come out the same (lockstep.c).
 */
#ifndef REFERENCE_WORLD_H
#define REFERENCE_WORLD_H

#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/mem.h>
#include <virtq/ring.h>

#include "model.h"

struct world;
struct corruption;

/* Numbers that only look random: the same seed gives the same run (splitmix64). */
struct dice {
	uint64_t state;
};

uint64_t dice_next(struct dice *d);
/* 0..@below - 1 */
uint32_t dice_roll(struct dice *d, uint32_t below);
/* true once in @n */
bool dice_one_in(struct dice *d, uint32_t n);

/* One buffer, from its making to the driver having it back. */
struct flight {
	unsigned int index;	/* in world.flight; what ends carry as token and cookie */
	uint32_t serial;	/* seeds its contents */
	struct ref_buffer buffer;
	uint64_t readable_bytes, writable_bytes;
	struct ref_choice made;	/* by the model's driver */
	struct ref_choice seen;	/* in memory, once it was published */
	uint16_t avail_slot;	/* packed: where its list begins */
	uint64_t exposed_at;	/* world.now */
	bool long_loan;		/* the library's device keeps a block for it */
	/* what the device did */
	uint32_t turn;		/* as how manieth it was popped */
	uint32_t prefix, len;
	bool tail;
	int used_slot;
	void *handle;		/* the device end's own */
	struct ref_request real, shadow;
};

struct flights {
	unsigned int count;
	struct flight *at[REF_MAX + 16];
};

void flights_append(struct flights *list, struct flight *f);
struct flight *flights_take(struct flights *list, unsigned int i);

enum operation {
	OP_START, OP_ADD, OP_PUBLISH, OP_GET, OP_DRIVER_ARM, OP_DRIVER_DISARM,
	OP_DEVICE_START, OP_POP, OP_UNPOP, OP_HANDLE, OP_PUSH, OP_DEVICE_PUBLISH, OP_DEVICE_ARM,
	OP_DEVICE_DISARM, OP_COUNT
};

/* A driver end; numbers below 0 are errors. */
struct driver_end {
	const char *name;
	bool library;
	int (*start)(struct world *w, const uint32_t *position);
	void (*stop)(struct world *w);
	int (*add)(struct world *w, struct flight **f, unsigned int count);
	int (*publish)(struct world *w);
	int (*get)(struct world *w, struct ref_used *used, unsigned int max);
	int (*arm)(struct world *w, const struct ref_arm *arm);
	void (*disarm)(struct world *w);
	uint32_t (*room)(struct world *w);
	uint32_t (*in_flight)(struct world *w);
	uint32_t (*position)(struct world *w);
};

/* A device end. */
struct device_end {
	const char *name;
	bool library;
	int (*start)(struct world *w, const uint32_t *position);
	void (*stop)(struct world *w);
	/* Fills @handle of the first buffers in world.published. */
	int (*pop)(struct world *w, unsigned int max);
	/* Is what was popped what the driver offered? */
	void (*check)(struct world *w, const struct flight *f);
	int (*unpop)(struct world *w, struct flight *f);
	/* Read everything readable and check it, then write as @f says. */
	void (*handle)(struct world *w, struct flight *f);
	void (*push)(struct world *w, struct flight **f, unsigned int count);
	int (*publish)(struct world *w);
	int (*arm)(struct world *w, const struct ref_arm *arm);
	void (*disarm)(struct world *w);
	uint32_t (*in_flight)(struct world *w);
	uint32_t (*position)(struct world *w);
};

extern const struct driver_end library_driver, model_driver;
extern const struct device_end library_device, model_device;

/* What a run is made of. @quiet: the shadows do not speak, only the ends are judged. */
struct setup {
	bool packed, event_idx, indirect, in_order;
	uint16_t size;
	const struct driver_end *driver;
	const struct device_end *device;
	uint64_t seed;
	unsigned int steps;
	bool far_start;		/* begin close to where indices wrap */
	bool quiet;
	const struct corruption *corruption;
};

/* What traffic met, so that a run that met nothing is not taken for a good one. */
struct coverage {
	uint64_t operation[OP_COUNT];
	uint64_t buffers, elements, longest_is_size, crossing, empty_element;
	uint64_t indirect, mixed, out_of_order, full, too_long;
	uint64_t kicked, not_kicked, called, not_called, slept;
	uint64_t index_wrapped, restarted, blocked, tail, batched, bytes_compared;
};

#define WORLD_FLIGHTS (REF_MAX + 8)
#define WORLD_DATA_BYTES 19000u
#define WORLD_TABLES 64u

struct world {
	struct setup setup;
	struct ref_queue q;
	struct dice dice;
	struct coverage *coverage;

	/* memory as both ends share it, and the shadows' copy; the same layout in both */
	struct ref_memory mem, shadow_mem;
	uint8_t *block, *shadow_block;
	uint32_t block_bytes;
	uint64_t data_gpa, table_gpa;
	uint32_t data_bytes, table_bytes;
	uint8_t data_taken[WORLD_DATA_BYTES];
	bool table_taken[WORLD_TABLES];

	/* the ends, those that are in use */
	struct virtq_map *map;
	struct virtq_driver *lib_driver;
	struct virtq_device *lib_device;
	uint32_t long_chains, indirect_entries;
	struct ref_driver real_driver, shadow_driver;
	struct ref_device real_device, shadow_device;
	bool wide_ids;		/* the model's driver uses ids above the queue size */

	/* the books; each buffer is in one list, oldest first in those that are in order */
	struct flight *flight;
	struct flights idle, staged, published, popped, handled, pushed, used;
	uint32_t serial, pops, pushes;

	/* who sleeps until told, who spoke of events last, who did not decide since its start */
	bool driver_asleep, device_asleep;
	bool driver_parked, device_parked;
	bool driver_undecided, device_undecided;

	unsigned int step;
	enum operation op;
	uint64_t now;		/* operations so far */
	bool corrupted, shadow_off, driver_started, device_started;
	uint64_t corrupted_at, failed_at;
	char failure[320];
};

/* Run it whole. Returns true if nothing was wrong; world.failure says what was. */
bool world_run(struct world *w, const struct setup *setup, struct coverage *coverage);

/* Note the first thing that went wrong. */
__attribute__((format(printf, 2, 3)))
void world_fail(struct world *w, const char *fmt, ...);
static inline bool world_failed(const struct world *w)
{
	return w->failure[0] != '\0';
}

/* world.c, for the two sides' traffic. */
unsigned int at_most(unsigned int a, unsigned int b);
void world_begin(struct world *w, enum operation op);
/* Does an element lie in more than one region? */
bool world_element_crosses(struct world *w, const struct ref_element *e);
struct ref_arm world_roll_arm(struct world *w, bool library);
void world_observe_arm(struct world *w, struct ref_arm *arm, uint64_t event);

/* traffic_driver.c, traffic_device.c: one operation each, and the books brought up to date. */
void world_add(struct world *w);
void world_publish(struct world *w);
void world_get(struct world *w);
void world_driver_arm(struct world *w);
void world_driver_disarm(struct world *w);
void world_pop(struct world *w);
void world_unpop(struct world *w);
void world_handle(struct world *w);
void world_push(struct world *w);
void world_device_publish(struct world *w);
void world_device_arm(struct world *w);
void world_device_disarm(struct world *w);

/* world_memory.c: made and undone. @position: NULL, or the ring as earlier laps left it. */
void world_memory_create(struct world *w);
void world_memory_destroy(struct world *w);
void world_memory_poison(struct world *w);
void world_memory_lapped(struct world *w, uint32_t position);
/* Find room for an element; 0 if there is none. */
uint64_t world_data_take(struct world *w, uint32_t len);
void world_data_give(struct world *w, const struct ref_element *e);

bool same_elements(const struct ref_buffer *a, const struct ref_buffer *b);

/* What is in buffers. */
uint8_t flight_readable_byte(const struct flight *f, uint64_t i);
uint8_t flight_written_byte(const struct flight *f, uint64_t i);
uint8_t flight_blank_byte(const struct flight *f, uint64_t i);
/* What the @i-th writable byte should be once the device is done. */
uint8_t flight_expected_byte(const struct flight *f, uint64_t i);
void flight_fill(struct world *w, struct flight *f);
void flight_check_back(struct world *w, const struct flight *f);
/* Do as the device was told, by plain stores. */
void flight_write_plainly(struct ref_memory *m, const struct flight *f,
			  const struct ref_buffer *as_taken);

/*
 * lockstep.c: the shadows repeat an operation, and compare its answer; then,
 * once the books are up to date, shadow_compare() compares memory.
 */
void shadow_driver_start(struct world *w, const uint32_t *position);
void shadow_device_start(struct world *w, const uint32_t *position);
void shadow_driver_publish(struct world *w, bool kick);
void shadow_driver_get(struct world *w, const struct ref_used *used, unsigned int count);
void shadow_driver_arm(struct world *w, const struct ref_arm *arm, bool there);
void shadow_driver_disarm(struct world *w);
void shadow_device_pop(struct world *w, struct flight **f, unsigned int count);
void shadow_device_unpop(struct world *w, struct flight *f);
void shadow_device_handle(struct world *w, struct flight *f);
void shadow_device_publish(struct world *w, bool call);
void shadow_device_arm(struct world *w, const struct ref_arm *arm, bool there);
void shadow_device_disarm(struct world *w);

/* compare.c */
void shadow_compare(struct world *w);
/* Memory or an answer differ from the model's. */
__attribute__((format(printf, 2, 3)))
void shadow_differs(struct world *w, const char *fmt, ...);
/* The shadows have nothing to say any more. */
bool shadow_silent(const struct world *w);

/* corrupt.c: a shim behind each operation that spoils one thing, once. */
enum corrupt_layout { ON_SPLIT = 1, ON_PACKED = 2, ON_BOTH = 3 };
enum corrupt_need { ANY_WAY, ONLY_WITH, ONLY_WITHOUT };

/*
 * @notices_end: the ends and the books must notice it too, without the shadows
 * @spoil: spoil memory or *@result, an answer or what @list holds; true if done
 */
struct corruption {
	const char *name;
	enum operation op;
	enum corrupt_layout layout;
	enum corrupt_need event_idx, indirect;
	bool notices_end;
	bool (*spoil)(struct world *w, int *result, void *list);
};

extern const struct corruption driver_corruptions[], device_corruptions[];
extern const unsigned int driver_corruption_count, device_corruption_count;
void world_shim(struct world *w, enum operation op, int *result, void *list);

#endif
