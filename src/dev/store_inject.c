/* SPDX-License-Identifier: MIT */
/*
 * A store that fails on purpose, in front of one that does not: what its rules
 * say, and what becomes of a piece of work that one of them applies to.
 *
 * A late piece waits for a TIMEOUT of the engine's and has not begun, one that
 * hangs is held: both have a mark in io->room, which is the inner store's own
 * from the moment that it gets the piece. Of a short one the inner store sees
 * the beginning only; what it does not see is noted here.
 */
#include "dev/store.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/shm.h"

#define SHORTS_MAX 256u		/* at once; others fail with nothing transferred */

struct rule {
	uint32_t kinds;			/* a bit for each; 0 for all */
	int error;			/* 0: it does not fail */
	bool cuts, hangs;
	uint64_t keep_bytes;		/* with @cuts */
	uint64_t delay_ns;
	uint64_t from, to;
	uint64_t every, after, times;
	uint64_t fitted, applied;	/* by the lock */
};

/* A piece of which the inner store sees the beginning. */
struct short_io {
	const struct virtq_store_io *io;	/* NULL: free */
	const struct rule *rule;
	uint64_t bytes;				/* of all of it */
	struct virtq_cursor *cursor;		/* NULL: it has no data */
	struct virtq_span *cut, *end;		/* the last span that it sees; behind the last */
	struct virtq_span rest;			/* of the one that was cut */
	uint64_t hidden_bytes;
};

struct inject {
	struct virtq_store store;
	struct virtq_store *inner;
	struct rule *rules;
	unsigned int rule_count;
	pthread_mutex_t lock;
	struct virtq_store_io *hung;		/* by the lock */
	unsigned int short_count;		/* by the lock */
	struct short_io shorts[SHORTS_MAX];	/* by the lock */
};

static struct inject *inject_of(struct virtq_store *store)
{
	return container_of(store, struct inject, store);
}

static enum virtq_verdict ended(struct virtq_store_io *io, int64_t result)
{
	io->result = (int)result;
	return VIRTQ_DONE;
}

/* ---- Marks --------------------------------------------------------------- */

#define MARK 0x6e6f742062656775u

struct mark {
	struct inject *inject;		/* of two in a row each knows its own */
	uint64_t mark;
	const struct rule *rule;
	struct virtq_store_io *next;	/* of those that hang; by the lock */
};

static struct mark *mark_of(struct virtq_store_io *io)
{
	return (struct mark *)(void *)io->room;
}

static void set_mark(struct inject *inject, struct virtq_store_io *io, const struct rule *rule)
{
	*mark_of(io) = (struct mark){ inject, MARK, rule, NULL };
}

static bool has_mark(const struct inject *inject, struct virtq_store_io *io)
{
	return mark_of(io)->inject == inject && mark_of(io)->mark == MARK;
}

static void hang(struct inject *inject, struct virtq_store_io *io)
{
	pthread_mutex_lock(&inject->lock);
	mark_of(io)->next = inject->hung;
	inject->hung = io;
	pthread_mutex_unlock(&inject->lock);
}

/* Returns false if it does not hang: then its room is not to be looked into. */
static bool unhang(struct inject *inject, const struct virtq_store_io *io)
{
	struct virtq_store_io **at;
	bool found;

	pthread_mutex_lock(&inject->lock);
	for (at = &inject->hung; *at && *at != io; at = &mark_of(*at)->next)
		;
	found = *at;
	if (found)
		*at = mark_of(*at)->next;
	pthread_mutex_unlock(&inject->lock);
	return found;
}

/* ---- Short pieces -------------------------------------------------------- */

/* Hide all of the cursor but its first @keep bytes, not 0 and fewer than it has. */
static void hide_rest(struct short_io *s, struct virtq_cursor *c, uint64_t keep)
{
	uint64_t before = 0;

	s->cursor = c;
	s->cut = c->spans;
	s->end = c->spans + c->count;
	while (before + s->cut->len < keep)
		before += (s->cut++)->len;
	s->rest.base = (uint8_t *)s->cut->base + (keep - before);
	s->rest.len = s->cut->len - (size_t)(keep - before);
	s->cut->len -= s->rest.len;
	s->hidden_bytes = c->bytes - keep;
	c->count = (uint32_t)(s->cut - c->spans) + 1;
	c->bytes = keep;
}

/* Some, or all, of what was to be seen may have been consumed. */
static void show_rest(const struct short_io *s)
{
	struct virtq_cursor *c = s->cursor;

	if (c->spans <= s->cut) {
		s->cut->len += s->rest.len;
	} else if (s->rest.len) {
		*s->cut = s->rest;
		c->spans = s->cut;
	}
	c->count = (uint32_t)(s->end - c->spans);
	c->bytes += s->hidden_bytes;
}

