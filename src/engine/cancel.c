/* SPDX-License-Identifier: MIT */
/*
 * Operations that shall end before their time: one, because its model says so, from any
 * thread; or all of a queue, because that is taken away.
 */
#include "engine/engine.h"

#include <errno.h>

#include "base/shm.h"
#include "ring/device.h"

void virtq_engine_cancel(struct virtq_req *req)
{
	struct virtq_engine_queue *q = req->queue->turned_by;
	struct engine_slot *slot = &q->slots[req->slot];

	/* As in virtq_engine_complete(): nothing is touched once the lock is free. */
	pthread_mutex_lock(&q->lock);
	slot->unwanted_asked = shm_word_read(&slot->asked);
	if (!slot->filed) {
		slot->filed = true;
		slot->next_filed = q->filed;
		q->filed = slot;
	}
	if (!q->news) {
		shm_flag_write(&q->news, true);
		engine_wake(q->engine);
	}
	pthread_mutex_unlock(&q->lock);
}

/* Take it out of a list; @end, if there is one, is kept up. Returns false if it is not there. */
static bool unlink_slot(struct engine_slot **list, struct engine_slot ***end,
			const struct engine_slot *slot)
{
	while (*list && *list != slot)
		list = &(*list)->next;
	if (!*list)
		return false;
	*list = slot->next;
	if (end && !*list)
		*end = list;
	return true;
}

/* Wherever the operation is now, if there is one. */
static void take_back(struct virtq_engine_queue *q, struct engine_slot *slot)
{
	if (!slot->performing) {
		if (!unlink_slot(&q->waits.first, &q->waits.end, slot))
			return;		/* held, or at its end */
		slot->result = -ECANCELED;
		request_finish(q, slot);
		return;
	}
	/* Enough where it has completed: what would follow does not. */
	slot->unwanted = true;
	if (slot->generation) {
		q->engine->io->cancel(q->engine, slot);
	} else if (timer_clear(&slot->timer) ||
		   unlink_slot(&q->rests.first, &q->rests.end, slot) ||
		   unlink_slot(&q->later, NULL, slot)) {
		q->out++;
		engine_completed(q->engine, slot, -ECANCELED);
	}
}

void queue_take_back_filed(struct virtq_engine_queue *q, struct engine_slot *slot)
{
	struct engine_slot *next;
	bool same;

	for (; slot; slot = next) {
		pthread_mutex_lock(&q->lock);
		next = slot->next_filed;
		/* Or the model was asked meanwhile: what has begun since was not meant. */
		same = slot->unwanted_asked == slot->asked;
		slot->filed = false;
		pthread_mutex_unlock(&q->lock);
		if (same)
			take_back(q, slot);
	}
}

void queue_take_back_all(struct virtq_engine_queue *q)
{
	uint32_t size = virtq_device_ring(q->ring)->size;

	for (uint32_t i = 0; i < size; i++)
		if (q->slots[i].generation)
			q->engine->io->cancel(q->engine, &q->slots[i]);
}
