#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Instructions per buffer in each step of both ends, counted by valgrind.

usage: bench/instructions.py RING [--buffers N] [--batch N[,N...]] [--chain 1|3|3i]
           [--layout NAME[,NAME...]] [--helpers] [--reference PROGRAM] [--tsv FILE]
       bench/instructions.py DRIVER --ways all|NAME[,NAME...] [--shape NAME]
           [--batch N[,N...]] [--layout NAME[,NAME...]] [--helpers] [--tsv FILE]

RING is the built program bench/ring, DRIVER bench/driver, of whose ways the driver
end is counted. Counts are exact and do not depend on what else the machine does;
they say nothing about caches or fences. A step counts with everything it calls.
What the measuring program itself spends stands as "bench".
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

LAYOUTS = ["split", "packed", "split-in-order", "packed-in-order"]
DRIVER = ["virtq_driver_add", "virtq_driver_publish", "virtq_driver_get"]
DEVICE = ["virtq_device_pop", "virtq_device_push", "virtq_device_publish"]
STEPS = DRIVER[:2] + DEVICE + DRIVER[2:]

WAYS = ["bare", "bare-kept", "pool-rebuild", "pool-recycle", "pool-alloc", "pool-resize",
        "send-again", "send-again-map", "send-new", "send-new-map"]
WAY_LAPS, WAY_COUNT = 100, 256


def callgrind(command, options):
    """Map of call path (callee first) to instructions, and all instructions."""
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "out")
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + out, *options, *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if run.returncode:
            sys.exit(f"instructions.py: the run under valgrind failed:\n{run.stdout}")
        listing = subprocess.run(
            ["callgrind_annotate", "--auto=no", "--threshold=100", out],
            stdout=subprocess.PIPE, text=True, check=True).stdout
    paths = {}
    for line in listing.splitlines():
        # "1,500,000 ( 5.61%)  file.h:callee'caller'... [object]"; one line a file
        found = re.match(r"\s*([\d,]+) \(.*?\)\s+\S*?:(\S.*?)(?: \[.*\])?$", line)
        if found:
            path = tuple(found.group(2).split("'"))
            paths[path] = paths.get(path, 0) + int(found.group(1).replace(",", ""))
    return paths


def count(ring, layout, batch, chain, buffers):
    """Instructions per buffer: by step, by helper (step, name), and the program's own."""
    paths = callgrind(
        [ring, "--once", "--mode", "one", "--layout", layout, "--batch", str(batch),
         "--chain", chain, "--buffers", str(buffers)],
        ["--toggle-collect=path_run_one", "--separate-callers=6"])
    steps, helpers, bench = dict.fromkeys(STEPS, 0.0), {}, 0.0
    for path, n in paths.items():
        step = next((name for name in path if name in STEPS), None)
        if step is None:
            bench += n / buffers
            continue
        steps[step] += n / buffers
        name = path[0].split(".")[0]
        if name != step:
            helpers[step, name] = helpers.get((step, name), 0) + n / buffers
    return steps, helpers, bench


def count_way(driver, layout, batch, shape, way):
    """Instructions per buffer: by step in the order met, by helper, and the program's own."""
    paths = callgrind(
        [driver, "--once", "--laps", str(WAY_LAPS), "--count", str(WAY_COUNT), "--way", way,
         "--layout", layout, "--batch", str(batch), "--shape", shape],
        ["--toggle-collect=way_lap", "--separate-callers=6"])
    steps, helpers, bench = {}, {}, 0.0
    for path, n in paths.items():
        n /= WAY_LAPS * WAY_COUNT
        # The call that the program made is the last of the library's.
        step = next((name for name in reversed(path) if name.startswith("virtq_")), None)
        if step in DEVICE:
            continue
        if step is None:
            bench += n
            continue
        steps[step] = steps.get(step, 0) + n
        name = path[0].split(".")[0]
        if name != step:
            helpers[step, name] = helpers.get((step, name), 0) + n
    return steps, helpers, bench


