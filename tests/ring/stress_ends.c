/* SPDX-License-Identifier: MIT */
/*
 * What the two ends under stress do. What is in a buffer follows from its number, which
 * both count for themselves: nothing but the ring tells one what the other does.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "stress.h"

#define SEGS_MAX 10u
#define PATIENCE_SECONDS 60

static uint32_t roll(struct end *end, uint32_t below)
{
	end->random = end->random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(end->random >> 33) % below;
}

/* Note the first thing that is wrong, and end both. */
static bool check(struct stress *s, struct end *end, bool good, const char *what, uint64_t number)
{
	if (!good && !end->complaint) {
		end->complaint = what;
		end->complaint_at = number;
		bed_stop(&s->beds);
	}
	return good;
}

/* Everything about buffer @number that both ends know of it. */
struct plan {
	uint32_t segs, readable_segs;
	uint32_t readable, writable;	/* bytes */
	uint32_t written;		/* of those, by the device */
	uint8_t seed;
};

static struct plan plan_of(const struct mode *mode, uint64_t number)
{
	uint32_t most = mode->size < SEGS_MAX ? mode->size : SEGS_MAX;
	uint64_t r = (number + 1) * 0x9e3779b97f4a7c15u;
	struct plan p = { .seed = (uint8_t)(r >> 7) };

	r = (r ^ (r >> 29)) * 0xbf58476d1ce4e5b9u;
	if (mode->plain) {
		p.segs = 1;
		p.readable_segs = number & 1;
		p.readable = 8 * p.readable_segs;
		p.writable = p.written = 8 - p.readable;
		return p;
	}
	p.segs = 1 + (uint32_t)(r >> 60) % most;
	p.readable_segs = (uint32_t)(r >> 50 & 0x3ff) % (p.segs + 1);
	p.readable = p.readable_segs;
	p.writable = p.segs - p.readable_segs;
	if (p.readable)
		p.readable += (uint32_t)(r >> 40 & 0x3ff) % (CELL - p.readable + 1);
	if (p.writable)
		p.writable += (uint32_t)(r >> 30 & 0x3ff) % (CELL - p.writable + 1);
	/* Half of them are filled to the end, which in order makes batches. */
	p.written = r >> 20 & 1 ? p.writable : (uint32_t)(r >> 10 & 0x3ff) % (p.writable + 1);
	return p;
}

static uint8_t pattern(uint8_t seed, uint32_t at)
{
	return (uint8_t)(seed + at * 7u);
}

/* ---- The device ------------------------------------------------------------- */

static void take_in(struct stress *s, struct virtq_req *req)
{
	struct end *end = &s->at_device;
	struct plan p = plan_of(s->mode, end->next);
	uint8_t got[CELL];
	bool good = true;

	/* In the order in which they were made available. */
	check(s, end, req->rd.bytes == p.readable && req->wr.bytes == p.writable,
	      "is not the buffer whose turn it is", end->next);
	/* [A]: its bytes were written before it was shown. */
	virtq_req_read(req, got, sizeof(got));
	for (uint32_t i = 0; i < p.readable && i < CELL; i++)
		good &= got[i] == pattern(p.seed, i);
	check(s, end, good, "reached the device with other bytes", end->next);
	s->held[s->held_count++] = (struct held){ req, end->next++ };
}

static void pop_some(struct stress *s, uint32_t room)
{
	struct virtq_req *reqs[HELD_MAX];
	struct end *end = &s->at_device;
	int n = virtq_device_pop(s->device, reqs, 1 + roll(end, room));

	check(s, end, n >= 0 || n == -ENOSPC, "broke the queue for the device", end->next);
	/* What is handed back, last first, comes again in its turn. */
	for (; n > 0 && !s->mode->plain && !roll(end, 4); n--)
		check(s, end, virtq_device_unpop(s->device, reqs[n - 1]) == 0,
		      "could not be handed back", end->next + (uint32_t)n - 1);
	for (int i = 0; i < n; i++)
		take_in(s, reqs[i]);
}

static void return_one(struct stress *s, uint32_t which)
{
	struct held h = s->held[which];
	struct plan p = plan_of(s->mode, h.number);
	uint8_t answer[CELL];

	for (uint32_t i = 0; i < p.written; i++)
		answer[i] = pattern((uint8_t)~p.seed, i);
	check(s, &s->at_device, virtq_req_write(h.req, answer, p.written) == p.written,
	      "has less room than it should", h.number);
	virtq_device_push(s->device, &h.req, 1);
	s->held[which] = s->held[--s->held_count];
}

void serve(struct stress *s)
{
	struct end *end = &s->at_device;
	uint32_t most = s->mode->plain ? 4 : HELD_MAX;

	while (!load(&s->beds.stop)) {
		uint32_t back;

		if (s->held_count < most)
			pop_some(s, most - s->held_count);
		if (s->held_count) {
			/* Any of them, in any order; now and then all. */
			back = s->mode->plain || !roll(end, 4) ? s->held_count :
							       roll(end, s->held_count + 1);
			while (back--)
				return_one(s, roll(end, s->held_count));
			if (virtq_device_publish(s->device)) {
				end->asked++;
				bed_wake(&s->beds, &s->beds.driver);
			}
			continue;
		}
		if (!s->mode->plain && roll(end, 4))
			continue;	/* poll a little longer */
		if (virtq_device_arm(s->device))
			continue;
		bed_sleep(&s->beds, &s->beds.device);
		if (roll(end, 2))
			virtq_device_disarm(s->device);
	}
}

