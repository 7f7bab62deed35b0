#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What can stand behind a disk that is no file: nothing, memory, an NBD server, faults."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from rig import (MIB, VIRTQ, Server, Skip, cases_of, check, digest, good, make_image, refused,
                 run_cases, virtq, wait_until)


def block(path):
    return json.loads(good("probe", "--json", path).out)["block"]


def test_memory_keeps_what_is_written_and_nothing_forgets_it():
    make_image("i", 4 * MIB, seed=80)
    for layout in "split", "packed":
        with Server("ram:4M", "--queues", 2) as server:
            check(block(server.socket)["capacity_bytes"] == 4 * MIB)
            good("copy", "--layout", layout, server.url, "zeroes")
            check(open("zeroes", "rb").read() == bytes(4 * MIB), "it does not begin as zeroes")
            good("copy", "--layout", layout, "i", server.url)
            good("copy", "--layout", layout, server.url, "o")
            check(digest("i") == digest("o"), layout)
        with Server("null:4M") as server:
            good("copy", "--layout", layout, "i", server.url)
            check(block(server.socket)["capacity_bytes"] == 4 * MIB)


def test_read_only_is_so_for_every_kind():
    make_image("i", MIB)
    for image in "null:1M", "ram:1M":
        with Server(image, "--read-only") as server:
            refused(1, "read-only", "copy", "i", server.url)


def test_direct_without_a_file_is_noted():
    make_image("i", MIB)
    for image, noted in ("null:1M", True), ("ram:1M", True), ("i", False):
        with Server(image, "--direct") as server:
            check(("no page cache for --direct" in server.said()) == noted, server.said())


def test_images_whose_names_make_no_sense():
    words = "serve", "blk", "--socket-path", "s", "--image"
    for image in ("null:", "null:0", "null:-1", "null:many", "null:511", "null:1000", "ram:1KiB",
                  "null:5X", "ram:99999999999999999999", "null:1M "):
        refused(2, f'"{image}" names no size', *words, image)
    refused(2, "disk 2: ", "serve", "blk", "--disk", "socket=s,image=null:1M", "--disk",
            "socket=t,image=ram:x")
    refused(1, "s", *words, "nbd+unix:///?socket=/there/is/none")
    check(not os.path.exists("s"), "a socket was left behind")
    # A file of such a name is found by its path.
    make_image("null:1", MIB, seed=81)
    with Server("./null:1") as server:
        good("copy", server.url, "o")
    check(digest("null:1") == digest("o"))


def nbd_works():
    result = virtq("serve", "blk", "--socket-path", "s", "--image", "nbd://")
    if "libnbd" in result.err:
        raise Skip("built without libnbd")
    if not shutil.which("nbdkit"):
        raise Skip("there is no nbdkit here")


class Nbd:
    """An NBD server on the socket "n" with a file of its own behind it."""

    def __init__(self, path, *words):
        self.words = "nbdkit", "-f", "-U", "n", *words, "file", path
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL)
        wait_until("nbdkit", lambda: os.path.exists("n"))

    def kill(self):
        self.process.kill()
        self.process.wait()
        os.unlink("n")

    def __enter__(self):
        return "nbd+unix:///?socket=" + os.path.realpath("n")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=20)
        if os.path.exists("n"):
            os.unlink("n")


def test_network_block_device():
    nbd_works()
    make_image("far", 8 * MIB, seed=82)
    make_image("new", 8 * MIB, seed=83)
    want = digest("far")
    with Nbd("far") as url, Server(url, "--queues", 2, "--threads", 2) as server:
        check(block(server.socket)["capacity_bytes"] == 8 * MIB)
        good("copy", server.url, "o")
        check(digest("o") == want)
        for layout in "split", "packed":
            good("copy", "--layout", layout, "new", server.url)
            good("copy", "--layout", layout, server.url, "o")
            check(digest("o") == digest("new"), layout)
    check(digest("far") == digest("new"))


