/* SPDX-License-Identifier: MIT */
/*
 * The device end over memory that a driver fills with anything.
 *
 * The input chooses the ring and its features, and then plays a driver and a
 * device's program in turns: chains, well-formed or not, bytes thrown into the
 * ring, pops, pushes in any order, new memory maps, a queue made anew. Every
 * byte that is lent is touched. As long as the driver has kept to the rules
 * (struct peer, clean), the device end must serve it exactly; once it has not,
 * what must hold is in check_always() and check_loan(). S-DEV, P-DEV, V-DEV.
 */
#include <errno.h>

#include <virtq/dump.h>

#include "device.h"
#include "ring.h"

#define POP_MAX 64u

static uint32_t effective_long_chains(const struct virtq_device_config *c)
{
	return effective_max_segs(c) <= VIRTQ_REQ_INLINE_SEGS ? 0 :
	       c->long_chains ? c->long_chains : 64;
}

/* Loans that are not pushed. */
static uint32_t loans_out(const struct run *r, bool only_long)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < r->loan_count; i++)
		count += r->loans[i].m && (!only_long || r->loans[i].is_long);
	return count;
}

static void check_always(struct run *r)
{
	struct virtq_fault fault = virtq_device_fault(r->q);
	uint32_t in_flight = virtq_device_in_flight(r->q);

	/* In order, those that wait for their turn may count or not. */
	FUZZ_CHECK(in_flight >= loans_out(r, false) && in_flight <= r->loan_count);
	FUZZ_CHECK(fault.code <= VIRTQ_FAULT_RING_MEMORY);
	FUZZ_CHECK(virtq_fault_text(fault.code)[0]);
	/* What an IOTLB knows in several pieces may be more elements than are taken. */
	if (r->tlb && fault.code == VIRTQ_FAULT_CHAIN_LENGTH)
		r->peer.clean = false;
	if (r->peer.clean)
		FUZZ_CHECK(fault.code == VIRTQ_FAULT_NONE);
	/* What is broken stays broken, for the reason found first. */
	if (r->fault.code != VIRTQ_FAULT_NONE)
		FUZZ_CHECK(fault.code == r->fault.code && fault.index == r->fault.index &&
			   fault.value == r->fault.value);
	r->fault = fault;
}

/* ---- Loans -------------------------------------------------------------- */

/* Every byte of a cursor, through the sanitizer's eyes. */
static void touch(const struct memory *m, const struct virtq_cursor *c, unsigned int access)
{
	static uint8_t sink[1 << 20];
	uint64_t sum = 0;

	for (uint32_t i = 0; i < c->count; i++) {
		const struct virtq_span *span = &c->spans[i];

		FUZZ_CHECK(span->len && span->len <= sizeof(sink));
		FUZZ_CHECK(memory_grants(m, span->base, span->len, access));
		if (access == VIRTQ_ACCESS_WRITE)
			memset(span->base, 0x5a, span->len);
		else
			memcpy(sink, span->base, span->len);
		sum += span->len;
	}
	FUZZ_CHECK(sum == c->bytes);
}

static void check_loan(struct run *r, struct virtq_req *req)
{
	const struct offer *offer = peer_popped(&r->peer, req->id);
	struct loan *loan = &r->loans[r->loan_count++];
	uint32_t segs = req->rd.count + req->wr.count;

	FUZZ_CHECK(r->loan_count <= r->config.ring.size);
	FUZZ_CHECK(req->queue == r->q && req->slot < r->config.ring.size);
	FUZZ_CHECK(!r->lent[req->slot]);
	FUZZ_CHECK(!req->written);
	FUZZ_CHECK(segs <= effective_max_segs(&r->config));
	FUZZ_CHECK(req->rd.bytes + req->wr.bytes <= (uint64_t)1 << 32);
	if (r->peer.clean)
		FUZZ_CHECK(offer->live && req->rd.bytes == offer->readable_bytes &&
			   req->wr.bytes == offer->writable_bytes);
	r->lent[req->slot] = true;
	*loan = (struct loan){
		.req = req, .m = r->m, .sequence = ++r->sequence, .capacity = req->wr.bytes,
		.is_long = segs > VIRTQ_REQ_INLINE_SEGS,
	};
	r->m->loans++;
	touch(r->m, &req->rd, VIRTQ_ACCESS_READ);
	touch(r->m, &req->wr, VIRTQ_ACCESS_WRITE);
	/* What lies behind the library's part of a request is the caller's. */
	if (r->config.req_bytes)
		memset(req + 1, 0xa5, r->config.req_bytes - sizeof(*req));
}

