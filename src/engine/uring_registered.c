/* SPDX-License-Identifier: MIT */
/*
 * What is looked up once so that it need not be for each operation: files and
 * guest memory are registered with the kernel.
 *
 * A file is registered when an operation with VIRTQ_OP_FILE_STAYS first names
 * it, for as long as a queue that named it is on the engine; memory while a
 * queue has a map with it. Entries are shared by queues. None can be stale: each
 * is kept only while its fd or mapping is certain to be the same.
 *
 * What the kernel refuses (a limit on locked memory, a kind of memory that it
 * does not pin, no room) is used unregistered, and nobody is told.
 */
#include "engine/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/shm.h"
#include "mem/map.h"
#include "ring/device.h"

#define BUFFER_MAX ((uint64_t)1 << 30)	/* the kernel's, for one entry */

/* Have the io_uring hold the writing end of a pipe until it is no more. */
static int register_end(struct uring *u)
{
	int fds[2], rc;

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	if (u->fixed_files) {
		rc = io_uring_register_files_update(&u->ring, 0, &fds[1], 1);
		rc = rc == 1 ? 0 : rc < 0 ? rc : -ENOMEM;
		u->files[0] = (struct uring_file){ -1, 1 };	/* nobody's */
	} else {
		rc = io_uring_register_files(&u->ring, &fds[1], 1);
	}
	close(fds[1]);
	if (rc)
		close(fds[0]);
	else
		u->gone_fd = fds[0];
	return rc;
}

int uring_register_tables(struct virtq_engine *e)
{
	struct uring *u = e->uring;

	if (!(e->config.forbid & VIRTQ_USE_FILES))
		u->fixed_files = io_uring_register_files_sparse(&u->ring, URING_FILES) == 0;
	if (e->config.demand & ~e->config.forbid & VIRTQ_USE_BUFFERS)
		u->fixed_buffers = io_uring_register_buffers_sparse(&u->ring, URING_BUFFERS) == 0;
	return register_end(u);
}

/* ---- Files --------------------------------------------------------------- */

static int take_file(struct virtq_engine *e, int fd)
{
	struct uring *u = e->uring;
	int empty = -1;

	for (uint32_t i = 0; u->fixed_files && i < URING_FILES; i++) {
		/* Whoever uses it keeps it open: the number still means the same file. */
		if (u->files[i].users && u->files[i].fd == fd) {
			u->files[i].users++;
			return (int)i;
		}
		if (!u->files[i].users && empty < 0)
			empty = (int)i;
	}
	if (empty < 0 || io_uring_register_files_update(&u->ring, (unsigned int)empty, &fd, 1) != 1)
		return -1;
	u->files[empty] = (struct uring_file){ fd, 1 };
	shm_word_write(&e->uses, e->uses | VIRTQ_USE_FILES);
	return empty;
}

static void drop_file(struct virtq_engine *e, int at)
{
	struct uring *u = e->uring;
	int none = -1;

	if (at >= 0 && !--u->files[at].users)
		io_uring_register_files_update(&u->ring, (unsigned int)at, &none, 1);
}

int uring_file(struct virtq_engine *e, struct virtq_engine_queue *q, int fd)
{
	struct uring_queue *uq = q->uring;
	int at;

	if (UNLIKELY(!uq))
		return -1;
	for (uint32_t i = 0; i < uq->file_count; i++)
		if (LIKELY(uq->files[i].fd == fd))
			return uq->files[i].at;
	if (uq->file_count == URING_QUEUE_FILES)
		return -1;
	at = take_file(e, fd);
	uq->files[uq->file_count].fd = fd;
	uq->files[uq->file_count++].at = at;
	return at;
}

/* ---- Memory -------------------------------------------------------------- */

static int take_buffer(struct virtq_engine *e, struct virtq_mapping *mapping, uint8_t *host,
		       size_t bytes)
{
	struct uring *u = e->uring;
	struct iovec iov = { host, bytes };
	__u64 tag = 0;
	int empty = -1;

	for (uint32_t i = 0; i < URING_BUFFERS; i++) {
		struct uring_buffer *b = &u->buffers[i];

		if (b->users && b->mapping == mapping && b->host == host && b->bytes == bytes) {
			b->users++;
			return (int)i;
		}
		if (!b->users && empty < 0)
			empty = (int)i;
	}
	if (empty < 0 ||
	    io_uring_register_buffers_update_tag(&u->ring, (unsigned int)empty, &iov, &tag, 1) != 1)
		return -1;
	virtq_mapping_ref(mapping);
	u->buffers[empty] = (struct uring_buffer){ host, bytes, mapping, 1 };
	shm_word_write(&e->uses, e->uses | VIRTQ_USE_BUFFERS);
	return empty;
}

