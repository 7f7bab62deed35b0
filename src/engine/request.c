/* SPDX-License-Identifier: MIT */
/*
 * A request between being taken and being given back: what the model decides
 * about it, the operations that follow from that, being held, being cancelled with
 * its queue, and going on at another engine. Everything here runs on the engine's thread,
 * except virtq_engine_complete().
 */
#include "engine/engine.h"

#include <errno.h>

#include "base/probe.h"
#include "base/shm.h"
#include "ring/device.h"

/* Before an operation is tried again: doubled each time, up to the longest. Two seconds in all. */
#define RETRY_PAUSE_NS 40000u
#define RETRY_PAUSE_MAX_NS 20000000u
#define CHANCES 16u	/* to begin something new with a request that shall end */

/* ---- Station 3: what the model decided ---------------------------------- */

/* It ends without the kernel. */
static void complete(struct virtq_engine_queue *q, struct engine_slot *slot, int64_t result)
{
	q->out++;
	engine_completed(q->engine, slot, result);
}

static void timeout_expired(struct virtq_engine *e, struct engine_timer *timer)
{
	struct engine_slot *slot = container_of(timer, struct engine_slot, timer);

	(void)e;
	complete(slot->queue, slot, 0);
}

static void append(struct slot_list *list, struct engine_slot *slot)
{
	slot->next = NULL;
	*list->end = slot;
	list->end = &slot->next;
}

static struct engine_slot *take_first(struct slot_list *list)
{
	struct engine_slot *slot = list->first;

	list->first = slot->next;
	if (!list->first)
		list->end = &list->first;
	return slot;
}

/* What is left of slot->op, here or at the engine that the queue is leaving for. */
static void perform(struct virtq_engine_queue *q, struct engine_slot *slot)
{
	if (UNLIKELY(q->phase == QUEUE_LEAVES)) {
		slot->timer.due_ns = 0;
		slot->next = q->later;
		q->later = slot;
		return;
	}
	/* Its turn is over: see queue_begin_waiting(). */
	if (UNLIKELY(q->turn_bytes >= ENGINE_TURN_BYTES)) {
		append(&q->rests, slot);
		return;
	}
	PROBE_PERFORM(slot->req, &slot->op);
	if (slot->op.kind == VIRTQ_OP_TURN) {
		q->turn_bytes += slot->op.bytes;
		complete(q, slot, 0);
		return;
	}
	if (slot->op.kind <= VIRTQ_OP_WRITE)
		q->turn_bytes += engine_piece(slot).bytes;
	q->out++;
	q->engine->io->perform(q->engine, slot);
}

/* Begin the operation that the model has described. */
static void begin(struct virtq_engine_queue *q, struct engine_slot *slot)
{
	slot->done_bytes = 0;
	slot->retries = 0;
	slot->unwanted = false;
	if (UNLIKELY(q->phase == QUEUE_CANCELS))
		complete(q, slot, -ECANCELED);
	else if (slot->op.kind == VIRTQ_OP_TIMEOUT)
		timer_set(q->engine, &slot->timer, slot->op.bytes, timeout_expired);
	else
		perform(q, slot);
}

static void set_performing(struct virtq_engine_queue *q, struct engine_slot *slot, bool performs)
{
	struct virtq_engine *e = q->engine;

	if (slot->performing == performs)
		return;
	slot->performing = performs;
	if (performs) {
		e->performing++;
		e->shared_used += q->performing++ >= e->reserve;
	} else {
		e->performing--;
		e->shared_used -= q->performing-- > e->reserve;
	}
}

static void hold(struct virtq_engine_queue *q, struct engine_slot *slot)
{
	slot->held = true;
	q->held++;
	/* It came too late to be left alone. */
	if (UNLIKELY(q->phase == QUEUE_CANCELS) && q->model->ops->cancel)
		q->model->ops->cancel(q->model, slot->req);
}

