/* SPDX-License-Identifier: MIT */
/* Other people's rings, each a program that is run beside ours. */
#include "peer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

double peer_run(const char *program, enum peer_kind kind, unsigned int batch, uint64_t buffers,
		const int cpus[2], const char *chain, char why[PEER_TEXT_BYTES])
{
	char command[4096], place[64];
	double ns = -1;
	FILE *pipe;
	int n;

	if (kind == PEER_TWO)
		snprintf(place, sizeof(place), "--cpus %d,%d", cpus[0], cpus[1]);
	else if (kind == PEER_DEVICE)
		snprintf(place, sizeof(place), "--cpu %d --chain %s", cpus[0], chain);
	else
		snprintf(place, sizeof(place), "--cpu %d", cpus[0]);
	n = snprintf(command, sizeof(command), "exec '%s' --batch %u --buffers %llu %s", program,
		     batch, (unsigned long long)buffers, place);
	if (strchr(program, '\'') || n < 0 || n >= (int)sizeof(command)) {
		snprintf(why, PEER_TEXT_BYTES, "a program's path is too long or has a quote in it");
		return -1;
	}
	fflush(NULL);
	pipe = popen(command, "r");
	if (!pipe) {
		snprintf(why, PEER_TEXT_BYTES, "cannot start %s: %s", program, strerror(errno));
		return -1;
	}
	if (fscanf(pipe, " ns_per_buffer %lf", &ns) != 1)
		ns = -1;
	while (fgetc(pipe) != EOF)
		;
	if (pclose(pipe) || ns <= 0) {
		snprintf(why, PEER_TEXT_BYTES,
			 "%s: did not succeed and print 'ns_per_buffer X'", command);
		return -1;
	}
	return ns;
}
