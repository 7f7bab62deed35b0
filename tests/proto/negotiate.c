/* SPDX-License-Identifier: MIT */
/*
 * What is offered and what is accepted: our devices, over both transports, and
 * our driver's side against a back end that offers whatever it is told to.
 */
#include "script.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LEGACY_BITS (BIT(VIRTIO_F_NOTIFY_ON_EMPTY) | BIT(VIRTIO_F_ANY_LAYOUT))
/* 24 to 27, 30, 31, 33, 37 to 39, 41 to 49: reserved, legacy, of another transport, or ours. */
#define NEVER (0xfull << 24 | 3ull << 30 | BIT(33) | 7ull << 37 | 0x1ffull << 41)
/* What the two transports carry of the ring's. */
#define CARRIED (BIT(28) | BIT(29) | BIT(32) | BIT(34) | BIT(35) | BIT(36) | BIT(40))

static const struct virtq_features everything = { { UINT64_MAX, UINT64_MAX } };
static const struct virtq_features nothing = { { 0, 0 } };

static struct virtq_features word(uint64_t low)
{
	return (struct virtq_features){ { low, 0 } };
}

/* ---- A back end that offers what it is told to, and has no protocol features. ---- */

static struct virtq_transport *puppet_open(struct script *p, uint64_t offers)
{
	struct virtq_transport *t;
	struct virtq_error err = { 0, "" };

	*p = (struct script){ .features = offers };
	if (script_attach(p, 2000, &t, &err))
		fail_msg("%s", err.text);
	return t;
}

/* How often it was told what is accepted; and what, the last time. */
static unsigned int times_accepted(const struct script *p)
{
	unsigned int times = 0;

	for (unsigned int i = 0; i < p->logged; i++)
		times += p->log[i].request == VHOST_USER_SET_FEATURES;
	return times;
}

static uint64_t accepted_by(const struct script *p)
{
	uint64_t features = 0;

	for (unsigned int i = 0; i < p->logged; i++)
		if (p->log[i].request == VHOST_USER_SET_FEATURES)
			memcpy(&features, p->log[i].payload, sizeof(features));
	return features;
}

/* ---- The driver's side. ---- */

/*
 * F-004, F-007, F-026, F-029, F-033, F-030: all 64 bits are offered; the driver
 * is shown those that mean something here, and gets through with those. SR_IOV,
 * 41, 44 to 49, the legacy ones, 26 and 30 are refused if it asks for them.
 */
static void test_all_bits_offered(void **state)
{
	const uint64_t want = 0xffffff | 0x3fffull << 50 | CARRIED;
	struct virtq_features accepted;
	struct virtq_transport *t;
	struct virtq_error err;
	struct script p;

	(void)state;
	t = puppet_open(&p, UINT64_MAX);
	assert_int_equal(virtq_vhost_user_raw_features(t), UINT64_MAX);
	assert_int_equal(virtq_transport_offered(t).word[0], want);
	assert_int_equal(virtq_transport_offered(t).word[1], 0);
	for (unsigned int bit = 0; bit < 128; bit++) {
		if (bit < 64 && want >> bit & 1)
			continue;
		memset(&err, 0, sizeof(err));
		assert_int_equal(virtq_transport_accept(t, virtq_features_with(word(BIT(32)), bit),
							&err), -EINVAL);
		assert_int_equal(err.code, -EINVAL);
		assert_non_null(strstr(err.text, "not among those offered"));
	}
	assert_int_equal(times_accepted(&p), 0);
	assert_int_equal(virtq_transport_negotiate(t, 0, everything, nothing, &accepted, &err), 0);
	assert_int_equal(accepted.word[0], want);
	script_detach(&p, t);
	/* On the wire with bit 30, which is the transport's own affair. */
	assert_int_equal(accepted_by(&p), want | BIT_30);
	assert_int_equal(want & NEVER, 0);
}

