/* SPDX-License-Identifier: MIT */
/* A network block device as a store: connected, measured, closed. */
#include "dev/store_nbd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/check.h"
#include "base/error.h"
#include "base/thread.h"

#define OPEN_S 10u			/* for the server to say what it is */
#define RECONNECT_MS 5000u
/*
 * How long a network may be silent: some times what requests wait for, since to end
 * the connection to a server that is still there can cost what it has not made stable.
 */
#define SILENCE_RECONNECTS 6u
#define SILENCE_MS_MIN 3000u
#define SILENCE_MS_MAX 300000u
#define NS_PER_MS ((uint64_t)1000000)
#define RANGE_MAX ((uint64_t)1 << 30)	/* of trim and zero */

uint64_t store_nbd_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int store_nbd_error(void)
{
	int error = nbd_get_errno();

	return error ? error : EIO;
}

/* The same in words, without the functions that libnbd names first: its own, the system's. */
static const char *error_text(void)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
	const char *text = nbd_get_error(), *colon;

	while (text && (colon = text + strspn(text, letters)) > text &&
	       strncmp(colon, ": ", 2) == 0)
		text = colon + 2;
	return text ? text : "the server has hung up";
}

static uint32_t block_size(struct nbd_handle *nbd, int which)
{
	int64_t bytes = nbd_get_block_size(nbd, which);

	return bytes > 0 && bytes <= UINT32_MAX ? (uint32_t)bytes : 0;
}

int store_nbd_ask(struct nbd_handle *nbd, struct nbd_abilities *can)
{
	int64_t bytes = nbd_get_size(nbd);
	int flush = nbd_can_flush(nbd), fua = nbd_can_fua(nbd), trim = nbd_can_trim(nbd);
	int zero = nbd_can_zero(nbd), read_only = nbd_is_read_only(nbd);
	uint32_t min = block_size(nbd, LIBNBD_SIZE_MINIMUM);
	uint32_t max = block_size(nbd, LIBNBD_SIZE_MAXIMUM);

	if (bytes < 0 || flush < 0 || fua < 0 || trim < 0 || zero < 0 || read_only < 0)
		return -store_nbd_error();
	*can = (struct nbd_abilities){
		.flush = flush, .fua = fua, .trim = trim, .zero = zero,
		.read_only = read_only, .bytes = (uint64_t)bytes,
		.block = min > STORE_SECTOR_BYTES && is_power_of_2(min) ? min : STORE_SECTOR_BYTES,
		.payload_max = max && max < NBD_BOUNCE_BYTES ? max : NBD_BOUNCE_BYTES,
	};
	return 0;
}

/* ---- A connection ---------------------------------------------------------- */

bool store_nbd_is_gone(struct nbd_handle *nbd)
{
	return nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd);
}

struct pollfd store_nbd_wanted(struct nbd_handle *nbd)
{
	unsigned int direction = nbd_aio_get_direction(nbd);
	struct pollfd fd = { .fd = nbd_aio_get_fd(nbd) };

	if (direction & LIBNBD_AIO_DIRECTION_READ)
		fd.events |= POLLIN;
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		fd.events |= POLLOUT;
	return fd;
}

void store_nbd_deliver(struct nbd_handle *nbd, const struct pollfd *fd)
{
	/* One of them only: after it the other may not be wanted any more. */
	if (fd->events & POLLIN && fd->revents & (POLLIN | POLLHUP | POLLERR))
		nbd_aio_notify_read(nbd);
	else if (fd->events & POLLOUT && fd->revents)
		nbd_aio_notify_write(nbd);
}

