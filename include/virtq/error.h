/* SPDX-License-Identifier: MIT */
/* Why a set-up function refused, as a sentence for a person. */
#ifndef VIRTQ_ERROR_H
#define VIRTQ_ERROR_H

#include <virtq/api.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct virtq_error - one refused set-up step
 * @code: the negative errno value that the function also returned, 0 if none
 * @text: one sentence, no newline, that says what is wrong and with what
 *
 * Every set-up function that takes one accepts NULL. It is written only on
 * failure, and only by the call that failed.
 *
 * Since: 0.1
 */
struct virtq_error {
	int code;
	char text[252];
};

#ifdef __cplusplus
}
#endif

#endif
