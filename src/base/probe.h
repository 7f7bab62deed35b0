/* SPDX-License-Identifier: MIT */
/*
 * Static probes for tracers (USDT), one at each station of a request: a no-op in the
 * code and a note in the file that says where it is and where the arguments lie.
 * docs/engine.md says how to use them. Without <sys/sdt.h> there are none.
 */
#ifndef VIRTQ_BASE_PROBE_H
#define VIRTQ_BASE_PROBE_H

#ifdef VIRTQ_PROBES
#include <sys/sdt.h>
#define PROBE3(name, a, b, c) DTRACE_PROBE3(virtq, name, a, b, c)
#define PROBE5(name, a, b, c, d, e) DTRACE_PROBE5(virtq, name, a, b, c, d, e)
#else
#define PROBE3(name, a, b, c) ((void)0)
#define PROBE5(name, a, b, c, d, e) ((void)0)
#endif

/* Of each the first two say which request: its queue (an address) and slot. */
#define PROBE_POP(req) \
	PROBE5(pop, (req)->queue, (req)->slot, (req)->rd.bytes, (req)->wr.bytes, (req)->id)
#define PROBE_START(req, verdict) PROBE3(start, (req)->queue, (req)->slot, verdict)
#define PROBE_PERFORM(req, op) \
	PROBE5(perform, (req)->queue, (req)->slot, (op)->kind, (op)->fd, (op)->offset)
#define PROBE_FINISH(req, result) PROBE3(finish, (req)->queue, (req)->slot, result)
#define PROBE_PUSH(req) PROBE3(push, (req)->queue, (req)->slot, (req)->written)

#endif
