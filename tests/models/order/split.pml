/* SPDX-License-Identifier: MIT */
/*
 * The split ring between two processors: both ends of src/ring/split.h, each
 * access in the order of the code, under the code's names. A ring of two
 * entries and indices modulo 8, so that everything wraps; it runs for ever.
 *
 * The ends do what virtq_driver_*() and virtq_device_*() let them do. The
 * driver adds one or two chains and publishes, or gets what is used, as it
 * likes, and when there is nothing to get it arms and sleeps. The device pops,
 * pushes, and publishes after one or two; when there is nothing to pop it arms
 * and sleeps.
 *
 * Each `atomic` is one load or fence with the stores and the private work that
 * come after it. Several stores may be one step, because they only enter the
 * buffer, into which nobody else looks; they drain one by one, whenever.
 *
 * Left out: what no order depends on. Heads are given out in turn and not from
 * the free list, and every cell holds the index of the chain that it was
 * written for, from which its head follows, so that an old one is known. Chains
 * are used in order.
 *
 * S-DRV-028, S-DRV-029, S-DRV-031, S-DEV-020, S-DEV-021, N-DRV-012, N-DEV-013,
 * N-DEV-014.
 *
 * -DEVENT_IDX=0 or 1, -DWEAK (memory.pml), -DCUT_... (cuts.h); with
 * -DDRIVER_POLLS or -DDEVICE_POLLS that end looks and looks and never sleeps.
 */
#define SIZE		2
#define IDX(x)		((x) & 7)	/* stands for (uint16_t) */
#define SLOT(idx)	((idx) & (SIZE - 1))
#define HEAD(idx)	SLOT(idx)

#define DESC(head)	(head)
#define DATA(head)	(SIZE + (head))		/* what the device writes into the buffer */
#define AVAIL_ENTRY(i)	(2 * SIZE + (i))
#define USED_ENTRY(i)	(3 * SIZE + (i))
#define AVAIL_IDX	(4 * SIZE)
#define USED_IDX	(4 * SIZE + 1)
#define AVAIL_FLAGS	(4 * SIZE + 2)
#define USED_FLAGS	(4 * SIZE + 3)
#define USED_EVENT	(4 * SIZE + 4)
#define AVAIL_EVENT	(4 * SIZE + 5)
#define CELLS		(4 * SIZE + 6)
#define DEPTH		6

inline tell_cell(at)
{
	if
	:: at < SIZE -> printf("desc[%d]", at)
	:: at >= SIZE && at < 2 * SIZE -> printf("data[%d]", at - SIZE)
	:: at >= 2 * SIZE && at < 3 * SIZE -> printf("avail.ring[%d]", at - 2 * SIZE)
	:: at >= 3 * SIZE && at < 4 * SIZE -> printf("used.ring[%d]", at - 3 * SIZE)
	:: at == AVAIL_IDX -> printf("avail.idx")
	:: at == USED_IDX -> printf("used.idx")
	:: at == AVAIL_FLAGS -> printf("avail.flags")
	:: at == USED_FLAGS -> printf("used.flags")
	:: at == USED_EVENT -> printf("used_event")
	:: at == AVAIL_EVENT -> printf("avail_event")
	fi
}

#include "cuts.h"
#include "memory.pml"

#define NO_NOTIFY	1
#define NO_INTERRUPT	1

#define WISH_UNKNOWN	0
#define WISH_ARMED	1
#define WISH_DISARMED	2

#define event_crossed(event, now, old)	(IDX((now) - (event) - 1) < IDX((now) - (old)))

byte used_seen;		/* the driver's */
byte avail_seen;	/* the device's; both here for the watch */

/* What must not happen. */
bit device_saw_old_data, driver_saw_old_data, kick_lost, call_lost;

/* ---- Driver end --------------------------------------------------------- */

