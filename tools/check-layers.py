#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
#
# The rules of the house that a compiler does not check. Each rule is one
# function below; its first line says what it forbids.
#
#     tools/check-layers.py ROOT               check the tree; a line for each breach
#     tools/check-layers.py --self-test ROOT   plant a breach of each kind in the tree as
#                                              read, and see that it is found
#
# Exit status: 0 nothing found; 1 something was; 2 the script was called wrongly.

import os
import re
import sys

# Bottom up. A folder may include from itself and from those in front of it.
LAYERS = ['base', 'mem', 'ring', 'transfer', 'dev', 'engine', 'transport']

# Which layer each public header belongs to; spec/ and headers not named here are base's.
PUBLIC = {
    'mem.h': 'mem', 'iotlb.h': 'mem', 'ring.h': 'ring', 'driver.h': 'ring', 'device.h': 'ring',
    'dump.h': 'ring', 'port.h': 'transfer', 'pool.h': 'transfer', 'transfer.h': 'transfer',
    'model.h': 'dev', 'blk.h': 'dev', 'store.h': 'dev', 'engine.h': 'engine',
    'transport.h': 'transport', 'loopback.h': 'transport', 'vhost_user.h': 'transport',
}
PUBLIC_BASE = {'api.h', 'error.h', 'features.h', 'notify.h', 'version.h'}

# Files all of whose code runs for each request, or has to do without a heap.
NO_HEAP_FILES = [
    'src/ring/chain.h', 'src/ring/device.c', 'src/ring/device.h',
    'src/ring/device_pop.c', 'src/ring/device_push.c', 'src/ring/driver.c',
    'src/ring/driver_add.c', 'src/ring/driver_add.h', 'src/ring/driver_get.c',
    'src/ring/driver.h', 'src/ring/dump.c', 'src/ring/dump.h', 'src/ring/dump_device.c',
    'src/ring/dump_driver.c', 'src/ring/event.h', 'src/ring/layout.h', 'src/ring/packed.h',
    'src/ring/req.c', 'src/ring/shape.c', 'src/ring/split.h', 'src/mem/map.c', 'src/mem/map.h',
    'src/mem/iotlb.c', 'src/mem/iotlb.h',
    'src/base/error.c', 'src/base/check.h', 'src/base/shm.h',
]

# Where a request enters code outside those files.
DATA_PATH = ['finish_completed', 'queue_serve', 'queue_finish', 'queue_publish',
             'engine_completed', 'engine_kicked']
# And where it leaves them again, once in the life of what it had: the last request that was
# popped under an older map gives that up.
DATA_PATH_ENDS = ['release_old_map']
DATA_PATH_FIELDS = ['start', 'finish', 'perform', 'turn', 'signal', 'drain', 'watch']


# ---- Reading C ---------------------------------------------------------------

class Source:
    """One file: as it is, without comments, and without string literals either."""

    def __init__(self, path, text):
        self.path = path
        self.text = text
        self.uncommented = self._blank(comments=True, strings=False)
        self.code = self._blank(comments=True, strings=True)

    def _blank(self, comments, strings):
        pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'',
                             re.S)

        def blank(match):
            text = match.group(0)
            if text[0] == '/' and not comments or text[0] != '/' and not strings:
                return text
            # What stands on an #include line in quotes is no literal.
            line = self.text[self.text.rfind('\n', 0, match.start()) + 1:match.start()]
            if text[0] == '"' and re.match(r'\s*#\s*include\b', line):
                return text
            return re.sub(r'[^\n]', ' ', text)

        return pattern.sub(blank, self.text)

    def line(self, offset):
        return self.text.count('\n', 0, offset) + 1

    def find(self, pattern, where=None):
        """Yields (line number, match)."""
        text = self.code if where is None else where
        for match in re.finditer(pattern, text):
            yield self.line(match.start()), match

    def functions(self):
        """{name: (offset, end)} of the functions defined here, in house style."""
        found = {}
        for brace in re.finditer(r'^\{', self.code, re.M):
            head = self.code[:brace.start()]
            begin = max(head.rfind(end) for end in ('\n}', ';', '\n\n', '\n#'))
            name = re.search(r'(\w+)\s*\([^{}]*\)\s*$', head[begin:])
            end = self.code.find('\n}', brace.end())
            if not name:
                continue
            # The name before the outermost bracket, not that of an inner one.
            depth, at = 0, len(head.rstrip()) - 1
            while at >= 0:
                depth += {')': 1, '(': -1}.get(head[at], 0)
                if not depth:
                    break
                at -= 1
            outer = re.search(r'(\w+)\s*$', head[:at])
            if outer:
                found[outer.group(1)] = (brace.start(), end)
        return found


