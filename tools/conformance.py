#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
#
# Which rule of the standard is proven by which test: reads tests/requirements.tsv, the ids
# in the tests, and tests/conformance/reasons.tsv, and writes docs/conformance.md.
#
#     tools/conformance.py ROOT              write docs/conformance.md
#     tools/conformance.py --check ROOT      change nothing; complain of what is wrong
#     tools/conformance.py --self-test ROOT  see that each complaint is made
#
# An id claims its rule for the test where it stands:
#   - in the comment directly above a test function, or inside its body;
#   - in the name under which a function is registered, or a row of a table of cases;
#   - above or inside a function that tests of the same file call: for all of those;
#   - in the comment at the head of a file with a main(): for the whole program.
# "S-DRV-001..003" means all three. An id anywhere else in a program is an error, as it
# claims nothing; in files that are parts of programs (rigs) it is a remark.
#
# Exit status: 0 all is well; 1 something is not; 2 the script was called wrongly.

import os
import re
import sys

AREAS = [
    ('S-DRV', 'Split ring, driver end'), ('S-DEV', 'Split ring, device end'),
    ('P-DRV', 'Packed ring, driver end'), ('P-DEV', 'Packed ring, device end'),
    ('N-DRV', 'Notifications, driver end'), ('N-DEV', 'Notifications, device end'),
    ('F', 'Features'), ('L', 'Life of device and queue'),
    ('BLK-DRV', 'Block device, driver end'), ('BLK-DEV', 'Block device, device end'),
]
KINDS = {
    'refused': 'refused', 'transport': 'belongs to a transport', 'caller': 'the caller\'s part',
    'not-yet': 'not yet',
}
SHOWN = 4       # tests named per rule; the others are counted

AREA = r'(?:[SPN]-(?:DRV|DEV)|(?:BLK|NET)-(?:DRV|DEV)|VU-(?:BE|FE)|VD|VK|[FLT])'
ID = re.compile(r'\b(' + AREA + r')-(\d{3})(?:\.\.(\d{3}))?\b')


def ids_in(text):
    """The ids in a text, ranges written out."""
    for match in ID.finditer(text):
        area, first, last = match.groups()
        for number in range(int(first), int(last or first) + 1):
            yield f'{area}-{number:03}'


# ---- What there is -----------------------------------------------------------

def read(root, path):
    with open(os.path.join(root, path), encoding='utf-8') as file:
        return file.read()


def read_tree(root):
    """Everything that this script looks at, by path below ROOT."""
    tree = {}
    for folder, folders, names in os.walk(os.path.join(root, 'tests')):
        folders.sort()
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), root)
            if name.endswith(('.c', '.h', '.py', '.sh')) or path.endswith('.tsv'):
                tree[path] = read(root, path)
    return tree


def rows_of(text):
    for number, line in enumerate(text.splitlines(), 1):
        if line and not line.startswith('#'):
            yield number, line.split('\t')


class Rule:
    def __init__(self, fields):
        self.id, self.level, self.side, self.source, self.text, self.hint = fields
        self.area = self.id[:-4]
        self.tests = []         # labels, in order of the files
        self.reason = None      # kind, sentence, test

    def wanted(self):
        return self.area in dict(AREAS)


def rules_of(tree):
    rules = {}
    for number, fields in rows_of(tree['tests/requirements.tsv']):
        if number > 1:
            rules[fields[0]] = Rule(fields)
    return rules


# ---- Claims in C ---------------------------------------------------------------

COMMENT = re.compile(r'/\*.*?\*/', re.S)
STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')


class Function:
    def __init__(self, name, begin, body, end, is_test):
        self.name, self.begin, self.body, self.end = name, begin, body, end
        self.is_test = is_test


def functions_of(text):
    """Definitions as the house writes them: the type in column 0, braces in column 0."""
    found = []
    for match in re.finditer(r'^(?!typedef|struct \w+ \{|#)([A-Za-z_][^\n;={}]*?)\b(\w+)'
                             r'\(([^;{}]*?)\)\n\{\n', text, re.M):
        end = text.find('\n}\n', match.end() - 1)
        end = len(text) if end < 0 else end + 3
        is_test = re.fullmatch(r'void \*\*\w+', match.group(3).strip()) is not None
        found.append(Function(match.group(2), match.start(), match.end(), end, is_test))
    return found


def arrays_of(text):
    return [(m.start(), m.end()) for m in
            re.finditer(r'^static [^\n;()]*\[\w*\] = \{\n.*?^\};', text, re.M | re.S)]


