/* SPDX-License-Identifier: MIT */
/*
 * Random steps of a pool and its device against a plain model: who has which
 * chain, every byte of it, what is free, and what each call returns, the wrong
 * ones too. S-DRV, P-DRV: whatever goes through here was added, published and
 * taken back by the rules, or the device end would have refused it.
 *
 *	model_pool [--steps N] [--seed N] [--only CONFIGURATION]
 */
#include "model_pool_caller.h"

#define STEPS 2500u

/* ---- The device --------------------------------------------------------- */

static void compare(struct model *m, const struct twin *t, struct virtq_req *req)
{
	uint32_t bytes = t->referenced + t->readable;
	uint8_t *got;

	SAME(m, req->rd.bytes, bytes);
	SAME(m, req->wr.bytes, t->writable);
	/* One element for each item, and for a header by reference; none of them empty. */
	SAME(m, req->rd.count, (t->referenced != 0) + items_for(m, t->readable));
	SAME(m, req->wr.count, items_for(m, t->writable));
	got = malloc(bytes + 1);
	assert_non_null(got);
	SAME(m, virtq_req_read(req, got, bytes), bytes);
	if (t->referenced && memcmp(got, t->reference, t->referenced))
		WRONG(m, "the device read another header");
	if (memcmp(got + t->referenced, t->bytes, t->readable))
		WRONG(m, "the device read other bytes");
	free(got);
}

static void op_pop(struct model *m)
{
	struct virtq_req *reqs[8];
	uint32_t max = 1 + rnd(m, 8), low, high;
	int rc;

	if (m->broken)
		return;
	low = m->shown < max ? m->shown : max;
	high = m->maybe < max ? m->maybe : max;
	rc = virtq_device_pop(m->far.device, reqs, max);
	WITHIN(m, rc, low, high);
	for (int i = 0; i < rc; i++) {
		uint32_t number = pick(&m->queued, 0);
		struct twin *t = &m->twins[number];

		compare(m, t, reqs[i]);
		t->req = reqs[i];
		t->where = LOANED;
		append(&m->loans, number);
	}
	m->maybe -= (uint32_t)rc;
	m->shown = (uint32_t)rc > m->shown ? 0 : m->shown - (uint32_t)rc;
	if ((uint32_t)rc < max)
		m->maybe = m->shown;
}

/* Write some of it, and give it back; 1 if the caller has to be told. */
static int push_some(struct model *m, uint32_t count)
{
	while (count-- && m->loans.count) {
		uint32_t i = rnd(m, m->loans.count), number = m->loans.of[i];
		struct twin *t = &m->twins[number];

		if (t->where == PUSHED)
			continue;
		t->written = rnd(m, 3) ? t->writable : rnd(m, t->writable + 1);
		fill(m, t->wrote, t->written);
		SAME(m, virtq_req_write(t->req, t->wrote, t->written), t->written);
		virtq_device_push(m->far.device, &t->req, 1);
		t->where = PUSHED;
		if (!m->c->layout.in_order) {
			t->where = RETURNED;
			append(&m->returned, pick(&m->loans, i));
		}
	}
	while (m->loans.count && m->twins[m->loans.of[0]].where == PUSHED) {
		m->twins[m->loans.of[0]].where = RETURNED;
		append(&m->returned, pick(&m->loans, 0));
	}
	return virtq_device_publish(m->far.device);
}

static void op_push(struct model *m)
{
	if (!m->broken && push_some(m, 1 + rnd(m, 6)))
		virtq_notify_send(virtq_port_call_fd(virtq_pool_port(m->pool)));
}

/* The device goes to sleep, or says that it polls. */
static void op_far_arm(struct model *m)
{
	int fd = virtq_port_kick_fd(virtq_pool_port(m->pool)), rc;

	if (m->broken)
		return;
	virtq_notify_clear(fd);
	m->kick_due = m->kick_off = false;
	if (rnd(m, 3) == 0) {
		virtq_device_disarm(m->far.device);
		m->kick_off = m->c->layout.packed || !m->c->layout.event_idx;
		return;
	}
	rc = virtq_device_arm(m->far.device);
	if (m->shown)
		SAME(m, rc, 1);
	if (!rc) {
		m->maybe = m->shown;
		m->kick_due = true;
	}
}

