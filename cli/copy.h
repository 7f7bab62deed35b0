/* SPDX-License-Identifier: MIT */
/* The command `virtq copy`. Returns the exit status. */
#ifndef VIRTQ_CLI_COPY_H
#define VIRTQ_CLI_COPY_H

/* virtq copy ...; argv[0] is "copy" */
int copy_main(int argc, char **argv);

#endif
