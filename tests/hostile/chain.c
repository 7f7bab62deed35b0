/* SPDX-License-Identifier: MIT */
/* Chains that cannot be: links that lead out or round, wrong order, too long, too large. */
#include "liar.h"

#define D RIG_DATA_GPA
#define W RIG_WRITABLE_GPA
#define T RIG_TABLE_GPA
#define HUGE LIAR_HUGE_GPA
#define HALF 0x80000000u	/* of the 2^32 bytes that a chain may have */
#define WN (F_WRITE | F_NEXT)
#define BORDER RIG_REGION_BYTES

static const struct lie links[] = {
	{ "S-DEV-014 next is the size", SPLIT, .chain = { { D, 4, F_NEXT, 8 } },
	  .code = VIRTQ_FAULT_NEXT_RANGE, .value = 8 },
	{ "S-DEV-014 next is 65535", SPLIT, .chain = { { D, 4, F_NEXT, 0xffff } },
	  .code = VIRTQ_FAULT_NEXT_RANGE, .value = 0xffff },
	{ "S-DEV-014 next leads out later", SPLIT,
	  .chain = { { D, 4, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { W, 4, WN, 0x8000 } },
	  .code = VIRTQ_FAULT_NEXT_RANGE, .value = 0x8000 },
	{ "S-DEV-014 next leads out of a zero-length element", SPLIT,
	  .chain = { { 0, 0, F_NEXT, 9 } }, .code = VIRTQ_FAULT_NEXT_RANGE, .value = 9 },
	{ "next without NEXT means nothing", SPLIT,
	  .chain = { { D, 4, 0, 0xffff } }, .readable = 1, .spans = { { D, 4 } } },
	{ "S-DEV-014 next is the table's size, below the queue's", SPLIT,
	  .chain = { { T, 32, F_INDIRECT, 0 } },
	  .table = { { D, 4, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_NEXT_RANGE, .value = 2 },
	{ "S-DEV-014 next in a table is 65535", SPLIT, .chain = { { T, 16, F_INDIRECT, 0 } },
	  .table = { { D, 4, F_NEXT, 0xffff } },
	  .code = VIRTQ_FAULT_NEXT_RANGE, .value = 0xffff },
	{ "S-DEV-015 a descriptor follows itself", SPLIT, .chain = { { D, 4, F_NEXT, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_LOOP, .value = 9 },
	{ "S-DEV-015 two descriptors follow each other", SPLIT,
	  .chain = { { W, 4, WN, 1 }, { W, 4, WN, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_LOOP, .value = 9 },
	{ "S-DEV-015 a loop behind a straight part", SPLIT,
	  .chain = { { D, 4, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { W, 4, WN, 3 }, { W, 4, WN, 2 } },
	  .code = VIRTQ_FAULT_CHAIN_LOOP, .value = 9 },
	{ "S-DEV-015 a loop of elements without bytes", SPLIT,
	  .chain = { { 0, 0, F_NEXT, 1 }, { 0, 0, F_NEXT, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_LOOP, .value = 9 },
	{ "S-DEV-015 a table entry follows itself", SPLIT, .chain = { { T, 48, F_INDIRECT, 0 } },
	  .table = { { D, 4, F_NEXT, 0 } }, .code = VIRTQ_FAULT_CHAIN_LOOP, .value = 4 },
	{ "S-DEV-015 a loop in a table", SPLIT, .chain = { { T, 48, F_INDIRECT, 0 } },
	  .table = { { D, 4, F_NEXT, 2 }, { D, 4, F_NEXT, 0 }, { D, 0, F_NEXT, 1 } },
	  .code = VIRTQ_FAULT_CHAIN_LOOP, .value = 4 },
};

static const struct lie order[] = {
	{ "S-DEV-016 P-DEV-020 readable after writable", BOTH | VALUE_SLOT,
	  .chain = { { W, 4, WN, 1 }, { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_ORDER, .value = 1 },
	{ "S-DEV-016 P-DEV-020 readable between writable", BOTH | VALUE_SLOT,
	  .chain = { { W, 4, WN, 1 }, { D, 4, F_NEXT, 2 }, { W, 4, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_ORDER, .value = 1 },
	{ "S-DEV-016 P-DEV-020 readable, writable, readable", BOTH | VALUE_SLOT,
	  .chain = { { D, 4, F_NEXT, 1 }, { W, 4, WN, 2 }, { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_ORDER, .value = 2 },
	{ "S-DEV-016 P-DEV-020 readable after empty writable", BOTH | VALUE_SLOT,
	  .chain = { { 0, 0, WN, 1 }, { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_ORDER, .value = 1 },
	{ "S-DEV-016 P-DEV-020 empty readable after writable", BOTH | VALUE_SLOT,
	  .chain = { { W, 4, WN, 1 }, { 0, 0, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_ORDER, .value = 1 },
	{ "S-DEV-016 P-DEV-020 wrong order in a table", BOTH, .chain = { { T, 48, F_INDIRECT, 0 } },
	  .table = { { D, 4, F_NEXT, 1 }, { W, 4, WN, 2 }, { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_ORDER, .value = 2 },
	{ "S-DEV-016 S-DEV-007 writable, then a table of readable", SPLIT,
	  .chain = { { W, 4, WN, 1 }, { T, 16, F_INDIRECT, 0 } }, .table = { { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_ORDER, .value = 0 },
	{ "S-DEV-016 S-DEV-007 writable, then a table that ends readable", SPLIT,
	  .chain = { { W, 4, WN, 1 }, { T, 32, F_INDIRECT, 0 } },
	  .table = { { W, 4, WN, 1 }, { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_ORDER, .value = 1 },
	{ "S-DEV-007 readable, then a table of both", SPLIT,
	  .chain = { { D, 4, F_NEXT, 1 }, { T, 32, F_INDIRECT, 0 } },
	  .table = { { D + 8, 4, F_NEXT, 1 }, { W, 4, F_WRITE, 0 } },
	  .readable = 2, .spans = { { D, 4 }, { D + 8, 4 }, { W, 4 } } },
	{ "S-DEV-007 both, then a table of writable", SPLIT,
	  .chain = { { D, 4, F_NEXT, 1 }, { W, 4, WN, 2 }, { T, 16, F_INDIRECT, 0 } },
	  .table = { { W + 8, 4, F_WRITE, 1 } },
	  .readable = 1, .spans = { { D, 4 }, { W, 4 }, { W + 8, 4 } } },
};

static const struct lie sums[] = {
	{ "S-DEV-030 2^32 bytes and a half more", BOTH,
	  .chain = { { HUGE, HALF, F_NEXT, 1 }, { HUGE, HALF, F_NEXT, 2 }, { HUGE, HALF, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_BYTES, .value = 0x180000000 },
	{ "S-DEV-030 one byte more than 2^32", BOTH,
	  .chain = { { HUGE, HALF, F_NEXT, 1 }, { HUGE, HALF, F_NEXT, 2 }, { D, 1, 0, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_BYTES, .value = 0x100000001 },
	{ "S-DEV-030 one byte more, in both directions together", BOTH,
	  .chain = { { D, 1, F_NEXT, 1 }, { HUGE, HALF, F_NEXT, 2 }, { HUGE, HALF, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_BYTES, .value = 0x100000001 },
	{ "S-DEV-030 one byte more, in a table", BOTH, .chain = { { T, 48, F_INDIRECT, 0 } },
	  .table = { { HUGE, HALF, WN, 1 }, { HUGE, HALF, WN, 2 }, { W, 1, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_BYTES, .value = 0x100000001 },
	{ "S-DEV-030 one byte more, begun before the table", SPLIT,
	  .chain = { { D, 1, F_NEXT, 1 }, { T, 32, F_INDIRECT, 0 } },
	  .table = { { HUGE, HALF, WN, 1 }, { HUGE, HALF, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_BYTES, .value = 0x100000001 },
	{ "2^32 bytes exactly, readable", BOTH,
	  .chain = { { HUGE, HALF, F_NEXT, 1 }, { HUGE, HALF, 0, 0 } },
	  .readable = 2, .spans = { { HUGE, HALF }, { HUGE, HALF } } },
	{ "2^32 bytes exactly, both ways, in a table", BOTH,
	  .chain = { { T, 48, F_INDIRECT, 0 } },
	  .table = { { HUGE, HALF, F_NEXT, 1 }, { HUGE, HALF - 1, WN, 2 }, { W, 1, F_WRITE, 0 } },
	  .readable = 1, .spans = { { HUGE, HALF }, { HUGE, HALF - 1 }, { W, 1 } } },
};

static const struct lie lengths[] = {
	{ "S-DEV-002 P-DEV-008 as many elements as the device takes", BOTH, .max_segs = 3,
	  .chain = { { D, 4, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { W, 4, F_WRITE, 0 } },
	  .readable = 2, .spans = { { D, 4 }, { D, 4 }, { W, 4 } } },
	{ "S-DEV-002 P-DEV-008 one element more than the device takes", BOTH, .max_segs = 3,
	  .chain = { { D, 4, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { W, 4, WN, 3 },
		     { W, 4, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_LENGTH, .value = 3 },
	{ "S-DEV-002 P-DEV-008 two elements, four pieces", BOTH, .max_segs = 3,
	  .chain = { { D + BORDER - 2, 4, F_NEXT, 1 }, { W + BORDER - 2, 4, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_LENGTH, .value = 3 },
	{ "S-DEV-002 P-DEV-008 two elements, three pieces", BOTH, .max_segs = 3,
	  .chain = { { D + BORDER - 2, 4, F_NEXT, 1 }, { W, 4, F_WRITE, 0 } },
	  .readable = 2, .spans = { { D + BORDER - 2, 2 }, { D + BORDER, 2 }, { W, 4 } } },
	{ "S-DEV-002 P-DEV-008 elements without bytes do not count", BOTH, .max_segs = 1,
	  .chain = { { 0, 0, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { 0, 0, F_WRITE, 0 } },
	  .readable = 1, .spans = { { D, 4 } } },
	{ "S-DEV-002 S-DEV-007 too many with those of a table", SPLIT, .max_segs = 2,
	  .chain = { { D, 4, F_NEXT, 1 }, { T, 32, F_INDIRECT, 0 } },
	  .table = { { D, 4, F_NEXT, 1 }, { W, 4, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_CHAIN_LENGTH, .value = 2 },
};

#define ADD(m, lies) lies_add(m, lies, sizeof(lies) / sizeof((lies)[0]))

int main(void)
{
	struct matrix m = { 0 };

	ADD(&m, links);
	ADD(&m, order);
	ADD(&m, sums);
	ADD(&m, lengths);
	return matrix_run(&m, "hostile chains");
}
