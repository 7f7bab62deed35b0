/* SPDX-License-Identifier: MIT */
/*
 * Byte cursors over a request: how a device reads and fills a chain without
 * knowing how the driver cut it into descriptors.
 */
#include <string.h>

#include <virtq/device.h>

#include "base/check.h"
#include "base/shm.h"

/* Move a cursor by @len bytes; the spans themselves are shortened. */
static void cursor_advance(struct virtq_cursor *c, uint64_t len)
{
	if (len > c->bytes)
		len = c->bytes;
	c->bytes -= len;
	while (len) {
		struct virtq_span *span = c->spans;

		if (len < span->len) {
			span->base = (uint8_t *)span->base + len;
			span->len -= (size_t)len;
			return;
		}
		len -= span->len;
		c->spans++;
		c->count--;
	}
}

/* A chain may hold 2^32 bytes, the used length one fewer; reporting less is allowed (2.7.8.2). */
static void count_written(struct virtq_req *req, uint64_t len)
{
	uint64_t sum = req->written + len;

	req->written = sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
}

size_t virtq_req_read(struct virtq_req *req, void *dst, size_t len)
{
	struct virtq_cursor *c = &req->rd;
	size_t done = 0;

	while (done < len && c->bytes) {
		size_t part = c->spans->len;

		if (part > len - done)
			part = len - done;
		/* UNTRUSTED: the driver may write here meanwhile; each byte is read once. */
		shm_copy_in((uint8_t *)dst + done, c->spans->base, part);
		cursor_advance(c, part);
		done += part;
	}
	return done;
}

size_t virtq_req_write(struct virtq_req *req, const void *src, size_t len)
{
	struct virtq_cursor *c = &req->wr;
	size_t done = 0;

	while (done < len && c->bytes) {
		size_t part = c->spans->len;

		if (part > len - done)
			part = len - done;
		memcpy(c->spans->base, (const uint8_t *)src + done, part);
		cursor_advance(c, part);
		done += part;
	}
	count_written(req, done);
	return done;
}

void virtq_req_wrote(struct virtq_req *req, uint64_t len)
{
	if (len > req->wr.bytes)
		len = req->wr.bytes;
	cursor_advance(&req->wr, len);
	count_written(req, len);
}

void virtq_req_skip(struct virtq_req *req, uint64_t len)
{
	cursor_advance(&req->rd, len);
}

uint8_t *virtq_req_claim_tail(struct virtq_req *req)
{
	struct virtq_cursor *c = &req->wr;
	struct virtq_span *last;

	if (!c->bytes)
		return NULL;
	last = &c->spans[c->count - 1];
	last->len--;
	c->bytes--;
	if (!last->len)
		c->count--;
	return (uint8_t *)last->base + last->len;
}

void virtq_req_set_tail(struct virtq_req *req, uint8_t *tail, uint8_t value)
{
	*tail = value;
	/* It ends the written prefix only if nothing in front of it is missing. */
	if (!req->wr.bytes)
		count_written(req, 1);
}
