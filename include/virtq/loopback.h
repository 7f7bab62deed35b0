/* SPDX-License-Identifier: MIT */
/* Both ends in one process: a driver on this thread, a device on an engine's. */
#ifndef VIRTQ_LOOPBACK_H
#define VIRTQ_LOOPBACK_H

#include <virtq/engine.h>
#include <virtq/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * virtq_loopback_open - drive a device of this very process
 * @out:     receives the transport
 * @model:   the device; borrowed until close
 * @engines: its queues are spread over these in turn; borrowed until close
 * @count:   how many engines, at least 1
 * @err:     filled on failure; may be NULL
 *
 * Return: 0, -EINVAL, -ENOMEM. Thread: any. Since: 0.1
 */
VIRTQ_API int virtq_loopback_open(struct virtq_transport **out, struct virtq_model *model,
				  struct virtq_engine *const *engines, unsigned int count,
				  struct virtq_error *err);

#ifdef __cplusplus
}
#endif

#endif