/* Operations that the kernel has begun keep the pages until they end. */
static void drop_buffer(struct virtq_engine *e, uint32_t at)
{
	struct uring_buffer *b = &e->uring->buffers[at];
	struct iovec none = { NULL, 0 };
	__u64 tag = 0;

	if (--b->users)
		return;
	io_uring_register_buffers_update_tag(&e->uring->ring, at, &none, &tag, 1);
	virtq_mapping_unref(b->mapping);
}

/* How many entries the memory of @map takes at most. */
static uint32_t buffers_of(const struct virtq_map *map)
{
	uint64_t n = 0;

	for (uint32_t i = 0; map && i < map->count; i++)
		n += (map->regions[i].size_bytes + BUFFER_MAX - 1) / BUFFER_MAX;
	return n < URING_BUFFERS ? (uint32_t)n : URING_BUFFERS;
}

static void take_region(struct virtq_engine *e, struct uring_queue *uq,
			const struct virtq_region *r, uint32_t max)
{
	/* What is not held by a mapping could be gone without notice; reading only is not pinned. */
	if (!r->mapping || r->access != VIRTQ_ACCESS_RW)
		return;
	for (uint64_t off = 0; off < r->size_bytes && uq->buffer_count < max; off += BUFFER_MAX) {
		uint64_t left = r->size_bytes - off;
		int at = take_buffer(e, r->mapping, (uint8_t *)r->host + off,
				     (size_t)(left < BUFFER_MAX ? left : BUFFER_MAX));

		if (at < 0)
			return;
		uq->buffers[uq->buffer_count++] = (uint32_t)at;
	}
}

static void take_buffers(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	const struct virtq_map *map = device_map(q->ring);
	struct uring_queue *uq = q->uring;
	uint32_t max = buffers_of(map);

	uq->buffers = NULL;
	uq->buffer_count = 0;
	uq->last = 0;
	if (!e->uring->fixed_buffers || !max)
		return;
	uq->buffers = malloc(max * sizeof(*uq->buffers));
	for (uint32_t i = 0; uq->buffers && i < map->count; i++)
		take_region(e, uq, &map->regions[i], max);
}

int uring_buffer(const struct virtq_engine *e, struct virtq_engine_queue *q, const void *base,
		 size_t len)
{
	struct uring_queue *uq = q->uring;
	uint32_t n = uq ? uq->buffer_count : 0;

	for (uint32_t i = 0, at = n ? uq->last : 0; i < n; i++, at = at + 1 < n ? at + 1 : 0) {
		const struct uring_buffer *b = &e->uring->buffers[uq->buffers[at]];
		uintptr_t off = (uintptr_t)base - (uintptr_t)b->host;

		if (off < b->bytes && len <= b->bytes - off) {
			uq->last = at;
			return (int)uq->buffers[at];
		}
	}
	return -1;
}

/* ---- Queues -------------------------------------------------------------- */

void uring_enter_queue(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	/* Without it the queue works as well, with nothing registered. */
	q->uring = calloc(1, sizeof(*q->uring));
	if (q->uring)
		take_buffers(e, q);
}

static void drop_buffers(struct virtq_engine *e, const uint32_t *buffers, uint32_t count)
{
	/* What is staged names entries by their number, which may soon be another's. */
	if (count)
		uring_flush(e);
	for (uint32_t i = 0; i < count; i++)
		drop_buffer(e, buffers[i]);
}

void uring_remap_queue(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct uring_queue *uq = q->uring;
	uint32_t *before, count;

	if (!uq)
		return;
	before = uq->buffers;
	count = uq->buffer_count;
	/* The new ones first: what both maps have stays as it is. */
	take_buffers(e, q);
	drop_buffers(e, before, count);
	free(before);
}

void uring_leave_queue(struct virtq_engine *e, struct virtq_engine_queue *q)
{
	struct uring_queue *uq = q->uring;

	if (!uq)
		return;
	for (uint32_t i = 0; i < uq->file_count; i++)
		drop_file(e, uq->files[i].at);
	drop_buffers(e, uq->buffers, uq->buffer_count);
	free(uq->buffers);
	free(uq);
	q->uring = NULL;
}
