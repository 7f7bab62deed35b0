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

static void pass_span(struct nbd_command *c, size_t bytes)
{
	c->span_at += bytes;
	if (c->span_at == c->span->len) {
		c->span++;
		c->span_at = 0;
	}
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
		pass_span(c, part);
		to += part;
		left -= part;
	}
}

/*
 * The memory of the next piece. Not the driver's for what was lost with a
 * connection: it may have been lost because that memory cannot be transferred.
 */
static void *pick_memory(struct nbd_command *c)
{
	const struct virtq_store_io *io = c->io;
	bool reads = io->kind == VIRTQ_STORE_READ;
	const struct virtq_span *span = reads ? io->req->wr.spans : c->span;
	uint64_t max = c->n->payload_max;

	c->piece = io->bytes - c->done;
	c->direct = span->len - c->span_at >= c->piece && !net_io_of(c->io)->give_up_ns;
	if (!c->direct && max > NBD_BOUNCE_BYTES)
		max = NBD_BOUNCE_BYTES;
	if (c->piece > max)
		c->piece = max;
	if (c->direct)
		return (uint8_t *)span->base + c->span_at;
	if (!reads)
		copy_piece(c);
	return bounce_of(c);
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
	void *memory;
	int64_t rc = -1;

	c->error = 0;
	c->piece = io->bytes;
	c->direct = false;
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

	if (io->kind == VIRTQ_STORE_READ) {
		if (c->direct)
			virtq_req_wrote(io->req, c->piece);
		else
			virtq_req_write(io->req, bounce_of(c), (size_t)c->piece);
	} else if (io->kind == VIRTQ_STORE_WRITE && c->direct) {
		pass_span(c, (size_t)c->piece);
	}
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
		/* What cannot be made stable now will not be by waiting. */
		n->renew_flushed |= n->renews && c->flushes && c->error;
		free_command(c);
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

		if (c->io && net_io_of(c->io)->cancelled && !c->drop_ns)
			c->drop_ns = store_nbd_now_ns() + CANCEL_NS;
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

/* A change that was given up may still be made: it must not come after this one. */
static bool must_wait(const struct nbd_store *n, const struct virtq_store_io *io)
{
	for (uint64_t left = n->used; left; left &= left - 1) {
		const struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (!c->io && io->offset < c->to && c->from < io->offset + io->bytes)
			return true;
	}
	return false;
}

static struct virtq_store_io *take_waiting(struct nbd_store *n)
{
	struct virtq_store_io *io, **at = &n->waiting;

	while ((io = *at) && must_wait(n, io))
		at = &net_io_of(io)->next;
	if (!io)
		return NULL;
	*at = net_io_of(io)->next;
	if (!*at)
		n->waiting_end = at;
	return io;
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
		if (n->renews)
			flush_to_renew(n);
		store_nbd_check_link(n);
		while (n->nbd && !n->connecting && !n->broken && !n->renews && ~n->used &&
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
