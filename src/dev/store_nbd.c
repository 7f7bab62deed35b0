/* SPDX-License-Identifier: MIT */
/*
 * A network block device as a store, through libnbd.
 *
 * Engines leave what is to be done in a list and are told later how it went. A
 * thread of the store's own has the connection: it takes the list, has up to 64
 * commands under way and waits for the server. A request is one command, or
 * several one after the other: a command moves one piece of memory, the
 * driver's if the request has it in one piece, else a buffer of the command's.
 *
 * If the connection breaks, what is under way has failed, and the next request
 * makes a new one. What the server had not made stable may be gone with it: the
 * next flush says so, once.
 */
#include "dev/store_nbd.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#include <virtq/notify.h>

#include "base/check.h"

#define NS_PER_MS ((uint64_t)1000000)
#define CANCEL_NS (1000 * NS_PER_MS)	/* for what is cancelled to end by itself */
#define CONNECT_NS (5000 * NS_PER_MS)
#define RETRY_NS (1000 * NS_PER_MS)	/* without a try to connect, after one that failed */

static struct nbd_store *store_of(struct virtq_store *store)
{
	return container_of(store, struct nbd_store, store);
}

static struct nbd_io *net_io_of(struct virtq_store_io *io)
{
	return (struct nbd_io *)(void *)io->room;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool is_gone(struct nbd_handle *nbd)
{
	return nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd);
}

/* ---- On the engines' threads ---------------------------------------------- */

enum virtq_verdict store_nbd_start(struct virtq_store *store, struct virtq_store_io *io,
				   struct virtq_op *op)
{
	struct nbd_store *n = store_of(store);

	(void)op;
	io->result = 0;
	if (io->kind == VIRTQ_STORE_FLUSH && !n->can.flush)
		return VIRTQ_DONE;	/* all that such a server lets us do */
	if ((io->kind == VIRTQ_STORE_DISCARD && !n->can.trim) ||
	    (io->kind == VIRTQ_STORE_ZERO && !n->can.zero) || io->kind == VIRTQ_STORE_ERASE) {
		io->result = -EOPNOTSUPP;
		return VIRTQ_DONE;
	}
	*net_io_of(io) = (struct nbd_io){ .next = NULL };
	pthread_mutex_lock(&n->lock);
	*n->arrived_end = io;
	n->arrived_end = &net_io_of(io)->next;
	pthread_mutex_unlock(&n->lock);
	virtq_notify_send(n->wake_fd);
	return VIRTQ_HOLD;
}

void store_nbd_cancel(struct virtq_store *store, struct virtq_store_io *io)
{
	struct nbd_store *n = store_of(store);

	pthread_mutex_lock(&n->lock);
	net_io_of(io)->cancelled = true;
	n->cancels = true;
	pthread_mutex_unlock(&n->lock);
	virtq_notify_send(n->wake_fd);
}

/* ---- Commands -------------------------------------------------------------- */

static uint8_t *bounce_of(const struct nbd_command *c)
{
	return c->n->bounce + (size_t)(c - c->n->commands) * NBD_BOUNCE_BYTES;
}

/* From within libnbd, with its lock held. */
static int command_over(void *arg, int *error)
{
	struct nbd_command *c = arg;

	c->error = *error;
	c->n->over |= (uint64_t)1 << (c - c->n->commands);
	return 1;	/* libnbd may forget it */
}

/* The request has ended: @result as an operation's. */
static void end_command(struct nbd_command *c, int64_t result)
{
	struct nbd_store *n = c->n;
	uint64_t bit = (uint64_t)1 << (c - n->commands);

	n->used &= ~bit;
	n->over &= ~bit;
	virtq_engine_complete(c->io->req, result);
}

