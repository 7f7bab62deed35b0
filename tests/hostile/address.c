/* SPDX-License-Identifier: MIT */
/* Addresses that lead out of memory, and those that only look so. */
#include "liar.h"

#define D RIG_DATA_GPA
#define W RIG_WRITABLE_GPA
#define HOLE LIAR_HOLE_GPA
#define END RIG_END_GPA
#define BORDER RIG_REGION_BYTES
#define BELOW_ZERO(n) ((uint64_t)0 - (n))
#define WN (F_WRITE | F_NEXT)

/* One element that is refused, alone, behind a good one and in front of one. */
#define BAD(text, addr, len, flags, at) \
	{ text ", alone", BOTH, .chain = { { addr, len, flags, 0 } }, \
	  .code = VIRTQ_FAULT_ADDRESS, .value = (at) }, \
	{ text ", second of three", BOTH, \
	  .chain = { { D, 4, F_NEXT, 1 }, { addr, len, (flags) | F_NEXT, 2 }, \
		     { W, 4, F_WRITE, 0 } }, \
	  .code = VIRTQ_FAULT_ADDRESS, .value = (at) }, \
	{ text ", in a table", BOTH, .chain = { { RIG_TABLE_GPA, 32, F_INDIRECT, 0 } }, \
	  .table = { { D, 4, F_NEXT, 1 }, { addr, len, flags, 0 } }, \
	  .code = VIRTQ_FAULT_ADDRESS, .value = (at) }

static const struct lie refused[] = {
	BAD("S-DEV-027 P-DEV-032 address in a hole", HOLE, 4, 0, HOLE),
	BAD("S-DEV-027 P-DEV-032 writable address in a hole", HOLE, 4, F_WRITE, HOLE),
	BAD("S-DEV-027 P-DEV-032 one byte past the end", END - 4, 5, 0, END),
	BAD("S-DEV-027 P-DEV-032 writable one byte past the end", END - 4, 5, F_WRITE, END),
	BAD("S-DEV-027 P-DEV-032 begins at the end", END, 1, F_WRITE, END),
	BAD("S-DEV-027 P-DEV-032 one byte before the beginning", D - 1, 2, 0, D - 1),
	BAD("S-DEV-027 P-DEV-032 wraps to mapped memory at 0", BELOW_ZERO(4), 8, 0, BELOW_ZERO(4)),
	BAD("S-DEV-027 P-DEV-032 writable, wraps to 0", BELOW_ZERO(4), 8, F_WRITE, BELOW_ZERO(4)),
	BAD("S-DEV-027 P-DEV-032 wraps as far as can be", BELOW_ZERO(1), 0xfffffff0, F_WRITE,
	    BELOW_ZERO(1)),
	BAD("S-DEV-027 P-DEV-032 4 GiB in a small region", W, 0xfffffff0, F_WRITE, END),
	BAD("S-DEV-028 P-DEV-032 spans a hole", LIAR_PAGE - 4, (uint32_t)(D + 4 - LIAR_PAGE + 4), 0,
	    LIAR_PAGE),
	BAD("S-DEV-027 P-DEV-032 write to read-only memory", D, 4, F_WRITE, D),
	BAD("S-DEV-027 P-DEV-032 write to a table", RIG_TABLE_GPA, 16, F_WRITE, RIG_TABLE_GPA),
	BAD("S-DEV-028 P-DEV-032 write from read-only into writable", W - 4, 8, F_WRITE, W - 4),
	BAD("S-DEV-027 P-DEV-032 read of write-only memory", LIAR_WRITE_ONLY_GPA, 4, 0,
	    LIAR_WRITE_ONLY_GPA),
};

