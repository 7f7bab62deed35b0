/* SPDX-License-Identifier: MIT */
/*
 * Random steps of transfers and their device against a plain model: who has
 * which pieces, every byte of and around them, how the written length falls on
 * them, which identities they get, and that each is released once or given back, never both.
 *
 *	model_transfers [--steps N] [--seed N] [--only CONFIGURATION]
 */
#include "model_transfers_caller.h"

#include <sys/mman.h>

#define STEPS 2500u

/* ---- The device --------------------------------------------------------- */

static void compare(struct model *m, struct twin *t, struct virtq_req *req)
{
	size_t bytes = 0, at = 0;
	uint8_t *got;

	for (unsigned int i = 0; i < t->readable; i++)
		bytes += t->pieces[i].len;
	SAME(m, req->rd.bytes, bytes);
	SAME(m, req->wr.bytes, t->capacity);
	SAME(m, req->rd.count + req->wr.count, t->elements);
	got = malloc(bytes + 1);
	assert_non_null(got);
	SAME(m, virtq_req_read(req, got, bytes), bytes);
	for (unsigned int i = 0; i < t->readable; i++) {
		size_t offset = (size_t)((uint8_t *)t->pieces[i].base - chunk(m->near, t));

		if (memcmp(got + at, t->shadow + offset, t->pieces[i].len))
			WRONG(m, "the device read other bytes in piece %u", i);
		at += t->pieces[i].len;
	}
	free(got);
}

static void op_pop(struct model *m)
{
	struct virtq_req *reqs[8];
	uint32_t max = 1 + rnd(m, 8), expected = shown(m) < max ? shown(m) : max;

	if (m->broken)
		return;
	SAME(m, virtq_device_pop(m->far.device, reqs, max), expected);
	for (uint32_t i = 0; i < expected; i++) {
		uint32_t number = pick(&m->queued, 0);
		struct twin *t = &m->twins[number];

		compare(m, t, reqs[i]);
		t->req = reqs[i];
		t->where = LOANED;
		append(&m->loans, number);
	}
}

static void returned(struct model *m, struct twin *t)
{
	t->where = RETURNED;
	t->status = 0;
	append(&m->returned, number_of(t));
	if (!t->abandoned) {
		t->to_poll = true;
		append(&m->polls, number_of(t));
	}
}

static void push_some(struct model *m, uint32_t count)
{
	static uint8_t bytes[CHUNK_BYTES];

	while (count-- && m->loans.count) {
		uint32_t i = rnd(m, m->loans.count), at = 0;
		struct twin *t = &m->twins[m->loans.of[i]];

		if (t->where == PUSHED)
			continue;
		t->written = rnd(m, 3) ? t->capacity : rnd(m, t->capacity + 1);
		for (uint32_t k = 0, key = rnd(m, UINT32_MAX); k < t->written; k++)
			bytes[k] = (uint8_t)(key + k * 13 + (k >> 7));
		SAME(m, virtq_req_write(t->req, bytes, t->written), t->written);
		for (unsigned int p = t->readable; p < t->readable + t->writable; p++) {
			size_t offset = (size_t)((uint8_t *)t->pieces[p].base - chunk(m->near, t));
			size_t len = t->pieces[p].len;

			if (len > t->written - at)
				len = t->written - at;
			memcpy(t->shadow + offset, bytes + at, len);
			at += (uint32_t)len;
		}
		check_memory(m, t, chunk(m->distant, t));
		virtq_device_push(m->far.device, &t->req, 1);
		t->where = PUSHED;
		if (!m->c->layout.in_order) {
			pick(&m->loans, i);
			returned(m, t);
		}
	}
	while (m->loans.count && m->twins[m->loans.of[0]].where == PUSHED)
		returned(m, &m->twins[pick(&m->loans, 0)]);
	if (virtq_device_publish(m->far.device))
		virtq_notify_send(virtq_port_call_fd(m->ports[m->port]));
}

static void op_push(struct model *m)
{
	if (!m->broken)
		push_some(m, 1 + rnd(m, 6));
}

static void op_far_arm(struct model *m)
{
	if (m->broken)
		return;
	kicks_taken(m);
	SAME(m, virtq_device_arm(m->far.device), shown(m) != 0);
	m->kick_due = !shown(m);
}

