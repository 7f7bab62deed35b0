/* SPDX-License-Identifier: MIT */
/* See watch.h. */
#include "watch.h"

#include "../sanitizers.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

struct access watch_log[WATCH_MAX];
size_t watch_count;

int watch_find(size_t from, enum area area, uint32_t off, uint32_t bytes, bool write)
{
	for (size_t i = from; i < watch_count; i++)
		if (watch_log[i].area == area && watch_log[i].write == write &&
		    watch_log[i].off >= off && watch_log[i].off - off < bytes)
			return (int)i;
	return -1;
}

unsigned int watch_number(enum area area, uint32_t off, uint32_t bytes, bool write)
{
	unsigned int n = 0;
	int at = -1;

	while ((at = watch_find((size_t)(at + 1), area, off, bytes, write)) >= 0)
		n++;
	return n;
}

/* ThreadSanitizer does what an atomic access does by calls that touch the memory themselves. */
#if (defined(__x86_64__) || defined(__i386__)) && defined(__linux__) && !UNDER_TSAN

#define TRAP_FLAG 0x100	/* in the flags register: trap after the next instruction */
#define FAULT_WRITE 2	/* in the page fault's error code */

/* One piece of memory under watch. */
struct watched {
	uint8_t *map, *start;	/* first page, first byte of the area */
	size_t bytes;		/* of the map */
	enum area area;
	uint32_t base;		/* offset of @start in the area */
	int allowed;		/* what the end may do there */
	bool open;		/* for the instruction that is let through */
};

#define PIECES (4 + RIG_REGIONS)
static struct watched watched[PIECES];
static void (*after_access)(const struct access *, void *);
static void *after_arg;
static size_t stepped_from;	/* log entries of the instruction under way */
static struct sigaction old_segv, old_trap;

static void close_piece(struct watched *w)
{
	mprotect(w->map, w->bytes, PROT_NONE);
	w->open = false;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint8_t *at = info->si_addr;

	(void)number;
	for (size_t i = 0; i < PIECES; i++) {
		struct watched *w = &watched[i];

		if (at < w->map || at >= w->map + w->bytes || w->open)
			continue;
		if (watch_count < WATCH_MAX)
			watch_log[watch_count++] = (struct access){
				.area = w->area, .off = w->base + (uint32_t)(at - w->start),
				.write = uc->uc_mcontext.gregs[REG_ERR] & FAULT_WRITE,
			};
		mprotect(w->map, w->bytes, w->allowed);
		w->open = true;
		uc->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
		return;
	}
	/* A real fault: let it happen again, with nobody in between. */
	sigaction(SIGSEGV, &old_segv, NULL);
}

static void on_step(int number, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	(void)number;
	(void)info;
	uc->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
	for (size_t i = 0; i < PIECES; i++)
		if (watched[i].open)
			close_piece(&watched[i]);
	for (; stepped_from < watch_count; stepped_from++)
		if (after_access)
			after_access(&watch_log[stepped_from], after_arg);
}

static void watch_piece(size_t at, const struct piece *p, bool driver, enum area area,
			uint32_t base, int allowed)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	watched[at] = (struct watched){
		.map = (uint8_t *)(driver ? p->driver_map : p->device_map) + page,
		.start = driver ? p->driver : p->device,
		.bytes = p->map_bytes - 2 * page, .area = area, .base = base, .allowed = allowed,
	};
}

void watch_begin(struct rig *r, bool driver, void (*after)(const struct access *, void *),
		 void *arg)
{
	int both = PROT_READ | PROT_WRITE;
	struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	struct sigaction step = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };

	/* The rights are those that rig_open() gives. */
	watch_piece(0, &r->desc, driver, AREA_DESC, 0,
		    driver || r->shape.packed ? both : PROT_READ);
	watch_piece(1, &r->driver_area, driver, AREA_DRIVER, 0, driver ? both : PROT_READ);
	watch_piece(2, &r->device_area, driver, AREA_DEVICE, 0, driver ? PROT_READ : both);
	watch_piece(3, &r->table, driver, AREA_TABLE, 0, driver ? both : PROT_READ);
	for (uint32_t i = 0; i < RIG_REGIONS; i++)
		watch_piece(4 + i, &r->data[i], driver, AREA_DATA,
			    (uint32_t)(i * RIG_REGION_BYTES),
			    driver || i >= RIG_REGIONS / 2 ? both : PROT_READ);
	watch_count = stepped_from = 0;
	after_access = after;
	after_arg = arg;
	sigaction(SIGSEGV, &fault, &old_segv);
	sigaction(SIGTRAP, &step, &old_trap);
	for (size_t i = 0; i < PIECES; i++)
		close_piece(&watched[i]);
}

void watch_end(void)
{
	for (size_t i = 0; i < PIECES; i++)
		mprotect(watched[i].map, watched[i].bytes, watched[i].allowed);
	sigaction(SIGSEGV, &old_segv, NULL);
	sigaction(SIGTRAP, &old_trap, NULL);
	assert_true(watch_count < WATCH_MAX);
}

bool watch_possible(void)
{
	static const struct shape shape = { .size = 1 };
	volatile uint8_t *at;
	struct rig r;

	/* Emulators of processors tend to lack the single step. */
	rig_open(&r, &shape, 0);
	at = r.desc.driver;
	watch_begin(&r, true, NULL, NULL);
	at[3] = 1;
	at[5] = at[4];
	watch_end();
	rig_close(&r);
	return watch_count == 3 && watch_log[0].write && watch_log[0].off == 3 &&
	       !watch_log[1].write && watch_log[1].off == 4 && watch_log[2].off == 5;
}

#else

void watch_begin(struct rig *r, bool driver, void (*after)(const struct access *, void *),
		 void *arg)
{
	(void)r;
	(void)driver;
	(void)after;
	(void)arg;
}

void watch_end(void)
{
}

bool watch_possible(void)
{
	return false;
}

#endif
