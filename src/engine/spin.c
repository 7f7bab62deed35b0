/* SPDX-License-Identifier: MIT */
/*
 * When an engine that has nothing to do looks at its rings for a while instead of
 * asking for kicks and sleeping: VIRTQ_SPIN_AUTO tunes itself here.
 *
 * A gap is the time from having nothing to do until there is something, be it a
 * request or the end of an operation. While next to all gaps are shorter than
 * the bound the engine spins for as long as that: a bound that is about what sleeping and
 * waking up costs can never be wrong by much. Where longer ones are mixed in, as between
 * bursts, it spins for the mean of the short ones and four deviations, which covers nearly
 * all of these and loses little on the others. Once most are long it does not
 * spin at all, but for every 64th time, to find out if that is still so: asleep it
 * measures how long waking up takes as well.
 *
 * With requests in flight the engine mostly waits for storage, without for the driver: what
 * is learned about one says nothing about the other.
 *
 * Storage may need this very processor, for a worker of the kernel or another program. The engine
 * gives it away between looks; where that nearly always was what brought the end of an operation,
 * and drivers had nothing new then, it sleeps at once: that is one system call instead of
 * three, and none would have kicked. This, too, is tried again every 64th time.
 */
#include "engine/engine.h"

#define LONG_SHARE_UNIT 256u
#define LONG_SHARE_MAX (LONG_SHARE_UNIT / 2)	/* of all gaps, to spin at all */
#define LONG_SHARE_FEW (LONG_SHARE_UNIT / 8)	/* to spin for the whole bound */
#define YIELD_SHARE_MIN (LONG_SHARE_UNIT * 3 / 4)	/* of all gaps, not to spin */
#define SLEEPS_UNTIL_TRIAL 64u

void spin_init(struct virtq_engine *e)
{
	uint64_t bound_ns = (uint64_t)e->config.spin_us * 1000;

	/* Nothing is known: the whole bound. */
	for (int i = 0; i < 2; i++)
		e->spin.gaps[i] = (struct engine_gaps){ .mean_ns = bound_ns / 2,
							.deviation_ns = bound_ns / 8 };
}

static void learn(struct engine_gaps *gaps, uint64_t gap_ns, uint64_t bound_ns)
{
	int64_t error = (int64_t)gap_ns - (int64_t)gaps->mean_ns;

	if (gap_ns >= bound_ns) {
		gaps->long_share += (LONG_SHARE_UNIT - gaps->long_share) / 8;
		return;
	}
	gaps->long_share -= gaps->long_share / 8;
	gaps->mean_ns = (uint64_t)((int64_t)gaps->mean_ns + error / 8);
	if (error < 0)
		error = -error;
	gaps->deviation_ns = (uint64_t)((int64_t)gaps->deviation_ns +
					(error - (int64_t)gaps->deviation_ns) / 4);
}

/*
 * Did what was waited for happen while the processor was given away once, and nothing
 * else? Asleep that cannot be told, only that a driver had more.
 */
static void learn_to_make_way(struct engine_spin *spin, bool arrived)
{
	struct engine_gaps *gaps = spin->of;

	if (!arrived && !spin->for_ns)
		return;
	if (arrived || spin->looks != 1)
		gaps->yield_share -= spin->trial ? gaps->yield_share / 2 : gaps->yield_share / 8;
	else
		gaps->yield_share += (LONG_SHARE_UNIT - gaps->yield_share) / 8;
}

void spin_worked(struct virtq_engine *e, bool arrived)
{
	struct engine_spin *spin = &e->spin;
	uint64_t bound_ns = (uint64_t)e->config.spin_us * 1000, gap_ns;

	if (!spin->idle_since_ns)
		return;
	gap_ns = engine_now(e) - spin->idle_since_ns;
	spin->idle_since_ns = 0;
	/* A trial that went well counts for more than what was measured asleep. */
	if (spin->trial && gap_ns < bound_ns && spin->of->long_share > LONG_SHARE_MAX)
		spin->of->long_share = LONG_SHARE_MAX;
	learn(spin->of, gap_ns, bound_ns);
	learn_to_make_way(spin, arrived);
	spin->makes_way = false;
}

static void begin_idle(struct virtq_engine *e)
{
	struct engine_spin *spin = &e->spin;
	uint64_t bound_ns = (uint64_t)e->config.spin_us * 1000;
	bool in_flight = false;

	for (const struct virtq_engine_queue *q = e->queues; q && !in_flight; q = q->next)
		in_flight = q->in_flight != 0;
	spin->of = &spin->gaps[in_flight];
	spin->idle_since_ns = engine_now(e);
	spin->trial = false;
	spin->looks = 0;
	spin->for_ns = spin->of->mean_ns + 4 * spin->of->deviation_ns;
	if (spin->for_ns > bound_ns || spin->of->long_share <= LONG_SHARE_FEW)
		spin->for_ns = bound_ns;
	spin->makes_way = in_flight && spin->of->yield_share > YIELD_SHARE_MIN;
	if (spin->of->long_share <= LONG_SHARE_MAX && !spin->makes_way)
		return;
	spin->trial = ++spin->of->sleeps % SLEEPS_UNTIL_TRIAL == 0;
	spin->makes_way &= !spin->trial;
	spin->for_ns = spin->trial ? bound_ns : 0;
}

bool spin_goes_on(struct virtq_engine *e)
{
	struct engine_spin *spin = &e->spin;

	if (e->config.spin != VIRTQ_SPIN_AUTO || !e->queues)
		return false;
	if (!spin->idle_since_ns) {
		begin_idle(e);
	} else {
		e->now_ns = engine_now_ns();
		spin->looks++;
	}
	return e->now_ns - spin->idle_since_ns < spin->for_ns;
}
