#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Several disks in one process: by --disk, by a file of settings, and what is wrong with these."""
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys

from rig import (MIB, VIRTQ, Server, Skip, cases_of, check, digest, good, make_image, refused,
                 run_cases, virtq, wait_until)


def settings(text, name="conf"):
    with open(name, "w") as f:
        f.write(text)
    return name


def copies(*pairs):
    """Copies, all at the same time."""
    running = [subprocess.Popen([VIRTQ, "copy", *pair], stdout=subprocess.DEVNULL)
               for pair in pairs]
    check([p.wait(timeout=60) for p in running] == [0] * len(running))


def shown(path):
    return json.loads(good("probe", "--json", path).out)


def test_disks_are_served_and_copied_at_once():
    for i, name in enumerate("abcd"):
        make_image(name, (4 + i) * MIB, seed=40 + i)
    make_image("new", 4 * MIB, seed=50)
    with Server(None, "--threads", 2, "--queues", 2, "--disk", "socket=a.s,image=a",
                "--disk", "image=b,socket=b.s,ro,queues=3", "--disk", "socket=c.s,image=c,ro=on",
                "--disk", "socket=d.s,image=d,layout=split", socket="d.s") as server:
        copies(("new", "vhost-user:a.s"), ("vhost-user:b.s", "B"), ("vhost-user:c.s", "C"),
               ("vhost-user:d.s", "D"))
        for name in "bcd":
            check(digest(name) == digest(name.upper()), name)
        # What all have in common, and what one has instead.
        check([shown(s)["queues"] for s in ("a.s", "b.s", "c.s", "d.s")] == [2, 3, 2, 2])
        check([shown(s)["block"]["read_only"] for s in ("a.s", "b.s", "c.s", "d.s")] ==
              [False, True, True, False])
        check("RING_PACKED" not in shown("d.s")["features"]["names"])
        check(server.stop() == 0, server.said())
        said = server.said()
        for name in "abcd":
            check(f"serving {name} (" in said and f" {name}.s: served " in said, said)
        check("a.s: client 1 came" in said and "engine" in said, said)
    check(digest("a") == digest("new"))
    check(not [name for name in os.listdir() if name.endswith(".s")], "a socket was left behind")


def test_file_of_settings():
    make_image("a", 2 * MIB, seed=51)
    make_image("b=1", 3 * MIB, seed=52)
    settings("# all of them\n\nqueues = 4\n  read-only\n; and each\n[disk]\nsocket=a.s\nimage=a\n"
             "\tserial = first of two\t\r\n\n[disk]\nimage = b=1\nsocket =  b.s \nqueues=2\n"
             "ro = off\ninject = op=read,error=EIO,after=1000000\n")
    with Server(None, "--config", "conf", "--queue-size", 64, socket="b.s") as server:
        check([shown(s)["queues"] for s in ("a.s", "b.s")] == [4, 2])
        check([shown(s)["block"]["read_only"] for s in ("a.s", "b.s")] == [True, False])
        copies(*[("--queue-size", "64", f"vhost-user:{d}.s", d.upper()) for d in "ab"])
        check(digest("A") == digest("a") and digest("B") == digest("b=1"))
        said = json.loads(good("stats", "--json", server.pid).out)
        check([d["serial"] for d in said["disks"]] == ["first of two", ""], said)
        check("faults are injected: op=read,error=EIO,after=1000000" in server.said())


def test_file_and_options_together():
    make_image("a", MIB, seed=53)
    make_image("b", MIB, seed=54)
    settings("[disk]\nsocket=a.s\nimage=a\n")
    with Server(None, "--config", "conf", "--disk", "socket=b.s,image=b", socket="b.s"):
        copies(("vhost-user:a.s", "A"), ("vhost-user:b.s", "B"))
    check(digest("A") == digest("a") and digest("B") == digest("b"))


def test_files_of_settings_add_up():
    for name in "abc":
        make_image(name, MIB, seed=57)
    with open("first", "w") as f:
        f.write("queues = 2\n[disk]\nsocket=a.s\nimage=a\n")
    with open("second", "w") as f:
        f.write("[disk]\nsocket=b.s\nimage=b\n")
    words = "--config", "first", "--disk", "socket=c.s,image=c", "--config", "second"
    with Server(None, *words, socket="c.s") as server:
        # What a file says of all disks is about its own.
        said = json.loads(good("stats", "--json", server.pid).out)["disks"]
        check([(d["socket"], len(d["queues"])) for d in said] ==
              [("a.s", 2), ("b.s", 1), ("c.s", 1)], said)
    refused(2, "disks 1 and 2 have the same socket a.s", "serve", "blk", "--config", "first",
            "--config", "first")
    refused(1, "cannot open third", "serve", "blk", "--config", "third", "--config", "first")


