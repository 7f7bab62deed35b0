/* SPDX-License-Identifier: MIT */
/*
 * Sets of transfers: laid out in one piece of memory, ended, and begun again.
 *
 *	struct virtq_transfers | pieces for a release function | transfer, transfer, ...
 *
 * each transfer with its elements and its pieces behind it.
 */
#include "transfer/transfer.h"

#include "base/error.h"
#include "ring/driver.h"

#define LINE 64u
#define TRANSFERS_MAX 65536u
#define PIECES_MAX 32768u

/* ---- Set-up ------------------------------------------------------------- */

static uint32_t segs_max(const struct virtq_transfers_config *config)
{
	return config->segs_max ? config->segs_max : config->pieces_max;
}

int transfers_check(const struct virtq_transfers_config *config, struct virtq_error *err)
{
	if (!config->port == !config->driver)
		return error_set(err, -EINVAL,
				 "a set of transfers wants either a port or a driver end");
	if (config->map && config->translate)
		return error_set(err, -EINVAL,
				 "a set of transfers wants either a map or a translate function");
	if (!config->transfers_max || config->transfers_max > TRANSFERS_MAX)
		return error_set(err, -EINVAL, "no set has %u transfers, but 1 to %u",
				 config->transfers_max, TRANSFERS_MAX);
	if (!config->pieces_max || config->pieces_max > PIECES_MAX)
		return error_set(err, -EINVAL, "no transfer has %u pieces, but 1 to %u",
				 config->pieces_max, PIECES_MAX);
	if (segs_max(config) < config->pieces_max)
		return error_set(err, -EINVAL, "%u elements are too few for %u pieces",
				 config->segs_max, config->pieces_max);
	if (segs_max(config) > PIECES_MAX)
		return error_set(err, -EINVAL, "no transfer has %u elements, but at most %u",
				 config->segs_max, PIECES_MAX);
	if (!transfers_bytes(config))
		return error_set(err, -EINVAL, "%u transfers of %u pieces do not fit in memory",
				 config->transfers_max, config->pieces_max);
	return 0;
}

static size_t scratch_offset(void)
{
	return (size_t)align_up(sizeof(struct virtq_transfers), LINE);
}

static size_t free_offset(const struct virtq_transfers_config *config)
{
	return scratch_offset() + config->pieces_max * sizeof(struct virtq_piece);
}

static size_t transfers_offset(const struct virtq_transfers_config *config)
{
	return (size_t)align_up(free_offset(config) +
				config->transfers_max * sizeof(struct virtq_transfer *), LINE);
}

static size_t pieces_offset(const struct virtq_transfers_config *config)
{
	return (size_t)align_up(sizeof(struct virtq_transfer) +
				segs_max(config) * sizeof(struct virtq_seg),
				_Alignof(struct virtq_piece));
}

static size_t stride(const struct virtq_transfers_config *config)
{
	return (size_t)align_up(pieces_offset(config) +
				config->pieces_max * sizeof(struct virtq_piece), LINE);
}

size_t transfers_bytes(const struct virtq_transfers_config *config)
{
	uint64_t bytes = transfers_offset(config) + (uint64_t)stride(config) *
			 config->transfers_max;

	return bytes <= SIZE_MAX / 2 ? (size_t)bytes : 0;
}

/* Work with driver end @q from now on. Nothing is in flight, and nothing is kept in it. */
static void use_driver(struct virtq_transfers *set, struct virtq_driver *q)
{
	uint32_t size = virtq_driver_ring(q)->size;

	set->q = q;
	set->keeps = virtq_driver_keeps(q);
	q->keep = false;	/* until one is sent again; see transfer.c */
	set->kept_idle = 0;
	set->broken = false;
	set->armed = false;
	/* With tables too, no chain is longer than the ring (2.7.5.3.1, 2.8.19). */
	set->segs_max = q->segs_max < size ? q->segs_max : size;
	if (set->segs_max > set->config.segs_max)
		set->segs_max = set->config.segs_max;
}

/* Without a map or a callback: with a port its own memory, else the addresses of this process. */
static struct transfer_near all_there_is(const struct transfers_host *host,
					 const struct virtq_port *port)
{
	const struct virtq_region *r;
	unsigned int count;

	if (!host)
		return (struct transfer_near){ 0, 0, UINTPTR_MAX };
	r = host->regions(port, &count);
	return (struct transfer_near){ (uintptr_t)r->host, r->gpa, r->size_bytes };
}