static void op_arm(struct model *m)
{
	uint32_t back = m->returned.count;
	bool wanted = m->polls.count != 0;
	int rc;

	rc = virtq_transfers_arm(m->set);
	if (m->broken) {
		SAME(m, rc, wanted ? 1 : -EBADMSG);
		return;
	}
	/* 1 also for one that check() knows of, or that nobody waits for. */
	WITHIN(m, rc, wanted, wanted || back);
	if (rc)
		op_publish(m);
	else
		published_all(m);
}

/* ---- Resets ------------------------------------------------------------- */

static void far_switch(struct model *m)
{
	struct virtq_region regions[REGIONS];
	unsigned int count = m->c->way == BY_ADDRESS ? 1 : REGIONS;

	far_close(&m->far);
	memcpy(regions, m->regions, sizeof(regions));
	for (unsigned int i = 0; i < count; i++)
		regions[i].host = m->distant + ((uint8_t *)m->regions[i].host - m->near);
	far_open(&m->far, m->ports[m->port], regions, count, true);
}

/* Every one of @l is back as it was, or released. */
static void cancelled(struct model *m, struct list *l, int status)
{
	while (l->count) {
		struct twin *t = &m->twins[pick(l, 0)];

		if (t->abandoned)
			WRONG(m, "an abandoned transfer outlives a reset");
		t->where = READY;
		t->status = status;
		t->written = 0;
		SAME(m, virtq_transfer_check(t->t), 1);
		known(m, t);
		check_memory(m, t, chunk(m->near, t));
	}
}

static void reset(struct model *m)
{
	struct virtq_driver *another = NULL;
	uint32_t flight;

	if (m->c->bare) {
		/* The new end may lie where the old one did: what is back is taken before. */
		while (!m->broken && m->polls.count)
			poll_some(m, 8);
		if (!m->broken)
			poll_some(m, 8);
		SAME(m, virtq_transfers_reset(m->set, NULL), -EINVAL);
		SAME(m, virtq_port_renew(m->ports[!m->port]), 0);
		another = virtq_port_driver(m->ports[!m->port]);
	}
	m->send_there = false;
	flight = in_state(m, QUEUED, PUSHED);
	/* Not while the device may be at it. */
	if (!m->broken && flight > m->staged)
		SAME(m, virtq_transfers_reset(m->set, another), -EBUSY);
	virtq_driver_stop(driver_of(m));
	m->send_there = rnd(m, 2);
	m->staged = 0;
	/* What is abandoned is released though the device had it. */
	m->ending = m->resetting = true;
	SAME(m, virtq_transfers_reset(m->set, another), flight);
	m->ending = m->resetting = m->send_there = false;
	if (m->c->bare)
		m->port = !m->port;
	cancelled(m, &m->queued, m->broken ? -EBADMSG : -ECANCELED);
	cancelled(m, &m->loans, m->broken ? -EBADMSG : -ECANCELED);
	m->broken = m->kick_due = false;
	virtq_notify_clear(virtq_port_kick_fd(m->ports[m->port]));
	far_switch(m);
	kicks_taken(m);
	m->resets++;
	/* Poll tells of them as well, in any order. */
	for (;;) {
		struct virtq_transfer *done[8];
		int rc = virtq_transfers_poll(m->set, done, 8, NULL);

		WITHIN(m, rc, 0, 8);
		for (int i = 0; i < rc; i++) {
			struct twin *t = twin_of(m, done[i]);

			discard(&m->polls, number_of(t));
			t->to_poll = false;
			known(m, t);
		}
		if (rc < 8)
			break;
	}
	SAME(m, m->polls.count, 0);
}

static void op_reset(struct model *m)
{
	if (rnd(m, 10) == 0)
		reset(m);
}

static void op_break(struct model *m)
{
	if (rnd(m, 10) || m->broken || in_state(m, QUEUED, PUSHED) == m->staged)
		return;
	far_break(&m->far);
	m->broken = true;
	/* What came before is good. */
	while (m->polls.count)
		poll_some(m, 1 + rnd(m, 8));
	poll_some(m, 1);
	op_look(m);
	for (unsigned int i = 0; i < 8; i++)
		op_check(m);
	op_send(m);
	op_finish(m);
	op_arm(m);
	if (rnd(m, 2))
		op_abandon(m);
	reset(m);
}