def test_server_ends_while_it_opens_an_image():
    nbd_works()
    with socket.socket(socket.AF_UNIX) as mute:  # takes connections, and never says a word
        mute.bind("n")
        mute.listen()
        make_image("i", MIB)
        for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
            server = subprocess.Popen([VIRTQ, "serve", "blk", "--disk", "socket=a,image=i",
                                       "--disk", "socket=b,image=nbd+unix:///?socket=n"],
                                      stderr=subprocess.PIPE, text=True,
                                      preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
            mute.settimeout(20)
            one, _ = mute.accept()
            check(not os.path.exists("a"), "a socket before all images are open")
            server.send_signal(number)
            err = server.communicate(timeout=5)[1]
            check(server.returncode == 0 and not err, server.returncode, err)
            check(not os.path.exists("a"), "a socket was left behind")
            one.close()


def test_server_that_is_slow_to_tell_its_size_keeps_nobody_from_asking():
    nbd_works()
    make_image("far", MIB)
    far = Nbd("far")
    with far as url, Server(url) as server:
        far.process.send_signal(signal.SIGSTOP)
        try:
            both = [subprocess.Popen([VIRTQ, "resize", server.socket], stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True) for _ in range(2)]
            wait_until("one of them", lambda: any(r.poll() is not None for r in both))
            one, other = sorted(both, key=lambda r: r.poll() is None)
            said = one.communicate()[0]
            check(one.returncode == 1 and "another resize is under way" in said, said)
            began = time.monotonic()
            good("stats", server.socket)
            check(time.monotonic() - began < 2, "it waited for", time.monotonic() - began)
            check(other.poll() is None, "there was nothing to wait for")
        finally:
            far.process.send_signal(signal.SIGCONT)
        said = other.communicate(timeout=20)[0]
        check(other.returncode == 0 and "still 1048576 bytes" in said, other.returncode, said)
        good("resize", server.socket)


def test_servers_that_do_not_tell_their_size_keep_nobody_from_ending():
    nbd_works()
    make_image("far", MIB)
    make_image("near", MIB)
    far = Nbd("far")
    with far as url, Server(None, "--disk", "socket=a.s,image=near",
                            "--disk", f"socket=b.s,image={url}",
                            "--disk", f"socket=c.s,image={url}", socket="c.s") as server:
        os.truncate("near", 2 * MIB)
        held = f"/proc/{server.pid}/fd"
        before = len(os.listdir(held))
        far.process.send_signal(signal.SIGSTOP)
        try:
            with socket.socket(socket.AF_UNIX) as asks:
                asks.settimeout(5)
                asks.connect(f"\0virtq/{server.pid}")
                asks.sendall(b"resize\n")
                answer = b""
                while answer.count(b"\n") < 2:  # as soon as it is known
                    answer += asks.recv(100)
                check(answer == b"ok\nchanged 1048576 2097152 a.s\n", answer)
                # Our connection, and one to who is mute.
                wait_until("the next disk's turn", lambda: len(os.listdir(held)) >= before + 2)
                began = time.monotonic()
                check(server.stop() == 0)
                check(time.monotonic() - began < 5, "it waited for", time.monotonic() - began)
                check(asks.recv(100) == b"", "nothing was known about the others")
        finally:
            far.process.send_signal(signal.SIGCONT)
        for name in "abc":
            check(not os.path.exists(name + ".s"), "a socket was left behind")
        check("a.s: served 0 clients" in server.said(), server.said())


def test_servers_that_do_not_tell_their_size_are_waited_for_together():
    nbd_works()
    make_image("far", MIB)
    make_image("near", MIB)
    far = Nbd("far")
    with far as url, Server(None, "--disk", f"socket=a.s,image={url}",
                            "--disk", f"socket=b.s,image={url}",
                            "--disk", "socket=c.s,image=near", socket="c.s") as server:
        os.truncate("near", 2 * MIB)
        held = f"/proc/{server.pid}/fd"
        before = len(os.listdir(held))
        far.process.send_signal(signal.SIGSTOP)
        try:
            resize = subprocess.Popen([VIRTQ, "resize", str(server.pid)], stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True)
            # The resize's connection, and one to who is mute for each disk of its.
            wait_until("both to be asked", lambda: len(os.listdir(held)) >= before + 3, 5)
            # Nor does the other disk wait for them.
            wait_until("the file", lambda: block("c.s")["capacity_bytes"] == 2 * MIB, 2)
            check(resize.poll() is None, "there was nothing to wait for")
        finally:
            far.process.send_signal(signal.SIGCONT)
        said = resize.communicate(timeout=20)[0]
        check(resize.returncode == 0, resize.returncode, said)
        check([line.split(":")[0] for line in said.splitlines()] == ["a.s", "b.s", "c.s"], said)
        check("still" in said and "2097152 bytes" in said, said)


def test_network_block_device_beside_files():
    nbd_works()
    make_image("far", 2 * MIB, seed=84)
    make_image("near", 2 * MIB, seed=85)
    with open("conf", "w") as f:
        with Nbd("far", "--readonly") as url:
            f.write(f"[disk]\nsocket=a.s\nimage=near\n[disk]\nsocket=b.s\nro\nimage={url}\n")
            f.flush()
            with Server(None, "--config", "conf", socket="b.s"):
                make_image("other", MIB)
                refused(1, "read-only", "copy", "other", "vhost-user:b.s")
                good("copy", "vhost-user:b.s", "vhost-user:a.s")
    check(digest("near") == digest("far"))


def test_how_long_a_network_block_device_is_waited_for():
    nbd_works()
    make_image("far", 2 * MIB, seed=92)
    url = "nbd+unix:///?socket=" + os.path.realpath("n")
    with open("conf", "w") as f:
        f.write(f"[disk]\nsocket=s\nimage={url}\nreconnect = 200\n")

    # Shorter than usual, from each of the three places that say so.
    for words in (["--socket-path", "s", "--image", url, "--reconnect", 200],
                  ["--disk", f"socket=s,image={url},reconnect=200"], ["--config", "conf"]):
        nbd = Nbd("far")
        with nbd, Server(None, *words, socket="s") as server:
            nbd.kill()
            began = time.monotonic()
            refused(1, "IOERR", "copy", server.url, "o")
            check(time.monotonic() - began < 4, words)
    # Longer than usual.
    nbd = Nbd("far")
    with nbd, Server(url, "--reconnect", 60000) as server:
        nbd.kill()
        copy = subprocess.Popen([VIRTQ, "copy", server.url, "o"], stdout=subprocess.DEVNULL)
        time.sleep(6)
        check(copy.poll() is None, "it did not wait")
        nbd.start()
        check(copy.wait(timeout=20) == 0)
        check(digest("o") == digest("far"))
    make_image("i", MIB)
    with Server("i", "--reconnect", 200) as server:
        check("nothing that --reconnect could connect to" in server.said(), server.said())


def test_injected_faults_are_one_clear_sentence():
    make_image("i", MIB, seed=86)
    make_image("new", MIB, seed=87)
    want = digest("i")
    for rules, saying, words in (
            ("op=read,error=EIO", "failed reading 262144 bytes at sector 0: IOERR", "r"),
            ("op=read,error=5,from=512K,to=513K", "at sector 1024: IOERR", "r"),
            ("op=read,short=4096,after=3", "at sector 1536: IOERR", "r"),
            ("op=write,error=ENOSPC,every=2", "failed writing", "w"),
            ("op=flush,error=EIO", "flush", "w")):
        with Server("i", "--inject", rules) as server:
            result = virtq("copy", *((server.url, "o") if words == "r" else ("new", server.url)))
            check(result.status == 1 and result.err.count("\n") == 1, rules, result.err)
            check(saying.lower() in result.err.lower(), rules, result.err)
            check(f"faults are injected: {rules}" in server.said(), server.said())
            # It is that request alone: the server goes on.
            check(block(server.socket)["capacity_bytes"] == MIB)
        make_image("i", MIB, seed=86)
    check(digest("i") == want)


def test_faults_that_come_late_or_seldom_are_survived():
    make_image("i", MIB, seed=88)
    for rules in "delay=20,every=2", "op=write,error=EIO", "op=read,error=EIO,after=99":
        with Server("i", "--inject", rules) as server:
            good("copy", server.url, "o")
        check(digest("i") == digest("o"), rules)


def test_request_that_never_ends_is_noticed_and_the_server_stops():
    make_image("i", MIB, seed=89)
    with Server("i", "--inject", "op=read,hang,after=2") as server:
        refused(1, "", "copy", "--timeout", 1, server.url, "o")


def test_rules_that_make_no_sense():
    words = "serve", "blk", "--socket-path", "s", "--image", "null:1M", "--inject"
    for rules, saying in (
            ("", "one without a word"), ("op=never", "op is read, write"),
            ("error=EIDONTKNOW", "error is a name"), ("frob=1", "no key of a rule"),
            ("error=5,every=0", "never applies"), ("op=read;;", "does nothing"),
            ("error=5;;hang", "one without a word"), ("short=x", "multiple of 512"),
            ("short=100", "multiple of 512"), ("op=read,op=write", "does nothing")):
        refused(2, saying, *words, rules)
    check(not os.path.exists("s"), "a socket was left behind")


def test_write_through_is_told():
    make_image("i", MIB, seed=90)
    make_image("new", MIB, seed=91)
    with Server("i") as server:
        check(block(server.socket)["writeback"] == 1)
    with Server("i", "--write-through") as server:
        check(block(server.socket)["writeback"] == 0)
        good("copy", "new", server.url)
    check(digest("i") == digest("new"))


if __name__ == "__main__":
    run_cases(cases_of(sys.modules[__name__]))