static struct short_io *find_short(struct inject *inject, const struct virtq_store_io *io)
{
	for (unsigned int i = 0; i < SHORTS_MAX; i++)
		if (inject->shorts[i].io == io)
			return &inject->shorts[i];
	return NULL;
}

/* Returns false if nothing of it shall be done. */
static bool begin_short(struct inject *inject, const struct rule *rule,
			struct virtq_store_io *io)
{
	uint64_t keep = rule->keep_bytes < io->bytes ? rule->keep_bytes : io->bytes;
	struct short_io *s = NULL;

	if (!keep)
		return false;
	pthread_mutex_lock(&inject->lock);
	s = find_short(inject, NULL);
	if (s) {
		*s = (struct short_io){ .io = io, .rule = rule, .bytes = io->bytes };
		if (keep < io->bytes && io->kind == VIRTQ_STORE_READ)
			hide_rest(s, &io->req->wr, keep);
		else if (keep < io->bytes && io->kind == VIRTQ_STORE_WRITE)
			hide_rest(s, &io->req->rd, keep);
		io->bytes = keep;
		inject->short_count++;
	}
	pthread_mutex_unlock(&inject->lock);
	return s;
}

/* The inner store has done with it. */
static void end_short(struct inject *inject, struct virtq_store_io *io)
{
	struct short_io *s;

	pthread_mutex_lock(&inject->lock);
	s = inject->short_count ? find_short(inject, io) : NULL;
	if (s) {
		if (s->cursor)
			show_rest(s);
		io->bytes = s->bytes;
		if (!io->result)
			io->result = -s->rule->error;
		s->io = NULL;
		inject->short_count--;
	}
	pthread_mutex_unlock(&inject->lock);
}

/* ---- The inner store ----------------------------------------------------- */

static enum virtq_verdict follow(struct inject *inject, struct virtq_store_io *io,
				 enum virtq_verdict verdict)
{
	if (verdict == VIRTQ_DONE)
		end_short(inject, io);
	return verdict;
}

static enum virtq_verdict inner_start(struct inject *inject, struct virtq_store_io *io,
				      struct virtq_op *op)
{
	*op = (struct virtq_op){ 0 };
	return follow(inject, io, inject->inner->ops->start(inject->inner, io, op));
}

static enum virtq_verdict inner_finish(struct inject *inject, struct virtq_store_io *io,
				       struct virtq_op *op, int64_t result)
{
	const struct virtq_store_ops *ops = inject->inner->ops;
	bool data = io->kind == VIRTQ_STORE_READ || io->kind == VIRTQ_STORE_WRITE;

	if (ops->finish)
		return follow(inject, io, ops->finish(inject->inner, io, op, result));
	if (result >= 0)
		result = data && (uint64_t)result != io->bytes ? -EIO : 0;
	return follow(inject, io, ended(io, result));
}

/* ---- Rules at work ------------------------------------------------------- */

static bool fits(const struct rule *rule, const struct virtq_store_io *io)
{
	if (rule->kinds && !(rule->kinds & 1u << io->kind))
		return false;
	if (!rule->from && rule->to == UINT64_MAX)
		return true;
	/* A flush touches no range. */
	return io->bytes && io->offset < rule->to && io->offset + io->bytes > rule->from;
}

static bool applies(struct rule *rule, const struct virtq_store_io *io)
{
	if (!fits(rule, io) || ++rule->fitted <= rule->after ||
	    (rule->fitted - rule->after) % rule->every || rule->applied >= rule->times)
		return false;
	rule->applied++;
	return true;
}

static const struct rule *pick_rule(struct inject *inject, const struct virtq_store_io *io)
{
	const struct rule *found = NULL;

	pthread_mutex_lock(&inject->lock);
	for (unsigned int i = 0; i < inject->rule_count && !found; i++)
		if (applies(&inject->rules[i], io))
			found = &inject->rules[i];
	pthread_mutex_unlock(&inject->lock);
	return found;
}

static enum virtq_verdict begin(struct inject *inject, const struct rule *rule,
				struct virtq_store_io *io, struct virtq_op *op)
{
	if (rule->error && !(rule->cuts && begin_short(inject, rule, io)))
		return ended(io, -rule->error);
	return inner_start(inject, io, op);
}

static enum virtq_verdict inject_start(struct virtq_store *store, struct virtq_store_io *io,
				       struct virtq_op *op)
{
	struct inject *inject = inject_of(store);
	const struct rule *rule = pick_rule(inject, io);

