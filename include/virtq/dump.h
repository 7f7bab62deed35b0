/* SPDX-License-Identifier: MIT */
/*
 * A queue as text, for whoever has to find out why it stands still: where both
 * ends are, what waits for whom, who asked to be notified of what, and the
 * entries that matter.
 *
 * Thread: the queue's owner. Any state will do, a broken queue and a ring full
 * of nonsense included; nothing is changed.
 */
#ifndef VIRTQ_DUMP_H
#define VIRTQ_DUMP_H

#include <virtq/api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct virtq_device;
struct virtq_driver;

#define VIRTQ_DUMP_COLUMNS 120u		/* no line is longer */

/**
 * virtq_driver_dump - describe a driver end
 * virtq_device_dump - describe a device end
 * @q:    the queue
 * @line: called for each line in turn. @text ends with NUL and has no newline;
 *        it is good until @line returns
 * @arg:  for @line
 *
 * Reads the ring's areas and the end's own records: no buffers, no indirect
 * tables. What the peer wrote is shown and never followed out of the ring; who
 * calls it while the peer works sees a state that goes on changing. A few score
 * lines, whatever the size of the ring. The wording is for people and may change.
 *
 * No allocation, lock or system call; time in proportion to the size of the ring.
 * Since: 0.1
 */
VIRTQ_API void virtq_driver_dump(const struct virtq_driver *q,
				 void (*line)(void *arg, const char *text), void *arg);
VIRTQ_API void virtq_device_dump(const struct virtq_device *q,
				 void (*line)(void *arg, const char *text), void *arg);

#ifdef __cplusplus
}
#endif

#endif
