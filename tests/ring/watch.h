/* SPDX-License-Identifier: MIT */
/*
 * A log of every single access of one end to its view of the rig's memory: the
 * pages are taken away, each fault is noted, the one instruction that caused it
 * is let through, and the pages are taken away again. The order is that of the
 * machine code. Between two accesses the test may play the other end.
 *
 * x86 only, since it needs the processor's single step; watch_possible() tells.
 */
#ifndef TESTS_RING_WATCH_H
#define TESTS_RING_WATCH_H

#include "rig.h"

enum area { AREA_DESC, AREA_DRIVER, AREA_DEVICE, AREA_TABLE, AREA_DATA, AREAS };

/* What an instruction touched first; how many bytes is not known. */
struct access {
	enum area area;
	uint32_t off;		/* from the start of the area, AREA_DATA: from RIG_DATA_GPA */
	bool write;		/* or both */
};

#define WATCH_MAX 4096u
extern struct access watch_log[WATCH_MAX];
extern size_t watch_count;

/* Can this machine do it? If not, tests are skipped, with a reason. */
bool watch_possible(void);

/*
 * Log what is done through one end's view from here on. No assertion may fail
 * before watch_end(). @after, if there is one, is called after each access, may
 * write through the other end's view, and gets @arg.
 */
void watch_begin(struct rig *r, bool driver, void (*after)(const struct access *, void *),
		 void *arg);
void watch_end(void);

/* Index of the first access from @from on to [@off, @off + @bytes), or -1. */
int watch_find(size_t from, enum area area, uint32_t off, uint32_t bytes, bool write);
/* How many accesses there are of that kind. */
unsigned int watch_number(enum area area, uint32_t off, uint32_t bytes, bool write);
#define WHOLE_AREA UINT32_MAX

#endif
