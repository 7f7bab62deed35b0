/* SPDX-License-Identifier: MIT */
/* What every public header needs: visibility of exported functions. */
#ifndef VIRTQ_API_H
#define VIRTQ_API_H

#if defined(__GNUC__)
#define VIRTQ_API __attribute__((visibility("default")))
#else
#define VIRTQ_API
#endif

#endif
