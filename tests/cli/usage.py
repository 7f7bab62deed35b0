#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command line: help, version, and one sentence for everything that is wrong with it."""
import json
import os
import re
import resource
import socket
import sys

from rig import VIRTQ, Server, Skip, cases_of, check, good, make_image, refused, run_cases, virtq


COMMANDS = "serve", "probe", "copy", "stats", "resize"


def test_alone_it_prints_short_help_and_exits_2():
    result = virtq()
    check(result.status == 2 and result.out == "" and result.err.startswith("Usage: virtq"))


def test_help_and_version():
    check(good("--version").out.startswith("virtq 0."))
    check("Examples:" in good("--help").out and good("help").out == good("--help").out)
    for command in COMMANDS:
        text = good("help", command).out
        check("Examples:" in text and "Exit status:" in text, command, text)
        check(good(command, "--help").out == text and good(command, "-h").out == text)
    check(good("serve", "blk", "--help").out == good("help", "serve").out)


def test_help_fits_80_columns():
    for command in COMMANDS:
        for line in good("help", command).out.splitlines():
            check(len(line) <= 80, command, len(line), line)


def test_manual_has_every_option_and_no_other():
    here = os.path.dirname(os.path.realpath(__file__))
    for command in COMMANDS:
        with open(f"{here}/../../man/virtq-{command}.1.scd") as f:
            manual = set(re.findall(r"(?<![\w-])--([a-z-]+)", f.read()))
        offered = set(re.findall(r"(?<![\w-])--([a-z-]+)", good("help", command).out))
        check(manual == offered, command, "differs in", manual ^ offered)


def test_commands_that_do_not_exist():
    refused(2, "no command 'frob'", "frob")
    refused(2, "no option '--frob'", "--frob")
    refused(2, "no command 'frob'", "help", "frob")
    refused(2, "one word too many", "help", "copy", "x")
    refused(2, "blk", "serve")
    refused(2, "'net'", "serve", "net")
    refused(2, "comes first", "serve", "--image", "x")


def test_serve_options_that_make_no_sense():
    place = "--socket-path", "s", "--image", "i"

    def bad(saying, *words):
        refused(2, saying, "serve", "blk", *words)

    bad("--image is needed", "--socket-path", "s")
    bad("--socket-path or --fd", "--image", "i")
    bad("exclude each other", *place, "--fd", 3)
    bad("no option --frob", *place, "--frob")
    bad("no option -x", *place, "-x")
    bad("no option -x", *place, "-xh")
    bad("'extra' is one word too many", *place, "extra")
    bad("--read-only takes no value", *place, "--read-only=yes")
    bad("more than one", *place, "--queue", 1)
    bad("1 to 256", *place, "--queues", 0)
    bad("1 to 256", *place, "--queues", 257)
    bad("whole number", *place, "--queues", "two")
    bad("whole number", *place, "--queues", "-1")
    bad("whole number", *place, "--queues", "")
    bad("whole number", *place, "--queues", "1.5")
    bad("whole number", *place, "--queues", "1KiB")
    bad("whole number", *place, "--queues", "99999999999999999999")
    bad("whole number", *place, "--queues", "18014398509481984K")
    bad("2 to 32768", *place, "--queue-size", 1)
    bad("2 to 32768", *place, "--queue-size", "64K")
    bad("at most 20 bytes", *place, "--serial", "x" * 21)
    bad("auto, uring or sync", *place, "--engine", "steam")
    bad("1 to 64", *place, "--threads", 65)
    bad("0 to 1000000", *place, "--spin", "1G")
    bad("--spin is off, auto, always or a number of microseconds", *place, "--spin", "often")
    bad("whole number", *place, "--spin", "1us")
    bad("--use knows no 'files'", *place, "--use", "files")
    bad("--use knows no ''", *place, "--use", "")
    bad("--forbid knows no 'steam'", *place, "--forbid", "files,steam,ring-fd")
    bad("--coalesce is COUNT,MICROSECONDS", *place, "--coalesce", "8")
    bad("--coalesce is 1 to 32768", *place, "--coalesce", "0,8")
    bad("--coalesce wants a whole number", *place, "--coalesce", "8,")
    bad("--coalesce is 1 to 1000000", *place, "--coalesce", "8,2M")
    bad("--size-max is 512 to 2147483648", *place, "--size-max", 0)
    bad("--size-max is a multiple of 512 bytes", *place, "--size-max", 1000)
    bad("--reconnect is 1 to 86400000", *place, "--reconnect", 0)
    bad("--reconnect wants a whole number", *place, "--reconnect", "5s")
    bad("--image needs a value", *place, "--image")
    bad("--config needs a value", "--config")
    bad("any, split or packed", *place, "--layout", "auto")
    bad("whole number", "--image", "i", "--fd", "three")