void store_nbd_watch_peer(struct nbd_handle *nbd, uint64_t silence_ms)
{
	int fd = nbd_aio_get_fd(nbd), on = 1, probes = 3;
	int idle_s = (int)(silence_ms / 2000), each_s = (int)(silence_ms / 6000);

	if (!each_s)
		each_s = 1;
	/* What has no such options is no network, and says itself when its peer is gone. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &each_s, sizeof(each_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

/*
 * The kernel probes what is idle only. Not by TCP_USER_TIMEOUT, which ends the
 * connection to a peer too that is there and has no room for long.
 */
bool store_nbd_is_silent(struct nbd_handle *nbd, uint64_t silence_ms)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(nbd_aio_get_fd(nbd), IPPROTO_TCP, TCP_INFO, &info, &len))
		return false;
	return (info.tcpi_retransmits || info.tcpi_probes) &&
	       info.tcpi_last_ack_recv >= silence_ms;
}

void store_nbd_forget_unsent(struct nbd_handle *nbd)
{
	struct linger at_once = { .l_onoff = 1 };

	setsockopt(nbd_aio_get_fd(nbd), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

/* Waits, but not for ever: a server may take connections and say nothing. */
static int connect_to(struct nbd_handle *nbd, const char *uri, struct virtq_error *err)
{
	uint64_t by = store_nbd_now_ns() + OPEN_S * 1000 * NS_PER_MS, now;
	bool failed = nbd_aio_connect_uri(nbd, uri) < 0;

	while (!failed && !nbd_aio_is_ready(nbd) && (now = store_nbd_now_ns()) < by) {
		struct pollfd fd = store_nbd_wanted(nbd);

		if (poll(&fd, 1, (int)((by - now) / NS_PER_MS) + 1) > 0)
			store_nbd_deliver(nbd, &fd);
		failed = store_nbd_is_gone(nbd);
	}
	if (failed)
		return error_set(err, -store_nbd_error(), "cannot connect to %s: %s", uri,
				 error_text());
	if (!nbd_aio_is_ready(nbd))
		return error_set(err, -ETIMEDOUT, "the server at %s has said nothing for %u seconds",
				 uri, OPEN_S);
	return 0;
}

/* ---- Open and close --------------------------------------------------------- */

static void free_store(struct nbd_store *n)
{
	if (n->nbd)
		nbd_close(n->nbd);
	if (n->bounce)
		munmap(n->bounce, (size_t)NBD_BOUNCE_BYTES * NBD_COMMANDS);
	if (n->wake_fd >= 0)
		close(n->wake_fd);
	pthread_mutex_destroy(&n->lock);
	free(n->uri);
	free(n);
}

static void close_store(struct virtq_store *store)
{
	struct nbd_store *n = container_of(store, struct nbd_store, store);

	pthread_mutex_lock(&n->lock);
	n->quit = true;
	pthread_mutex_unlock(&n->lock);
	virtq_notify_send(n->wake_fd);
	pthread_join(n->thread, NULL);
	/* The polite way, as far as that needs no waiting. */
	if (n->nbd && !n->connecting)
		nbd_aio_disconnect(n->nbd, 0);
	free_store(n);
}

/* A connection knows the size that it began with, so another one is asked. */
static int64_t refresh(struct virtq_store *store)
{
	struct nbd_store *n = container_of(store, struct nbd_store, store);
	struct nbd_handle *nbd = nbd_create();
	int64_t bytes;

	if (!nbd)
		return -ENOMEM;
	bytes = connect_to(nbd, n->uri, NULL);
	if (!bytes) {
		bytes = nbd_get_size(nbd);
		if (bytes < 0)
			bytes = -store_nbd_error();
	}
	nbd_close(nbd);
	/* What a disk could be, but not this one, which promised whole blocks to its driver. */
	if (bytes > 0 && bytes % STORE_SECTOR_BYTES == 0 && bytes % n->store.info.block)
		return -EINVAL;
	if (bytes <= 0 || (uint64_t)bytes % STORE_SECTOR_BYTES)
		return bytes;
	pthread_mutex_lock(&n->lock);
	if ((uint64_t)bytes != n->bytes_min) {
		n->bytes_min = (uint64_t)bytes;
		n->resized = true;
	}
	pthread_mutex_unlock(&n->lock);
	virtq_notify_send(n->wake_fd);
	n->store.info.bytes = (uint64_t)bytes;
	return bytes;
}

static const struct virtq_store_ops nbd_ops = {
	.name = "nbd",
	.start = store_nbd_start,
	.cancel = store_nbd_cancel,
	.refresh = refresh,
	.close = close_store,
};

static int measure(struct nbd_store *n, bool read_only, struct virtq_error *err)
{
	struct virtq_store_info *info = &n->store.info;
	uint32_t preferred = block_size(n->nbd, LIBNBD_SIZE_PREFERRED);
	int rc = store_nbd_ask(n->nbd, &n->can);

	if (rc)
		return error_set(err, rc, "%s does not say what it can do: %s", n->uri,
				 error_text());
	if (n->can.read_only && !read_only)
		return error_set(err, -EROFS, "%s can only be read", n->uri);
	if (!n->can.bytes || n->can.bytes % n->can.block)
		return error_set(err, -EINVAL,
				 "%s has %llu bytes: a disk needs a multiple of %u, and not 0",
				 n->uri, (unsigned long long)n->can.bytes, n->can.block);
	info->bytes = n->bytes_min = n->bytes = n->can.bytes;
	info->read_only = read_only;
	info->block = n->can.block;
	if (is_power_of_2(preferred) && preferred >= info->block)
		info->physical = info->min_io = preferred;
	if (n->can.trim)
		info->discard_max = RANGE_MAX;
	info->discard_align = info->physical;
	if (n->can.zero)
		info->zero_max = RANGE_MAX;
	info->zero_unmaps = n->can.zero;
	n->payload_max = n->can.payload_max - n->can.payload_max % info->block;
	if (!n->payload_max)
		return error_set(err, -EINVAL,
				 "%s has blocks of %u bytes, more than the %u that are moved at once",
				 n->uri, info->block, n->can.payload_max);
	return 0;
}

static int open_nbd(struct nbd_store *n, const char *uri, bool read_only,
		    struct virtq_error *err)
{
	void *bounce;
	int rc;

	n->uri = strdup(uri);
	n->nbd = nbd_create();
	bounce = mmap(NULL, (size_t)NBD_BOUNCE_BYTES * NBD_COMMANDS, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (bounce != MAP_FAILED)
		n->bounce = bounce;
	if (!n->uri || !n->nbd || !n->bounce)
		return error_set(err, -ENOMEM, "no memory for %s", uri);
	rc = connect_to(n->nbd, n->uri, err);
	if (!rc)
		rc = measure(n, read_only, err);
	if (rc)
		return rc;
	store_nbd_watch_peer(n->nbd, n->silence_ms);
	n->wake_fd = virtq_notify_open();
	rc = n->wake_fd < 0 ? n->wake_fd :
				thread_start(&n->thread, store_nbd_thread, n);
	return rc ? error_set_errno(err, rc, "cannot start a thread for %s", uri) : 0;
}

int store_nbd_open(struct virtq_store **out, const char *uri,
		   const struct virtq_store_options *options, struct virtq_error *err)
{
	struct nbd_store *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return error_set(err, -ENOMEM, "no memory for a store");
	n->store.ops = &nbd_ops;
	n->wake_fd = -1;
	n->arrived_end = &n->arrived;
	n->reconnect_ns = (options->reconnect_ms ? options->reconnect_ms : RECONNECT_MS) *
			  NS_PER_MS;
	n->silence_ms = n->reconnect_ns / NS_PER_MS * SILENCE_RECONNECTS;
	if (n->silence_ms < SILENCE_MS_MIN)
		n->silence_ms = SILENCE_MS_MIN;
	if (n->silence_ms > SILENCE_MS_MAX)
		n->silence_ms = SILENCE_MS_MAX;
	pthread_mutex_init(&n->lock, NULL);
	rc = open_nbd(n, uri, options->read_only, err);
	if (rc) {
		free_store(n);
		return rc;
	}
	*out = &n->store;
	return 0;
}