def callers(text, functions, name):
    """The test functions of this file that get to @name."""
    by_name = {f.name: f for f in functions}
    reached, todo = [], [name]
    seen = set(todo)
    while todo:
        callee = todo.pop()
        for f in functions:
            if f.name in seen or f.name == 'main':
                continue
            if re.search(r'\b' + callee + r'\b', text[f.body:f.end]):
                seen.add(f.name)
                todo.append(f.name)
    for f in functions:
        if f.name in seen and by_name[f.name].is_test:
            reached.append(f.name)
    return reached


def ring_ids(text):
    """The ids of the areas that the table shows."""
    return [rule for rule in ids_in(text) if rule[:-4] in dict(AREAS)]


def bare(name):
    """The name of a case without its ids."""
    return ID.sub('', name).strip(' ,:')


def claims_in_c(path, text, errors):
    """(id, label) for each claim of a program."""
    functions = functions_of(text)
    arrays = arrays_of(text)
    short = path[len('tests/'):]
    head = re.match(r'(?:/\* SPDX[^\n]*\*/\n)?(/\*.*?\*/)', text, re.S)

    def inside(at):
        for f in functions:
            if f.begin <= at < f.end:
                return f
        return None

    def claim_for(f, rule):
        if f.is_test:
            yield rule, f'{short}:{f.name}'
            return
        tests = callers(text, functions, f.name)
        if not tests:
            errors.append(f'{path}: {rule} stands at {f.name}(), which no test here calls')
        for name in tests:
            yield rule, f'{short}:{name}'

    comments = [(m.start(), m.end()) for m in COMMENT.finditer(text)]
    for begin, end in comments:
        found = ring_ids(text[begin:end])
        if not found:
            continue
        if head and begin == head.start(1):
            for rule in found:
                yield rule, short
            continue
        owner = inside(begin)
        if not owner:
            owner = next((f for f in functions if f.begin == end + 1), None)
        if owner:
            for rule in found:
                yield from claim_for(owner, rule)
        elif not any(a <= begin < b for a, b in arrays):
            line = text.count('\n', 0, begin) + 1
            errors.append(f'{path}:{line}: {found[0]} stands above no function')

    for match in STRING.finditer(text):
        found = ring_ids(match.group(0))
        if not found or any(a <= match.start() < b for a, b in comments):
            continue
        owner = inside(match.start())
        if not owner:
            label = f'{short}: "{bare(match.group(0)[1:-1])}"'
            for rule in found:
                yield rule, label
            continue
        # A registration: the test function that is named next in the statement.
        names = re.findall(r'\w+', STRING.sub('', text[match.end():].split(';', 1)[0]))
        registered = next((f for name in names for f in functions if f.name == name), None)
        if registered and registered.is_test:
            for rule in found:
                yield rule, f'{short}:{registered.name}'
        elif owner.name == 'main':
            errors.append(f'{path}: {found[0]} in a name that is given to no test function')
        else:
            for rule in found:
                yield from claim_for(owner, rule)


# ---- Claims in scripts -----------------------------------------------------------

def claims_in_script(path, text):
    """Python: of the def they stand in or directly above; elsewhere of the whole file."""
    short = path[len('tests/'):]
    owner, pending = None, []
    for line in text.splitlines():
        found = list(ids_in(line))
        define = re.match(r'def (\w+)', line) if path.endswith('.py') else None
        if define:
            owner = define.group(1)
            for rule in pending + found:
                yield rule, f'{short}:{owner}'
            pending = []
            continue
        if line and not line[0].isspace() and not line.startswith('#'):
            for rule in pending:
                yield rule, short
            owner, pending = None, []
        if owner and line.startswith((' ', '\t')):
            for rule in found:
                yield rule, f'{short}:{owner}'
        elif line.startswith('#'):
            pending += found
        else:
            for rule in found:
                yield rule, short
    for rule in pending:
        yield rule, short


# ---- Putting together ------------------------------------------------------------

def collect(tree, rules, errors):
    labels = set()
    for path, text in sorted(tree.items()):
        if path.endswith('.tsv'):
            continue
        if path.endswith(('.c', '.h')):
            program = re.search(r'^int main\(', text, re.M)
            if program:
                short = path[len('tests/'):]
                labels.update(f'{short}:{f.name}' for f in functions_of(text) if f.is_test)
                labels.add(short)
                claims = [(rule, None) for rule in ids_in(text)]
                claims += claims_in_c(path, text, errors)
            else:
                claims = [(rule, None) for rule in ids_in(text)]
        else:
            claims = list(claims_in_script(path, text))
            labels.update(label for _, label in claims)
            if path.endswith('.py'):
                labels.update(f"{path[len('tests/'):]}:{name}"
                              for name in re.findall(r'^def (\w+)', text, re.M))
        for rule, label in claims:
            if rule not in rules:
                errors.append(f'{path}: {rule} is no rule')
            elif label and label not in rules[rule].tests:
                rules[rule].tests.append(label)
    return labels