/* The memory of the next piece. */
static void *pick_memory(struct nbd_command *c)
{
	const struct virtq_store_io *io = c->io;
	bool reads = io->kind == VIRTQ_STORE_READ;
	const struct virtq_cursor *cursor = reads ? &io->req->wr : &io->req->rd;
	uint64_t max = c->n->payload_max;

	c->piece = io->bytes - c->done;
	c->bounced = cursor->spans->len < c->piece;
	if (c->bounced && max > NBD_BOUNCE_BYTES)
		max = NBD_BOUNCE_BYTES;
	if (c->piece > max)
		c->piece = max;
	if (!c->bounced)
		return cursor->spans->base;
	if (!reads)
		virtq_req_read(io->req, bounce_of(c), (size_t)c->piece);
	return bounce_of(c);
}

static void issue(struct nbd_command *c)
{
	struct nbd_store *n = c->n;
	const struct virtq_store_io *io = c->io;
	enum virtq_store_kind kind = c->syncing ? VIRTQ_STORE_FLUSH : io->kind;
	nbd_completion_callback over = { .callback = command_over, .user_data = c };
	uint32_t fua = io->flags & VIRTQ_STORE_STABLE && n->can.fua ? LIBNBD_CMD_FLAG_FUA : 0;
	uint64_t at = io->offset + c->done;
	void *memory;
	int64_t rc = -1;

	c->error = 0;
	c->piece = io->bytes;
	switch (kind) {
	case VIRTQ_STORE_READ:
		memory = pick_memory(c);
		rc = nbd_aio_pread(n->nbd, memory, (size_t)c->piece, at, over, 0);
		break;
	case VIRTQ_STORE_WRITE:
		memory = pick_memory(c);
		rc = nbd_aio_pwrite(n->nbd, memory, (size_t)c->piece, at, over, fua);
		break;
	case VIRTQ_STORE_FLUSH:
		c->writes_then = n->writes;
		rc = nbd_aio_flush(n->nbd, over, 0);
		break;
	case VIRTQ_STORE_DISCARD:
		rc = nbd_aio_trim(n->nbd, io->bytes, at, over, fua);
		break;
	case VIRTQ_STORE_ZERO:
		if (!(io->flags & VIRTQ_STORE_MAY_UNMAP))
			fua |= LIBNBD_CMD_FLAG_NO_HOLE;
		rc = nbd_aio_zero(n->nbd, io->bytes, at, over, fua);
		break;
	case VIRTQ_STORE_ERASE:
		break;		/* store_nbd_start() refuses it */
	}
	if (rc < 0) {
		int error = is_gone(n->nbd) ? ENOTCONN : store_nbd_error();

		command_over(c, &error);
	}
}

/* A piece has been transferred, or a range changed. Returns true if that was all. */
static bool advance(struct nbd_command *c)
{
	struct virtq_store_io *io = c->io;
	struct nbd_store *n = c->n;

	if (io->kind == VIRTQ_STORE_READ) {
		if (c->bounced)
			virtq_req_write(io->req, bounce_of(c), (size_t)c->piece);
		else
			virtq_req_wrote(io->req, c->piece);
	} else {
		if (io->kind == VIRTQ_STORE_WRITE && !c->bounced)
			virtq_req_skip(io->req, c->piece);
		n->writes += !(io->flags & VIRTQ_STORE_STABLE && n->can.fua);
	}
	c->done += c->piece;
	return c->done == io->bytes;
}

/* A command has ended: the request goes on, or has ended too. */
static void follow(struct nbd_command *c)
{
	struct virtq_store_io *io = c->io;
	struct nbd_store *n = c->n;

	n->over &= ~((uint64_t)1 << (c - n->commands));
	if (c->error) {
		/* Without a connection: as in disconnect(), which comes next. */
		end_command(c, c->drop_ns ? -ECANCELED : c->error == ENOTCONN ? -EIO : -c->error);
		return;
	}
	if (c->syncing || io->kind == VIRTQ_STORE_FLUSH) {
		if (c->writes_then > n->flushed)
			n->flushed = c->writes_then;
		end_command(c, (int64_t)io->bytes);
		return;
	}
	if (advance(c)) {
		c->syncing = io->kind != VIRTQ_STORE_READ && io->flags & VIRTQ_STORE_STABLE &&
			     !n->can.fua && n->can.flush;
		if (!c->syncing) {
			end_command(c, (int64_t)io->bytes);
			return;
		}
	}
	issue(c);
}

