/* SPDX-License-Identifier: MIT */
/* Everything in libvirtq. */
#ifndef VIRTQ_VIRTQ_H
#define VIRTQ_VIRTQ_H

#include <virtq/blk.h>
#include <virtq/device.h>
#include <virtq/driver.h>
#include <virtq/dump.h>
#include <virtq/engine.h>
#include <virtq/features.h>
#include <virtq/iotlb.h>
#include <virtq/loopback.h>
#include <virtq/mem.h>
#include <virtq/model.h>
#include <virtq/notify.h>
#include <virtq/pool.h>
#include <virtq/port.h>
#include <virtq/ring.h>
#include <virtq/spec/blk.h>
#include <virtq/spec/ring.h>
#include <virtq/spec/virtio.h>
#include <virtq/store.h>
#include <virtq/transfer.h>
#include <virtq/transport.h>
#include <virtq/version.h>
#include <virtq/vhost_user.h>

#endif
