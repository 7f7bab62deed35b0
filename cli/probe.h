/* SPDX-License-Identifier: MIT */
/* The command `virtq probe`. Returns the exit status. */
#ifndef VIRTQ_CLI_PROBE_H
#define VIRTQ_CLI_PROBE_H

/* virtq probe ...; argv[0] is "probe" */
int probe_main(int argc, char **argv);

#endif
