#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A server that runs is asked: what its disks have done, and to look at their sizes again."""
import json
import os
import re
import socket
import subprocess
import sys
import time

from rig import (MIB, VIRTQ, Server, Skip, cases_of, check, digest, good, make_image, refused,
                 run_cases, virtq, wait_until)

COUNTERS = {"requests", "malformed", "failed", "cancelled", "bytes_read", "bytes_written",
            "batches", "kicks", "calls", "suppressed", "coalesced", "sleeps", "latency"}


def stats(of):
    return json.loads(good("stats", "--json", of).out)


def total(said, counter):
    return sum(q[counter] for d in said["disks"] for q in d["queues"])


def control(pid, request=None):
    """Connect to the control socket of @pid; with @request, all that is answered."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(f"\0virtq/{pid}")
    if request is None:
        return s
    with s:
        answer = b""
        try:
            s.sendall(request)
        except BrokenPipeError:
            pass  # it has answered and hung up already
        try:
            while piece := s.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass  # it hung up with something unread
        return answer


def as_somebody(become, what, *words):
    """The bytes that @what returns in a process that is somebody else."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            become()
            os.write(writing, what(*words))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as f:
        answer = f.read()
    os.waitpid(child, 0)
    return answer


def processor_ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


# ---- What was done. ----

def test_statistics_while_a_copy_runs_and_afterwards():
    make_image("i", 6 * MIB, seed=60, holes=False)
    with Server("i", "--queues", 2, "--serial", "s1", "--inject", "delay=2") as server:
        copy = subprocess.Popen([VIRTQ, "copy", "--block-size", "4K", "--depth", "2", server.url,
                                 "o"], stdout=subprocess.DEVNULL)
        seen = []
        while copy.poll() is None:
            seen.append(total(stats(server.pid), "requests"))
            time.sleep(0.05)
        check(copy.returncode == 0)
        check(seen == sorted(seen) and len(set(seen)) > 3, "the counters did not grow:", seen)
        said = stats(server.socket)
        check(set(said) == {"time_ns", "disks"} and len(said["disks"]) == 1, said)
        disk = said["disks"][0]
        check(disk["socket"] == server.socket and disk["image"] == "i", disk)
        check(disk["serial"] == "s1" and disk["capacity_bytes"] == 6 * MIB, disk)
        check(disk["clients"] == 1 and len(disk["queues"]) == 2, disk)
        check(all(set(q) == COUNTERS for q in disk["queues"]), disk)
        check(total(said, "bytes_read") == 6 * MIB and total(said, "requests") >= 1536, said)
        for q in disk["queues"]:
            check(sum(q["latency"]) == q["requests"] and len(q["latency"]) == 24, q)
            # Nothing was answered before the 2 ms that were injected.
            check(sum(q["latency"][:11]) == 0, q)
            check(q["calls"] + q["suppressed"] + q["coalesced"] == q["batches"], q)
        text = good("stats", server.pid).out
        check(re.search(r"^.*: i \(6\.0 MiB\), 2 queues, 1 client so far\n"
                        r"  queue 0: \d+ requests \(0 malformed, 0 failed, 0 cancelled\), "
                        r"6\.0 MiB read, 0 B written, \d+ batches, \d+ kicks, \d+ calls, "
                        r"\d+ suppressed, p50 <\d+ us, p99 <\d+ us\n$", text), text)


def test_bytes_are_the_driver_s_whatever_is_behind_the_disk():
    make_image("i", 4 * MIB, seed=67, holes=False)
    for image in "ram:4M", "null:4M", "file":
        make_image("file", 4 * MIB, seed=68)
        with Server(image, "--queues", 2) as server:
            good("copy", "i", server.url)
            said = stats(server.pid)
            check(total(said, "bytes_written") == 4 * MIB, image, said)
            check(total(said, "bytes_read") == 0 and total(said, "failed") == 0, image, said)
            good("copy", server.url, "o")
            said = stats(server.pid)
            check(total(said, "bytes_written") == 4 * MIB, image, said)
            check(total(said, "bytes_read") == 4 * MIB, image, said)
            check(server.stop() == 0)
            check("0 failed), 4.0 MiB read, 4.0 MiB written" in server.said(), server.said())


