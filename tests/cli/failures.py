#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the tool says and does when a device, a file or a file system fails it."""
import fcntl
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from rig import (MIB, VIRTQ, Server, Skip, cases_of, check, digest, good, make_image, refused,
                 run_cases, virtq, wait_until)


def slow_copy(*words):
    """A copy that takes seconds, and is under way."""
    return subprocess.Popen([VIRTQ, "copy", "--depth", "2", "--block-size", "512", *words],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def one_sentence(process, saying):
    """@process fails soon, and says so in one sentence."""
    began = time.monotonic()
    err = process.communicate(timeout=20)[1]
    check(time.monotonic() - began < 5, "it took too long to notice")
    check(process.returncode == 1 and err.count("\n") == 1 and saying in err,
          process.returncode, err)


def small_file_system():
    """A folder on which there is 1 MiB of room."""
    os.mkdir("small")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", "small"],
                          capture_output=True, text=True)
    if done.returncode:
        raise Skip("no tmpfs can be mounted here: " + done.stderr.strip())


def test_sources_that_cannot_be_read():
    refused(1, "No such file", "copy", "missing", "o")
    refused(1, "No such file", "copy", "vhost-user:missing", "o")
    os.mkdir("folder")
    refused(1, "is a directory", "copy", "folder", "o")
    os.mkfifo("pipe")
    refused(1, "neither a file nor", "copy", "pipe", "o")
    refused(1, "neither a file nor", "copy", "/dev/zero", "o")
    make_image("i", MIB)
    refused(1, "cannot connect", "copy", "vhost-user:i", "o")
    check(not os.path.exists("o"), "made a target for a copy that cannot begin")


def test_targets_that_cannot_be_written():
    make_image("i", MIB)
    os.mkdir("folder")
    refused(1, "is a directory", "copy", "i", "folder")
    refused(1, "No such file", "copy", "i", "no/such/folder/o")
    os.mkfifo("pipe")
    refused(1, "neither a file nor", "copy", "i", "pipe")
    refused(1, "No such file", "copy", "i", "vhost-user:missing")
    make_image("j", MIB)
    with Server("j") as server:
        refused(1, "is a socket; say vhost-user:", "copy", "i", server.socket)


def test_files_of_somebody_else():
    if os.geteuid() != 0:
        raise Skip("only root can become somebody else")
    os.chmod(".", 0o755)
    make_image("i", MIB)
    os.chmod("i", 0o600)

    def become_nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    if virtq("--version", preexec_fn=become_nobody).status != 0:
        raise Skip("the tool cannot be started by others here")
    refused(1, "Permission denied", "copy", "i", "/tmp/o", preexec_fn=become_nobody)
    refused(1, "Permission denied", "serve", "blk", "--image", "i", "--socket-path", "/tmp/s",
            preexec_fn=become_nobody)
    os.chmod("i", 0o644)
    refused(1, "Permission denied", "copy", "i", "o", preexec_fn=become_nobody)


def test_no_space_for_a_target():
    make_image("i", 3 * MIB, holes=False)
    small_file_system()
    try:
        result = refused(1, "No space left", "copy", "i", "small/o")
        check("sector" in result.err and "incomplete" in result.err, result.err)
        with Server("i") as server:
            refused(1, "No space left", "copy", server.url, "small/o")
            good("copy", server.url, "o")
    finally:
        subprocess.run(["umount", "small"], check=True)
    check(digest("i") == digest("o"))


def test_no_space_behind_a_device_names_the_sector():
    make_image("i", 3 * MIB, holes=False)
    small_file_system()
    try:
        with open("small/served", "wb") as f:
            f.truncate(3 * MIB)
        with Server("small/served") as server:
            refused(1, "writing", "copy", "i", server.url)
            result = refused(1, "IOERR", "copy", "i", server.url)
            check("at sector " in result.err, result.err)
            good("probe", server.socket)
    finally:
        subprocess.run(["umount", "small"], check=True)


def test_target_over_the_file_size_limit():
    make_image("i", 3 * MIB, holes=False)
    refused(1, "File too large", "copy", "i", "o",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB)))


