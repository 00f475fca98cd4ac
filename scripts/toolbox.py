#!/usr/bin/env python3
"""Build the toolbox: an initramfs with Debian's gcc, python3, sqlite3, xz, openssl, luajit, stress-ng and e2fsprogs.

toolbox.py [--force]

Packages are downloaded and unpacked, not installed, so neither root nor a
chroot is needed. The cache then has

    toolbox/root/          the tree
    toolbox/toolbox.cpio   the same as a newc archive, uncompressed

where toolbox is a link to toolbox-KEY/, and KEY is made of this recipe, of
the packages' versions and of the kernel's modules. A toolbox is built aside and appears by rename only, so
that a build cut short is never taken for a whole one.

The guest's /init runs the script /run.sh, or the one ectype.run= names on the
kernel's command line, prints "toolbox: exit status N" and powers off. The
kernel unpacks concatenated archives one over the other: a test appends an
archive of its own that brings /run.sh (image()).
"""
import argparse
import fcntl
import fnmatch
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from initramfs import Cpio, Modules, cache_dir, read  # noqa: E402

WANTED = ["gcc", "libc6-dev", "python3", "sqlite3", "xz-utils", "openssl", "luajit", "stress-ng", "busybox-static",
          "dash", "bash", "coreutils", "diffutils", "grep", "sed", "findutils", "gzip", "mawk", "make", "iperf3",
          "e2fsprogs"]
# Dependencies of maintainer scripts and of whole distributions.
UNWANTED = ["base-files", "debianutils", "dpkg", "media-types", "readline-common", "rpcsvc-proto", "libx11-data",
            # of iperf3's service, down to perl
            "adduser", "debconf", "init-system-helpers", "libaudit-common", "libaudit1", "libcap-ng0",
            "libfile-find-rule-perl", "libgdbm-compat4", "libgdbm6", "libnumber-compare-perl", "libpam-modules",
            "libpam-modules-bin", "libpam0g", "libperl5.36", "libsemanage-common", "libsemanage2", "libsepol2",
            "libtext-glob-perl", "passwd", "perl", "perl-base", "perl-modules-5.36", "usrmerge"]

# What no test needs, as patterns of paths; first match of KEEP or DROP decides.
KEEP = ["etc/ssl/openssl.cnf", "etc/mke2fs.conf", "usr/lib/locale/C.utf8/*"]
DROP = ["usr/share/*", "usr/lib/locale/*", "etc/*", "var/*", "usr/games/*", "*/__pycache__/*", "*/gconv/*",
        # other compilers, linkers and tools than gcc, as, ld and their like
        "*/lto1", "*-lto-dump-12", "*/lto-dump-12", "usr/bin/*gold", "usr/bin/*dwp", "usr/bin/*gp-*", "usr/bin/gp-*",
        "usr/bin/*gprof*", "usr/lib/*/gprofng/*", "usr/lib/*/libgprofng*", "usr/bin/*gcov*", "usr/lib/bfd-plugins/*",
        # libraries of sanitizers and of languages that are not here
        "*/libasan*", "*/liblsan*", "*/libtsan*", "*/libubsan*", "*/gcc/*/libgomp.a", "*/gcc/*/libquadmath*",
        "*/gcc/*/libitm*", "*/libcc1*", "*/gcc/*/plugin/*", "usr/lib/*/libtirpc.a", "usr/lib/*/libnsl.a",
        # parts of Python's library with neither a terminal nor a network to use them
        "*/python3.11/test/*", "*/python3.11/idlelib/*", "*/python3.11/tkinter/*", "*/python3.11/lib2to3/*",
        "*/python3.11/pydoc_data/*", "*/python3.11/ensurepip/*", "*/python3.11/distutils/*", "*/python3.11/turtledemo/*",
        "*/python3.11/config-3.11-*/*", "usr/bin/2to3*", "usr/bin/pdb3*", "usr/bin/pydoc*"]
LINKS = {"usr/bin/sh": "dash", "usr/bin/awk": "mawk", "usr/bin/cc": "gcc", "usr/bin/luajit": "luajit-2.1.0-beta3"}
# Programs that must have all their libraries; the archive is not made otherwise.
PROGRAMS = ["bash", "dash", "mawk", "make", "ls", "gcc", "as", "ld", "python3", "sqlite3", "xz", "openssl", "luajit",
            "stress-ng", "iperf3", "/usr/sbin/mke2fs", "/usr/sbin/e2fsck",
            "/usr/lib/gcc/x86_64-linux-gnu/12/cc1", "/usr/lib/gcc/x86_64-linux-gnu/12/collect2"]
