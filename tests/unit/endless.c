/* SPDX-License-Identifier: MIT */
/* Requests of every kind that can wait for ever, and engines that do not wait so long. */
#include "endless.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

struct virtq_engine *engine_draining(enum virtq_engine_kind kind, uint32_t drain_ms)
{
	return engine_with(&(struct virtq_engine_config){ .kind = kind, .drain_ms = drain_ms });
}

static void endless_send(struct stand *st)
{
	for (unsigned int i = 0; i < EACH; i++) {
		struct chain c = { .readable = 0 };
		uint64_t ns = 3600 * (uint64_t)1000000000;

		memcpy(st->pair.data + 64 * i, &ns, sizeof(ns));
		chain_readable(&c, 64 * i, sizeof(ns));
		chain_writable(&c, 64 * i + 16, 4);
		stand_send(st, &c);
	}
}

void endless_open(struct endless *e, struct virtq_engine *engine, const struct setting *s)
{
	memset(e, 0, sizeof(*e));
	assert_int_equal(pipe2(e->fds, O_CLOEXEC), 0);
	e->read.model.ops = e->poll.model.ops = e->timeout.model.ops = &scripted_ops;
	e->read.first = (struct virtq_op){ .kind = VIRTQ_OP_READ, .fd = e->fds[0] };
	e->poll.first = (struct virtq_op){ .kind = VIRTQ_OP_POLL, .fd = e->fds[0],
					   .flags = POLLIN };
	e->timeout.first = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT };
	holder_init(&e->hold);
	stand_open_on(&e->st[e->count++], engine, s, &e->poll.model);
	stand_open_on(&e->st[e->count++], engine, s, &e->timeout.model);
	stand_open_on(&e->st[e->count++], engine, s, &e->hold.model);
	/* The other engine would wait in read(2) for ever, as it says. */
	if (s->kind == VIRTQ_ENGINE_URING)
		stand_open_on(&e->st[e->count++], engine, s, &e->read.model);
	for (unsigned int i = 0; i < e->count; i++)
		endless_send(&e->st[i]);
	holder_wait(&e->hold, EACH);
	usleep(50000);
}

void endless_close(struct endless *e)
{
	for (unsigned int i = 0; i < e->count; i++)
		stand_close(&e->st[i]);
	close(e->fds[0]);
	close(e->fds[1]);
}