/* The device finishes all; then the ring is empty. */
static void quiesce(struct model *m)
{
	op_publish(m);
	while (in_state(m, QUEUED, RETURNED)) {
		op_pop(m);
		push_some(m, 8);
		poll_some(m, 8);
		/* Those that poll told of before, or check. */
		for (uint32_t i = 0; i < TWINS; i++) {
			struct twin *t = &m->twins[i];

			if (t->where == RETURNED && !t->abandoned) {
				SAME(m, virtq_transfer_check(t->t), 1);
				known(m, t);
			}
		}
	}
	/* What can be sent again may keep its entries. */
	if (!m->c->keep || !in_state(m, READY, READY))
		SAME(m, virtq_driver_room(driver_of(m)), m->c->size);
	SAME(m, virtq_driver_in_flight(driver_of(m)), 0);
}

static void op_quiesce(struct model *m)
{
	if (rnd(m, 10) == 0)
		quiesce(m);
}

/* ---- Runs --------------------------------------------------------------- */

static const struct config shapes[] = {
	{ .size = 1, .transfers_max = 2, .pieces_max = 1, .segs_max = 2, .way = BY_MAP },
	{ .size = 8, .transfers_max = 12, .pieces_max = 4, .way = BY_ADDRESS,
	  .keep = true },
	{ .size = 8, .transfers_max = 20, .pieces_max = 6, .segs_max = 9, .way = BY_MAP },
	{ .size = 32, .transfers_max = 9, .pieces_max = 5, .segs_max = 8, .way = BY_CALLBACK,
	  .bare = true, .keep = true },
	{ .size = 16, .transfers_max = 20, .pieces_max = 3, .way = BY_ADDRESS, .bare = true },
	{ .size = 64, .transfers_max = 20, .pieces_max = 6, .segs_max = 12, .way = BY_MAP,
	  .guard = true, .keep = true },
	{ .size = 4, .transfers_max = 6, .pieces_max = 3, .way = BY_CALLBACK },
};

/* Two views of one piece of memory, between pages that nobody may touch. */
static uint8_t *map_arena(int fd)
{
	uint8_t *base = mmap(NULL, ARENA_BYTES + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);

	assert_ptr_not_equal(base, MAP_FAILED);
	assert_ptr_equal(mmap(base + 4096, ARENA_BYTES, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_FIXED, fd, 0), base + 4096);
	return base + 4096;
}

static void open_memory(struct model *m)
{
	int fd = memfd_create("pieces", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, ARENA_BYTES), 0);
	m->near = map_arena(fd);
	m->distant = map_arena(fd);
	close(fd);
	for (uint32_t i = 0; i < REGIONS; i++) {
		struct virtq_region *r = &m->regions[i];

		r->host = m->near + (size_t)i * REGION_BYTES;
		r->size_bytes = i + 1 < REGIONS ? REGION_BYTES :
						  ARENA_BYTES - (REGIONS - 1) * REGION_BYTES;
		/* In another order, and with holes. */
		r->gpa = 0x10000000 + (uint64_t)(i * 7 % REGIONS) * 0x100000 + i;
		r->fd = -1;
		r->access = VIRTQ_ACCESS_RW;
	}
	if (m->c->way == BY_ADDRESS) {
		m->regions[0].gpa = (uintptr_t)m->near;
		m->regions[0].size_bytes = ARENA_BYTES;
	}
	if (m->c->way == BY_MAP)
		assert_int_equal(virtq_map_create(&m->map, m->regions, REGIONS, NULL), 0);
	else if (m->c->way == BY_ADDRESS && !m->c->bare)
		assert_int_equal(virtq_map_create(&m->map, m->regions, 1, NULL), 0);
}

static void open_set(struct model *m)
{
	struct virtq_transfers_config config = {
		.transfers_max = m->c->transfers_max,
		.pieces_max = m->c->pieces_max,
		.segs_max = m->c->segs_max,
		.map = m->map,
		.translate = m->c->way == BY_CALLBACK ? translate : NULL,
		.guard = m->c->guard ? virtq_transfers_guard : NULL,
		.arg = m,
	};
	struct virtq_error err;

	if (m->c->bare) {
		config.driver = driver_of(m);
		config.kick = kick;
	} else {
		config.port = m->ports[0];
	}
	if (virtq_transfers_create(&m->set, &config, &err))
		fail_msg("set: %s", err.text);
	virtq_map_unref(m->map);
}

