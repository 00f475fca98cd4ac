"""What tests of the block backend share: the tool blockio, qemu-img, TAP lines."""
import hashlib
import os
import random
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BLOCKIO = os.path.join(ROOT, os.environ.get("BUILD", "build"), "tests/block/blockio")
MIB = 1 << 20


def run(*command, check=True, **kw):
    r = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=120, **kw)
    if check and r.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: status {r.returncode}: {r.stdout.strip()[-400:]}")
    return r


def blockio(*args, check=True, **kw):
    return run(BLOCKIO, *args, check=check, **kw)


def refused(*args, says):
    """blockio refuses with one line that has all of `says`."""
    r = blockio(*args, check=False)
    assert r.returncode == 2, f"{args}: status {r.returncode}: {r.stdout}"
    assert len(r.stdout.strip().splitlines()) == 1, r.stdout
    for s in [says] if isinstance(says, str) else says:
        assert s in r.stdout, f"{s!r} is not in: {r.stdout}"


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(f.read()).hexdigest()


def raw_file(path, size, seed, density=0.4):
    """Runs of random bytes, of compressible ones, and of zeroes."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            n = min(rng.choice((512, 4096, 20000, 65536, 300000)), size - at)
            if rng.random() < density:
                f.seek(at)
                f.write(rng.randbytes(n) if rng.random() < 0.5 else (b"%08d" % rng.randrange(10 ** 8)) * (n // 8 + 1)
                        if n < 400 else rng.randbytes(64) * (n // 64))
            at += n
        f.truncate(size)
    return path


def by_qemu(image, out, fmt="qcow2", *options):
    run("qemu-img", "convert", "-f", fmt, "-O", "raw", *options, image, out)
    return digest(out)


def by_us(image, out, *options):
    blockio("file=" + image, "ro", *options, f"read:0:0:{out}")
    return digest(out)


def clean(image, leaks=False):
    """qemu-img check and blockio check find nothing; `leaks` may be there."""
    r = run("qemu-img", "check", "-f", "qcow2", image, check=False)
    assert r.returncode in ((0, 3) if leaks else (0,)), r.stdout[:600]
    r = blockio("check", image, check=False)
    assert r.returncode == 0 and (leaks or " leaks=0" in r.stdout), r.stdout[:600]


def tests_main(tests, wanted=()):
    failed = 0
    for number, t in enumerate(tests, 1):
        name = t.__name__.replace("_", " ")
        if wanted and not any(w in name for w in wanted):
            continue
        with tempfile.TemporaryDirectory(prefix="ectype-block-", dir="/var/tmp") as d:
            before = os.getcwd()
            os.chdir(d)
            try:
                t()
                print(f"ok {number} - {name}", flush=True)
            except (AssertionError, subprocess.TimeoutExpired) as e:
                failed += 1
                print(f"not ok {number} - {name}\n# " + str(e).replace("\n", "\n# "), flush=True)
            finally:
                os.chdir(before)
    return 1 if failed else 0
