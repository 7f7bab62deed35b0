/* SPDX-License-Identifier: MIT */
/*
 * A network block device as a store, through libnbd.
 *
 * Engines leave what is to be done in a list and are told later how it went. A
 * thread of the store's own has the connection: it takes the list, has up to 64
 * commands under way and waits for the server. A request is one command, or
 * several one after the other: a command moves what fits its buffer. libnbd never
 * has the driver's memory: so a request can be taken from it at any time, and its
 * reply, which alone tells that the server has done with it, still be awaited.
 *
 * What becomes of requests when the connection breaks is in store_nbd_link.c.
 * Any of them may have to begin anew, so a write leaves its request as it is.
 */
#include "dev/store_nbd.h"

#include <errno.h>
#include <limits.h>

#include <virtq/notify.h>

#include "base/check.h"
#include "base/shm.h"

#define NS_PER_MS ((uint64_t)1000000)
#define CANCEL_NS (1000 * NS_PER_MS)	/* for what is cancelled to end by itself */

static struct nbd_store *store_of(struct virtq_store *store)
{
	return container_of(store, struct nbd_store, store);
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

static void free_command(struct nbd_command *c)
{
	struct nbd_store *n = c->n;
	uint64_t bit = (uint64_t)1 << (c - n->commands);

	n->used &= ~bit;
	n->over &= ~bit;
}

/* The request has ended: @result as an operation's. */
static void end_command(struct nbd_command *c, int64_t result)
{
	struct virtq_req *req = c->io->req;

	free_command(c);
	virtq_engine_complete(req, result);
}

/* The next piece of what is to be written, as a copy. */
static void copy_piece(struct nbd_command *c)
{
	uint8_t *to = bounce_of(c);

	for (uint64_t left = c->piece; left; ) {
		size_t part = c->span->len - c->span_at;

		if (part > left)
			part = (size_t)left;
		/* UNTRUSTED: the driver may write here meanwhile; each byte is read once. */
		shm_copy_in(to, (uint8_t *)c->span->base + c->span_at, part);
		c->span_at += part;
		if (c->span_at == c->span->len) {
			c->span++;
			c->span_at = 0;
		}
		to += part;
		left -= part;
	}
}

static void check_issued(struct nbd_command *c, int64_t rc)
{
	if (rc < 0) {
		int error = store_nbd_is_gone(c->n->nbd) ? ENOTCONN : store_nbd_error();

		command_over(c, &error);
	}
}

static void issue_flush(struct nbd_command *c)
{
	nbd_completion_callback over = { .callback = command_over, .user_data = c };

	c->flushes = true;
	c->writes_then = c->n->writes;
	check_issued(c, nbd_aio_flush(c->n->nbd, over, 0));
}

static void issue(struct nbd_command *c)
{
	struct nbd_store *n = c->n;
	const struct virtq_store_io *io = c->io;
	enum virtq_store_kind kind = c->syncing ? VIRTQ_STORE_FLUSH : io->kind;
	nbd_completion_callback over = { .callback = command_over, .user_data = c };
	uint32_t fua = io->flags & VIRTQ_STORE_STABLE && n->can.fua ? LIBNBD_CMD_FLAG_FUA : 0;
	uint64_t at = io->offset + c->done;
	int64_t rc = -1;

	c->error = 0;
	c->piece = io->bytes - c->done;
	if (c->piece > n->payload_max && (kind == VIRTQ_STORE_READ || kind == VIRTQ_STORE_WRITE))
		c->piece = n->payload_max;
	switch (kind) {
	case VIRTQ_STORE_READ:
		rc = nbd_aio_pread(n->nbd, bounce_of(c), (size_t)c->piece, at, over, 0);
		break;
	case VIRTQ_STORE_WRITE:
		copy_piece(c);
		rc = nbd_aio_pwrite(n->nbd, bounce_of(c), (size_t)c->piece, at, over, fua);
		break;
	case VIRTQ_STORE_FLUSH:
		issue_flush(c);
		return;
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
	check_issued(c, rc);
}

/* A piece has been transferred, or a range changed. Returns true if that was all. */
static bool advance(struct nbd_command *c)
{
	struct virtq_store_io *io = c->io;

	if (io->kind == VIRTQ_STORE_READ)
		virtq_req_write(io->req, bounce_of(c), (size_t)c->piece);
	c->done += c->piece;
	return c->done == io->bytes;
}

/* All of a request was transferred or changed: is it over? */
static void settle(struct nbd_command *c)
{
	const struct virtq_store_io *io = c->io;
	struct nbd_store *n = c->n;
	bool changes = io->kind == VIRTQ_STORE_WRITE || io->kind == VIRTQ_STORE_ZERO;
	bool stable = io->flags & VIRTQ_STORE_STABLE;

	if (changes && stable && !n->can.fua && n->can.flush) {
		c->syncing = true;
		issue(c);
		return;
	}
	/* What was discarded may read as anything: it cannot be lost. */
	n->writes += changes && !(stable && n->can.fua);
	end_command(c, (int64_t)io->bytes);
}

/* Is anything under way that somebody waits for? */
static bool is_busy(const struct nbd_store *n)
{
	for (uint64_t left = n->used; left; left &= left - 1) {
		const struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (c->io || c->flushes)
			return true;
	}
	return false;
}

/* May the server still make a change of [from, to) that was given up? */
static bool may_change(const struct nbd_store *n, uint64_t from, uint64_t to)
{
	for (uint64_t left = n->used; left; left &= left - 1) {
		const struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (!c->io && from < c->to && c->from < to)
			return true;
	}
	return false;
}

/* Nobody would know any more when a change that was given up is made: it comes first. */
static bool renews_now(const struct nbd_store *n)
{
	return n->renews && !may_change(n, 0, UINT64_MAX);
}

/* The reply to what nobody waits for any more. */
static void follow_dropped(struct nbd_command *c)
{
	struct nbd_store *n = c->n;
	bool failed = c->flushes && c->error;

	free_command(c);
	/* What cannot be made stable now will not be by waiting. */
	n->renew_flushed |= failed && renews_now(n) && !is_busy(n);
}

/* A command has ended: the request goes on, or has ended too. */
static void follow(struct nbd_command *c)
{
	struct nbd_store *n = c->n;

	n->over &= ~((uint64_t)1 << (c - n->commands));
	if (c->error == ENOTCONN || c->error == ESHUTDOWN) {
		n->broken = true;	/* what becomes of it: store_nbd_check_link() */
		return;
	}
	n->outage_until_ns = 0;
	if (c->flushes && !c->error && c->writes_then > n->flushed)
		n->flushed = c->writes_then;
	if (!c->io) {
		follow_dropped(c);
	} else if (c->error) {
		end_command(c, c->drop_ns ? -ECANCELED : -c->error);
	} else if (c->flushes) {
		end_command(c, (int64_t)c->io->bytes);
	} else if (advance(c)) {
		settle(c);
	} else {
		issue(c);
	}
}

static void follow_all(struct nbd_store *n)
{
	while (n->over)
		follow(&n->commands[__builtin_ctzll(n->over)]);
}

static struct nbd_command *new_command(struct nbd_store *n, struct virtq_store_io *io)
{
	unsigned int free_bit = (unsigned int)__builtin_ctzll(~n->used);
	struct nbd_command *c = &n->commands[free_bit];

	*c = (struct nbd_command){ .n = n, .io = io };
	n->used |= (uint64_t)1 << free_bit;
	return c;
}

static void begin(struct nbd_store *n, struct virtq_store_io *io)
{
	struct nbd_command *c;

	/* Nobody can say any more that all is stable. */
	if (n->lost && (io->kind == VIRTQ_STORE_FLUSH || io->flags & VIRTQ_STORE_STABLE)) {
		virtq_engine_complete(io->req, -EIO);
		return;
	}
	c = new_command(n, io);
	if (io->kind == VIRTQ_STORE_READ)
		c->done = io->bytes - io->req->wr.bytes;	/* it may have come so far before */
	else
		c->span = io->req->rd.spans;
	if (io->kind != VIRTQ_STORE_READ && io->kind != VIRTQ_STORE_FLUSH) {
		c->from = io->offset;
		c->to = io->offset + io->bytes;
	}
	issue(c);
}

/* ---- The thread ------------------------------------------------------------- */

/* Take the cancelled ones out of those that wait. By the lock. */
static struct virtq_store_io *take_cancelled(struct nbd_store *n)
{
	struct virtq_store_io *io, *next, *taken = NULL;

	for (io = n->waiting.first; io; io = next) {
		next = store_turns_next(&n->waiting, io);
		if (!net_io_of(io)->cancelled)
			continue;
		store_turns_remove(&n->waiting, io);
		net_io_of(io)->next = taken;
		taken = io;
	}
	for (uint64_t left = n->used; left; left &= left - 1) {
		struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (c->io && net_io_of(c->io)->cancelled && !c->drop_ns)
			c->drop_ns = store_nbd_now_ns() + CANCEL_NS;
	}
	return taken;
}

/* See what engines have left. Returns false if the store is to be closed. */
static bool collect(struct nbd_store *n)
{
	struct virtq_store_io *cancelled = NULL, *io, *next;
	bool quit;

	pthread_mutex_lock(&n->lock);
	for (io = n->arrived; io; io = net_io_of(io)->next)
		store_turns_add(&n->waiting, io);
	n->arrived = NULL;
	n->arrived_end = &n->arrived;
	if (n->cancels)
		cancelled = take_cancelled(n);
	n->cancels = false;
	n->renews |= n->resized;
	n->resized = false;
	quit = n->quit;
	pthread_mutex_unlock(&n->lock);
	for (; cancelled; cancelled = next) {
		next = net_io_of(cancelled)->next;
		virtq_engine_complete(cancelled->req, -ECANCELED);
	}
	return !quit;
}

/* Not after a change that was given up; nor past an end that has moved. */
static bool must_wait(const struct nbd_store *n, const struct virtq_store_io *io)
{
	uint64_t to = io->offset + io->bytes;

	return may_change(n, io->offset, to) || (n->renews && to > n->bytes);
}

/* The first that may begin, of the queue whose turn it is or, if it has none, of the next. */
static struct virtq_store_io *take_waiting(struct nbd_store *n)
{
	struct virtq_store_io *io = n->waiting.first;

	while (io && must_wait(n, io))
		io = store_turns_next(&n->waiting, io);
	if (io)
		store_turns_take(&n->waiting, io);
	return io;
}

/* Before the connection is given up on purpose nothing may be left in it. */
static void flush_to_renew(struct nbd_store *n)
{
	if (!n->nbd || n->connecting)
		n->renews = false;	/* the next one knows the size */
	else if (is_busy(n) || n->renew_flushed || !~n->used)
		return;
	else if (!n->can.flush || n->writes == n->flushed)
		n->renew_flushed = true;
	else
		issue_flush(new_command(n, NULL));
}

/* Do what can be done without waiting. */
static void turn(struct nbd_store *n)
{
	struct virtq_store_io *io;

	do {
		follow_all(n);
		if (renews_now(n))
			flush_to_renew(n);
		store_nbd_check_link(n);
		while (n->nbd && !n->connecting && !n->broken && !renews_now(n) && ~n->used &&
		       (io = take_waiting(n)))
			begin(n, io);
	} while (n->over);
}

/* How long to sleep, milliseconds; -1: until something happens. */
static int timeout_ms(const struct nbd_store *n)
{
	uint64_t due = store_nbd_link_due_ns(n), now;

	if (due == UINT64_MAX)
		return -1;
	now = store_nbd_now_ns();
	if (due <= now)
		return 0;
	due = (due - now) / NS_PER_MS + 1;
	return due < INT_MAX ? (int)due : INT_MAX;
}

static void wait_for_news(struct nbd_store *n)
{
	struct pollfd fds[2] = { { .fd = n->wake_fd, .events = POLLIN }, { .fd = -1 } };

	if (n->nbd)
		fds[1] = store_nbd_wanted(n->nbd);
	if (poll(fds, 2, timeout_ms(n)) <= 0)
		return;
	if (fds[0].revents)
		virtq_notify_clear(n->wake_fd);
	if (n->nbd)
		store_nbd_deliver(n->nbd, &fds[1]);
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
