/* SPDX-License-Identifier: MIT */
/*
 * Little-endian integers as they lie in shared memory and on the wire.
 *
 * They are structs so that forgetting the conversion does not compile. These
 * three are the only typedefs of structs in the library: to a reader they are
 * integer types, as le16, le32 and le64 are in the standard's own text.
 */
#ifndef VIRTQ_SPEC_TYPES_H
#define VIRTQ_SPEC_TYPES_H

#include <stdint.h>

typedef struct { uint16_t raw; } virtq_le16;
typedef struct { uint32_t raw; } virtq_le32;
typedef struct { uint64_t raw; } virtq_le64;

#endif
