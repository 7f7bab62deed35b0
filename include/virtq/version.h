/* SPDX-License-Identifier: MIT */
/* Which libvirtq this is: of the headers as macros, of the library as a call. */
#ifndef VIRTQ_VERSION_H
#define VIRTQ_VERSION_H

#include <virtq/api.h>

#define VIRTQ_VERSION_MAJOR 0
#define VIRTQ_VERSION_MINOR 1
#define VIRTQ_VERSION_PATCH 0
#define VIRTQ_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif

/** virtq_version - the library's version, "MAJOR.MINOR.PATCH". Thread: any. Since: 0.1 */
VIRTQ_API const char *virtq_version(void);

#ifdef __cplusplus
}
#endif

#endif