/* F-001: any one bit that is not offered is refused, and nothing is told to the device. */
static void test_not_offered(void **state)
{
	struct script p;
	struct virtq_transport *t = puppet_open(&p, BIT(32) | BIT(9));

	(void)state;
	for (unsigned int bit = 0; bit < 128; bit++)
		if (bit != 32 && bit != 9)
			assert_int_equal(virtq_transport_accept(
				t, virtq_features_with(word(BIT(32)), bit), NULL), -EINVAL);
	assert_int_equal(times_accepted(&p), 0);
	assert_int_equal(virtq_transport_accept(t, word(BIT(32) | BIT(9)), NULL), 0);
	script_detach(&p, t);
	assert_int_equal(accepted_by(&p), BIT(32) | BIT(9));
}

/* F-002, F-003: a network device: what lacks its prerequisite is not accepted. */
static void test_prerequisites_on_the_wire(void **state)
{
	static const struct { uint64_t offers, wants, gets; } cases[] = {
		{ UINT64_MAX, BIT(22), 0 },				/* MQ without CTRL_VQ */
		{ UINT64_MAX, BIT(22) | BIT(17), BIT(22) | BIT(17) },
		{ ~BIT(17), BIT(22) | BIT(17), 0 },
		{ UINT64_MAX, BIT(7) | BIT(9), 0 },			/* GUEST_TSO4, ECN */
		{ UINT64_MAX, BIT(1) | BIT(7) | BIT(9), BIT(1) | BIT(7) | BIT(9) },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct virtq_features accepted;
		struct script p;
		struct virtq_transport *t = puppet_open(&p, cases[i].offers);

		assert_int_equal(virtq_transport_negotiate(t, VIRTIO_ID_NET, word(cases[i].wants),
							   nothing, &accepted, NULL), 0);
		script_detach(&p, t);
		assert_int_equal(accepted.word[0], cases[i].gets | BIT(32));
		assert_int_equal(accepted_by(&p), cases[i].gets | BIT(32) | BIT_30);
	}
}

/* F-005: with nothing but VERSION_1 on offer, the driver settles for that. */
static void test_falls_back(void **state)
{
	struct virtq_features accepted;
	struct script p;
	struct virtq_transport *t = puppet_open(&p, BIT(32));

	(void)state;
	assert_int_equal(virtq_transport_negotiate(t, 0, virtq_ring_features(), nothing, &accepted,
						   NULL), 0);
	assert_int_equal(accepted.word[0], BIT(32));
	script_detach(&p, t);
	assert_int_equal(accepted_by(&p), BIT(32));
}

/* F-006: where there is no falling back, negotiation ends, and no queue starts. */
static void test_required_bit_missing(void **state)
{
	struct virtq_error err = { 0, "" };
	struct script p;
	struct virtq_transport *t = puppet_open(&p, BIT(32) | BIT(9));
	struct queue q;

	(void)state;
	queue_open(&q, -1, 0, layouts[0], 8);
	assert_int_equal(virtq_transport_negotiate(t, 0, word(BIT(9)), word(BIT(12)), NULL, &err),
			 -ENOTSUP);
	assert_non_null(strstr(err.text, "feature bit 12"));
	assert_int_equal(virtq_transport_share(t, q.map, NULL), 0);
	assert_int_equal(virtq_transport_start(t, 0, q.driver, q.kick_fd, q.call_fd, &err),
			 -EINVAL);
	assert_non_null(strstr(err.text, "features must be accepted"));
	script_detach(&p, t);
	assert_int_equal(times_accepted(&p), 0);
	queue_close(&q);
}

/*
 * F-014, F-028: a device without VERSION_1 is a legacy device, and not driven,
 * whatever else it offers; the sentence says so.
 */
static void test_legacy_device_is_refused(void **state)
{
	struct virtq_error err = { 0, "" };
	struct script p;
	struct virtq_transport *t = puppet_open(&p, ~BIT(32));

	(void)state;
	assert_int_equal(virtq_transport_negotiate(t, 0, virtq_ring_features(), nothing, NULL,
						   &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "VERSION_1"));
	assert_int_equal(virtq_transport_accept(t, nothing, &err), -EINVAL);
	assert_non_null(strstr(err.text, "offers no VERSION_1"));
	assert_int_equal(virtq_transport_accept(t, word(BIT(28)), &err), -EINVAL);
	script_detach(&p, t);
	assert_int_equal(times_accepted(&p), 0);
}