/* The caller is about to sleep: what is used after that brings a call. */
static void op_arm(struct model *m)
{
	uint32_t before = waiting(m), forgotten = m->returned.count - before;
	int rc = virtq_pool_arm(m->pool);

	if (m->broken) {
		if (before)
			SAME(m, rc, 1);
		else
			SAME(m, rc, -EBADMSG);
		return;
	}
	WITHIN(m, rc, before != 0, before != 0 || forgotten != 0);
	publish(m, rc == 0);
	if (rc)
		return;
	drop_forgotten(m);
	SAME(m, fd_readable(virtq_port_call_fd(virtq_pool_port(m->pool))), 0);
	if (rnd(m, 2) == 0) {
		uint32_t returned = m->returned.count;
		int call = push_some(m, 1 + rnd(m, 4));

		if (m->returned.count > returned)
			SAME(m, call, 1);
	}
}

/* ---- Resets ------------------------------------------------------------- */

static void reset(struct model *m)
{
	uint32_t flight = with_device(m), queued = m->queued.count, waiting_before = waiting(m);

	/* Not while the device may be at it; unless it never was. */
	if (!m->broken && m->shown + m->loans.count)
		SAME(m, virtq_pool_reset(m->pool), -EBUSY);
	virtq_driver_stop(virtq_port_driver(virtq_pool_port(m->pool)));
	SAME(m, virtq_pool_reset(m->pool), flight);
	for (uint32_t i = 0; i < queued; i++)
		twin_gone(m, &m->twins[pick(&m->queued, 0)]);
	while (m->loans.count)
		twin_gone(m, &m->twins[pick(&m->loans, 0)]);
	m->shown = m->maybe = 0;
	for (uint32_t i = 0; i < m->twin_count; i++)
		m->twins[i].entries_min = m->twins[i].entries_max = m->twins[i].shape = 0;
	m->broken = m->kick_due = m->kick_off = false;
	drop_forgotten(m);
	SAME(m, waiting(m), waiting_before);
	virtq_notify_clear(virtq_port_kick_fd(virtq_pool_port(m->pool)));
	far_start(&m->far);
	m->resets++;
}

static void op_reset(struct model *m)
{
	if (rnd(m, 10) == 0)
		reset(m);
}

/* S-DRV: a device that names a buffer that it has not got is not believed. */
static void op_break(struct model *m)
{
	if (rnd(m, 10) || m->broken || !with_device(m) || !(m->shown + m->loans.count))
		return;
	far_break(&m->far);
	m->broken = true;
	/* What it used before can be taken first. */
	while (waiting(m))
		take_some(m, 1 + rnd(m, 8), NULL);
	take_some(m, 1, NULL);
	drop_forgotten(m);
	op_offer(m);
	op_recycle(m);
	op_look(m);
	op_arm(m);
	reset(m);
}

/* Let the device finish, take all, free all: then nothing may be missing. */
static void quiesce(struct model *m)
{
	struct virtq_pool_room room;

	if (m->broken)
		return;
	op_publish(m);
	while (with_device(m)) {
		op_pop(m);
		push_some(m, 8);
	}
	while (waiting(m))
		take_some(m, 8, NULL);
	take_some(m, 8, NULL);
	while (m->held.count) {
		struct twin *t = &m->twins[pick(&m->held, 0)];

		SAME(m, virtq_pool_free(m->pool, &t->chain, 1), 1);
		twin_gone(m, t);
	}
	room = virtq_pool_room(m->pool);
	SAME(m, room.items, m->items);
	SAME(m, room.entries, m->c->size);
	SAME(m, room.held, 0);
	SAME(m, room.in_flight, 0);
	SAME(m, virtq_driver_in_flight(virtq_port_driver(virtq_pool_port(m->pool))), 0);
}

static void op_quiesce(struct model *m)
{
	if (rnd(m, 10) == 0)
		quiesce(m);
}

/* ---- Wrong calls -------------------------------------------------------- */

