/* SPDX-License-Identifier: MIT */
/* The command `virtq serve`. Its functions return the exit status. */
#ifndef VIRTQ_CLI_SERVE_H
#define VIRTQ_CLI_SERVE_H

/* virtq serve DEVICE ...; argv[0] is "serve" */
int serve_main(int argc, char **argv);

/* The same for the block device alone; argv[0] is any name. */
int serve_blk_main(int argc, char **argv);

#endif
