/* SPDX-License-Identifier: MIT */
/*
 * F-024: with ORDER_PLATFORM, barriers are those for devices on a bus. The calls
 * are run one instruction at a time, and what executes is looked at: mfence, on
 * x86 the barrier that orders accesses to memory of any kind as seen from
 * outside the processors, before and after the store that publishes.
 *
 * x86-64 only, for its single step and its instruction; elsewhere skipped.
 */
#include "rig.h"

#include <stdio.h>

#include "../sanitizers.h"

/* The runtime of ThreadSanitizer does not survive single steps. */
#if defined(__x86_64__) && !UNDER_TSAN

#include <signal.h>
#include <ucontext.h>

/* What happened, in order: 'b' one barrier or more, 's' the watched word changed. */
static char story[64];
static size_t told;
static const volatile uint16_t *watched;
static uint16_t bits, last;
static unsigned long steps;

static void tell(char what)
{
	if (told && story[told - 1] == what)
		return;
	if (told < sizeof(story) - 1)
		story[told++] = what;
	story[told] = '\0';
}

/* Before each instruction. */
static void on_step(int signo, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	const uint8_t *next = (const uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];

	(void)signo, (void)info;
	steps++;
	if ((*watched & bits) != last)
		tell('s');
	last = *watched & bits;
	if (next[0] == 0x0f && next[1] == 0xae && next[2] == 0xf0)
		tell('b');
}

/* The stack below the pointer may be in use (the red zone). */
static inline void trap_flag(bool on)
{
	if (on)
		__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; "
				 "lea 128(%%rsp), %%rsp" ::: "memory", "cc");
	else
		__asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; "
				 "lea 128(%%rsp), %%rsp" ::: "memory", "cc");
}

static void watch_from_here(const void *word, uint16_t mask)
{
	watched = word;
	bits = mask;
	last = *watched & bits;
	told = 0;
	story[0] = '\0';
}

#define STEPPED(call) ({ int rc_; trap_flag(true); rc_ = (call); trap_flag(false); rc_; })

/* The word whose store shows what was added, or was used: index, or flags of the head. */
static const void *publishing_word(struct rig *r, uint32_t at, bool used)
{
	if (!r->shape.packed)
		return used ? used_idx(r) : avail_idx(r);
	return r->desc.driver + 16 * (size_t)(at % r->shape.size) + 14;
}

/* Those of its bits that do: what a staged descriptor says besides is nobody's business yet. */
static uint16_t publishing_bits(const struct rig *r)
{
	return r->shape.packed ? F_AVAIL | F_USED : 0xffff;
}

static const void *wish_word(struct rig *r, bool device)
{
	struct piece *area = device ? &r->device_area : &r->driver_area;

	if (r->shape.packed)
		return area->driver + 2;
	return !r->shape.event_idx ? area->driver : device ? avail_event(r) : used_event(r);
}

static void expect(const char *what, const char *want)
{
	if (strcmp(story, want))
		fail_msg("%s: %s, not %s", what, story, want);
}

static void test_barriers(void **state)
{
	const struct shape *shape = *state;
	struct sigaction step = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO }, before;
	struct virtq_completion done;
	struct virtq_req *req;
	struct rig r;

	rig_open(&r, shape, RIG_BOTH);
	assert_int_equal(sigaction(SIGTRAP, &step, &before), 0);
	for (uint32_t i = 0; i < 5; i++) {
		virtq_driver_disarm(r.driver);
		virtq_device_disarm(r.device);

		/* [C] the wish to be kicked is out before the ring is looked at. */
		watch_from_here(wish_word(&r, true), 0xffff);
		assert_int_equal(STEPPED(virtq_device_arm(r.device)), 0);
		expect("device arm", "sb");

		/* [A] what was added, before it is shown; [C] that, before the wish is read. */
		assert_int_equal(rig_add(&r, RIG_WRITABLE_GPA, 1, true, NULL), 1);
		watch_from_here(publishing_word(&r, i, false), publishing_bits(&r));
		assert_int_equal(STEPPED(virtq_driver_publish(r.driver)), 1);
		expect("driver publish", "bsb");

		/* [A] the other end. */
		watch_from_here(publishing_word(&r, i, false), publishing_bits(&r));
		assert_int_equal(STEPPED(virtq_device_pop(r.device, &req, 1)), 1);
		expect("device pop", "b");

		/* [D] */
		watch_from_here(wish_word(&r, false), 0xffff);
		assert_int_equal(STEPPED(virtq_driver_arm(r.driver)), 0);
		expect("driver arm", "sb");

		/* [B] then [D]. */
		virtq_device_push(r.device, &req, 1);
		watch_from_here(publishing_word(&r, i, true), publishing_bits(&r));
		assert_int_equal(STEPPED(virtq_device_publish(r.device)), 1);
		expect("device publish", "bsb");

		/* [B] the other end. */
		watch_from_here(publishing_word(&r, i, true), publishing_bits(&r));
		assert_int_equal(STEPPED(virtq_driver_get(r.driver, &done, 1)), 1);
		expect("driver get", "b");
	}
	sigaction(SIGTRAP, &before, NULL);
	assert_true(steps > 100);	/* it did step */
	rig_close(&r);
}

int main(void)
{
	static struct shape shapes[] = {
		{ .size = 4, .name = "split" },
		{ .size = 4, .event_idx = true, .name = "split event" },
		{ .size = 4, .in_order = true, .name = "split in order" },
		{ .packed = true, .size = 3, .name = "packed" },
		{ .packed = true, .size = 3, .event_idx = true, .name = "packed event" },
		{ .packed = true, .size = 3, .in_order = true, .name = "packed in order" },
	};
	struct matrix m = { 0 };

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		shapes[i].platform = true;
	matrix_add_shapes(&m, "F-024 platform barriers", test_barriers, shapes,
			  sizeof(shapes) / sizeof(shapes[0]));
	return matrix_run(&m, "barriers of ORDER_PLATFORM");
}

#else

int main(void)
{
	printf("skipped: needs the single step of x86-64, and its instructions not instrumented\n");
	return 77;
}

#endif
