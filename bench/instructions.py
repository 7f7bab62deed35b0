#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Instructions per buffer in each function of both ends, counted by valgrind.

usage: bench/instructions.py RING [--buffers N] [--batch N[,N...]] [--chain 1|3|3i]

RING is the built program bench/ring. Counts are exact and do not depend on what
else the machine does; they say nothing about caches or fences. What the program
itself spends is listed as "bench".
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

STEPS = ["virtq_driver_add", "virtq_driver_publish", "virtq_device_pop",
         "virtq_device_push", "virtq_device_publish", "virtq_driver_get"]


def count(ring, layout, batch, chain, buffers):
    """Map of function name to instructions per buffer."""
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "out")
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + out,
             "--toggle-collect=path_run_one", ring, "--once", "--mode", "one",
             "--layout", layout, "--batch", str(batch), "--chain", chain,
             "--buffers", str(buffers)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if run.returncode:
            sys.exit(f"instructions.py: the run under valgrind failed:\n{run.stdout}")
        listing = subprocess.run(
            ["callgrind_annotate", "--auto=no", "--threshold=100", out],
            stdout=subprocess.PIPE, text=True, check=True).stdout
    total = {}
    for line in listing.splitlines():
        # "1,500,000 ( 5.61%)  file.h:function [object]"; one line a file, as code is inlined
        found = re.match(r"\s*([\d,]+) \(.*?\)\s+\S*?:(\w+)", line)
        if found:
            name = found.group(2)
            total[name] = total.get(name, 0) + int(found.group(1).replace(",", ""))
    return {name: n / buffers for name, n in total.items()}


def main():
    parser = argparse.ArgumentParser(
        description="Instructions per buffer in each function, counted by valgrind.")
    parser.add_argument("ring", help="the built program bench/ring")
    parser.add_argument("--buffers", type=int, default=64000)
    parser.add_argument("--batch", default="32", help="batches, such as 1,32")
    parser.add_argument("--chain", default="1", choices=["1", "3", "3i"])
    args = parser.parse_args()
    for tool in ("valgrind", "callgrind_annotate"):
        if not shutil.which(tool):
            sys.exit(f"instructions.py: {tool} is missing; Debian's package is valgrind")

    columns = [(layout, int(batch)) for batch in args.batch.split(",")
               for layout in ("split", "packed")]
    counts = [count(args.ring, layout, batch, args.chain, args.buffers)
              for layout, batch in columns]
    head = "".join(f"{layout + ' x' + str(batch):>14}" for layout, batch in columns)
    print(f"{'instructions per buffer':26}{head}")
    helpers = sorted({name for c in counts for name, n in c.items() if n >= 0.5 and
                      name not in STEPS and not name.startswith(("path_", "turn_"))})
    for name in STEPS + helpers:
        print(f"{name:26}" + "".join(f"{c.get(name, 0):14.1f}" for c in counts))
    bench = [sum(n for name, n in c.items() if name.startswith(("path_", "turn_")))
             for c in counts]
    print(f"{'bench':26}" + "".join(f"{n:14.1f}" for n in bench))
    print(f"{'all but bench':26}" +
          "".join(f"{sum(c.values()) - b:14.1f}" for c, b in zip(counts, bench)))


if __name__ == "__main__":
    main()
