#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
#
# Breaks rules on purpose and sees whether the tests notice: applies the mutants of
# tests/conformance/mutants.tsv, one at a time, to a copy of the tree, builds the test
# programs named with each, runs them, and requires that every one of them fails.
#
#     tools/mutants.py ROOT [ID | NUMBER]...         all of them, or some
#     tools/mutants.py --check ROOT                  only see that each can be applied
#     tools/mutants.py --survey ROOT [ID | NUMBER]...
#           run all ring tests on each mutant, and list the cases that notice it
#
# Options: --work DIR (keeps the copy and its build there; else a temporary directory),
# --jobs N for ninja, --list FILE for another list than that of the rings' rules: that of
# pool and transfers is tests/transfer/mutants.tsv.
#
# A mutant is a line: the ids of the rules (or a promise) that it breaks, a file, the exact text to be
# replaced (once in the file), the text in its place, and the names of tests, as
# `meson test --list` has them, that must fail; several are separated by semicolons. In the
# texts \n, \t and \\ are written so. A test that hangs has noticed it, too.
#
# Exit status: 0 every mutant was noticed; 1 one was not; 2 the script was called wrongly.

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

LIST = 'tests/conformance/mutants.tsv'
SURVEYED = ('ring', 'hostile', 'models', 'conformance', 'proto', 'unit', 'transfer')
NOT_SURVEYED = ('conformance', 'conformance notices', 'order', 'ring fences',
                'ring fence-removed-is-noticed', 'ring stress')
HANG_SECONDS = 120


def unescape(text):
    return re.sub(r'\\([nt\\])', lambda m: {'n': '\n', 't': '\t', '\\': '\\'}[m.group(1)], text)


class Mutant:
    def __init__(self, number, fields):
        self.number = number
        self.ids = fields[0].split()
        self.path = fields[1]
        self.old, self.new = unescape(fields[2]), unescape(fields[3])
        self.tests = [name.strip() for name in fields[4].split(';')]

    def __str__(self):
        return f'{self.number} {" ".join(self.ids)} {self.path}'

    def problem(self, root):
        """Why it cannot be applied, or None."""
        path = os.path.join(root, self.path)
        if not os.path.isfile(path):
            return 'there is no such file'
        with open(path, encoding='utf-8') as file:
            count = file.read().count(self.old)
        if count != 1:
            return f'its text is there {count} times, not once'
        return 'it changes nothing' if self.old == self.new else None

    def apply(self, root):
        path = os.path.join(root, self.path)
        with open(path, encoding='utf-8') as file:
            text = file.read()
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text.replace(self.old, self.new))
        return text

    def undo(self, root, text):
        with open(os.path.join(root, self.path), 'w', encoding='utf-8') as file:
            file.write(text)


def read_list(root, name, errors):
    mutants = []
    with open(os.path.join(root, name), encoding='utf-8') as file:
        for line in file.read().splitlines():
            if not line or line.startswith('#'):
                continue
            fields = line.split('\t')
            number = len(mutants) + 1
            if len(fields) != 5 or not all(fields[i] for i in (0, 1, 2, 4)):
                errors.append(f'{name}: mutant {number} has not its five fields')
                fields = (fields + [''] * 5)[:5]
            mutants.append(Mutant(number, fields))
    for mutant in mutants:
        why = mutant.problem(root)
        if why:
            errors.append(f'{name}: mutant {mutant}: {why}')
    return mutants


