/* SPDX-License-Identifier: MIT */
/* One client of the vhost-user back end: its requests, one by one. */
#include "transport/vu_session.h"

#include <stdlib.h>
#include <unistd.h>

#include <virtq/spec/virtio.h>

#include "base/error.h"
#include "transport/features.h"

/* Longest wait for a client that does not read its answers. */
#define REPLY_TIMEOUT_MS 1000u

#define BIT(n) ((uint64_t)1 << (n))

/* What this back end can do. Nothing is offered that is not done in full (VU-BE-106). */
#define PROTOCOL_FEATURES (BIT(VHOST_USER_PROTOCOL_F_MQ) | \
			   BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) | \
			   BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ) | \
			   BIT(VHOST_USER_PROTOCOL_F_CONFIG) | \
			   BIT(VHOST_USER_PROTOCOL_F_RESET_DEVICE) | \
			   BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))

void vuser_session_event(const struct vuser_session *s, enum virtq_vhost_user_event event,
			 int queue, const char *text)
{
	if (s->config->event)
		s->config->event(s->config->event_arg, event, queue, text);
}

static bool agreed(const struct vuser_session *s, unsigned int bit)
{
	return s->protocol_features & BIT(bit);
}

/* ---- Features. ---- */

static int get_features(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	(void)msg, (void)err;
	s->reply.payload.u64 = s->offered;
	return 0;
}

static int settle_all(struct vuser_session *s, struct virtq_error *err)
{
	for (unsigned int i = 0; i < s->vring_count; i++) {
		int rc = vuser_vring_settle(s, i, err);

		if (rc)
			return rc;
	}
	return 0;
}

static bool any_running(const struct vuser_session *s)
{
	for (unsigned int i = 0; i < s->vring_count; i++)
		if (s->vrings[i].queue)
			return true;
	return false;
}

static int check_features(struct vuser_session *s, uint64_t features, struct virtq_error *err)
{
	const struct virtq_model *model = s->config->model;
	struct vuser_session changed = { .features = features };
	struct virtq_features driver = vuser_session_features(&changed);
	int rc;

	if (features & ~s->offered)
		return error_set(err, -EINVAL, "features 0x%llx were acknowledged but not offered",
				 (unsigned long long)(features & ~s->offered));
	/* What a legacy driver writes is in the byte order of its guest, which nobody tells. */
	if (!virtq_features_has(driver, VIRTIO_F_VERSION_1))
		return error_set(err, -EINVAL,
				 "features 0x%llx lack VERSION_1: legacy drivers are not served",
				 (unsigned long long)features);
	rc = features_check(model->ops->device_id, driver, FEATURES_ACCEPTED, err);
	if (rc)
		return rc;
	if (any_running(s) && features != s->features)
		return error_set(err, -EBUSY, "features cannot change while queues run");
	if (model->ops->features_ok && model->ops->features_ok(s->config->model, driver))
		return error_set(err, -EINVAL, "the device cannot work with features 0x%llx",
				 (unsigned long long)features);
	return 0;
}

/* The device may have been told what was then refused. */
static void restore_features(struct vuser_session *s, uint64_t features, bool known)
{
	struct virtq_model *model = s->config->model;

	s->features = features;
	s->features_known = known;
	if (known && model->ops->features_ok)
		model->ops->features_ok(model, vuser_session_features(s));
	else if (!known && model->ops->reset)
		model->ops->reset(model);
}

static int set_features(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	struct vuser_vring_before before[VUSER_QUEUES_MAX];
	uint64_t features = msg->payload.u64, old = s->features;
	bool old_known = s->features_known;
	int rc = check_features(s, features, err);

	if (rc)
		return rc;
	for (unsigned int i = 0; i < s->vring_count; i++)
		vuser_vring_save(&s->vrings[i], &before[i]);
	s->features = features;
	s->features_known = true;
	/* Acknowledging bit 30 disables nothing; not doing so enables all (VU-BE-012). */
	if (!(features & BIT(VHOST_USER_F_PROTOCOL_FEATURES)))
		for (unsigned int i = 0; i < s->vring_count; i++)
			vuser_vring_set_enable(s, i, 1, NULL);
	rc = settle_all(s, err);
	if (!rc)
		return 0;
	/* Who is told that it was refused goes on with what was agreed on before. */
	for (unsigned int i = 0; i < s->vring_count; i++)
		vuser_vring_undo(s, i, &before[i]);
	restore_features(s, old, old_known);
	return rc;
}

