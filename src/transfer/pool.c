/* SPDX-License-Identifier: MIT */
/*
 * A pool: set-up, end, and beginning again.
 *
 * One mapping holds the ring, the reserved memory and the items; all else is private.
 * In guard mode the caller sees the items through a second mapping of the same
 * pages, so that closing them to him closes them to no device in this process.
 */
#include "transfer/pool.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <virtq/notify.h>

#include "base/error.h"
#include "base/shm.h"

#define ITEM_BYTES_MAX (1u << 30)
#define ITEMS_MAX (1u << 30)
#define GUARDED_ITEMS_MAX (1u << 14)	/* each may become a range of its own in the kernel */

static uint32_t pools;			/* made so far; shm_serial() */

/* ---- Set-up --------------------------------------------------------------- */

/* How many bytes there are in front of the items, and with them. */
struct space {
	uint64_t reserve, total;
};

static int check_config(const struct virtq_pool_config *config, uint32_t items,
			struct space *space, struct virtq_error *err)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (config->item_bytes < 64 || config->item_bytes > ITEM_BYTES_MAX ||
	    config->item_bytes % 64)
		return error_set(err, -EINVAL,
				 "an item of %u bytes is none of 64 to 2^30, in steps of 64",
				 config->item_bytes);
	if (config->guard && config->item_bytes % page)
		return error_set(err, -EINVAL,
				 "guarded items are whole pages, and %u bytes are none",
				 config->item_bytes);
	if (items > (config->guard ? GUARDED_ITEMS_MAX : ITEMS_MAX))
		return error_set(err, -EINVAL, "%u items are more than %u", items,
				 config->guard ? GUARDED_ITEMS_MAX : ITEMS_MAX);
	if (config->reserve_bytes > UINT64_MAX - page)
		return error_set(err, -EINVAL, "%llu reserved bytes are too many",
				 (unsigned long long)config->reserve_bytes);
	space->reserve = align_up(config->reserve_bytes, page);
	if (add_overflows(space->reserve, (uint64_t)items * config->item_bytes, &space->total))
		return error_set(err, -EINVAL, "%llu reserved bytes are too many",
				 (unsigned long long)config->reserve_bytes);
	return 0;
}

static int open_port(struct virtq_pool *pool, const struct virtq_pool_config *config,
		     const struct space *space, struct virtq_error *err)
{
	const struct virtq_port_config port_config = {
		.features = config->features, .size = config->size,
		.indirect_entries = config->indirect_entries, .segs_max = config->segs_max,
		.gpa = config->gpa, .extra_bytes = space->total, .keep = true,
	};
	const struct virtq_region *region;
	unsigned int count;
	int rc = virtq_port_create(&pool->port, &port_config, err);

	if (rc)
		return rc;
	region = virtq_port_regions(pool->port, &count);
	pool->q = virtq_port_driver(pool->port);
	pool->reserved = virtq_port_extra(pool->port);
	pool->reserve_bytes = config->reserve_bytes;
	pool->extra_gpa = region->gpa + (uint64_t)(pool->reserved - (uint8_t *)region->host);
	pool->host = pool->reserved + space->reserve;
	pool->held_state = ITEM_HELD | (virtq_driver_keeps(pool->q) ? ITEM_KEPT : 0);
	/* As many elements as ring entries, tables or not (2.7.5.3.1, 2.8.19). */
	pool->elements_max = config->size;
	if (config->segs_max && config->segs_max < config->size)
		pool->elements_max = config->segs_max;
	return 0;
}

/* The items once more, for the caller to see. */
static int open_guard(struct virtq_pool *pool, struct virtq_error *err)
{
	unsigned int count;
	const struct virtq_region *region = virtq_port_regions(pool->port, &count);
	uint64_t offset = region->fd_offset_bytes +
			  (uint64_t)(pool->host - (uint8_t *)region->host);
	uint64_t bytes = (uint64_t)pool->item_count * pool->item_bytes;
	void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd,
			   (off_t)offset);

	if (pages == MAP_FAILED)
		return error_set_errno(err, -errno, "cannot map %llu bytes of items once more",
				       (unsigned long long)bytes);
	pool->guard_pages = pages;
	pool->guard_bytes = bytes;
	pool->host = pages;
	pool->guard = true;
	return 0;
}

static int make_items(struct virtq_pool *pool, uint64_t gpa, struct virtq_error *err)
{
	uint32_t count = pool->item_count, circle = 1;

	while (circle < count)
		circle *= 2;
	pool->items = aligned_alloc(64, (size_t)count * sizeof(*pool->items));
	pool->free = calloc(count, sizeof(*pool->free));
	pool->used = calloc(circle, sizeof(*pool->used));
	pool->segs = calloc(pool->elements_max, sizeof(*pool->segs));
	if (!pool->items || !pool->free || !pool->used || !pool->segs)
		return error_set(err, -ENOMEM, "no memory for the records of %u items", count);
	pool->used_mask = circle - 1;
	for (uint32_t i = 0; i < count; i++) {
		pool->items[i] = (struct item){
			.seg.addr = gpa + (uint64_t)i * pool->item_bytes, .next = NO_ITEM,
		};
		/* The first ones are taken first. */
		pool->free[count - 1 - i] = i;
	}
	pool->free_count = count;
	return 0;
}

static int open_fds(struct virtq_pool *pool, struct virtq_error *err)
{
	struct epoll_event edges = { .events = EPOLLIN | EPOLLET };

	pool->calls_fd = epoll_create1(EPOLL_CLOEXEC);
	if (pool->calls_fd < 0 || epoll_ctl(pool->calls_fd, EPOLL_CTL_ADD,
					    virtq_port_call_fd(pool->port), &edges))
		return error_set_errno(err, -errno, "cannot watch the call fd");
	while (pool->fd_count < POOL_FDS) {
		int fd = virtq_notify_open();

		if (fd < 0)
			return error_set_errno(err, fd, "cannot open an eventfd");
		pool->fds[pool->fd_count++] = fd;
	}
	return 0;
}

