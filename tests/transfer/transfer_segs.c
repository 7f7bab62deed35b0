/* SPDX-License-Identifier: MIT */
/* Pieces that are not contiguous for the device: by a map, by a callback, unchecked. */
#include "transfer_rig.h"

/*
 * Three stretches of the port's memory that the device also knows by other
 * addresses, of which the last two are neighbours for it as for us.
 */
#define ALIASES 3u
#define PIECE_BYTES 6000u

static const struct rig_shape usual;

struct segs_rig {
	struct rig r;
	struct virtq_map *aliases;
	struct virtq_transfers *set;		/* in place of the rig's */
	uint64_t alias_gpa[ALIASES];
	/* Of the callback: */
	unsigned int asked;
	size_t page;			/* it goes by pages of this size */
	int64_t say;			/* in place of the truth, if not 1 */
	bool scattered;
};

static int64_t by_pages(void *arg, const void *base, size_t len, uint64_t *addr)
{
	struct segs_rig *s = arg;
	size_t offset = (size_t)((const uint8_t *)base - s->r.data);
	size_t part = s->page - offset % s->page;

	s->asked++;
	assert_true(len > 0);
	if (s->say != 1)
		return s->say;
	/* Scattered: every other page by its alias. */
	*addr = RIG_GPA + (uint64_t)(s->r.data - (uint8_t *)virtq_port_regions(s->r.port,
						&(unsigned int){ 0 })->host) + offset;
	if (s->scattered && offset / s->page % 2)
		*addr = s->alias_gpa[offset / 4096] + offset % 4096;
	/* More than it was asked for is contiguous, and may be said. */
	return (int64_t)part;
}

static void segs_open(struct segs_rig *s, const struct setting *on, bool by_map, uint32_t segs_max)
{
	struct virtq_transfers_config config = { .transfers_max = 4, .pieces_max = 3,
						 .segs_max = segs_max };
	struct virtq_region near[ALIASES], far[ALIASES + 1];

	memset(s, 0, sizeof(*s));
	rig_open(&s->r, on, &usual);
	s->say = 1;
	s->page = 4096;
	far[0] = s->r.far.regions[0];
	for (unsigned int i = 0; i < ALIASES; i++) {
		s->alias_gpa[i] = i == 0 ? 0x1000000 : 0x2000000 + 4096 * i;
		near[i] = (struct virtq_region){ .gpa = s->alias_gpa[i], .size_bytes = 4096,
			.host = s->r.data + 4096 * i, .fd = -1, .access = VIRTQ_ACCESS_RW };
		far[i + 1] = near[i];
		far[i + 1].host = far_ptr(&s->r.far, near[i].host);
	}
	assert_int_equal(virtq_map_create(&s->aliases, near, ALIASES, NULL), 0);
	virtq_map_unref(s->r.far.map);
	assert_int_equal(virtq_map_create(&s->r.far.map, far, ALIASES + 1, NULL), 0);
	far_start(&s->r.far);
	config.port = s->r.port;
	config.arg = s;
	if (by_map)
		config.map = s->aliases;
	else
		config.translate = by_pages;
	virtq_transfers_destroy(s->r.set);
	s->r.set = NULL;
	assert_int_equal(virtq_transfers_create(&s->set, &config, NULL), 0);
}

static void segs_close(struct segs_rig *s)
{
	virtq_transfers_destroy(s->set);
	virtq_map_unref(s->aliases);
	rig_close(&s->r);
}