static int get_protocol_features(struct vuser_session *s, struct vuser_msg *msg,
				 struct virtq_error *err)
{
	(void)msg, (void)err;
	s->reply.payload.u64 = PROTOCOL_FEATURES;
	return 0;
}

static int set_protocol_features(struct vuser_session *s, struct vuser_msg *msg,
				 struct virtq_error *err)
{
	uint64_t features = msg->payload.u64;

	if (features & ~PROTOCOL_FEATURES)
		return error_set(err, -EINVAL,
				 "protocol features 0x%llx were set but not offered",
				 (unsigned long long)(features & ~PROTOCOL_FEATURES));
	s->protocol_features = features;
	vuser_channel_agree(s->channel, agreed(s, VHOST_USER_PROTOCOL_F_BACKEND_REQ) &&
					agreed(s, VHOST_USER_PROTOCOL_F_CONFIG));
	return 0;
}

/* VU-BE-054 */
static int set_backend_req_fd(struct vuser_session *s, struct vuser_msg *msg,
			      struct virtq_error *err)
{
	return vuser_channel_set(s->channel, vuser_take_fd(msg, 0), err);
}

/* ---- The session and the device. ---- */

/* SET_OWNER says what is so anyway; RESET_OWNER is to be ignored (VU-BE-049). */
static int do_nothing(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	(void)s, (void)msg, (void)err;
	return 0;
}

static void reset_device(struct vuser_session *s)
{
	for (unsigned int i = 0; i < s->vring_count; i++)
		vuser_vring_reset(s, i);
	s->features = 0;
	s->features_known = false;
	if (s->config->model->ops->reset)
		s->config->model->ops->reset(s->config->model);
}

/* What belongs to the device begins anew; what belongs to the session stays. */
static int handle_reset_device(struct vuser_session *s, struct vuser_msg *msg,
			       struct virtq_error *err)
{
	(void)msg, (void)err;
	reset_device(s);
	return 0;
}

static int get_queue_num(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	(void)msg, (void)err;
	s->reply.payload.u64 = s->vring_count;
	return 0;
}

static int get_config(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	const struct VhostUserConfig *asked = &msg->payload.config;
	struct virtq_model *model = s->config->model;

	(void)err;
	if (!agreed(s, VHOST_USER_PROTOCOL_F_CONFIG) || !vuser_config_fits(msg) ||
	    !model->ops->config_read) {
		vuser_reply_no_config(&s->reply);
		return 0;
	}
	vuser_msg_set_config(&s->reply, asked->offset, asked->size);
	s->reply.payload.config.flags = asked->flags;
	model->ops->config_read(model, asked->offset, s->reply.payload.config.region,
				asked->size);
	return 0;
}

/*
 * The configuration that the driver saw on the host it comes from (VU-BE-052): read-only
 * bytes may be in it, but must be the same here, for the driver is not told
 * otherwise. What differs and is writable is written; nothing is, if not all can be.
 */
static int adopt_config(struct virtq_model *model, const struct VhostUserConfig *wish,
			struct virtq_error *err)
{
	uint8_t now[VHOST_USER_MAX_CONFIG_SIZE] = { 0 };
	uint32_t i;

