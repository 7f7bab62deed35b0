/* SPDX-License-Identifier: MIT */
/* Other people's rings, each a program that is run beside ours. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

#include <stdint.h>

#define PEER_TEXT_BYTES 4400

enum peer_kind {
	PEER_ONE,	/* both ends on one thread */
	PEER_TWO,	/* an end on each of two processors */
	PEER_DEVICE,	/* the device end alone */
	PEER_KINDS
};

/*
 * Run @program once: --batch B --buffers N, and --cpu C (PEER_TWO: --cpus A,B;
 * PEER_DEVICE: also --chain @chain). It prints 'ns_per_buffer X' and exits with
 * 0. Returns X, or -1 and a sentence in @why.
 */
double peer_run(const char *program, enum peer_kind kind, unsigned int batch, uint64_t buffers,
		const int cpus[2], const char *chain, char why[PEER_TEXT_BYTES]);

#endif