static void follow_all(struct nbd_store *n)
{
	while (n->over)
		follow(&n->commands[__builtin_ctzll(n->over)]);
}

static void begin(struct nbd_store *n, struct virtq_store_io *io)
{
	unsigned int free_bit = (unsigned int)__builtin_ctzll(~n->used);
	struct nbd_command *c = &n->commands[free_bit];

	*c = (struct nbd_command){ .n = n, .io = io };
	n->used |= (uint64_t)1 << free_bit;
	if (io->kind == VIRTQ_STORE_FLUSH && n->lost) {
		n->lost = false;
		end_command(c, -EIO);
		return;
	}
	issue(c);
}

/* ---- The connection --------------------------------------------------------- */

/* The server that is there now must be as good as the one before. */
static bool as_before(const struct nbd_store *n)
{
	struct nbd_abilities now;

	return !store_nbd_ask(n->nbd, &now) && now.bytes >= n->can.bytes &&
	       now.flush >= n->can.flush && now.fua >= n->can.fua &&
	       now.trim >= n->can.trim && now.zero >= n->can.zero &&
	       (!now.read_only || n->store.info.read_only);
}

static void disconnect(struct nbd_store *n, uint64_t retry_ns)
{
	/* After this libnbd knows nothing of our memory, nor of the driver's. */
	nbd_close(n->nbd);
	n->nbd = NULL;
	n->connecting = false;
	n->connect_by_ns = retry_ns;
	n->over = 0;
	if (n->can.flush && n->writes != n->flushed)
		n->lost = true;
	n->flushed = n->writes;
	while (n->used) {
		struct nbd_command *c = &n->commands[__builtin_ctzll(n->used)];

		end_command(c, c->drop_ns ? -ECANCELED : -EIO);
	}
}

static void begin_to_connect(struct nbd_store *n, uint64_t now)
{
	n->nbd = nbd_create();
	n->connecting = true;
	n->connect_by_ns = now + CONNECT_NS;
	if (!n->nbd) {
		n->connecting = false;
		n->connect_by_ns = now + RETRY_NS;
	} else if (nbd_aio_connect_uri(n->nbd, n->uri) < 0) {
		disconnect(n, now + RETRY_NS);
	}
}

/* See how the connection is, and whether one is wanted. */
static void check_connection(struct nbd_store *n)
{
	uint64_t now = now_ns();

	if (!n->nbd && n->waiting && now >= n->connect_by_ns)
		begin_to_connect(n, now);
	if (!n->nbd)
		return;
	if (n->connecting) {
		if (nbd_aio_is_ready(n->nbd)) {
			n->connecting = false;
			if (!as_before(n))
				disconnect(n, now + RETRY_NS);
		} else if (now >= n->connect_by_ns || is_gone(n->nbd)) {
			disconnect(n, now + RETRY_NS);
		}
		return;
	}
	if (is_gone(n->nbd)) {
		disconnect(n, 0);
		return;
	}
	/* What is cancelled and does not end is ended with the connection: nothing else can. */
	for (uint64_t left = n->used; left; left &= left - 1) {
		const struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (c->drop_ns && now >= c->drop_ns) {
			disconnect(n, 0);
			return;
		}
	}
}

/* ---- The thread ------------------------------------------------------------- */

/* Take the cancelled ones out of those that wait. By the lock. */
static struct virtq_store_io *take_cancelled(struct nbd_store *n)
{
	struct virtq_store_io *io, **at = &n->waiting, *taken = NULL;