	if (model->ops->config_read)
		model->ops->config_read(model, wish->offset, now, wish->size);
	for (i = 0; i < wish->size; i++)
		if (now[i] != wish->region[i] &&
		    (!model->ops->config_write ||
		     model->ops->config_write(model, wish->offset + i, &wish->region[i], 1)))
			break;
	if (i == wish->size)
		return 0;
	error_set(err, -EPERM,
		  "configuration byte %u is 0x%x here and was 0x%x where the driver comes from",
		  wish->offset + i, now[i], wish->region[i]);
	while (i--)
		if (now[i] != wish->region[i])
			model->ops->config_write(model, wish->offset + i, &now[i], 1);
	return -EPERM;
}

/*
 * A refusal here is no breach of the protocol: it is the guest's driver that
 * wrote where nothing can be written, and that must not cost the connection.
 */
static int set_config(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	const struct VhostUserConfig *wish = &msg->payload.config;
	struct virtq_model *model = s->config->model;

	if (!vuser_config_fits(msg) || wish->flags > VHOST_USER_CONFIG_MIGRATION)
		return error_set(err, -EINVAL,
				 "SET_CONFIG of %u bytes at %u with flags 0x%x cannot be",
				 wish->size, wish->offset, wish->flags);
	if (wish->flags == VHOST_USER_CONFIG_MIGRATION)
		return adopt_config(model, wish, err);
	if (!model->ops->config_write ||
	    model->ops->config_write(model, wish->offset, wish->region, wish->size))
		return error_set(err, -EPERM, "configuration byte %u is not writable",
				 wish->offset);
	return 0;
}

/* ---- Memory. ---- */

static void remap_all(struct vuser_session *s)
{
	for (unsigned int i = 0; i < s->vring_count; i++)
		vuser_vring_remap(s, i);
}

static int set_mem_table(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	int rc = vuser_memory_set(&s->memory, msg, err);

	if (!rc)
		remap_all(s);
	return rc;
}

static int add_mem_reg(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	int rc = vuser_memory_add(&s->memory, msg, err);

	if (!rc)
		remap_all(s);
	return rc;
}

static int rem_mem_reg(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	int rc = vuser_memory_remove(&s->memory, msg, err);

	if (!rc)
		remap_all(s);
	return rc;
}

static int get_max_mem_slots(struct vuser_session *s, struct vuser_msg *msg,
			     struct virtq_error *err)
{
	(void)msg, (void)err;
	s->reply.payload.u64 = VUSER_MEM_SLOTS;
	return 0;
}

/* ---- Rings. UNTRUSTED: the index is checked here, once, for all of them (VU-BE-046). ---- */

static int check_index(const struct vuser_session *s, uint64_t i, struct virtq_error *err)
{
	if (i >= s->vring_count)
		return error_set(err, -EINVAL, "there is no queue %llu, only %u of them",
				 (unsigned long long)i, s->vring_count);
	return 0;
}

static int set_vring_num(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	struct VhostUserVringState state = msg->payload.state;
	int rc = check_index(s, state.index, err);

	return rc ? rc : vuser_vring_set_num(s, state.index, state.num, err);
}

static int set_vring_addr(struct vuser_session *s, struct vuser_msg *msg,
			  struct virtq_error *err)
{
	const struct VhostUserVringAddr *addr = &msg->payload.addr;
	int rc = check_index(s, addr->index, err);

	return rc ? rc : vuser_vring_set_addr(s, addr->index, addr, err);
}

static int set_vring_base(struct vuser_session *s, struct vuser_msg *msg,
			  struct virtq_error *err)
{
	struct VhostUserVringState state = msg->payload.state;
	int rc = check_index(s, state.index, err);

	return rc ? rc : vuser_vring_set_base(s, state.index, state.num, err);
}

static int get_vring_base(struct vuser_session *s, struct vuser_msg *msg,
			  struct virtq_error *err)
{
	uint32_t i = msg->payload.state.index;
	int rc = check_index(s, i, err);

	if (rc)
		return rc;
	s->reply.payload.state.index = i;
	s->reply.payload.state.num = vuser_vring_stop(s, i);
	return 0;
}

