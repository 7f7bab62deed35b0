/* SPDX-License-Identifier: MIT */
/* The device of the soak: its store, which may fail or lie, its engines, and who meddles with them. */
#include "blk_soak.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRAIN_MS 50			/* what hangs is cancelled so late after a pause */

/* What goes wrong in rough rounds. Whole sectors: a torn one is no fault of the device's. */
#define RULES "op=read,error=EIO,every=211;op=write,error=ENOSPC,every=223;" \
	      "op=write,short=1024,every=307;op=read,short=512,every=311;" \
	      "op=flush,error=EIO,every=29;op=discard,error=EIO,every=31;op=zero,error=EIO,every=37;" \
	      "op=write,hang,every=1601;op=read,hang,every=1607;op=read,delay=3,every=101"

/* ---- A store that does wrong --------------------------------------------------- */

struct liar {
	struct virtq_store store;
	struct virtq_store *inner;
	unsigned int count;
};

static enum virtq_verdict liar_start(struct virtq_store *store, struct virtq_store_io *io,
				     struct virtq_op *op)
{
	struct liar *liar = (struct liar *)store;
	bool now = __atomic_add_fetch(&liar->count, 1, __ATOMIC_RELAXED) % 1000 == 0;

	if (soak.lie == LIE_LEAK && io->kind == VIRTQ_STORE_WRITE) {
		volatile char *lost = malloc(1024);

		if (lost)
			lost[0] = 1;
	}
	if (soak.lie == LIE_SWALLOW && now)
		return VIRTQ_HOLD;
	if (soak.lie == LIE_LOSE && now && io->kind == VIRTQ_STORE_WRITE) {
		io->result = 0;
		return VIRTQ_DONE;
	}
	return liar->inner->ops->start(liar->inner, io, op);
}

static enum virtq_verdict liar_finish(struct virtq_store *store, struct virtq_store_io *io,
				      struct virtq_op *op, int64_t result)
{
	struct liar *liar = (struct liar *)store;

	return liar->inner->ops->finish(liar->inner, io, op, result);
}

static void liar_close(struct virtq_store *store)
{
	struct liar *liar = (struct liar *)store;

	liar->inner->ops->close(liar->inner);
	free(liar);
}

static const struct virtq_store_ops liar_ops = {
	.name = "liar", .start = liar_start, .finish = liar_finish, .close = liar_close,
};

static struct virtq_store *make_store(const struct virtq_store_options *options)
{
	struct virtq_store *store;
	struct virtq_error err;

	soak_must(virtq_store_open(&store, soak.image, options, &err), "store", &err);
	if (soak.rough)
		soak_must(virtq_store_inject(&store, store, RULES, &err), "inject", &err);
	if (soak.lie != LIE_NONE) {
		struct liar *liar = calloc(1, sizeof(*liar));

		soak_must(liar && store->ops->finish ? 0 : -ENOMEM, "liar", NULL);
		*liar = (struct liar){ { &liar_ops, store->info }, store, 0 };
		store = &liar->store;
	}
	return store;
}

/* ---- The device --------------------------------------------------------------------- */

static void *serve(void *arg)
{
	struct virtq_error err;

	(void)arg;
	soak_must(virtq_vhost_user_serve(soak.server, &err), "serve", &err);
	return NULL;
}

/* Pauses, resumes and moves, all the time. */
static void *meddle(void *arg)
{
	struct dice dice = { *(uint64_t *)arg };

	while (!__atomic_load_n(&soak.over, __ATOMIC_ACQUIRE)) {
		usleep(200 + dice_below(&dice, 20000));
		if (dice_below(&dice, 2)) {
			soak_must(virtq_vhost_user_server_pause(soak.server), "pause", NULL);
			usleep(dice_below(&dice, 3000));
			virtq_vhost_user_server_resume(soak.server);
			soak.pauses++;
		} else {
			soak_must(virtq_vhost_user_server_move(soak.server, dice_below(&dice, QUEUES),
							  soak.engine[dice_below(&dice, ENGINES)]),
			     "move", NULL);
			soak.moves++;
		}
	}
	return NULL;
}