/* Everything that a handle can be used for but abandon. */
static void refused(struct model *m, struct virtq_chain chain, int want)
{
	struct virtq_span span;
	uint8_t byte = 0;

	SAME(m, virtq_pool_spans(m->pool, &chain, VIRTQ_PART_READABLE, &span, 1), want);
	SAME(m, virtq_pool_copy_out(m->pool, &chain, VIRTQ_PART_WRITTEN, 0, &byte, 1), want);
	SAME(m, virtq_pool_copy_in(m->pool, &chain, 0, &byte, 1), want);
	SAME(m, virtq_pool_resize(m->pool, &chain, 1), want);
	SAME(m, virtq_pool_free(m->pool, &chain, 1), want);
	if (m->paused)
		want = -EAGAIN;
	if (!m->broken || m->paused)
		SAME(m, virtq_pool_recycle(m->pool, &chain, 1, 0), want);
}

static void op_refused(struct model *m)
{
	struct list *const lists[] = { &m->queued, &m->loans, &m->returned };
	struct list *l = lists[rnd(m, 3)];
	struct virtq_chain chain = m->old[rnd(m, OLD)];

	/* Freed, recycled or abandoned. */
	refused(m, chain, -ESTALE);
	SAME(m, virtq_pool_abandon(m->pool, &chain, 1), -ESTALE);
	/* Another pool's, made in the same way. */
	refused(m, m->foreign, -ESTALE);
	SAME(m, virtq_pool_abandon(m->pool, &m->foreign, 1), -ESTALE);
	/* Nobody's. */
	chain = (struct virtq_chain){ .id = m->foreign.id ^ (uint64_t)rnd(m, 64) << 40,
				      .slot = rnd(m, 2) ? UINT32_MAX : m->twin_count + rnd(m, 9) };
	refused(m, chain, -ESTALE);
	/* The right id in a wrong place, the right place with a wrong id. */
	if (m->held.count) {
		chain = m->twins[m->held.of[rnd(m, m->held.count)]].chain;
		chain.slot = rnd(m, 2) ? UINT32_MAX : chain.slot + 1;
		refused(m, chain, -ESTALE);
		chain = m->twins[m->held.of[rnd(m, m->held.count)]].chain;
		chain.id += (uint64_t)1 << 50;
		refused(m, chain, -ESTALE);
	}
	/* Use after offer. */
	if (l->count) {
		const struct twin *t = &m->twins[l->of[rnd(m, l->count)]];

		if (!t->forget)
			refused(m, t->chain, -EBUSY);
	}
}

static void op_wrong(struct model *m)
{
	uint8_t byte = 7, *reserved = virtq_pool_reserved(m->pool);
	struct virtq_span part = { &byte, 1 };
	const struct virtq_offer wrong[] = {
		{ .header = &byte },
		{ .part_count = 0, .flags = VIRTQ_OFFER_FORGET },
		{ .parts = &part, .part_count = 1, .flags = 4 },
		{ .parts = &part, .part_count = 1, .flags = 1u << 31 },
		{ .header = &byte, .header_bytes = 1, .flags = VIRTQ_OFFER_REFERENCE },
		{ .header = reserved + RESERVED - 1, .header_bytes = 2,
		  .flags = VIRTQ_OFFER_REFERENCE },
		{ .header = reserved - 1, .header_bytes = 1, .flags = VIRTQ_OFFER_REFERENCE },
		{ .header = reserved + 8, .header_bytes = UINT32_MAX,
		  .flags = VIRTQ_OFFER_REFERENCE },
	};
	uint32_t which = rnd(m, sizeof(wrong) / sizeof(wrong[0]));
	struct virtq_chain chain;
	struct room r = room_now(m);

	if (m->broken)
		return;
	SAME(m, virtq_pool_offer(m->pool, &wrong[which], 1, &chain, 0, NULL),
	     which < 4 ? -EINVAL : -EFAULT);
	SAME(m, virtq_pool_alloc(m->pool, 0, 0, &chain), -EINVAL);
	SAME(m, virtq_pool_offer_writable(m->pool, 1, 0, &chain, 0, NULL), -EINVAL);
	SAME(m, virtq_pool_offer_writable(m->pool, 1, 1, &chain, 6, NULL), -EINVAL);
	SAME(m, virtq_pool_offer_writable(m->pool, 1, UINT32_MAX, &chain, 0, NULL), -EMSGSIZE);
	/* It costs nothing. */
	WITHIN(m, virtq_pool_room(m->pool).items, r.items_min, r.items_max);
	publish(m, false);
}