static int set_vring_enable(struct vuser_session *s, struct vuser_msg *msg,
			    struct virtq_error *err)
{
	struct VhostUserVringState state = msg->payload.state;
	int rc = check_index(s, state.index, err);

	return rc ? rc : vuser_vring_set_enable(s, state.index, state.num, err);
}

static int set_vring_fd(struct vuser_session *s, struct vuser_msg *msg,
			enum virtq_engine_fd which, struct virtq_error *err)
{
	uint64_t i = msg->payload.u64 & ~(uint64_t)VHOST_USER_VRING_NOFD_MASK;
	int rc = check_index(s, i, err);

	/* With bit 8 set there is none to take, and that is -1. */
	return rc ? rc : vuser_vring_set_fd(s, (unsigned int)i, which, vuser_take_fd(msg, 0),
					    err);
}

static int set_vring_kick(struct vuser_session *s, struct vuser_msg *msg,
			  struct virtq_error *err)
{
	return set_vring_fd(s, msg, VIRTQ_FD_KICK, err);
}

static int set_vring_call(struct vuser_session *s, struct vuser_msg *msg,
			  struct virtq_error *err)
{
	return set_vring_fd(s, msg, VIRTQ_FD_CALL, err);
}

static int set_vring_err(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	return set_vring_fd(s, msg, VIRTQ_FD_ERR, err);
}

/* ---- From messages to functions, and back. ---- */

typedef int (*handler)(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err);

static const handler handlers[] = {
	[VHOST_USER_GET_FEATURES] = get_features,
	[VHOST_USER_SET_FEATURES] = set_features,
	[VHOST_USER_SET_OWNER] = do_nothing,
	[VHOST_USER_RESET_OWNER] = do_nothing,
	[VHOST_USER_SET_MEM_TABLE] = set_mem_table,
	[VHOST_USER_SET_VRING_NUM] = set_vring_num,
	[VHOST_USER_SET_VRING_ADDR] = set_vring_addr,
	[VHOST_USER_SET_VRING_BASE] = set_vring_base,
	[VHOST_USER_GET_VRING_BASE] = get_vring_base,
	[VHOST_USER_SET_VRING_KICK] = set_vring_kick,
	[VHOST_USER_SET_VRING_CALL] = set_vring_call,
	[VHOST_USER_SET_VRING_ERR] = set_vring_err,
	[VHOST_USER_GET_PROTOCOL_FEATURES] = get_protocol_features,
	[VHOST_USER_SET_PROTOCOL_FEATURES] = set_protocol_features,
	[VHOST_USER_GET_QUEUE_NUM] = get_queue_num,
	[VHOST_USER_SET_VRING_ENABLE] = set_vring_enable,
	[VHOST_USER_SET_BACKEND_REQ_FD] = set_backend_req_fd,
	[VHOST_USER_GET_CONFIG] = get_config,
	[VHOST_USER_SET_CONFIG] = set_config,
	[VHOST_USER_RESET_DEVICE] = handle_reset_device,
	[VHOST_USER_GET_MAX_MEM_SLOTS] = get_max_mem_slots,
	[VHOST_USER_ADD_MEM_REG] = add_mem_reg,
	[VHOST_USER_REM_MEM_REG] = rem_mem_reg,
};

/* Is it a request of this session, or one that was never agreed on? */
static bool is_known(const struct vuser_session *s, const struct vuser_msg *msg)
{
	const struct vuser_rule *rule = vuser_rule(msg->header.request);

	return rule && (rule->needs < 0 || agreed(s, (unsigned int)rule->needs));
}

static int handle(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	if (!is_known(s, msg))
		return error_set(err, -EOPNOTSUPP, "message %u (%s) was not agreed on",
				 msg->header.request, vuser_name(msg->header.request));
	return handlers[msg->header.request](s, msg, err);
}

/*
 * A request failed, and the client did not ask for an acknowledgement. What we
 * do not know is passed over (VU-BE-007), and so is a write to read-only
 * configuration. Anything else the client takes for done; to go on would be to
 * fail later and in a worse place.
 */