def tell_ways(args, layouts, ways):
    """A block for each way and batch; returns the rows of the table."""
    rows = []
    for batch in map(int, args.batch.split(",")):
        bare = {}
        for way in ways:
            # Descriptors are kept in split rings only.
            columns = [layout for layout in layouts if way != "bare-kept" or layout == "split"]
            if not columns:
                continue
            counts = [count_way(args.program, layout, batch, args.shape, way)
                      for layout in columns]
            print(f"{f'{way}, {args.shape}, batch {batch}':30}" +
                  "".join(f"{layout:>16}" for layout in columns))

            def line(name, values):
                print(f"{name:30}" + "".join(f"{v:16.1f}" for v in values))
                rows.extend((way, args.shape, batch, layout, name.strip(), v)
                            for layout, v in zip(columns, values))
            for step in dict.fromkeys(s for c in counts for s in c[0]):
                line(step, [c[0].get(step, 0) for c in counts])
                names = {name for c in counts for (of, name), n in c[1].items()
                         if of == step and n >= 0.5}
                for name in sorted(names) if args.helpers else []:
                    line("  " + name, [c[1].get((step, name), 0) for c in counts])
            totals = [sum(c[0].values()) for c in counts]
            line("driver end", totals)
            if way == "bare":
                bare = dict(zip(columns, totals))
            elif bare:
                line("over bare", [n - bare[layout] for n, layout in zip(totals, columns)])
            line("bench", [c[2] for c in counts])
            print()
    return rows


def write(path, head, rows):
    with open(path, "w", encoding="utf-8") as out:
        out.write("\t".join(head) + "\n")
        for row in rows:
            out.write("\t".join(map(str, row[:-1])) + f"\t{row[-1]:.2f}\n")


def count_reference(program, batch, buffers):
    """Of another ring: the difference between two runs, which takes out the start."""
    total = [sum(callgrind([program, "--batch", str(batch), "--buffers", str(n), "--cpu", "0",
                            "--no-warm"], []).values()) for n in (buffers, 3 * buffers)]
    return (total[1] - total[0]) / (2 * buffers)


def main():
    parser = argparse.ArgumentParser(
        description="Instructions per buffer in each step of both ends, counted by valgrind.")
    parser.add_argument("program", help="the built program bench/ring, or bench/driver")
    parser.add_argument("--buffers", type=int, default=64000)
    parser.add_argument("--batch", default="32", help="batches, such as 1,32")
    parser.add_argument("--chain", default="1", choices=["1", "3", "3i"])
    parser.add_argument("--layout", default=",".join(LAYOUTS), help="layouts, such as split,packed")
    parser.add_argument("--helpers", action="store_true",
                        help="also what the steps spend in functions of their own")
    parser.add_argument("--reference", help="a program as for bench/ring that takes --no-warm too")
    parser.add_argument("--ways", help="of bench/driver: all, or such as pool-recycle,send-new")
    parser.add_argument("--shape", default="64", choices=["64", "1500", "64k", "16x4k"],
                        help="of bench/driver")
    parser.add_argument("--tsv", help="one line per layout, batch and step")
    args = parser.parse_args()
    for tool in ("valgrind", "callgrind_annotate"):
        if not shutil.which(tool):
            sys.exit(f"instructions.py: {tool} is missing; Debian's package is valgrind")
    layouts = args.layout.split(",")
    if set(layouts) - set(LAYOUTS):
        parser.error("the layouts are " + ", ".join(LAYOUTS))

    if args.ways:
        ways = WAYS if args.ways == "all" else args.ways.split(",")
        rows = tell_ways(args, layouts, ways)
        if args.tsv:
            write(args.tsv, ("way", "shape", "batch", "layout", "step", "instructions"), rows)
        return
    rows = []
    for batch in map(int, args.batch.split(",")):
        counts = [count(args.program, layout, batch, args.chain, args.buffers)
                  for layout in layouts]
        print(f"{f'chain {args.chain}, batch {batch}':26}" +
              "".join(f"{layout:>16}" for layout in layouts))

        def line(name, values):
            print(f"{name:26}" + "".join(f"{v:16.1f}" for v in values))
            rows.extend((args.chain, batch, layout, name.strip(), v)
                        for layout, v in zip(layouts, values))
        for step in STEPS:
            line(step, [c[0][step] for c in counts])
            names = {name for c in counts for (of, name), n in c[1].items()
                     if of == step and n >= 0.5}
            for name in sorted(names) if args.helpers else []:
                line("  " + name, [c[1].get((step, name), 0) for c in counts])
        line("driver end", [sum(c[0][s] for s in DRIVER) for c in counts])
        line("device end", [sum(c[0][s] for s in DEVICE) for c in counts])
        line("both ends", [sum(c[0].values()) for c in counts])
        line("bench", [c[2] for c in counts])
        if args.reference:
            n = count_reference(args.reference, batch, args.buffers)
            print(f"{'reference, its loop too':26}{n:16.1f}")
            rows.append((args.chain, batch, "reference", "both ends", n))
        print()
    if args.tsv:
        write(args.tsv, ("chain", "batch", "layout", "step", "instructions"), rows)


if __name__ == "__main__":
    main()