/* F-013: offered, VERSION_1 is accepted, or nothing is; negotiate() sees to it. */
static void test_version_1_is_not_declined(void **state)
{
	struct virtq_error err = { 0, "" };
	struct script p;
	struct virtq_transport *t = puppet_open(&p, BIT(32) | BIT(28));

	(void)state;
	assert_int_equal(virtq_transport_accept(t, word(BIT(28)), &err), -EINVAL);
	assert_non_null(strstr(err.text, "must be accepted"));
	assert_int_equal(times_accepted(&p), 0);
	assert_int_equal(virtq_transport_negotiate(t, 0, word(BIT(28)), nothing, NULL, NULL), 0);
	script_detach(&p, t);
	assert_int_equal(accepted_by(&p), BIT(32) | BIT(28));
}

/* F-020, F-023: what the rings serve is accepted where it is offered. */
static void test_ring_features_are_accepted(void **state)
{
	struct virtq_features accepted;
	struct script p;
	struct virtq_transport *t = puppet_open(&p, UINT64_MAX);

	(void)state;
	assert_int_equal(virtq_transport_negotiate(t, 0, virtq_ring_features(), nothing, &accepted,
						   NULL), 0);
	script_detach(&p, t);
	assert_int_equal(accepted.word[0], CARRIED);
	assert_int_equal(accepted_by(&p), CARRIED | BIT_30);
}

/* ---- The device's side. ---- */

struct server {
	struct virtq_vhost_user_server *server;
	char path[80];
	int listen_fd;
	pthread_t thread;
};

static void *server_run(void *arg)
{
	virtq_vhost_user_serve(((struct server *)arg)->server, NULL);
	return NULL;
}

/* One more back end, beside the rig's, that offers @features for @model. */
static int server_open(struct server *s, struct rig *r, struct virtq_model *model,
		       struct virtq_features features, struct virtq_error *err)
{
	struct virtq_vhost_user_server_config config = {
		.model = model, .engines = r->engines, .engine_count = 2, .features = features,
	};
	int rc;

	snprintf(s->path, sizeof(s->path), "%s.2", r->path);
	s->listen_fd = virtq_vhost_user_listen(s->path, NULL);
	assert_true(s->listen_fd >= 0);
	config.listen_fd = s->listen_fd;
	rc = virtq_vhost_user_server_create(&s->server, &config, err);
	if (rc) {
		close(s->listen_fd);
		unlink(s->path);
		return rc;
	}
	assert_int_equal(pthread_create(&s->thread, NULL, server_run, s), 0);
	return 0;
}

static void server_close(struct server *s)
{
	virtq_vhost_user_server_stop(s->server);
	pthread_join(s->thread, NULL);
	virtq_vhost_user_server_destroy(s->server);
	close(s->listen_fd);
	unlink(s->path);
}

static struct virtq_transport *reach(const struct server *s)
{
	struct virtq_error err = { 0, "" };
	struct virtq_transport *t;

	if (virtq_vhost_user_connect(&t, s->path, 2000, &err))
		fail_msg("%s", err.text);
	return t;
}

/* A copy of the toy that says it is of another type and offers @features. */
struct disguise {
	struct virtq_model_ops ops;
	struct toy toy;
};

static struct virtq_model *disguise_as(struct disguise *d, const struct rig *r,
				       unsigned int device_id, struct virtq_features features)
{
	d->toy = r->toy;
	d->ops = *r->toy.model.ops;
	d->ops.device_id = device_id;
	d->ops.features_ok = NULL;
	d->toy.model.ops = &d->ops;
	d->toy.model.features = features;
	return &d->toy.model;
}

/*
 * F-011, F-030, F-031, N-DEV-021: whatever model and program put in, nothing goes out that
 * could not be served: no reserved, legacy (NOTIFY_ON_EMPTY, ANY_LAYOUT) or
 * foreign bits, and nothing past the 64 that the protocol carries.
 */