class Tree:
    def __init__(self, root):
        self.files = {}
        for top in ('include', 'src', 'cli', 'examples'):
            for folder, _, names in os.walk(os.path.join(root, top)):
                for name in sorted(names):
                    if name.endswith(('.c', '.h')):
                        path = os.path.relpath(os.path.join(folder, name), root)
                        with open(os.path.join(root, path), encoding='utf-8') as f:
                            self.files[path] = Source(path, f.read())

    def under(self, *prefixes):
        return [f for p, f in sorted(self.files.items()) if p.startswith(prefixes)]


def layer_of_public(name):
    if name.startswith('spec/') or name in PUBLIC_BASE:
        return 'base'
    return PUBLIC.get(name)


# ---- The rules ---------------------------------------------------------------

def rule_includes(tree):
    """An include that goes up, or round the public headers."""
    for f in tree.under('src/', 'include/', 'cli/', 'examples/'):
        parts = f.path.split('/')
        for n, match in f.find(r'(?m)^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]'):
            kind, name = match.groups()
            if parts[0] == 'src':
                here = parts[1]
                if kind == '"':
                    there = name.split('/')[0]
                    if '/' not in name or there not in LAYERS:
                        yield f, n, f'"{name}" names no folder of src'
                        continue
                elif name.startswith('virtq/'):
                    there = layer_of_public(name[6:])
                    if there is None:
                        yield f, n, f'<{name}> belongs to no layer'
                        continue
                else:
                    continue
                if here not in LAYERS:
                    yield f, n, f'src/{here} is no layer'
                elif LAYERS.index(there) > LAYERS.index(here):
                    yield f, n, f'{here} includes {name}, which is above it'
            elif parts[0] == 'include':
                if kind == '"':
                    yield f, n, f'a public header includes "{name}"'
                elif name.startswith('virtq/') and f.path != 'include/virtq/virtq.h':
                    own = f.path[len('include/virtq/'):]
                    here, there = layer_of_public(own), layer_of_public(name[6:])
                    if here is None or there is None:
                        yield f, n, f'{own} or {name} belongs to no layer'
                    elif LAYERS.index(there) > LAYERS.index(here):
                        yield f, n, f'{own} includes {name}, which is above it'
                elif own_spec(f.path) and name != 'stdint.h':
                    yield f, n, 'spec/ holds structures and constants only'
            elif kind == '"' and '/' in name:
                yield f, n, f'{parts[0]} reaches into "{name}"; it has public headers only'


def own_spec(path):
    return path.startswith('include/virtq/spec/')


def rule_atomics(tree):
    """An atomic, a fence or a change of byte order outside src/base/shm.h."""
    words = (r'\b(__atomic_\w+|__sync_\w+|_Atomic\b|atomic_\w+|stdatomic|'
             r'(?:hto[bl]e|[bl]e)(?:16|32|64)(?:toh)?\s*\(|hton[sl]\s*\(|ntoh[sl]\s*\(|'
             r'htole\w+|htobe\w+|[lb]e(?:16|32|64)toh|'
             r'bswap_\w+|__builtin_bswap\w+|__bswap\w+|SHM_SWAP\w*|__NR_membarrier|membarrier|'
             r'io_uring_smp_\w+|__builtin_ia32_[lms]fence|_mm_[lms]fence)')
    for f in tree.under('src/', 'cli/', 'examples/'):
        if f.path == 'src/base/shm.h':
            continue
        for n, match in f.find(words):
            yield f, n, f'{match.group(1).strip(" (")} outside src/base/shm.h'
        # A hint to the processor orders nothing; all other assembler may.
        if f.path.startswith('examples/'):
            continue	# one makes its own system calls
        for n, match in f.find(r'\b(?:__asm__|asm|__asm)\b[^;]*;', f.uncommented):
            if not re.search(r'\(\s*"(?:yield|pause)"\s*\)', match.group(0)):
                yield f, n, 'assembler outside src/base/shm.h'


