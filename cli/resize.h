/* SPDX-License-Identifier: MIT */
/* The command `virtq resize`. Its function returns the exit status. */
#ifndef VIRTQ_CLI_RESIZE_H
#define VIRTQ_CLI_RESIZE_H

/* virtq resize ...; argv[0] is "resize" */
int resize_main(int argc, char **argv);

#endif