/* A readable and a writable piece that both cross from page to page; there and back. */
static void go_across(struct segs_rig *s)
{
	struct virtq_piece pieces[2] = { rig_piece(&s->r, 100, PIECE_BYTES),
					 rig_piece(&s->r, 100 + PIECE_BYTES, 6000) };
	static uint8_t got[PIECE_BYTES];
	struct virtq_transfer *t;

	for (unsigned int i = 0; i < PIECE_BYTES; i++)
		s->r.data[100 + i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(virtq_transfer_prepare(s->set, &t, pieces, 1, 1, NULL, NULL), 0);
	for (unsigned int round = 0; round < 3; round++) {
		assert_int_equal(virtq_transfer_send(s->set, &t, 1), 1);
		assert_int_equal(rig_serve(&s->r, 1, got, 5000, (uint8_t)round), 1);
		assert_int_equal(virtq_transfer_check(t), 1);
		assert_int_equal(virtq_transfer_written(t), 5000);
		assert_memory_equal(got, s->r.data + 100, PIECE_BYTES);
		for (unsigned int i = 0; i < 5000; i++)
			assert_int_equal(s->r.data[100 + PIECE_BYTES + i], round);
		assert_int_equal(s->r.data[100 + PIECE_BYTES + 5000], 0xee);
	}
	assert_int_equal(virtq_transfer_finish(t, pieces, 2), 2);
	assert_int_equal(pieces[1].written, 5000);
}

static void through_a_map_of_several_regions(void **state)
{
	struct segs_rig s;
	struct virtq_piece piece;
	struct virtq_transfer *t;

	segs_open(&s, *state, true, 8);
	go_across(&s);
	/* The map ends there. */
	piece = rig_piece(&s.r, 4096 * ALIASES - 10, 11);
	assert_int_equal(virtq_transfer_prepare(s.set, &t, &piece, 1, 0, NULL, NULL), -EFAULT);
	assert_ptr_equal(piece.base, s.r.data + 4096 * ALIASES - 10);
	segs_close(&s);
	/* Three elements where there is memory for two. */
	segs_open(&s, *state, true, 3);
	piece = rig_piece(&s.r, 4095, 4098);
	assert_int_equal(virtq_transfer_prepare(s.set, &t, &piece, 1, 0, NULL, NULL), 0);
	virtq_transfer_abandon(t);
	segs_close(&s);
}

static void more_elements_than_it_was_made_for(void **state)
{
	for (unsigned int by_map = 0; by_map < 2; by_map++) {
		struct virtq_piece pieces[3], was[3];
		struct virtq_transfer *t = NULL;
		struct segs_rig s;

		segs_open(&s, *state, by_map, 0);
		s.scattered = true;
		pieces[0] = was[0] = rig_piece(&s.r, 4000, 200);
		pieces[1] = was[1] = rig_piece(&s.r, 8100, 200);
		pieces[2] = was[2] = rig_piece(&s.r, 0, 200);
		/* 2 + 2 elements, and 1 more: made for 3. */
		assert_int_equal(virtq_transfer_prepare(s.set, &t, pieces, 2, 0, NULL, NULL),
				 -EMSGSIZE);
		assert_int_equal(virtq_transfer_prepare(s.set, &t, pieces, 2, 1, NULL, NULL),
				 -EMSGSIZE);
		assert_memory_equal(pieces, was, sizeof(was));
		assert_null(t);
		/* The caller answers for it that there is but one each. */
		assert_int_equal(virtq_transfer_prepare_unchecked(s.set, &t, pieces, 2, 1, NULL,
								  NULL), 0);
		virtq_transfer_abandon(t);
		segs_close(&s);
	}
}

static void through_a_callback(void **state)
{
	struct segs_rig s;

	segs_open(&s, *state, false, 8);
	s.scattered = true;
	go_across(&s);
	s.scattered = false;
	go_across(&s);
	segs_close(&s);
}

/* Neighbours for the device are one element, however small the pages that it is asked by. */
static void neighbours_are_one_element(void **state)
{
	const struct setting *on = *state;
	struct virtq_piece pieces[2];
	struct virtq_transfer *t;
	struct segs_rig s;
	uint32_t room;

	segs_open(&s, on, false, 3);
	s.page = 16;
	pieces[0] = rig_piece(&s.r, 8, 1600);
	pieces[1] = rig_piece(&s.r, 8 + 1600, 1600);
	assert_int_equal(virtq_transfer_prepare(s.set, &t, pieces, 1, 1, NULL, NULL), 0);
	assert_int_equal(s.asked, 202);
	room = virtq_driver_room(virtq_port_driver(s.r.port));
	assert_int_equal(virtq_transfer_send(s.set, &t, 1), 1);
	/* Two pieces stay two, or are one entry that names a table. */
	assert_in_range(room - virtq_driver_room(virtq_port_driver(s.r.port)),
			on->layout.indirect ? 1 : 2, 2);
	segs_close(&s);
}

static void what_the_callback_says_goes(void **state)
{
	static const struct { int64_t says; int comes; } cases[] = {
		{ -EIO, -EIO }, { -EACCES, -EACCES }, { 0, -EFAULT }, { INT64_MIN, -EFAULT },
	};
	struct virtq_piece piece, was;
	struct virtq_transfer *t = NULL;
	struct segs_rig s;

	segs_open(&s, *state, false, 8);
	was = piece = rig_piece(&s.r, 0, 100);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		s.say = cases[i].says;
		assert_int_equal(virtq_transfer_prepare(s.set, &t, &piece, 0, 1, NULL, NULL),
				 cases[i].comes);
		assert_int_equal(virtq_transfer_prepare_unchecked(s.set, &t, &piece, 0, 1, NULL,
								  NULL), cases[i].comes);
		assert_memory_equal(&piece, &was, sizeof(was));
	}
	assert_null(t);
	segs_close(&s);
}

