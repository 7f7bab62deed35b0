/* SPDX-License-Identifier: MIT */
/*
 * The connection of a network block device: lost, made again, given up.
 *
 * If it breaks, what was under way waits, and so does what comes, for a while:
 * a server may be started again, and all that has no answer is sent once more.
 * To do it twice does no harm if both times come before what is newer, that is, if
 * the server drops or ends what came over a connection before it answers on the
 * next. One that died has; of others nothing in NBD tells, nor can anything make
 * them: what they still do later comes after what is newer, and what was given
 * up (let_go()) can too.
 *
 * What the server had answered and not made stable cannot be had back: then
 * nothing that speaks of stable data succeeds any more, since it is not known
 * which of the disk's users wrote it.
 */
#include "dev/store_nbd.h"

#include <errno.h>

#include "base/check.h"

#define NS_PER_MS ((uint64_t)1000000)
#define CONNECT_NS (5000 * NS_PER_MS)
/* How often to see whether the network is silent while anything is under way. */
#define LOOK_NS (1000 * NS_PER_MS)
/* Without a try to connect after one that failed: as long as somebody waits, and then. */
#define RETRY_SOON_NS (100 * NS_PER_MS)
#define RETRY_NS (1000 * NS_PER_MS)

/* The server that is there now must be as good as the one before. */
static bool as_before(struct nbd_store *n)
{
	struct nbd_abilities now;
	uint64_t bytes_min;

	pthread_mutex_lock(&n->lock);
	bytes_min = n->bytes_min;
	pthread_mutex_unlock(&n->lock);
	if (store_nbd_ask(n->nbd, &now))
		return false;
	n->bytes = now.bytes;
	return now.bytes >= bytes_min &&
	       now.block <= n->can.block && now.payload_max >= n->can.payload_max &&
	       now.flush >= n->can.flush && now.fua >= n->can.fua &&
	       now.trim >= n->can.trim && now.zero >= n->can.zero &&
	       (!now.read_only || n->store.info.read_only);
}

/* Without a connection: what was under way waits again. */
static void take_back(struct nbd_store *n, struct virtq_store_io *io, uint64_t now)
{
	struct nbd_io *net = net_io_of(io);

	if (!net->give_up_ns)
		net->give_up_ns = now + n->reconnect_ns;
	store_turns_put_back(&n->waiting, io);
}

static void disconnect(struct nbd_store *n, uint64_t now)
{
	store_nbd_forget_unsent(n->nbd);	/* it will be sent again, and must not come after */
	nbd_close(n->nbd);
	n->nbd = NULL;
	n->connecting = n->broken = n->renews = n->renew_flushed = false;
	n->connect_by_ns = !n->outage_until_ns ? now :
			   now < n->outage_until_ns ? now + RETRY_SOON_NS : now + RETRY_NS;
	n->looks_silent = 0;
	n->over = 0;
	if (n->can.flush && n->writes != n->flushed)
		n->lost = true;
	n->flushed = n->writes;
	for (; n->used; n->used &= n->used - 1) {
		struct nbd_command *c = &n->commands[__builtin_ctzll(n->used)];

		if (c->io && c->drop_ns)
			virtq_engine_complete(c->io->req, -ECANCELED);
		else if (c->io)
			take_back(n, c->io, now);
	}
}

static void begin_to_connect(struct nbd_store *n, uint64_t now)
{
	if (!n->outage_until_ns)
		n->outage_until_ns = now + n->reconnect_ns;
	n->nbd = nbd_create();
	n->connecting = n->nbd;
	n->connect_by_ns = now + (n->nbd ? CONNECT_NS : RETRY_NS);
	if (n->nbd && nbd_aio_connect_uri(n->nbd, n->uri) < 0)
		disconnect(n, now);
}

/*
 * What is cancelled and does not end is nobody's from now on. Its command stays
 * until the server answers: what is to change the same range must come after it.
 */
static void let_go(struct nbd_store *n, uint64_t now)
{
	for (uint64_t left = n->used; left; left &= left - 1) {
		struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (!c->io || !c->drop_ns || now < c->drop_ns)
			continue;
		virtq_engine_complete(c->io->req, -ECANCELED);
		c->io = NULL;
	}
}

/* When @io has waited long enough for a connection; UINT64_MAX: it waits for one attempt. */
static uint64_t give_up_ns(const struct nbd_store *n, struct virtq_store_io *io)
{
	if (net_io_of(io)->give_up_ns)
		return net_io_of(io)->give_up_ns;
	return n->nbd ? UINT64_MAX : n->outage_until_ns;
}

static void expire(struct nbd_store *n, uint64_t now)
{
	struct virtq_store_io *io, *next;

	for (io = n->waiting.first; io; io = next) {
		next = store_turns_next(&n->waiting, io);
		if (now < give_up_ns(n, io))
			continue;
		store_turns_remove(&n->waiting, io);
		virtq_engine_complete(io->req, net_io_of(io)->give_up_ns ? -EIO : -ESHUTDOWN);
	}
}

static bool is_cut_off(struct nbd_store *n, uint64_t now)
{
	if (!n->used)
		n->looks_silent = 0;
	if (!n->used || now < n->look_ns)
		return false;
	n->look_ns = now + LOOK_NS;
	if (!store_nbd_is_silent(n->nbd, n->silence_ms))
		n->looks_silent = 0;
	else
		n->looks_silent++;
	/* Once it may be that a probe is on its way to a peer that has had no room for long. */
	return n->looks_silent > 1;
}

void store_nbd_check_link(struct nbd_store *n)
{
	uint64_t now = store_nbd_now_ns();

	if (n->nbd && !n->connecting) {
		if (n->broken || n->renew_flushed || store_nbd_is_gone(n->nbd) ||
		    is_cut_off(n, now))
			disconnect(n, now);
		else
			let_go(n, now);
	} else if (n->nbd && nbd_aio_is_ready(n->nbd)) {
		n->connecting = false;
		if (as_before(n))
			store_nbd_watch_peer(n->nbd, n->silence_ms);
		else
			disconnect(n, now);
	} else if (n->nbd && (now >= n->connect_by_ns || store_nbd_is_gone(n->nbd))) {
		disconnect(n, now);
	}
	if (!n->nbd && n->waiting.first && now >= n->connect_by_ns)
		begin_to_connect(n, now);
	if (!n->nbd || n->connecting)
		expire(n, now);
}

uint64_t store_nbd_link_due_ns(const struct nbd_store *n)
{
	bool ready = n->nbd && !n->connecting;
	uint64_t due = n->connecting || (!n->nbd && n->waiting.first) ? n->connect_by_ns : UINT64_MAX;

	if (n->used && n->look_ns < due)
		due = n->look_ns;
	for (uint64_t left = n->used; left; left &= left - 1) {
		const struct nbd_command *c = &n->commands[__builtin_ctzll(left)];

		if (c->io && c->drop_ns && c->drop_ns < due)
			due = c->drop_ns;
	}
	for (struct virtq_store_io *io = ready ? NULL : n->waiting.first; io;
	     io = store_turns_next(&n->waiting, io))
		if (give_up_ns(n, io) < due)
			due = give_up_ns(n, io);
	return due;
}