/* Somebody translates what was missed, or forgets to. */
static void answer_miss(struct run *r)
{
	struct virtq_miss miss = virtq_device_miss(r->q);
	uint8_t how = take8(&r->in);

	FUZZ_CHECK(miss.access == VIRTQ_ACCESS_READ || miss.access == VIRTQ_ACCESS_WRITE);
	FUZZ_CHECK(virtq_iotlb_known(r->tlb, miss.addr, 1) == 0);
	for (unsigned int i = 0; i < r->m->area_count && how < 0xf0; i++) {
		const struct area *a = &r->m->areas[i];
		uint64_t off = miss.addr - a->gpa, len = a->bytes;

		if (off >= a->bytes)
			continue;
		/* All of the region, or a part of it from there on. */
		off = how & 1 ? off : 0;
		len = how & 2 ? 1 + take_below(&r->in, (uint32_t)(len - off)) : len - off;
		FUZZ_CHECK(!virtq_iotlb_update(r->tlb, a->gpa + off, len, a->host + off,
					       a->access));
	}
}

/* Translations are taken back: those of the regions that are there, or others. */
static void do_invalidate(struct run *r)
{
	uint64_t from = take_number(&r->in), len = take_number(&r->in);

	if (!r->tlb)
		return;
	virtq_iotlb_invalidate(r->tlb, from, len);
	FUZZ_CHECK(!len || !virtq_iotlb_known(r->tlb, from, 1));
}

static void do_pop(struct run *r)
{
	struct virtq_req *reqs[POP_MAX];
	uint32_t max = 1 + take_below(&r->in, take8(&r->in) < 0xf0 ? 4 : POP_MAX);
	uint32_t waiting = r->peer.queued, longs = 0;
	uint32_t blocks = effective_long_chains(&r->config);
	bool broken = r->fault.code != VIRTQ_FAULT_NONE;
	int rc = virtq_device_pop(r->q, reqs, max);

	FUZZ_CHECK(rc <= (int)max);
	FUZZ_CHECK(rc >= 0 || rc == -EBADMSG || rc == -ENOSPC || (rc == -EAGAIN && r->tlb));
	if (broken)
		FUZZ_CHECK(rc == -EBADMSG);
	if (rc == -EBADMSG)
		FUZZ_CHECK(virtq_device_fault(r->q).code != VIRTQ_FAULT_NONE);
	for (int i = 0; i < rc; i++)
		check_loan(r, reqs[i]);
	for (uint32_t i = 0; i < r->loan_count; i++)
		longs += r->loans[i].is_long;
	FUZZ_CHECK(loans_out(r, true) <= blocks);
	if (rc == -ENOSPC)
		FUZZ_CHECK(blocks && longs >= blocks);
	if (rc == -EAGAIN)
		answer_miss(r);
	/* A driver that keeps the rules is served, or a long chain waits for a block. */
	if (r->peer.clean && !r->tlb && rc < (int)(max < waiting ? max : waiting)) {
		uint16_t next = r->peer.queue[r->peer.queue_first];

		FUZZ_CHECK(longs >= blocks);
		FUZZ_CHECK(r->peer.offers[next].pieces > VIRTQ_REQ_INLINE_SEGS);
	}
}

/* Some request on loan and not pushed, or NULL. */
static struct loan *take_loan(struct run *r)
{
	uint32_t from = take_below(&r->in, r->loan_count);

	for (uint32_t i = 0; i < r->loan_count; i++) {
		struct loan *loan = &r->loans[(from + i) % r->loan_count];

		if (loan->m)
			return loan;
	}
	return NULL;
}

static void drop_loan(struct run *r, struct loan *loan)
{
	r->lent[loan->req->slot] = false;
	r->loan_count--;
	memmove(loan, loan + 1, (size_t)(r->loans + r->loan_count - loan) * sizeof(*loan));
}

/* It counts as used from now on, and the driver hears of it at the next publication. */
static void stage(struct run *r, struct loan *loan)
{
	struct virtq_req *req = loan->req;

	/* Of a driver that breaks the rules there may be more than a ring full. */
	if (r->back_count < r->config.ring.size)
		r->backs[r->back_count++] = (struct back){
			req->id, req->written, loan->capacity };
	drop_loan(r, loan);
}