/* Asked for one byte of each piece; with what follows it the caller knows best. */
static void unchecked_asks_for_the_first_byte(void **state)
{
	struct virtq_piece pieces[2];
	struct virtq_transfer *t;
	struct segs_rig s;
	uint8_t got[6000];

	segs_open(&s, *state, false, 8);
	pieces[0] = rig_piece(&s.r, 100, 6000);
	pieces[1] = rig_piece(&s.r, 6100, 6000);
	memset(s.r.data + 100, 0x42, 6000);
	assert_int_equal(virtq_transfer_prepare_unchecked(s.set, &t, pieces, 1, 1, NULL, NULL), 0);
	assert_int_equal(s.asked, 2);
	assert_null(pieces[0].base);
	assert_int_equal(virtq_transfer_send(s.set, &t, 1), 1);
	assert_int_equal(rig_serve(&s.r, 1, got, 6000, 0x43), 1);
	assert_int_equal(virtq_transfer_check(t), 1);
	assert_memory_equal(got, s.r.data + 100, 6000);
	assert_int_equal(s.r.data[6100 + 5999], 0x43);
	segs_close(&s);
}

/* The length of an element has 32 bits: 4 GiB are two. */
static void longer_than_an_element_can_be(void **state)
{
#if SIZE_MAX > UINT32_MAX
	struct virtq_piece piece, was;
	struct virtq_transfer *t;
	struct segs_rig s;

	segs_open(&s, *state, false, 3);
	piece = rig_piece(&s.r, 0, (size_t)1 << 32);
	assert_int_equal(virtq_transfer_prepare_unchecked(s.set, &t, &piece, 0, 1, NULL, NULL), 0);
	assert_int_equal(virtq_transfer_send(s.set, &t, 1), 1);
	assert_int_equal(virtq_driver_room(virtq_port_driver(s.r.port)), 16 - 2);
	/* That was all that a chain can hold. */
	was = piece = rig_piece(&s.r, 0, ((size_t)1 << 32) + 1);
	assert_int_equal(virtq_transfer_prepare_unchecked(s.set, &t, &piece, 0, 1, NULL, NULL),
			 -EINVAL);
	assert_memory_equal(&piece, &was, sizeof(was));
	segs_close(&s);
#else
	(void)state;
	print_message("sizes of 32 bits: there is no such piece\n");
	skip();
#endif
}