def rule_layout(tree):
    """The ring's layout asked for or named in code outside src/ring."""
    for f in tree.under('src/'):
        if f.path.startswith('src/ring/'):
            continue
        code = re.sub(r'__attribute__\s*\(\(\s*packed\s*\)\)', '', f.code)
        if f.path == 'src/base/names.c':
            # The table of feature names.
            code = re.sub(r'\{\s*VIRTIO_F_RING_PACKED\s*,', '', code)
        for match in re.finditer(r'(?i)\w*(?:packed|split|pvirtq)\w*', code):
            line = code.count('\n', 0, match.start()) + 1
            yield f, line, f'{match.group(0)} outside src/ring'
    for f in tree.under('include/virtq/'):
        if own_spec(f.path):
            continue
        for n, match in f.find(r'(?i)\w*(?:packed|split|pvirtq)\w*'):
            yield f, n, f'{match.group(0)} in the code of a public header'


ALLOCATION = (r'\b(malloc|calloc|realloc|reallocarray|free|aligned_alloc|posix_memalign|memalign|'
              r'strdup|strndup|asprintf|mmap|munmap|alloca|__builtin_alloca)\s*\(')


def rule_heap(tree):
    """Allocation on the way of a request."""
    for f in tree.files.values():
        if f.path in NO_HEAP_FILES:
            for n, match in f.find(ALLOCATION):
                yield f, n, f'{match.group(1)}() in a file that does without a heap'
    for path in NO_HEAP_FILES:
        if path not in tree.files:
            yield None, 0, f'{path} is checked for allocations, but is not there'

    # Outside those: whatever the entry points reach, by names of functions.
    sources = tree.under('src/')
    defined = {}			# name: [(file, body)]
    for f in sources:
        for name, span in f.functions().items():
            defined.setdefault(name, []).append((f, span))
    roots = list(DATA_PATH)
    for f in tree.under('src/dev/', 'src/engine/'):
        for _, match in f.find(r'\.(\w+)\s*=\s*(\w+)\s*,'):
            if match.group(1) in DATA_PATH_FIELDS and match.group(2) in defined:
                roots.append(match.group(2))
    for name in DATA_PATH:
        if name not in defined:
            yield None, 0, f'{name}() is an entry of the data path, but is not there'
    seen, todo = set(), [(name, where, name) for name in roots
                         for where in defined.get(name, [])]
    while todo:
        name, (f, (start, end)), way = todo.pop()
        if (name, f.path) in seen:
            continue
        seen.add((name, f.path))
        body = f.code[start:end]
        for match in re.finditer(ALLOCATION, body):
            yield (f, f.line(start + match.start()),
                   f'{match.group(1)}() on the data path: {way}')
        for called in set(re.findall(r'\b(\w+)\s*\(', body)) - set(DATA_PATH_ENDS):
            places = defined.get(called, [])
            own = [place for place in places if place[0] is f]
            for place in own or places:
                todo.append((called, place, f'{way} > {called}'))


def rule_output(tree):
    """Printing, ending the process, or an assert in the library."""
    words = (r'\b(printf|fprintf|vprintf|vfprintf|dprintf|puts|fputs|putchar|fputc|perror|'
             r'syslog|err|errx|warn|warnx|exit|_exit|_Exit|quick_exit|abort|assert|raise|'
             r'__builtin_trap|__builtin_abort)\s*\(')
    for f in tree.under('src/'):
        for n, match in f.find(words):
            if f.path == 'src/base/check.h' and match.group(1) == '__builtin_trap':
                continue
            yield f, n, f'{match.group(1)}() in the library'
        for n, match in f.find(r'\b(stdout|stderr)\b'):
            yield f, n, f'{match.group(1)} in the library'
        # Asserts are for bugs of ours: what was read from a peer is not asserted.
        for n, match in f.find(r'\bVIRTQ_ASSERT\s*\(([^;]*)\)\s*;'):
            if re.search(r'\b(shm_(?:load|copy)\w*|le(?:16|32|64)_value)\b', match.group(1)):
                yield f, n, 'an assert over what a peer wrote'


