/* SPDX-License-Identifier: MIT */
/* A disk as a whole: made, offered, negotiated, resized. */
#include "dev/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <virtq/spec/virtio.h>

#include "base/check.h"
#include "base/error.h"
#include "base/shm.h"

#define QUEUES_MAX 256u
#define QUEUE_SIZE_DEFAULT 1024u
#define QUEUE_SIZE_MAX 32768u

/* ---- Configuration space and cache mode ----------------------------------- */

/*
 * When is a write stable (5.2.6.2)? Where the driver could not know better, when
 * it ends. A driver that has said nothing yet may be any.
 */
static void settle_cache_mode(struct blk *blk)
{
	bool stable = true;

	if (blk->negotiated && virtq_features_has(blk->accepted, VIRTIO_BLK_F_CONFIG_WCE))
		stable = !blk->writeback;
	else if (blk->negotiated && virtq_features_has(blk->accepted, VIRTIO_BLK_F_FLUSH))
		stable = blk->write_through;
	shm_flag_write(&blk->stable, stable);
}

/*
 * Each time a ring starts some transports say again what was negotiated. The
 * driver has not asked for another mode by that: what it wrote stays.
 */
static int blk_features_ok(struct virtq_model *model, struct virtq_features features)
{
	struct blk *blk = blk_of(model);

	blk->negotiated = true;
	blk->accepted = features;
	/* It could switch to write-back, but never flush: to begin with it is safe. */
	if (virtq_features_has(features, VIRTIO_BLK_F_CONFIG_WCE) &&
	    !virtq_features_has(features, VIRTIO_BLK_F_FLUSH))
		blk->writeback = false;
	settle_cache_mode(blk);
	return 0;
}

static void blk_reset(struct virtq_model *model)
{
	struct blk *blk = blk_of(model);

	blk->negotiated = false;
	blk->writeback = !blk->write_through;
	settle_cache_mode(blk);
}

static void blk_config_read(struct virtq_model *model, uint32_t offset, void *dst,
			    uint32_t len)
{
	struct blk *blk = blk_of(model);
	struct virtq_blk_config_le config = blk->config;

	/* In units of 512 bytes whatever the block size is (BLK-DEV-008). */
	config.capacity = le64_make(shm_word_read(&blk->capacity_sectors));
	config.writeback = blk->writeback;
	memset(dst, 0, len);
	if (offset >= sizeof(config))
		return;
	if (len > sizeof(config) - offset)
		len = (uint32_t)sizeof(config) - offset;
	memcpy(dst, (const uint8_t *)&config + offset, len);
}

/*
 * The cache mode, and nothing else. Before the features are known too: there are
 * transports that tell them only when the rings start. Switching makes nothing
 * stable that was written before; the driver must not think so (BLK-DRV-018).
 */
static int blk_config_write(struct virtq_model *model, uint32_t offset, const void *src,
			    uint32_t len)
{
	struct blk *blk = blk_of(model);
	const uint8_t *value = src;

	if (blk->negotiated && !virtq_features_has(blk->accepted, VIRTIO_BLK_F_CONFIG_WCE))
		return -EINVAL;
	if (offset != offsetof(struct virtq_blk_config_le, writeback) || len != 1 || *value > 1)
		return -EINVAL;
	blk->writeback = *value;
	settle_cache_mode(blk);
	return 0;
}

/* ---- Made and resized ----------------------------------------------------- */

static void blk_destroy(struct virtq_model *model)
{
	struct blk *blk = blk_of(model);

	virtq_store_close(blk->store);
	free(blk);
}

static const struct virtq_model_ops blk_ops = {
	.name = "blk",
	.device_id = VIRTIO_ID_BLOCK,
	.req_bytes = sizeof(struct blk_req),
	.start = blk_start,
	.finish = blk_finish,
	.cancel = blk_cancel,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.features_ok = blk_features_ok,
	.reset = blk_reset,
	.destroy = blk_destroy,
};

static struct virtq_features with_if(struct virtq_features f, unsigned int bit, bool yes)
{
	return yes ? virtq_features_with(f, bit) : f;
}

static struct virtq_features offered(const struct blk *blk)
{
	const struct virtq_blk_config_le *c = &blk->config;
	struct virtq_features f = { { 0, 0 } };

	f = virtq_features_with(f, VIRTIO_BLK_F_SEG_MAX);
	f = virtq_features_with(f, VIRTIO_BLK_F_BLK_SIZE);
	f = virtq_features_with(f, VIRTIO_BLK_F_FLUSH);	/* BLK-DEV-001, BLK-DEV-002 */
	f = virtq_features_with(f, VIRTIO_BLK_F_CONFIG_WCE);
	f = with_if(f, VIRTIO_BLK_F_SIZE_MAX, le32_value(c->size_max));
	f = with_if(f, VIRTIO_BLK_F_TOPOLOGY, blk_has_topology(&blk->store->info));
	f = with_if(f, VIRTIO_BLK_F_RO, blk->read_only);
	f = with_if(f, VIRTIO_BLK_F_MQ, blk->model.queues > 1);
	f = with_if(f, VIRTIO_BLK_F_DISCARD, le32_value(c->max_discard_sectors));
	f = with_if(f, VIRTIO_BLK_F_WRITE_ZEROES, le32_value(c->max_write_zeroes_sectors));
	f = with_if(f, VIRTIO_BLK_F_SECURE_ERASE, le32_value(c->max_secure_erase_sectors));
	return f;
}