/* Without a map and a callback: what the port shares, and nothing else. */
static void the_ports_own_memory(void **state)
{
	struct virtq_transfers_config config = { .transfers_max = 4, .pieces_max = 2 };
	static uint8_t elsewhere[64], got[64];
	struct virtq_piece pieces[2];
	struct virtq_transfer *t;
	struct rig r;

	rig_open(&r, *state, &usual);
	virtq_transfers_destroy(r.set);
	config.port = r.port;
	assert_int_equal(virtq_transfers_create(&r.set, &config, NULL), 0);
	for (unsigned int way = 0; way < 4; way++) {
		/* Not the port's; the second of two; and a byte more than there is. */
		pieces[0] = way ? rig_piece(&r, 0, 64) : (struct virtq_piece){ elsewhere, 64, 0 };
		pieces[1] = way < 2 ? (struct virtq_piece){ elsewhere, 64, 0 } :
				      rig_piece(&r, RIG_DATA_BYTES - 63, 64);
		assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, way & 1, 2 - (way & 1),
							NULL, NULL), -EFAULT);
		assert_non_null(pieces[0].base);
	}
	pieces[0] = (struct virtq_piece){ elsewhere, 64, 0 };
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 0, NULL, NULL), -EFAULT);
	assert_int_equal(virtq_transfer_prepare_unchecked(r.set, &t, pieces, 0, 1, NULL, NULL),
			 -EFAULT);
	/* The device sees it elsewhere than this process does. */
	pieces[0] = rig_piece(&r, 0, 64);
	pieces[1] = rig_piece(&r, RIG_DATA_BYTES - 64, 64);
	memset(r.data, 0x31, 64);
	assert_int_equal(virtq_transfer_prepare(r.set, &t, pieces, 1, 1, NULL, NULL), 0);
	rig_send(&r, t);
	assert_int_equal(rig_serve(&r, 1, got, 64, 0x32), 1);
	assert_int_equal(virtq_transfer_check(t), 1);
	assert_int_equal(virtq_transfer_finish(t, pieces, 2), 2);
	assert_memory_equal(got, r.data, 64);
	assert_int_equal(r.data[RIG_DATA_BYTES - 1], 0x32);
	rig_close(&r);
}

/* The device cannot write where it may only read, nor the other way round. */
static void as_the_region_may_be_used(void **state)
{
	static const uint32_t access[] = { VIRTQ_ACCESS_READ, VIRTQ_ACCESS_WRITE,
					   VIRTQ_ACCESS_RW };
	struct virtq_transfers_config config = { .transfers_max = 9, .pieces_max = 3,
						 .segs_max = 6 };
	struct virtq_region regions[3];
	struct virtq_map *map;
	struct rig r;

	rig_open(&r, *state, &usual);
	for (unsigned int i = 0; i < 3; i++)
		regions[i] = (struct virtq_region){
			.gpa = RIG_GPA + 0x100000 * (i + 1), .size_bytes = 4096,
			.host = r.data + 4096 * i, .fd = -1, .access = access[i],
		};
	assert_int_equal(virtq_map_create(&map, regions, 3, NULL), 0);
	virtq_transfers_destroy(r.set);
	config.port = r.port;
	config.map = map;
	/* Each way into each region, straight after each, so that none is remembered for another. */
	for (unsigned int i = 0; i < 36; i++) {
		unsigned int ways[] = { i / 6, i % 6 };

		assert_int_equal(virtq_transfers_create(&r.set, &config, NULL), 0);
		for (unsigned int k = 0; k < 4; k++) {
			unsigned int region = ways[k & 1] / 2, writable = ways[k & 1] % 2;
			uint32_t need = writable ? VIRTQ_ACCESS_WRITE : VIRTQ_ACCESS_READ;
			struct virtq_piece piece = rig_piece(&r, 4096 * region + 64 * k, 64);
			struct virtq_transfer *t;

			assert_int_equal((k < 2 ? virtq_transfer_prepare :
					  virtq_transfer_prepare_unchecked)
					 (r.set, &t, &piece, !writable, writable, NULL, NULL),
					 access[region] & need ? 0 : -EFAULT);
		}
		/* It begins where that is allowed, and goes on where it is not. */
		for (unsigned int k = 0; k < 2; k++) {
			struct virtq_piece piece = rig_piece(&r, 4096 - 32, 64);
			struct virtq_transfer *t;

			assert_int_equal(virtq_transfer_prepare(r.set, &t, &piece, !k, k, NULL,
								NULL), -EFAULT);
		}
		virtq_transfers_destroy(r.set);
	}
	r.set = NULL;
	virtq_map_unref(map);
	rig_close(&r);
}

int main(void)
{
	static const struct named_test each[] = {
		EACH(through_a_map_of_several_regions), EACH(more_elements_than_it_was_made_for),
		EACH(through_a_callback), EACH(neighbours_are_one_element),
		EACH(what_the_callback_says_goes), EACH(unchecked_asks_for_the_first_byte),
		EACH(longer_than_an_element_can_be), EACH(the_ports_own_memory),
		EACH(as_the_region_may_be_used),
	};

	return rig_run("transfers reach", each, sizeof(each) / sizeof(each[0]), NULL, 0);
}
