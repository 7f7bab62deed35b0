/* SPDX-License-Identifier: MIT */
#include <virtq/notify.h>

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

int virtq_notify_open(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int virtq_notify_send(int fd)
{
	const uint64_t one = 1;

	for (;;) {
		if (write(fd, &one, sizeof(one)) >= 0)
			return 0;
		if (errno == EAGAIN)	/* full: a signal is waiting already */
			return 0;
		if (errno != EINTR)
			return -errno;
	}
}

void virtq_notify_clear(int fd)
{
	char sink[512];

	/*
	 * An eventfd is empty after one read; a pipe may hold more than fits.
	 * NOWAIT, not O_NONBLOCK: the flag lies in the open file that the peer
	 * shares, and it may have cleared it.
	 */
	for (;;) {
		struct iovec iov = { sink, sizeof(sink) };
		ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EOPNOTSUPP || errno == ESPIPE || errno == EINVAL)) {
			struct pollfd p = { fd, POLLIN, 0 };

			if (poll(&p, 1, 0) != 1 || !(p.revents & POLLIN))
				return;
			n = read(fd, sink, sizeof(sink));
		}
		if (n < (ssize_t)sizeof(sink))
			return;
	}
}

int virtq_notify_wait(int fd, int timeout_ms)
{
	struct pollfd p = { fd, POLLIN, 0 };
	int n = poll(&p, 1, timeout_ms);

	if (n < 0)
		return -errno;
	if (n == 0)
		return 0;
	virtq_notify_clear(fd);
	return 1;
}
