/* SPDX-License-Identifier: MIT */
/*
 * Differential test: the library's ends against a reference model of VIRTIO
 * 1.4, 2.7 and 2.8, in four pairings, over both layouts, EVENT_IDX,
 * INDIRECT_DESC, sizes and starting points; and the proof that it can fail.
 *
 *   test-reference [--seed N] [--steps N] [--no-lockstep] [--verbose]
 *
 * Runs are reproducible: a failure names the arguments that repeat it.
 * --steps is per run; --steps 1000000 is a soak of hours.
 *
 * Proves, for the library's ends (each seen to fail when the rule is broken):
 * S-DRV-004 S-DRV-005 S-DRV-006 S-DRV-010 S-DRV-013 S-DRV-014 S-DRV-016 S-DRV-017
 * S-DRV-018 S-DRV-019 S-DRV-022 S-DRV-025 S-DRV-026 S-DRV-027 S-DRV-032 S-DRV-036
 * S-DRV-041 S-DRV-042; S-DEV-001 S-DEV-003 S-DEV-005 S-DEV-006 S-DEV-008
 * S-DEV-022 S-DEV-024 S-DEV-025 S-DEV-028 S-DEV-035 S-DEV-037 S-DEV-038
 * S-DEV-041; P-DRV-002 P-DRV-003 P-DRV-004 P-DRV-005 P-DRV-006 P-DRV-007
 * P-DRV-009 P-DRV-010 P-DRV-012 P-DRV-015 P-DRV-016 P-DRV-019 P-DRV-020 P-DRV-021
 * P-DRV-023 P-DRV-024 P-DRV-025 P-DRV-028 P-DRV-036 P-DRV-040; P-DEV-001
 * P-DEV-004 P-DEV-005 P-DEV-009 P-DEV-010 P-DEV-011 P-DEV-012 P-DEV-013 P-DEV-022
 * P-DEV-027 P-DEV-030 P-DEV-031; N-DRV-001 N-DRV-003 N-DRV-007 N-DRV-008
 * N-DRV-010 N-DRV-017 N-DRV-018; N-DEV-010 N-DEV-016.
 */
#include "world.h"

#include <virtq/features.h>
#include <virtq/spec/virtio.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../emulated.h"

static uint64_t option_seed = 1;
static unsigned int option_steps = 1500;
static bool option_quiet, option_verbose;

static struct coverage coverage;
static struct world world;

static const struct pairing {
	const char *name;
	const struct driver_end *driver;
	const struct device_end *device;
} pairings[] = {
	{ "library and library", &library_driver, &library_device },
	{ "library driver and model device", &library_driver, &model_device },
	{ "model driver and library device", &model_driver, &library_device },
	{ "model and model", &model_driver, &model_device },
};
#define PAIRINGS (sizeof(pairings) / sizeof(pairings[0]))

static const uint16_t split_sizes[] = { 1, 2, 8, 256 };
/* 2.8.10.1: any size; 0 stands for one that the seed chooses. */
static const uint16_t packed_sizes[] = { 1, 2, 3, 5, 8, 256, 0 };

static const char *describe(const struct setup *s, char *text, size_t bytes)
{
	snprintf(text, bytes, "%s, %s driver, %s device, size %u%s%s%s%s%s",
		 s->packed ? "packed" : "split", s->driver->name, s->device->name, s->size,
		 s->event_idx ? ", EVENT_IDX" : "", s->indirect ? ", INDIRECT_DESC" : "",
		 s->in_order ? ", IN_ORDER" : "", s->far_start ? ", far start" : "",
		 s->quiet ? ", no lockstep" : "");
	return text;
}

static void run_one(const struct setup *s)
{
	char text[160];

	if (world_run(&world, s, &coverage))
		return;
	fail_msg("%s: step %u: %s (repeat with --seed %llu --steps %u)",
		 describe(s, text, sizeof(text)), world.step, world.failure,
		 (unsigned long long)option_seed, option_steps);
}

/* Every combination of the two feature bits and of the two starting points. */
static void run_features(struct setup *s)
{
	unsigned int bits;

	for (bits = 0; bits < 8; bits++) {
		s->event_idx = bits & 1;
		s->indirect = bits & 2;
		s->far_start = bits & 4;
		s->seed = option_seed * 0x100000001b3u + s->size * 8 + bits;
		run_one(s);
	}
}

static void run_sizes(const struct pairing *p, bool packed, bool in_order)
{
	struct setup s = {
		.packed = packed, .in_order = in_order, .driver = p->driver, .device = p->device,
		.steps = option_steps, .quiet = option_quiet,
	};
	const uint16_t *sizes = packed ? packed_sizes : split_sizes;
	size_t i, count = packed ? sizeof(packed_sizes) / 2 : sizeof(split_sizes) / 2;

	for (i = 0; i < count; i++) {
		s.size = sizes[i] ? sizes[i] : (uint16_t)(4 + option_seed * 37 % 97);
		run_features(&s);
	}
}

static void test_split(void **state)
{
	run_sizes(*state, false, false);
}

static void test_packed(void **state)
{
	run_sizes(*state, true, false);
}

/*
 * IN_ORDER, with ends that have it: the model's always, the library's if it
 * says so. Batches of completions: 2.7.9, 2.8.8.
 */