def test_failed_read_names_the_sector():
    make_image("i", 4 * MIB, holes=False)
    for layout in "split", "packed":
        make_image("served", 4 * MIB, holes=False)
        with Server("served") as server:
            os.truncate("served", 2 * MIB)
            result = refused(1, "failed reading", "copy", "--layout", layout, "--depth", 1,
                             server.url, "o")
            check("at sector 4096: IOERR (1)" in result.err, result.err)
            os.truncate("served", 4 * MIB)
            good("copy", server.url, "o")


def test_source_that_fails_at_once_leaves_the_target_as_it_was():
    make_image("served", 4 * MIB, holes=False)
    make_image("o", 2 * MIB, seed=2, holes=False)
    want = digest("o")
    with Server("served") as server:
        os.truncate("served", 0)
        result = refused(1, "at sector 0: IOERR", "copy", server.url, "o", "--depth", 1)
        check(digest("o") == want and "incomplete" not in result.err, result.err)
        result = refused(1, "at sector 0: IOERR", "copy", server.url, "new", "--depth", 1)
        check("incomplete now: new" in result.err, result.err)
        os.truncate("served", 4 * MIB)
        good("copy", server.url, "o")
    check(digest("served") == digest("o"))


def test_source_that_grows_during_a_copy():
    make_image("i", 16 * MIB, holes=False)
    make_image("served", 32 * MIB)
    with Server("served") as server:
        copy = slow_copy("i", server.url)
        wait_until("the client", lambda: "came" in server.said())
        os.truncate("i", 24 * MIB)
        check(copy.poll() is None, "the copy was too fast to be disturbed")
        err = copy.communicate(timeout=60)[1]
        check(copy.returncode == 1 and "i has changed its size" in err, copy.returncode, err)
        check("incomplete" in err and err.count("\n") == 1, err)


def play_stuck_back_end(listening):
    """A disk of 1 MiB that answers all messages and never looks at its ring."""
    answers = {
        1: struct.pack("<Q", 1 << 32 | 1 << 30 | 1 << 9),  # GET_FEATURES: FLUSH among them
        15: struct.pack("<Q", 1 << 9 | 1 << 3),  # GET_PROTOCOL_FEATURES: CONFIG, REPLY_ACK
    }
    with listening.accept()[0] as client:
        while len(header := client.recvmsg(12, 4096)[0]) == 12:
            request, flags, size = struct.unpack("<III", header)
            payload = client.recv(size, socket.MSG_WAITALL) if size else b""
            if request == 24:  # GET_CONFIG
                answer = payload[:12] + struct.pack("<Q", 2048).ljust(size - 12, b"\0")
            elif request == 11:  # GET_VRING_BASE
                answer = payload
            elif request in answers:
                answer = answers[request]
            elif flags & 8:  # an acknowledgement was asked for
                answer = struct.pack("<Q", 0)
            else:
                continue
            client.sendall(struct.pack("<III", request, 5, len(answer)) + answer)


def test_back_end_that_completes_nothing():
    make_image("i", MIB, holes=False)
    make_image("o", MIB, seed=2)
    want = digest("o")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        listening.listen()
        for names in ("vhost-user:s", "o"), ("i", "vhost-user:s"):
            player = threading.Thread(target=play_stuck_back_end, args=(listening,))
            player.start()
            began = time.monotonic()
            result = refused(1, "vhost-user:s has completed nothing for 1 s", "copy",
                             "--timeout", 1, *names)
            check(1 <= time.monotonic() - began < 5, time.monotonic() - began)
            check("is at sector 0" in result.err, result.err)
            player.join()
        check(digest("o") == want, "a target was changed before there was anything to write")
        player = threading.Thread(target=play_stuck_back_end, args=(listening,))
        player.start()
        patient = slow_copy("--timeout", "0", "vhost-user:s", "o")
        try:
            patient.wait(timeout=2)
            check(False, "it did not wait for ever:", patient.stderr.read())
        except subprocess.TimeoutExpired:
            pass
        finally:
            patient.kill()
            patient.communicate()
            player.join()


