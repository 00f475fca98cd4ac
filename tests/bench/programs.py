"""Real programs, of Debian's packages as scripts/toolbox.py unpacks them, and what they work on."""
import os

from initramfs import read

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")

# name: (group, command); files lie in /tmp/bench. A program's output is compared, so it must not differ by chance.
PROGRAMS = {
    "luajit": ("codegen", "/usr/bin/luajit /tmp/bench/kernels.lua"),
    "gcc": ("programs", "/usr/bin/gcc -O0 -c -o /proc/self/fd/1 /tmp/bench/source.c"),
    "python3": ("programs", "/usr/bin/python3 /tmp/bench/mixed.py"),
    "sqlite3": ("programs", "/usr/bin/sqlite3 -init /tmp/bench/queries.sql :memory: .quit"),
    "xz": ("programs", "/usr/bin/xz -4 -T1 -c /tmp/bench/log.txt"),
    "openssl": ("programs", "/bin/sh /tmp/bench/crypto.sh"),
    "shell": ("programs", "/bin/sh /tmp/bench/forks.sh"),
    "text": ("programs", "/bin/sh /tmp/bench/text.sh"),
}


def numbers(x=2463534242):
    """xorshift32"""
    while True:
        x ^= x << 13 & 0xffffffff
        x ^= x >> 17
        x ^= x << 5 & 0xffffffff
        yield x


def log_text(lines):
    random = numbers()
    out = []
    for _ in range(lines):
        a, b, c = next(random), next(random), next(random)
        out.append(f"10.0.{a % 4}.{a // 7 % 50} GET /{'abcde'[b % 5] * (b // 9 % 4 + 1)}/item/{b % 1009} {c % 5000}\n")
    return "".join(out)


def c_source(functions):
    """Nine lines a function: loops, branches, a switch, structures, pointers, calls."""
    random = numbers(88675123)
    out = ["#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n",
           "struct item { int key; double weight; struct item *next; char name[16]; };\n"]
    for i in range(functions):
        a, b, c = (next(random) % 1000 + 1 for _ in range(3))
        callee = f"f{next(random) % i}(x - {c}, head)" if i else "x"
        out.append(f"""static long f{i}(long x, struct item *head)
{{
	long sum = {a};
	for (struct item *p = head; p; p = p->next) {{
		if (p->key % {b} == {i % 7} || (p->weight > {c}.5 && strcmp(p->name, "n{i}")))
			sum += p->key * {a} + (long)(p->weight / {b});
		switch (p->key & 7) {{
		case {a % 8}: sum ^= x << {b % 13}; break;
		case {(a + 1) % 8}: sum -= {c}; p->weight *= 1.{b}; break;
		case {(a + 3) % 8}: snprintf(p->name, sizeof(p->name), "n%ld", sum); break;
		default: sum += p->name[{c % 16}];
		}}
	}}
	return sum > {c} ? sum % {b} : {callee};
}}
""")
    out.append("long all(long x, struct item *head)\n{\n\tlong sum = 0;\n")
    out += [f"\tsum += f{i}(x, head);\n" for i in range(functions)]
    out.append("\treturn sum;\n}\n")
    return "".join(out)


def inputs():
    """{path: content} of all files that the programs read."""
    files = {"tmp/bench/" + name: read(os.path.join(HERE, name)) for name in sorted(os.listdir(HERE))}
    files["tmp/bench/log.txt"] = log_text(12000).encode()
    files["tmp/bench/source.c"] = c_source(150).encode()
    files["tmp/bench/prime.hex"] = ("7" + "F" * 319).encode()  # 2^1279 - 1
    return files
