/* SPDX-License-Identifier: MIT */
/* The block device (VIRTIO 1.4, 5.2). No code. */
#ifndef VIRTQ_SPEC_BLK_H
#define VIRTQ_SPEC_BLK_H

#include <virtq/spec/types.h>

/* Feature bits (5.2.3), numbers. */
#define VIRTIO_BLK_F_SIZE_MAX	1
#define VIRTIO_BLK_F_SEG_MAX	2
#define VIRTIO_BLK_F_GEOMETRY	4
#define VIRTIO_BLK_F_RO		5
#define VIRTIO_BLK_F_BLK_SIZE	6
#define VIRTIO_BLK_F_FLUSH	9
#define VIRTIO_BLK_F_TOPOLOGY	10
#define VIRTIO_BLK_F_CONFIG_WCE	11
#define VIRTIO_BLK_F_MQ		12
#define VIRTIO_BLK_F_DISCARD	13
#define VIRTIO_BLK_F_WRITE_ZEROES	14
#define VIRTIO_BLK_F_LIFETIME	15
#define VIRTIO_BLK_F_SECURE_ERASE	16
#define VIRTIO_BLK_F_ZONED	17

/* Request types (5.2.6). */
#define VIRTIO_BLK_T_IN		0
#define VIRTIO_BLK_T_OUT	1
#define VIRTIO_BLK_T_FLUSH	4
#define VIRTIO_BLK_T_GET_ID	8
#define VIRTIO_BLK_T_GET_LIFETIME	10
#define VIRTIO_BLK_T_DISCARD	11
#define VIRTIO_BLK_T_WRITE_ZEROES	13
#define VIRTIO_BLK_T_SECURE_ERASE	14

/* Status byte (5.2.6). */
#define VIRTIO_BLK_S_OK		0
#define VIRTIO_BLK_S_IOERR	1
#define VIRTIO_BLK_S_UNSUPP	2

/* GET_ID data, bytes; not terminated when the text fills it. */
#define VIRTIO_BLK_ID_BYTES	20

/* Flag of a range, of WRITE_ZEROES only: it need not keep its place on the medium (5.2.6). */
#define VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP	0x00000001

/* Unit of sector numbers and of capacity, whatever blk_size says (5.2.4). */
#define VIRTQ_BLK_SECTOR_BYTES	512

/* Precedes the data of every request. */
struct virtq_blk_req_hdr {
	virtq_le32 type;
	virtq_le32 reserved;
	virtq_le64 sector;
};

/* A range: the data of DISCARD, WRITE_ZEROES and SECURE_ERASE are an array of these. */
struct virtq_blk_discard_write_zeroes {
	virtq_le64 sector;
	virtq_le32 num_sectors;
	virtq_le32 flags;
};

/* Device configuration (5.2.4) up to and including secure erase. */
struct virtq_blk_config_le {
	virtq_le64 capacity;
	virtq_le32 size_max;
	virtq_le32 seg_max;
	virtq_le16 cylinders;
	uint8_t heads;
	uint8_t sectors;
	virtq_le32 blk_size;
	uint8_t physical_block_exp;
	uint8_t alignment_offset;
	virtq_le16 min_io_size;
	virtq_le32 opt_io_size;
	uint8_t writeback;
	uint8_t unused0;
	virtq_le16 num_queues;
	virtq_le32 max_discard_sectors;
	virtq_le32 max_discard_seg;
	virtq_le32 discard_sector_alignment;
	virtq_le32 max_write_zeroes_sectors;
	virtq_le32 max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
	virtq_le32 max_secure_erase_sectors;
	virtq_le32 max_secure_erase_seg;
	virtq_le32 secure_erase_sector_alignment;
};

#endif