/* Read, fill and skip as a device might, or touch it all once more. */
static void use(struct run *r, struct loan *loan)
{
	struct virtq_req *req = loan->req;
	uint8_t buffer[64];
	uint64_t rd = req->rd.bytes, wr = req->wr.bytes, written = req->written;
	uint32_t len = take_below(&r->in, sizeof(buffer) + 1);
	size_t n;

	switch (take_below(&r->in, 7)) {
	case 0:
		touch(loan->m, &req->rd, VIRTQ_ACCESS_READ);
		touch(loan->m, &req->wr, VIRTQ_ACCESS_WRITE);
		break;
	case 1:
		n = virtq_req_read(req, buffer, len);
		FUZZ_CHECK(n == (rd < len ? rd : len) && req->rd.bytes == rd - n);
		break;
	case 2:
		memset(buffer, 0x77, sizeof(buffer));
		n = virtq_req_write(req, buffer, len);
		FUZZ_CHECK(n == (wr < len ? wr : len) && req->wr.bytes == wr - n);
		FUZZ_CHECK(req->written == (written + n > UINT32_MAX ? UINT32_MAX : written + n));
		break;
	case 3:
		virtq_req_wrote(req, len);
		FUZZ_CHECK(req->wr.bytes == wr - (wr < len ? wr : len));
		break;
	case 4:
		virtq_req_wrote(req, UINT64_MAX);
		FUZZ_CHECK(!req->wr.bytes);
		break;
	case 5:
		virtq_req_skip(req, len == sizeof(buffer) ? UINT64_MAX : len);
		FUZZ_CHECK(req->rd.bytes <= rd);
		break;
	default:
		if (loan->tail)
			break;
		loan->tail = virtq_req_claim_tail(req);
		FUZZ_CHECK(!loan->tail == !wr);
		if (loan->tail)
			FUZZ_CHECK(memory_grants(loan->m, loan->tail, 1, VIRTQ_ACCESS_WRITE));
		break;
	}
	FUZZ_CHECK(req->written <= loan->capacity);
}

static void do_push(struct run *r)
{
	struct virtq_req *reqs[4];
	struct memory *held[4];
	uint32_t count = 1 + take_below(&r->in, 4), n = 0;
	struct loan *loan;

	while (n < count && (loan = take_loan(r))) {
		struct virtq_req *req = loan->req;

		if (loan->tail)
			virtq_req_set_tail(req, loan->tail, 1);
		FUZZ_CHECK(req->written <= loan->capacity);
		held[n] = loan->m;
		reqs[n++] = req;
		loan->m = NULL;
		if (!r->in_order)
			stage(r, loan);
	}
	/* Those that were waiting for their turn go with it (2.7.9, 2.8.8). */
	while (r->loan_count && !r->loans[0].m)
		stage(r, r->loans);
	virtq_device_push(r->q, reqs, n);
	for (uint32_t i = 0; i < n; i++) {
		held[i]->loans--;
		memory_settle(held[i]);
	}
}

static void do_unpop(struct run *r)
{
	struct loan *loan = take_below(&r->in, 4) ? take_loan(r) :
			    r->loan_count ? &r->loans[r->loan_count - 1] : NULL;
	struct memory *m;
	uint16_t id;
	int rc;

	if (!loan || !loan->m)
		return;
	m = loan->m;
	id = loan->req->id;
	rc = virtq_device_unpop(r->q, loan->req);
	FUZZ_CHECK(rc == (loan->sequence == r->sequence ? 0 : -EINVAL));
	if (rc)
		return;
	r->sequence--;
	peer_unpopped(&r->peer, id);
	drop_loan(r, loan);
	m->loans--;
	memory_settle(m);
}

/* ---- What the driver sees ----------------------------------------------- */

/* The next used element: its id, and its length. False if there is none. */
static bool look_used(const struct run *r, uint16_t *id, uint32_t *len)
{
	const uint8_t *at;

	if (r->peer.packed) {
		uint16_t flags;

		at = r->m->areas[AREA_DESC].host + 16 * r->used_slot;
		flags = (uint16_t)get_le(at + 14, 2);
		if ((flags & SLOT_BITS) != (r->used_wrap ? SLOT_BITS : 0))
			return false;
		*id = (uint16_t)get_le(at + 12, 2);
		*len = flags & VIRTQ_DESC_F_WRITE ? (uint32_t)get_le(at + 8, 4) : 0;
		return true;
	}
	at = r->m->areas[AREA_DEVICE].host;
	if ((uint16_t)get_le(at + 2, 2) == r->used_idx)
		return false;
	at += 4 + 8 * (r->used_idx % r->config.ring.size);
	*id = (uint16_t)get_le(at, 4);
	*len = (uint32_t)get_le(at + 4, 4);
	return true;
}

