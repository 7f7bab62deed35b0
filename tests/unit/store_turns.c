/* SPDX-License-Identifier: MIT */
/* Who waits in a store is served in turn by the queue it comes from: against a list of lists. */
#include "dev/store_turns.h"

#include <stdlib.h>

#include "pair.h"

#define QUEUES 5u
#define PIECES 64u	/* of each queue */

struct piece {
	struct virtq_store_io io;
	struct virtq_req req;
	unsigned int queue;
	bool waits;
};

/* What it should be: for each queue what waits, first to last; the order of the queues' turns. */
struct model {
	struct piece *lines[QUEUES][PIECES];
	unsigned int counts[QUEUES], order[QUEUES], queues;
	struct piece pieces[QUEUES * PIECES];
	struct store_turns turns;
	uint64_t random;
};

static struct model *model_open(void)
{
	struct model *m = calloc(1, sizeof(*m));
	static char addresses[QUEUES];

	assert_non_null(m);
	m->random = 0x2545f4914f6cdd1du;
	for (unsigned int i = 0; i < QUEUES * PIECES; i++) {
		struct piece *p = &m->pieces[i];

		memset(p, 0xee, sizeof(*p));	/* the room is not zeroed */
		p->queue = i % QUEUES;
		p->waits = false;
		p->io.req = &p->req;
		/* Told apart by it, and never looked into. */
		p->req.queue = (struct virtq_device *)(void *)&addresses[p->queue];
	}
	return m;
}

static unsigned int dice(struct model *m, unsigned int sides)
{
	m->random = m->random * 6364136223846793005u + 1442695040888963407u;
	return (unsigned int)(m->random >> 33) % sides;
}

static void leave_order(struct model *m, unsigned int queue)
{
	unsigned int at = 0;

	while (m->order[at] != queue)
		at++;
	m->queues--;
	memmove(&m->order[at], &m->order[at + 1], (m->queues - at) * sizeof(m->order[0]));
}

static void put(struct model *m, struct piece *p, bool first)
{
	struct piece **line = m->lines[p->queue];
	unsigned int count = m->counts[p->queue]++;

	if (!count)
		m->order[m->queues++] = p->queue;
	if (first)
		memmove(&line[1], &line[0], count * sizeof(line[0]));
	line[first ? 0 : count] = p;
	p->waits = true;
	(first ? store_turns_put_back : store_turns_add)(&m->turns, &p->io);
}

static void get(struct model *m, struct piece *p, bool turn)
{
	struct piece **line = m->lines[p->queue];
	unsigned int at = 0;

	while (line[at] != p)
		at++;
	m->counts[p->queue]--;
	memmove(&line[at], &line[at + 1], (m->counts[p->queue] - at) * sizeof(line[0]));
	if (turn || !m->counts[p->queue])
		leave_order(m, p->queue);
	if (turn && m->counts[p->queue])
		m->order[m->queues++] = p->queue;
	p->waits = false;
	(turn ? store_turns_take : store_turns_remove)(&m->turns, &p->io);
}

static void assert_as_expected(struct model *m)
{
	struct virtq_store_io *io = store_turns_next(&m->turns, NULL);

	for (unsigned int i = 0; i < m->queues; i++) {
		for (unsigned int at = 0; at < m->counts[m->order[i]]; at++) {
			assert_ptr_equal(io, &m->lines[m->order[i]][at]->io);
			io = store_turns_next(&m->turns, io);
		}
	}
	assert_null(io);
	for (unsigned int i = 0; i < QUEUES * PIECES; i++)
		assert_int_equal(store_turns_has(&m->turns, &m->pieces[i].io),
				 m->pieces[i].waits);
}

static void any_order_of_calls_is_followed(void **state)
{
	struct model *m = model_open();

	(void)state;
	for (unsigned int round = 0; round < 20000; round++) {
		/* Now they become more, now fewer. */
		unsigned int more = round / 1000 % 2 ? 3 : 7;
		struct piece *p = &m->pieces[dice(m, QUEUES * (round / 2000 % 2 ? PIECES : 2))];

		if (p->waits)
			get(m, p, dice(m, 2));
		else if (dice(m, 10) < more)
			put(m, p, !dice(m, 3));
		if (round % 7 == 0)
			assert_as_expected(m);
	}
	free(m);
}

/* One that has much costs another no more than one turn. */
static void turns_alternate(void **state)
{
	struct model *m = model_open();

	(void)state;
	for (unsigned int i = 0; i < PIECES; i++)
		put(m, &m->pieces[i * QUEUES], false);
	for (unsigned int i = 0; i < PIECES / 2; i++) {
		put(m, &m->pieces[i * QUEUES + 1], false);
		assert_ptr_equal(m->turns.first, &m->pieces[i * QUEUES].io);
		get(m, &m->pieces[i * QUEUES], true);
		assert_ptr_equal(m->turns.first, &m->pieces[i * QUEUES + 1].io);
		get(m, &m->pieces[i * QUEUES + 1], true);
	}
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_order_of_calls_is_followed),
		cmocka_unit_test(turns_alternate),
	};

	return cmocka_run_group_tests_name("store turns", tests, NULL, NULL) ? 1 : 0;
}
