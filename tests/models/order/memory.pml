/* SPDX-License-Identifier: MIT */
/*
 * Two processors on one memory, for the models beside it: mem[] is what both
 * share, and between a processor and mem[] lies its store buffer. A processor
 * reads its own buffered stores before memory.
 *
 * Two machines. The default is x86: a buffer drains in order, at any time, and
 * loads are done in order; release and acquire are then nothing. With -DWEAK
 * stores to different cells drain in any order unless a release or a release
 * fence holds them back, and a load may give an old value, namely what the
 * cell held when this processor last looked; an acquire or a full fence brings
 * everything up to date. It does not even honour a load whose address comes
 * from another load, as the weakest machine that Linux has run on. What it does
 * not do: it delays no load past a later store, an acquire that returns an old
 * value still brings the rest up to date, and the compiler is not in it.
 *
 * A signal is an eventfd: a flag that stays until a sleeper takes it. Where an
 * order has been cut out (CUT) a signal is a full fence at both ends, as the
 * system call is, so that what is found is not the doing of the signal. Where
 * nothing is cut it orders nothing, so that what holds does not rest on it.
 *
 * The model that includes this defines CELLS, and DEPTH, the room in a buffer:
 * enough that without cuts it is never full, which is asserted, so that no
 * delay is left out. (With a cut, where no fence may empty it, a full one waits.)
 */

#define DRIVER	0
#define DEVICE	1
#define FENCE	CELLS	/* in a buffer: a release fence, no store */

typedef store_buffer {
	byte count;
	byte cell[DEPTH];
	byte value[DEPTH];
#ifdef WEAK
	bit last[DEPTH];	/* may drain only when everything before it has */
#endif
};

byte mem[CELLS];
store_buffer sb[2];
bit signalled[2];
bit buffer_full;		/* must not happen */
#ifdef WEAK
byte view[2 * CELLS];		/* what each processor last saw of each cell */
#endif
byte k;				/* counts inside one indivisible step, 0 outside */

/* With -DSHOW, for run.sh --show: what happens, in two columns. */
#ifdef SHOW
inline tell_who(who)
{
	if
	:: who == DEVICE -> printf("                                        device")
	:: else -> printf("driver")
	fi
}
#define TELL(who, event) tell_who(who); printf(event);
#define TELL_CELL(who, access, at, value) \
	tell_who(who); printf(access); tell_cell(at); printf(" = %d\n", value);
#else
#define TELL(who, event)
#define TELL_CELL(who, access, at, value)
#endif

/* ---- The machine's side ------------------------------------------------- */

inline drain_entry(who, i)
{
	if
	:: sb[who].cell[i] != FENCE ->
		TELL_CELL(who, "'s buffer drains: ", sb[who].cell[i], sb[who].value[i])
		mem[sb[who].cell[i]] = sb[who].value[i];
#ifdef WEAK
		view[(who) * CELLS + sb[who].cell[i]] = sb[who].value[i]
#endif
	:: else
	fi;
	sb[who].count--;
	k = i;
	do
	:: k < sb[who].count ->
		sb[who].cell[k] = sb[who].cell[k + 1];
		sb[who].value[k] = sb[who].value[k + 1];
#ifdef WEAK
		sb[who].last[k] = sb[who].last[k + 1];
#endif
		k++
	:: else ->
		break
	od;
	sb[who].cell[k] = 0;
	sb[who].value[k] = 0;
#ifdef WEAK
	sb[who].last[k] = 0;
#endif
	k = 0
}

#ifdef WEAK
/* May entry @i drain before entry @j, and those after it that precede @i? */
#define PASS(who, i, j)	(sb[who].cell[j] != sb[who].cell[i] && sb[who].cell[j] != FENCE)
#define FREE(who, i)	(sb[who].count > i && !sb[who].last[i] && PASS(who, i, 0))
#define PASS_1(who, i)	PASS(who, i, 1)
#define PASS_2(who, i)	(PASS(who, i, 2) && PASS_1(who, i))
#define PASS_3(who, i)	(PASS(who, i, 3) && PASS_2(who, i))
#define PASS_4(who, i)	(PASS(who, i, 4) && PASS_3(who, i))
#define PASS_5(who, i)	(PASS(who, i, 5) && PASS_4(who, i))
#define PASS_6(who, i)	(PASS(who, i, 6) && PASS_5(who, i))
#define PASS_7(who, i)	(PASS(who, i, 7) && PASS_6(who, i))
#endif