active proctype driver()
{
	byte avail_idx, avail_decided;
	byte wish = WISH_ARMED;		/* split_driver_reset(): fresh, and so decided */
	byte room = SIZE, ready, seen;

again:
	if
	:: atomic {
		/* virtq_driver_add(): split_driver_stage(): split_desc_store() */
		room > 0 ->
add:		shm_store(DRIVER, DESC(HEAD(avail_idx)), avail_idx);
		shm_store(DRIVER, AVAIL_ENTRY(SLOT(avail_idx)), avail_idx);
		avail_idx = IDX(avail_idx + 1);
		room--;
		if
		:: room > 0 -> goto add
		:: true
		fi;
		/* virtq_driver_publish(): split_driver_publish() */
		shm_publish_A(DRIVER, AVAIL_IDX, avail_idx)
	};
	/* split_driver_needs_kick() */
	fence_C_driver();
	atomic {
#if EVENT_IDX
		shm_load(DRIVER, AVAIL_EVENT, seen);
		if
		:: event_crossed(seen, avail_idx, avail_decided) -> send_signal(DRIVER, DEVICE)
		:: else
		fi;
#else
		shm_load(DRIVER, USED_FLAGS, seen);
		if
		:: !(seen & NO_NOTIFY) -> send_signal(DRIVER, DEVICE)
		:: else
		fi;
#endif
		avail_decided = avail_idx;
		seen = 0;
		goto again
	}

	:: atomic {
		/* virtq_driver_get(): split_driver_ready() */
		room < SIZE ->
		shm_observe_B(DRIVER, USED_IDX, ready);
		ready = IDX(ready - used_seen);
		if
		:: ready == 0 -> goto arm
		:: else
		fi
	};
reap:	atomic {
		/* split_driver_reap() */
		shm_load(DRIVER, USED_ENTRY(SLOT(used_seen)), seen);
		driver_saw_old_data = seen != used_seen;
		assert(!driver_saw_old_data)
	};
	atomic {
		/* complete(), and the caller's look at the data */
		shm_load(DRIVER, DATA(HEAD(seen)), seen);
		driver_saw_old_data = seen != used_seen;
		assert(!driver_saw_old_data);
		seen = 0;
		used_seen = IDX(used_seen + 1);
		room++;
		ready--;
		if
		:: ready > 0 -> goto reap
		:: else -> goto again
		fi
	}
	fi;

arm:
#ifdef DRIVER_POLLS
	mem[USED_IDX] != used_seen -> goto again;
#else
	atomic {
		/* virtq_driver_arm(): split_driver_arm() */
#if EVENT_IDX
		shm_store(DRIVER, USED_EVENT, used_seen);
#else
		if
		:: wish != WISH_ARMED -> shm_store(DRIVER, AVAIL_FLAGS, 0)
		:: else
		fi;
#endif
		wish = WISH_ARMED
	};
	fence_D_driver();
	atomic {
		shm_load(DRIVER, USED_IDX, seen);
		if
		:: recheck_D(seen != used_seen) -> seen = 0; goto again
		:: else -> seen = 0
		fi
	};
	atomic {
		sleep_until_signal(DRIVER);
		/* virtq_driver_disarm(): split_driver_disarm() */
#if EVENT_IDX
		shm_store(DRIVER, USED_EVENT, IDX(used_seen - 1));
#else
		shm_store(DRIVER, AVAIL_FLAGS, NO_INTERRUPT);
#endif
		wish = WISH_DISARMED;
		goto again
	}
#endif
}

/* ---- Device end --------------------------------------------------------- */

active proctype device()
{
	byte avail_known, used_idx, used_published, used_decided;
	bool decided;			/* split_device_reset(): false, the first call is sent */
	byte wish = WISH_UNKNOWN;
	byte ready, seen;

again:
	atomic {
		/* virtq_device_pop(): split_device_ready() */
		ready = IDX(avail_known - avail_seen);
		if
		:: ready == 0 ->
			shm_observe_A(DEVICE, AVAIL_IDX, avail_known);
			ready = IDX(avail_known - avail_seen)
		:: else
		fi;
		if
		:: ready > 0 -> ready = 0
		:: ready == 0 && used_idx != used_published -> goto publish
		:: ready == 0 && used_idx == used_published -> goto arm
		fi
	};
	atomic {
		/* split_device_head() */
		shm_load(DEVICE, AVAIL_ENTRY(SLOT(avail_seen)), seen);
		device_saw_old_data = seen != avail_seen;
		assert(!device_saw_old_data)
	};
	atomic {
		/* split_desc_load() */
		shm_load(DEVICE, DESC(HEAD(seen)), seen);
		device_saw_old_data = seen != avail_seen;
		assert(!device_saw_old_data);
		avail_seen = IDX(avail_seen + 1);
		/* The request is performed: its answer goes into the buffer. */
		shm_store(DEVICE, DATA(HEAD(seen)), seen);
		/* virtq_device_push(): split_device_stage() */
		shm_store(DEVICE, USED_ENTRY(SLOT(used_idx)), seen);
		seen = 0;
		used_idx = IDX(used_idx + 1);
		if
		:: goto again
		:: true
		fi;
publish:
		/* virtq_device_publish(): split_device_publish() */
		shm_publish_B(DEVICE, USED_IDX, used_idx);
		used_published = used_idx
	};
	/* split_device_needs_call() */
	fence_D_device();
	atomic {
#if EVENT_IDX
		shm_load(DEVICE, USED_EVENT, seen);
		if
		:: !decided || event_crossed(seen, used_idx, used_decided) ->
			send_signal(DEVICE, DRIVER)
		:: else
		fi;
#else
		shm_load(DEVICE, AVAIL_FLAGS, seen);
		if
		:: !(seen & NO_INTERRUPT) -> send_signal(DEVICE, DRIVER)
		:: else
		fi;
#endif
		used_decided = used_idx;
		decided = true;
		seen = 0;
		goto again
	};

arm:
#ifdef DEVICE_POLLS
	mem[AVAIL_IDX] != avail_seen -> goto again;
#else
	atomic {
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
	};
	fence_C_device();
	atomic {
		shm_load(DEVICE, AVAIL_IDX, seen);
		if
		:: recheck_C(seen != avail_seen) -> seen = 0; goto again
		:: else -> seen = 0
		fi
	};
	atomic {
		sleep_until_signal(DEVICE);
		/* virtq_device_disarm(): split_device_disarm() */
#if EVENT_IDX
		shm_store(DEVICE, AVAIL_EVENT, IDX(avail_seen - 1));
#else
		shm_store(DEVICE, USED_FLAGS, NO_NOTIFY);
#endif
		wish = WISH_DISARMED;
		goto again
	}
#endif
}

/* ---- The watch ---------------------------------------------------------- */

active proctype watch()
{
	/* Nobody can move: both ends sleep, no store and no signal is under way. */
	timeout;
	d_step {
		kick_lost = mem[AVAIL_IDX] != avail_seen;
		call_lost = mem[USED_IDX] != used_seen;
		assert(!kick_lost);
		assert(!call_lost)
	}
}
