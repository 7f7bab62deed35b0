/* SPDX-License-Identifier: MIT */
/*
 * A file system with one file, whose server stops answering reads and syncs when a test says
 * so: what a network file system is like when its server is away. The server is a
 * child process, so that nobody who waits for it keeps it from ending.
 */
#ifndef TESTS_HANGFS_H
#define TESTS_HANGFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct hangfs_word {
	int hangs;	/* __atomic: the test writes */
	int hung;	/* __atomic: the server writes: how many it does not answer */
};

struct hangfs {
	char folder[32];
	pid_t server;
	struct hangfs_word *word;
};

/* A file of @bytes zeroes, in a folder that only this thread sees; skips where FUSE is not allowed. */
void hangfs_open(struct hangfs *fs, uint64_t bytes);
void hangfs_close(struct hangfs *fs);
/* The file, opened with @flags; with O_DIRECT each read asks the server. */
int hangfs_file(const struct hangfs *fs, int flags);
/* From now on reads and syncs are kept; or those that were, and all others, are answered. */
void hangfs_hang(struct hangfs *fs, bool hangs);
int hangfs_hung(const struct hangfs *fs);

#endif
