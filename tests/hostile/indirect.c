/* SPDX-License-Identifier: MIT */
/* Indirect tables that cannot be, and odd ones that can. */
#include "liar.h"

#define D RIG_DATA_GPA
#define W RIG_WRITABLE_GPA
#define T RIG_TABLE_GPA
#define WN (F_WRITE | F_NEXT)
#define REFER(len, flags) { { T, len, F_INDIRECT | (flags), 0 } }
/* In front of the border between two regions: the second entry lies across it. */
#define ACROSS (LIAR_MORE_GPA - 24)
#define MORE_END (LIAR_MORE_GPA + LIAR_PAGE)

#define LENGTH(bytes, text) \
	{ "S-DEV-012 S-DEV-013 P-DEV-015 a table of " text " bytes", BOTH, \
	  .chain = REFER(bytes, 0), .table = { { D, 4, 0, 0 }, { D, 4, 0, 0 } }, \
	  .code = VIRTQ_FAULT_INDIRECT_LENGTH, .value = (bytes) }

static const struct lie refused[] = {
	{ "S-DEV-010 a table in a table", SPLIT, .chain = REFER(16, 0),
	  .table = { { T + 16, 16, F_INDIRECT, 0 }, { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_INDIRECT_NESTED, .value = F_INDIRECT },
	{ "S-DEV-010 a table in itself, writable", SPLIT, .chain = REFER(16, 0),
	  .table = { { T, 16, F_INDIRECT | F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_INDIRECT_NESTED, .value = F_INDIRECT | F_WRITE },
	{ "S-DEV-010 a table behind an element of a table", SPLIT, .chain = REFER(32, 0),
	  .table = { { D, 4, F_NEXT, 1 }, { T, 16, F_INDIRECT | F_NEXT, 0 } },
	  .code = VIRTQ_FAULT_INDIRECT_NESTED, .value = F_INDIRECT | F_NEXT },
	{ "S-DEV-011 P-DEV-016 INDIRECT with NEXT", BOTH | VALUE_FLAGS,
	  .chain = { { T, 16, F_INDIRECT | F_NEXT, 1 }, { D, 4, 0, 0 } },
	  .table = { { D, 4, 0, 0 } }, .code = VIRTQ_FAULT_INDIRECT_NEXT, .value = 0 },
	{ "S-DEV-011 INDIRECT with NEXT, second", SPLIT | VALUE_FLAGS,
	  .chain = { { D, 4, F_NEXT, 1 }, { T, 16, F_INDIRECT | F_NEXT, 2 }, { D, 4, 0, 0 } },
	  .table = { { D, 4, 0, 0 } }, .code = VIRTQ_FAULT_INDIRECT_NEXT, .value = 1 },
	{ "P-DEV-016 INDIRECT ends a list", PACKED | VALUE_FLAGS,
	  .chain = { { D, 4, F_NEXT, 0 }, { T, 16, F_INDIRECT, 0 } },
	  .table = { { D, 4, 0, 0 } }, .code = VIRTQ_FAULT_INDIRECT_NEXT, .value = 1 },
	{ "P-DEV-016 INDIRECT in the middle of a list", PACKED | VALUE_FLAGS,
	  .chain = { { D, 4, F_NEXT, 0 }, { T, 16, F_INDIRECT | F_NEXT, 0 }, { D, 4, 0, 0 } },
	  .table = { { D, 4, 0, 0 } }, .code = VIRTQ_FAULT_INDIRECT_NEXT, .value = 1 },
	{ "S-DEV-009 P-DEV-016 INDIRECT was not agreed", BOTH | DIRECT | VALUE_FLAGS,
	  .chain = REFER(16, 0), .table = { { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_INDIRECT_OFF, .value = 0 },
	{ "S-DEV-009 P-DEV-016 INDIRECT was not agreed, second", BOTH | DIRECT | VALUE_FLAGS,
	  .chain = { { D, 4, F_NEXT, 1 }, { T, 16, F_INDIRECT | F_WRITE, 0 } },
	  .table = { { D, 4, 0, 0 } }, .code = VIRTQ_FAULT_INDIRECT_OFF, .value = 1 },
	LENGTH(0u, "0"), LENGTH(1u, "1"), LENGTH(8u, "8"), LENGTH(15u, "15"), LENGTH(17u, "17"),
	LENGTH(40u, "40"), LENGTH(16u * 1025, "16 * 1025"), LENGTH(16u * 65536, "2^20"),
	LENGTH(16u * 65537, "16 * 65537"), LENGTH(0x80000000u, "2^31"),
	LENGTH(0xfffffff0u, "2^32 - 16"), LENGTH(0xffffffffu, "2^32 - 1"),
	{ "S-DEV-013 a table of more entries than the device takes", BOTH, .max_segs = 3,
	  .chain = REFER(64, 0), .table = { { D, 4, 0, 0 } },
	  .code = VIRTQ_FAULT_INDIRECT_LENGTH, .value = 64 },
	{ "S-DEV-027 P-DEV-032 a table in a hole", BOTH,
	  .chain = { { LIAR_HOLE_GPA, 16, F_INDIRECT, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = LIAR_HOLE_GPA },
	{ "S-DEV-027 P-DEV-032 a table that may not be read", BOTH,
	  .chain = { { LIAR_WRITE_ONLY_GPA, 16, F_INDIRECT, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = LIAR_WRITE_ONLY_GPA },
	{ "S-DEV-028 P-DEV-032 a table that runs into a hole", BOTH,
	  .chain = { { MORE_END - 16, 32, F_INDIRECT, 0 } },
	  .table_gpa = MORE_END - 16, .table = { { D, 4, F_NEXT, 1 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = MORE_END },
	{ "S-DEV-028 P-DEV-032 an entry that runs into a hole", BOTH,
	  .chain = { { MORE_END - 8, 16, F_INDIRECT, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = MORE_END },
	{ "S-DEV-028 P-DEV-032 a table that ends one byte too late", BOTH,
	  .chain = { { MORE_END - 15, 16, F_INDIRECT, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = MORE_END },
	{ "S-DEV-027 P-DEV-032 a table that wraps round the address space", BOTH,
	  .chain = { { (uint64_t)0 - 16, 32, F_INDIRECT, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = (uint64_t)0 - 16 },
	{ "S-DEV-027 P-DEV-032 an entry that wraps round the address space", BOTH,
	  .chain = { { (uint64_t)0 - 8, 16, F_INDIRECT, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = (uint64_t)0 - 8 },
	{ "S-DEV-027 P-DEV-032 a good table names a hole", BOTH, .chain = REFER(32, 0),
	  .table = { { D, 4, F_NEXT, 1 }, { LIAR_HOLE_GPA, 4, F_WRITE, 0 } },
	  .code = VIRTQ_FAULT_ADDRESS, .value = LIAR_HOLE_GPA },
};

static const struct lie taken[] = {
	{ "S-DEV-006 P-DEV-013 WRITE on what refers to a table", BOTH,
	  .chain = REFER(32, F_WRITE), .table = { { D, 4, F_NEXT, 1 }, { W, 4, F_WRITE, 0 } },
	  .readable = 1, .spans = { { D, 4 }, { W, 4 } } },
	{ "S-DEV-006 S-DEV-016 such a WRITE is no part of the order", SPLIT,
	  .chain = { { D, 4, F_NEXT, 1 }, { T, 16, F_INDIRECT | F_WRITE, 0 } },
	  .table = { { D + 8, 4, 0, 0 } }, .readable = 2, .spans = { { D, 4 }, { D + 8, 4 } } },
	{ "S-DEV-008 links that jump", SPLIT, .chain = REFER(64, 0),
	  .table = { { D, 1, F_NEXT, 3 }, { W, 2, F_WRITE, 0 }, { D, 3, F_NEXT, 1 },
		     { D, 4, F_NEXT, 2 } },
	  .readable = 3, .spans = { { D, 1 }, { D, 4 }, { D, 3 }, { W, 2 } } },
	{ "S-DEV-008 entries that no link reaches", SPLIT, .chain = REFER(64, 0),
	  .table = { { D, 1, 0, 3 }, { LIAR_HOLE_GPA, 2, F_INDIRECT, 0 } },
	  .readable = 1, .spans = { { D, 1 } } },
	{ "flags that nobody has defined", SPLIT, .chain = REFER(32, 0xfff8),
	  .table = { { D, 4, F_NEXT | 0xfff8, 1 }, { W, 4, F_WRITE | 0xfff8, 0 } },
	  .readable = 1, .spans = { { D, 4 }, { W, 4 } } },
	{ "P-DEV-014 ids and flags in a table mean nothing", PACKED, .chain = REFER(48, 0),
	  .table = { { D, 4, F_NEXT | F_INDIRECT, 0xffff }, { D + 8, 4, F_AVAIL | 0x7f78, 0 },
		     { W, 4, 0xffff, 1 } },
	  .readable = 2, .spans = { { D, 4 }, { D + 8, 4 }, { W, 4 } } },
	{ "P-DEV-014 a table goes on without NEXT", PACKED, .chain = REFER(48, 0),
	  .table = { { W, 4, F_WRITE, 0 }, { W + 8, 4, F_WRITE, 0 }, { W + 16, 4, F_WRITE, 0 } },
	  .spans = { { W, 4 }, { W + 8, 4 }, { W + 16, 4 } } },
	{ "S-DEV-028 P-DEV-032 a table across two regions, an entry too", BOTH,
	  .chain = { { ACROSS, 48, F_INDIRECT, 0 } }, .table_gpa = ACROSS,
	  .table = { { D, 4, F_NEXT, 1 }, { D + 0x10008, 5, F_NEXT, 2 }, { W, 4, F_WRITE, 0 } },
	  .readable = 2, .spans = { { D, 4 }, { D + 0x10008, 5 }, { W, 4 } } },
	{ "a table at an odd address", BOTH,
	  .chain = { { T + 1, 32, F_INDIRECT, 0 } }, .table_gpa = T + 1,
	  .table = { { D, 4, F_NEXT, 1 }, { W, 4, F_WRITE, 0 } },
	  .readable = 1, .spans = { { D, 4 }, { W, 4 } } },
	{ "a table that ends where memory ends", BOTH,
	  .chain = { { MORE_END - 16, 16, F_INDIRECT, 0 } }, .table_gpa = MORE_END - 16,
	  .table = { { W, 4, F_WRITE, 0 } }, .spans = { { W, 4 } } },
	{ "a table of as many entries as the device takes", BOTH, .max_segs = 3,
	  .chain = REFER(48, 0),
	  .table = { { D, 4, F_NEXT, 1 }, { D, 4, F_NEXT, 2 }, { W, 4, F_WRITE, 0 } },
	  .readable = 2, .spans = { { D, 4 }, { D, 4 }, { W, 4 } } },
};

/* S-DEV-013, S-DEV-002: as large as the default limit, and larger, in data memory. */
static void test_large_tables(void **state)
{
	for (uint32_t over = 0; over < 2; over++) {
		uint32_t count = 1024 + over;
		struct elem refer = { D, 16 * count, F_INDIRECT, 0 };
		struct virtq_req *req;
		uint32_t place;
		struct liar l;

		liar_open(&l, *state, 0);
		for (uint32_t i = 0; i < count; i++)
			liar_table(&l, D, i, (struct elem){
				W + i, 1, i + 1 < count ? WN : F_WRITE, (uint16_t)(i + 1) });
		place = liar_place(&l);
		liar_chain(&l, &refer, 1, 0);
		if (over) {
			liar_caught(&l, VIRTQ_FAULT_INDIRECT_LENGTH, place, 16 * count);
		} else {
			assert_int_equal(virtq_device_pop(l.r.device, &req, 1), 1);
			assert_int_equal(req->wr.count, 1024);
			assert_int_equal(req->wr.bytes, 1024);
			assert_ptr_equal(req->wr.spans[1023].base, liar_at(&l, W + 1023, true));
			liar_other_works(&l);
			assert_int_equal(virtq_device_unpop(l.r.device, req), 0);
		}
		liar_close(&l);
	}
}

#define ADD(m, lies) lies_add(m, lies, sizeof(lies) / sizeof((lies)[0]))

int main(void)
{
	struct matrix m = { 0 };

	ADD(&m, refused);
	ADD(&m, taken);
	matrix_add_shapes(&m, "S-DEV-013 tables as large as the default limit", test_large_tables,
			  split_shapes, 2);
	matrix_add_shapes(&m, "S-DEV-013 tables as large as the default limit", test_large_tables,
			  packed_shapes, 2);
	return matrix_run(&m, "hostile indirect tables");
}
