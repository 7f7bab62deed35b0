/* SPDX-License-Identifier: MIT */
/*
 * A reference model of both ends of both ring layouts, written from the text
 * of VIRTIO 1.4, 2.7 and 2.8, alone: no code, header or constant of the library
 * is used here. It is slow and meant to be read beside the standard: small
 * functions, each with the number of the clause it spells out.
 *
 * A model end refuses what the standard forbids its peer: the call returns -1
 * and @complaint says which clause. What the standard leaves to an end (which
 * descriptors, which ids, how far ahead an event) is a parameter, so that a
 * model can also follow another implementation through that one's choices.
 */
#ifndef REFERENCE_MODEL_H
#define REFERENCE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "memory.h"

/* Largest queue and longest buffer the model is made for. */
#define REF_MAX 256u

/* 2.7.5, 2.8.3, 2.8.6, 2.8.7: descriptor flags of both layouts. */
#define REF_NEXT	1u
#define REF_WRITE	2u
#define REF_INDIRECT	4u
/* 2.8.1: descriptor flags of the packed layout. */
#define REF_AVAIL	(1u << 7)
#define REF_USED	(1u << 15)
/* 2.8.10: descriptor ring change event flags. */
#define REF_EVENT_ENABLE	0u
#define REF_EVENT_DISABLE	1u
#define REF_EVENT_DESC		2u

/* One queue: its negotiated features, its size, and the addresses of its areas (2.6). */
struct ref_queue {
	bool packed, event_idx, indirect, in_order;
	uint16_t size;
	uint64_t desc, driver, device;
};

/* 2.8, 2.7.13.1: a buffer is device-readable elements, then device-writable ones. */
struct ref_element {
	uint64_t addr;
	uint32_t len;
	bool writable;
};

struct ref_buffer {
	unsigned int count;
	struct ref_element element[REF_MAX + 2];	/* some are too long for any queue */
};

uint64_t ref_buffer_bytes(const struct ref_buffer *b, bool writable);

/*
 * What the standard lets a driver choose about a buffer.
 * @main_count: descriptors in the table or ring
 * @main:  split: their numbers in chain order; packed: unused, as 2.8 says which
 * @table: address of an indirect table, described by the last of those; it takes
 *         the elements that the others left over
 * @entry: split: numbers of the table's entries in chain order, the first being 0
 * @id:    packed: the buffer id
 * @noise: what to leave in fields that nobody may look at
 */
struct ref_choice {
	unsigned int main_count;
	uint16_t main[REF_MAX];
	bool indirect;
	uint64_t table;
	unsigned int entry_count;
	uint16_t entry[REF_MAX];
	uint16_t id;
	uint16_t noise;
};

/* A place in a packed ring: a slot, and the wrap counter with which one comes by (2.8.1). */
struct ref_cursor {
	uint16_t slot;
	bool wrap;
};

/* How an end wants to be told: @desc packed only, @ahead how many further on than the next. */
struct ref_arm {
	bool desc;
	uint16_t ahead;
};

/* One buffer that the driver made available and did not get back yet. */
struct ref_outstanding {
	uint32_t cookie;
	uint16_t id;		/* split: the head */
	unsigned int main_count;
	uint16_t main[REF_MAX];
	uint64_t writable_bytes;
};

struct ref_driver {
	const struct ref_queue *q;
	struct ref_memory *mem;
	const char *complaint;

	/* oldest first; the last @staged are not visible yet */
	unsigned int count, staged;
	struct ref_outstanding outstanding[REF_MAX];
	/* 2.7.9, 2.8.8: a batch of which some buffers were not handed out yet */
	bool batch;
	uint16_t batch_id;
	uint32_t batch_len;

	/* split */
	uint16_t avail_idx, last_used;
	int next_desc;		/* 2.7.5: the next in table order, if in order; -1: any */
	bool desc_busy[REF_MAX];
	/* packed */
	struct ref_cursor avail, used, shown;
	uint16_t shown_flags;	/* of the first descriptor that is not visible yet */
	unsigned int slots_free;
};

struct ref_used {
	uint32_t cookie;
	uint32_t written;
};

/* @position: NULL for a new ring, or as transports encode it (vhost-user, VHOST_*_VRING_BASE). */
void ref_driver_start(struct ref_driver *d, const struct ref_queue *q, struct ref_memory *mem,
		      const uint32_t *position);
/* Entries that are free, as opposed to taken by an outstanding buffer. */
unsigned int ref_driver_room(const struct ref_driver *d);
int ref_driver_add(struct ref_driver *d, uint32_t cookie, const struct ref_buffer *b,
		   const struct ref_choice *c);
/* Returns whether a notification must be sent (true), or should not be (false). */
bool ref_driver_publish(struct ref_driver *d);
/* 1 and a buffer, 0 if the device used no further one, -1 with a complaint. */
int ref_driver_get(struct ref_driver *d, struct ref_used *used);
/* Returns whether there is something to get already. */
bool ref_driver_arm(struct ref_driver *d, const struct ref_arm *arm);
void ref_driver_disarm(struct ref_driver *d);
uint32_t ref_driver_position(const struct ref_driver *d);

