/* SPDX-License-Identifier: MIT */
/* The memory that a front end shares with a back end. */
#ifndef VIRTQ_TRANSPORT_VU_MEMORY_H
#define VIRTQ_TRANSPORT_VU_MEMORY_H

#include <virtq/mem.h>

#include "transport/vu_msg.h"

/* Regions that one front end may share: GET_MAX_MEM_SLOTS. Each holds a descriptor open. */
#define VUSER_MEM_SLOTS 256u

/*
 * Zero it before first use. @regions hold a reference to each mapping, and so
 * does @map, which is what queues use; @map is NULL until memory was shared.
 */
struct vuser_memory {
	struct virtq_map *map;
	unsigned int count;
	struct virtq_region regions[VUSER_MEM_SLOTS];
};

/*
 * vuser_memory_set - SET_MEM_TABLE: these regions and no others
 * vuser_memory_add - ADD_MEM_REG: one more
 * vuser_memory_remove - REM_MEM_REG: one fewer
 *
 * Descriptors are taken out of the message. A region that stays keeps its
 * mapping. On failure nothing has changed.
 *
 * Return: 0, -EINVAL (empty, overflowing, overlapping, behind the end of its
 *	file, unknown), -ENOSPC (no slot left), -ENOMEM, or what mmap says.
 */
int vuser_memory_set(struct vuser_memory *m, struct vuser_msg *msg, struct virtq_error *err);
int vuser_memory_add(struct vuser_memory *m, struct vuser_msg *msg, struct virtq_error *err);
int vuser_memory_remove(struct vuser_memory *m, const struct vuser_msg *msg,
			struct virtq_error *err);

/* Let go of all of it. Queues and requests that still use it hold on to it themselves. */
void vuser_memory_drop(struct vuser_memory *m);

#endif
