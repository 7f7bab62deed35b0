#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
#
# Do the things that docs/drivers.md names exist? Calls and constants in the public headers;
# test functions (written `folder/program:function`), in programs that are built and run
# them; linked files. And each row of its tables of capabilities and faults names a test.
#
#     tools/check-names.py ROOT               a line for each name that leads nowhere
#     tools/check-names.py --self-test ROOT   see that each complaint is made
#
# Exit status: 0 all is well; 1 something is not; 2 the script was called wrongly.

import os
import re
import sys

PAGE = 'docs/drivers.md'
TEST = re.compile(r'`(\w+/\w+):(\w+)`')


def read_tree(root):
    """The page, the public headers and the tests, by path below ROOT."""
    tree = {}
    for top in ('include', 'tests'):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in names:
                if name.endswith(('.c', '.h')) or name == 'meson.build':
                    path = os.path.relpath(os.path.join(folder, name), root)
                    with open(os.path.join(root, path), encoding='utf-8') as file:
                        tree[path] = file.read()
    with open(os.path.join(root, PAGE), encoding='utf-8') as file:
        tree[PAGE] = file.read()
    return tree


def without_comments(text):
    return re.sub(r'/\*.*?\*/|//[^\n]*', ' ', text, flags=re.S)


def tests_of(text):
    """Test functions of a program: defined in it, and named once more where they are run."""
    code = without_comments(text)
    return {name for name in re.findall(r'^static void (\w+)\(void \*\*\w+\)', code, re.M)
            if len(re.findall(rf'\b{name}\b', code)) > 1}


def check(tree, exists):
    headers = without_comments('\n'.join(
        text for path, text in sorted(tree.items()) if path.startswith('include/')))
    words = set(re.findall(r'\w+', headers))
    calls = set(re.findall(r'\b(virtq_\w+)\s*\(', headers))
    programs = {path[len('tests/'):-2]: tests_of(text) for path, text in tree.items()
                if path.startswith('tests/') and path.endswith('.c')}
    found, rows, in_table = [], 0, False
    for number, line in enumerate(tree[PAGE].splitlines(), 1):
        def say(what):
            found.append(f'{PAGE}:{number}: {what}')

        for name, bracket in re.findall(r'\b(virtq_\w+)(\(?)', line):
            if name not in (calls if bracket else words):
                say(f'{name}{bracket} is in no public header')
        for name in re.findall(r'\bVIRTQ_[A-Z]\w+', line):
            if name not in words:
                say(f'{name} is in no public header')
        for program, name in TEST.findall(line):
            folder, base = program.split('/')
            if program not in programs:
                say(f'there is no tests/{program}.c')
                continue
            if not re.search(rf"'{base}(\.c)?'", tree.get(f'tests/{folder}/meson.build', '')):
                say(f'tests/{program}.c is not built')
            if name not in programs[program]:
                say(f'tests/{program}.c runs no {name}()')
        if re.search(r'\btest_\w+', TEST.sub('', line)):
            say('a test without its program')
        for target in re.findall(r'\]\(([^)#:]+)\)', line):
            if not exists(os.path.join('docs', target)):
                say(f'there is no {target}')
        # Tables whose last column is headed "Test".
        if re.match(r'\|.*\|\s*Test\s*\|$', line):
            in_table = True
        elif not line.startswith('|'):
            in_table = False
        elif in_table and not re.match(r'\|[-\s|]+\|$', line):
            rows += 1
            if not TEST.search(line.rstrip('|').rsplit('|', 1)[1]):
                say('a row that no test proves')
    if rows < 40:
        found.append(f'{PAGE}: only {rows} rows of tables with tests')
    return found


# What is put at the end of the page or of a program, and part of the complaint.
WRONG = [
    ('see virtq_pool_ofer()\n', 'virtq_pool_ofer( is in no'),
    ('see `struct virtq_poool`\n', 'virtq_poool is in no'),
    ('a type is no call: virtq_chain()\n', 'virtq_chain( is in no'),
    ('see VIRTQ_POOL_LESS\n', 'VIRTQ_POOL_LESS is in no'),
    ('`transfer/nothing:test_it`\n', 'there is no tests/transfer/nothing.c'),
    ('`transfer/pool:test_nothing_at_all`\n', 'tests/transfer/pool.c runs no'),
    ('`test_alone`\n', 'a test without its program'),
    ('[gone](gone.md)\n', 'there is no gone.md'),
    ('| What | Test |\n|---|---|\n| x | y |\n', 'a row that no test proves'),
]


def self_test(root):
    def exists(path):
        return os.path.exists(os.path.join(root, path))

    tree = read_tree(root)
    cases = [(dict(tree, **{PAGE: tree[PAGE] + '\n' + text}), what) for text, what in WRONG]
    # A test that is no longer run, or only spoken of.
    program, name = TEST.findall(tree[PAGE])[0]
    path = f'tests/{program}.c'
    defined, rest = tree[path].split(f'{name}(void', 1)
    gone = f'{defined}{name}(void' + re.sub(rf'\b{name}\b', 'other', rest)
    cases.append((dict(tree, **{path: gone}), f'{path} runs no {name}'))
    cases.append((dict(tree, **{path: f'/* void {name}( {name} */'}), f'{path} runs no {name}'))
    cases.append((dict(tree, **{f'tests/{program.split("/")[0]}/meson.build': ''}),
                  f'{path} is not built'))
    cases.append((dict(tree, **{PAGE: tree[PAGE].replace('| Test |', '| Proof |')}), 'only 0 rows'))
    failures = 0
    for number, (wrong, what) in enumerate(cases, 1):
        good = any(what in line for line in check(wrong, exists))
        failures += not good
        print(f'{"ok" if good else "not ok"} {number} - {what}')
    print(f'1..{len(cases)}')
    return 1 if failures else 0


def main(argv):
    if len(argv) == 3 and argv[1] == '--self-test':
        return self_test(argv[2])
    if len(argv) != 2:
        print('usage: check-names.py [--self-test] ROOT', file=sys.stderr)
        return 2
    found = check(read_tree(argv[1]), lambda path: os.path.exists(os.path.join(argv[1], path)))
    print('\n'.join(found) or f'{PAGE}: all names lead somewhere')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
