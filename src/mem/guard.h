/* SPDX-License-Identifier: MIT */
/* Which memory a peer could take away under us: see virtq_guard_install(). */
#ifndef VIRTQ_MEM_GUARD_H
#define VIRTQ_MEM_GUARD_H

#include <stddef.h>

/* Watch over @bytes at @pages. Returns a token for guard_forget(), or -1 if there is no room. */
int guard_watch(void *pages, size_t bytes);
void guard_forget(int token);

#endif
