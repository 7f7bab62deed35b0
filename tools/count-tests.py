#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Count test cases in Meson's test log: count-tests.py TESTLOG.json STATUS

A program that printed TAP counts by its cases, any other as one. A program
that failed without a failed case (a crash, a time-out) counts as one failure.
Prints why anything was skipped, then "N passed, N failed, N skipped". Exits 1
if a case failed, nothing passed, or STATUS says that Meson saw a failure.
"""
import json
import re
import sys


def count(test):
    passed = failed = skipped = 0
    out = test.get("stdout") or ""
    said = "no reason given"
    for line in out.splitlines():
        case = re.match(r"(not )?ok \d+", line)
        if not case:
            said = line
            continue
        if "# SKIP" in line.upper():    # cmocka says "not ok" to these as well
            skipped += 1
            print(f"skipped: {test['name']}: {line} -- {said}")
        elif case.group(1):
            failed += 1
        else:
            passed += 1
        said = "no reason given"
    result = test["result"]
    if result == "SKIP":
        reason = (out.strip().splitlines() or ["no reason given"])[-1]
        print(f"skipped: {test['name']}: {reason}")
        return passed, failed, skipped + 1
    if result not in ("OK", "EXPECTEDFAIL"):
        print(f"failed: {test['name']}: {result}")
        return passed, failed or 1, skipped
    if passed + failed + skipped == 0:
        passed = 1
    return passed, failed, skipped


def main():
    with open(sys.argv[1], encoding="utf-8") as log:
        totals = [sum(column) for column in zip(*(count(json.loads(line)) for line in log))]
    passed, failed, skipped = totals or (0, 0, 0)
    if int(sys.argv[2]) and not failed:
        failed = 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