active [2] proctype drain()
{
	byte who = _pid;	/* the first two processes are these */

end:	do
	:: d_step { sb[who].count > 0 -> drain_entry(who, 0) }
#ifdef WEAK
	:: d_step { FREE(who, 1) -> drain_entry(who, 1) }
	:: d_step { FREE(who, 2) && PASS_1(who, 2) -> drain_entry(who, 2) }
	:: d_step { FREE(who, 3) && PASS_2(who, 3) -> drain_entry(who, 3) }
	:: d_step { FREE(who, 4) && PASS_3(who, 4) -> drain_entry(who, 4) }
	:: d_step { FREE(who, 5) && PASS_4(who, 5) -> drain_entry(who, 5) }
#if DEPTH > 6
	:: d_step { FREE(who, 6) && PASS_5(who, 6) -> drain_entry(who, 6) }
#endif
#if DEPTH > 7
	:: d_step { FREE(who, 7) && PASS_6(who, 7) -> drain_entry(who, 7) }
	:: d_step { FREE(who, 8) && PASS_7(who, 8) -> drain_entry(who, 8) }
#endif
#endif
	od
}

/* ---- What a program may do: the names of src/base/shm.h ------------------ */

inline buffer_store(who, at, what, ordered)
{
	d_step {
#ifdef CUT
		sb[who].count < DEPTH ->
#else
		buffer_full = sb[who].count == DEPTH;
		assert(!buffer_full);
#endif
		TELL_CELL(who, ": store ", at, what)
		sb[who].cell[sb[who].count] = at;
		sb[who].value[sb[who].count] = what;
#ifdef WEAK
		sb[who].last[sb[who].count] = ordered;
#endif
		sb[who].count++
	}
}

#define shm_store(who, at, what)	 buffer_store(who, at, what, 0)
#define shm_store_release(who, at, what) buffer_store(who, at, what, 1)

inline shm_fence_release(who)
{
#ifdef WEAK
	buffer_store(who, FENCE, 0, 1)
#else
	skip
#endif
}

/* Our own newest store to @at, if it is still in the buffer. */
inline forward(who, at, into)
{
	k = 0;
	do
	:: k < sb[who].count ->
		if
		:: sb[who].cell[k] == at -> into = sb[who].value[k]
		:: else
		fi;
		k++
	:: else ->
		break
	od;
	k = 0;
	TELL_CELL(who, ": load ", at, into)
	skip
}

#ifdef WEAK

#define OLD(who, at) (view[(who) * CELLS + (at)] != mem[at])

inline refresh(who)
{
	k = 0;
	do
	:: k < CELLS -> view[(who) * CELLS + k] = mem[k]; k++
	:: else -> break
	od;
	k = 0
}

inline shm_load(who, at, into)
{
	if
	:: d_step {
		view[(who) * CELLS + (at)] = mem[at];
		into = mem[at];
		forward(who, at, into)
	}
	:: d_step {
		OLD(who, at) ->
		into = view[(who) * CELLS + (at)];
		forward(who, at, into)
	}
	fi
}

inline shm_load_acquire(who, at, into)
{
	if
	:: d_step { into = mem[at]; forward(who, at, into); refresh(who) }
	:: d_step {
		OLD(who, at) ->
		into = view[(who) * CELLS + (at)];
		forward(who, at, into);
		refresh(who)
	}
	fi
}

/* One load of two neighbouring cells that the other end writes: both of one moment. */
inline shm_load_both(who, at, into, at2, into2)
{
	if
	:: d_step {
		view[(who) * CELLS + (at)] = mem[at];
		view[(who) * CELLS + (at2)] = mem[at2];
		into = mem[at];
		into2 = mem[at2];
		TELL_CELL(who, ": load ", at, into)
		TELL_CELL(who, ": load, the same, ", at2, into2)
		skip
	}
	:: d_step {
		OLD(who, at) || OLD(who, at2) ->
		into = view[(who) * CELLS + (at)];
		into2 = view[(who) * CELLS + (at2)];
		TELL_CELL(who, ": load, old, ", at, into)
		TELL_CELL(who, ": load, the same, ", at2, into2)
		skip
	}
	fi
}

#else

inline refresh(who)
{
	skip
}

inline shm_load(who, at, into)
{
	d_step { into = mem[at]; forward(who, at, into) }
}

inline shm_load_acquire(who, at, into)
{
	d_step { into = mem[at]; forward(who, at, into) }
}

inline shm_load_both(who, at, into, at2, into2)
{
	d_step {
		into = mem[at];
		into2 = mem[at2];
		TELL_CELL(who, ": load ", at, into)
		TELL_CELL(who, ": load, the same, ", at2, into2)
		skip
	}
}

#endif

inline shm_fence_full(who)
{
	d_step {
		sb[who].count == 0 ->
		TELL(who, ": full fence\n")
		refresh(who)
	}
}

/* ---- Signals and sleep --------------------------------------------------- */

inline send_signal(who, to)
{
	d_step {
#ifdef CUT
		sb[who].count == 0 ->
#endif
		TELL(who, ": signal\n")
		signalled[to] = 1
	}
}

inline sleep_until_signal(who)
{
	d_step {
#ifdef CUT
		signalled[who] && sb[who].count == 0 ->
#else
		signalled[who] ->
#endif
		signalled[who] = 0;
		TELL(who, ": wakes from its sleep\n")
#ifdef CUT
		refresh(who)
#else
		skip
#endif
	}
}
