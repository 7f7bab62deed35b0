#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`virtq serve blk` beside qemu-storage-daemon and fio on the same data, in one run.

Our driver end (bench/blk) is the client of both servers; fio's io_uring on the
bare file, on the servers' processor, says what the kernel alone allows there.
Every round runs each of them once, in turn and then in reverse, so that what
drifts on the machine hits all alike; medians over the rounds, and ratios as
medians of the ratios within a round.

Parts:
  target    4 KiB random reads from a file on a tmpfs with O_DIRECT, client polls;
            virtq as it comes, which reads such a file in place, and virtq-uring,
            which leaves it to io_uring as the peers do (--no-in-place)
  polling   the same with a server that never sleeps: nobody has to kick it
  null      as target, without a file: null:SIZE beside null-co
  notified  as target, but the client sleeps until it is called
  wake      kick and call through an idle server beside two bare eventfds and epoll
  idle      processor time of servers that nothing is asked of
  matrix    every kind of access, size and depth, from the file
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PARTS = ["target", "polling", "null", "notified", "wake", "idle", "matrix"]
KINDS = ["randread", "read", "randwrite", "write"]	# reads first: writes leave anything behind
SIZES = [512, 4096, 65536]
DEPTHS = [1, 4, 32, 128]
COLUMNS = ["iops", "p50_us", "p99_us", "p999_us", "server_cpu_us", "kicks_per_request",
           "calls_per_request", "idle_us_per_s"]
NULL_BYTES = 1 << 30


def die(text):
    sys.exit("blk.py: " + text)


# ---- What is measured ---------------------------------------------------------

