/* SPDX-License-Identifier: MIT */
/*
 * The packed ring between two processors: both ends of src/ring/packed.h with
 * packed_event_wanted() of src/ring/event.h and walk_packed() of
 * src/ring/chain.h, each access in the order of the code, under the code's
 * names. It runs for ever, round and round the ring.
 *
 * The ends do what virtq_driver_*() and virtq_device_*() let them do, as in
 * split.pml, and each `atomic` is as there.
 *
 * A ring of two slots and lists of one descriptor, published one or two at
 * once. -DSIZE=3 makes three slots, -DLISTS lists of one or two; -DONE_BY_ONE
 * publishes each alone, -DONE_IN_FLIGHT only when the one before is back.
 *
 * Left out: what no order depends on. A list's id is its head's position, slot
 * and wrap bit, and every cell of its descriptors and its data holds that or
 * its own position, so that an old one is known. Lists are used in order.
 *
 * P-DRV-013, P-DRV-014, P-DRV-026, P-DEV-018, P-DEV-019, N-DRV-016, N-DRV-021,
 * N-DRV-022, N-DEV-018, N-DEV-020.
 *
 * -DEVENT_IDX=0 or 1, -DWEAK (memory.pml), -DCUT_... (cuts.h),
 * -DDRIVER_POLLS, -DDEVICE_POLLS (as in split.pml).
 * The event structure's two halves: -DCUT_EVENT_RELEASE takes the fence between
 * their stores out, -DTWO_LOADS reads them one by one, and -DWATCH_EVENT
 * numbers the times of arming, so that flags which speak of a newer offset than
 * the one read with them are noticed.
 */
#ifndef SIZE
#define SIZE		2
#endif

#define ADDR(slot)	(slot)			/* of a descriptor: addr, and the driver's len */
#define ID(slot)	(SIZE + (slot))		/* id, and the device's len */
#define FLAGS(slot)	(2 * SIZE + (slot))
#define DATA(slot)	(3 * SIZE + (slot))	/* what the device writes into the buffer */
#define DRIVER_OFF_WRAP	(4 * SIZE)		/* the driver's event structure */
#define DRIVER_FLAGS	(4 * SIZE + 1)
#define DEVICE_OFF_WRAP	(4 * SIZE + 2)		/* the device's */
#define DEVICE_FLAGS	(4 * SIZE + 3)
#define CELLS		(4 * SIZE + 4)
#define DEPTH		(3 * SIZE + 1)

inline tell_cell(at)
{
	if
	:: at < SIZE -> printf("desc[%d].addr", at)
	:: at >= SIZE && at < 2 * SIZE -> printf("desc[%d].id", at - SIZE)
	:: at >= 2 * SIZE && at < 3 * SIZE -> printf("desc[%d].flags", at - 2 * SIZE)
	:: at >= 3 * SIZE && at < 4 * SIZE -> printf("data[%d]", at - 3 * SIZE)
	:: at == DRIVER_OFF_WRAP -> printf("driver_event.off_wrap")
	:: at == DRIVER_FLAGS -> printf("driver_event.flags")
	:: at == DEVICE_OFF_WRAP -> printf("device_event.off_wrap")
	:: at == DEVICE_FLAGS -> printf("device_event.flags")
	:: at == CELLS -> printf("a release fence")
	fi
}

#include "cuts.h"
#include "memory.pml"

/* Bits of a descriptor's flags. */
#define AVAIL		1
#define USED		2
#define NEXT		4

#define BY_DEVICE	64	/* in an ID cell */

#define EVENT_ENABLE	0
#define EVENT_DISABLE	1
#define EVENT_DESC	2

#define WISH_UNKNOWN	0
#define WISH_ARMED	1
#define WISH_DISARMED	2

#ifdef ONE_IN_FLIGHT
#define ONE_BY_ONE
#define MAY_ADD		(room == SIZE)
#else
#define MAY_ADD		(room > 0)
#endif

#define U16(x)		((x) & 65535)

typedef cursor {
	byte slot;
	bit wrap;
};

#define packed_off_wrap(at)		((at.slot) | ((at.wrap) << 7))
#define packed_avail_flags(wrap)	(wrap -> AVAIL : USED)
#define packed_used_flags(wrap)		(wrap -> AVAIL + USED : 0)
#define packed_is_avail(flags, at)	(((flags) & 3) == packed_avail_flags(at.wrap))
#define packed_is_used(flags, at)	(((flags) & 3) == packed_used_flags(at.wrap))