static void test_offers_only_what_it_serves(void **state)
{
	static const struct { unsigned int device_id; uint64_t own, more; } cases[] = {
		{ VIRTIO_ID_BLOCK, 0x3fe76, 0 },
		{ VIRTIO_ID_NET, 0xfbfc000000ffffaf, 0x7f },
		{ 42, 0xfffc000000ffffff, UINT64_MAX },
	};
	static struct rig there;	/* only its path */
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct virtq_transport *t;
		struct disguise d;
		struct server s;
		int fd;

		disguise_as(&d, r, cases[i].device_id, everything);
		assert_int_equal(server_open(&s, r, &d.toy.model, everything, NULL), 0);
		t = reach(&s);
		assert_int_equal(virtq_vhost_user_raw_features(t),
				 cases[i].own | CARRIED | BIT_30);
		/* F-029, F-033 */
		assert_int_equal(virtq_transport_offered(t).word[0], cases[i].own | CARRIED);
		assert_int_equal(virtq_transport_offered(t).word[1], 0);
		assert_int_equal(virtq_vhost_user_raw_features(t) & LEGACY_BITS, 0);
		virtq_transport_close(t);
		/* Nor taken from a client that was not asked: LOG_ALL, NOTIFY_ON_EMPTY, ANY_LAYOUT. */
		assert_true(strlen(s.path) < sizeof(there.path));
		memcpy(there.path, s.path, sizeof(there.path));
		fd = client_connect(&there);
		client_negotiate(fd, ALL_PROTOCOL, 0);
		for (unsigned int bit = 0; bit < 64; bit++)
			if (NEVER >> bit & 1 && bit != 30)
				assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES,
								BIT(32) | BIT(bit)), 1);
		close(fd);
		server_close(&s);

		assert_int_equal(virtq_loopback_open(&t, &d.toy.model, r->engines, 1, NULL), 0);
		assert_int_equal(virtq_transport_offered(t).word[0],
				 cases[i].own | (CARRIED & ~BIT(36)));
		assert_int_equal(virtq_transport_offered(t).word[1], cases[i].more);
		virtq_transport_close(t);
	}
}

/* F-031: in one process nothing narrows the set: bits 65 to 70 go through negotiation. */
static void test_high_bits_in_one_process(void **state)
{
	struct virtq_features wanted = { { 0, 0x7f } }, accepted;
	struct rig *r = *state;
	struct virtq_transport *t;
	struct disguise d;

	disguise_as(&d, r, VIRTIO_ID_NET, everything);
	assert_int_equal(virtq_loopback_open(&t, &d.toy.model, r->engines, 1, NULL), 0);
	assert_int_equal(virtq_transport_negotiate(t, VIRTIO_ID_NET, virtq_features_or(
		wanted, word(UINT64_MAX)), nothing, &accepted, NULL), 0);
	assert_int_equal(accepted.word[1], 0x7f);
	virtq_transport_close(t);
	/* A disk that turns out to be none. */
	assert_int_equal(virtq_loopback_open(&t, &d.toy.model, r->engines, 1, NULL), 0);
	assert_int_equal(virtq_transport_negotiate(t, VIRTIO_ID_BLOCK, wanted, nothing, NULL, NULL),
			 -EINVAL);
	/* The device's type is known here: GUEST_TSO4 without GUEST_CSUM (F-002). */
	assert_int_equal(virtq_transport_accept(t, word(BIT(32) | BIT(7)), NULL), -EINVAL);
	assert_int_equal(virtq_transport_accept(t, word(BIT(32) | BIT(7) | BIT(1)), NULL), 0);
	virtq_transport_close(t);
}

