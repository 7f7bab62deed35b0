/* SPDX-License-Identifier: MIT */
/*
 * The split ring between two processors: both ends of src/ring/split.h, each
 * access in the order of the code, under the code's names. A ring of two
 * entries and indices modulo 4, so that everything wraps; batches of one and
 * two; it runs for ever. The ends behave as virtq_driver_*() and
 * virtq_device_*() let them: the driver adds, publishes and gets as it likes
 * and sleeps only after arming; the device pops and publishes as it likes and
 * sleeps, with nothing popped, only after arming.
 *
 * -DEVENT_IDX=0 or 1; -DCUT_... takes one order out (cuts.h).
 */
#define SIZE		2
#define IDX(x)		((x) & 3)	/* stands for (uint16_t) */
#define SLOT(idx)	((idx) & (SIZE - 1))

/* The shared cells. A descriptor is one; its content is the index it was made available at. */
#define DESC(i)		(i)
#define AVAIL_ENTRY(i)	(SIZE + (i))
#define USED_ENTRY(i)	(2 * SIZE + (i))
#define DATA(i)		(3 * SIZE + (i))	/* the device's answer, by head */
#define AVAIL_IDX	(4 * SIZE)
#define AVAIL_FLAGS	(4 * SIZE + 1)
#define USED_IDX	(4 * SIZE + 2)
#define USED_FLAGS	(4 * SIZE + 3)
#if EVENT_IDX
#define USED_EVENT	AVAIL_FLAGS		/* the flags stay 0 then: no cell for them */
#define AVAIL_EVENT	USED_FLAGS
#endif
#define CELLS		(4 * SIZE + 4)
#define DEPTH		4

#include "cuts.h"
#include "memory.pml"

#define NO_NOTIFY	1
#define NO_INTERRUPT	1

#define WISH_UNKNOWN	0
#define WISH_ARMED	1
#define WISH_DISARMED	2

#define NOT_IN_FLIGHT	255

/* event.h */
#define event_crossed(event, now, old)	(IDX((now) - (event) - 1) < IDX((now) - (old)))

byte used_seen, avail_seen;	/* the driver's, the device's; here for the watch */

/* What must not happen. */
bit device_saw_old_data, driver_saw_old_data, kick_lost, call_lost;

/* ---- Driver end --------------------------------------------------------- */

active proctype driver()
{
	byte avail_idx, avail_decided;
	byte free_head, next[SIZE] = 1, room = SIZE;
	byte wish = WISH_ARMED;			/* split_driver_reset(), fresh; decided is true */
	byte head, ready, seen;
	bool kick;

	do
	:: atomic {
		/* virtq_driver_add(): split_driver_stage() */
		room > 0 ->
stage:		head = free_head;
		free_head = next[head];
		next[head] = 0;
		shm_store(DRIVER, DESC(head), avail_idx)
	   }
	   atomic {
		shm_store(DRIVER, AVAIL_ENTRY(SLOT(avail_idx)), head);
		head = 0;
		avail_idx = IDX(avail_idx + 1);
		room--;
		if
		:: room > 0 -> goto stage
		:: true
		fi
	   }
	   atomic {
		/* virtq_driver_publish(): split_driver_publish() */
		store_release_A(DRIVER, AVAIL_IDX, avail_idx)
	   }
	   /* split_driver_needs_kick() */
	   fence_C_driver();
	   atomic {
#if EVENT_IDX
		shm_load(DRIVER, AVAIL_EVENT, seen);
		kick = event_crossed(seen, avail_idx, avail_decided);
#else
		shm_load(DRIVER, USED_FLAGS, seen);
		kick = !(seen & NO_NOTIFY);
#endif
		avail_decided = avail_idx;
		seen = 0;
		if
		:: kick -> kick = false; send_signal(DRIVER, DEVICE)
		:: else
		fi
	   }
	:: atomic {
		/* virtq_driver_get(): split_driver_ready() */
		room < SIZE ->
		load_acquire_B(DRIVER, USED_IDX, ready);
		ready = IDX(ready - used_seen);
		if
		:: ready == 0 -> goto arm
		:: else
		fi
	   }
	   do
	   :: atomic {
		/* split_driver_reap() */
		shm_load(DRIVER, USED_ENTRY(SLOT(used_seen)), head)
	      }
	      atomic {
		/* complete_one(), and the caller's look at the data */
		shm_load(DRIVER, DATA(head), seen);
		driver_saw_old_data = seen != used_seen;
		assert(!driver_saw_old_data);
		seen = 0;
		used_seen = IDX(used_seen + 1);
		/* split_driver_release() */
		next[head] = free_head;
		free_head = head;
		head = 0;
		room++;
		ready--;
		if
		:: ready == 0 -> break
		:: else
		fi
	      }
	   od
	:: false ->
arm:	   /* virtq_driver_arm(): split_driver_arm() */
	   atomic {
#if EVENT_IDX
		shm_store(DRIVER, USED_EVENT, used_seen);
#else
		if
		:: wish != WISH_ARMED -> shm_store(DRIVER, AVAIL_FLAGS, 0)
		:: else
		fi;
#endif
		wish = WISH_ARMED
	   }
	   fence_D_driver();
	   atomic {
		shm_load(DRIVER, USED_IDX, seen);
		if
		:: recheck_D(seen != used_seen) -> seen = 0; goto again
		:: else -> seen = 0
		fi
	   }
	   sleep_until_signal(DRIVER);
	   atomic {
		/* virtq_driver_disarm(): split_driver_disarm() */
#if !EVENT_IDX
		shm_store(DRIVER, AVAIL_FLAGS, NO_INTERRUPT);
#endif
		wish = WISH_DISARMED
	   }
again:	   skip
	od
}