	while ((io = *at)) {
		if (net_io_of(io)->cancelled) {
			*at = net_io_of(io)->next;
			net_io_of(io)->next = taken;
			taken = io;
		} else {
			at = &net_io_of(io)->next;
		}
	}
	n->waiting_end = at;
	for (uint64_t left = n->used; left; left &= left - 1) {
		struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (net_io_of(c->io)->cancelled && !c->drop_ns)
			c->drop_ns = now_ns() + CANCEL_NS;
	}
	return taken;
}

/* See what engines have left. Returns false if the store is to be closed. */
static bool collect(struct nbd_store *n)
{
	struct virtq_store_io *cancelled = NULL, *next;
	bool quit;

	pthread_mutex_lock(&n->lock);
	if (n->arrived) {
		*n->waiting_end = n->arrived;
		n->waiting_end = n->arrived_end;
		n->arrived = NULL;
		n->arrived_end = &n->arrived;
	}
	if (n->cancels)
		cancelled = take_cancelled(n);
	n->cancels = false;
	quit = n->quit;
	pthread_mutex_unlock(&n->lock);
	for (; cancelled; cancelled = next) {
		next = net_io_of(cancelled)->next;
		virtq_engine_complete(cancelled->req, -ECANCELED);
	}
	return !quit;
}

static struct virtq_store_io *take_waiting(struct nbd_store *n)
{
	struct virtq_store_io *io = n->waiting;

	n->waiting = net_io_of(io)->next;
	if (!n->waiting)
		n->waiting_end = &n->waiting;
	return io;
}

/* Do what can be done without waiting. */
static void turn(struct nbd_store *n)
{
	do {
		follow_all(n);
		check_connection(n);
		while (n->waiting && !n->nbd)
			virtq_engine_complete(take_waiting(n)->req, -ESHUTDOWN);
		while (n->waiting && !n->connecting && ~n->used)
			begin(n, take_waiting(n));
	} while (n->over);
}

/* How long to sleep, milliseconds; -1: until something happens. */
static int timeout_ms(const struct nbd_store *n)
{
	uint64_t due = n->connecting ? n->connect_by_ns : UINT64_MAX, now;

	for (uint64_t left = n->used; left; left &= left - 1) {
		const struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (c->drop_ns && c->drop_ns < due)
			due = c->drop_ns;
	}
	if (due == UINT64_MAX)
		return -1;
	now = now_ns();
	return due <= now ? 0 : (int)((due - now) / NS_PER_MS) + 1;
}

static void wait_for_news(struct nbd_store *n)
{
	struct pollfd fds[2] = { { .fd = n->wake_fd, .events = POLLIN }, { .fd = -1 } };
	unsigned int direction = 0;

	if (n->nbd) {
		direction = nbd_aio_get_direction(n->nbd);
		fds[1].fd = nbd_aio_get_fd(n->nbd);
		if (direction & LIBNBD_AIO_DIRECTION_READ)
			fds[1].events |= POLLIN;
		if (direction & LIBNBD_AIO_DIRECTION_WRITE)
			fds[1].events |= POLLOUT;
	}
	if (poll(fds, 2, timeout_ms(n)) <= 0)
		return;
	if (fds[0].revents)
		virtq_notify_clear(n->wake_fd);
	/* One of them only: after it the other may not be wanted any more. */
	if (direction & LIBNBD_AIO_DIRECTION_READ && fds[1].revents & (POLLIN | POLLHUP | POLLERR))
		nbd_aio_notify_read(n->nbd);
	else if (direction & LIBNBD_AIO_DIRECTION_WRITE && fds[1].revents)
		nbd_aio_notify_write(n->nbd);
}

void *store_nbd_thread(void *arg)
{
	struct nbd_store *n = arg;

	while (collect(n)) {
		turn(n);
		wait_for_news(n);
	}
	return NULL;
}