/* The request shall end and the model begins something new with it again and again. */
static bool out_of_chances(const struct virtq_engine_queue *q, struct engine_slot *slot,
			   enum virtq_verdict verdict)
{
	bool ends = q->phase == QUEUE_CANCELS || (q->engine->failed && verdict == VIRTQ_SUBMIT);

	if (LIKELY(!ends) || (verdict != VIRTQ_SUBMIT && verdict != VIRTQ_HOLD))
		return false;
	if (slot->chances) {
		slot->chances--;
		return false;
	}
	return true;
}

/* It ends without the model. The driver finds nothing written. */
static enum virtq_verdict give_up(const struct virtq_engine_queue *q, struct engine_slot *slot)
{
	slot->cancelled |= q->phase == QUEUE_CANCELS;
	slot->req->written = 0;
	slot->req->failed = 1;
	return VIRTQ_DONE;
}

void queue_give_chances(struct virtq_engine_queue *q)
{
	uint32_t size = virtq_device_ring(q->ring)->size;

	for (uint32_t i = 0; i < size; i++)
		q->slots[i].chances = CHANCES;
}

/* Act on what the model decided. */
static void follow(struct virtq_engine_queue *q, struct engine_slot *slot,
		   enum virtq_verdict verdict)
{
	if (UNLIKELY(out_of_chances(q, slot, verdict))) {
		/* What is held stays with the model until that completes it, and is over then. */
		slot->doomed = verdict == VIRTQ_HOLD;
		if (!slot->doomed)
			verdict = give_up(q, slot);
	}
	/* Counted first: an operation may have completed when perform() returns. */
	set_performing(q, slot, verdict == VIRTQ_SUBMIT);
	switch (verdict) {
	case VIRTQ_SUBMIT:
		begin(q, slot);
		return;
	case VIRTQ_HOLD:
		hold(q, slot);
		return;
	case VIRTQ_MALFORMED:
		slot->req->written = 0;
		q->stats.malformed++;
		break;
	case VIRTQ_DONE:
		q->stats.failed += slot->req->failed != 0;
		break;
	}
	if (UNLIKELY(slot->cancelled)) {
		q->cancelled++;
		q->stats.cancelled += slot->req->failed != 0;
	}
	q->stats.bytes_read += slot->req->bytes_read;
	q->stats.bytes_written += slot->req->bytes_written;
	q->in_flight--;
	queue_give_back(q, slot->req);
}

void request_start(struct virtq_engine_queue *q, struct virtq_req *req, uint64_t now_ns)
{
	struct engine_slot *slot = &q->slots[req->slot];
	enum virtq_verdict verdict;

	slot->req = req;
	slot->popped_ns = now_ns;
	slot->doomed = false;
	slot->cancelled = false;
	slot->op = (struct virtq_op){ 0 };
	req->bytes_read = 0;
	req->bytes_written = 0;
	req->failed = 0;
	q->in_flight++;
	PROBE_POP(req);
	shm_word_write(&slot->asked, slot->asked + 1);
	verdict = q->model->ops->start(q->model, req, &slot->op);
	PROBE_START(req, verdict);
	follow(q, slot, verdict);
}

/* ---- Station 4 ---------------------------------------------------------- */

/* Move the operation's own spans past @bytes. */
static void advance_spans(struct virtq_op *op, uint64_t bytes)
{
	while (op->span_count && bytes >= op->spans->len) {
		bytes -= op->spans->len;
		op->spans++;
		op->span_count--;
	}
	if (op->span_count && bytes) {
		op->spans->base = (uint8_t *)op->spans->base + bytes;
		op->spans->len -= (size_t)bytes;
	}
}