/* A clean driver finds every request that was pushed, in that order, and nothing else. */
static void check_used(struct run *r)
{
	uint32_t done = 0, size = r->config.ring.size, len;
	uint16_t id;

	while (done < r->back_count) {
		uint32_t last = done;

		FUZZ_CHECK(look_used(r, &id, &len));
		while (r->in_order && last + 1 < r->back_count && r->backs[last].id != id) {
			/* Before the last of a batch all are filled to the end. */
			FUZZ_CHECK(r->backs[last].len == r->backs[last].capacity);
			last++;
		}
		FUZZ_CHECK(r->backs[last].id == id && r->backs[last].len == len);
		for (; done <= last; done++) {
			r->used_idx++;
			r->used_slot += r->peer.offers[r->backs[done].id].entries;
		}
		if (r->used_slot >= size) {
			r->used_slot -= size;
			r->used_wrap = !r->used_wrap;
		}
	}
	FUZZ_CHECK(!look_used(r, &id, &len));
}

static void do_publish(struct run *r)
{
	int rc = virtq_device_publish(r->q);

	FUZZ_CHECK(rc == 0 || rc == 1);
	if (r->peer.clean)
		check_used(r);
	for (uint32_t i = 0; i < r->back_count; i++)
		peer_release(&r->peer, r->backs[i].id);
	r->back_count = 0;
}

/* ---- Other things that happen to a queue -------------------------------- */

static void do_ask(struct run *r)
{
	uint32_t position = virtq_device_position(r->q);
	unsigned int lines = 0;

	virtq_device_dump(r->q, count_line, &lines);
	FUZZ_CHECK(lines > 1 && lines < 200);

	if (r->peer.packed)
		FUZZ_CHECK((position & 0x7fff) < r->config.ring.size &&
			   (position >> 16 & 0x7fff) < r->config.ring.size);
	else
		FUZZ_CHECK(position <= UINT16_MAX);
	if (r->peer.clean && r->peer.packed && !r->peer.queued)
		FUZZ_CHECK((position & 0x7fff) == r->peer.cursor);
	if (r->peer.clean && !r->peer.packed)
		FUZZ_CHECK((uint16_t)(position + r->peer.queued) == r->peer.idx);
	/* What a driver would write with its kick now (2.9); anything else is a hint to look. */
	if (r->peer.clean)
		FUZZ_CHECK(virtq_device_kicked(r->q, (uint32_t)peer_next(&r->peer) << 16) ==
			   (r->peer.queued > 0));
	(void)virtq_device_kicked(r->q, take32(&r->in));
}

static void do_arm(struct run *r)
{
	int rc = virtq_device_arm(r->q);

	FUZZ_CHECK(rc == 0 || rc == 1);
	if (r->peer.clean)
		FUZZ_CHECK(rc == (r->peer.queued > 0));
}

static void do_poke_data(struct run *r)
{
	uint8_t bytes[8];
	uint64_t gpa = r->m->areas[take_below(&r->in, AREA_DATA)].gpa + take16(&r->in);

	put_le(bytes, take64(&r->in), 8);
	memory_poke(r->m, gpa, bytes, sizeof(bytes));
	/* Perhaps a table that the device has not read yet; or the ring. */
	if (gpa >= r->m->areas[AREA_TABLES].gpa - 8)
		r->peer.clean = false;
}

/* One turn of the program. False when there is no queue any more. */
static bool turn(struct run *r)
{
	struct loan *loan;

	switch (take_below(&r->in, 26)) {
	case 0: case 1: case 2: case 3: case 4:
		for (uint32_t n = 1 + take_below(&r->in, 4); n && peer_offer(&r->peer, &r->in); n--)
			;
		break;
	case 5: case 6: case 7: case 8: case 9: do_pop(r); break;
	case 10: case 11: case 12: do_push(r); break;
	case 13: case 14: do_publish(r); break;
	case 15: do_unpop(r); break;
	case 16: do_arm(r); break;
	case 17: virtq_device_disarm(r->q); break;
	case 18: peer_set_event(&r->peer, &r->in); break;
	case 19:
		if (take8(&r->in) & 1)
			peer_cheat(&r->peer, &r->in);
		else
			peer_scribble(&r->peer, &r->in);
		break;
	case 20: do_set_map(r); break;
	case 21: return do_anew(r);
	case 22: do_poke_data(r); do_ask(r); break;
	case 23: do_refuse(r); break;
	case 24: do_invalidate(r); break;
	default:
		loan = take_loan(r);
		if (loan)
			use(r, loan);
		break;
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = { .in = { data, size } };
	bool open = true;

	run_begin(&r);
	while (r.in.left && open) {
		open = turn(&r);
		if (open)
			check_always(&r);
	}
	while (open && take_loan(&r))
		do_push(&r);
	if (open) {
		do_publish(&r);
		check_always(&r);
		FUZZ_CHECK(!r.loan_count);
		close_queue(&r);
	}
	run_end(&r);
	return 0;
}