def test_failed_is_what_the_driver_is_told():
    make_image("i", MIB, seed=69, holes=False)
    for image in "i", "ram:1M":
        with Server(image, "--inject", "op=read,error=EIO,after=2,times=1") as server:
            refused(1, "IOERR", "copy", "--depth", 1, "--block-size", "4K", server.url, "o")
            said = stats(server.pid)
            check(total(said, "failed") == 1 and total(said, "requests") >= 3, image, said)
            check(total(said, "bytes_read") == 8192 and total(said, "cancelled") == 0, said)


def test_statistics_every_second():
    make_image("i", MIB, seed=61)
    with Server(None, "--stats", 1, "--disk", "socket=a.s,image=i", "--disk",
                "socket=b.s,image=null:1M", socket="b.s") as server:
        good("copy", "vhost-user:a.s", "o")
        line = re.compile(r"a\.s queue 0: \d+ requests/s, \d+\.\d MiB/s, \d+ batches, \d+ kicks, "
                          r"\d+ calls, \d+ suppressed, 0 failed, 0 cancelled, p50 <\d+ us, "
                          r"p99 <\d+ us\n")
        wait_until("a line with figures", lambda: line.search(server.said()))
        wait_until("a line of an idle disk", lambda: "b.s: no requests\n" in server.said())
        wait_until("the next one", lambda: "a.s: no requests\n" in server.said())


def test_watching_lasts_as_long_as_the_server():
    make_image("i", MIB, seed=62)
    with Server("i", "--quiet") as server:
        plain, as_json = [subprocess.Popen([VIRTQ, "stats", str(server.pid), "--watch", "1",
                                            *more], stdout=subprocess.PIPE, text=True,
                                           stderr=subprocess.PIPE)
                          for more in ([], ["--json"])]
        good("copy", server.url, "o")
        first = plain.stdout.readline()
        check("queue 0: " in first and "requests/s" in first or "no requests" in first, first)
        wait_until("silence", lambda: plain.stdout.readline().endswith(": no requests\n"))
        check(server.stop() == 0)
        for process in plain, as_json:
            out, err = process.communicate(timeout=20)
            check(process.returncode == 1 and err.count("\n") == 1, err)
            # It had ended, or was about to.
            check("there is no process" in err or "is no virtq server" in err or
                  "does not answer" in err or "gave no answer" in err, err)
        decoder, objects = json.JSONDecoder(), []
        while out.strip():
            one, end = decoder.raw_decode(out.strip())
            objects.append(one)
            out = out.strip()[end:]
        check(len(objects) >= 2 and total(objects[-1], "requests") > 0, objects)


def test_asking_is_no_client_and_disturbs_none():
    make_image("i", 2 * MIB, seed=63)
    with Server("i") as server:
        for turn in range(3):
            good("stats", server.socket)
        held = subprocess.Popen([os.environ["WATCH_DISK"], server.socket], text=True,
                                stdout=subprocess.PIPE)
        check(held.stdout.readline() == f"{2 * MIB}\n")
        for turn in range(20):  # these connect and hang up
            check(stats(server.socket)["disks"][0]["clients"] == 1)
        for turn in range(5000):  # as these do, which are more than the backlog holds
            with socket.socket(socket.AF_UNIX) as looks:
                looks.settimeout(20)
                looks.connect(server.socket)
        check(stats(server.socket)["disks"][0]["clients"] == 1)
        held.kill()
        held.wait()
        held.stdout.close()
        good("copy", server.url, "o")
        check(stats(server.pid)["disks"][0]["clients"] == 2, server.said())
        check("client 3" not in server.said() and "cut off" not in server.said(), server.said())
    check(digest("i") == digest("o"))


def test_idle_server_takes_no_time():
    make_image("i", MIB, seed=64)
    with Server("i", "--queues", 4, "--threads", 2) as server:
        held = subprocess.Popen([os.environ["WATCH_DISK"], server.socket], text=True,
                                stdout=subprocess.PIPE)
        held.stdout.readline()
        before = processor_ticks(server.pid)
        time.sleep(1.5)
        check(processor_ticks(server.pid) - before <= 1)
        held.kill()
        held.wait()
        held.stdout.close()