def test_server_that_is_killed_during_a_copy():
    for layout in "split", "packed":
        make_image("i", 64 * MIB)
        with Server("i") as server:
            copy = slow_copy("--layout", layout, server.url, layout)
            wait_until("the copy", lambda: os.path.exists(layout) and os.path.getsize(layout))
            server.process.kill()
            check(server.process.wait() == -signal.SIGKILL)
            server.process.returncode = 0
            one_sentence(copy, "has gone")


def test_server_that_is_stopped_during_a_copy():
    for direction in "out", "in":
        make_image("i", 64 * MIB)
        make_image("n", 64 * MIB, seed=2, holes=False)
        with Server("i") as server:
            names = (server.url, "o") if direction == "out" else ("n", server.url)
            copy = slow_copy(*names)
            wait_until("the client", lambda: "came" in server.said())
            time.sleep(0.1)
            check(server.stop() == 0, server.said())
            check(not os.path.exists(server.socket))
            one_sentence(copy, "gone")


def test_copy_that_is_killed_costs_the_server_nothing():
    make_image("i", 64 * MIB)
    want = digest("i")
    with Server("i") as server:
        for layout in "split", "packed", "split", "packed":
            copy = slow_copy("--layout", layout, server.url, "o")
            wait_until("the copy", lambda: os.path.exists("o") and os.path.getsize("o") > 0)
            copy.kill()
            copy.communicate()
            os.unlink("o")
        good("copy", server.url, "o")
        check(server.stop() == 0, server.said())
    check(digest("o") == want == digest("i"))


def test_server_whose_log_reader_has_gone_serves_on():
    make_image("i", MIB)
    reader, writer = os.pipe()
    with Server("i", stderr=writer) as server:
        os.close(writer)
        os.read(reader, 4096)
        os.close(reader)
        for _ in range(3):
            good("probe", server.socket)
        check(server.stop() == 0)
        check(not os.path.exists(server.socket))


def test_what_answers_is_no_back_end():
    answers = b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\1\0\0\0\5\0\0\0\xff\xff\xff\xff"
    for answer in answers:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("s")
            listening.listen()

            def answer_once():
                client = listening.accept()[0]
                client.recv(4096)
                client.sendall(answer)
                client.close()

            for words in ("probe", "s"), ("copy", "vhost-user:s", "o"):
                thread = threading.Thread(target=answer_once)
                thread.start()
                refused(1, "s: ", *words)
                thread.join()
        os.unlink("s")
    check(not os.path.exists("o"))


def test_nobody_listens():
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind("s")
    refused(1, "refused", "probe", "s")
    refused(1, "refused", "copy", "vhost-user:s", "o")
    refused(1, "No such file", "probe", "missing")


def test_reader_of_messages_that_stands_still_stops_nothing():
    make_image("i", 2 * MIB, seed=21)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    server = subprocess.Popen([VIRTQ, "serve", "blk", "--socket-path", "s", "--image", "i",
                               "--stats", "1"], stderr=writing, stdin=subprocess.DEVNULL)
    os.close(writing)
    try:
        wait_until("the socket", lambda: os.path.exists("s"))
        for turn in range(100):  # each is some messages, which are more than the pipe holds
            good("probe", "s")
        good("copy", "vhost-user:s", "o")
        good("stats", server.pid)
        server.terminate()
        check(server.wait(timeout=20) == 0)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    check(digest("i") == digest("o"))
    with open(reading, "rb") as f:
        said = f.read()
    check(said.startswith(b"virtq serve blk: serving i ") and len(said) <= 4096, said)
    check(said.endswith(b"\n"), "a line was cut")


def test_reader_of_messages_that_has_gone_stops_nothing():
    make_image("i", MIB, seed=22)
    reading, writing = os.pipe()
    server = subprocess.Popen([VIRTQ, "serve", "blk", "--socket-path", "s", "--image", "i"],
                              stderr=writing, stdin=subprocess.DEVNULL)
    os.close(writing)
    try:
        wait_until("the socket", lambda: os.path.exists("s"))
        os.close(reading)
        good("copy", "vhost-user:s", "o")
        server.terminate()
        check(server.wait(timeout=20) == 0)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


if __name__ == "__main__":
    run_cases(cases_of(sys.modules[__name__]))
