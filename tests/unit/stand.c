/* SPDX-License-Identifier: MIT */
/* One queue of a model on an engine, and models to put there. */
#include "stand.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- A model that does what a test says ------------------------------------- */

struct scripted_req {
	struct virtq_req req;
	struct virtq_op then[OPS_MAX];
};

static enum virtq_verdict scripted_start(struct virtq_model *model, struct virtq_req *req,
					 struct virtq_op *op)
{
	struct scripted *s = (struct scripted *)(void *)model;
	struct scripted_req *sr = (struct scripted_req *)(void *)req;
	static const struct virtq_op zero;

	if (memcmp(op, &zero, sizeof(zero)) != 0)
		s->finished = 1000;	/* no test expects that many */
	*op = s->first;
	if (op->kind == VIRTQ_OP_TIMEOUT)	/* the driver says how long */
		virtq_req_read(req, &op->bytes, sizeof(op->bytes));
	for (unsigned int i = 0; i < s->then_count; i++) {
		sr->then[i] = s->then[i];
		sr->then[i].next = i + 1 < s->then_count ? &sr->then[i + 1] : NULL;
	}
	if (s->then_count)
		op->next = &sr->then[0];
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict scripted_finish(struct virtq_model *model, struct virtq_req *req,
					  struct virtq_op *op, int64_t result)
{
	struct scripted *s = (struct scripted *)(void *)model;

	s->result = result;
	s->last = *op;
	s->wr_left = req->wr.bytes;
	s->rd_left = req->rd.bytes;
	s->finished++;
	if (s->answer_from_spans && result > 0)
		virtq_req_write(req, s->memory, (size_t)result);
	return VIRTQ_DONE;
}

const struct virtq_model_ops scripted_ops = {
	.name = "scripted", .req_bytes = sizeof(struct scripted_req),
	.start = scripted_start, .finish = scripted_finish,
};

void stand_open_on(struct stand *st, struct virtq_engine *engine, const struct setting *s,
		   struct virtq_model *model)
{
	model->queues = 1;
	model->max_segs = PAIR_SEGS_MAX;
	st->engine = NULL;
	st->kick = new_eventfd();
	st->call = new_eventfd();
	pair_open(&st->pair, &(struct pair_shape){ .packed = s->shape.packed, .size = 2048 },
		  model, 8192);
	assert_int_equal(virtq_engine_add(engine, &(struct virtq_engine_queue_config){
				.model = model, .ring = st->pair.device, .enabled = true,
				.kick_fd = dup_of(st->kick), .call_fd = dup_of(st->call),
				.err_fd = -1 }, &st->queue), 0);
	st->pair.device = NULL;
}

void stand_open(struct stand *st, const struct setting *s, struct virtq_model *model)
{
	struct virtq_engine *engine = engine_with(&(struct virtq_engine_config){
		.kind = s->kind, .entries = s->entries, .drain_ms = 300 });

	stand_open_on(st, engine, s, model);
	st->engine = engine;
}

void stand_close(struct stand *st)
{
	if (st->queue)
		st->pair.device = virtq_engine_remove(st->queue);
	virtq_engine_destroy(st->engine);
	close(st->kick);
	close(st->call);
	pair_close(&st->pair);
}

void stand_send(struct stand *st, const struct chain *c)
{
	chain_add(&st->pair, c, st);
	virtq_driver_publish(st->pair.driver);
	virtq_notify_send(st->kick);
}

/* Wait for one buffer; returns its used length. */
uint32_t stand_back(struct stand *st)
{
	struct virtq_completion done;

	while (virtq_driver_get(st->pair.driver, &done, 1) != 1)
		assert_int_equal(virtq_notify_wait(st->call, WAIT_MS), 1);
	return done.written;
}

uint32_t stand_do(struct stand *st, const struct chain *c)
{
	stand_send(st, c);
	return stand_back(st);
}

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- Holding ------------------------------------------------------------------ */

static struct holder *holder_of(struct virtq_model *model)
{
	return (struct holder *)(void *)model;
}

static void keep(struct holder *h, struct virtq_req *req)
{
	pthread_mutex_lock(&h->lock);
	h->held[h->count++] = req;
	pthread_cond_signal(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

static enum virtq_verdict hold_start(struct virtq_model *model, struct virtq_req *req,
				     struct virtq_op *op)
{
	struct holder *h = holder_of(model);

	(void)op;
	if (h->at_once)
		virtq_engine_complete(req, 77);
	else
		keep(h, req);
	return VIRTQ_HOLD;
}

static enum virtq_verdict hold_finish(struct virtq_model *model, struct virtq_req *req,
				      struct virtq_op *op, int64_t result)
{
	struct holder *h = holder_of(model);

	(void)op;
	h->result = result;
	if (h->again) {
		h->again--;
		keep(h, req);
		return VIRTQ_HOLD;
	}
	if (result == 77)
		virtq_req_write(req, "ok", 2);
	else if (result != -ECANCELED)
		h->wrong++;
	h->finished++;
	return VIRTQ_DONE;
}

static void hold_cancel(struct virtq_model *model, struct virtq_req *req)
{
	struct holder *h = holder_of(model);
	bool mine = false;

	pthread_mutex_lock(&h->lock);
	for (unsigned int i = 0; i < h->count && !mine; i++) {
		mine = h->held[i] == req;
		if (mine)
			h->held[i] = h->held[--h->count];
	}
	h->cancelled += mine;
	pthread_mutex_unlock(&h->lock);
	if (mine)
		virtq_engine_complete(req, -ECANCELED);
}

static const struct virtq_model_ops hold_ops = {
	.name = "hold", .req_bytes = sizeof(struct virtq_req), .start = hold_start,
	.finish = hold_finish, .cancel = hold_cancel,
};

void holder_init(struct holder *h)
{
	memset(h, 0, sizeof(*h));
	h->model.ops = &hold_ops;
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->changed, NULL);
}

struct virtq_req *holder_take(struct holder *h)
{
	struct virtq_req *req = NULL;

	pthread_mutex_lock(&h->lock);
	while (!h->count && !h->quit)
		pthread_cond_wait(&h->changed, &h->lock);
	if (h->count)
		req = h->held[--h->count];
	pthread_mutex_unlock(&h->lock);
	return req;
}

static void *holder_thread(void *arg)
{
	struct virtq_req *req;

	while ((req = holder_take(arg)))
		virtq_engine_complete(req, 77);
	return NULL;
}

void holder_start(struct holder *h)
{
	for (unsigned int i = 0; i < HOLDER_THREADS; i++)
		assert_int_equal(pthread_create(&h->threads[i], NULL, holder_thread, h), 0);
}

void holder_stop(struct holder *h)
{
	pthread_mutex_lock(&h->lock);
	h->quit = true;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
	for (unsigned int i = 0; i < HOLDER_THREADS; i++)
		pthread_join(h->threads[i], NULL);
}

void stand_send_holds(struct stand *st, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct chain c = { .readable = 0 };

		chain_writable(&c, i * 16, 2);
		stand_send(st, &c);
	}
}

void holder_wait(struct holder *h, unsigned int n)
{
	pthread_mutex_lock(&h->lock);
	while (h->count < n)
		pthread_cond_wait(&h->changed, &h->lock);
	pthread_mutex_unlock(&h->lock);
}

/* ---- A kernel that says no ---------------------------------------------------- */

int deny_waiting(unsigned int error)
{
#define DENY(nr) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error)
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		DENY(__NR_io_uring_enter),
#ifdef __NR_epoll_wait
		DENY(__NR_epoll_wait),
#endif
		DENY(__NR_epoll_pwait),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) ? -errno : 0;
}
