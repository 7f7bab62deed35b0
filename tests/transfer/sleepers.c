/* SPDX-License-Identifier: MIT */
/* Threads that sleep in a pool, and what is led to them. */
#include "sleepers.h"

#include <malloc.h>
#include <time.h>

unsigned int arms;
unsigned int always_ready;
struct rig *late_device;
unsigned int slow_clear;
unsigned int cleared;
unsigned int slow_unlock;
unsigned int bad_unlocks;
static __thread bool is_sleeper;

int __wrap_virtq_driver_arm(struct virtq_driver *q);
int __real_virtq_driver_arm(struct virtq_driver *q);
void __wrap_virtq_notify_clear(int fd);
void __real_virtq_notify_clear(int fd);
void __wrap_free(void *p);
void __real_free(void *p);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);
int __real_pthread_mutex_unlock(pthread_mutex_t *lock);

void pause_ms(unsigned int ms)
{
	struct timespec pause = { 0, ms * 1000000L };

	nanosleep(&pause, NULL);
}

int __wrap_virtq_driver_arm(struct virtq_driver *q)
{
	int ready;

	if (late_device)
		serve_quietly(late_device);
	late_device = NULL;
	ready = __real_virtq_driver_arm(q);
	add(&arms, 1);
	if (!load(&always_ready))
		return ready;
	add(&always_ready, -1);
	pause_ms(1);
	return 1;
}

void __wrap_virtq_notify_clear(int fd)
{
	if (load(&slow_clear)) {
		pause_ms(50);
		add(&cleared, 1);
	}
	__real_virtq_notify_clear(fd);
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock)
{
	int rc = __real_pthread_mutex_unlock(lock);

	if (rc)
		add(&bad_unlocks, 1);
	if (is_sleeper && load(&slow_unlock))
		pause_ms(50);
	return rc;
}

/* Whoever looks at what was freed sees it at once. */
void __wrap_free(void *p)
{
	if (p)
		memset(p, 0xa5, malloc_usable_size(p));
	__real_free(p);
}

static void *sleep_run(void *arg)
{
	struct sleeper *s = arg;
	struct virtq_chain chain;

	is_sleeper = true;
	s->rc = s->takes ? virtq_pool_take(s->r->pool, &chain, 1, &s->wait) :
			   virtq_pool_offer_writable(s->r->pool, 1, s->bytes, NULL, 0, &s->wait);
	add(&s->done, 1);
	return NULL;
}

void await(unsigned int *what, unsigned int at_least)
{
	for (unsigned int i = 0; load(what) < at_least && i < LOST_MS; i++)
		pause_ms(1);
	assert_true(load(what) >= at_least);
}

void sleeper_run(struct sleeper *s)
{
	unsigned int before = load(&arms);

	assert_int_equal(pthread_create(&s->thread, NULL, sleep_run, s), 0);
	await(&arms, before + 1);
	/* He armed under the lock, and let go of it to sleep. */
	virtq_pool_room(s->r->pool);
}

void sleeper_start(struct sleeper *s, struct rig *r, bool takes)
{
	*s = (struct sleeper){ .r = r, .wait = forever, .takes = takes, .bytes = 8 };
	sleeper_run(s);
}

void sleeper_start_for(struct sleeper *s, struct rig *r, uint32_t bytes)
{
	*s = (struct sleeper){ .r = r, .wait = forever, .bytes = bytes };
	sleeper_run(s);
}

void sleeper_end(struct sleeper *s, int rc)
{
	await(&s->done, 1);
	pthread_join(s->thread, NULL);
	assert_int_equal(s->rc, rc);
}

void serve_quietly(struct rig *r)
{
	struct virtq_req *req;

	assert_int_equal(virtq_device_pop(r->far.device, &req, 1), 1);
	virtq_device_push(r->far.device, &req, 1);
	virtq_device_publish(r->far.device);
}
