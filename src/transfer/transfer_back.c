/* SPDX-License-Identifier: MIT */
/*
 * How transfers come back: taken from the ring, told to who polls, waited for.
 * What was abandoned is not told but released, last in every call; see transfer.c.
 */
#include "transfer/transfer.h"

#include <errno.h>

/* ---- Coming back -------------------------------------------------------- */

void transfer_back(struct virtq_transfer *t, uint32_t written, enum transfer_lost lost)
{
	struct virtq_transfers *set = t->set;

	VIRTQ_ASSERT(t->state == TRANSFER_FLYING);
	t->state = TRANSFER_READY;
	t->written = written;
	t->lost = (uint8_t)lost;
	if (UNLIKELY(set->config.guard))
		transfer_guard(t, false);
	if (UNLIKELY(t->abandoned)) {
		transfer_list(&set->to_release, t);
		set->to_release_count++;
	} else {
		transfer_list(&set->back, t);
	}
}

/*
 * Calls cost: none are wanted but by who is about to sleep, and whoever looks is
 * awake. Who sends or prepares need not be: the owner's event loop goes on sleeping on what
 * arm() said. So only poll, check and wait come here.
 */
static void disarm(struct virtq_transfers *set)
{
	set->armed = false;
	virtq_driver_disarm(set->q);
}

/*
 * As virtq_driver_get(), which answers for tokens and lengths: one of ours that
 * flies, and no more than fits. A broken ring stays so; what it was is wanted
 * when the driver end may be gone.
 */
ALWAYS_INLINE int get(struct virtq_transfers *set, struct virtq_completion *done, unsigned int max)
{
	int n = virtq_driver_get(set->q, done, max);

	if (UNLIKELY(n == -EBADMSG))
		set->broken = true;
	return n;
}

/* These came back with their ring entries, if the ring has kept any for them. */
static void note_kept(struct virtq_transfers *set, const struct virtq_completion *done,
		      unsigned int count)
{
	uint32_t kept = 0;

	for (unsigned int i = 0; i < count; i++) {
		struct virtq_transfer *t = done[i].token;

		t->kept = done[i].id != VIRTQ_NOT_KEPT;
		t->kept_id = done[i].id;
		kept += t->kept;
	}
	set->kept_idle += kept;
}

int transfers_reap(struct virtq_transfers *set)
{
	struct virtq_completion done[TRANSFER_BATCH];
	int n;

	do {
		const bool keeps = set->q->keep;

		n = get(set, done, TRANSFER_BATCH);
		if (keeps && n > 0)
			note_kept(set, done, (unsigned int)n);
		for (int i = 0; i < n; i++) {
			struct virtq_transfer *t = done[i].token;

			transfer_back(t, done[i].written, LOST_NOT);
			if (t->abandoned)
				transfer_unkeep(t);
		}
	} while (n > 0);	/* a fault behind what was used is told at once */
	return n;
}

/*
 * The wish to be called stays. A sound device calls for what was found here, sooner
 * or later; one that broke the ring may not. When arm() said 0 nothing was listed.
 */
void transfers_reap_for_room(struct virtq_transfers *set)
{
	int rc = transfers_reap(set);

	if (LIKELY(!set->armed) || !set->host)
		return;
	if (rc || !transfer_list_is_empty(&set->back) || set->to_release_count)
		set->host->wake(set->port);
}

/* As poll() tells them, straight from the ring: for a set in which none is abandoned. */
static int reap_into(struct virtq_transfers *set, struct virtq_transfer **told, unsigned int max)
{
	struct virtq_completion done[TRANSFER_BATCH];
	const bool keeps = set->q->keep;
	unsigned int n = 0;

	while (n < max) {
		unsigned int want = max - n < TRANSFER_BATCH ? max - n : TRANSFER_BATCH;
		int got = get(set, done, want);

		if (got < 0)
			return n ? (int)n : got;
		for (int i = 0; i < got; i++) {
			struct virtq_transfer *t = done[i].token;

			t->state = TRANSFER_READY;
			t->written = done[i].written;
			told[n + (unsigned int)i] = t;
		}
		if (keeps)
			note_kept(set, done, (unsigned int)got);
		if (UNLIKELY(set->config.guard))
			for (int i = 0; i < got; i++)
				transfer_guard(told[n + (unsigned int)i], false);
		n += (unsigned int)got;
		if ((unsigned int)got < want)
			break;
	}
	return (int)n;
}