class Server:
    """A back end on a processor of its own, with a copy of the image of its own."""

    def __init__(self, args, name, directory, command, image=None, packed=False):
        self.args = args
        self.name = name
        self.packed = packed
        self.socket = os.path.join(directory, name + ".sock")
        self.image = None
        if image:
            self.image = os.path.join(directory, name + ".raw")
            shutil.copyfile(image, self.image)
        argv = ["taskset", "-c", str(args.server_cpu)] + command(self.image, self.socket)
        self.log = open(os.path.join(directory, name + ".log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(argv, stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 10
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
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
        if self.image:
            os.unlink(self.image)
            self.image = None

    def run(self, cell, packed=False):
        args = self.args
        size = 256
        while size < 3 * cell["depth"]:
            size *= 2
        argv = ["taskset", "-c", str(args.client_cpu), os.path.join(args.build, "bench", "blk"),
                "--depth", str(cell["depth"]), "--rw", cell["rw"], "--bs", str(cell["bs"]),
                "--layout", "packed" if packed else "split", "--queue-size", str(size),
                "--seconds", str(args.seconds), "--server-pid", str(self.process.pid),
                "--json", "-"]
        argv += ["--notify"] if cell["wait"] == "notified" else []
        # What writes leave behind is not what belongs there, so only files that are read.
        argv += ["--check"] if self.image and cell["rw"].endswith("read") else []
        argv += ["--idle", str(cell["idle"])] if "idle" in cell else []
        return run_json(argv + [self.socket], self.name)


class Layout:
    """One server with the other layout of rings."""

    def __init__(self, server):
        self.server = server
        self.name = server.name + "-packed"

    def run(self, cell):
        return self.server.run(cell, packed=True)


class Fio:
    """The bare file, without ring or socket."""
    name = "fio-bare"

    def __init__(self, args, image):
        self.args = args
        self.image = image

    def run(self, cell):
        argv = ["taskset", "-c", str(self.args.server_cpu), "fio", "--name=bare",
                "--filename=" + self.image, "--ioengine=io_uring", "--direct=1",
                "--rw=" + cell["rw"], f"--bs={cell['bs']}", f"--iodepth={cell['depth']}",
                "--time_based", f"--runtime={int(self.args.seconds * 1000)}ms",
                "--norandommap", "--randrepeat=0", "--output-format=json"]
        job = run_json(argv, "fio")["jobs"][0]
        side = job["write" if cell["rw"].endswith("write") else "read"]
        percentile = side["clat_ns"]["percentile"]
        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * side["runtime"] * 1000
        return {"iops": side["iops"], "p50_us": percentile["50.000000"] / 1000,
                "p99_us": percentile["99.000000"] / 1000,
                "p999_us": percentile["99.900000"] / 1000,
                "server_cpu_us": cpu / max(side["total_ios"], 1)}


class Wake:
    """Two processes that do nothing but wake each other."""
    name = "eventfd-epoll"

    def __init__(self, args):
        self.args = args

    def run(self, cell):
        return run_json([os.path.join(self.args.build, "bench", "wake"), "--cpus",
                         f"{self.args.client_cpu},{self.args.server_cpu}",
                         "--seconds", str(self.args.seconds)], "bench/wake")


def run_json(argv, name):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False)
    if done.returncode:
        die(f"{name} failed: {' '.join(argv)}\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def virtq(args, image, options):
    tool = os.path.join(args.build, "cli", "virtq")

    def command(path, socket):
        where = [path, "--direct"] if not image else [image]
        return [tool, "serve", "blk", "--quiet", "--socket-path", socket, "--image"] + where + \
            options
    return command


def qsd(null):
    def command(path, socket):
        node = f"driver=null-co,node-name=f,size={NULL_BYTES},read-zeroes=off" if null else \
               f"driver=file,filename={path},node-name=f,aio=io_uring,cache.direct=on"
        return ["qemu-storage-daemon", "--object", "iothread,id=io0", "--blockdev", node,
                "--export", f"type=vhost-user-blk,id=e0,node-name=f,addr.type=unix,"
                            f"addr.path={socket},writable=on,num-queues=1,iothread=io0"]
    return command


# ---- Numbers ------------------------------------------------------------------

def median(rows, column):
    values = [row[column] for row in rows if row.get(column) is not None]
    return statistics.median(values) if values else None


def ratios(rows, base, column):
    """One a round, smallest first; none where there is nothing to compare."""
    pairs = [(a.get(column), b.get(column)) for a, b in zip(rows or [], base or [])]
    if any(a is None or not b for a, b in pairs):
        return []
    return sorted(a / b for a, b in pairs)


def ratio(rows, base, column="iops"):
    values = ratios(rows, base, column)
    return statistics.median(values) if values else None


def spread(rows, base, column):
    """The median, and between which two values half of them lie."""
    values = ratios(rows, base, column)
    if not values:
        return "-"
    return (f"{statistics.median(values):.2f} ({values[len(values) // 4]:.2f}.."
            f"{values[len(values) * 3 // 4]:.2f})")


def show(value, digits):
    return f"{value:.{digits}f}" if value is not None else "-"


class Report:
    """All samples, told as they come."""

    def __init__(self):
        self.cells = []		# (part, cell, {name: rows})

    def add(self, part, cell, results):
        self.cells.append((part, cell, results))
        base = results.get("qsd") or results.get("eventfd-epoll") or results["virtq"]
        print(f"\n{part}: {cell['rw']} of {cell['bs']} bytes, depth {cell['depth']}, client "
              f"{cell['wait']}, {max(len(r) for r in results.values())} rounds")
        print(f"{'':14}{'IOPS':>9}  {'min..max':18}{'beside':>7}{'p50 us':>9}{'p99 us':>9}"
              f"{'p99.9 us':>10}{'CPU us':>8}{'beside':>7}{'kicks':>7}{'calls':>7}")
        for name, rows in results.items():
            iops = [row["iops"] for row in rows]
            print(f"{name:14}{median(rows, 'iops'):9.0f}  {f'{min(iops):.0f}..{max(iops):.0f}':18}"
                  f"{show(ratio(rows, base), 2):>7}{show(median(rows, 'p50_us'), 1):>9}"
                  f"{show(median(rows, 'p99_us'), 1):>9}{show(median(rows, 'p999_us'), 1):>10}"
                  f"{show(median(rows, 'server_cpu_us'), 2):>8}"
                  f"{show(ratio(rows, base, 'server_cpu_us'), 2):>7}"
                  f"{show(median(rows, 'kicks_per_request'), 2):>7}"
                  f"{show(median(rows, 'calls_per_request'), 2):>7}", flush=True)
            if "idle_us_per_s" in rows[0]:
                print(f"{'':14}idle: {median(rows, 'idle_us_per_s'):.0f} us of processor time "
                      "a second")

    def find(self, part, depth):
        for at, cell, results in self.cells:
            if at == part and cell["depth"] == depth:
                return results
        return {}

    def targets(self):
        """What was aimed at, and whether it was reached."""
        lines = []

        def judge(what, value, limit, least=True, digits=2):
            if value is not None:
                met = value >= limit if least else value <= limit
                lines.append(f"{what:70}{show(value, digits):>8}  {'>=' if least else '<='} "
                             f"{limit:g}  {'met' if met else 'MISSED'}")

        for depth, to_fio, to_qsd in ((1, 0.5, 1.5), (32, 0.85, 1.2)):
            r = self.find("target", depth)
            for name, how in (("virtq", ""), ("virtq-uring", ", through io_uring")):
                judge(f"depth {depth}{how}: IOPS beside fio on the bare file",
                      ratio(r.get(name), r.get("fio-bare")), to_fio)
                judge(f"depth {depth}{how}: IOPS beside qemu-storage-daemon",
                      ratio(r.get(name), r.get("qsd")), to_qsd)
                judge(f"depth {depth}{how}: processor time beside qemu-storage-daemon",
                      ratio(r.get(name), r.get("qsd"), "server_cpu_us"), 0.6, False)
            r = self.find("polling", depth)
            judge(f"depth {depth}: kicks a request while the device polls",
                  median(r.get("virtq", []), "kicks_per_request"), 0.0001, False, 5)
            r = self.find("null", depth)
            judge(f"depth {depth}: null beside null-co", ratio(r.get("virtq"), r.get("qsd")), 2.5)
        r = self.find("notified", 32)
        judge("notified, depth 32: IOPS beside qemu-storage-daemon",
              ratio(r.get("virtq"), r.get("qsd")), 1.3)
        for depth in (1, 32):
            r = self.find("notified", depth)
            for column in ("kicks", "calls"):
                limit = median(r.get("qsd", []), column + "_per_request")
                if limit is not None:
                    # One that the peer saves in a whole run is none that we send.
                    judge(f"notified, depth {depth}: {column} a request, not more than "
                          "qemu-storage-daemon", median(r["virtq"], column + "_per_request"),
                          round(limit + 0.0005, 3), False, 3)
        r = self.find("wake", 1)
        judge("woken and answered beside bare eventfds and epoll, median",
              ratio(r.get("virtq"), r.get("eventfd-epoll"), "p50_us"), 1.1, False)
        r = self.find("idle", 1)
        judge("idle: us of processor time a second",
              median(r.get("virtq", []), "idle_us_per_s"), 100, False, 0)
        if lines:
            print("\n# targets\n" + "\n".join(lines), flush=True)

    def variants(self, names):
        """Each beside virtq as it is, round by round."""
        for part, cell, results in self.cells if names else []:
            print(f"\n# {part}, depth {cell['depth']}: variants beside virtq: median, and "
                  "where half of the rounds lie")
            print(f"{'':20}{'IOPS':20}{'CPU':20}{'p50':20}")
            for name in names:
                rows = [spread(results.get(name), results["virtq"], column)
                        for column in ("iops", "server_cpu_us", "p50_us")]
                print(f"{name:20}" + "".join(f"{row:20}" for row in rows).rstrip(), flush=True)

    def write(self, path):
        with open(path, "w", encoding="utf-8") as out:
            print("part", "rw", "bs", "depth", "wait", "server", "round", *COLUMNS, sep="\t",
                  file=out)
            for part, cell, results in self.cells:
                for name, rows in results.items():
                    for number, row in enumerate(rows):
                        print(part, cell["rw"], cell["bs"], cell["depth"], cell["wait"], name,
                              number, *[row.get(c, "") for c in COLUMNS], sep="\t", file=out)


# ---- The run ------------------------------------------------------------------

def cells_of(part):
    base = {"rw": "randread", "bs": 4096, "depth": 1, "wait": "polled"}
    if part == "matrix":
        return [dict(base, rw=rw, bs=bs, depth=depth)
                for rw in KINDS for bs in SIZES for depth in DEPTHS]
    if part == "wake":
        return [dict(base, wait="notified", bs=512)]
    if part == "idle":
        return [dict(base, wait="notified", idle=2)]
    return [dict(base, depth=depth, wait="notified" if part == "notified" else "polled")
            for depth in (1, 32)]


def open_subjects(args, part, directory, image, opened):
    def server(name, command, with_image=True):
        opened.append(Server(args, name, directory, command, image if with_image else None))
        return opened[-1]

    file = part not in ("null", "wake")
    where = None if file else f"null:{NULL_BYTES}"
    # A server that looks for requests would never be woken.
    spin = {"wake": ["--spin", "off"], "polling": ["--spin", "always"]}.get(part, [])
    options = args.serve_option + spin
    subjects = [server("virtq", virtq(args, where, options), file)]
    if part == "polling":
        return subjects
    if part in ("target", "null") and not args.variant:
        subjects.append(Layout(subjects[0]))
        if part == "target":
            subjects.append(server("virtq-uring", virtq(args, where, options + ["--no-in-place"]),
                                   file))
    for variant in args.variant if part not in ("matrix", "idle") else []:
        name, _, words = variant.partition("=")
        subjects.append(server(name, virtq(args, where, options + words.split()), file))
    if part == "wake":
        return subjects + [Wake(args)]
    if not args.no_qsd:
        subjects.append(server("qsd", qsd(part == "null"), file))
    if not args.no_fio and part in ("target", "matrix"):
        subjects.append(Fio(args, image))
    return subjects


def measure(args, part, directory, image, report):
    opened = []
    rounds = {"matrix": args.matrix_rounds, "idle": 1}.get(part, args.rounds)
    try:
        subjects = open_subjects(args, part, directory, image, opened)
        for cell in cells_of(part):
            if part not in ("wake", "idle") and cell["depth"] not in args.depths:
                continue
            results = {subject.name: [] for subject in subjects}
            for number in range(rounds):
                for subject in subjects if number % 2 == 0 else subjects[::-1]:
                    results[subject.name].append(subject.run(cell))
            report.add(part, cell, results)
    finally:
        for server in opened:
            server.stop()


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
               "  bench/blk.py --build build-bench --tsv blk.tsv\n"
               "  bench/blk.py --parts target --no-fio --variant 'no-files=--forbid files'")
    parser.add_argument("--build", default="build-bench", help="build directory (build-bench)")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of the above, with commas")
    parser.add_argument("--rounds", type=int, default=10, help="of all parts but (10)")
    parser.add_argument("--matrix-rounds", type=int, default=5, help="these of the matrix (5)")
    parser.add_argument("--depths", default="1,4,32,128", help="only these (1,4,32,128)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run (0.5)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, 1 of the matrix, 0.2 s")
    parser.add_argument("--mib", type=int, default=256, help="size of the image (256)")
    parser.add_argument("--client-cpu", type=int, default=1)
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--serve-option", action="append", default=[], metavar="WORD",
                        help="one more word for virtq serve blk; may be repeated")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=WORDS",
                        help="one more virtq serve blk with these options; may be repeated")
    parser.add_argument("--no-qsd", action="store_true", help="leave qemu-storage-daemon out")
    parser.add_argument("--no-fio", action="store_true", help="leave fio out")
    parser.add_argument("--tsv", help="write every sample there, one a line")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.matrix_rounds, args.seconds = 3, 1, 0.2
    if args.rounds < 1 or args.matrix_rounds < 1 or args.seconds <= 0:
        parser.error("rounds and --seconds must be above 0")
    try:
        args.depths = [int(d) for d in args.depths.split(",")]
    except ValueError:
        parser.error(f"--depths takes numbers, not '{args.depths}'")
    args.parts = args.parts.split(",")
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"there is no part '{part}'")
    for cpu in (args.client_cpu, args.server_cpu):
        if cpu not in os.sched_getaffinity(0):
            die(f"processor {cpu} is not here; see --client-cpu and --server-cpu")
    for tool in ["taskset"] + ([] if args.no_qsd else ["qemu-storage-daemon"]) + \
            ([] if args.no_fio else ["fio"]):
        if not shutil.which(tool):
            die(f"{tool} is missing; tools/setup.sh bench installs it")
    return args


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # /dev/shm is a tmpfs: what is measured is the way to the disk, not the disk.
    directory = tempfile.mkdtemp(prefix="virtq-bench-", dir="/dev/shm")
    report = Report()
    try:
        image = os.path.join(directory, "bare.raw")
        subprocess.run([os.path.join(args.build, "bench", "blk"), "--make-image", image,
                        "--mib", str(args.mib)], check=True)
        print(f"# image of {args.mib} MiB on tmpfs, a copy for each server; client on processor "
              f"{args.client_cpu}, servers and fio on {args.server_cpu}; {args.seconds} s a run")
        print("# CPU us: processor time of the server a request; beside: qemu-storage-daemon "
              "with io_uring and an iothread")
        for part in args.parts:
            measure(args, part, directory, image, report)
        report.targets()
        report.variants([v.partition("=")[0] for v in args.variant])
    finally:
        shutil.rmtree(directory)
        if args.tsv:
            report.write(args.tsv)


if __name__ == "__main__":
    main()
