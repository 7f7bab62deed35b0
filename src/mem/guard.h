/* SPDX-License-Identifier: MIT */
/* Which memory a peer could take away under us: see virtq_guard_install(). */
#ifndef VIRTQ_MEM_GUARD_H
#define VIRTQ_MEM_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Watch over @bytes at @pages, which can be replaced in pieces of @unit bytes.
 * Returns a token for the calls below, or -ENOSPC: a process watches over 24576
 * pieces of memory at most. Without a token peers must not be let near them.
 */
int guard_watch(void *pages, size_t bytes, size_t unit);
void guard_forget(int token);

/* Has a part of it been lost? */
bool guard_lost(int token);

/* Changes whenever any part of anything is lost: worth looking at guard_lost() then. */
uint64_t guard_epoch(void);

#endif