def test_counters_can_be_read_while_requests_hang():
    make_image("i", MIB)
    with Server("i", "--inject", "op=read,hang,after=2") as server:
        copy = subprocess.Popen([VIRTQ, "copy", "--timeout", "0", server.url, "o"],
                                stdout=subprocess.DEVNULL)
        wait_until("requests", lambda: total(stats(server.socket), "requests") == 2)
        copy.kill()
        copy.wait()
        # Its queue is given some seconds to end.
        began = time.monotonic()
        before = [stats(server.socket) for _ in range(5)]
        check(time.monotonic() - began < 3, "it waited for", time.monotonic() - began)
        check("client 1 went" not in server.said(), "there was nothing to wait for")
        wait_until("the end of the client", lambda: "client 1 went" in server.said())
        after = stats(server.socket)
        for counter in "requests", "cancelled", "failed":
            seen = [total(said, counter) for said in before + [after]]
            check(seen == sorted(seen), counter, seen)
        check(total(before[0], "cancelled") == 0 < total(after, "cancelled"))


# ---- Who cannot be asked, and who may not ask. ----

def test_processes_that_cannot_be_asked():
    with open("plain", "w"):
        pass
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind("gone")
    dead = subprocess.Popen(["true"])
    dead.wait()
    for command in "stats", "resize":
        refused(1, f"there is no process {dead.pid}", command, dead.pid)
        refused(1, "there is no process 0", command, 0)
        refused(1, "there is no process 99999999999999999999", command, "9" * 20)
        refused(1, f"process {os.getpid()} is no virtq server", command, os.getpid())
        refused(1, "cannot connect to missing: No such file", command, "missing")
        refused(1, "cannot connect to plain: Connection refused", command, "plain")
        refused(1, "cannot connect to gone: Connection refused", command, "gone")
        refused(1, "at most 107 bytes", command, "x" * 200)
    # A socket of ours that listens is a server only if we are.
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind("ours")
        ours.listen()
        refused(1, f"process {os.getpid()} is no virtq server", "stats", "ours")


