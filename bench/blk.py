#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Random reads through `virtq serve blk` beside qemu-storage-daemon on the same data.

Our driver end (bench/blk) is the client of both; fio on the bare file, on the
servers' processor, says what the kernel alone allows there. Every round runs
each of them once, in turn, so that what drifts on the machine hits all alike;
medians over the rounds, ratios as medians of the ratios within a round.
"""
import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

COLUMNS = ["iops", "p50_us", "p99_us", "p999_us", "server_cpu_us", "kicks_per_request",
           "calls_per_request"]


def die(text):
    sys.exit("blk.py: " + text)


class Server:
    """A back end on a processor of its own, with a copy of the image of its own."""

    def __init__(self, name, directory, image, cpu, command):
        self.name = name
        self.socket = os.path.join(directory, name + ".sock")
        self.image = os.path.join(directory, name + ".raw")
        shutil.copyfile(image, self.image)
        argv = ["taskset", "-c", str(cpu)] + command(self.image, self.socket)
        self.log = open(os.path.join(directory, name + ".log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(argv, stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 10
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                die(f"{name} did not start: {' '.join(argv)}\n{self.log.read()}")
            time.sleep(0.02)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def virtq_command(tool, extra):
    def command(image, socket):
        return [tool, "serve", "blk", "--socket-path", socket, "--image", image, "--direct"] + extra
    return command


def qsd_command(iothread):
    def command(image, socket):
        argv = ["qemu-storage-daemon"]
        if iothread:
            argv += ["--object", "iothread,id=io0"]
        argv += ["--blockdev", f"driver=file,filename={image},node-name=f,aio=io_uring,"
                               "cache.direct=on"]
        export = (f"type=vhost-user-blk,id=e0,node-name=f,addr.type=unix,addr.path={socket},"
                  "writable=on,num-queues=1")
        return argv + ["--export", export + (",iothread=io0" if iothread else "")]
    return command


def run_client(args, server, depth, layout):
    argv = ["taskset", "-c", str(args.client_cpu), os.path.join(args.build, "bench", "blk"),
            "--depth", str(depth), "--rw", args.rw, "--bs", str(args.bs), "--layout", layout,
            "--seconds", str(args.seconds), "--server-pid", str(server.process.pid),
            "--check", "--json", "-"]
    argv += ["--notify"] if args.notify else []
    done = subprocess.run(argv + [server.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False)
    if done.returncode:
        die(f"the client of {server.name} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def run_fio(args, image, depth):
    argv = ["taskset", "-c", str(args.server_cpu), "fio", "--name=bare", "--filename=" + image,
            "--ioengine=io_uring", "--direct=1", "--rw=" + args.rw, f"--bs={args.bs}",
            f"--iodepth={depth}", "--time_based", f"--runtime={max(math.ceil(args.seconds), 1)}",
            "--norandommap", "--randrepeat=0", "--output-format=json"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False)
    if done.returncode:
        die(f"fio failed: {done.stderr.strip()}")
    job = json.loads(done.stdout)["jobs"][0]
    side = job["write" if args.rw.endswith("write") else "read"]
    percentile = side["clat_ns"]["percentile"]
    cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * side["runtime"] * 1000
    return {"iops": side["iops"], "p50_us": percentile["50.000000"] / 1000,
            "p99_us": percentile["99.000000"] / 1000,
            "p999_us": percentile["99.900000"] / 1000,
            "server_cpu_us": cpu / max(side["total_ios"], 1)}


def median(rows, column):
    values = [row[column] for row in rows if row.get(column) is not None]
    return statistics.median(values) if values else None


def ratio(rows, base, column="iops"):
    return statistics.median(a[column] / b[column] for a, b in zip(rows, base))


def show(value, digits):
    return f"{value:.{digits}f}" if value is not None else "-"


def tell(args, depth, results):
    base = results.get("qsd-iothread") or results.get("qsd")
    print(f"\n{args.rw} of {args.bs} bytes, depth {depth}, "
          f"{'notified' if args.notify else 'polling'} client, {args.rounds} rounds")
    print(f"{'server':14}{'IOPS':>9}  {'min..max':18}{'x qsd':>7}{'p50 us':>9}{'p99 us':>9}"
          f"{'p99.9 us':>10}{'CPU us':>8}{'kicks':>8}{'calls':>8}")
    for name, rows in results.items():
        iops = [row["iops"] for row in rows]
        span = f"{min(iops):.0f}..{max(iops):.0f}"
        print(f"{name:14}{median(rows, 'iops'):9.0f}  {span:18}"
              f"{show(ratio(rows, base) if base else None, 2):>7}"
              f"{show(median(rows, 'p50_us'), 1):>9}{show(median(rows, 'p99_us'), 1):>9}"
              f"{show(median(rows, 'p999_us'), 1):>10}{show(median(rows, 'server_cpu_us'), 2):>8}"
              f"{show(median(rows, 'kicks_per_request'), 3):>8}"
              f"{show(median(rows, 'calls_per_request'), 3):>8}", flush=True)


def arguments():
    parser = argparse.ArgumentParser(
        description="Random reads through virtq serve blk beside qemu-storage-daemon: "
                    "medians over interleaved rounds.",
        epilog="example: bench/blk.py --build build-bench --rounds 10 --depths 1,32")
    parser.add_argument("--build", default="build-bench", help="build directory (build-bench)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--depths", default="1,32", help="requests in flight (1,32)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run (0.5)")
    parser.add_argument("--rw", default="randread",
                        choices=["randread", "randwrite", "read", "write"])
    parser.add_argument("--bs", type=int, default=4096)
    parser.add_argument("--mib", type=int, default=256, help="size of the image (256)")
    parser.add_argument("--notify", action="store_true",
                        help="the client sleeps until it is called, instead of polling")
    parser.add_argument("--client-cpu", type=int, default=1)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--serve-option", action="append", default=[],
                        help="one more option for virtq serve blk, such as --serve-option=--engine "
                             "--serve-option=sync; may be repeated")
    parser.add_argument("--no-qsd", action="store_true", help="leave qemu-storage-daemon out")
    parser.add_argument("--no-fio", action="store_true", help="leave fio out")
    parser.add_argument("--tsv", help="write every sample there, one a line")
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")
    try:
        args.depths = [int(d) for d in args.depths.split(",")]
    except ValueError:
        parser.error(f"--depths takes numbers, not '{args.depths}'")
    for cpu in (args.client_cpu, args.server_cpu):
        if cpu not in os.sched_getaffinity(0):
            die(f"processor {cpu} is not here; see --client-cpu and --server-cpu")
    return args


def open_servers(args, directory, image):
    tool = os.path.join(args.build, "cli", "virtq")
    made = [("virtq", virtq_command(tool, args.serve_option))]
    if not args.no_qsd:
        made += [("qsd-iothread", qsd_command(True)), ("qsd-main", qsd_command(False))]
    servers = []
    try:
        for name, command in made:
            servers.append(Server(name, directory, image, args.server_cpu, command))
    except BaseException:
        for server in servers:
            server.stop()
        raise
    return servers


def measure(args, servers, image):
    # virtq serves both layouts; qemu-storage-daemon knows only split.
    clients = [(servers[0].name + "-split", servers[0], "split"),
               (servers[0].name + "-packed", servers[0], "packed")]
    clients += [(s.name, s, "split") for s in servers[1:]]
    samples = []
    for depth in args.depths:
        results = {name: [] for name, _, _ in clients}
        if not args.no_fio:
            results["fio-bare"] = []
        for number in range(args.rounds):
            order = clients if number % 2 == 0 else clients[::-1]
            for name, server, layout in order:
                results[name].append(run_client(args, server, depth, layout))
            if not args.no_fio:
                results["fio-bare"].append(run_fio(args, image, depth))
        tell(args, depth, results)
        samples += [(depth, name, i, row) for name, rows in results.items()
                    for i, row in enumerate(rows)]
    return samples


def main():
    args = arguments()
    for tool in ["taskset"] + ([] if args.no_qsd else ["qemu-storage-daemon"]) + \
            ([] if args.no_fio else ["fio"]):
        if not shutil.which(tool):
            die(f"{tool} is missing; tools/setup.sh bench installs it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # /dev/shm is a tmpfs: what is measured is the way to the disk, not the disk.
    directory = tempfile.mkdtemp(prefix="virtq-bench-", dir="/dev/shm")
    servers = []
    try:
        image = os.path.join(directory, "bare.raw")
        subprocess.run([os.path.join(args.build, "bench", "blk"), "--make-image", image,
                        "--mib", str(args.mib)], check=True)
        servers = open_servers(args, directory, image)
        print(f"# image of {args.mib} MiB on tmpfs, a copy for each server; client on processor "
              f"{args.client_cpu}, servers and fio on {args.server_cpu}; {args.seconds} s a run")
        print("# CPU us: processor time of the server a request; x qsd: IOPS beside qsd-iothread")
        samples = measure(args, servers, image)
        if args.tsv:
            with open(args.tsv, "w", encoding="utf-8") as out:
                print("depth", "server", "round", *COLUMNS, sep="\t", file=out)
                for depth, name, number, row in samples:
                    print(depth, name, number, *[row.get(c, "") for c in COLUMNS], sep="\t",
                          file=out)
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