/* The same where the element before it lay in that region, which is remembered. */
static const struct lie remembered[] = {
	{ "S-DEV-027 P-DEV-032 one byte past the end of the region just used", BOTH,
	  .chain = { { END - 8, 4, F_NEXT, 1 }, { END - 4, 5, 0, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = END },
	{ "S-DEV-027 P-DEV-032 writable one byte past the end of the region just used", BOTH,
	  .chain = { { END - 8, 4, WN, 1 }, { END - 4, 5, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = END },
	{ "S-DEV-027 P-DEV-032 one byte before the region just used", BOTH,
	  .chain = { { D, 4, F_NEXT, 1 }, { D - 1, 1, 0, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = D - 1 },
	{ "S-DEV-027 P-DEV-032 write to the read-only region just used", BOTH,
	  .chain = { { D, 4, F_NEXT, 1 }, { D + 8, 4, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = D + 8 },
	{ "S-DEV-028 P-DEV-032 out of the region just used by one byte", BOTH,
	  .chain = { { D, 4, F_NEXT, 1 }, { D + BORDER - 4, 5, 0, 0 } }, .readable = 3,
	  .spans = { { D, 4 }, { D + BORDER - 4, 4 }, { D + BORDER, 1 } } },
	{ "to the end of the region just used", BOTH,
	  .chain = { { END - 8, 4, WN, 1 }, { END - 4, 4, F_WRITE, 0 } },
	  .spans = { { END - 8, 4 }, { END - 4, 4 } } },
};

static const struct lie taken[] = {
	{ "S-DEV-028 P-DEV-032 a readable element across two regions", BOTH,
	  .chain = { { D + BORDER - 4, 8, 0, 0 } }, .readable = 2,
	  .spans = { { D + BORDER - 4, 4 }, { D + BORDER, 4 } } },
	{ "S-DEV-028 P-DEV-032 a writable element across two regions", BOTH,
	  .chain = { { W + BORDER - 1, 8, F_WRITE, 0 } },
	  .spans = { { W + BORDER - 1, 1 }, { W + BORDER, 7 } } },
	{ "S-DEV-028 P-DEV-032 readable, from read-only into writable memory", BOTH,
	  .chain = { { W - 4, 8, 0, 0 } }, .readable = 2, .spans = { { W - 4, 4 }, { W, 4 } } },
	{ "S-DEV-028 P-DEV-032 an element over four regions, in a table", BOTH,
	  .chain = { { RIG_TABLE_GPA, 32, F_INDIRECT, 0 } },
	  .table = { { D + 1, (uint32_t)(4 * BORDER - 1), F_NEXT, 1 }, { W, 1, F_WRITE, 0 } },
	  .readable = 4,
	  .spans = { { D + 1, (uint32_t)BORDER - 1 }, { D + BORDER, (uint32_t)BORDER },
		     { W, (uint32_t)BORDER }, { W + BORDER, (uint32_t)BORDER }, { W, 1 } } },
	{ "the last bytes there can be", BOTH,
	  .chain = { { BELOW_ZERO(4), 4, F_NEXT, 1 }, { BELOW_ZERO(1), 1, F_WRITE, 0 } },
	  .readable = 1, .spans = { { BELOW_ZERO(4), 4 }, { BELOW_ZERO(1), 1 } } },
	{ "address 0", BOTH,
	  .chain = { { 0, 4, F_NEXT, 1 }, { 0, 4096, F_WRITE, 0 } },
	  .readable = 1, .spans = { { 0, 4 }, { 0, 4096 } } },
	{ "write-only memory, written", BOTH,
	  .chain = { { LIAR_WRITE_ONLY_GPA, 4096, F_WRITE, 0 } },
	  .spans = { { LIAR_WRITE_ONLY_GPA, 4096 } } },
	{ "S-DEV-029 P-DEV-028 empty and unmapped, first", BOTH,
	  .chain = { { HOLE, 0, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { W, 4, F_WRITE, 0 } },
	  .readable = 1, .spans = { { D, 4 }, { W, 4 } } },
	{ "S-DEV-029 P-DEV-028 empty and unmapped, in the middle", BOTH,
	  .chain = { { D, 4, F_NEXT, 1 }, { BELOW_ZERO(1), 0, F_NEXT, 2 }, { HOLE, 0, WN, 3 },
		     { W, 4, F_WRITE, 0 } },
	  .readable = 1, .spans = { { D, 4 }, { W, 4 } } },
	{ "S-DEV-029 P-DEV-028 empty and unmapped, last", BOTH,
	  .chain = { { D, 4, F_NEXT, 1 }, { W, 4, WN, 2 }, { HOLE, 0, F_WRITE, 0 } },
	  .readable = 1, .spans = { { D, 4 }, { W, 4 } } },
	{ "S-DEV-029 P-DEV-028 empty and denied", BOTH,
	  .chain = { { LIAR_WRITE_ONLY_GPA, 0, F_NEXT, 1 }, { D, 0, F_WRITE, 0 } } },
	{ "S-DEV-029 P-DEV-028 nothing but an empty readable element", BOTH,
	  .chain = { { HOLE, 0, 0, 0 } } },
	{ "S-DEV-029 P-DEV-028 nothing but an empty writable element", BOTH,
	  .chain = { { BELOW_ZERO(1), 0, F_WRITE, 0 } } },
	{ "S-DEV-029 P-DEV-028 empty and unmapped in a table", BOTH,
	  .chain = { { RIG_TABLE_GPA, 64, F_INDIRECT, 0 } },
	  .table = { { HOLE, 0, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { HOLE, 0, WN, 3 },
		     { HOLE, 0, F_WRITE, 0 } },
	  .readable = 1, .spans = { { D, 4 } } },
};

#define ADD(m, lies) lies_add(m, lies, sizeof(lies) / sizeof((lies)[0]))

int main(void)
{
	struct matrix m = { 0 };

	ADD(&m, refused);
	ADD(&m, remembered);
	ADD(&m, taken);
	return matrix_run(&m, "hostile addresses");
}