def test_who_answers_in_the_name_of_another_is_found_out():
    child = subprocess.Popen(["sleep", "60"])
    try:
        for pid, says, saying in ((child.pid, b"", "somebody else answers in the name"),
                                  (os.getpid(), b"", "gave no answer"),
                                  (os.getpid(), b"ok\n", "means nothing"),
                                  (os.getpid(), b"ok\nend", ""),
                                  (os.getpid(), b"ok\ndisk d\nbytes many\nend\n", "means nothing"),
                                  (os.getpid(), b"ok\ndisk d\nqueue 0\nlatency 1 2\nend\n",
                                   "means nothing"),
                                  (os.getpid(), b"ok\ntime_ns 1\n", "means nothing"),
                                  (os.getpid(), b"error so it is\n", "so it is"),
                                  (os.getpid(), b"\xff" * 100, "gave no answer"),
                                  (os.getpid(), b"what\n", "means nothing")):
            with socket.socket(socket.AF_UNIX) as liar:
                liar.bind(f"\0virtq/{pid}")
                liar.listen()
                asking = subprocess.Popen([VIRTQ, "stats", str(pid)], text=True,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                one, _ = liar.accept()
                if pid == os.getpid():
                    check(one.recv(100) == b"stats\n")
                try:
                    one.sendall(says)
                except BrokenPipeError:
                    check(pid == child.pid)  # it did not even want to hear it
                one.close()
                out, err = asking.communicate(timeout=20)
                check(asking.returncode == (1 if saying else 0), says, out, err)
                check(saying in err and err.count("\n") == (1 if saying else 0), says, err)
    finally:
        child.kill()
        child.wait()


def test_resize_believes_no_answer_that_is_cut_or_senseless():
    same = b"ok\nsame 512 a\n"
    for says, saying, out in ((b"ok\n", "not answered to the end", ""),
                              (same, "not answered to the end", "a: still 512 bytes"),
                              (same + b"changed 512 1024 b", "not answered to the end", "a: still"),
                              (same + b"end", "not answered to the end", "a: still"),
                              (b"ok\nend\n", "means nothing", ""),
                              (b"ok\nchanged 1 x\nend\n", "means nothing", ""),
                              (b"ok\nchanged 1 2 \nend\n", "means nothing", ""),
                              (b"ok\nsame -1 a\nend\n", "means nothing", ""),
                              (b"ok\nsame 99999999999999999999 a\nend\n", "means nothing", ""),
                              (same + b"frob\nend\n", "means nothing", "a: still"),
                              (b"ok\nfailed \x1b[31mred\x7f\nend\n", ": ?[31mred?", ""),
                              (b"ok\nsame 512 \x1b[2J\nend\n", "", "?[2J: still 512 bytes"),
                              (b"error \x1b[2J\tclear\n", ": ?[2J?clear", ""),
                              (same + b"end\nwhat comes after", "", "a: still 512 bytes")):
        with socket.socket(socket.AF_UNIX) as liar:
            liar.bind(f"\0virtq/{os.getpid()}")
            liar.listen()
            asking = subprocess.Popen([VIRTQ, "resize", str(os.getpid())], text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            one, _ = liar.accept()
            with one:
                check(one.recv(100) == b"resize\n")
                one.sendall(says)
            said, err = asking.communicate(timeout=20)
            check(asking.returncode == (1 if saying else 0), says, said, err)
            check(saying in err and err.count("\n") == (1 if saying else 0), says, err)
            check(said.startswith(out) and said.count("\n") == (1 if out else 0), says, said)


def test_answers_are_lines_whatever_a_disk_is_called():
    make_image("i", MIB)
    with Server("i", socket=os.path.realpath(".") + "/a\nb") as server:
        said = control(server.pid, b"resize\n").decode().splitlines()
        check(len(said) == 3 and said[1].startswith("same 1048576 ") and said[2] == "end", said)
        check(said[1].endswith("/a?b"), said)
        os.truncate("i", 1000)
        said = control(server.pid, b"resize\n").decode().splitlines()
        check(len(said) == 3 and said[1].startswith("failed ") and "/a?b: " in said[1], said)
        os.truncate("i", MIB)


def test_answer_that_is_long_in_coming_is_waited_for():
    # As long as it is about a disk whose own server has ten seconds to say something.
    with socket.socket(socket.AF_UNIX) as slow:
        slow.bind(f"\0virtq/{os.getpid()}")
        slow.listen()
        asking = subprocess.Popen([VIRTQ, "resize", str(os.getpid())], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        one, _ = slow.accept()
        with one:
            check(one.recv(100) == b"resize\n")
            one.sendall(b"ok\n")
            for turn in range(2):
                time.sleep(10.5)
                one.sendall(b"same 512 disk%d\n" % turn)
            one.sendall(b"end\n")
        out = asking.communicate(timeout=20)[0]
        check(asking.returncode == 0 and out.count("still 512 bytes") == 2, out)


def test_other_users_may_not_ask():
    if os.geteuid() != 0:
        raise Skip("only root can be somebody else")
    make_image("i", MIB)
    os.chmod(".", 0o755)

    def nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    with Server("i") as server:
        with open(VIRTQ, "rb") as f, open("virtq", "wb") as g:
            g.write(f.read())  # where it is built others may not look
        os.chmod("virtq", 0o755)
        for command in "stats", "resize":
            refused(1, f"process {server.pid} belongs to another user (0)", command, server.pid,
                    program="./virtq", preexec_fn=nobody)
        # The server does not rely on that.
        check(as_somebody(nobody, control, server.pid, b"stats\n") ==
              b"error this server belongs to another user\n")
    # root may ask anybody.
    os.chown(".", 65534, 65534)
    os.chown("i", 65534, 65534)
    # By the link's name it serves without further words.
    os.rename("virtq", "vhost-user-blk-virtq")
    with Server("i", program="./vhost-user-blk-virtq", preexec_fn=nobody) as server:
        check(len(stats(server.pid)["disks"]) == 1)


def test_nonsense_on_the_control_socket():
    make_image("i", MIB, seed=65)
    with Server("i") as server:
        check(control(server.pid, b"frob\n") == b"error there is no such request\n")
        check(control(server.pid, b"\n") == b"error there is no such request\n")
        check(control(server.pid, b"stats now\n") == b"error there is no such request\n")
        check(control(server.pid, b"stats\nstats\n").count(b"ok\n") == 1)
        check(control(server.pid, b"resize \n").startswith(b"error no disk here is called"))
        check(control(server.pid, b"x" * 5000) == b"", "a line without an end was answered")
        check(control(server.pid, b"resize " + b"x" * 900 + b"\n").startswith(b"error no disk"))
        control(server.pid).close()
        silent = control(server.pid)
        check(control(server.pid, b"stats\n").startswith(b"ok\n"), "who is silent holds all up")
        half = control(server.pid)
        half.sendall(b"stat")
        good("stats", server.pid)
        deaf = control(server.pid)
        deaf.sendall(b"stats\n")  # and never reads
        good("stats", server.pid)
        good("copy", server.url, "o")
        waiting = control(server.pid)
        check(server.stop() == 0, "who waits keeps the server from ending")
        for s in silent, half, deaf, waiting:
            s.close()
    check(digest("i") == digest("o"))


def test_options_that_make_no_sense():
    for command in "stats", "resize":
        refused(2, "SOCKET-OR-PID is missing", command)
        refused(2, "one word too many", command, 1, 2)
        refused(2, "no option --frob", command, "--frob", 1)
        check("Examples:" in good("help", command).out)
    refused(2, "--watch is 1 to 86400", "stats", 1, "--watch", 0)
    refused(2, "whole number", "stats", 1, "--watch", "often")
    refused(2, "--disk is a serial or a socket", "resize", 1, "--disk", "")
    refused(2, "--stats is 1 to 86400", "serve", "blk", "--stats", 0)


# ---- Sizes. ----

def test_running_client_sees_the_new_size():
    make_image("i", MIB, seed=66)
    with Server("i") as server:
        client = subprocess.Popen([os.environ["WATCH_DISK"], server.socket], text=True,
                                  stdout=subprocess.PIPE)
        check(client.stdout.readline() == f"{MIB}\n")
        for size in 3 * MIB, 2 * MIB, 40 * MIB + 512:
            with open("i", "r+b") as f:
                before = os.path.getsize("i")
                f.truncate(size)
            said = good("resize", server.socket).out
            check(said.startswith(f"{server.socket}: {before} bytes ("), said)
            check(f" before, {size} bytes (" in said and said.endswith(" now\n"), said)
            check(client.stdout.readline() == f"{size}\n")
            check(f"{size} bytes now" in server.said(), server.said())
        check(good("resize", server.pid).out.startswith(f"{server.socket}: still {size} bytes ("))
        with open("i", "r+b") as f:
            f.truncate(size + 100)
        refused(1, "512", "resize", server.pid)
        check(stats(server.pid)["disks"][0]["capacity_bytes"] == size)
        with open("i", "r+b") as f:
            f.truncate(size)
        client.kill()
        client.wait()
        client.stdout.close()
        # Who comes later finds it changed, up to its end.
        good("copy", server.url, "o")
        check(digest("o") == digest("i") and os.path.getsize("o") == size)


def test_image_grows_under_a_copy():
    make_image("i", 4 * MIB, seed=67, holes=False)
    want = digest("i")
    with Server("i", "--inject", "delay=1") as server:
        copy = subprocess.Popen([VIRTQ, "copy", "--block-size", "4K", server.url, "o"],
                                stdout=subprocess.DEVNULL)
        wait_until("requests", lambda: total(stats(server.pid), "requests"))
        for size in range(5, 15):
            with open("i", "r+b") as f:
                f.truncate(size * MIB)
            good("resize", server.pid)
        check(copy.wait(timeout=60) == 0)
    check(digest("o") == want, "not the bytes that there were when the copy began")


def test_disk_to_resize_is_named():
    for name in "abc":
        make_image(name, MIB, seed=68)
    os.mkdir("sub")
    with Server(None, "--disk", "socket=a.s,image=a,serial=first", "--disk",
                "socket=sub/b.s,image=b,serial=second", "--disk", "socket=c.s,image=c",
                socket="c.s") as server:
        for name in "abc":
            with open(name, "r+b") as f:
                f.truncate(2 * MIB)
        os.symlink("sub/b.s", "link")
        open("first", "w").close()  # a file of the same name as the serial means nothing
        check(good("resize", server.pid, "--disk", "first").out.startswith("a.s: 1048576 bytes"))
        check(good("resize", "link").out.startswith("sub/b.s: 1048576 bytes"))
        check(good("resize", "a.s", "--disk", os.path.realpath("c.s")).out
              .startswith("c.s: 1048576 bytes"))
        refused(1, "no disk here is called third", "resize", server.pid, "--disk", "third")
        check(good("resize", server.pid).out.count("still 2097152 bytes") == 3)
        with open("b", "r+b") as f:
            f.truncate(1000)
        result = virtq("resize", server.pid)
        check(result.status == 1 and result.err.count("\n") == 1 and "sub/b.s" in result.err,
              result.err)
        check(result.out.count("still") == 2, result.out)


if __name__ == "__main__":
    run_cases(cases_of(sys.modules[__name__]))