/* A buffer as the device takes it. @main_count: packed: slots its list occupies. */
struct ref_request {
	uint16_t id;
	unsigned int main_count;
	struct ref_buffer buffer;
};

/* A buffer that the device is done with. @wrote: anything at all, anywhere in it (2.8.3). */
struct ref_done {
	uint16_t id;
	unsigned int main_count;
	uint32_t len;
	bool wrote;
	bool whole;	/* every writable byte was written: 2.7.9 and 2.8.8 may skip it */
};

struct ref_device {
	const struct ref_queue *q;
	struct ref_memory *mem;
	const char *complaint;

	unsigned int done_count;	/* completed, not visible yet */
	struct ref_done done[REF_MAX];
	/* where the used entry of each was put by the last publish; -1: skipped */
	int used_slot[REF_MAX];

	/* split */
	uint16_t last_avail, used_idx;
	/* packed */
	struct ref_cursor avail, used;
};

void ref_device_start(struct ref_device *d, const struct ref_queue *q, struct ref_memory *mem,
		      const uint32_t *position);
/* 1 and a buffer, 0 if there is none, -1 with a complaint. */
int ref_device_pop(struct ref_device *d, struct ref_request *req);
void ref_device_unpop(struct ref_device *d, const struct ref_request *req);
void ref_device_complete(struct ref_device *d, const struct ref_request *req, uint32_t len,
			 bool wrote);
/*
 * Make what was completed visible. @batch: with IN_ORDER, the sizes of the
 * batches, which add up to all of it; NULL: each buffer by itself.
 * Returns whether a notification must be sent (true), or should not be (false).
 */
bool ref_device_publish(struct ref_device *d, const unsigned int *batch);
bool ref_device_arm(struct ref_device *d, const struct ref_arm *arm);
void ref_device_disarm(struct ref_device *d);
uint32_t ref_device_position(const struct ref_device *d);

/* ---- Shared by the two layouts' files. ---- */

int ref_driver_complain(struct ref_driver *d, const char *what);
int ref_device_complain(struct ref_device *d, const char *what);
/* Rules about a buffer that hold in both layouts; 0, or -1 with a complaint. */
int ref_driver_check_buffer(struct ref_driver *d, const struct ref_buffer *b,
			    const struct ref_choice *c);
int ref_device_check_buffer(struct ref_device *d, const struct ref_buffer *b);
struct ref_outstanding *ref_driver_find(struct ref_driver *d, uint16_t id);
void ref_driver_forget(struct ref_driver *d, struct ref_outstanding *o);
void ref_cursor_advance(const struct ref_queue *q, struct ref_cursor *c, unsigned int slots);

void split_driver_start(struct ref_driver *d, const uint32_t *position);
int split_driver_add(struct ref_driver *d, const struct ref_buffer *b, const struct ref_choice *c);
bool split_driver_publish(struct ref_driver *d);
int split_driver_get(struct ref_driver *d, struct ref_used *used);
bool split_driver_arm(struct ref_driver *d, const struct ref_arm *arm);
void split_driver_disarm(struct ref_driver *d);

void packed_driver_start(struct ref_driver *d, const uint32_t *position);
int packed_driver_add(struct ref_driver *d, const struct ref_buffer *b,
		      const struct ref_choice *c);
bool packed_driver_publish(struct ref_driver *d);
int packed_driver_get(struct ref_driver *d, struct ref_used *used);
bool packed_driver_arm(struct ref_driver *d, const struct ref_arm *arm);
void packed_driver_disarm(struct ref_driver *d);

void split_device_start(struct ref_device *d, const uint32_t *position);
int split_device_pop(struct ref_device *d, struct ref_request *req);
void split_device_unpop(struct ref_device *d, const struct ref_request *req);
bool split_device_publish(struct ref_device *d, const unsigned int *batch);
bool split_device_arm(struct ref_device *d, const struct ref_arm *arm);
void split_device_disarm(struct ref_device *d);

void packed_device_start(struct ref_device *d, const uint32_t *position);
int packed_device_pop(struct ref_device *d, struct ref_request *req);
void packed_device_unpop(struct ref_device *d, const struct ref_request *req);
bool packed_device_publish(struct ref_device *d, const unsigned int *batch);
bool packed_device_arm(struct ref_device *d, const struct ref_arm *arm);
void packed_device_disarm(struct ref_device *d);

/* 2.7: where the fields of the split layout lie. */
uint64_t split_desc_at(const struct ref_queue *q, unsigned int n);
uint64_t split_avail_flags_at(const struct ref_queue *q);
uint64_t split_avail_idx_at(const struct ref_queue *q);
uint64_t split_avail_ring_at(const struct ref_queue *q, unsigned int slot);
uint64_t split_used_event_at(const struct ref_queue *q);
uint64_t split_used_flags_at(const struct ref_queue *q);
uint64_t split_used_idx_at(const struct ref_queue *q);
uint64_t split_used_ring_at(const struct ref_queue *q, unsigned int slot);
uint64_t split_avail_event_at(const struct ref_queue *q);

/* 2.8: the packed layout. */
uint64_t packed_desc_at(const struct ref_queue *q, unsigned int slot);
bool packed_is_available(uint16_t flags, bool wrap);
bool packed_is_used(uint16_t flags, bool wrap);

#endif