# Who does what under each letter, and with which accessor.
LETTERS = {
    'A': {'driver': ('release', 'shm_publish16'), 'device': ('acquire', 'shm_observe16')},
    'B': {'driver': ('acquire', 'shm_observe16'), 'device': ('release', 'shm_publish16')},
    'C': {'driver': ('full', 'shm_fence_kick'), 'device': ('full', 'shm_fence_kick')},
    'D': {'driver': ('full', 'shm_fence_call'), 'device': ('full', 'shm_fence_call')},
}


def rule_letters(tree):
    """An ordered access without its letter, or a letter without its other end."""
    for layout in ('split', 'packed'):
        f = tree.files.get(f'src/ring/{layout}.h')
        if f is None:
            yield None, 0, f'src/ring/{layout}.h is not there'
            continue
        functions = f.functions()
        claims, partners = {}, {}	# by (letter, function)
        for name, (start, end) in functions.items():
            body = f.text[start:end]
            prose = re.sub(r'\s*\n\s*\*\s?', ' ', body)
            for letter, partner in re.findall(
                    r'[Pp]airs with (?:the )?\[([A-D])\][^.]*?\bin (\w+)\(\)', prose):
                partners[letter, name] = partner
            prose = re.sub(r'[Pp]airs with [^.]*\.', '', prose)
            for letter, order in re.findall(r'\[([A-D])\] (release|acquire|full)', prose):
                claims[letter, name] = order

        for letter, ends in LETTERS.items():
            for end, (order, accessor) in ends.items():
                mine = [name for (l, name), o in claims.items()
                        if l == letter and o == order and name.startswith(f'{layout}_{end}_')]
                if not mine:
                    yield f, 0, f'[{letter}] {order} is missing at the {end} end'
                for name in mine:
                    start, stop = functions[name]
                    line = f.line(start)
                    if not re.search(rf'\b{accessor}\s*\(', f.code[start:stop]):
                        yield f, line, f'{name}() claims [{letter}] {order} without {accessor}()'
                    other = partners.get((letter, name))
                    if other is None:
                        yield f, line, f'{name}() does not say what its [{letter}] pairs with'
                    elif (letter, other) not in claims:
                        yield f, line, f'{other}(), named by {name}(), has no [{letter}]'
                    elif partners.get((letter, other)) != name:
                        yield (f, line,
                               f'{name}() names {other}() for [{letter}], but not the reverse')
        for name, (start, stop) in functions.items():
            letters = {letter for letter, owner in claims if owner == name}
            for match in re.finditer(
                    r'\b(shm_(?:publish16|observe16|fence_kick|fence_call|fence_full|'
                    r'store_release16|load_acquire16))\s*\(', f.code[start:stop]):
                end = 'driver' if name.startswith(f'{layout}_driver_') else 'device'
                wanted = {letter for letter, ends in LETTERS.items()
                          if ends[end][1] == match.group(1)}
                if not wanted & letters:
                    yield (f, f.line(start + match.start()),
                           f'{match.group(1)}() in {name}() without its letter')


SHORT_EXAMPLES = ('packets', 'request', 'abandon', 'epoll', 'uring')	# each below 120 lines