/* ---- Runs --------------------------------------------------------------- */

static const struct config shapes[] = {
	{ .size = 1, .item_bytes = 64, .items = 3 },
	{ .size = 2, .item_bytes = 256, .gpa = 0x100000 },
	{ .size = 8, .item_bytes = 64, .items = 24, .threads = true },
	{ .size = 16, .item_bytes = 4096, .items = 12, .gpa = 0x7fff0000 },
	{ .size = 64, .item_bytes = 1536, .items = 40 },
	{ .size = 32, .item_bytes = 64, .items = 100, .segs_max = 5 },
	{ .size = 4, .item_bytes = 12288, .items = 7, .guard = true },
	{ .size = 8, .item_bytes = 8192, .items = 6, .guard = true, .threads = true },
};

static void check_room(struct model *m)
{
	struct virtq_pool_room got = virtq_pool_room(m->pool);
	struct room r = room_now(m);

	WITHIN(m, got.items, r.items_min, r.items_max);
	WITHIN(m, got.entries, r.entries_min, r.entries_max);
	SAME(m, got.held, r.held);
	WITHIN(m, got.in_flight, r.flight_min, r.flight_max);
}

static void model_open(struct model *m, const struct config *c)
{
	struct virtq_pool_config config = {
		.features = layout_features(c->layout),
		.size = c->size,
		.indirect_entries = c->indirect_entries,
		.segs_max = c->segs_max,
		.gpa = c->gpa,
		.item_bytes = c->item_bytes,
		.items = c->items,
		.reserve_bytes = RESERVED,
		.threads = c->threads,
		.guard = c->guard,
	};
	struct virtq_error err;
	uint32_t reused;

	m->c = c;
	m->seed = model_seed(c->run, c->name);
	m->items = c->items ? c->items : c->size;
	m->twin_count = m->items + 2 * c->size + 8;
	m->twins = calloc(m->twin_count, sizeof(*m->twins));
	assert_non_null(m->twins);
	if (virtq_pool_create(&m->pool, &config, &err) ||
	    virtq_pool_create(&m->other, &config, &err))
		fail_msg("%s", err.text);
	far_open(&m->far, virtq_pool_port(m->pool), NULL, 0, true);
	for (uint32_t i = 0; i < RESERVED; i++)
		((uint8_t *)virtq_pool_reserved(m->pool))[i] = (uint8_t)(i * 11);
	/* The first handle of each, so that they look alike while both are good. */
	assert_int_equal(virtq_pool_alloc(m->other, 1, 0, &m->foreign), 0);
	assert_int_equal(virtq_pool_alloc(m->pool, 1, 0, &m->old[0]), 0);
	refused(m, m->foreign, -ESTALE);
	assert_int_equal(virtq_pool_free(m->pool, &m->old[0], 1), 1);
	for (uint32_t i = 0; i < OLD; i++) {
		assert_int_equal(virtq_pool_alloc(m->pool, 1, 0, &m->old[i]), 0);
		assert_int_equal(virtq_pool_free(m->pool, &m->old[i], 1), 1);
		for (reused = 0; reused < i; reused++)
			assert_int_not_equal(m->old[i].id, m->old[reused].id);
	}
}

static void model_close(struct model *m)
{
	/* With whatever is in flight, held and waiting. */
	virtq_pool_destroy(m->pool);
	virtq_pool_destroy(m->other);
	far_close(&m->far);
	for (uint32_t i = 0; i < m->twin_count; i++) {
		free(m->twins[i].bytes);
		free(m->twins[i].wrote);
	}
	free(m->twins);
}