	*mark_of(io) = (struct mark){ 0 };
	if (!rule)
		return inner_start(inject, io, op);
	if (!rule->hangs && !rule->delay_ns)
		return begin(inject, rule, io, op);
	set_mark(inject, io, rule);
	if (rule->hangs) {
		hang(inject, io);
		return VIRTQ_HOLD;
	}
	*op = (struct virtq_op){ .kind = VIRTQ_OP_TIMEOUT, .bytes = rule->delay_ns };
	return VIRTQ_SUBMIT;
}

static enum virtq_verdict inject_finish(struct virtq_store *store, struct virtq_store_io *io,
					struct virtq_op *op, int64_t result)
{
	struct inject *inject = inject_of(store);
	const struct rule *rule = mark_of(io)->rule;

	if (!has_mark(inject, io))
		return inner_finish(inject, io, op, result);
	*mark_of(io) = (struct mark){ 0 };
	return result < 0 ? ended(io, result) : begin(inject, rule, io, op);
}

static void inject_cancel(struct virtq_store *store, struct virtq_store_io *io)
{
	struct inject *inject = inject_of(store);

	if (unhang(inject, io))
		virtq_engine_complete(io->req, -ECANCELED);
	else if (inject->inner->ops->cancel)
		inject->inner->ops->cancel(inject->inner, io);
}

static int64_t inject_refresh(struct virtq_store *store)
{
	struct inject *inject = inject_of(store);
	int64_t bytes = (int64_t)shm_word_read(&store->info.bytes);

	if (!inject->inner->ops->refresh)
		return bytes;
	bytes = inject->inner->ops->refresh(inject->inner);
	shm_word_write(&store->info.bytes, shm_word_read(&inject->inner->info.bytes));
	return bytes;
}

static void inject_close(struct virtq_store *store)
{
	struct inject *inject = inject_of(store);

	virtq_store_close(inject->inner);
	pthread_mutex_destroy(&inject->lock);
	free(inject->rules);
	free(inject);
}

static const struct virtq_store_ops inject_ops = {
	.name = "inject",
	.start = inject_start,
	.finish = inject_finish,
	.cancel = inject_cancel,
	.refresh = inject_refresh,
	.close = inject_close,
};

/* ---- Rules as text ------------------------------------------------------- */

static const struct { const char *name; int error; } error_names[] = {
#define NAMED(error) { #error, error }
	NAMED(EPERM), NAMED(ENOENT), NAMED(ESRCH), NAMED(EINTR), NAMED(EIO), NAMED(ENXIO),
	NAMED(E2BIG), NAMED(ENOEXEC), NAMED(EBADF), NAMED(ECHILD), NAMED(EAGAIN),
	NAMED(ENOMEM), NAMED(EACCES), NAMED(EFAULT), NAMED(ENOTBLK), NAMED(EBUSY),
	NAMED(EEXIST), NAMED(EXDEV), NAMED(ENODEV), NAMED(ENOTDIR), NAMED(EISDIR),
	NAMED(EINVAL), NAMED(ENFILE), NAMED(EMFILE), NAMED(ENOTTY), NAMED(ETXTBSY),
	NAMED(EFBIG), NAMED(ENOSPC), NAMED(ESPIPE), NAMED(EROFS), NAMED(EMLINK),
	NAMED(EPIPE), NAMED(EDOM), NAMED(ERANGE), NAMED(EDEADLK), NAMED(ENOSYS),
	NAMED(ENODATA), NAMED(ETIME), NAMED(ENOLINK), NAMED(EPROTO), NAMED(EBADMSG),
	NAMED(EOVERFLOW), NAMED(EILSEQ), NAMED(EOPNOTSUPP), NAMED(ENOTSUP),
	NAMED(ENOBUFS), NAMED(ECONNRESET), NAMED(ENOTCONN), NAMED(ESHUTDOWN),
	NAMED(ETIMEDOUT), NAMED(ECONNREFUSED), NAMED(EHOSTUNREACH), NAMED(ESTALE),
	NAMED(EREMOTEIO), NAMED(EDQUOT), NAMED(ENOMEDIUM), NAMED(EMEDIUMTYPE),
	NAMED(ECANCELED),
#undef NAMED
};

#define ERROR_MAX 4095u		/* what the kernel has room for in a pointer */

static bool parse_error(const char *text, int *error)
{
	uint64_t number;

	for (size_t i = 0; i < sizeof(error_names) / sizeof(error_names[0]); i++)
		if (strcmp(text, error_names[i].name) == 0) {
			*error = error_names[i].error;
			return true;
		}
	if (!store_number(text, &number) || !number || number > ERROR_MAX)
		return false;
	*error = (int)number;
	return true;
}