inline packed_advance(at, n)
{
	at.slot = at.slot + n;
	if
	:: at.slot >= SIZE -> at.slot = at.slot - SIZE; at.wrap = 1 - at.wrap
	:: else
	fi
}

/*
 * event.h: what packed_event_wanted() says of @moved slots that end before @now,
 * and event_crossed() inside it, in the code's own 16-bit arithmetic.
 */
#define EVENT_SLOT(off_wrap, now) \
	(((off_wrap) & 15) - (((off_wrap) >> 7) != now.wrap -> SIZE : 0))
#define event_crossed(event, now, moved) \
	(U16((now.slot) - U16(event) - 1) < U16((now.slot) - U16((now.slot) - (moved))))
#define packed_event_wanted(off_wrap, flags, now, moved) \
	((flags) != EVENT_DISABLE && \
	 ((flags) != EVENT_DESC || !EVENT_IDX || ((off_wrap) & 15) >= SIZE || (moved) > SIZE || \
	  event_crossed(EVENT_SLOT(off_wrap, now), now, moved)))

#ifdef WATCH_EVENT
#define NUMBERED(x, n)	((x) | ((n) << 4))
#define PLAIN(x)	((x) & ~48)
#define NUMBER(x)	(((x) >> 4) & 3)
byte times_armed[2];
#else
#define NUMBERED(x, n)	(x)
#define PLAIN(x)	(x)
#endif

cursor drv_used;	/* the driver's: next slot that the device will mark used */
cursor dev_avail;	/* the device's: next slot to take; both here for the watch */

/* What must not happen. */
bit device_saw_old_data, driver_saw_old_data, kick_lost, call_lost, offset_older_than_flags;

/* ---- The event structures ------------------------------------------------ */

/* packed_event_store(own, RING_EVENT_FLAGS_DESC, off_wrap) */
inline packed_event_store_desc(who, off_cell, flags_cell, off_wrap)
{
#ifdef WATCH_EVENT
	times_armed[who] = (times_armed[who] + 1) & 3;
#endif
	shm_store(who, off_cell, NUMBERED(off_wrap, times_armed[who]));
#ifndef CUT_EVENT_RELEASE
	shm_fence_release(who);
#endif
	shm_store(who, flags_cell, NUMBERED(EVENT_DESC, times_armed[who]))
}

/* packed_event_store(own, flags, 0) */
inline packed_event_store(who, flags_cell, flags)
{
	shm_store(who, flags_cell, NUMBERED(flags, times_armed[who]))
}

/* The load of packed_event_wanted(); one of its own for the offset only with -DTWO_LOADS. */
inline packed_event_load(who, off_cell, off_wrap, flags_cell, flags)
{
#ifdef TWO_LOADS
	shm_load(who, flags_cell, flags);
#else
	shm_load_both(who, off_cell, off_wrap, flags_cell, flags);
#endif
#ifdef WATCH_EVENT
	offset_older_than_flags = PLAIN(flags) == EVENT_DESC &&
				  NUMBER(flags) == ((NUMBER(off_wrap) + 1) & 3);
	assert(!offset_older_than_flags);
	off_wrap = PLAIN(off_wrap);
	flags = PLAIN(flags);
#endif
}

/* ---- Driver end --------------------------------------------------------- */

