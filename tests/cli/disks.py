#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""virtq serve, probe and copy against each other, over both layouts."""
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios

from rig import (MIB, VIRTQ, Server, allocated, cases_of, check, digest, good, make_image,
                 refused, run_cases, wait_until)

LAYOUTS = "split", "packed"


def test_probe_tells_what_is_served():
    make_image("i", 3 * MIB)
    with Server("i", "--queues", 3, "--read-only") as server:
        said = json.loads(good("probe", "--json", server.socket).out)
        check(said["device"] == {"type": "block", "id": 2, "certain": False}, said)
        check(said["queues"] == 3 and said["block"]["num_queues"] == 3, said)
        check(said["block"]["capacity_bytes"] == 3 * MIB, said)
        check(said["block"]["capacity_sectors"] == 3 * MIB // 512, said)
        check(said["block"]["read_only"] is True and said["block"]["flush"] is True, said)
        for name in "VERSION_1", "RING_PACKED", "EVENT_IDX", "INDIRECT_DESC", "RO", "MQ":
            check(name in said["features"]["names"], name, said)
        for name in "MQ", "REPLY_ACK", "CONFIG", "CONFIGURE_MEM_SLOTS":
            check(name in said["protocol_features"]["names"], name, said)
        check(said["features"]["unnamed"] == [], said)
        text = good("probe", server.url).out
        check("probably block" in text and "3145728 bytes (3.0 MiB)" in text, text)


def test_elements_may_be_asked_to_be_short():
    make_image("i", MIB, seed=4)
    with Server("i") as server:
        check(json.loads(good("probe", "--json", server.socket).out)["block"]["size_max_bytes"]
              is None)
    for words, longest in ((["--size-max", "64K"], 65536),
                           (["--disk", "socket=s,image=i,size-max=4096"], 4096)):
        with Server(None if "--disk" in words else "i", *words,
                    socket="s" if "--disk" in words else None) as server:
            said = json.loads(good("probe", "--json", server.socket).out)
            check(said["block"]["size_max_bytes"] == longest, said)
            good("copy", server.url, "o")
            check(digest("o") == digest("i"))


def test_image_with_holes_goes_out_and_in_over_both_layouts():
    make_image("i", 24 * MIB, seed=2)
    make_image("changed", 24 * MIB, seed=3)
    for layout in LAYOUTS:
        make_image("served", 24 * MIB, seed=2)
        with Server("served", "--queues", 2) as server:
            said = json.loads(good("copy", "--json", "--layout", layout, server.url, "out").out)
            check(said["layout"] == layout and said["bytes"] == 24 * MIB, said)
            check(said["requests"] >= 24 * 4 and said["kicks"] > 0, said)
            check(digest("out") == digest("i"), layout, "out differs")
            check(allocated("out") <= allocated("i") + MIB, layout, "holes were filled")
            good("copy", "--layout", layout, "changed", server.url)
            good("copy", "--layout", layout, server.url, "again")
            check(digest("again") == digest("changed"), layout, "again differs")
        check(digest("served") == digest("changed"), layout, "the image differs")


def test_depths_blocks_and_queue_sizes():
    size = 2 * MIB + 5 * 512  # the tail is shorter than any block but the smallest
    make_image("i", size, seed=4)
    want = digest("i")
    with Server("i") as server:
        for layout, depth, block, queue in (
                ("split", 1, 512, 4), ("split", 1024, 512, 16), ("split", 7, "64K", 1024),
                ("packed", 1, 4096, 4), ("packed", 100, 1024, 5), ("packed", 33, "1M", 1000),
                ("auto", 3, "64M", 24), ("split", 32, 1536, 128), ("packed", 32, 1536, 37)):
            words = ("--layout", layout, "--depth", depth, "--block-size", block,
                     "--queue-size", queue)
            good("copy", *words, server.url, "o")
            check(digest("o") == want, words)
            good("copy", *words, "o", server.url)
    check(digest("i") == want)


def test_every_engine_setting_serves_the_same():
    make_image("i", 4 * MIB, seed=5)
    want = digest("i")
    for words in (["--engine", "sync"], ["--engine", "auto"], ["--direct"],
                  ["--spin", 0], ["--spin", 200], ["--spin", "off"], ["--spin", "auto"],
                  ["--spin", "always"], ["--coalesce", "8,100"],
                  ["--coalesce", "2,1", "--engine", "sync"], ["--use", "buffers"],
                  ["--use", "sqpoll,buffers"],
                  ["--forbid", "files,ring-fd"],
                  ["--forbid", "sqpoll,buffers,files,ring-fd,single-issuer,"
                               "defer-taskrun,multishot"],
                  ["--write-through", "--direct"],
                  ["--queues", 4, "--threads", 2], ["--queue-size", 128, "--layout", "split"]):
        with Server("i", *words) as server:
            good("copy", server.url, "o")
            check(digest("o") == want, words)
            good("copy", "o", server.url)
        check(digest("i") == want, words)


def test_from_device_to_device():
    make_image("a", 8 * MIB, seed=6)
    make_image("b", 9 * MIB, seed=7)
    with open("b", "rb") as f:
        tail = f.read()[8 * MIB:]
    for one, two in ("any", "split"), ("split", "any"), ("packed", "packed"):
        with Server("a", "--layout", one) as source, Server("b", "--layout", two) as target:
            good("copy", source.url, target.url)
        with open("b", "rb") as f:
            content = f.read()
        with open("a", "rb") as f:
            check(content[:8 * MIB] == f.read() and content[8 * MIB:] == tail, one, two)


def test_from_file_to_file():
    make_image("i", 5 * MIB + 77, seed=8)
    make_image("o", 9 * MIB, seed=9, holes=False)
    said = json.loads(good("copy", "--json", "i", "o").out)
    check(said["layout"] is None and said["bytes"] == 5 * MIB + 77, said)
    check(digest("i") == digest("o"), "an existing larger file was not replaced")
    check(allocated("o") <= allocated("i") + MIB, "holes were filled")
    open("empty", "w").close()
    good("copy", "empty", "o")
    check(os.path.getsize("o") == 0)


def test_written_zeros_become_holes():
    with open("i", "wb") as f:
        f.write(b"\0" * (8 * MIB))
        f.write(b"x" * 4096)
    check(allocated("i") >= 8 * MIB, "this file system makes holes by itself")
    with Server("i") as server:
        good("copy", server.url, "o")
    check(digest("i") == digest("o") and allocated("o") <= 64 << 10, allocated("o"))


def test_one_byte_at_the_end_of_a_page_is_no_hole():
    with open("i", "wb") as f:
        for lead in 4095, 0, 511, 4094, 1:
            f.write((b"\0" * lead + b"x").ljust(4096, b"\0"))
        f.write(b"\0" * 99 + b"x")  # the last page is not whole
    good("copy", "i", "o")
    check(digest("i") == digest("o"))


def test_all_hole_empties_what_the_target_held():
    make_image("o", 2 * MIB, seed=24, holes=False)
    with open("i", "wb") as f:
        f.truncate(MIB)
    good("copy", "i", "o")
    check(digest("i") == digest("o") and allocated("o") == 0)


def test_written_device_is_flushed_at_the_end():
    make_image("i", MIB, seed=25, holes=False)
    for layout in LAYOUTS:
        make_image("served", MIB, seed=26)
        with Server("served") as server:
            good("copy", "--layout", layout, "--block-size", "256K", "i", server.url)
            check(server.stop() == 0, server.said())
            # Four writes and one FLUSH.
            check("served 1 client: 5 requests (0 malformed, 0 failed)" in server.said(),
                  server.said())


def loop_of(path, *words):
    try:
        made = subprocess.run(["losetup", *words, "-f", "--show", path], capture_output=True,
                              text=True)
    except FileNotFoundError:
        raise Skip("there is no losetup here")
    if made.returncode:
        raise Skip("no loop device can be had here: " + made.stderr.strip())
    return made.stdout.strip()


def test_write_protected_device_is_served_read_only():
    make_image("back", 2 * MIB, seed=28)
    loop = loop_of("back", "-r")
    try:
        with Server(loop) as server:
            said = json.loads(good("probe", "--json", server.socket).out)
            check(said["block"]["read_only"] is True, said)
            check("DISCARD" not in said["features"]["names"], said)
            check("(2.0 MiB, read-only)" in server.said(), server.said())
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def test_block_device_that_is_in_use_is_no_target():
    make_image("i", MIB, seed=27)
    make_image("back", 2 * MIB, seed=28)
    want = digest("back")
    loop = loop_of("back")
    try:
        # What mounting does: claim it for oneself.
        claim = os.open(loop, os.O_RDWR | os.O_EXCL)
        refused(1, loop + " is in use", "copy", "i", loop)
        os.close(claim)
        check(digest("back") == want, "written all the same")
        good("copy", "i", loop)
        with open("i", "rb") as i, open("back", "rb") as back:
            check(i.read() == back.read(MIB))
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


def test_holes_of_a_file_overwrite_what_a_device_held():
    make_image("served", 4 * MIB, seed=10, holes=False)
    with open("i", "wb") as f:
        f.truncate(4 * MIB)
    with Server("served") as server:
        good("copy", "i", server.url)
    check(digest("served") == digest("i"))


def test_read_only_device_is_no_target():
    make_image("i", MIB, seed=11)
    make_image("other", MIB, seed=12)
    want = digest("i")
    with Server("i", "--read-only") as server:
        refused(1, "read-only", "copy", "other", server.url)  # BLK-DRV-009
        good("copy", server.url, "o")
    check(digest("i") == want == digest("o"))


def test_target_too_small_is_refused_before_anything_is_written():
    make_image("small", MIB, seed=13)
    make_image("large", 2 * MIB, seed=14)
    want = digest("small")
    with Server("small") as server:
        refused(1, "fewer than", "copy", "large", server.url)
        make_image("odd", 1000)
        refused(1, "sectors", "copy", "odd", server.url)
    check(digest("small") == want)


def test_source_and_target_may_not_be_the_same():
    make_image("i", MIB, seed=15)
    want = digest("i")
    os.link("i", "j")
    os.symlink("i", "k")
    for other in "i", "j", "k", "./i":
        refused(1, "the same", "copy", "i", other)
    check(digest("i") == want)
    with Server("i") as server:
        refused(1, "the same", "copy", server.url, server.url)


def test_image_is_locked_against_a_second_writer():
    make_image("i", MIB, seed=16)
    words = "serve", "blk", "--image", "i", "--socket-path", "second"
    with Server("i") as server:
        refused(1, "i is in use", *words)
        refused(1, "i is in use", *words, "--read-only")
        refused(1, "in use", "copy", "i", "o")
        make_image("n", MIB, seed=17)
        refused(1, "in use", "copy", "n", "i")
        good("copy", server.url, "o")
    with Server("i", "--read-only"), Server("i", "--read-only"):
        refused(1, "i is in use", *words)
        good("copy", "i", "o")
        refused(1, "in use", "copy", "n", "i")
    check(digest("i") == digest("o") and not os.path.exists("second"))


def test_socket_path_that_is_in_use_or_left_over():
    make_image("i", MIB)
    make_image("j", MIB)
    with Server("i") as server:
        refused(1, server.socket, "serve", "blk", "--image", "j", "--socket-path",
                server.socket)
        good("probe", server.socket)
        left_over = server.socket
        server.process.kill()
        check(server.process.wait() == -signal.SIGKILL)
        server.process.returncode = 0
    check(os.path.exists(left_over), "a killed server cannot have removed its socket")
    with Server("i", socket=left_over) as server:
        wait_until("the new server", lambda: "serving" in server.said())
        good("probe", server.socket)
    check(not os.path.exists(left_over))


def test_signals_end_the_server_cleanly():
    make_image("i", MIB)
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
        with Server("i") as server:
            good("copy", server.url, "o")
            check(server.stop(number) == 0, number, server.said())
            check(not os.path.exists(server.socket), number, "left the socket")
            said = server.said().splitlines()
            check(re.search(r"served 1 client: [1-9]\d* requests \(0 malformed, 0 failed\), "
                            r"1\.0 MiB read, 0 B written, [1-9]\d* kicks, \d+ calls", said[-1]),
                  said)
            check(len(said) == 4, "one line each: ready, came, went, served;", said)


def test_signal_is_not_lost_while_the_server_starts():
    make_image("i", MIB)
    for delay in range(60):
        process = subprocess.Popen([VIRTQ, "serve", "blk", "--image", "i", "--socket-path", "s",
                                    "--quiet"], stderr=subprocess.PIPE)
        try:
            process.wait(timeout=delay * 0.0004)
        except subprocess.TimeoutExpired:
            pass
        process.terminate()
        status = process.wait(timeout=20)
        # Killed before main() had a chance, or ended in order; never still there.
        check(status in (0, -signal.SIGTERM), delay, status, process.stderr.read())
        check(status != 0 or not os.path.exists("s"), delay, "left the socket")
        process.stderr.close()


def test_socket_of_somebody_else_is_not_removed():
    make_image("i", MIB)
    with Server("i") as server:
        os.unlink(server.socket)
        with open(server.socket, "w") as f:
            f.write("mine")
        check(server.stop() == 0)
        check(os.path.isfile(server.socket), "removed a file that it had not made")


def test_socket_that_was_handed_over():
    make_image("i", MIB, seed=18)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("handed")
        listening.listen(5)
        fd = listening.fileno()
        with Server("i", "--fd", fd, socket="handed", pass_fds=[fd]) as server:
            good("copy", "vhost-user:handed", "o")
            check(server.stop() == 0, server.said())
        check(os.path.exists("handed"), "removed a socket that it had not made")
    check(digest("i") == digest("o"))


def test_link_serves_with_the_conventional_options():
    os.symlink(VIRTQ, "vhost-user-blk-virtq")
    make_image("i", MIB, seed=19)
    with Server("i", program="./vhost-user-blk-virtq") as server:
        good("copy", server.url, "o")
    check(digest("i") == digest("o"))


def test_clients_come_and_go_and_come_again():
    make_image("i", 2 * MIB, seed=20)
    with Server("i") as server:
        for turn in range(6):
            good("probe", server.socket)
            with socket.socket(socket.AF_UNIX) as rude:
                rude.connect(server.socket)
                # Nothing, half a header, an unknown request, an oversized one, two of noise.
                rude.sendall((b"", b"\1\0\0\0\1", struct.pack("<III", 999, 1, 0),
                              struct.pack("<III", 5, 1, 1 << 30), b"\xff" * 64,
                              b"\0" * 64)[turn])
            good("copy", "--layout", LAYOUTS[turn % 2], server.url, "o")
            check(digest("i") == digest("o"), turn)
        check("cut off" in server.said(), server.said())


def test_two_clients_at_once_are_served_in_turn():
    make_image("i", 8 * MIB, seed=21)
    with Server("i") as server:
        both = [subprocess.Popen([VIRTQ, "copy", server.url, name], stdout=subprocess.DEVNULL)
                for name in ("a", "b")]
        check([p.wait(timeout=60) for p in both] == [0, 0])
    check(digest("a") == digest("b") == digest("i"))


def test_layout_that_is_not_served_is_refused():
    make_image("i", MIB, seed=22)
    with Server("i", "--layout", "split") as server:
        refused(1, "no packed rings", "copy", "--layout", "packed", server.url, "o")
        check(json.loads(good("copy", "--json", server.url, "o").out)["layout"] == "split")
    with Server("i", "--layout", "packed") as server:
        refused(1, "does not agree on features", "copy", "--layout", "split", server.url, "p")
        check(not os.path.exists("p"), "made a target for a copy that cannot begin")
        good("probe", server.socket)
        check(json.loads(good("copy", "--json", server.url, "o").out)["layout"] == "packed")
    check(digest("i") == digest("o"))


def test_queue_larger_than_the_device_takes_is_refused():
    make_image("i", MIB)
    with Server("i", "--queue-size", 64) as server:
        refused(1, "with a queue of 128 entries", "copy", "--queue-size", 128, server.url, "o")
        good("copy", "--queue-size", 64, server.url, "o")


def on_terminal(columns, *words):
    """Run the tool with a terminal of that width as standard error; what it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([VIRTQ, *map(str, words)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    check(process.wait(timeout=60) == 0)
    return said.decode()


def test_progress_bar_is_for_terminals_and_fits_them():
    make_image("i", 16 * MIB, seed=23)
    with Server("i") as server:
        slow = "copy", "--depth", 1, "--block-size", 512, server.url, "o"
        for columns in 20, 60, 120:
            said = on_terminal(columns, *slow)
            pictures = [p.replace("\x1b[K", "") for p in said.split("\r")]
            check(max(map(len, pictures)) < columns, columns, pictures)
            check(any("%" in p for p in pictures), columns, "no bar:", said)
            check(pictures[-1] == "", "the bar stays:", said)
            check(("[=" in said) == (columns > 60) and ("ETA" in said) == (columns > 40),
                  columns, said)
        check(good(*slow).err == "", "a bar for no terminal")


if __name__ == "__main__":
    run_cases(cases_of(sys.modules[__name__]))