static bool parse_kind(const char *text, uint32_t *kinds)
{
	static const char *const names[] = {
		[VIRTQ_STORE_READ] = "read", [VIRTQ_STORE_WRITE] = "write",
		[VIRTQ_STORE_FLUSH] = "flush", [VIRTQ_STORE_DISCARD] = "discard",
		[VIRTQ_STORE_ZERO] = "zero", [VIRTQ_STORE_ERASE] = "erase",
	};

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(text, names[i]) == 0) {
			*kinds |= 1u << i;
			return true;
		}
	return false;
}

/* Returns NULL, or what is wrong. */
static const char *parse_setting(struct rule *rule, const char *key, const char *value)
{
	uint64_t number = 0;
	bool numeric = value && store_number(value, &number);

	if (strcmp(key, "hang") == 0) {
		rule->hangs = true;
		return value ? "is all there is to say" : NULL;
	}
	if (!value)
		return "is no rule that stands without a value";
	if (strcmp(key, "op") == 0)
		return parse_kind(value, &rule->kinds) ? NULL :
			"is read, write, flush, discard, zero or erase";
	if (strcmp(key, "error") == 0)
		return parse_error(value, &rule->error) ? NULL :
			"is a name as EIO, or a number of 1 to 4095";
	if (strcmp(key, "short") == 0) {
		rule->cuts = true;
		rule->keep_bytes = number;
		return numeric && number % STORE_SECTOR_BYTES == 0 ? NULL :
			"is a multiple of 512 bytes";
	}
	if (!numeric)
		return "is a number, if it is a key at all";
	if (strcmp(key, "delay") == 0)
		return mul_overflows(number, 1000000, &rule->delay_ns) ? "is too long" : NULL;
	if (strcmp(key, "from") == 0)
		rule->from = number;
	else if (strcmp(key, "to") == 0)
		rule->to = number;
	else if (strcmp(key, "every") == 0)
		rule->every = number;
	else if (strcmp(key, "after") == 0)
		rule->after = number;
	else if (strcmp(key, "times") == 0)
		rule->times = number;
	else
		return "is no key of a rule";
	return NULL;
}

/* @text is cut into its words. */
static int parse_rule(struct rule *rule, char *text, struct virtq_error *err)
{
	char *rest = text, *key, *value;
	const char *wrong;

	*rule = (struct rule){ .to = UINT64_MAX, .every = 1, .times = UINT64_MAX };
	while ((key = strsep(&rest, ","))) {
		if (!*key)
			return error_set(err, -EINVAL,
					 "a rule is KEY=VALUE,..., and here is one without a word");
		value = strchr(key, '=');
		if (value)
			*value++ = 0;
		wrong = parse_setting(rule, key, value);
		if (wrong)
			return error_set(err, -EINVAL, "\"%s%s%s\": %s %s", key, value ? "=" : "",
					 value ? value : "", key, wrong);
	}
	if (rule->cuts && !rule->error)
		rule->error = EIO;
	if (!rule->error && !rule->hangs && !rule->delay_ns)
		return error_set(err, -EINVAL,
				 "a rule without error, short, delay or hang does nothing");
	if (!rule->every || !rule->times || rule->from >= rule->to)
		return error_set(err, -EINVAL, "a rule that never applies does nothing");
	return 0;
}

static int parse_rules(struct inject *inject, const char *rules, struct virtq_error *err)
{
	char *copy = strdup(rules), *rest = copy, *one;
	unsigned int count = 1;
	int rc = 0;

	for (const char *at = rules; *at; at++)
		count += *at == ';';
	inject->rules = calloc(count, sizeof(*inject->rules));
	if (!copy || !inject->rules)
		rc = error_set(err, -ENOMEM, "no memory for %u rules", count);
	while (!rc && (one = strsep(&rest, ";")))
		rc = parse_rule(&inject->rules[inject->rule_count++], one, err);
	free(copy);
	return rc;
}

int virtq_store_inject(struct virtq_store **out, struct virtq_store *inner, const char *rules,
		       struct virtq_error *err)
{
	struct inject *inject = calloc(1, sizeof(*inject));
	int rc;

	if (!inject) {
		virtq_store_close(inner);
		return error_set(err, -ENOMEM, "no memory for a store");
	}
	inject->store.ops = &inject_ops;
	inject->store.info = inner->info;
	inject->inner = inner;
	pthread_mutex_init(&inject->lock, NULL);
	rc = parse_rules(inject, rules, err);
	if (rc) {
		inject_close(&inject->store);
		return rc;
	}
	*out = &inject->store;
	return 0;
}
