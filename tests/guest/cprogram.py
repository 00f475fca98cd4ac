"""Random C programs without undefined behaviour: every right compiler and machine computes the same output."""
import random

HEAD = """\
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;
typedef int64_t i64;
struct node {
	struct node *next;
	u64 key;
	double weight;
	char name[24];
};
static u64 table[256];

static u64 mix(u64 x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	return x ^ x >> 29;
}
static int by_key(const void *a, const void *b)
{
	const u64 *x = a, *y = b;
	return *x < *y ? -1 : *x > *y;
}
static u64 bits(double d)
{
	u64 u;
	memcpy(&u, &d, sizeof u);
	return u;
}
"""
CASTS = ["(u64)(uint8_t)", "(u64)(i64)(int8_t)", "(u64)(uint16_t)", "(u64)(i64)(int16_t)", "(u64)(uint32_t)", "(u64)(i64)(int32_t)"]


class Writer:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.lines = HEAD.splitlines()
        self.names = []

    def expr(self, names, depth=3):
        r = self.rng
        if depth == 0 or r.random() < 0.15:
            return r.choice(names) if r.random() < 0.8 else f"{r.getrandbits(r.choice((4, 8, 31, 32, 63)))}ull"
        a, b = self.expr(names, depth - 1), self.expr(names, depth - 1)
        kind = r.randrange(12)
        if kind < 5:
            return f"({a} {r.choice('+-*^&|')} {b})"
        if kind == 5:
            return f"({a} {r.choice(('<<', '>>'))} ({b} & 63))"
        if kind == 6:
            return f"({a} {r.choice('/%')} ({b} | 1))"
        if kind == 7:
            # half the range, so that INT64_MIN / -1 cannot be
            return f"(u64)((i64)({a} >> 1) {r.choice('/%')} ((i64)({b} & 0xffff) | 1))"
        if kind == 8:
            return f"({a} {r.choice(('<', '>', '==', '<='))} {b} ? {self.expr(names, depth - 1)} : {a})"
        if kind == 9:
            return f"{r.choice(CASTS)}({a})"
        if kind == 10:
            return f"({a} << {r.randint(1, 63)} | {b} >> {r.randint(1, 63)})"
        return f"(u64)((unsigned __int128)({a}) * ({b}) >> 64)"

    def function(self, body):
        name = f"f{len(self.names)}"
        earlier = self.rng.choice(self.names) if self.names else "mix"
        self.names.append(name)
        head = [f"static __attribute__((noinline)) u64 {name}(u64 a, u64 b)", "{"]
        call = f"mix(a ^ b)" if earlier == "mix" or self.rng.random() < 0.5 else f"{earlier}(b >> 60, a)"
        self.lines += head + ["\t" + l for l in body(call)] + ["}"]

    def integers(self, call):
        v = ["a", "b", "c", "i"]
        out = ["u64 c = " + call + ";", f"for (u64 i = 0; i < {self.rng.randint(3, 20)}; i++) {{"]
        out += [f"\t{self.rng.choice('abc')} {self.rng.choice(('=', '+=', '^='))} {self.expr(v)};" for _ in range(self.rng.randint(4, 9))]
        return out + ["}", "return a ^ b ^ c;"]

    def arrays(self, call):
        t = self.rng.choice(("uint8_t", "int16_t", "uint32_t", "u64"))
        n = self.rng.choice((32, 64, 100))
        return [f"{t} x[{n}], y[{n}];", f"for (int i = 0; i < {n}; i++) {{",
                f"\tx[i] = ({t})({self.expr(['a', 'b', '(u64)i'])});", f"\ty[i] = ({t})({self.expr(['a', '(u64)i'], 2)});", "}",
                f"for (int i = 0; i < {n}; i++)", f"\tx[i] = ({t})(x[i] + y[i] * {self.rng.randint(2, 99)});",
                f"memmove(x + 3, x, sizeof x / 2);", "u64 s = " + call + ";",
                f"for (int i = 0; i < {n}; i++)", "\ts = s * 31 + (u64)x[i] + table[(s ^ (u64)y[i]) & 255];", "return s;"]

    def floats(self, call):
        t = self.rng.choice(("float", "double", "double"))
        c = [self.rng.uniform(-3, 3) for _ in range(4)]
        return [f"{t} x = ({t})(a & 0xffff) / 64, y = ({t})(b & 0xfff) + 1, s = 0;",
                f"for (int i = 1; i < {self.rng.randint(10, 60)}; i++) {{",
                f"\tx = x * ({t}){c[0]:.6f} / y + ({t})i;", f"\ty = y > ({t})1e6 ? y / ({t}){abs(c[1]) + 2:.6f} : y + x * x * ({t}){c[2]:.6f};",
                f"\tif (!(x > ({t})-1e9 && x < ({t})1e9))", f"\t\tx = ({t})(i64)(y < 1e6 && y > -1e6 ? y : {c[3]:.3f});",
                "\tif (y < 1 && y > -1)", f"\t\ty = ({t})2.5;", "\ts += x - (x < y ? x : y);", "}",
                f"return bits((double)s) ^ {call};"]

    def strings(self, call):
        return ["char text[200], copy[200];",
                'snprintf(text, sizeof text, "%llx-%08u-%s-%.6f", (unsigned long long)a, (unsigned)b, '
                f'"{"".join(self.rng.choices("abcdefgh", k=self.rng.randint(3, 30)))}", (double)(b & 0xfffff) / 7);',
                "size_t n = strlen(text);", "for (size_t i = 0; i <= n; i++)",
                f"\tcopy[i] = i < n && text[i] >= 'a' ? (char)(text[i] - 'a' + 'A') : text[i];",
                "char *dash = strchr(copy, '-');", "u64 s = " + call + " + (dash ? (u64)(dash - copy) : 0);",
                f"if (strcmp(text, copy) > 0 && memcmp(text, copy, {self.rng.randint(1, 8)}) != 0)", "\ts += strtoull(text, NULL, 16);",
                "for (size_t i = 0; i < n; i++)", "\ts = s * 131 + (u64)(unsigned char)copy[i];", "return s;"]

    def lists(self, call):
        n = self.rng.randint(5, 40)
        return ["struct node *head = NULL;", f"u64 s = {call}, keys[{n}];", f"for (int i = 0; i < {n}; i++) {{",
                "\tstruct node *e = calloc(1, sizeof *e);", "\tif (!e)", "\t\tabort();", f"\te->key = {self.expr(['a', 'b', 's', '(u64)i'], 2)};",
                "\te->weight = (double)(e->key & 1023) / 8;", '\tsnprintf(e->name, sizeof e->name, "n%d", i);', "\te->next = head;",
                "\thead = e;", "\tkeys[i] = e->key;", "}", f"qsort(keys, {n}, sizeof keys[0], by_key);", "while (head) {",
                "\tstruct node *e = head;", "\thead = e->next;", "\ts = mix(s + e->key) ^ bits(e->weight) ^ (u64)e->name[1];", "\tfree(e);", "}",
                f"for (int i = 0; i < {n}; i++)", "\ts = s * 17 + keys[i];", "return s;"]

    def switches(self, call):
        out = ["u64 s = " + call + ";", f"for (int i = 0; i < {self.rng.randint(20, 90)}; i++) {{", "\tswitch ((s >> 7 ^ a) & 15) {"]
        for k in range(self.rng.randint(8, 15)):
            out += [f"\tcase {k}:", f"\t\ts {self.rng.choice(('+=', '^=', '*=', '-='))} {self.expr(['a', 'b', 's', '(u64)i'], 2)};"]
            if self.rng.random() < 0.8:
                out.append("\t\tbreak;")
        return out + ["\tdefault:", "\t\ts = mix(s + (u64)i);", "\t}", "}", "return s;"]

    def recursion(self, call):
        name = self.names[-1]
        return [f"if (a > {self.rng.randint(6, 12)})", f"\ta %= {self.rng.randint(5, 7)};", "if (a == 0)", f"\treturn mix(b);",
                f"return {name}(a - 1, b * 3 + 1) ^ {name}(a / 2, {self.expr(['a', 'b'], 2)}) << 1;"]


def program(seed, lines):
    """C source of at least `lines` lines."""
    w = Writer(seed)
    kinds = [w.integers, w.arrays, w.floats, w.strings, w.lists, w.switches, w.recursion]
    while len(w.lines) < lines or len(w.names) < len(kinds):
        w.function(kinds[len(w.names) % len(kinds)])
    out = w.lines + ["int main(void)", "{", "\tstatic u64 (*const all[])(u64, u64) = {"]
    out += [f"\t\t{n}," for n in w.names]
    out += ["\t};", "\tu64 sum = 1;", "\tfor (int i = 0; i < 256; i++)", "\t\ttable[i] = mix((u64)i + 1);",
            "\tfor (unsigned i = 0; i < sizeof all / sizeof all[0]; i++)", "\t\tfor (u64 k = 0; k < 20; k++) {",
            "\t\t\tu64 r = all[i](mix(k) >> (k & 31), sum);", "\t\t\tsum = mix(sum + r);", "\t\t\tif (k % 10 == 9)",
            '\t\t\t\tprintf("f%u %016llx\\n", i, (unsigned long long)r);', "\t\t}",
            '\tprintf("sum %016llx\\n", (unsigned long long)sum);', "\treturn 0;", "}"]
    return "\n".join(out) + "\n"