static int check_options(const struct virtq_blk_options *o, struct virtq_error *err)
{
	if (!o->store && (!o->path || !*o->path))
		return error_set(err, -EINVAL, "a disk needs the path of a file, or a store");
	if (o->store && o->path)
		return error_set(err, -EINVAL, "a disk has either %s or a store of its own, not both",
				 o->path);
	if (o->store && o->direct)
		return error_set(err, -EINVAL,
				 "a disk's store is opened already: too late for O_DIRECT");
	if (o->store && o->reconnect_ms)
		return error_set(err, -EINVAL,
				 "a disk's store is opened already: too late to say how long it shall try to connect");
	if (o->size_max_bytes % VIRTQ_BLK_SECTOR_BYTES)
		return error_set(err, -EINVAL, "elements of %u bytes are no multiple of %u",
				 o->size_max_bytes, VIRTQ_BLK_SECTOR_BYTES);
	if (o->queues > QUEUES_MAX)
		return error_set(err, -EINVAL, "%u queues are more than the %u that a disk may have",
				 o->queues, QUEUES_MAX);
	if (o->queue_size_max && (o->queue_size_max < 2 || o->queue_size_max > QUEUE_SIZE_MAX))
		return error_set(err, -EINVAL, "queues of %u entries are not within 2 and %u",
				 o->queue_size_max, QUEUE_SIZE_MAX);
	if (o->serial && strlen(o->serial) > VIRTIO_BLK_ID_BYTES)
		return error_set(err, -EINVAL, "the serial \"%s\" is longer than %u bytes",
				 o->serial, VIRTIO_BLK_ID_BYTES);
	return 0;
}

static int check_store(const struct virtq_store *store, struct virtq_error *err)
{
	const struct virtq_store_info *info = &store->info;

	if (!info->bytes || info->bytes % VIRTQ_BLK_SECTOR_BYTES)
		return error_set(err, -EINVAL,
				 "the %s store has %llu bytes: a disk needs a multiple of %u, and not 0",
				 store->ops->name, (unsigned long long)info->bytes,
				 VIRTQ_BLK_SECTOR_BYTES);
	if (!is_power_of_2(info->block) || info->block < VIRTQ_BLK_SECTOR_BYTES)
		return error_set(err, -EINVAL,
				 "the %s store has blocks of %u bytes: a disk needs a power of two, and at least %u",
				 store->ops->name, info->block, VIRTQ_BLK_SECTOR_BYTES);
	return 0;
}

static void blk_init(struct blk *blk, const struct virtq_blk_options *options)
{
	const struct virtq_store_info *info = &blk->store->info;

	blk->read_only = options->read_only || info->read_only;
	blk->write_through = options->write_through;
	blk->capacity_sectors = info->bytes / VIRTQ_BLK_SECTOR_BYTES;
	if (options->serial)
		memcpy(blk->id, options->serial, strlen(options->serial));
	blk->model.ops = &blk_ops;
	blk->model.queues = options->queues ? options->queues : 1;
	blk->model.queue_size_max = options->queue_size_max ? options->queue_size_max :
							      QUEUE_SIZE_DEFAULT;
	blk->model.max_segs = BLK_SEGS_MAX;
	blk->model.config_bytes = sizeof(blk->config);
	blk->config = blk_config_make(info, &blk->model, blk->read_only);
	blk->config.size_max = le32_make(options->size_max_bytes);
	blk->model.features = offered(blk);
	blk_reset(&blk->model);
}

int virtq_blk_create(struct virtq_model **out, const struct virtq_blk_options *options,
		     struct virtq_error *err)
{
	const struct virtq_store_options how = {
		.read_only = options->read_only, .direct = options->direct,
		.reconnect_ms = options->reconnect_ms,
	};
	struct virtq_store *store = options->store;
	int rc = check_options(options, err);
	struct blk *blk = NULL;

	if (!rc && !store)
		rc = virtq_store_open(&store, options->path, &how, err);
	if (!rc)
		rc = check_store(store, err);
	if (!rc) {
		blk = calloc(1, sizeof(*blk));
		if (!blk)
			rc = error_set(err, -ENOMEM, "no memory for a disk");
	}
	if (rc) {
		virtq_store_close(store);
		return rc;
	}
	blk->store = store;
	blk_init(blk, options);
	*out = &blk->model;
	return 0;
}

int virtq_blk_refresh(struct virtq_model *model, struct virtq_error *err)
{
	struct blk *blk = blk_of(model);
	struct virtq_store *store = blk->store;
	uint64_t old = shm_word_read(&blk->capacity_sectors), now;
	int64_t bytes;

	if (!store->ops->refresh)
		return 0;
	bytes = store->ops->refresh(store);
	if (bytes == -ENOTSUP)
		return error_set(err, -ENOTSUP,
				 "the size of the %s store cannot be found out while it is served",
				 store->ops->name);
	if (bytes < 0)
		return error_set_errno(err, (int)bytes, "the %s store does not tell its size",
				       store->ops->name);
	if (!bytes || bytes % VIRTQ_BLK_SECTOR_BYTES)
		return error_set(err, -EINVAL,
				 "the %s store has %llu bytes now, which is no multiple of %u or 0: the disk keeps its %llu",
				 store->ops->name, (unsigned long long)bytes, VIRTQ_BLK_SECTOR_BYTES,
				 (unsigned long long)(old * VIRTQ_BLK_SECTOR_BYTES));
	now = (uint64_t)bytes / VIRTQ_BLK_SECTOR_BYTES;
	shm_word_write(&blk->capacity_sectors, now);
	return now != old;
}