def test_two_commas_are_one():
    make_image("a,b", MIB, seed=55)
    with Server(None, "--disk", "socket=a.s,image=a,,b,inject=op=write,,error=EIO",
                socket="a.s") as server:
        good("copy", "vhost-user:a.s", "o")
        check("op=write,error=EIO" in server.said(), server.said())
    check(digest("o") == digest("a,b"))


def test_one_disk_that_cannot_be_served_stops_all_and_is_named():
    make_image("a", MIB)
    make_image("odd", 1000)
    serve = "serve", "blk", "--disk", "socket=a.s,image=a"
    for saying, disk in (("the disk on b.s: ", "socket=b.s,image=missing"),
                         ("the disk on b.s: ", "socket=b.s,image=odd"),
                         ("the disk on b.s: ", "socket=b.s,image=a"),
                         ("no/b.s", "socket=no/b.s,image=null:1M"),
                         ("file descriptor 77", "fd=77,image=null:1M")):
        refused(1, saying, *serve, "--disk", disk)
        check(not os.path.exists("a.s") and not os.path.exists("b.s"), "a socket was left behind")
    for disk in "socket=b.s,image=null:0", "socket=b.s,image=null:1M,inject=op=never":
        refused(2, "disk 2: ", *serve, "--disk", disk)
    refused(1, "cannot open missing", "serve", "blk", "--config", "missing")
    refused(1, "cannot read .", "serve", "blk", "--config", ".")
    with open("binary", "wb") as f:
        f.write(b"[disk]\n\0image=a\n")
    refused(1, "binary is no file of settings", "serve", "blk", "--config", "binary")


def test_settings_that_make_no_sense():
    def bad(saying, *words):
        refused(2, saying, "serve", "blk", *words)

    a = "socket=a.s,image=a"
    bad("--disk: sokket: there is no such key", "--disk", "sokket=a.s,image=a")
    bad("--disk: '': there is no such key", "--disk", a + ",")
    bad("--disk: '': there is no such key", "--disk", "")
    bad("--disk: image needs a value", "--disk", "socket=a.s,image")
    bad("--disk: image needs a value", "--disk", "socket=a.s,image=")
    bad("--disk: socket needs a value", "--disk", "socket=,image=a")
    bad("--image needs a value", "--socket-path", "a.s", "--image", "")
    bad("--socket-path needs a value", "--socket-path", "", "--image", "a")
    bad("--disk: image is there twice", "--disk", a + ",image=b")
    bad("--disk: read-only is there twice", "--disk", a + ",ro,read-only=off")
    bad("--disk: ro is on or off", "--disk", a + ",ro=maybe")
    bad("--disk: queues is 1 to 256", "--disk", a + ",queues=0")
    bad("--disk: queue-size wants a whole number", "--disk", a + ",queue-size=many")
    bad("--disk: serial is at most 20 bytes", "--disk", a + ",serial=" + "x" * 21)
    bad("--disk: layout is any, split or packed", "--disk", a + ",layout=round")
    bad("--disk: coalesce is COUNT,MICROSECONDS", "--disk", a + ",coalesce=3")
    bad("--disk: coalesce is 1 to 1000000", "--disk", a + ",coalesce=3,,2M")
    bad("--disk: size-max is a multiple of 512 bytes", "--disk", a + ",size-max=513")
    bad("--disk: reconnect is 1 to 86400000", "--disk", a + ",reconnect=86400001")
    bad("disk 1: either socket or fd is needed", "--disk", "image=a")
    bad("disk 2: image is needed", "--disk", a, "--disk", "socket=b.s")
    bad("disk 1: socket and fd exclude each other", "--disk", a + ",fd=3")
    bad("disks 1 and 3 have the same socket a.s", "--disk", a, "--disk", "socket=b.s,image=b",
        "--disk", a)
    bad("disks 1 and 2 have the same fd 5", "--disk", "fd=5,image=a", "--disk", "fd=5,image=b")
    bad("disks 1 and 2 have the same serial s", "--disk", a + ",serial=s", "--disk",
        "socket=b.s,image=b,serial=s")
    for own in "socket-path", "fd", "image", "serial":
        bad("is for one disk", "--disk", a, "--" + own, 3)
    for saying, text in (("conf has no [disk]", ""), ("conf has no [disk]", "queues=2\n"),
                         ("conf:1: a disk begins with [disk]", "[disc]\n"),
                         ("conf:3: imag: there is no such key", "[disk]\n\nimag=a\n"),
                         ("conf:2: image is for one disk", "queues=2\nimage=a\n"),
                         ("conf:4: image is there twice", "[disk]\nsocket=s\nimage=a\nimage=b"),
                         ("conf:2: socket needs a value", "[disk]\nsocket\n"),
                         ("conf:3: image needs a value", "[disk]\nsocket=s\nimage=\n"),
                         ("conf:2: socket needs a value", "[disk]\nsocket = \nimage=a\n"),
                         ("disk 1: image is needed", "[disk]\nsocket=a.s\n"),
                         ("at most 256 disks", "[disk]\n" * 257)):
        settings(text)
        bad(saying, "--config", "conf")