active proctype driver()
{
	cursor avail;
	byte room = SIZE, moved;
	byte wish = WISH_ARMED;		/* packed_driver_reset(): fresh, and so decided */
	bit staged;
	byte staged_slot, staged_flags;
	byte id, head_slot, head_flags, flags, off_wrap;
#ifdef LISTS
	byte entries[SIZE];		/* struct chain, by id */
#endif

	atomic {
		avail.wrap = 1;
		drv_used.wrap = 1
	};
again:
	if
	:: atomic {
		/* virtq_driver_add(): packed_driver_stage() */
		MAY_ADD ->
add:		id = packed_off_wrap(avail);
		head_slot = avail.slot;
		head_flags = packed_avail_flags(avail.wrap);
		shm_store(DRIVER, ADDR(avail.slot), id);
		shm_store(DRIVER, ID(avail.slot), id);
		packed_advance(avail, 1);
		room--;
		moved++;
#ifdef LISTS
		entries[head_slot] = 1;
		if
		:: room > 0 ->
			head_flags = head_flags | NEXT;
			shm_store(DRIVER, ADDR(avail.slot), packed_off_wrap(avail));
			shm_store(DRIVER, ID(avail.slot), id);
			shm_store(DRIVER, FLAGS(avail.slot), packed_avail_flags(avail.wrap));
			packed_advance(avail, 1);
			room--;
			moved++;
			entries[head_slot] = 2
		:: true
		fi;
#endif
		if
		:: !staged -> staged = 1; staged_slot = head_slot; staged_flags = head_flags
		:: else -> shm_store(DRIVER, FLAGS(head_slot), head_flags)
		fi;
		id = 0;
		head_slot = 0;
		head_flags = 0;
#ifndef ONE_BY_ONE
		if
		:: room > 0 -> goto add
		:: true
		fi;
#endif
		/* virtq_driver_publish(): packed_driver_publish() */
		shm_publish_A(DRIVER, FLAGS(staged_slot), staged_flags);
		staged = 0;
		staged_slot = 0;
		staged_flags = 0
	};
	/* packed_driver_needs_kick() */
	fence_C_driver();
#ifdef TWO_LOADS
	shm_load(DRIVER, DEVICE_OFF_WRAP, off_wrap);
#endif
	atomic {
		packed_event_load(DRIVER, DEVICE_OFF_WRAP, off_wrap, DEVICE_FLAGS, flags);
		if
		:: packed_event_wanted(off_wrap, flags, avail, moved) ->
			send_signal(DRIVER, DEVICE)
		:: else
		fi;
		moved = 0;
		off_wrap = 0;
		flags = 0;
		goto again
	}

	:: atomic {
		/* virtq_driver_get(): packed_driver_reap() */
		room < SIZE ->
reap:		shm_observe_B(DRIVER, FLAGS(drv_used.slot), flags);
		if
		:: !packed_is_used(flags, drv_used) -> flags = 0; goto arm
		:: else -> flags = 0
		fi
	};
	atomic {
		shm_load(DRIVER, ID(drv_used.slot), id);
		driver_saw_old_data = id != (packed_off_wrap(drv_used) | BY_DEVICE);
		assert(!driver_saw_old_data)
	};
	atomic {
		/* complete(), and the caller's look at the data */
		shm_load(DRIVER, DATA(id & 15), id);
		driver_saw_old_data = id != packed_off_wrap(drv_used);
		assert(!driver_saw_old_data);
#ifdef LISTS
		id = id & 15;
		room = room + entries[id];
		/* packed_driver_skip() */
		packed_advance(drv_used, entries[id]);
		entries[id] = 0;
#else
		room++;
		packed_advance(drv_used, 1);
#endif
		id = 0;
		if
		:: room < SIZE -> goto reap
		:: goto again
		fi
	}
	fi;

arm:
#ifdef DRIVER_POLLS
	packed_is_used(mem[FLAGS(drv_used.slot)], drv_used) -> goto again;
#else
	atomic {
		/* virtq_driver_arm(): packed_driver_arm() */
#if EVENT_IDX
		packed_event_store_desc(DRIVER, DRIVER_OFF_WRAP, DRIVER_FLAGS,
					packed_off_wrap(drv_used));
#else
		if
		:: wish != WISH_ARMED -> packed_event_store(DRIVER, DRIVER_FLAGS, EVENT_ENABLE)
		:: else
		fi;
#endif
		wish = WISH_ARMED
	};
	fence_D_driver();
	atomic {
		shm_load(DRIVER, FLAGS(drv_used.slot), flags);
		if
		:: recheck_D(packed_is_used(flags, drv_used)) -> flags = 0; goto again
		:: else -> flags = 0
		fi
	};
	atomic {
		sleep_until_signal(DRIVER);
		/* virtq_driver_disarm(): packed_driver_disarm() */
		packed_event_store(DRIVER, DRIVER_FLAGS, EVENT_DISABLE);
		wish = WISH_DISARMED;
		goto again
	}
#endif
}

/* ---- Device end --------------------------------------------------------- */