/* F-008: a device that would offer a bit without its prerequisite is not made. */
static void test_offers_nothing_without_prerequisite(void **state)
{
	static const struct { unsigned int device_id, bit; struct virtq_features missing; } cases[] = {
		{ VIRTIO_ID_BLOCK, 11, { { BIT(9), 0 } } },	/* CONFIG_WCE without FLUSH */
		{ VIRTIO_ID_NET, 22, { { BIT(17), 0 } } },
		{ VIRTIO_ID_NET, 7, { { BIT(1), 0 } } },
		{ VIRTIO_ID_NET, 9, { { BIT(7) | BIT(8), 0 } } },
		{ VIRTIO_ID_NET, 51, { { BIT(57) | BIT(60), 0 } } },
		{ VIRTIO_ID_NET, 65, { { BIT(55), 0 } } },
		{ VIRTIO_ID_NET, 68, { { 0, BIT(67 - 64) } } },
		{ VIRTIO_ID_CRYPTO, 3, { { BIT(0), 0 } } },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct virtq_features one = virtq_features_with(nothing, cases[i].bit), f = one;
		struct virtq_error err = { 0, "" };
		struct virtq_transport *t;
		struct disguise d;
		struct server s;
		char number[40];

		/* With all that the type has, it is made; without the missing ones, not. */
		disguise_as(&d, r, cases[i].device_id, everything);
		assert_int_equal(virtq_loopback_open(&t, &d.toy.model, r->engines, 1, &err), 0);
		virtq_transport_close(t);
		f.word[0] |= CARRIED;
		d.toy.model.features = f;
		assert_int_equal(virtq_loopback_open(&t, &d.toy.model, r->engines, 1, &err),
				 -EINVAL);
		snprintf(number, sizeof(number), "feature bit %u", cases[i].bit);
		assert_non_null(strstr(err.text, number));
		assert_int_equal(server_open(&s, r, &d.toy.model, nothing, &err), -EINVAL);
		for (unsigned int w = 0; w < 2; w++)
			d.toy.model.features.word[w] = ~cases[i].missing.word[w];
		assert_int_equal(virtq_loopback_open(&t, &d.toy.model, r->engines, 1, &err),
				 -EINVAL);
	}
}

/*
 * F-009: any valid subset of what is offered is accepted: each bit alone, all but
 * each, and 2,000 at random. F-010: a set that is none is refused, by each of them.
 */
static void test_subsets(void **state)
{
	struct rig *r = *state;
	int fd = client_connect(r);
	uint64_t offered, random = 7;

	client_negotiate(fd, ALL_PROTOCOL, 0);
	offered = client_get_u64(fd, VHOST_USER_GET_FEATURES);
	for (unsigned int i = 0; i < 2000; i++) {
		uint64_t f = offered & (i < 64 ? BIT(i) : i < 128 ? ~BIT(i - 64) :
					random >> 13 | random << 51);
		bool valid = f & BIT(32) && !(f & BIT(5) && !(f & BIT(6)));

		random = random * 6364136223846793005u + 1442695040888963407u;
		assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, f), !valid);
	}
	close(fd);
}

/* F-010: refused, the driver has nothing: no queue starts; the same for both transports. */
static void test_refused_set_starts_nothing(void **state)
{
	struct virtq_features bad = word(BIT(32) | BIT(5));
	struct rig *r = *state;

	for (unsigned int i = 0; i < 2; i++) {
		struct virtq_error err = { 0, "" };
		struct virtq_transport *t;
		struct queue q;

		if (i)
			assert_int_equal(virtq_loopback_open(&t, &r->toy.model, r->engines, 2,
							     NULL), 0);
		else
			assert_int_equal(virtq_vhost_user_connect(&t, r->path, 2000, NULL), 0);
		queue_open(&q, -1, 0, layouts[0], 8);
		assert_true(virtq_transport_accept(t, bad, &err) < 0);
		assert_true(err.text[0] != '\0');
		assert_int_equal(virtq_transport_share(t, q.map, NULL), 0);
		assert_int_equal(virtq_transport_start(t, 0, q.driver, q.kick_fd, q.call_fd, NULL),
				 -EINVAL);
		/* It may try again, with less. */
		assert_int_equal(virtq_transport_accept(t, word(BIT(32)), &err), 0);
		assert_int_equal(virtq_transport_start(t, 0, q.driver, q.kick_fd, q.call_fd, NULL),
				 0);
		queue_echo(&q);
		virtq_transport_close(t);
		queue_close(&q);
	}
}