static void test_in_order(void **state)
{
	bool library = virtq_features_has(virtq_ring_features(), VIRTIO_F_IN_ORDER);
	unsigned int i;

	(void)state;
	for (i = 0; i < PAIRINGS; i++) {
		if (!library && (pairings[i].driver->library || pairings[i].device->library))
			continue;
		run_sizes(&pairings[i], false, true);
		run_sizes(&pairings[i], true, true);
	}
}

/* The runs above met everything that they are about. */
static void test_coverage(void **state)
{
	const struct coverage *c = &coverage;
	unsigned int i;

	(void)state;
	for (i = 0; i < OP_COUNT; i++)
		assert_true(c->operation[i]);
	assert_true(c->buffers && c->elements > c->buffers && c->longest_is_size);
	assert_true(c->crossing && c->empty_element);
	assert_true(c->out_of_order && c->full && c->too_long);
	assert_true(c->kicked && c->not_kicked && c->called && c->not_called && c->slept);
	assert_true(c->restarted && c->blocked && c->tail && c->batched);
	if (option_quiet)
		return;
	assert_true(c->indirect && c->mixed && c->index_wrapped && c->bytes_compared);
}

/* ---- The test can fail. ---- */

static bool fits(enum corrupt_need need, bool have)
{
	return need == ANY_WAY || (need == ONLY_WITH) == have;
}

/*
 * Without the shadows, what was spoiled may have no consequence (a chain that
 * lost only an empty element), and a shadow that cannot follow it ends the
 * spoiling: then another seed has to show it.
 */
#define QUIET_ATTEMPTS 4u

static void spoil_one(const struct corruption *c, struct setup s)
{
	unsigned int attempt = 0;
	char text[160];
	bool fine;

	do {
		s.seed += attempt * 1000;
		fine = world_run(&world, &s, &coverage);
	} while (s.quiet && fine && ++attempt < QUIET_ATTEMPTS);
	describe(&s, text, sizeof(text));
	if (!world.corrupted)
		fail_msg("%s: %s: never came up (%s)", c->name, text, world.failure);
	if (fine)
		fail_msg("%s: %s: went unnoticed", c->name, text);
	if (!s.quiet && world.failed_at != world.corrupted_at)
		fail_msg("%s: %s: noticed only %llu operations later: %s", c->name, text,
			 (unsigned long long)(world.failed_at - world.corrupted_at),
			 world.failure);
	if (option_verbose)
		print_message("%s: %s: noticed: %s\n", c->name, text, world.failure);
}

static void spoil_pairing(const struct corruption *c, const struct pairing *p, bool packed)
{
	unsigned int bits;

	for (bits = 0; bits < 8; bits++) {
		struct setup s = {
			.packed = packed, .event_idx = bits & 1, .indirect = bits & 2,
			.quiet = bits & 4, .size = packed ? 5 : 8,
			.driver = p->driver, .device = p->device,
			.seed = option_seed + bits, .steps = 6000, .corruption = c,
		};

		if (!(c->layout & (packed ? ON_PACKED : ON_SPLIT)) ||
		    !fits(c->event_idx, s.event_idx) || !fits(c->indirect, s.indirect) ||
		    (s.quiet && !c->notices_end))
			continue;
		spoil_one(c, s);
	}
}

static void test_notices(void **state)
{
	unsigned int i;

	if (emulated() && *state != &pairings[0]) {
		print_message("skipped: slow where emulated, and one pairing shows it\n");
		skip();
	}
	for (i = 0; i < driver_corruption_count; i++) {
		spoil_pairing(&driver_corruptions[i], *state, false);
		spoil_pairing(&driver_corruptions[i], *state, true);
	}
	for (i = 0; i < device_corruption_count; i++) {
		spoil_pairing(&device_corruptions[i], *state, false);
		spoil_pairing(&device_corruptions[i], *state, true);
	}
}

/* ---- The command line. ---- */

static int usage(const char *program)
{
	fprintf(stderr, "usage: %s [--seed N] [--steps N] [--no-lockstep] [--verbose]\n", program);
	return 2;
}

static bool parse(int argc, char **argv)
{
	int i;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			option_seed = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--steps") && i + 1 < argc)
			option_steps = (unsigned int)strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--no-lockstep"))
			option_quiet = true;
		else if (!strcmp(argv[i], "--verbose"))
			option_verbose = true;
		else
			return false;
	}
	return option_steps > 0;
}

#define PAIRED(test, name, i) \
	{ name, test, NULL, NULL, (void *)(uintptr_t)&pairings[i] }

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIRED(test_split, "split, library and library", 0),
		PAIRED(test_split, "split, library driver and model device", 1),
		PAIRED(test_split, "split, model driver and library device", 2),
		PAIRED(test_split, "split, model and model", 3),
		PAIRED(test_packed, "packed, library and library", 0),
		PAIRED(test_packed, "packed, library driver and model device", 1),
		PAIRED(test_packed, "packed, model driver and library device", 2),
		PAIRED(test_packed, "packed, model and model", 3),
		cmocka_unit_test(test_in_order),
		cmocka_unit_test(test_coverage),
		PAIRED(test_notices, "notices what is spoiled, library and library", 0),
		PAIRED(test_notices, "notices what is spoiled, library driver and model device", 1),
		PAIRED(test_notices, "notices what is spoiled, model driver and library device", 2),
		PAIRED(test_notices, "notices what is spoiled, model and model", 3),
	};

	if (!parse(argc, argv))
		return usage(argv[0]);
	return cmocka_run_group_tests_name("reference", tests, NULL, NULL);
}