def rule_names(tree):
    """A typedef of a struct, a file that is about everything, a file too long."""
    for f in tree.under('src/', 'include/', 'cli/', 'examples/'):
        if f.path != 'include/virtq/spec/types.h':
            for n, _ in f.find(r'\btypedef\s+(?:struct|union)\b'):
                yield f, n, 'typedef of a struct'
        if re.search(r'(?:^|/)(?:utils?|common|misc|helpers?)\.[ch]$', f.path):
            yield f, 0, 'a file holds one noun'
        lines = f.text.count('\n')
        if lines > 900:
            yield f, lines, f'{lines} lines; a file asks to be split at 600 and must be at 900'
        if f.path in [f'examples/{name}.c' for name in SHORT_EXAMPLES] and lines >= 120:
            yield f, lines, f'{lines} lines; an example for the driver side has fewer than 120'
    for name in SHORT_EXAMPLES:
        if f'examples/{name}.c' not in tree.files:
            yield None, 0, f'examples/{name}.c is one of the short ones, but is not there'


RULES = [rule_includes, rule_atomics, rule_layout, rule_heap, rule_output, rule_letters,
         rule_names]


def check(tree, rules):
    if not tree.under('src/ring/'):
        return ['src/ring: there is nothing to check']
    found = []
    for rule in rules:
        for f, line, what in rule(tree):
            found.append(f'{f.path if f else "?"}:{line}: {rule.__name__[5:]}: {what}')
    return found


# ---- Does each rule notice? ---------------------------------------------------

# (rule, file, what is replaced, by what). None: put at the end of the file.
BREACHES = [
    ('includes', 'src/base/error.c', None, '#include "mem/map.h"\n'),
    ('includes', 'src/ring/req.c', None, '#include <virtq/model.h>\n'),
    ('includes', 'src/ring/req.c', None, '#include "../engine/engine.h"\n'),
    ('includes', 'src/dev/blk.c', None, '#include "engine/engine.h"\n'),
    ('includes', 'src/engine/queue.c', None, '#  include "transport/vu_msg.h"\n'),
    ('includes', 'src/mem/map.c', None, '#include <virtq/virtq.h>\n'),
    ('includes', 'include/virtq/mem.h', None, '#include <virtq/device.h>\n'),
    ('includes', 'include/virtq/mem.h', None, '#include "base/shm.h"\n'),
    ('includes', 'include/virtq/spec/ring.h', None, '#include <string.h>\n'),
    ('includes', 'cli/serve.c', None, '#include "ring/layout.h"\n'),
    ('atomics', 'src/ring/driver.c', None,
     'static int f(int *p) { return __atomic_load_n(p, 0); }\n'),
    ('atomics', 'src/ring/split.h', None, 'static void f(void) { __sync_synchronize(); }\n'),
    ('atomics', 'src/dev/blk.c', None, 'static int f(int x) { return htole32(x); }\n'),
    ('atomics', 'src/transport/vu_msg.c', None, 'static int f(int x) { return le64toh(x); }\n'),
    ('atomics', 'src/engine/queue.c', None,
     'static int f(int x) { return __builtin_bswap32(x); }\n'),
    ('atomics', 'src/engine/queue.c', None, '#include <stdatomic.h>\n'),
    ('atomics', 'src/engine/uring.c', None,
     'static void f(void) { __asm__ __volatile__("mfence" ::: "memory"); }\n'),
    ('atomics', 'src/engine/engine.c', None,
     'static void f(void) { __asm__ __volatile__("" ::: "memory"); }\n'),
    ('layout', 'src/engine/queue.c', None,
     'static bool f(struct virtq_features f) { return f.word[0] >> VIRTIO_F_RING_PACKED & 1; }\n'),
    ('layout', 'src/dev/blk.c', None, 'static int is_packed;\n'),
    ('layout', 'src/transport/vu_vring.c', None, 'static struct split_ring *ring;\n'),
    ('layout', 'include/virtq/device.h', None, 'int virtq_device_is_packed(void);\n'),
    ('heap', 'src/ring/driver.c', None, 'static void f(void *p) { free(p); }\n'),
    ('heap', 'src/ring/chain.h', None, 'static void *f(void) { return malloc(1); }\n'),
    ('heap', 'src/ring/req.c', None, 'static void *f(void) { return mmap(0, 1, 0, 0, 0, 0); }\n'),
    ('heap', 'src/dev/blk.c', 'answer(struct blk_req *br, uint8_t status)\n{\n',
     'answer(struct blk_req *br, uint8_t status)\n{\n\tfree(NULL);\n'),
    ('heap', 'src/engine/request.c', 'void queue_finish(struct engine_slot *slot)\n{\n',
     'void queue_finish(struct engine_slot *slot)\n{\n\tfree(calloc(1, 1));\n'),
    ('output', 'src/ring/device.c', None, 'static void f(void) { printf("x"); }\n'),
    ('output', 'src/engine/engine.c', None, 'static void f(void) { exit(1); }\n'),
    ('output', 'src/transport/vu_msg.c', None, 'static void f(void) { abort(); }\n'),
    ('output', 'src/mem/map.c', None, 'static void f(int x) { assert(x); }\n'),
    ('output', 'src/dev/blk.c', None, 'static void f(void) { fputs("x", stderr); }\n'),
    ('output', 'src/ring/split.h', None,
     'static void f(const virtq_le16 *p) { VIRTQ_ASSERT(shm_load16(p) < 4); }\n'),
    ('names', 'src/dev/blk.h', None, 'typedef struct { int x; } thing;\n'),
    ('names', 'src/base/utils.h', None, '/* SPDX-License-Identifier: MIT */\n'),
    ('names', 'src/ring/req.c', None, '/* long */\n' * 900),
    ('names', 'examples/uring.c', None, '/* long */\n'),
]