/* ---- Device end --------------------------------------------------------- */

active proctype device()
{
	byte avail_known, used_idx, used_published, used_decided;
	bool decided;				/* split_device_reset(): false */
	byte wish = WISH_UNKNOWN;
	byte head, ready, seen;
	bool call;

	do
	:: atomic {
		/* virtq_device_pop(): split_device_ready() */
		ready = IDX(avail_known - avail_seen);
		if
		:: ready == 0 ->
			load_acquire_A(DEVICE, AVAIL_IDX, avail_known);
			ready = IDX(avail_known - avail_seen)
		:: else
		fi;
		if
		:: ready == 0 && used_idx == used_published -> goto arm
		:: ready == 0 && used_idx != used_published -> goto publish
		:: else -> ready = 0
		fi
	   }
	   atomic {
		/* split_device_head() */
		shm_load(DEVICE, AVAIL_ENTRY(SLOT(avail_seen)), head)
	   }
	   atomic {
		/* split_desc_load() */
		shm_load(DEVICE, DESC(head), seen);
		device_saw_old_data = seen != avail_seen;
		assert(!device_saw_old_data);
		avail_seen = IDX(avail_seen + 1)
	   }
	   atomic {
		/* The request is done, its answer written. */
		shm_store(DEVICE, DATA(head), seen);
		seen = 0
	   }
	   atomic {
		/* virtq_device_push(): split_device_stage() */
		shm_store(DEVICE, USED_ENTRY(SLOT(used_idx)), head);
		head = 0;
		used_idx = IDX(used_idx + 1);
		if
		:: goto again
		:: true
		fi
	   }
publish:   atomic {
		/* virtq_device_publish(): split_device_publish() */
		store_release_B(DEVICE, USED_IDX, used_idx);
		used_published = used_idx
	   }
	   /* split_device_needs_call() */
	   fence_D_device();
	   atomic {
#if EVENT_IDX
		shm_load(DEVICE, USED_EVENT, seen);
		call = !decided || event_crossed(seen, used_idx, used_decided);
#else
		shm_load(DEVICE, AVAIL_FLAGS, seen);
		call = !(seen & NO_INTERRUPT);
#endif
		decided = true;
		used_decided = used_idx;
		seen = 0;
		if
		:: call -> call = false; send_signal(DEVICE, DRIVER)
		:: else
		fi
	   }
	:: false ->
arm:	   atomic {
		/* virtq_device_arm(): split_device_arm() */
#if EVENT_IDX
		shm_store(DEVICE, AVAIL_EVENT, avail_seen);
#else
		if
		:: wish != WISH_ARMED -> shm_store(DEVICE, USED_FLAGS, 0)
		:: else
		fi;
#endif
		wish = WISH_ARMED
	   }
	   fence_C_device();
	   atomic {
		shm_load(DEVICE, AVAIL_IDX, seen);
		if
		:: recheck_C(seen != avail_seen) -> seen = 0; goto again
		:: else -> seen = 0
		fi
	   }
	   sleep_until_signal(DEVICE);
	   atomic {
		/* virtq_device_disarm(): split_device_disarm() */
#if !EVENT_IDX
		shm_store(DEVICE, USED_FLAGS, NO_NOTIFY);
#endif
		wish = WISH_DISARMED
	   }
again:	   skip
	od
}

/* ---- The watch ---------------------------------------------------------- */

/* Nobody can move: both ends sleep, and no signal is under way. */
active proctype watch()
{
	d_step {
		timeout ->
		kick_lost = mem[AVAIL_IDX] != avail_seen;
		call_lost = mem[USED_IDX] != used_seen;
		assert(!kick_lost);
		assert(!call_lost)
	}
}