/* With whatever is in flight, held and waiting: from then on nothing goes, and nothing is touched. */
static void op_close(struct model *m)
{
	struct model before = *m;
	struct virtq_chain chain;

	if (rnd(m, 200))
		return;
	before.seed = m->seed;
	virtq_pool_close(m->pool);
	if (rnd(m, 2))
		virtq_pool_close(m->pool);
	SAME(m, virtq_pool_offer_writable(m->pool, 1, 0, &chain, 0, NULL), -ESHUTDOWN);
	SAME(m, virtq_pool_alloc(m->pool, 1, 0, &chain), -ESHUTDOWN);
	SAME(m, virtq_pool_take(m->pool, &chain, 1, NULL), -ESHUTDOWN);
	SAME(m, virtq_pool_publish(m->pool), -ESHUTDOWN);
	SAME(m, virtq_pool_arm(m->pool), -ESHUTDOWN);
	SAME(m, virtq_pool_pause(m->pool), -ESHUTDOWN);
	SAME(m, virtq_pool_resume(m->pool), -ESHUTDOWN);
	if (m->held.count) {
		chain = m->twins[pick(&m->held, 0)].chain;
		SAME(m, virtq_pool_recycle(m->pool, &chain, 1, 0), -ESHUTDOWN);
		SAME(m, virtq_pool_free(m->pool, &chain, 1), -ESHUTDOWN);
	}
	model_close(m);
	memset(m, 0, sizeof(*m));
	model_open(m, before.c);
	m->seed = before.seed;
	m->step = before.step;
	m->offered = before.offered;
	m->taken = before.taken;
	m->recycled = before.recycled;
	m->resets = before.resets;
	m->full = before.full;
	m->put_off = before.put_off;
	m->closes = before.closes + 1;
}

static struct { uint64_t offered, taken, recycled, full, resets, put_off, closes; } total;

static void test_random(void **state)
{
	static void (*const ops[])(struct model *m) = {
		op_offer, op_offer, op_offer, op_offer_writable, op_publish, op_look, op_look,
		op_alloc, op_copy_in, op_resize, op_free, op_recycle, op_recycle, op_recycle,
		op_abandon, op_take, op_take, op_take, op_pop, op_pop, op_pop, op_push, op_push,
		op_push, op_far_arm, op_arm, op_pause, op_resume, op_reset, op_break, op_quiesce,
		op_refused, op_wrong, op_close,
	};
	struct model *m = calloc(1, sizeof(*m));
	const struct config *c = *state;

	assert_non_null(m);
	model_open(m, c);
	for (m->step = 1; m->step <= c->run->steps; m->step++) {
		ops[rnd(m, sizeof(ops) / sizeof(ops[0]))](m);
		check_room(m);
	}
	total.offered += m->offered;
	total.taken += m->taken;
	total.recycled += m->recycled;
	total.full += m->full;
	total.resets += m->resets;
	total.put_off += m->put_off;
	total.closes += m->closes;
	quiesce(m);
	op_resume(m);
	op_offer(m);
	model_close(m);
	free(m);
}

/* Over all configurations, some of which are too small for much to happen in a few steps. */
static void test_it_was_a_test(void **state)
{
	const struct run *run = *state;

	if (run->only || run->steps < STEPS)
		return;
	assert_true(total.offered > 1000 && total.taken > 1000 && total.recycled > 1000);
	assert_true(total.full > 100 && total.resets > 100 && total.put_off > 1000);
	assert_true(total.closes > 10);
}

int main(int argc, char **argv)
{
	enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };
	static struct config configs[LAYOUTS * SHAPES];
	static struct CMUnitTest tests[LAYOUTS * SHAPES + 1];
	struct run run = run_parse(argc, argv, STEPS);
	size_t count = 0;

	for (unsigned int i = 0; i < LAYOUTS * SHAPES; i++) {
		struct config *c = &configs[i];

		*c = shapes[i / LAYOUTS];
		c->layout = model_layout(i, &c->size, &c->indirect_entries);
		c->run = &run;
		snprintf(c->name, sizeof(c->name), "%s %u, %u of %u bytes%s%s",
			 layout_name(c->layout), c->size, c->items, c->item_bytes,
			 c->threads ? " threads" : "", c->guard ? " guard" : "");
		count = model_add(tests, count, &run, c->name, test_random, c);
	}
	return model_run("a pool against its model", &run, tests, count, test_it_was_a_test);
}
