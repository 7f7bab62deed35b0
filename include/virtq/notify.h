/* SPDX-License-Identifier: MIT */
/* Kicks and calls as file descriptors: eventfds, or pipes in their place. */
#ifndef VIRTQ_NOTIFY_H
#define VIRTQ_NOTIFY_H

#include <virtq/api.h>

#ifdef __cplusplus
extern "C" {
#endif

/** virtq_notify_open - a new eventfd, non-blocking and close-on-exec, or -errno. */
VIRTQ_API int virtq_notify_open(void);

/**
 * virtq_notify_send - signal the other side
 *
 * Writes 8 bytes whose value means nothing. A full eventfd or pipe counts as
 * delivered: the other side has a signal waiting.
 *
 * Return: 0 or -errno.
 * Thread: any. Spec: vhost-user, support for other platforms. Since: 0.1
 */
VIRTQ_API int virtq_notify_send(int fd);

/** virtq_notify_clear - take every waiting signal away. Look at the ring after it, not before. */
VIRTQ_API void virtq_notify_clear(int fd);

/**
 * virtq_notify_wait - sleep until a signal waits, then take it away
 * @timeout_ms: milliseconds; -1 for ever
 *
 * Return: 1 signalled, 0 timed out, -errno (-EINTR after a signal handler ran).
 */
VIRTQ_API int virtq_notify_wait(int fd, int timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