static bool one_in(uint32_t n)
{
	return !dice_below(&soak.dice, n);
}

__attribute__((format(printf, 1, 2)))
static void note(const char *format, ...)
{
	size_t used = strlen(soak.settings);
	va_list args;

	va_start(args, format);
	vsnprintf(soak.settings + used, sizeof(soak.settings) - used, format, args);
	va_end(args);
}

/* Of any kind, so that queues also go from one kind to the other. */
static void make_engine(unsigned int i, bool sync)
{
	struct virtq_engine_config config = {
		.kind = sync ? VIRTQ_ENGINE_SYNC : VIRTQ_ENGINE_AUTO,
		.entries = 8u << dice_below(&soak.dice, 6),
		.spin = one_in(10) ? VIRTQ_SPIN_ALWAYS : one_in(2) ? VIRTQ_SPIN_OFF : VIRTQ_SPIN_AUTO,
		.drain_ms = soak.rough ? DRAIN_MS : 0,
		.demand = (one_in(3) ? VIRTQ_USE_SQPOLL : 0) | (one_in(3) ? VIRTQ_USE_BUFFERS : 0),
		.forbid = one_in(2) ? dice_below(&soak.dice, 256) : 0,
	};
	struct virtq_error err;

	soak_must(virtq_engine_create(&soak.engine[i], &config, &err), "engine", &err);
	note("%s, %u entries, spin %d, uses 0x%x; ", sync ? "sync" : "uring", config.entries,
	     (int)config.spin, virtq_engine_uses(soak.engine[i]));
}

static void make_disk(void)
{
	struct virtq_blk_options options = {
		.queues = QUEUES, .serial = SERIAL, .write_through = one_in(4),
	};
	struct virtq_store_options store = { .direct = one_in(2) };
	struct virtq_error err;

	options.store = make_store(&store);
	soak_must(virtq_blk_create(&soak.model, &options, &err), "disk", &err);
	note("%s%s", store.direct ? "direct, " : "", options.write_through ? "write through, " : "");
}

void soak_serve(unsigned int number)
{
	static uint64_t seed;
	struct virtq_vhost_user_server_config config = {
		.engines = soak.engine, .engine_count = ENGINES,
		.features = virtq_ring_features_usual(),
		.coalesce_us = one_in(3) ? 200 : 0,
	};
	struct virtq_error err;

	soak.packed = number & 1;
	soak.rough = soak.lie == LIE_NONE && (number & 2);
	soak.settings[0] = 0;
	note("%s, %s, ", soak.packed ? "packed" : "split", soak.rough ? "rough" : "quiet");
	for (unsigned int i = 0; i < ENGINES; i++)
		make_engine(i, i && number % 3 == 2);
	make_disk();
	config.coalesce_count = config.coalesce_us ? 8 : 0;
	note("coalesced %u", config.coalesce_count);
	config.model = soak.model;
	config.listen_fd = soak.listen_fd = soak_must(virtq_vhost_user_listen(soak.socket, &err),
						 "listen", &err);
	soak_must(virtq_vhost_user_server_create(&soak.server, &config, &err), "server", &err);
	soak.over = false;
	seed = dice_roll(&soak.dice);
	soak_must(-pthread_create(&soak.serving, NULL, serve, NULL), "thread", NULL);
	soak_must(-pthread_create(&soak.meddling, NULL, meddle, &seed), "thread", NULL);
}

void soak_serve_no_more(void)
{
	__atomic_store_n(&soak.over, true, __ATOMIC_RELEASE);
	pthread_join(soak.meddling, NULL);
	virtq_vhost_user_server_stop(soak.server);
	pthread_join(soak.serving, NULL);
	virtq_vhost_user_server_destroy(soak.server);
	virtq_model_destroy(soak.model);
	for (unsigned int i = 0; i < ENGINES; i++) {
		soak.uses |= virtq_engine_uses(soak.engine[i]);
		virtq_engine_destroy(soak.engine[i]);
	}
	close(soak.listen_fd);
	unlink(soak.socket);
}