def read_reasons(tree, rules, labels, errors):
    path = 'tests/conformance/reasons.tsv'
    for number, fields in rows_of(tree[path]):
        where = f'{path}:{number}'
        if len(fields) not in (3, 4):
            errors.append(f'{where}: {len(fields)} fields, not 3 or 4')
            continue
        rule, kind, sentence = fields[:3]
        test = fields[3] if len(fields) == 4 else ''
        if rule not in rules:
            errors.append(f'{where}: {rule} is no rule')
            continue
        if kind not in KINDS:
            errors.append(f'{where}: "{kind}" is no kind of reason')
            continue
        if rules[rule].reason:
            errors.append(f'{where}: a second reason for {rule}')
        if not sentence.endswith('.'):
            errors.append(f'{where}: the reason for {rule} is no sentence')
        if kind == 'refused' and not test:
            errors.append(f'{where}: no test shows that {rule} is refused')
        for name in test.split():
            if name not in labels:
                errors.append(f'{where}: there is no test {name}')
        if kind == 'not-yet' and rules[rule].tests:
            errors.append(f'{where}: {rule} is "not-yet", but {rules[rule].tests[0]} claims it')
        rules[rule].reason = (kind, sentence, test)


def broken_ids(tree):
    """Which rules have a mutant, and how many: tests/conformance/mutants.tsv."""
    count = {}
    for _, fields in rows_of(tree.get('tests/conformance/mutants.tsv', '')):
        for rule in ids_in(fields[0]):
            count[rule] = count.get(rule, 0) + 1
    return count


def find_open(rules, errors):
    for rule in rules.values():
        if rule.wanted() and rule.level == 'MUST' and not rule.tests and not rule.reason:
            errors.append(f'{rule.id} (MUST) has neither a test nor a reason: {rule.text}')


# ---- The table -------------------------------------------------------------------

INTRODUCTION = '''\
# Conformance

Generated by `tools/conformance.py` from the ids in the tests, `tests/requirements.tsv` (the
rules of VIRTIO 1.4 in our words) and `tests/conformance/reasons.tsv`. Do not edit it: put the
id of a rule where its test is, then run `tools/conformance.py .`. The test *conformance* fails
while this page is out of date, an id is unknown, or a MUST has neither test nor reason.

Tests are named as file below `tests/` and function, or as file and row of its table of cases;
a file alone means all of that program. Where there are more than {shown}, the others are counted.

Where a rule is not proven by a test of its own, the reason says why:
*refused*: what would need it is not accepted, and the test named shows that;
*belongs to a transport*: the rings have no part in it;
*the caller's part*: only a program that uses the library can keep it or break it;
*not yet*: open.

"broken" counts the mutants in `tests/conformance/mutants.tsv` that break the rule on purpose:
`make check-mutants` applies each to a copy of the tree and requires that the tests notice.

'''


def cell(text):
    return text.replace('|', '\\|')


def answer(rule):
    parts = []
    if rule.tests:
        shown = ', '.join(f'`{label}`' for label in rule.tests[:SHOWN])
        more = len(rule.tests) - SHOWN
        parts.append(shown + (f' and {more} more' if more > 0 else ''))
    if rule.reason:
        kind, sentence, test = rule.reason
        text = f'*{KINDS[kind]}*: {sentence}'
        if test:
            text += ' ' + ', '.join(f'`{name}`' for name in test.split())
        parts.append(text)
    return '; '.join(parts) or '-'


def page(rules, mutants):
    out = [INTRODUCTION.format(shown=SHOWN)]
    wanted = [r for r in rules.values() if r.wanted()]
    columns = ['tests'] + list(KINDS) + ['open']

    def column(rule):
        if rule.tests:
            return 'tests'
        return rule.reason[0] if rule.reason else 'open'

    out.append('| area | level | rules | proven by tests | refused | transport | caller | '
               'not yet | without test or reason | broken on purpose |\n'
               '|---|---|---|---|---|---|---|---|---|---|\n')
    for area, title in AREAS + [(None, 'All')]:
        for level in ('MUST', 'SHOULD', 'MAY'):
            here = [r for r in wanted if area in (r.area, None) and r.level == level]
            if not here:
                continue
            counts = [sum(column(r) == c for r in here) for c in columns]
            seen = sum(1 for r in here if r.id in mutants)
            out.append(f'| {title if not area else area} | {level} | {len(here)} | ' +
                       ' | '.join(str(c) for c in counts) + f' | {seen} |\n')
    for area, title in AREAS:
        out.append(f'\n## {area}: {title}\n\n'
                   '| id | level | rule | test or reason | broken |\n|---|---|---|---|---|\n')
        for rule in wanted:
            if rule.area == area:
                out.append(f'| {rule.id} | {rule.level} | {cell(rule.text)} | '
                           f'{cell(answer(rule))} | {mutants.get(rule.id, "")} |\n')
    return ''.join(out)


