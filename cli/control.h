/* SPDX-License-Identifier: MIT */
/*
 * The control socket of a server: an abstract Unix socket named after its process,
 * where others of the same user ask one line and are answered some. Both ends.
 */
#ifndef VIRTQ_CLI_CONTROL_H
#define VIRTQ_CLI_CONTROL_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include <virtq/error.h>

/* A part of a line of an answer: what would end the line, or do worse, goes. */
void control_write_text(FILE *out, const char *text);

/* ---- The server's end: two threads, each of which serves one after another. ---- */

struct control;

/*
 * Answer to @request, a line without its end: "ok" and what was asked for, or
 * "error " and a sentence; in lines. What is long in coming is sent piece by piece, by
 * fflush(). On either of the control's threads.
 */
typedef void control_answer(void *arg, const char *request, FILE *out);

/* From here on others may ask; who does waits until answers are given. */
int control_open(struct control **out, control_answer *answer, void *arg,
		 struct virtq_error *err);
int control_start(struct control *c, struct virtq_error *err);

/* Nothing new is answered, and what is being answered shall end soon. NULL is fine. */
void control_stop(struct control *c);

/*
 * Stop it. After true nothing is answered any more, and it is gone; NULL is fine.
 * False: an answer takes its time, and needs all that it works with until the process
 * ends, which does not have to wait for it.
 */
bool control_close(struct control *c);

/* ---- The other end. ---- */

/*
 * Which process is meant by @name: a process id, or the socket of a server. -errno
 * with a sentence, or its id.
 */
pid_t control_find(const char *name, struct virtq_error *err);

/*
 * Ask @pid. 0, with what follows "ok" in @answer, to be freed; or -errno with a
 * sentence: there is no such process, it is no server, it is somebody else's, or it said so.
 * The server may end in the middle of @answer: its last line is to be "end". There are no
 * control characters in it but the ends of lines.
 */
int control_ask(pid_t pid, const char *request, char **answer, struct virtq_error *err);

#endif