LIMIT = 200 << 20  # bytes of the archive: guests of 1 GiB hold it twice while it is unpacked


class Failed(Exception):
    pass


def say(text):
    print("ectype: " + text, file=sys.stderr, flush=True)


class Apt:
    """apt-get and its lists, the system's or, without root, our own (as kernel.sh does it)."""

    def __init__(self, cache):
        self.private = os.path.join(cache, "apt")

    def lists(self):
        own = os.path.join(self.private, "lists")
        return own if os.path.isdir(own) else "/var/lib/apt/lists"

    def run(self, *args, cwd=None):
        user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        options = ["-o", "APT::Sandbox::User=" + user]
        if os.path.isdir(self.private):
            options += ["-o", "Dir::State::lists=" + self.lists(), "-o", "Dir::Cache=" + os.path.join(self.private, "cache")]
        p = subprocess.run(["apt-get", "-qq", *options, *args], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                           text=True)
        if p.returncode:
            raise Failed("apt-get: " + " / ".join((p.stderr or p.stdout).strip().splitlines()[-2:]))
        return p.stdout

    def update(self):
        say("updating the package lists")
        if os.geteuid() == 0:
            self.run("update")
        elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
            subprocess.run(["sudo", "-n", "apt-get", "-qq", "update"], check=True, stdin=subprocess.DEVNULL)
        else:
            for d in ("lists/partial", "cache/archives/partial"):
                os.makedirs(os.path.join(self.private, d), exist_ok=True)
            self.run("update")

    def resolve(self):
        """WANTED and all that depends on, as NAME=VERSION: what apt would install on a machine with no package."""
        with tempfile.TemporaryDirectory() as empty:
            status = os.path.join(empty, "status")
            open(status, "w", encoding="ascii").close()
            os.mkdir(os.path.join(empty, "partial"))
            # an archive that apt has already is not listed, so it must have none
            out = self.run("install", "--print-uris", "-y", "--no-install-recommends", "-o", "Dir::State::status=" + status,
                           "-o", "Dir::Cache::archives=" + empty, "-o", "Debug::NoLocking=1", *WANTED)
        packages = []
        for line in out.splitlines():
            m = re.match(r"'[^']*' ([^_ ]+)_([^_ ]+)_[^_ ]+\.deb ", line)
            if m and m.group(1) not in UNWANTED:
                packages.append(m.group(1) + "=" + m.group(2).replace("%3a", ":"))
        if not packages:
            raise Failed("apt-get names no packages")
        return sorted(packages)


def dropped(path):
    if any(fnmatch.fnmatchcase(path, k) for k in KEEP):
        return False
    return any(fnmatch.fnmatchcase(path, d) for d in DROP)


def unpack(debs, root):
    # Debian's tree since 12: the directories below are links; tar must follow them
    for d in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/lib32"):
        os.makedirs(os.path.join(root, d))
    for d in ("bin", "sbin", "lib", "lib64"):
        os.symlink("usr/" + d, os.path.join(root, d))
    for deb in sorted(os.listdir(debs)):
        data = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", os.path.join(debs, deb)], stdout=subprocess.PIPE)
        tar = subprocess.run(["tar", "-x", "--no-same-owner", "--no-same-permissions", "--keep-directory-symlink", "-C", root],
                             stdin=data.stdout, capture_output=True, text=True)
        data.stdout.close()
        if data.wait() or tar.returncode:
            raise Failed(f"{deb} could not be unpacked: {tar.stderr.strip()[-200:]}")


def strip(root):
    for folder, dirs, files in os.walk(root, topdown=False):
        for name in files + [d for d in dirs if os.path.islink(os.path.join(folder, d))]:
            path = os.path.join(folder, name)
            if dropped(os.path.relpath(path, root)):
                os.unlink(path)
        if folder != root and not os.listdir(folder) and not folder.startswith(os.path.join(root, "usr/lib64")):
            os.rmdir(folder)
    # links whose targets went
    for folder, dirs, files in os.walk(root):
        for name in files + dirs:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                target = os.readlink(path)
                at = root + target if target.startswith("/") else os.path.join(folder, target)
                if not os.path.lexists(at):
                    os.unlink(path)