/* F-015: VERSION_1 is offered, even by a program that forgot to ask for it. */
static void test_version_1_is_offered(void **state)
{
	struct rig *r = *state;
	struct virtq_transport *t;
	struct queue q;
	struct server s;

	assert_int_equal(server_open(&s, r, &r->toy.model, nothing, NULL), 0);
	t = reach(&s);
	assert_int_equal(virtq_vhost_user_raw_features(t), TOY_FEATURES | BIT(32) | BIT_30);
	/* F-005: neither INDIRECT_DESC nor EVENT_IDX: it runs. */
	assert_int_equal(virtq_transport_negotiate(t, 0, virtq_ring_features_usual(), nothing,
						   NULL, NULL), 0);
	queue_open(&q, -1, 0, BIT(32), 8);
	assert_int_equal(virtq_transport_share(t, q.map, NULL), 0);
	assert_int_equal(virtq_transport_start(t, 0, q.driver, q.kick_fd, q.call_fd, NULL), 0);
	for (unsigned int i = 0; i < 30; i++)
		queue_echo(&q);
	virtq_transport_close(t);
	queue_close(&q);
	server_close(&s);
	assert_int_equal(virtq_loopback_open(&t, &r->toy.model, r->engines, 1, NULL), 0);
	assert_true(virtq_features_has(virtq_transport_offered(t), VIRTIO_F_VERSION_1));
	virtq_transport_close(t);
}

/*
 * F-016, F-028, N-DEV-021: a driver without VERSION_1 is a legacy driver, and
 * refused, with what only such drivers agree on; nothing of it runs.
 */
static void test_legacy_driver_is_refused(void **state)
{
	static const uint64_t sets[] = {
		0, BIT_30, BIT(28), BIT(24), BIT(27), BIT(24) | BIT(27) | BIT_30, BIT(34), TOY_FEATURES,
	};
	struct rig *r = *state;
	int fd = client_connect(r);
	char text[256];
	struct queue q;

	client_negotiate(fd, ALL_PROTOCOL, 0);
	for (unsigned int i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
		assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, sets[i]), 1);
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, BIT(28)), 1);
	rig_await(r, VIRTQ_VU_NACKED, 9, text);
	assert_non_null(strstr(text, "VERSION_1"));
	queue_open(&q, fd, 0, layouts[0], 8);
	queue_share(&q);
	queue_set_up(&q);
	queue_kick(&q);
	queue_enable(&q, 1);
	queue_request(&q, 'e');
	queue_unanswered(&q, 20);
	/* Then it turns out to be a modern one after all. */
	assert_int_equal(client_ask_u64(fd, VHOST_USER_SET_FEATURES, layouts[0] | BIT_30), 0);
	queue_answered(&q);
	close(fd);
	queue_close(&q);
}

/* F-025: offered ORDER_PLATFORM and declined, the device, which is software, runs as well. */
static void test_order_platform_declined(void **state)
{
	struct rig *r = *state;
	struct server s;

	assert_int_equal(server_open(&s, r, &r->toy.model, virtq_ring_features(), NULL), 0);
	for (unsigned int i = 0; i < 4; i++) {
		uint64_t features = layouts[i % 2] | (i / 2 ? BIT(VIRTIO_F_ORDER_PLATFORM) : 0);
		struct virtq_transport *t = reach(&s);
		struct queue q;

		assert_true(virtq_features_has(virtq_transport_offered(t),
					       VIRTIO_F_ORDER_PLATFORM));
		assert_int_equal(virtq_transport_accept(t, word(features), NULL), 0);
		queue_open(&q, -1, 0, features, 8);
		assert_int_equal(virtq_transport_share(t, q.map, NULL), 0);
		assert_int_equal(virtq_transport_start(t, 0, q.driver, q.kick_fd, q.call_fd, NULL),
				 0);
		for (unsigned int k = 0; k < 20; k++)
			queue_echo(&q);
		virtq_transport_close(t);
		queue_close(&q);
	}
	server_close(&s);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_bits_offered),
		cmocka_unit_test(test_not_offered),
		cmocka_unit_test(test_prerequisites_on_the_wire),
		cmocka_unit_test(test_falls_back),
		cmocka_unit_test(test_required_bit_missing),
		cmocka_unit_test(test_legacy_device_is_refused),
		cmocka_unit_test(test_version_1_is_not_declined),
		cmocka_unit_test(test_ring_features_are_accepted),
		CASE(test_offers_only_what_it_serves),
		CASE(test_high_bits_in_one_process),
		CASE(test_offers_nothing_without_prerequisite),
		CASE(test_subsets),
		CASE(test_refused_set_starts_nothing),
		CASE(test_version_1_is_offered),
		CASE(test_legacy_driver_is_refused),
		CASE(test_order_platform_declined),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