static bool may_pass_over(const struct vuser_session *s, const struct vuser_msg *msg, int rc)
{
	return !is_known(s, msg) ||
	       (msg->header.request == VHOST_USER_SET_CONFIG && rc == -EPERM);
}

static int answer(struct vuser_session *s, struct vuser_msg *msg, struct virtq_error *err)
{
	const struct vuser_rule *rule = vuser_rule(msg->header.request);
	bool own = rule && rule->reply == VUSER_OWN;
	bool acks = agreed(s, VHOST_USER_PROTOCOL_F_REPLY_ACK);
	int rc;

	vuser_reply_init(&s->reply, msg);
	rc = handle(s, msg, err);
	vuser_close_fds(msg);	/* those that nobody took; before the client hears of it */
	/* The request that agrees on acknowledgements may ask for one (VU-BE-056, 058). */
	acks |= agreed(s, VHOST_USER_PROTOCOL_F_REPLY_ACK);
	if (own) {
		if (rc)
			return rc;
	} else if (acks && msg->header.flags & VHOST_USER_NEED_REPLY_MASK) {
		s->reply.payload.u64 = rc ? 1 : 0;
		/* The answer has no room for the reason. */
		if (rc)
			vuser_session_event(s, VIRTQ_VU_NACKED, -1, err->text);
	} else {
		return rc && may_pass_over(s, msg, rc) ? 0 : rc;
	}
	return vuser_send(s->fd, &s->reply, vuser_deadline_ns(REPLY_TIMEOUT_MS), err);
}

int vuser_session_serve(struct vuser_session *s, struct virtq_error *err)
{
	int rc = vuser_receive(&s->rx, s->fd, NULL, false, err);

	if (rc <= 0)
		return rc;
	rc = answer(s, &s->rx.msg, err);
	vuser_receiver_reset(&s->rx);
	return rc;
}

int vuser_session_open(struct vuser_session **out, int fd,
		       const struct virtq_vhost_user_server_config *config,
		       struct vuser_counters *counters, struct vuser_channel *channel,
		       uint64_t offered)
{
	struct vuser_session *s = calloc(1, sizeof(*s));

	if (s)
		s->vrings = calloc(config->model->queues, sizeof(*s->vrings));
	if (!s || !s->vrings) {
		free(s);
		return -ENOMEM;
	}
	s->fd = fd;
	s->config = config;
	s->counters = counters;
	s->channel = channel;
	vuser_channel_begin(channel);
	s->offered = offered;
	s->vring_count = config->model->queues;
	for (unsigned int i = 0; i < s->vring_count; i++)
		vuser_vring_init(&s->vrings[i]);
	*out = s;
	return 0;
}

/*
 * The guest may outlive its connection: what is in flight is finished and given
 * back, by all rings at the same time.
 */
void vuser_session_halt(struct vuser_session *s)
{
	struct virtq_engine_queue *queues[VUSER_QUEUES_MAX];
	unsigned int count = 0;

	for (unsigned int i = 0; i < s->vring_count; i++)
		if (s->vrings[i].queue)
			queues[count++] = s->vrings[i].queue;
	/* Without memory for it they end one by one. */
	if (count && virtq_engine_pause(queues, count, NULL) < 0)
		for (unsigned int i = 0; i < s->vring_count; i++)
			vuser_vring_halt(s, i, "the session ended");
	reset_device(s);
}

void vuser_session_close(struct vuser_session *s)
{
	for (unsigned int i = 0; i < s->vring_count; i++) {
		/* On a stopped ring: closes the descriptors that reset leaves. */
		vuser_vring_set_fd(s, i, VIRTQ_FD_CALL, -1, NULL);
		vuser_vring_set_fd(s, i, VIRTQ_FD_ERR, -1, NULL);
	}
	vuser_channel_end(s->channel);
	vuser_memory_drop(&s->memory);
	vuser_receiver_reset(&s->rx);
	close(s->fd);
	free(s->vrings);
	free(s);
}
