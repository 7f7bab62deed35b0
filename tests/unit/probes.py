#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
#
# The library has a probe at each of the five stations, for tracers that read its notes.
#
#     probes.py LIBRARY yes|no       whether it was built with <sys/sdt.h>
#
# Exit status: 77 if it was not.

import re
import shutil
import subprocess
import sys

WANTED = {'pop': 5, 'start': 3, 'perform': 5, 'finish': 3, 'push': 3}


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(library, built):
    if built != 'yes':
        print('skipped: built without sys/sdt.h (systemtap-sdt-dev)')
        return 77
    if not shutil.which('readelf'):
        print('skipped: no readelf')
        return 77
    text = re.search(r'\.text\s+PROGBITS\s+(\w+)\s+\w+\s+(\w+)',
                     output('readelf', '--sections', '--wide', library))
    first, size = (int(part, 16) for part in text.groups())
    found = re.findall(r'Provider: virtq\s+Name: (\w+)\s+Location: 0x(\w+),.*\s+Arguments: (.*)',
                       output('readelf', '--notes', '--wide', library))
    failures = 0
    for name, arguments in WANTED.items():
        sites = [(int(at, 16), args.split()) for probe, at, args in found if probe == name]
        good = sites and all(first <= at < first + size and len(args) == arguments
                             for at, args in sites)
        print(f'{"ok" if good else "not ok"} - {name}: {len(sites)} places')
        failures += not good
    unknown = {probe for probe, _, _ in found} - set(WANTED)
    if unknown:
        print(f'not ok - not in the documentation: {unknown}')
    return 1 if failures or unknown else 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