def modules():
    """{path: bytes}: the cloud kernel's modules that scripts/kernel.sh keeps."""
    return Modules(os.path.join(cache_dir(), "vmlinuz")).files()


def complete(root):
    """What maintainer scripts would have made, and busybox for what Debian's programs leave open."""
    for name, data in modules().items():
        path = os.path.join(root, "usr", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data)
    for d in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp"):
        os.makedirs(os.path.join(root, d), exist_ok=True)
    for name, target in LINKS.items():
        path = os.path.join(root, name)
        if not os.path.lexists(path):
            os.symlink(target, path)
    for name, text in (("passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
                       ("group", "root:x:0:\nnogroup:x:65534:\n"), ("hostname", "toolbox\n"),
                       ("hosts", "127.0.0.1 localhost toolbox\n"), ("nsswitch.conf", "passwd: files\nhosts: files\n")):
        with open(os.path.join(root, "etc", name), "w", encoding="ascii") as f:
            f.write(text)
    busybox = os.path.join(root, "bin/busybox")
    out = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout
    for applet in out.split():
        if not any(os.path.lexists(os.path.join(root, d, applet)) for d in ("usr/bin", "usr/sbin")):
            os.symlink("busybox", os.path.join(root, "usr/bin", applet))
    shutil.copyfile(os.path.join(HERE, "toolbox-init.sh"), os.path.join(root, "init"))
    os.makedirs(os.path.join(root, "etc/udhcpc"))
    shutil.copyfile(os.path.join(HERE, "udhcpc.sh"), os.path.join(root, "etc/udhcpc/default.script"))
    os.chmod(os.path.join(root, "etc/udhcpc/default.script"), 0o755)
    os.chmod(os.path.join(root, "init"), 0o755)


def check(root):
    """The dynamic linker of the tree itself says whether a program's libraries are there."""
    linker = os.path.realpath(os.path.join(root, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
    libraries = ":".join(os.path.join(root, d) for d in ("usr/lib/x86_64-linux-gnu", "usr/lib"))
    for name in PROGRAMS:
        path = os.path.join(root, name.lstrip("/") if "/" in name else "usr/bin/" + name)
        if not os.path.isfile(path):
            raise Failed(f"the toolbox lacks {name}")
        p = subprocess.run([linker, "--inhibit-cache", "--library-path", libraries, "--list", path], capture_output=True,
                           text=True)
        bad = [l.strip() for l in (p.stdout + p.stderr).splitlines() if "not found" in l or "=> /" in l and root not in l]
        if p.returncode or bad:
            raise Failed(f"{name} in the toolbox cannot run: {(bad or p.stderr.strip().splitlines() or ['?'])[0]}")


def pack(root, output):
    """The tree as an archive, in sorted order; returns its size."""
    archive = Cpio()
    with open(output, "wb") as f:
        for folder, dirs, files in os.walk(root):
            dirs.sort()
            for name in sorted(files + dirs):
                path = os.path.join(folder, name)
                inside = os.path.relpath(path, root)
                mode = os.lstat(path).st_mode
                if stat.S_ISLNK(mode):
                    archive.link(inside, os.readlink(path))
                elif stat.S_ISDIR(mode):
                    archive.dir(inside)
                elif stat.S_ISREG(mode):
                    archive.file(inside, read(path), 0o755 if mode & 0o100 else 0o644)
            f.write(archive.take())
        archive.char("dev/console", 5, 1)
        archive.char("dev/null", 1, 3)
        f.write(archive.finish())
        return f.tell()


def recipe():
    h = hashlib.sha256()
    for name in ("toolbox.py", "toolbox-init.sh", "udhcpc.sh"):
        h.update(read(os.path.join(HERE, name)))
    for name, data in modules().items():
        h.update(name.encode() + data)
    return h.hexdigest()


def build(apt, packages, directory, cache):
    """Download, unpack and pack beside `directory`, then rename."""
    for old in os.listdir(cache):
        if old.startswith(".toolbox.new."):
            shutil.rmtree(os.path.join(cache, old), ignore_errors=True)
    new = tempfile.mkdtemp(prefix=".toolbox.new.", dir=cache)
    try:
        os.chmod(new, 0o755)
        debs, root = os.path.join(new, "debs"), os.path.join(new, "root")
        os.mkdir(debs)
        os.mkdir(root)
        say(f"toolbox: fetching {len(packages)} packages")
        apt.run("download", *packages, cwd=debs)
        unpack(debs, root)
        shutil.rmtree(debs)
        strip(root)
        complete(root)
        check(root)
        size = pack(root, os.path.join(new, "toolbox.cpio"))
        if size > LIMIT:
            raise Failed(f"the toolbox has {size >> 20} MiB, more than {LIMIT >> 20}")
        with open(os.path.join(new, "packages"), "w", encoding="ascii") as f:
            f.write("\n".join(packages) + "\n")
        with open(os.path.join(new, "recipe"), "w", encoding="ascii") as f:
            f.write(recipe() + "\n")
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(new, directory)
        say(f"toolbox: {size >> 20} MiB")
    finally:
        shutil.rmtree(new, ignore_errors=True)


def text_of(path):
    try:
        with open(path, encoding="ascii") as f:
            return f.read()
    except OSError:
        return ""


def fresh(apt, current):
    """The link leads to a toolbox of this recipe, and apt has learned nothing since."""
    if text_of(os.path.join(current, "recipe")).strip() != recipe():
        return False
    try:
        return os.stat(apt.lists()).st_mtime <= os.stat(os.path.join(current, "recipe")).st_mtime
    except OSError:
        return True  # no lists: nothing newer to know of


def ensure(force=False):
    """Make the toolbox unless it is there; returns the directory with root/ and toolbox.cpio."""
    cache = cache_dir()
    current = os.path.join(cache, "toolbox")
    apt = Apt(cache)
    if not force and fresh(apt, current):
        return current
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, ".toolbox.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not force and fresh(apt, current):
            return current  # another process made it while this one waited
        usable = text_of(os.path.join(current, "recipe")).strip() == recipe()
        if not all(shutil.which(t) for t in ("apt-get", "dpkg-deb", "tar")):
            if usable:
                return current
            raise Failed("no apt here to fetch the toolbox's packages with")
        try:
            make(apt, current, cache, force)
        except Failed as e:
            if not usable:
                raise
            say(f"{e}; using the toolbox already in the cache")
    return current


def make(apt, current, cache, force):
    updated = False
    while True:
        try:
            packages = apt.resolve()
            key = hashlib.sha256((recipe() + "\n".join(packages)).encode()).hexdigest()[:16]
            directory = os.path.join(cache, "toolbox-" + key)
            if force or not os.path.isdir(directory):
                build(apt, packages, directory, cache)
            break
        except Failed:
            # lists that are absent or that name files the mirror has dropped
            if updated:
                raise
            apt.update()
            updated = True
    os.utime(os.path.join(directory, "recipe"))
    link = os.path.join(cache, f".toolbox.link.{os.getpid()}")
    os.symlink(os.path.basename(directory), link)
    os.replace(link, current)
    for name in os.listdir(cache):
        old = os.path.join(cache, name)
        # not the one that another checkout's tests may be running from
        if re.fullmatch(r"toolbox-[0-9a-f]{16}", name) and old != directory and time.time() - os.stat(old).st_mtime > 86400:
            shutil.rmtree(old, ignore_errors=True)


def image(output, files):
    """Write an initrd to `output`: the toolbox, and over it `files`, {path: bytes}, all executable."""
    archive = Cpio()
    made = set()
    for name, data in sorted(files.items()):
        name = name.lstrip("/")
        parts = name.split("/")[:-1]
        for i in range(1, len(parts) + 1):
            # a directory entry over a link (bin, lib) would replace the link
            folder = "/".join(parts[:i])
            if folder not in made and folder not in ("bin", "sbin", "lib", "lib64"):
                archive.dir(folder)
                made.add(folder)
        archive.file(name, data)
    shutil.copyfile(os.path.join(ensure(), "toolbox.cpio"), output)
    with open(output, "ab") as f:
        f.write(archive.finish())
    return output


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--force", action="store_true", help="build it even if it is there")
    a = p.parse_args()
    try:
        ensure(a.force)
    except Failed as e:
        sys.exit("ectype: toolbox: " + str(e))
    except (OSError, subprocess.CalledProcessError) as e:
        sys.exit(f"ectype: toolbox: {e}")


if __name__ == "__main__":
    main()