active proctype device()
{
	cursor used;
	byte moved;
	bool decided;			/* packed_device_reset(): false, the first call is sent */
	byte wish = WISH_UNKNOWN;
	bit staged;
	byte staged_slot, staged_flags;
	byte id, seen, flags, off_wrap, entries = 1;

	atomic {
		used.wrap = 1;
		dev_avail.wrap = 1
	};
again:
	atomic {
		/* virtq_device_pop(): packed_device_flags() */
		shm_observe_A(DEVICE, FLAGS(dev_avail.slot), flags);
		if
		:: packed_is_avail(flags, dev_avail)
		:: !packed_is_avail(flags, dev_avail) && staged -> flags = 0; goto publish
		:: !packed_is_avail(flags, dev_avail) && !staged -> flags = 0; goto arm
		fi
	};
	atomic {
		/* pop_one(): packed_desc_load() */
		shm_load(DEVICE, ADDR(dev_avail.slot), seen);
		device_saw_old_data = seen != packed_off_wrap(dev_avail);
		assert(!device_saw_old_data);
		seen = 0
	};
	atomic {
		shm_load(DEVICE, ID(dev_avail.slot), id);
		device_saw_old_data = id != packed_off_wrap(dev_avail);
		assert(!device_saw_old_data);
		packed_advance(dev_avail, 1);
#ifdef LISTS
		if
		:: flags & NEXT -> flags = 0
		:: else -> flags = 0; goto popped
		fi
	};
	atomic {
		/* walk_packed(): the later member, its flags without an order of their own */
		shm_load(DEVICE, FLAGS(dev_avail.slot), flags);
		device_saw_old_data = !packed_is_avail(flags, dev_avail);
		assert(!device_saw_old_data);
		flags = 0
	};
	atomic {
		shm_load(DEVICE, ADDR(dev_avail.slot), seen);
		device_saw_old_data = seen != packed_off_wrap(dev_avail);
		assert(!device_saw_old_data);
		seen = 0
	};
	atomic {
		shm_load(DEVICE, ID(dev_avail.slot), seen);
		device_saw_old_data = seen != id;
		assert(!device_saw_old_data);
		seen = 0;
		packed_advance(dev_avail, 1);
		entries = 2;
popped:
#else
		flags = 0;
#endif
		/* The request is performed: its answer goes into the buffer. */
		shm_store(DEVICE, DATA(id & 15), id);
		/* virtq_device_push(): packed_device_stage() */
		shm_store(DEVICE, ID(used.slot), id | BY_DEVICE);
		id = 0;
		if
		:: !staged ->
			staged = 1;
			staged_slot = used.slot;
			staged_flags = packed_used_flags(used.wrap)
		:: else ->
			shm_store(DEVICE, FLAGS(used.slot), packed_used_flags(used.wrap))
		fi;
		packed_advance(used, entries);
		moved = moved + entries;
		entries = 1;
		if
		:: goto again
		:: true
		fi;
publish:
		/* virtq_device_publish(): packed_device_publish() */
		shm_publish_B(DEVICE, FLAGS(staged_slot), staged_flags);
		staged = 0;
		staged_slot = 0;
		staged_flags = 0
	};
	/* packed_device_needs_call() */
	fence_D_device();
#ifdef TWO_LOADS
	shm_load(DEVICE, DRIVER_OFF_WRAP, off_wrap);
#endif
	atomic {
		packed_event_load(DEVICE, DRIVER_OFF_WRAP, off_wrap, DRIVER_FLAGS, flags);
		if
		:: !decided -> moved = SIZE + 1
		:: else
		fi;
		if
		:: packed_event_wanted(off_wrap, flags, used, moved) -> send_signal(DEVICE, DRIVER)
		:: else
		fi;
		moved = 0;
		decided = true;
		off_wrap = 0;
		flags = 0;
		goto again
	};

arm:
#ifdef DEVICE_POLLS
	packed_is_avail(mem[FLAGS(dev_avail.slot)], dev_avail) -> goto again;
#else
	atomic {
		/* virtq_device_arm(): packed_device_arm() */
#if EVENT_IDX
		packed_event_store_desc(DEVICE, DEVICE_OFF_WRAP, DEVICE_FLAGS,
					packed_off_wrap(dev_avail));
#else
		if
		:: wish != WISH_ARMED -> packed_event_store(DEVICE, DEVICE_FLAGS, EVENT_ENABLE)
		:: else
		fi;
#endif
		wish = WISH_ARMED
	};
	fence_C_device();
	atomic {
		/* packed_device_flags() */
		shm_observe_A(DEVICE, FLAGS(dev_avail.slot), flags);
		if
		:: recheck_C(packed_is_avail(flags, dev_avail)) -> flags = 0; goto again
		:: else -> flags = 0
		fi
	};
	atomic {
		sleep_until_signal(DEVICE);
		/* virtq_device_disarm(): packed_device_disarm() */
		packed_event_store(DEVICE, DEVICE_FLAGS, EVENT_DISABLE);
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
		kick_lost = packed_is_avail(mem[FLAGS(dev_avail.slot)], dev_avail);
		call_lost = packed_is_used(mem[FLAGS(drv_used.slot)], drv_used);
		assert(!kick_lost);
		assert(!call_lost)
	}
}
