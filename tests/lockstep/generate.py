#!/usr/bin/env python3
"""Make a random bare-metal program: generate.py [--pieces N] SEED OUTPUT.

The output is a multiboot image for `ectype run --kernel`. It runs some
thousand random pieces of code on the ground that rt.S prepares: arithmetic
with operands in an arena of a megabyte, strings, calls and indirect jumps,
loops, code that changes itself, changed page tables, exceptions, stretches in
user mode, vector and x87 arithmetic, all under a periodic timer. The same seed
gives the same program.
"""
import argparse
import os
import random
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PAYLOAD_LD = os.path.join(os.path.dirname(HERE), "payload/payload.ld")
ARENA, ARENA_LOW, ALIAS, FN, CODE_ALIAS = 0x40001000, 0x40000000, 0x40200000, 0x40400000, 0x40600000
PAGES = 256  # of the arena that accesses reach
PIECES = 800  # a program has so many beside its functions
LEAVES, ANY_MODE = 12, 8  # leaf functions; the first ones run in user mode too
# rsp, r13 (addresses), r14 (the arena), r15 (loop counter) have their tasks
NAMES = {8: "rax rcx rdx rbx rbp rsi rdi r8 r9 r10 r11 r12", 4: "eax ecx edx ebx ebp esi edi r8d r9d r10d r11d r12d",
         2: "ax cx dx bx bp si di r8w r9w r10w r11w r12w", 1: "al cl dl bl bpl sil dil r8b r9b r10b r11b r12b"}
NAMES = {size: names.split() for size, names in NAMES.items()}
PTR = {1: "byte", 2: "word", 4: "dword", 8: "qword", 10: "tbyte", 16: "xmmword", 32: "ymmword"}
CC = "o no b ae e ne be a s ns p np l ge le g".split()