class Copy:
    """A copy of the tree as it is now, tracked or not, and a build of it."""

    def __init__(self, root, work, jobs):
        self.root = os.path.join(work, 'tree')
        self.build = os.path.join(work, 'build')
        self.jobs = jobs
        self._fill(root)
        if not os.path.exists(os.path.join(self.build, 'build.ninja')):
            self._run(['meson', 'setup', self.build, self.root])
        told = subprocess.run(['meson', 'introspect', '--tests', self.build],
                              capture_output=True, text=True, check=True).stdout
        self.tests = {}
        for test in json.loads(told):
            self.tests.setdefault(test['name'], test)

    def _fill(self, root):
        listed = subprocess.run(['git', '-C', root, 'ls-files', '-z', '-c', '-o',
                                 '--exclude-standard'], capture_output=True, check=True).stdout
        wanted = {name for name in listed.decode().split('\0')
                  if name and os.path.isfile(os.path.join(root, name))}
        for name in wanted:
            here, there = os.path.join(root, name), os.path.join(self.root, name)
            os.makedirs(os.path.dirname(there), exist_ok=True)
            with open(here, 'rb') as file:
                data = file.read()
            # What is the same keeps its time, so that a kept build is not done again.
            if os.path.exists(there):
                with open(there, 'rb') as file:
                    if file.read() == data:
                        continue
            shutil.copy(here, there)
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.relpath(path, self.root) not in wanted:
                    os.unlink(path)

    def _run(self, command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f'{" ".join(command)}:\n{done.stdout}{done.stderr}')

    def program(self, name):
        return self.tests[name]['cmd'][0]

    def make(self, names):
        """Build the programs of these tests; the compiler's complaint, or None."""
        targets = {os.path.relpath(self.program(name), self.build) for name in names}
        done = subprocess.run(['ninja', '-C', self.build, f'-j{self.jobs}'] + sorted(targets),
                              capture_output=True, text=True, check=False)
        return None if done.returncode == 0 else done.stdout + done.stderr

    def fails(self, name):
        """The cases of a test that fail, or a word for how it failed as a whole; or []."""
        test = self.tests[name]
        env = dict(os.environ, **test['env'])
        try:
            done = subprocess.run(test['cmd'], env=env, capture_output=True, text=True,
                                  cwd=test['workdir'] or self.build, timeout=HANG_SECONDS,
                                  errors='replace', check=False)
        except subprocess.TimeoutExpired:
            return ['hangs']
        if done.returncode in (0, 77):
            return []
        cases = re.findall(r'^not ok \d+ - (.*)$', done.stdout, re.M)
        return cases or [f'ends with status {done.returncode}']


def chosen(mutants, names):
    if not names:
        return mutants
    return [m for m in mutants if str(m.number) in names or any(n in m.ids for n in names)]


def judge(copy, mutant):
    """What the tests made of a mutant: '', or why it is not noticed."""
    unknown = [name for name in mutant.tests if name not in copy.tests]
    if unknown:
        return f'there is no test "{unknown[0]}"'
    complaint = copy.make(mutant.tests)
    if complaint:
        lines = [line for line in complaint.splitlines() if 'error:' in line]
        return 'does not compile: ' + (lines[0] if lines else complaint[-200:])
    passed = [name for name in mutant.tests if not copy.fails(name)]
    return 'not noticed by ' + ', '.join(passed) if passed else ''


def baseline(copy, mutants):
    """Tests that fail without any mutant, and so prove nothing."""
    names = sorted({name for m in mutants for name in m.tests if name in copy.tests})
    complaint = copy.make(names)
    if complaint:
        sys.exit(f'the tree does not build without a mutant:\n{complaint[-2000:]}')
    return [name for name in names if copy.fails(name)]


def survey(copy, mutant):
    names = [name for name, test in copy.tests.items()
             if name not in NOT_SURVEYED and 'sync engine' not in name and
             any(s.split(':')[-1] in SURVEYED for s in test['suite'])]
    complaint = copy.make(names)
    if complaint:
        lines = [line for line in complaint.splitlines() if 'error:' in line]
        print('    does not compile: ' + (lines[0] if lines else complaint[-300:]))
        return False
    noticed = False
    for name in names:
        cases = copy.fails(name)
        if cases:
            noticed = True
            plain = sorted({re.sub(r' \[.*\]$', '', case) for case in cases})
            print(f'    {name}: {"; ".join(plain)}')
    return noticed


def main():
    parser = argparse.ArgumentParser(add_help=True)
    parser.add_argument('--check', action='store_true')
    parser.add_argument('--survey', action='store_true')
    parser.add_argument('--list', default=LIST)
    parser.add_argument('--work')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('root')
    parser.add_argument('names', nargs='*')
    options = parser.parse_args()
    root = os.path.abspath(options.root)
    errors = []
    mutants = read_list(root, options.list, errors)
    for error in errors:
        print(error)
    if options.check:
        return 1 if errors else 0

    work = options.work or tempfile.mkdtemp(prefix='mutants-')
    bad = 0
    try:
        copy = Copy(root, os.path.abspath(work), options.jobs)
        wanted = chosen(mutants, options.names)
        for name in baseline(copy, wanted):
            print(f'"{name}" fails without any mutant')
            bad += 1
        for mutant in wanted:
            start = time.time()
            why = mutant.problem(root)
            if not why:
                text = mutant.apply(copy.root)
                try:
                    if options.survey:
                        print(f'{mutant}: {mutant.new.strip()[:60]!r}')
                        why = '' if survey(copy, mutant) else 'not noticed by anything'
                    else:
                        why = judge(copy, mutant)
                finally:
                    mutant.undo(copy.root, text)
            bad += bool(why)
            print(f'{"not ok" if why else "ok"} {mutant}{": " + why if why else ""} '
                  f'({time.time() - start:.0f} s)', flush=True)
    finally:
        if not options.work:
            shutil.rmtree(work)
    print(f'{bad} not noticed')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