/* Move on past @bytes that the kernel has transferred. */
static void advance(struct engine_slot *slot, uint64_t bytes)
{
	if (slot->op.spans)
		advance_spans(&slot->op, bytes);
	else if (slot->op.kind == VIRTQ_OP_READ)
		virtq_req_wrote(slot->req, bytes);
	else
		virtq_req_skip(slot->req, bytes);
	if (slot->op.kind == VIRTQ_OP_READ)
		slot->req->bytes_read += bytes;
	else
		slot->req->bytes_written += bytes;
	slot->op.offset += bytes;
	slot->done_bytes += bytes;
	slot->retries = 0;
}

static bool anything_left(const struct engine_slot *slot)
{
	if (slot->op.spans)
		return slot->op.span_count;
	return slot->op.kind == VIRTQ_OP_READ ? slot->req->wr.bytes : slot->req->rd.bytes;
}

static void pause_over(struct virtq_engine *e, struct engine_timer *timer)
{
	struct engine_slot *slot = container_of(timer, struct engine_slot, timer);

	(void)e;
	perform(slot->queue, slot);
}

/*
 * The operation was interrupted, or the kernel is short of something for it: try
 * once more, after a pause that grows, as whatever it lacks takes time to come
 * back. Returns false if it has been tried for long enough.
 */
static bool try_again(struct virtq_engine_queue *q, struct engine_slot *slot)
{
	uint64_t pause_ns;

	if (slot->retries++ >= ENGINE_RETRIES_MAX)
		return false;
	if (slot->retries == 1 || (slot->result == -EINTR && slot->retries < 8) ||
	    q->phase == QUEUE_LEAVES) {
		perform(q, slot);
		return true;
	}
	pause_ns = slot->retries < 10 ? RETRY_PAUSE_NS << slot->retries : RETRY_PAUSE_MAX_NS;
	timer_set(q->engine, &slot->timer, pause_ns, pause_over);
	return true;
}

/* There would be more to do: not if the queue or the operation shall come to its end. */
static bool cut_short(const struct virtq_engine_queue *q, struct engine_slot *slot)
{
	if (LIKELY(q->phase != QUEUE_CANCELS && !slot->unwanted))
		return false;
	slot->result = -ECANCELED;
	return true;
}

/* Is the operation over? If so its result is in slot->result; else it goes on. */
static bool over(struct virtq_engine_queue *q, struct engine_slot *slot)
{
	int64_t result = slot->result;

	if (result == -EINTR || result == -EAGAIN ||
	    (result == -ECANCELED && q->phase == QUEUE_LEAVES))
		return cut_short(q, slot) || !try_again(q, slot);
	if (result < 0)
		return true;
	if (slot->op.kind == VIRTQ_OP_READ || slot->op.kind == VIRTQ_OP_WRITE) {
		advance(slot, (uint64_t)result);
		slot->result = (int64_t)slot->done_bytes;
		/* Nothing came: the file ends here. */
		if (result && anything_left(slot)) {
			if (cut_short(q, slot))
				return true;
			perform(q, slot);
			return false;
		}
		if (anything_left(slot))
			return true;
	} else if (slot->op.kind != VIRTQ_OP_POLL) {
		slot->result = 0;
	}
	if (!slot->op.next || cut_short(q, slot))
		return true;
	slot->op = *slot->op.next;
	begin(q, slot);
	return false;
}

void request_finish(struct virtq_engine_queue *q, struct engine_slot *slot)
{
	int64_t result = slot->result;
	enum virtq_verdict verdict;

	if (result < 0)
		slot->req->failed = 1;
	if (result == -ECANCELED && q->phase == QUEUE_CANCELS)
		slot->cancelled = true;
	PROBE_FINISH(slot->req, result);
	shm_word_write(&slot->asked, slot->asked + 1);
	verdict = UNLIKELY(slot->doomed) ? give_up(q, slot) :
		  q->model->ops->finish(q->model, slot->req, &slot->op, result);
	/* It was held, and has no credit any more: queue_serve() follows. */
	if (UNLIKELY(verdict == VIRTQ_SUBMIT && !slot->performing))
		append(&q->waits, slot);
	else
		follow(q, slot, verdict);
}

