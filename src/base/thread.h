/* SPDX-License-Identifier: MIT */
/* Threads of the library's own. */
#ifndef VIRTQ_BASE_THREAD_H
#define VIRTQ_BASE_THREAD_H

#include <pthread.h>

/*
 * Start one. Signals are for the program's own threads, so it has them blocked,
 * but for faults: those come from what the thread itself touches, and a blocked
 * one ends the process instead of asking virtq_guard_install()'s handler.
 *
 * Return: 0 or -errno.
 */
int thread_start(pthread_t *thread, void *(*run)(void *arg), void *arg);

#endif