class Program:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.lines = []
        self.labels = 0
        self.kernel = True
        self.pages_in_use = False  # the stack lies in the arena
        self.depth = 0

    # ---- parts ----

    def put(self, *lines):
        self.lines += lines

    def label(self):
        self.labels += 1
        return f".L{self.labels}"

    def reg(self, size=8, avoid=()):
        return NAMES[size][self.r.choice([i for i in range(12) if NAMES[8][i] not in avoid])]

    def size(self):
        return self.r.choice([1, 2, 4, 4, 4, 8, 8, 8])

    def imm(self, size):
        bits = min(size * 8, 32)
        v = self.r.choice([self.r.getrandbits(bits), self.r.randrange(-128, 128), 1 << self.r.randrange(bits), -1, 0, 1])
        v &= (1 << bits) - 1
        return v - (1 << bits) if v >> (bits - 1) else v

    def offset(self, size, align):
        """An offset in the arena; now and then just where a page ends."""
        page = self.r.randrange(PAGES)
        at = page * 4096 + self.r.randrange(4096)
        if self.r.random() < 0.1:
            at = page * 4096 + 4096 - self.r.randrange(1, size + 1)
        return at & -align

    def mem(self, size, align=1, avoid=(), ptr=True):
        """Code that sets up an address in the arena, if it needs any, and the operand."""
        off = self.offset(size, align)
        kind = self.r.randrange(10)
        where = self.r.choice([ARENA, ARENA, ARENA, ALIAS + 4096])
        if kind == 0:
            op = f"[r14 + {off}]"
        elif kind == 1:
            op = f"[rip + arena + {where - ARENA + off}]"
        elif kind == 2:
            op = f"ds:[{where + off}]"
        elif kind == 3 and align == 1:
            op = f"{self.r.choice(['fs', 'gs'])}:[{self.r.randrange(-60000, 600000)}]"
        elif kind == 4:
            op = f"[r13 + {self.r.choice([0, 16, -16, 112, 4096, -4096]) & -align}]"
            self.put(f"mov r13d, {where + off}")
        elif kind == 5:
            self.put(f"mov r13d, {where + off}")
            op = "[r13d]"
        elif kind == 6:
            base = self.reg(avoid=avoid)
            self.put(f"mov {base}, {where + off - 8 * align}")
            op = f"[{base} + {8 * align}]"
        else:
            # a random index, cut to the arena
            scale = self.r.choice([1, 2, 4, 8])
            mask = (0xFFFFF // scale) & -align
            self.put(f"mov r13, {self.reg()}", f"and r13d, {mask}")
            op = f"[r14 + r13 * {scale}" + (f" + {self.r.randrange(-2048, 2048) & -align}]" if self.r.random() < 0.7 else "]")
        return (f"{PTR[size]} ptr " if ptr else "") + op

    def faults(self, *lines):
        """The last of `lines` may fault: then it is skipped."""
        at, after = self.label(), self.label()
        self.put(*lines[:-1], f"{at}: {lines[-1]}", f"{after}:", ".pushsection .data.extable", f".quad {at}, {after}",
                 ".popsection")

    # ---- pieces ----

    def alu(self):
        size, op = self.size(), self.r.choice("add or adc sbb and sub xor cmp test add sub".split())
        kind = self.r.randrange(5)
        if kind == 0:
            self.put(f"{op} {self.reg(size)}, {self.reg(size)}")
        elif kind == 1:
            self.put(f"{op} {self.reg(size)}, {self.imm(size)}")
        elif kind == 2 and op != "test":
            m = self.mem(size)
            self.put(f"{op} {self.reg(size)}, {m}")
        else:
            m = self.mem(size)
            lock = "lock " if op not in ("cmp", "test") and self.r.random() < 0.15 else ""
            self.put(f"{lock}{op} {m}, {self.imm(size) if kind == 3 else self.reg(size)}")

    def unary(self):
        size, op = self.size(), self.r.choice("inc dec neg not".split())
        self.put(f"{op} {self.mem(size) if self.r.random() < 0.5 else self.reg(size)}")

    def move(self):
        size, kind = self.size(), self.r.randrange(12)
        if kind == 0:
            self.put(f"mov {self.reg(size)}, {self.mem(size)}")
        elif kind == 1:
            self.put(f"mov {self.mem(size)}, {self.reg(size)}")
        elif kind == 2:
            self.put(f"mov {self.mem(size)}, {self.imm(size)}")
        elif kind == 3:
            self.put(f"movabs {self.reg()}, {self.r.getrandbits(64)}")
        elif kind == 4:
            small = self.r.choice([1, 2])
            m = self.mem(small) if self.r.random() < 0.6 else self.reg(small)
            self.put(f"{self.r.choice(['movzx', 'movsx'])} {self.reg(self.r.choice([4, 8]))}, {m}")
        elif kind == 5:
            self.put(f"movsxd {self.reg()}, {self.mem(4)}")
        elif kind == 6:
            self.put(f"xchg {self.mem(size) if self.r.random() < 0.5 else self.reg(size)}, {self.reg(size)}")
        elif kind == 7:
            lock = self.r.choice(["", "lock "])
            self.put(f"{lock}{self.r.choice(['xadd', 'cmpxchg'])} {self.mem(size)}, {self.reg(size)}")
        elif kind == 8:
            self.put(f"lea {self.reg(self.r.choice([2, 4, 8]))}, [{self.reg()} + {self.reg()} * {self.r.choice([1, 2, 4, 8])}"
                     f" + {self.imm(4)}]")
        elif kind == 9:
            self.put(f"bswap {self.reg(self.r.choice([4, 8]))}")
        elif kind == 10:
            wide = self.r.choice([2, 4, 8])
            self.put(f"movbe {self.reg(wide)}, {self.mem(wide)}" if self.r.random() < 0.5 else
                     f"movbe {self.mem(wide)}, {self.reg(wide)}")
        else:
            a, b = self.r.choice(["ah", "bh", "ch", "dh"]), self.r.choice(["al", "cl", "dl", "bl"])
            self.put(f"{self.r.choice(['mov', 'add', 'xor', 'cmp', 'xchg'])} {a}, {b}")

    def shift(self):
        size, kind = self.size(), self.r.randrange(8)
        target = self.mem(size) if self.r.random() < 0.3 else self.reg(size)
        if kind < 6:
            op = self.r.choice("shl shr sar rol ror rcl rcr".split())
            # OF after ROL and ROR of a register by an immediate is undefined, and differs by processor from the form
            # with CL, which is how interp does both.
            count = "1" if op in ("rol", "ror") and "[" not in target else str(self.r.randrange(size * 8))
            self.put(f"{op} {target}, {self.r.choice(['cl', '1', count])}")
        elif kind == 6:
            wide = self.r.choice([4, 8])
            self.put(f"{self.r.choice(['shld', 'shrd'])} {self.reg(wide)}, {self.reg(wide)}, "
                     f"{self.r.choice(['cl', str(self.r.randrange(31))])}")
        else:
            wide = self.r.choice([4, 8])
            self.put(f"{self.r.choice(['sarx', 'shlx', 'shrx'])} {self.reg(wide)}, {self.reg(wide)}, {self.reg(wide)}")

    def multiply(self):
        size, kind = self.size(), self.r.randrange(6)
        if kind == 0:
            self.put(f"{self.r.choice(['mul', 'imul'])} {self.reg(size)}")
        elif kind == 1:
            wide = self.r.choice([2, 4, 8])
            self.put(f"imul {self.reg(wide)}, {self.mem(wide)}")
        elif kind == 2:
            wide = self.r.choice([2, 4, 8])
            self.put(f"imul {self.reg(wide)}, {self.reg(wide)}, {self.imm(wide)}")
        elif kind == 3:
            wide = self.r.choice([4, 8])
            self.put(f"mulx {self.reg(wide)}, {self.reg(wide)}, {self.reg(wide)}")
        else:
            divisor = self.reg(size, ("rax", "rdx", "rcx"))
            self.put("movzx eax, al" if size == 1 else "xor edx, edx")
            if self.r.random() < 0.7:
                self.put(f"or {divisor}, {1 << self.r.randrange(size * 8 - 1) if size < 8 else 1}")
            self.faults(f"{self.r.choice(['div', 'idiv'])} {divisor}")

    def bits(self):
        wide, kind = self.r.choice([2, 4, 8]), self.r.randrange(7)
        op = self.r.choice("bt bts btr btc".split())
        if kind == 0:
            self.put(f"{op} {self.reg(wide)}, {self.reg(wide)}")
        elif kind == 1:
            self.put(f"{op} {self.mem(wide)}, {self.r.randrange(wide * 8)}")
        elif kind == 2:
            index = self.r.randrange(12)
            self.put(f"and {NAMES[4][index]}, 0xfff", f"{op} {PTR[wide]} ptr [r14 + {self.offset(8, 1)}], {NAMES[wide][index]}")
        elif kind == 3:
            source = self.r.randrange(12)
            self.put(f"or {NAMES[4][source]}, {1 << self.r.randrange(16)}",
                     f"{self.r.choice(['bsf', 'bsr'])} {self.reg(wide)}, {NAMES[wide][source]}")
        elif kind == 4:
            self.put(f"{self.r.choice(['tzcnt', 'lzcnt', 'popcnt'])} {self.reg(wide)}, {self.mem(wide)}")
        elif kind == 5:
            w = self.r.choice([4, 8])
            self.put(f"{self.r.choice(['andn', 'pdep', 'pext'])} {self.reg(w)}, {self.reg(w)}, {self.mem(w)}")
        else:
            w = self.r.choice([4, 8])
            self.put(f"{self.r.choice(['blsi', 'blsr', 'blsmsk'])} {self.reg(w)}, {self.reg(w)}")

    def flags(self):
        kind = self.r.randrange(8)
        if kind == 0:
            self.put(f"set{self.r.choice(CC)} {self.mem(1) if self.r.random() < 0.4 else self.reg(1)}")
        elif kind == 1:
            wide = self.r.choice([2, 4, 8])
            m = self.mem(wide) if self.r.random() < 0.4 else self.reg(wide)
            self.put(f"cmov{self.r.choice(CC)} {self.reg(wide)}, {m}")
        elif kind == 2:
            self.put("pushfq", f"pop {self.reg()}")
        elif kind == 3:
            # status flags and DF of a random register; what the system uses stays
            r = self.reg()
            self.put(f"and {r}, 0x8d5", "pushfq", f"and dword ptr [rsp], 0xfffff72a", f"or [rsp], {r}", "popfq")
        elif kind == 4:
            self.put(self.r.choice(["lahf", "sahf", "stc", "clc", "cmc"]))
        else:
            size = self.size()
            self.put(f"add {self.reg(size)}, {self.reg(size)}")
            for _ in range(self.r.randrange(1, 4)):
                m = self.mem(size) if self.r.random() < 0.3 else self.reg(size)
                self.put(f"{self.r.choice(['adc', 'sbb'])} {m}, {self.reg(size)}")

    def branch(self):
        end = self.label()
        kind = self.r.randrange(8)
        if kind == 0:
            near, far = self.label(), self.label()
            self.put(f"jrcxz {near}", f"jmp {far}", f"{near}: jmp {end}", f"{far}:")
        elif kind == 1:
            self.put(f"jmp {end}", ".byte 0x0f, 0xff, 0x06")  # never run
        else:
            self.put(f"{self.r.choice(['cmp', 'test', 'sub'])} {self.reg(4)}, {self.reg(4)}", f"j{self.r.choice(CC)} {end}")
        self.some(1, 4)
        self.put(f"{end}:")

    def loop(self):
        if self.depth:
            return self.alu()
        start, count = self.label(), self.r.choice([3, 10, 40, 150])
        self.depth += 1
        self.put(f"mov r15d, {count}", f"{start}:")
        self.some(2, 9)
        self.put(*self.r.choice([("dec r15", f"jnz {start}"), ("sub r15d, 1", f"ja {start}"),
                                 ("lea r15, [r15 - 1]", "test r15, r15", f"jne {start}")]))
        self.depth -= 1

    def string(self):
        op, size = self.r.choice("movs stos lods scas cmps".split()), self.r.choice("bwdq")
        count = self.r.choice([0, 1, 2, 7, 30, 30, 300, 1500])
        down = self.r.random() < 0.25
        rep = {"scas": ["repe ", "repne "], "cmps": ["repe ", "repne "]}.get(op, ["rep "])
        self.put(f"mov esi, {ARENA + 0x8000 + self.r.randrange(0xE0000)}", f"mov edi, {ARENA + 0x8000 + self.r.randrange(0xE0000)}")
        if self.r.random() < 0.3:  # overlapping
            self.put(f"lea rdi, [rsi + {self.r.randrange(-20, 20)}]")
        if self.r.random() < 0.8:
            self.put(f"mov ecx, {count}", "std" if down else "cld", self.r.choice(rep) + op + size)
        else:
            self.put("std" if down else "cld", op + size, op + size)
        self.put("cld")

    def stack(self):
        kind = self.r.randrange(8)
        if kind == 0:
            self.put(f"push {self.reg()}")
            self.put(f"push {self.imm(4)}")
            self.put(f"pop {self.reg()}")
            self.put(f"pop {self.mem(8)}")
        elif kind == 1:
            self.put(f"push {self.mem(8)}")
            self.put(f"push {self.reg(2)}")
            self.put(f"pop {self.reg(2)}")
            self.put(f"add qword ptr [rsp], {self.imm(4)}")
            self.put(f"pop {self.reg()}")
        elif kind == 2:
            self.put("push rbp", f"enter {self.r.randrange(0, 64)}, {self.r.choice([0, 0, 1])}", f"mov [rsp], {self.reg(1)}", "leave",
                     "pop rbp")
        elif kind == 3:
            self.put("push r15", f"call {self.leaf()}" if self.may_call() else "nop", "pop r15")
        elif kind == 4:  # a return nobody called
            back = self.label()
            self.put(f"lea r13, [rip + {back}]", "push r13", "ret", "int3", f"{back}:")
        elif kind == 5:  # a call nobody returns from, one that drops arguments
            fn, out, next_one = self.label(), self.label(), self.label()
            drop = self.r.choice([0, 8, 16])
            self.put(*["push " + self.reg()] * (drop // 8), f"call {fn}", f"jmp {out}", f"{fn}: add {self.reg()}, [rsp]",
                     f"ret {drop}" if drop else "ret", f"{out}:", f"call {next_one}", f"{next_one}: pop {self.reg()}")
        elif self.kernel and not self.pages_in_use:  # another stack, in the arena
            self.pages_in_use = True
            # behind what data accesses reach; a function's own place, since it may be called on one
            top = (0x190000 if self.in_leaf else 0x140000) + self.offset(8, 1) // 4
            self.put("mov r13, rsp", f"lea rsp, [r14 + {top}]", "push r13")
            self.some(1, 5)
            self.put("pop rsp")
            self.pages_in_use = False

    def may_call(self):
        return not self.in_leaf and not self.depth

    def leaf(self):
        return f"leaf{self.r.randrange(LEAVES if self.kernel else ANY_MODE)}"

    def call(self):
        if not self.may_call():
            return self.alu()
        if self.r.random() < 0.5:
            self.put(f"call {self.leaf()}")
        else:
            r = self.reg(4)
            self.put(f"and {r}, {ANY_MODE - 1}", f"mov r13d, {r}", self.r.choice(["call [leaves + r13 * 8]", "mov r13, [leaves + r13 * 8]\ncall r13"]))

    def switch(self):
        table, out = self.label(), self.label()
        arms = [self.label() for _ in range(4)]
        self.put(f"mov r13d, {self.reg(4)}", "and r13d, 3",
                 *self.r.choice([(f"jmp [{table} + r13 * 8]",), (f"mov r13, [{table} + r13 * 8]", "jmp r13")]))
        for arm in arms:
            self.put(f"{arm}:")
            self.some(1, 3)
            self.put(f"jmp {out}")
        self.put(".pushsection .data", ".align 8", f"{table}: .quad " + ", ".join(arms), ".popsection", f"{out}:")

    def self_modify(self):
        """Store into code that follows, soon or at once, in its own page or under its other address."""
        target, alias = self.label(), self.r.choice(["", "", f" + {CODE_ALIAS}"])
        kind = self.r.randrange(5)
        between = self.r.choice([0, 0, 1, 3])
        if kind < 2:  # an immediate
            self.put(f"mov dword ptr [{target} - 4{alias}], {self.imm(4)}")
            self.some(between, between)
            self.put(f"{self.r.choice(['mov', 'add', 'xor', 'cmp'])} {self.reg(4)}, 0x12345678", f"{target}:")
        elif kind == 2:  # an operation
            self.put(f"mov byte ptr [{target}{alias}], {self.r.choice([0x01, 0x09, 0x11, 0x21, 0x29, 0x31, 0x39])}")
            self.some(between, between)
            self.put(f"{target}: add eax, {self.r.choice(['ebx', 'ecx', 'edx', 'esi'])}")
        elif kind == 3:  # data among code
            after = self.label()
            self.put(f"inc dword ptr [{target}{alias}]", f"mov {self.reg(4)}, [{target}]", f"jmp {after}",
                     f"{target}: .long {self.r.getrandbits(32)}", f"{after}:")
        else:  # a function copied to the arena, run, changed and run again
            at = ARENA + self.r.randrange(PAGES) * 4096 + self.r.choice([0, 100, 4088, 4094])
            self.put("lea rsi, [rip + copied]", f"mov edi, {at}", "mov ecx, copied_len", "cld", "rep movsb",
                     f"mov r13d, {at}", "call r13", f"mov dword ptr ds:[{at + 2}], {self.imm(4)}", f"mov r13d, {at}", "call r13")

    def exception(self):
        kind = self.r.randrange(9)
        if kind == 0:
            self.faults("ud2")
        elif kind == 1:
            self.put("int3")
        elif kind == 2:
            self.put("int 0x80")
        elif kind == 3:
            self.faults("mov r13, 0x8000000000000000", f"{self.r.choice(['mov', 'add'])} {self.reg()}, [r13]")
        elif kind == 4:
            self.faults("movabs r13, 0x7f0000000000", f"mov [r13 + {self.r.randrange(100)}], {self.reg(4)}")
        elif kind == 5:
            self.faults("xor edx, edx", "xor r13d, r13d", "div r13")
        elif kind == 6:
            self.faults("mov ax, 0x1234", "mov fs, ax")
        elif kind == 7:
            x = self.r.randrange(16)
            self.faults(f"mov r13d, {ARENA + 1 + 16 * self.r.randrange(1000)}", f"movaps xmm{x}, [r13]")
        else:  # single steps
            self.put("pushfq", "or dword ptr [rsp], 0x100", "popfq")
            for _ in range(self.r.randrange(1, 4)):
                self.r.choice([self.alu, self.move, self.shift])()
            self.put("pushfq", "and dword ptr [rsp], 0xfffffeff", "popfq")

    def paging(self):
        if not self.kernel:
            return self.exception()
        i, j = self.r.randrange(PAGES), self.r.randrange(PAGES)
        table, base = self.r.choice([("arena_pt", ARENA_LOW), ("alias_pt", ALIAS), ("other_pt", ARENA_LOW)])
        kind = self.r.randrange(7)
        if kind == 6:
            self.put("call switch_space")
            return
        self.put("mov byte ptr [tables_changed], 1")
        if kind == 0:
            self.put(f"and qword ptr [{table} + {8 * i}], {~self.r.choice([1, 2, 4, 6])}")
        elif kind == 1:  # accessed and dirty bits, which the next accesses set again
            self.put(f"and qword ptr [{table} + {8 * i}], {~self.r.choice([0x20, 0x40, 0x60])}")
        elif kind == 2:  # frames change places
            self.put(f"mov r13, [{table} + {8 * i}]", f"xchg r13, [{table} + {8 * j}]", f"mov [{table} + {8 * i}], r13",
                     f"invlpg [{base + 4096 * j}]")
        elif kind == 3:
            self.put(f"bts qword ptr [{table} + {8 * i}], 63")
        elif kind == 4:  # a function page gets another function
            page, frame = self.r.randrange(8), self.r.randrange(8)
            self.put(f"mov r13d, offset fn_frames + {4096 * frame + 7}", f"mov [fn_pt + {8 * page}], r13",
                     f"invlpg [{FN + 4096 * page}]", f"mov r13d, {FN + 4096 * page}", "call r13")
            return
        else:
            page = self.r.randrange(8)
            self.put(f"mov dword ptr [fn_frames + {4096 * page + 2}], {self.imm(4)}", f"mov r13d, {FN + 4096 * page}", "call r13")
            return
        if self.r.random() < 0.6:
            self.put(f"invlpg [{base + 4096 * i}]")
        else:
            self.put("mov r13, cr3", "mov cr3, r13")

    def system(self):
        if not self.kernel and self.in_leaf:
            return self.alu()
        if not self.kernel:
            self.faults(self.r.choice(["hlt", "cli", "in al, 0x40", "out 0x80, al", "mov r13, cr0", "wbinvd", "rdmsr", "swapgs"]))
            return
        kind = self.r.randrange(8)
        if kind == 0:
            self.put("sti", "hlt")
        elif kind == 1:
            self.put("cli")
            self.some(1, 4)
            self.put("sti", "nop")
        elif kind == 2:
            self.put("in al, 0x40", "out 0x80, al")
        elif kind == 3:
            self.put("swapgs", f"mov {self.reg()}, gs:[{self.r.randrange(4096)}]", "swapgs")
        elif kind == 4:
            self.put("mov ecx, 0xc0000100", "rdmsr", f"add eax, {self.r.randrange(-8, 9)}", "wrmsr")
        elif kind == 5:
            self.put(f"mov {self.reg()}, cr2")
        elif kind == 6:
            self.put("mov ax, 0x10", f"mov {self.r.choice(['ds', 'es', 'ss'])}, ax", "nop")
        else:
            self.faults("mov ecx, 0x12345", self.r.choice(["rdmsr", "wrmsr"]))

    def time(self):
        kind = self.r.randrange(4)
        if kind == 0:
            self.put("rdtsc", f"add {self.reg()}, rax")
        elif kind == 1:
            self.put("mov r13d, 0xfee00390", f"mov {self.reg(4)}, [r13]")
        elif kind == 2:
            self.put(f"mov eax, {self.r.choice([0, 1, 7, 0xD])}", "xor ecx, ecx", "cpuid")
        else:
            self.put("rdtscp", "xor r12, rax")

    def user(self):
        if not self.kernel or self.pages_in_use or self.in_leaf or self.depth:
            return self.alu()
        inside, after = self.label(), self.label()
        if self.r.random() < 0.5:
            self.put("mov r13, rsp", "push 0x23", "push r13", "pushfq", "push 0x2b", f"push offset {inside}", "iretq")
        else:
            self.put(f"mov ecx, offset {inside}", "mov r11d, 0x202", "sysretq")
        self.put(f"{inside}:")
        self.kernel = False
        self.some(3, 25)
        self.kernel = True
        self.put("syscall", f"{after}:", "swapgs")

    def vector(self):
        a, b, c = (self.r.randrange(16) for _ in range(3))
        kind = self.r.randrange(12)
        arith = self.r.choice("add sub mul min max div".split()) + self.r.choice(["ps", "pd"])
        logic = self.r.choice("pxor pand por paddb paddd paddq psubw pmulld pshufb pcmpeqd pmaxsd pminub punpckldq".split())
        if kind == 0:
            self.put(f"{arith} xmm{a}, {self.mem(16, 16) if self.r.random() < 0.5 else f'xmm{b}'}")
        elif kind == 1:
            self.put(f"v{arith} ymm{a}, ymm{b}, {self.mem(32) if self.r.random() < 0.5 else f'ymm{c}'}")
        elif kind == 2:
            self.put(f"{logic} xmm{a}, {self.mem(16, 16)}")
        elif kind == 3:
            self.put(f"v{logic} ymm{a}, ymm{b}, {self.mem(32)}")
        elif kind == 4:
            self.put(f"{self.r.choice(['movups', 'movdqu'])} xmm{a}, {self.mem(16)}")
        elif kind == 5:
            self.put(f"{self.r.choice(['vmovups', 'vmovdqu'])} {self.mem(32)}, ymm{a}")
        elif kind == 6:
            self.put(f"{self.r.choice(['cvtsi2sd', 'cvtsi2ss'])} xmm{a}, {self.mem(8)}")
            self.put(f"cvttsd2si {self.reg()}, xmm{a}")
        elif kind == 7:
            self.put(f"movq {self.reg()}, xmm{a}")
            self.put(f"movq xmm{b}, {self.reg()}")
            self.put(f"pinsrd xmm{c}, {self.mem(4)}, {self.r.randrange(4)}")
        elif kind == 8:
            self.put(f"pmovmskb {self.reg(4)}, xmm{a}")
            self.put(f"comisd xmm{a}, {self.mem(8)}")
            self.put(f"set{self.r.choice(CC)} {self.reg(1)}")
        elif kind == 9:
            self.put(f"vfmadd{self.r.choice(['132', '213', '231'])}pd ymm{a}, ymm{b}, {self.mem(32)}")
        elif kind == 10:
            self.put(self.r.choice([f"vzeroupper", f"vpbroadcastd ymm{a}, xmm{b}", f"vextracti128 {self.mem(16)}, ymm{a}, 1",
                                    f"vperm2i128 ymm{a}, ymm{b}, ymm{c}, {self.r.randrange(256)}", f"psllq xmm{a}, {self.r.randrange(70)}"]))
        else:
            self.put(f"stmxcsr {self.mem(4)}")
            self.put(f"crc32 {self.reg(4)}, {self.mem(4)}")

    def x87(self):
        kind = self.r.randrange(7)
        if kind == 0:
            self.put(f"fld {self.mem(self.r.choice([4, 8, 10]))}")
            self.put(f"fstp {self.mem(10)}")
        elif kind == 1:
            op = self.r.choice("fadd fsub fmul fdiv fsubr fdivr".split())
            self.put(f"fild {self.mem(self.r.choice([2, 4, 8]))}")
            self.put(f"{op} {self.mem(self.r.choice([4, 8]))}")
            self.put(f"fstp {self.mem(8)}")
        elif kind == 2:
            self.put("fld1")
            self.put("fldpi")
            self.put(self.r.choice(["faddp", "fmulp", "fdivp", "fsubp"]))
            self.put(self.r.choice(["fsqrt", "fchs", "frndint", "fabs"]))
            self.put(f"fistp {self.mem(4)}")
        elif kind == 3:
            self.put("fldz", "fld1", f"fcomip st, st(1)", "fstp st(0)", f"cmov{self.r.choice(['b', 'e', 'a'])} {self.reg()}, {self.reg()}")
        elif kind == 4:
            self.put("fld1", f"fst st({self.r.randrange(1, 8)})", "ffree st(0)", "fincstp", "fninit")
        elif kind == 5:
            self.put("fnstsw ax")
            self.put(f"fnstcw {self.mem(2)}")
        else:
            self.put("fld1")
            self.put("fldl2e")
            self.put("fxch")
            self.put("fscale")
            self.put("fstp st(1)")
            self.put(f"fstp {self.mem(8)}")

    KINDS = [(alu, 20), (unary, 5), (move, 18), (shift, 8), (multiply, 5), (bits, 6), (flags, 9), (branch, 8), (loop, 4), (string, 4),
              (stack, 6), (call, 3), (switch, 3), (self_modify, 5), (exception, 3), (paging, 5), (system, 3), (time, 2), (user, 2),
              (vector, 8), (x87, 3)]

    def some(self, low, high):
        pieces, weights = zip(*self.KINDS)
        for _ in range(self.r.randint(low, high)):
            self.r.choices(pieces, weights)[0](self)

    # ---- the whole ----

    def write(self, pieces):
        self.in_leaf = True
        self.put("copied: mov r12d, 0x11223344", "add [r14 + 64], r12", "rol qword ptr [r14 + 72], 3", "ret", "copied_end:",
                 "copied_len = copied_end - copied")
        for n in range(LEAVES):
            self.kernel = n >= ANY_MODE
            self.put(f"leaf{n}:", "push r15")
            self.some(5, 30)
            self.put("pop r15", "ret")
        self.in_leaf = False
        self.put("body:")
        self.some(pieces, pieces)
        # once more through what is translated and chained by now
        self.put("dec dword ptr [rip + rounds]", "jnz body", "ret")
        self.put(".data", ".align 8", "leaves: .quad " + ", ".join(f"leaf{n}" for n in range(LEAVES)),
                 "rounds: .long 3", ".section .data.pages, \"aw\"", ".align 4096", "fn_frames:")
        for n in range(8):
            self.put(f"mov r11d, {self.imm(4)}", f"{self.r.choice(['add', 'xor', 'sub'])} [r14 + {8 * n}], r11",
                     "rol r12, 1", "ret", ".align 4096")
        self.put(".text")
        return "\n".join(self.lines) + "\n"


def make(seed, output, pieces=PIECES):
    p = Program(seed)
    with tempfile.TemporaryDirectory() as tmp:
        with open(os.path.join(tmp, "body.inc"), "w", encoding="ascii") as f:
            f.write(p.write(pieces))
        elf = os.path.join(tmp, "elf")
        subprocess.run(["gcc", "-nostdlib", "-static", "-no-pie", f"-Wa,-I{tmp}", f"-DSEED={seed & 0x7FFFFFFF}", f"-DPCID={seed // 3 % 2}",
                        f"-DTIMER_COUNT={p.r.randrange(400, 9000)}", "-Wl,-z,noexecstack,--build-id=none,--no-warn-rwx-segments",
                        f"-Wl,--defsym,arena={ARENA}", "-T", PAYLOAD_LD, "-o", elf, os.path.join(HERE, "rt.S")], check=True)
        subprocess.run(["objcopy", "-O", "elf32-i386", elf, output], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pieces", type=int, default=PIECES, help=f"length of the program ({PIECES})")
    parser.add_argument("--source", action="store_true", help="write the assembler text of `body` instead")
    parser.add_argument("seed", type=int)
    parser.add_argument("output")
    args = parser.parse_args()
    if args.source:
        with open(args.output, "w", encoding="ascii") as out:
            out.write(Program(args.seed).write(args.pieces))
    else:
        make(args.seed, args.output, args.pieces)