/* Reap, and release what was abandoned. */
static int look(struct virtq_transfers *set)
{
	int rc = transfers_reap(set);

	if (UNLIKELY(set->to_release_count))
		transfers_release(set);
	return rc;
}

int virtq_transfer_check(struct virtq_transfer *t)
{
	int rc;

	VIRTQ_ASSERT(t->state != TRANSFER_FREE);
	if (UNLIKELY(t->set->armed))
		disarm(t->set);
	if (t->state != TRANSFER_FLYING)
		return 1;
	rc = look(t->set);
	return t->state != TRANSFER_FLYING ? 1 : rc;
}

/* What is back, up to @max of them, without waiting. With 0 it is looked for all the same. */
static int tell(struct virtq_transfers *set, struct virtq_transfer **done, unsigned int max)
{
	unsigned int n = 0;
	int rc = 0;

	if (UNLIKELY(set->armed))
		disarm(set);
	/* Before anything is told: release functions may end what would be. */
	if (UNLIKELY(set->abandoned || !max))
		rc = look(set);
	while (n < max && !transfer_list_is_empty(&set->back)) {
		done[n] = transfer_first(&set->back);
		transfer_unlist(done[n++]);
	}
	if (LIKELY(!set->abandoned) && n < max) {
		rc = reap_into(set, done + n, max - n);
		n += rc > 0 ? (unsigned int)rc : 0;
	}
	/* An error is behind what is left. */
	return n || !transfer_list_is_empty(&set->back) ? (int)n : rc;
}

/* ---- Waiting ------------------------------------------------------------ */

/* Left over by transfers_release(): not to be slept over. */
static bool is_release_due(const struct virtq_transfers *set)
{
	return set->to_release_count && !set->in_release;
}

int virtq_transfers_arm(struct virtq_transfers *set)
{
	int rc = look(set);

	if (!transfer_list_is_empty(&set->back) || is_release_due(set))
		return 1;
	if (rc)
		return rc;
	set->armed = true;
	if (set->host)
		return set->host->arm(set->port);
	transfers_publish(set);
	return virtq_driver_arm(set->q);
}

/*
 * Sleep until the ring has something new. Where that is so already, what ends the
 * wait is looked at still: it may go on like this for ever.
 *
 * Return: 1 if it may have; 0 when the time was over; or an error.
 */
static int sleep_once(struct virtq_transfers *set, const struct virtq_wait *wait,
		      int64_t deadline_ns)
{
	const struct transfers_host *host = set->host;
	int rc = host->kick_error(set->port);

	if (rc)
		return rc;
	if (is_release_due(set)) {
		rc = 1;
	} else {
		set->armed = true;
		rc = host->arm(set->port);
	}
	if (rc < 0 || !deadline_ns)
		return rc < 0 ? rc : 0;
	rc = host->sleep(set->port, wait, rc ? 0 : deadline_ns);
	return rc < 0 ? rc : !host->is_over(deadline_ns);
}

/* Wait for @t if that is not NULL, else for any, told in @done. The last thing is a look. */
static int wait_for(struct virtq_transfers *set, struct virtq_transfer *t,
		    struct virtq_transfer **done, unsigned int max, const struct virtq_wait *wait)
{
	int64_t deadline_ns = 0;
	bool slept = false;
	int rc = 1;

	for (;;) {
		const bool over = !rc;

		rc = t ? virtq_transfer_check(t) : tell(set, done, max);
		if (rc || !wait || over || (!t && !max))
			return rc;
		if (!set->host)
			return -ENOTSUP;
		if (!slept)
			deadline_ns = set->host->deadline(wait);
		slept = true;
		rc = sleep_once(set, wait, deadline_ns);
		if (rc < 0)
			break;
	}
	if (set->armed)
		disarm(set);
	return rc;
}

int virtq_transfer_wait(struct virtq_transfer *t, const struct virtq_wait *wait)
{
	return wait_for(t->set, t, NULL, 0, wait);
}

int virtq_transfers_poll(struct virtq_transfers *set, struct virtq_transfer **done,
			 unsigned int max, const struct virtq_wait *wait)
{
	return wait_for(set, NULL, done, max, wait);
}