def test_when_one_disk_ends_the_others_go_on():
    make_image("a", 2 * MIB, seed=56)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("handed")
        listening.listen()
        fd = listening.fileno()
        with Server(None, "--disk", f"fd={fd},image=null:1M", "--disk", "socket=a.s,image=a",
                    socket="a.s", pass_fds=[fd]) as server:
            wait_until("the server", lambda: os.path.exists("a.s"))
            good("probe", "handed")
            listening.shutdown(socket.SHUT_RDWR)  # accept() fails from now on
            wait_until("the sentence", lambda: "is served no more" in server.said())
            check(f"file descriptor {fd} is served no more: " in server.said(), server.said())
            good("copy", "vhost-user:a.s", "o")
            check(digest("o") == digest("a"))
            good("stats", server.pid)
            server.status = 1
    # One alone ends the process.
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("alone")
        listening.listen()
        process = subprocess.Popen([VIRTQ, "serve", "blk", "--fd", str(listening.fileno()),
                                    "--image", "null:1M", "--quiet"], text=True,
                                   stderr=subprocess.PIPE, pass_fds=[listening.fileno()])
        good("probe", "alone")
        listening.shutdown(socket.SHUT_RDWR)
        check(process.wait(timeout=20) == 1)
        check("cannot accept clients" in process.stderr.read())
        process.stderr.close()


def test_signal_ends_all_in_the_middle_of_copies():
    for name in "abc":
        make_image(name, 8 * MIB, seed=57, holes=False)
    words = []
    for name in "abc":
        words += ["--disk", f"socket={name}.s,image={name},inject=delay=50"]
    with Server(None, *words, socket="c.s") as server:
        running = [subprocess.Popen([VIRTQ, "copy", "--block-size", "4K", f"vhost-user:{name}.s",
                                     name + ".out"], stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL) for name in "abc"]
        wait_until("all clients", lambda: server.said().count("client 1 came") == 3)
        check(server.stop(signal.SIGTERM) == 0, server.said())
        check(all(p.wait(timeout=60) == 1 for p in running), "a copy did not notice")
        check(not os.path.exists("a.s") and not os.path.exists("c.s"))


def refuse_large_batches():
    """From here on the kernel refuses io_uring_enter() with more than 8 entries."""
    statement = struct.Struct("HBBI")
    program = b"".join(statement.pack(*s) for s in (
        (0x20, 0, 0, 0),            # load the number of the system call
        (0x15, 0, 3, 426),          # io_uring_enter, on every architecture; else allow
        (0x20, 0, 0, 16 + 8),       # load how many are to be submitted
        (0x25, 0, 1, 8),            # more than 8; else allow
        (0x06, 0, 0, 0x00050001),   # fail with EPERM
        (0x06, 0, 0, 0x7fff0000)))  # allow
    code = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    what = Program(len(program) // statement.size, ctypes.addressof(code))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(what), 0, 0):
        os._exit(99)


def test_engine_that_cannot_go_on_ends_the_server():
    make_image("i", 8 * MIB, seed=58, holes=False)
    make_image("new", 8 * MIB, seed=59, holes=False)
    with Server("i", "--spin", "off", preexec_fn=refuse_large_batches) as server:
        wait_until("the first line", lambda: "serving i" in server.said())
        if "engine uring" not in server.said():
            raise Skip("there is no io_uring here")
        result = virtq("copy", "--depth", 256, "--block-size", "4K", "new", server.url)
        check(server.process.wait(timeout=20) == 1, server.said())
        check("thread 1 of 1 that serve queues cannot go on, so the server ends: "
              "Operation not permitted" in server.said(), server.said())
        check(result.status == 1 and result.err.count("\n") == 1, result.err)
        check(not os.path.exists(server.socket))
        server.status = 1


def test_disks_share_the_threads():
    words = []
    for i in range(8):
        words += ["--disk", f"socket={i}.s,image=null:1M"]
    with Server(None, "--threads", 64, *words, socket="7.s") as server:
        wait_until("the last line", lambda: "on 7.s" in server.said())
        check(server.said().count(", 8 threads") == 8, server.said())
        # Each on its own: a disk begins with the thread behind the last one's.
        threads = os.listdir(f"/proc/{server.pid}/task")
        check(len(threads) >= 8 + 8 + 2, len(threads))


if __name__ == "__main__":
    run_cases(cases_of(sys.modules[__name__]))