static void model_open(struct model *m, const struct config *c)
{
	struct virtq_port_config port = {
		.features = layout_features(c->layout),
		.size = c->size,
		.indirect_entries = c->indirect_entries,
		.keep = c->keep,
	};
	struct virtq_error err;

	m->c = c;
	m->seed = model_seed(c->run, c->name);
	for (uint32_t i = 0; i < TWINS; i++)
		m->twins[i].m = m;
	open_memory(m);
	for (unsigned int i = 0; i <= c->bare; i++)
		if (virtq_port_create(&m->ports[i], &port, &err))
			fail_msg("port: %s", err.text);
	open_set(m);
	far_switch(m);
}

/* With transfers of every kind still there, each of which is released then. */
static void model_close(struct model *m)
{
	uint64_t releases = m->releases;
	uint32_t there = in_state(m, READY, RETURNED);

	virtq_driver_stop(driver_of(m));
	m->ending = true;
	virtq_transfers_destroy(m->set);
	SAME(m, m->releases, releases + there);
	SAME(m, in_state(m, READY, RETURNED), 0);
	far_close(&m->far);
	virtq_port_destroy(m->ports[0]);
	virtq_port_destroy(m->ports[1]);
	munmap(m->near - 4096, ARENA_BYTES + 8192);
	munmap(m->distant - 4096, ARENA_BYTES + 8192);
}

static struct {
	uint64_t sent, staged, came_back, finished, releases, nested, refused, resets;
} total;

static void test_random(void **state)
{
	static void (*const ops[])(struct model *m) = {
		op_prepare, op_prepare, op_prepare, op_prepare, op_prepare_wrong, op_send,
		op_send, op_send, op_send, op_publish, op_check, op_check, op_check, op_check,
		op_wait, op_poll, op_poll, op_look, op_finish, op_finish, op_abandon, op_pop,
		op_pop, op_pop, op_push, op_push, op_push, op_far_arm, op_arm, op_reset,
		op_break, op_quiesce,
	};
	struct model *m = calloc(1, sizeof(*m));
	const struct config *c = *state;

	assert_non_null(m);
	model_open(m, c);
	for (m->step = 1; m->step <= c->run->steps; m->step++) {
		uint32_t flight, back;

		ops[rnd(m, sizeof(ops) / sizeof(ops[0]))](m);
		m->send_there = false;
		flight = in_state(m, QUEUED, PUSHED);
		back = in_state(m, RETURNED, RETURNED);
		WITHIN(m, virtq_driver_in_flight(driver_of(m)), flight, flight + back);
	}
	m->send_there = false;
	total.sent += m->sent;
	total.staged += m->staged_ever;
	total.came_back += m->came_back;
	total.finished += m->finished;
	total.releases += m->releases;
	total.nested += m->nested;
	total.refused += m->refused;
	total.resets += m->resets;
	quiesce(m);
	for (unsigned int i = 0; i < 20; i++) {
		m->send_there = false;
		op_prepare(m);
		op_send(m);
		op_pop(m);
		op_push(m);
		op_abandon(m);
	}
	model_close(m);
	free(m);
}

/* Over all configurations, some of which are too small for much to happen in a few steps. */
static void test_it_was_a_test(void **state)
{
	const struct run *run = *state;

	if (run->only || run->steps < STEPS)
		return;
	assert_true(total.sent > 1000 && total.came_back > 1000 && total.finished > 500);
	assert_true(total.releases > 500 && total.nested > 20 && total.resets > 100);
	assert_true(total.staged > 1000 && total.refused > 20);
}

int main(int argc, char **argv)
{
	enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };
	static struct config configs[LAYOUTS * SHAPES];
	static struct CMUnitTest tests[LAYOUTS * SHAPES + 1];
	static const char *const ways[] = { "by map", "by callback", "by address" };
	struct run run = run_parse(argc, argv, STEPS);
	size_t count = 0;

	for (unsigned int i = 0; i < LAYOUTS * SHAPES; i++) {
		struct config *c = &configs[i];

		*c = shapes[i / LAYOUTS];
		c->layout = model_layout(i, &c->size, &c->indirect_entries);
		c->run = &run;
		snprintf(c->name, sizeof(c->name), "%s %u, %u transfers %s%s%s%s",
			 layout_name(c->layout), c->size, c->transfers_max, ways[c->way],
			 c->bare ? " bare" : "", c->guard ? " guard" : "",
			 c->keep ? " keep" : "");
		count = model_add(tests, count, &run, c->name, test_random, c);
	}
	return model_run("transfers against their model", &run, tests, count, test_it_was_a_test);
}