def examine(tree):
    """The page as it should be, and what is wrong with the claims."""
    errors = []
    rules = rules_of(tree)
    labels = collect(tree, rules, errors)
    read_reasons(tree, rules, labels, errors)
    for rule in broken_ids(tree):
        if rule not in rules:
            errors.append(f'tests/conformance/mutants.tsv: {rule} is no rule')
    find_open(rules, errors)
    return page(rules, broken_ids(tree)), errors, rules


# ---- Self-test ---------------------------------------------------------------------

FAKE = '/* SPDX-License-Identifier: MIT */\n/* Head. */\n%s\nint main(void)\n{\n%s\n}\n'
TEST = 'static void test_it(void **state)\n{\n\t(void)state;\n}\n'

CLAIMS = [
    ('above a test', FAKE % ('/* F-001. */\n' + TEST, ''), 'fake.c:test_it'),
    ('inside a test', FAKE % (TEST.replace('(void)s', '/* F-001 */\n\t(void)s'), ''),
     'fake.c:test_it'),
    ('in a registered name', FAKE % (TEST, '\tadd(&m, "F-001 it",\n\t    test_it);'),
     'fake.c:test_it'),
    ('in a row', FAKE % ('static const struct x rows[] = {\n\t{ "F-001 a row", 1 },\n};\n',
                         ''), 'fake.c: "a row"'),
    ('at a helper', FAKE % ('/* F-001 */\nstatic void help(int a)\n{\n\ta++;\n}\n\n' +
                            TEST.replace('(void)state', 'help(1)'), ''), 'fake.c:test_it'),
    ('at the head', FAKE.replace('Head.', 'F-001.') % (TEST, ''), 'fake.c'),
]

BREACHES = [
    ('an id that is none', 'tests/fake.c', FAKE % ('/* F-999 */\n' + TEST, ''), 'no rule'),
    ('an id above nothing', 'tests/fake.c', FAKE % ('/* F-001 */\n\n' + TEST, ''),
     'above no function'),
    ('a helper nobody calls', 'tests/fake.c',
     FAKE % ('/* F-001 */\nstatic void help(int a)\n{\n\ta++;\n}\n', ''), 'no test here calls'),
    ('a name for nobody', 'tests/fake.c', FAKE % (TEST, '\tadd(&m, "F-001 it");'),
     'no test function'),
    ('an unknown kind', None, 'F-001\twhim\tBecause.', 'no kind'),
    ('a reason for no rule', None, 'F-999\ttransport\tBecause.', 'no rule'),
    ('a refusal without a test', None, 'F-001\trefused\tBecause.', 'is refused'),
    ('a test that is not there', None, 'F-001\trefused\tBecause.\tring/none.c:test_none',
     'there is no test'),
    ('half a row', None, 'F-001\ttransport', 'fields'),
]


def self_test(tree):
    failures = 0
    without = {p: t for p, t in tree.items() if p.endswith('.tsv')}
    without['tests/conformance/reasons.tsv'] = ''
    without['tests/conformance/mutants.tsv'] = ''

    def expect(what, good):
        nonlocal failures
        failures += not good
        print(f'{"ok" if good else "not ok"} - {what}')

    for what, text, label in CLAIMS:
        _, _, rules = examine({**without, 'tests/fake.c': text})
        expect(f'a claim {what}', rules['F-001'].tests == [label])
    _, errors, _ = examine(without)
    expect('rules without test or reason', sum('neither' in e for e in errors) > 200)
    for what, path, text, complaint in BREACHES:
        planted = dict(without)
        planted[path or 'tests/conformance/reasons.tsv'] = text
        _, errors, _ = examine(planted)
        expect(what, any(complaint in e for e in errors))
    return 1 if failures else 0


def main(args):
    mode = args[0] if args and args[0].startswith('--') else ''
    rest = args[1:] if mode else args
    if len(rest) != 1 or mode not in ('', '--check', '--self-test'):
        print('conformance.py [--check | --self-test] ROOT', file=sys.stderr)
        return 2
    root = rest[0]
    tree = read_tree(root)
    if mode == '--self-test':
        return self_test(tree)
    wanted, errors, _ = examine(tree)
    path = os.path.join(root, 'docs/conformance.md')
    if mode == '--check':
        if not os.path.exists(path) or read(root, 'docs/conformance.md') != wanted:
            errors.append('docs/conformance.md is out of date: run tools/conformance.py .')
    else:
        with open(path, 'w', encoding='utf-8') as file:
            file.write(wanted)
    for error in errors:
        print(error)
    return 1 if errors else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