static void release(struct virtq_pool *pool)
{
	while (pool->fd_count)
		close(pool->fds[--pool->fd_count]);
	if (pool->calls_fd >= 0)
		close(pool->calls_fd);
	if (pool->guard_pages)
		munmap(pool->guard_pages, pool->guard_bytes);
	virtq_port_destroy(pool->port);
	free(pool->items);
	free(pool->free);
	free(pool->used);
	free(pool->segs);
	pthread_cond_destroy(&pool->nobody);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

int virtq_pool_create(struct virtq_pool **out, const struct virtq_pool_config *config,
		      struct virtq_error *err)
{
	uint32_t items = config->items ? config->items : config->size;
	struct virtq_pool *pool;
	struct space space = { 0, 0 };
	int rc = check_config(config, items, &space, err);

	if (rc)
		return rc;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return error_set(err, -ENOMEM, "no memory for a pool");
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->nobody, NULL);
	pool->calls_fd = -1;
	/*
	 * Ids of different pools differ, so that a handle of another is known as such. Multiples
	 * of 2^64 by the golden ratio lie as far from each other as so many can: each of the
	 * first 2^24 pools has 2^38 ids or more before it comes to those of another.
	 */
	pool->last_id = (uint64_t)shm_serial(&pools) * 0x9e3779b97f4a7c15u;
	pool->threads = config->threads;
	pool->item_bytes = config->item_bytes;
	pool->item_count = items;
	rc = open_port(pool, config, &space, err);
	if (!rc)
		rc = make_items(pool, pool->extra_gpa + space.reserve, err);
	if (!rc && config->guard)
		rc = open_guard(pool, err);
	if (!rc && config->threads)
		rc = open_fds(pool, err);
	if (rc) {
		release(pool);
		return rc;
	}
	*out = pool;
	return 0;
}

/* ---- The end -------------------------------------------------------------- */

void virtq_pool_close(struct virtq_pool *pool)
{
	virtq_port_shutdown(pool->port);
	/* Those who sleep wake up by that, and have to get out of the pool. */
	pthread_mutex_lock(&pool->lock);
	while (pool->waiters)
		pthread_cond_wait(&pool->nobody, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
}

void virtq_pool_destroy(struct virtq_pool *pool)
{
	if (!pool)
		return;
	virtq_pool_close(pool);
	release(pool);
}

/* ---- Beginning again ------------------------------------------------------ */

/* All chains that the device never gave back are freed. Return: 0 or -EBUSY. */
static int detach_all(struct virtq_pool *pool, int *count)
{
	void *token;
	int rc;

	for (;;) {
		struct item *item;

		rc = virtq_driver_detach(pool->q, &token);
		if (rc <= 0)
			return rc;
		item = &pool->items[(uintptr_t)token];
		if (item->state & ITEM_FORGET)
			pool->forgotten--;
		if (pool->guard)
			pool_guard(pool, item, false);
		pool_dismantle(pool, item);
		(*count)++;
	}
}

int virtq_pool_pause(struct virtq_pool *pool)
{
	int rc = pool_enter(pool);

	/* Now all is published, and nothing is added: later publications have nothing to do. */
	if (!rc && !pool->paused) {
		pool_publish(pool);
		pool->paused = true;
	}
	return pool_leave(pool, rc);
}

int virtq_pool_resume(struct virtq_pool *pool)
{
	int rc = pool_enter(pool);

	if (!rc) {
		pool->paused = false;
		wait_wake_room(pool);
	}
	return pool_leave(pool, rc);
}

int virtq_pool_reset(struct virtq_pool *pool)
{
	int rc = pool_enter(pool), count = 0;

	if (rc)
		return pool_leave(pool, rc);
	/* What it used before it was stopped is still there to be taken. */
	pool_reap(pool);
	rc = detach_all(pool, &count);
	if (rc)
		return pool_leave(pool, rc);
	/* No entry of the new ring is kept. */
	for (uint32_t i = 0; i < pool->item_count; i++)
		pool->items[i].state &= ~(ITEM_KEPT | ITEM_RESIZED);
	pool->held_kept = 0;
	rc = virtq_port_renew(pool->port);
	pool->q = virtq_port_driver(pool->port);
	pool->told = false;
	wait_wake_all(pool);
	return pool_leave(pool, rc ? rc : count);
}

/* ---- Questions ------------------------------------------------------------ */

struct virtq_port *virtq_pool_port(const struct virtq_pool *pool)
{
	return pool->port;
}

void *virtq_pool_reserved(const struct virtq_pool *pool)
{
	return pool->reserved;
}

struct virtq_pool_items virtq_pool_items(const struct virtq_pool *pool)
{
	/* Addresses of items do not change. */
	return (struct virtq_pool_items){
		.base = pool->host, .gpa = pool->items[0].seg.addr,
		.item_bytes = pool->item_bytes, .count = pool->item_count,
	};
}

struct virtq_pool_room virtq_pool_room(struct virtq_pool *pool)
{
	struct virtq_pool_room room;

	pool_enter(pool);
	room = (struct virtq_pool_room){
		.items = pool->free_count,
		.entries = virtq_driver_room(pool->q),
		.held = pool->held,
		.in_flight = virtq_driver_in_flight(pool->q) + pool->used_count,
	};
	pool_leave(pool, 0);
	return room;
}
