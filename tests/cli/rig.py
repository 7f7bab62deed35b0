# SPDX-License-Identifier: MIT
"""What the tests of the tool share: running it, serving with it, and TAP."""
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback

VIRTQ = os.path.realpath(os.environ["VIRTQ"])
SECONDS = 60  # longest any one command may take

MIB = 1 << 20

# Whoever runs the tests may ignore it, as nohup does; the servers they start must not.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Skip(Exception):
    """A case that cannot run here, and why."""


class Result:
    def __init__(self, done):
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr


def virtq(*words, program=VIRTQ, **how):
    """Run the tool to its end."""
    done = subprocess.run([program, *map(str, words)], stdin=subprocess.DEVNULL,
                          stdout=how.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
                          text=True, timeout=SECONDS, **how)
    return Result(done)


def check(condition, *facts):
    if not condition:
        raise AssertionError(" ".join(map(str, facts)) or "it does not hold")


def good(*words, **how):
    """Run it, and it must succeed."""
    result = virtq(*words, **how)
    check(result.status == 0, words, "ended with", result.status, "and said:", result.err)
    return result


def refused(status, saying, *words, **how):
    """Run it, and it must fail with one sentence that contains @saying."""
    result = virtq(*words, **how)
    check(result.status == status, words, "ended with", result.status, "and not", status,
          result.err)
    check(result.err.count("\n") == 1 and result.err.endswith("\n"),
          words, "said no one sentence:", repr(result.err))
    check(saying in result.err, words, "does not say", repr(saying), "but", repr(result.err))
    return result


def wait_until(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, "waited in vain for", what)
        time.sleep(0.01)


class Server:
    """virtq serve blk, running; a context that stops it and looks at how it ended.

    Without @image it is @words that name the disks, and the last of them has @socket.
    """

    status = 0  # that it must end with

    def __init__(self, image, *words, socket=None, program=VIRTQ, **how):
        self.socket = socket or tempfile.mktemp(prefix="s", suffix=".sock", dir=os.getcwd())
        self.url = "vhost-user:" + self.socket
        first = ["serve", "blk"] if program == VIRTQ else []
        place = [] if "pass_fds" in how or not image else ["--socket-path", self.socket]
        place += ["--image", image] if image else []
        self.log = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen([program, *first, *place, *map(str, words)],
                                        stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL,
                                        stderr=how.pop("stderr", self.log), **how)
        if not how.get("pass_fds"):
            wait_until("the socket", lambda: os.path.exists(self.socket) or
                       self.process.poll() is not None)
            check(self.process.poll() is None, "the server did not start:", self.said())

    def said(self):
        self.log.seek(0)
        return self.log.read()

    @property
    def pid(self):
        return self.process.pid

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            try:
                status = self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                status = "a SIGKILL, for SIGTERM did not end it"
        else:
            status = self.process.returncode
        if kind:
            print("# the server said:", *self.said().splitlines(), sep="\n#   ")
        else:
            check(status == self.status, "the server ended with", status, self.said())


def make_image(path, size, seed=1, holes=True):
    """Random bytes; with @holes, runs of them that are not there."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            run = min(rng.randrange(1, 40) * 16384, size - at)
            if not holes or rng.random() < 0.5:
                f.seek(at)
                f.write(rng.randbytes(run))
            at += run
        if holes and size >= 1 * MIB:  # one data page alone, and the very last sector
            f.seek(size - 512)
            f.write(rng.randbytes(512))
    return path


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def allocated(path):
    return os.stat(path).st_blocks * 512


def run_cases(cases):
    """Run functions, each in a folder of its own; TAP on standard output."""
    print(f"1..{len(cases)}")
    failed = 0
    for number, case in enumerate(cases, 1):
        name = case.__name__.replace("_", " ")
        here = os.getcwd()
        with tempfile.TemporaryDirectory(prefix="virtq-cli.") as folder:
            os.chdir(folder)
            try:
                case()
                print(f"ok {number} - {name}")
            except Skip as why:
                print(f"ok {number} - {name} # SKIP {why}")
            except Exception:
                failed += 1
                print("#", traceback.format_exc().replace("\n", "\n# "))
                print(f"not ok {number} - {name}")
            finally:
                os.chdir(here)
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


def cases_of(module):
    """The functions of @module that begin with test_, in their order."""
    return [f for n, f in vars(module).items() if n.startswith("test_")]
