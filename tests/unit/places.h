/* SPDX-License-Identifier: MIT */
/*
 * Where files as stores are: in the folder of the tests, on small file systems
 * that are mounted for a test, on loop devices. What is not allowed here skips
 * the test that wants it.
 */
#ifndef TESTS_UNIT_PLACES_H
#define TESTS_UNIT_PLACES_H

#include "depot.h"

#define MIB ((uint64_t)1 << 20)

extern const struct virtq_store_options direct;

/* A new sparse file in @folder; returns its path, for file_drop(). */
char *sparse_make(const char *folder, uint64_t bytes);
uint64_t space_of(const char *path);
/* A folder with a file system of its own, for this process alone; skips if that is not allowed. */
char *place_mount(const char *source, const char *type, const char *options);
void place_unmount(char *folder);
/* As store_make(); skips the test where the file system refuses O_DIRECT. */
struct virtq_store *store_make_direct(const char *path);

struct loop {
	char device[32];
	char *path;
	int fd;
};

/* A loop device of a file in @folder; skips where there are none. */
void loop_open(struct loop *l, const char *folder, uint64_t bytes, uint32_t block);
void loop_close(struct loop *l);

#endif