def letter_breaches(tree):
    """Take each letter, each partner and each accessor away in turn."""
    for layout in ('split', 'packed'):
        path = f'src/ring/{layout}.h'
        text = tree.files[path].text
        for match in re.finditer(r'\[[A-D]\] (?:release|acquire|full)\b(?!\s+in\b)', text):
            before = text[:match.start()]
            if re.search(r'[Pp]airs\s+(?:\*\s*)?with\s+(?:\*\s*)?the\s+(?:\*\s*)?$', before):
                continue
            yield ('letters', path, match, match.group(0)[4:])
        for match in re.finditer(r'\b(\w+)\(\)\.', text):
            yield ('letters', path, match, 'nowhere().')
        for weak, strong in (('shm_store16', 'shm_publish16'), ('shm_load16', 'shm_observe16'),
                             ('(void)', 'shm_fence_kick'), ('(void)', 'shm_fence_call'),
                             ('shm_fence_full', 'shm_fence_call'),
                             ('shm_load_acquire16', 'shm_observe16')):
            for match in re.finditer(rf'\b{strong}(?=\()', text):
                yield ('letters', path, match, weak)


def self_test(root):
    tree = Tree(root)
    clean = check(tree, RULES)
    if clean:
        print('\n'.join(clean))
        print('not ok: the tree itself has breaches')
        return 1
    failures = 0
    cases = BREACHES + list(letter_breaches(tree))
    for number, (rule, path, old, new) in enumerate(cases, 1):
        before = tree.files.get(path)
        text = before.text if before else ''
        if old is None:
            planted = text + new
        elif isinstance(old, str):
            planted = text.replace(old, new)
        else:
            planted = text[:old.start()] + new + text[old.end():]
        tree.files[path] = Source(path, planted)
        found = check(tree, [r for r in RULES if r.__name__ == f'rule_{rule}'])
        good = planted != text and any(line.startswith(path) for line in found)
        if before:
            tree.files[path] = before
        else:
            del tree.files[path]
        where = new.strip().splitlines()[0][:60] if old is None or isinstance(old, str) else \
            f'line {text.count(chr(10), 0, old.start()) + 1}, {old.group(0)} to {new}'
        print(f'{"ok" if good else "not ok"} {number} - {rule}: {path}: {where}'
              f'{"" if planted != text else " (could not be planted)"}')
        failures += not good
    print(f'1..{len(cases)}')
    return 1 if failures else 0


def main(args):
    if len(args) == 2 and args[0] == '--self-test':
        return self_test(args[1])
    if len(args) != 1:
        print('usage: check-layers.py [--self-test] ROOT', file=sys.stderr)
        return 2
    tree = Tree(args[0])
    found = check(tree, RULES)
    for line in found:
        print(line)
    if not found:
        print(f'{len(RULES)} rules, {len(tree.files)} files: nothing to report')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