def test_copy_options_that_make_no_sense():
    refused(2, "are needed", "copy", "a")
    refused(2, "SOURCE and TARGET are missing", "copy")
    refused(2, "'c' is one word too many", "copy", "a", "b", "c")
    refused(2, "1 to 1024", "copy", "a", "b", "--depth", 0)
    refused(2, "512 to", "copy", "a", "b", "--block-size", 511)
    refused(2, "multiple of 512", "copy", "a", "b", "--block-size", 513)
    refused(2, "4 to 32768", "copy", "a", "b", "--queue-size", 3)
    refused(2, "4 to 32768", "copy", "a", "b", "--queue-size", 3, "--layout", "packed")
    refused(2, "0 to 1000000", "copy", "a", "b", "--timeout", 1000001)
    refused(2, "whole number", "copy", "a", "b", "--timeout", "soon")
    refused(2, "power of two", "copy", "a", "b", "--queue-size", 24, "--layout", "split")
    refused(2, "auto, split or packed", "copy", "a", "b", "--layout", "any")


def test_probe_options_that_make_no_sense():
    refused(2, "SOCKET is missing", "probe")
    refused(2, "one word too many", "probe", "a", "b")
    refused(2, "no option --yaml", "probe", "a", "--yaml")


def test_operands_that_are_empty():
    for words in (("copy", "", "b"), ("copy", "a", ""), ("probe", ""), ("stats", ""),
                  ("resize", ""), ("serve", "blk", "")):
        refused(2, "an operand is empty", *words)
    check(not os.listdir("."), "something was made for an empty name:", os.listdir("."))
    refused(2, "--socket-path needs a value", "serve", "blk", "--image", "null:1M",
            "--socket-path", "")
    refused(2, "--image needs a value", "serve", "blk", "--image", "", "--socket-path", "s")


def test_numbers_take_suffixes():
    make_image("i", 1 << 20)
    for size in "4k", "4K", "0x1000", "4096":
        good("copy", "i", "o", "--block-size", size)
    good("copy", "i", "o", "--block-size", "1m")
    refused(2, "512 to", "copy", "i", "o", "--block-size", "1G")


def test_images_that_cannot_be_served():
    words = "serve", "blk", "--socket-path", "s"
    refused(1, "No such file", *words, "--image", "missing")
    refused(1, "folder", *words, "--image", os.makedirs("folder") or "folder")
    make_image("odd", 1000)
    refused(1, "512", *words, "--image", "odd")
    check(not os.path.exists("s"), "a socket was left behind")


def test_limit_of_open_files_is_raised_for_the_queues_or_refused():
    make_image("i", 1 << 16)
    needed = 256 * 7 + 272 + 64
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < needed:
        raise Skip(f"the hard limit of open files here is below {needed}")
    serve = VIRTQ + " serve blk --image i --socket-path s --queues 256"
    said = virtq("-c", "ulimit -n 1024; exec " + serve, program="/bin/sh")
    check(said.status == 1 and said.err.count("\n") == 1, said.status, said.err)
    check(str(needed) in said.err and "1024" in said.err, said.err)
    check(not os.path.exists("s"), "a socket was left behind")
    # With the hard limit as it was, 256 queues come up.
    soft = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (  # noqa: E731
        1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with Server("i", "--queues", 256, preexec_fn=soft) as server:
        check(resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[0] >= needed,
              "the soft limit was not raised")
        good("probe", server.socket)


def test_sockets_that_cannot_be_listened_on():
    make_image("i", 1 << 16)
    words = "serve", "blk", "--image", "i", "--socket-path"
    refused(1, "No such file", *words, "no/such/folder/s")
    refused(1, "is no socket", *words, "i")
    check(os.path.getsize("i") == 1 << 16, "the file in the socket's place was touched")
    refused(1, "107 bytes", *words, "x" * 200)


def test_file_descriptors_that_are_no_listening_socket():
    make_image("i", 1 << 16)
    words = "serve", "blk", "--image", "i", "--fd"
    refused(1, "descriptor 99", *words, 99)
    with open("i") as f:
        refused(1, f"descriptor {f.fileno()} is no socket", *words, f.fileno(),
                pass_fds=[f.fileno()])
    a, b = socket.socketpair()
    refused(1, "no listening Unix socket", *words, a.fileno(), pass_fds=[a.fileno()])
    inet = socket.socket(socket.AF_INET)
    inet.bind(("127.0.0.1", 0))
    inet.listen()
    refused(1, "no listening Unix socket", *words, inet.fileno(), pass_fds=[inet.fileno()])
    for s in a, b, inet:
        s.close()


def test_print_capabilities_is_json_and_ignores_all_else():
    os.symlink(VIRTQ, "vhost-user-blk-virtq")
    plain = good("serve", "blk", "--print-capabilities").out
    said = json.loads(plain)
    check(said == {"type": "block", "features": ["read-only", "blk-file"]}, said)
    check(good("serve", "--print-capabilities").out == plain)
    check(good("serve", "blk", "--frob", "--print-capabilities", "--fd", "x").out == plain)
    check(good("--print-capabilities", program="./vhost-user-blk-virtq").out == plain)


def test_under_the_name_of_the_link_it_takes_the_conventional_options():
    os.symlink(VIRTQ, "vhost-user-blk-virtq")
    link = "./vhost-user-blk-virtq"
    refused(2, "vhost-user-blk-virtq: --image", "--socket-path", "s", program=link)
    refused(1, "No such file", "--socket-path=s", "--blk-file=missing", "--read-only",
            program=link)


def test_output_that_cannot_be_written_is_a_failure():
    with open("/dev/full", "w") as full:
        refused(1, "standard output", "--help", stdout=full)


if __name__ == "__main__":
    run_cases(cases_of(sys.modules[__name__]))
