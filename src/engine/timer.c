/* SPDX-License-Identifier: MIT */
/*
 * What is due at a time, soonest first. Most timers of an engine run equally
 * long, so a new one nearly always belongs at the end, and is looked for there.
 */
#include "engine/engine.h"

#include <time.h>

uint64_t engine_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void timers_init(struct engine_timer *head)
{
	head->next = head->prev = head;
}

void timer_set_again(struct virtq_engine *e, struct engine_timer *timer)
{
	struct engine_timer *before = e->timers.prev;

	while (before != &e->timers && before->due_ns > timer->due_ns)
		before = before->prev;
	timer->prev = before;
	timer->next = before->next;
	timer->prev->next = timer;
	timer->next->prev = timer;
}

void timer_set(struct virtq_engine *e, struct engine_timer *timer, uint64_t after_ns,
	       void (*expired)(struct virtq_engine *e, struct engine_timer *timer))
{
	timer->expired = expired;
	if (add_overflows(engine_now_ns(), after_ns, &timer->due_ns))
		timer->due_ns = UINT64_MAX;
	timer_set_again(e, timer);
}

bool timer_clear(struct engine_timer *timer)
{
	if (!timer->next)
		return false;
	timer->prev->next = timer->next;
	timer->next->prev = timer->prev;
	timer->next = timer->prev = NULL;
	return true;
}

void timers_run(struct virtq_engine *e)
{
	uint64_t now = e->now_ns = engine_now_ns();
	struct engine_timer *timer;

	while ((timer = e->timers.next) != &e->timers && timer->due_ns <= now) {
		timer_clear(timer);
		timer->expired(e, timer);
	}
}

bool timers_left_ns(const struct virtq_engine *e, uint64_t *left_ns)
{
	uint64_t due = e->timers.next->due_ns, now;

	if (!timers_any(e))
		return false;
	now = engine_now_ns();
	*left_ns = due > now ? due - now : 0;
	return true;
}