/* ---- The driver ------------------------------------------------------------- */

/* Cut @bytes at @addr into @count random pieces, none empty. */
static void cut(struct end *end, struct virtq_seg *segs, uint32_t count, uint64_t addr,
		uint32_t bytes)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t rest = count - i - 1, len = bytes - rest;

		if (rest)
			len = 1 + roll(end, len);
		segs[i].addr = addr;
		segs[i].len = len;
		addr += len;
		bytes -= len;
	}
}

/* Add the next buffer; false if there is no room for it now. */
static bool add_next(struct stress *s)
{
	struct end *end = &s->at_driver;
	struct plan p = plan_of(s->mode, end->next);
	struct virtq_seg segs[SEGS_MAX];
	struct virtq_buffer buf = {
		segs, (uint16_t)p.readable_segs, (uint16_t)(p.segs - p.readable_segs), NULL,
	};
	uint32_t token;
	uint8_t *bytes;
	int rc;

	if (!s->free_count)
		return false;
	token = s->free_tokens[s->free_count - 1];
	buf.token = &s->parcels[token];
	bytes = s->readable + (size_t)token * CELL;
	for (uint32_t i = 0; i < p.readable; i++)
		bytes[i] = pattern(p.seed, i);
	memset(s->writable + (size_t)token * CELL, 0xee, p.writable);
	cut(end, segs, p.readable_segs, READABLE_ADDR + (uint64_t)token * CELL, p.readable);
	cut(end, segs + p.readable_segs, p.segs - p.readable_segs,
	    WRITABLE_ADDR + (uint64_t)token * CELL, p.writable);
	rc = virtq_driver_add(s->driver, &buf, 1);
	if (rc == -ENOSPC)
		return false;
	check(s, end, rc == 1, "could not be added", end->next);
	s->free_count--;
	s->parcels[token] = (struct parcel){ end->next++, true };
	return true;
}

static void take_back(struct stress *s, const struct virtq_completion *done)
{
	struct end *end = &s->at_driver;
	struct parcel *parcel = done->token;
	uint32_t token = (uint32_t)(parcel - s->parcels);
	const uint8_t *bytes = s->writable + (size_t)token * CELL;
	struct plan p = plan_of(s->mode, parcel->number);
	bool good = true;

	if (!check(s, end, parcel->out, "came back twice", parcel->number))
		return;
	if (s->mode->in_order)
		check(s, end, parcel->number == s->oldest++, "is not the oldest",
		      parcel->number);
	check(s, end, done->written == p.written, "came back with another length",
	      parcel->number);
	/* [B]: the answer was there before the buffer came back. */
	for (uint32_t i = 0; i < p.writable; i++)
		good &= bytes[i] == (i < p.written ? pattern((uint8_t)~p.seed, i) : 0xee);
	check(s, end, good, "came back with other bytes", parcel->number);
	parcel->out = false;
	s->free_tokens[s->free_count++] = token;
}

static bool over(struct stress *s, double start)
{
	double passed = now() - start;

	if (s->mode->wakes)
		return wakes(s) >= s->mode->wakes;
	return (passed > s->mode->seconds && s->at_driver.next >= BUFFERS_MIN) ||
	       passed > PATIENCE_SECONDS;
}

void drive(struct stress *s)
{
	struct end *end = &s->at_driver;
	uint32_t refill_at = s->mode->window - 1;
	double start = now();
	bool last = false;

	for (uint64_t turn = 0; !load(&s->beds.stop); turn++) {
		uint32_t in_flight = virtq_driver_in_flight(s->driver);
		struct virtq_completion done[16];
		int n;

		if (turn % 64 == 0)
			last = last || over(s, start);
		if (last && !in_flight)
			break;
		if (!last && in_flight <= refill_at) {
			uint32_t count = 1 + roll(end, s->mode->window - in_flight);
			bool full = false;

			while (count-- && !full)
				full = !add_next(s);
			if (virtq_driver_publish(s->driver)) {
				end->asked++;
				bed_wake(&s->beds, &s->beds.device);
			}
			in_flight = virtq_driver_in_flight(s->driver);
			if (!check(s, end, in_flight > 0, "found no room in an empty ring",
				   end->next))
				break;
			refill_at = full ? in_flight - 1 : roll(end, s->mode->window);
		}
		n = virtq_driver_get(s->driver, done, 1 + roll(end, 16));
		check(s, end, n >= 0, "broke the queue for the driver", end->next);
		for (int i = 0; i < n; i++)
			take_back(s, &done[i]);
		in_flight = virtq_driver_in_flight(s->driver);
		if (!in_flight || (!last && in_flight <= refill_at))
			continue;
		/* Poll on; or arm, now and then without having taken all there is. */
		if ((n && roll(end, 4)) || (!s->mode->plain && roll(end, 4)))
			continue;
		if (virtq_driver_arm(s->driver))
			continue;
		bed_sleep(&s->beds, &s->beds.driver);
		if (roll(end, 2))
			virtq_driver_disarm(s->driver);
	}
}
