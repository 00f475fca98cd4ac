#!/usr/bin/env python3
"""32-bit code: an i386 kernel with a 32-bit user land, and 32-bit programs under the 64-bit kernel."""
import hashlib
import os
import subprocess
import tempfile
from guest import ENGINE, PROMPT, ROOT, Timeout, cache, finish, linux, ok, read_json, skip

BUSYBOX = cache("busybox-i386")
SUMS = ("md5sum", "sha1sum", "sha256sum", "sha512sum")
# 53-bit arithmetic of x87 and SSE, in awk: the remainders are exact
STEPS = 50000


def generator():
    x = 1
    for _ in range(STEPS):
        x = (x * 110351 + 12345) % 2147483648
    return str(x)


def compute(name, g, program):
    with open(BUSYBOX, "rb") as f:
        data = f.read()
    for s in SUMS:
        want = hashlib.new(s[:-3], data).hexdigest()
        got = g.shell(f"{program} {s} {program}")
        ok(f"{name}: {s}", got.split()[:1] == [want], f"{got} {want}")
    script = f"BEGIN{{x=1;for(i=0;i<{STEPS};i++)x=(x*110351+12345)%2147483648;print x}}"
    got = g.shell(f"{program} awk '{script}'").strip()
    ok(f"{name}: awk", got == generator(), got)
    got = g.shell(f"{program} gzip -c {program} | {program} gzip -dc | {program} cmp - {program} && echo same").strip()
    ok(f"{name}: gzip and back", got == "same", got)
    got = g.shell(f"i=0; while [ $i -lt 50 ]; do {program} true || break; i=$((i+1)); done; echo $i").strip()
    ok(f"{name}: programs start", got == "50", got)
    got = g.shell(f"{program} sh -c 'kill -9 $$' ; {program} sh -c 'trap \"echo caught\" USR1; kill -USR1 $$'").strip()
    ok(f"{name}: signals", got.endswith("caught"), got)


def translated(name, path):
    if ENGINE != "dbt":
        return
    figures = read_json(path)["counters"]
    other = int(figures["untranslated_mode_instructions"])
    ok(f"{name}: 32-bit code is translated", other < 1000000, figures)


def run(name, folder, program, bits, **how):
    stats = os.path.join(folder, "stats")
    with linux(f"--stats=json:{stats}", **how) as g:
        try:
            g.expect(PROMPT, 170)
            ok(f"{name}: boots to a shell", True)
            machine = g.shell("uname -m").strip()
            ok(f"{name}: uname", machine == bits, machine)
            compute(name, g, program)
            g.send("poweroff\n")
            ok(f"{name}: powers off", g.wait(60) == 0, g.errors()[-300:])
        except Timeout as e:
            ok(name, False, e)
            return
    translated(name, stats)


def initramfs(path, busybox, *more):
    subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", path, *more],
                   env={**os.environ, **({"BUSYBOX": busybox} if busybox else {})}, check=True)
    return path


def main():
    if not os.path.exists(BUSYBOX) or not os.path.exists(cache("vmlinuz-i386")):
        skip("i386", "scripts/i386.sh has not been run, or could not download")
        return
    with tempfile.TemporaryDirectory() as folder:
        run("i386 kernel", folder, "/bin/busybox", "i686", kernel="vmlinuz-i386",
            initrd=initramfs(os.path.join(folder, "i386"), BUSYBOX))
        run("32-bit programs", folder, "/bin/busybox32", "x86_64",
            initrd=initramfs(os.path.join(folder, "both"), None, "--add", f"/bin/busybox32={BUSYBOX}"))


main()
finish()