/*
 * First what has its credit already, so that it can end; then what takes one, before
 * anything new does. In a queue that takes nothing new it goes on without, for it must end.
 */
bool queue_begin_waiting(struct virtq_engine_queue *q)
{
	bool needs_credit = queue_takes_requests(q);

	if (UNLIKELY(q->phase == QUEUE_LEAVES))
		return false;
	while (q->rests.first) {
		if (q->phase == QUEUE_CANCELS)
			complete(q, take_first(&q->rests), -ECANCELED);
		else if (q->turn_bytes < ENGINE_TURN_BYTES)
			perform(q, take_first(&q->rests));
		else
			return true;
	}
	while (q->waits.first && (!needs_credit || queue_credits(q))) {
		if (q->turn_bytes >= ENGINE_TURN_BYTES)
			return true;
		follow(q, take_first(&q->waits), VIRTQ_SUBMIT);
	}
	return false;
}

void queue_finish(struct engine_slot *slot)
{
	slot->queue->out--;
	if (over(slot->queue, slot))
		request_finish(slot->queue, slot);
}

/* ---- Held requests ------------------------------------------------------ */

void virtq_engine_complete(struct virtq_req *req, int64_t result)
{
	struct virtq_engine_queue *q = req->queue->turned_by;
	struct engine_slot *slot = &q->slots[req->slot];

	/* The signal too: once the lock is free, request, queue and engine may be gone. */
	pthread_mutex_lock(&q->lock);
	VIRTQ_ASSERT(!slot->ended);
	slot->ended = true;
	slot->result = result;
	slot->next = NULL;
	*q->ended_end = slot;
	q->ended_end = &slot->next;
	if (!q->news) {
		shm_flag_write(&q->news, true);
		engine_wake(q->engine);
	}
	pthread_mutex_unlock(&q->lock);
}

bool queue_finish_held(struct virtq_engine_queue *q)
{
	struct engine_slot *slot, *next, *filed;

	if (LIKELY(!shm_flag_read(&q->news)))
		return false;
	pthread_mutex_lock(&q->lock);
	slot = q->ended;
	q->ended = NULL;
	q->ended_end = &q->ended;
	filed = q->filed;
	q->filed = NULL;
	shm_flag_write(&q->news, false);
	pthread_mutex_unlock(&q->lock);
	for (; slot; slot = next) {
		next = slot->next;
		slot->ended = false;
		slot->held = false;
		q->held--;
		request_finish(q, slot);
	}
	queue_take_back_filed(q, filed);
	return true;
}

/* ---- The end of what is in flight --------------------------------------- */

void queue_cancel(struct virtq_engine_queue *q)
{
	uint32_t size = virtq_device_ring(q->ring)->size;

	q->phase = QUEUE_CANCELS;
	queue_give_chances(q);
	queue_take_back_all(q);
	for (uint32_t i = 0; i < size; i++) {
		struct engine_slot *slot = &q->slots[i];

		if (timer_clear(&slot->timer))
			complete(q, slot, -ECANCELED);
		/* It may have ended already: the model knows, or will. */
		if (slot->held && q->model->ops->cancel)
			q->model->ops->cancel(q->model, slot->req);
	}
}

void queue_take_timers(struct virtq_engine_queue *q)
{
	uint32_t size = virtq_device_ring(q->ring)->size;

	for (uint32_t i = 0; i < size; i++) {
		struct engine_slot *slot = &q->slots[i];

		if (timer_clear(&slot->timer)) {
			slot->next = q->later;
			q->later = slot;
		}
	}
}

void queue_go_on(struct virtq_engine_queue *q)
{
	struct engine_slot *slot = q->later, *next;

	q->later = NULL;
	for (; slot; slot = next) {
		next = slot->next;
		if (slot->timer.due_ns)
			timer_set_again(q->engine, &slot->timer);
		else
			perform(q, slot);
	}
}