void transfers_lay_out(void *memory, struct virtq_transfers **out,
		       const struct virtq_transfers_config *config,
		       const struct transfers_host *host)
{
	struct virtq_transfers *set = memory;

	*set = (struct virtq_transfers){ .host = host, .config = *config, .port = config->port };
	set->config.segs_max = segs_max(config);
	set->scratch = (struct virtq_piece *)(void *)((uint8_t *)memory + scratch_offset());
	set->free = (struct virtq_transfer **)(void *)((uint8_t *)memory + free_offset(config));
	set->transfers = (uint8_t *)memory + transfers_offset(config);
	set->pieces_offset = pieces_offset(config);
	set->stride = stride(config);
	set->back.next = set->back.prev = &set->back;
	set->to_release.next = set->to_release.prev = &set->to_release;
	for (uint32_t i = config->transfers_max; i-- > 0;) {
		struct virtq_transfer *t = transfer_at(set, i);

		*t = (struct virtq_transfer){ .set = set, .state = TRANSFER_FREE };
		set->free[set->free_count++] = t;
	}
	use_driver(set, host ? host->driver(config->port) : config->driver);
	if (config->map)
		virtq_map_ref(config->map);
	else if (!config->translate)
		set->near[0] = set->near[1] = all_there_is(host, config->port);
	*out = set;
}

size_t virtq_transfers_bytes(const struct virtq_transfers_config *config)
{
	return config->port || transfers_check(config, NULL) ? 0 : transfers_bytes(config);
}

int virtq_transfers_init(void *memory, struct virtq_transfers **out,
			 const struct virtq_transfers_config *config, struct virtq_error *err)
{
	int rc = transfers_check(config, err);

	if (rc)
		return rc;
	/* Whoever has a port has a heap; and this file must not know how a port sleeps. */
	if (config->port)
		return error_set(err, -EINVAL,
				 "transfers with a port are made by virtq_transfers_create()");
	if ((uintptr_t)memory % LINE)
		return error_set(err, -EINVAL, "memory for transfers is not aligned to %u bytes",
				 LINE);
	transfers_lay_out(memory, out, config, NULL);
	return 0;
}

/* ---- The end, and a new beginning --------------------------------------- */

/* How transfers end that the device did not return. */
static enum transfer_lost how_lost(const struct virtq_transfers *set)
{
	return !set->broken && virtq_driver_fault(set->q).code == VIRTQ_FAULT_NONE ?
	       LOST_CANCELLED : LOST_BROKEN;
}

static void detach_all(struct virtq_driver *q)
{
	void *token;

	while (virtq_driver_detach(q, &token) > 0)
		;
}

void virtq_transfers_fini(struct virtq_transfers *set)
{
	enum transfer_lost lost;

	/* What the device did use before it stopped was used, and a fault behind it is one. */
	transfers_reap(set);
	lost = how_lost(set);
	if (virtq_driver_in_flight(set->q)) {
		virtq_driver_stop(set->q);
		detach_all(set->q);
	}
	/* Whoever has the port next asks himself to be called. */
	if (set->armed)
		virtq_driver_disarm(set->q);
	set->ending = set->closed = true;
	set->free_count = 0;
	/* Release functions may end other transfers than theirs: no pointer is kept over a call. */
	for (uint32_t i = 0; i < set->config.transfers_max; i++) {
		struct virtq_transfer *t = transfer_at(set, i);

		if (t->state == TRANSFER_FLYING)
			transfer_back(t, 0, lost);
	}
	transfers_release(set);
	for (uint32_t i = 0; i < set->config.transfers_max; i++) {
		struct virtq_transfer *t = transfer_at(set, i);

		if (t->state == TRANSFER_READY)
			transfer_release(t);
	}
	/* The driver end keeps as it did before: entries that were let go have stopped that. */
	set->q->keep = set->keeps;
	virtq_map_unref(set->config.map);
}

int virtq_transfers_reset(struct virtq_transfers *set, struct virtq_driver *driver)
{
	enum transfer_lost lost;
	int count = 0, rc = 0;

	if (!set->host && !driver)
		return -EINVAL;
	if (set->q->live)
		return -EBUSY;
	if (set->host) {
		transfers_reap(set);
		lost = how_lost(set);
		detach_all(set->q);
		rc = set->host->renew(set->port);
		driver = set->host->driver(set->port);
	} else if (virtq_driver_in_flight(driver)) {
		return -EINVAL;
	} else {
		/*
		 * The new end is there already: the ring is its, and maybe the very
		 * memory of the old one, of which only the set knows what flew.
		 */
		lost = how_lost(set);
		if (driver != set->q)
			detach_all(set->q);
	}
	for (uint32_t i = 0; i < set->config.transfers_max; i++) {
		struct virtq_transfer *t = transfer_at(set, i);

		/* Kept entries went with the old driver end. */
		t->kept = false;
		if (t->state == TRANSFER_FLYING) {
			transfer_back(t, 0, lost);
			count++;
		}
	}
	use_driver(set, driver);
	/* The transport starts no queue in which something is in flight. */
	set->closed = true;
	transfers_release(set);
	set->closed = false;
	return rc ? rc : count;
}
