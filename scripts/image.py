#!/usr/bin/env python3
"""ectype image create, ectype image kernel: make a bootable Debian disk; take kernel and initrd out of one.

Packages come from a Debian mirror through mmdebstrap, as root or, without,
in a user namespace. Nothing is mounted outside of mmdebstrap's own namespace,
no loop device is used, and nothing is written but the output, the cache of
packages and a temporary directory beside the output, which also an
interrupted run removes. The output appears under its name when it is whole.
"""
import argparse
import fcntl
import grp
import io
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import debian_disk as disk  # noqa: E402
from debian_disk import Failed, run_quietly  # noqa: E402

MIN_SIZE, MAX_SIZE = 1 << 30, 2 << 40
ROOM = 2 << 30  # bytes that making an image takes for a while, about
KEEP_DAYS = 60  # a cached package that no image has used for so long goes
DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = ["systemd-sysv", "udev", "dbus", "libpam-systemd", "systemd-resolved", "initramfs-tools", "zstd", "e2fsprogs",
            "openssh-server", "iproute2", "iputils-ping", "kmod", "procps", "less"]
KERNELS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
# program: the Debian package that has it
PROGRAMS = {"mmdebstrap": "mmdebstrap", "apt-get": "apt", "mke2fs": "e2fsprogs", "mkfs.vfat": "dosfstools", "sfdisk": "fdisk",
            "mcopy": "mtools", "grub-mkimage": "grub-common"}
PROGRAMS_WITHOUT_ROOT = {"newuidmap": "uidmap", "unshare": "util-linux"}
# The user namespace where another user is root and may give files to the ids that /etc/subuid gives that user.
AS_ROOT = ["unshare", "--user", "--map-root-user", "--map-auto", "--"]
FILES = {disk.GRUB_FOLDER + "/i386-pc/boot.img": "grub-pc-bin", disk.GRUB_FOLDER + "/x86_64-efi/moddep.lst": "grub-efi-amd64-bin"}

NETWORK = """\
[Match]
Type=ether

[Network]
DHCP=yes
"""

# No RSA key: it would take an emulated processor many seconds, and every client of this decade has the others.
# sync: a key file that is empty after a crash would keep sshd from starting for ever.
SSH_KEYS = """\
[Unit]
Description=Make the host keys of OpenSSH
Documentation=man:ssh-keygen(1)
Before=ssh.service
ConditionFileNotEmpty=|!/etc/ssh/ssh_host_ed25519_key
ConditionFileNotEmpty=|!/etc/ssh/ssh_host_ecdsa_key

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for t in ed25519 ecdsa; do k=/etc/ssh/ssh_host_$${t}_key; [ -s $k ] && continue; rm -f $k $k.pub; \
ssh-keygen -q -t $t -N "" -f $k || exit 1; done; sync -f /etc/ssh'

[Install]
WantedBy=multi-user.target
RequiredBy=ssh.service
"""

# Runs inside the new system, when all packages are installed.
SETUP = """\
set -eu
systemctl --quiet enable systemd-networkd.service systemd-resolved.service ssh.service ectype-ssh-keys.service
# An image is started for a minute as often as for a month; whoever wants these turns them on.
systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer
# For snapshots of logical volumes, which there are none of.
systemctl --quiet disable e2scrub_all.timer e2scrub_reap.service
# Nothing here waits for the network; with no network card this one would fail, two minutes after the boot.
systemctl --quiet disable systemd-networkd-wait-online.service
rm -f /etc/ssh/ssh_host_* /etc/.resolv.conf.systemd-resolved.bak /var/lib/systemd/random-seed
mkdir -p /boot/efi
"""

# Before the program that it turns into: someone who ends the whole group when this process, which holds the other end
# of the pipe, is gone without having been able to (SIGKILL). mmdebstrap's parent process passes no signal on.
GUARD = "(exec >/dev/null 2>&1; read _ <&{fd}; kill -TERM 0) & exec {fd}<&-; exec \"$@\""


class Interrupted(BaseException):
    def __init__(self, number):
        super().__init__(number)
        self.number = number


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("ECTYPE_CACHE") or os.path.join(base, "ectype")


class Progress:
    """One line a step: on a terminal with what goes on in it and its seconds, else as it begins."""

    def __init__(self, total):
        self.tty = sys.stderr.isatty()
        self.total, self.number = total, 0
        self.text = self.more = ""
        self.started = 0
        self.ended = threading.Event()
        self.lock = threading.Lock()
        if self.tty:
            threading.Thread(target=self.tick, daemon=True).start()

    def draw(self, more, end):
        line = f"ectype: [{self.number}/{self.total}] {self.text} ({time.monotonic() - self.started:.0f} s)"
        if more:
            line += " " + more
        sys.stderr.write("\r\033[K" + line[:shutil.get_terminal_size().columns - 1] + end)
        sys.stderr.flush()

    def tick(self):
        while not self.ended.wait(1):
            with self.lock:
                if self.text:
                    self.draw(self.more, "")

    def step(self, text):
        self.finish()
        with self.lock:
            self.number += 1
            self.text, self.more, self.started = text, "", time.monotonic()
            if not self.tty:
                print(f"ectype: [{self.number}/{self.total}] {text}", file=sys.stderr, flush=True)

    def detail(self, text):
        self.more = text

    def finish(self):
        with self.lock:
            if self.tty and self.text:
                self.draw("", "\n")
            self.text = ""

    def close(self):
        self.finish()
        self.ended.set()


# --- what was asked for -------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Failed(f"{self.prog[7:]}: {message} (see {self.prog} --help)", 2)


def size_of(text):
    m = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([KMGT]?)", text, re.I)
    if not m or "." in m.group(1) and not m.group(2):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size (4G, 8.5G, 6000M)")
    size = int(float(m.group(1)) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}[m.group(2).upper()])
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size from 1G to 2T")
    return size // disk.MIB * disk.MIB


def matching(pattern, what):
    def check(text):
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"'{text}' is not {what}")
        return text
    return check


def parser():
    p = Parser(prog="ectype image create", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
               description="Make a bootable Debian disk from packages.",
               epilog="Without --password and --no-password, root (and the user) log in on the console with an empty\n"
                      "password; ssh refuses empty passwords.")
    a = p.add_argument
    a("file", metavar="F", help="the image to make")
    a("--format", choices=["raw", "qcow2"], help="default: by the name's end, else raw")
    a("--size", type=size_of, default="4G", metavar="SIZE", help="of the disk, with K, M, G or T; default 4G, sparse")
    a("--suite", type=matching(r"[a-z][a-z0-9.-]*", "the name of a suite"), default="bookworm", help="default bookworm")
    a("--mirror", type=matching(r"[a-z+]+:/[^\s\[\]]+", "the address of a mirror"), metavar="URL",
      help="instead of this machine's apt sources")
    a("--package", type=matching(r"[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?", "the name of a package"), action="append",
      default=[], metavar="P", help="install this one, too; may be repeated")
    a("--kernel", choices=sorted(KERNELS), default="cloud", help="Debian's kernel: cloud (default) or generic")
    a("--hostname", type=matching(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "a host name (a-z, 0-9, -)"), default="debian",
      help="default debian")
    a("--user", type=matching(r"[a-z_][a-z0-9_-]{0,31}", "the name of a user"), metavar="NAME",
      help="add a user who may sudo without a password")
    a("--password", type=matching(r"[^\n]+", "a password"), metavar="P", help="of root and of the user")
    a("--no-password", action="store_true", help="lock passwords: only an ssh key opens the system")
    a("--ssh-key", metavar="F", help="public key file: may log in as root and as the user")
    a("--script", metavar="F", help="run this program inside the new system, at the end")
    a("--force", action="store_true", help="replace the file if it is there")
    return p


def ssh_keys(path):
    try:
        with open(path, encoding="utf-8") as f:
            text = f.read(1 << 20)
    except (OSError, UnicodeDecodeError) as e:
        raise Failed(f"--ssh-key {path}: {getattr(e, 'strerror', None) or 'not a text file'}", 2) from None
    if "PRIVATE KEY" in text:
        raise Failed(f"--ssh-key {path} is a private key; give the public one, {path}.pub", 2)
    lines = [l.strip() for l in text.splitlines() if l.strip() and not l.startswith("#")]
    if not lines or not all(re.search(r"(^|\s)(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ AAAA", l) for l in lines):
        raise Failed(f"--ssh-key {path} holds no public keys (lines as 'ssh-ed25519 AAAA...')", 2)
    return "\n".join(lines) + "\n"


def check_request(a):
    """All that can be known before anything is done."""
    if isinstance(a.size, str):
        a.size = size_of(a.size)
    if not a.format:
        a.format = "qcow2" if a.file.endswith(".qcow2") else "raw"
    folder = os.path.dirname(os.path.abspath(a.file))
    if os.path.isdir(a.file) or not os.path.basename(a.file):
        raise Failed(f"{a.file} is a directory, not an image to make", 2)
    if os.path.lexists(a.file):
        if not a.force:
            raise Failed(f"{a.file} exists; --force replaces it", 2)
        if not os.path.isfile(a.file) or os.path.islink(a.file):
            raise Failed(f"{a.file} is not an ordinary file; not replaced", 2)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise Failed(f"{folder}: no such directory, or not writable", 2)
    if a.password and a.no_password:
        raise Failed("--password and --no-password exclude each other", 2)
    if a.no_password and not a.ssh_key:
        raise Failed("--no-password needs --ssh-key: nobody could log in", 2)
    a.keys = ssh_keys(a.ssh_key) if a.ssh_key else ""
    if a.user == "root":
        raise Failed("--user root: root is there anyway", 2)
    if a.script and not os.access(a.script, os.R_OK):
        raise Failed(f"--script {a.script}: no such file, or not readable", 2)
    if a.script and not os.path.isfile(a.script):
        raise Failed(f"--script {a.script} is not an ordinary file", 2)
    room = shutil.disk_usage(folder).free
    if room < ROOM:
        raise Failed(f"{folder} has {room >> 20} MiB free; making an image takes about {ROOM >> 20}", 2)


# --- what the machine has -----------------------------------------------------------------------------------------


def which(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def check_programs(wanted, files=()):
    missing = {p for name, p in wanted.items() if not which(name)} | {p for f, p in dict(files).items() if not os.path.exists(f)}
    if missing:
        raise Failed("missing here are the Debian packages " + " ".join(sorted(missing)) + ": apt-get install them, or run "
                     "`make image-deps`", 2)


def check_namespaces():
    """Without root: does this machine let this user have a user namespace with a range of user ids?"""
    name, uid = pwd.getpwuid(os.getuid()).pw_name, str(os.getuid())
    for path, me in (("/etc/subuid", (name, uid)), ("/etc/subgid", (name, uid, grp.getgrgid(os.getgid()).gr_name))):
        try:
            with open(path, encoding="utf-8") as f:
                rows = [l.strip().split(":") for l in f]
        except OSError:
            rows = []
        if not any(len(r) == 3 and r[0] in me and r[2].isdigit() and int(r[2]) >= 65536 for r in rows):
            raise Failed(f"not root, and {path} gives {name} no range of 65536 ids (as root: usermod --add-subuids "
                         f"100000-165535 --add-subgids 100000-165535 {name}), or run this as root", 2)
    if subprocess.run([*AS_ROOT, "unshare", "--mount", "true"], capture_output=True).returncode:
        raise Failed("not root, and this machine allows no user namespaces; run this as root", 2)


def sources(a):
    """Lines of sources.list: the mirror asked for, else what this machine's apt has of the suite, else Debian's own."""
    signed = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
    wanted = [a.suite, a.suite + "-updates", a.suite + "-security"]
    if a.mirror:
        return [f"deb {signed}{a.mirror} {a.suite} main"]
    try:
        out = run_quietly(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)",
                           "Created-By: Packages"])
    except Failed:
        out = ""
    rows = {tuple(l.split()[:2]) for l in out.splitlines()
            if l.split()[1:3] in [[w, "main"] for w in wanted] and l.split()[3:] in ([], ["Debian"], ["$(ORIGIN)"])}
    if not any(r[1] == a.suite for r in rows):
        rows = {(DEFAULT_MIRROR, a.suite)}
        if a.suite not in ("sid", "unstable", "experimental"):
            rows |= {(DEFAULT_MIRROR, wanted[1]), (DEFAULT_MIRROR + "-security", wanted[2])}
    return [f"deb {signed}{uri} {release} main" for uri, release in sorted(rows, key=lambda r: (wanted.index(r[1]), r[0]))]


# --- the work -----------------------------------------------------------------------------------------------------


def overlay(a, layout, path):
    """The files an image has besides its packages, as an archive."""
    files = {
        "etc/hostname": a.hostname + "\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {a.hostname}\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/fstab": layout.fstab(),
        "etc/default/locale": "LANG=C.UTF-8\n",
        "etc/systemd/network/80-ethernet.network": NETWORK,
        "etc/systemd/system/ectype-ssh-keys.service": SSH_KEYS,
        "boot/grub/grub.cfg": layout.grub_cfg(),
    }
    modes = {"root/.ssh/authorized_keys": 0o600, "etc/sudoers.d/ectype": 0o440}
    if a.user:
        files["etc/sudoers.d/ectype"] = f"{a.user} ALL=(ALL:ALL) NOPASSWD: ALL\n"
    if a.keys:
        files["root/.ssh/authorized_keys"] = a.keys
    with tarfile.open(path, "w") as tar:
        if a.keys:
            d = tarfile.TarInfo("root/.ssh")
            d.type, d.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(d)
        for name, text in files.items():
            data = text.encode()
            t = tarfile.TarInfo(name)
            t.size, t.mode, t.mtime = len(data), modes.get(name, 0o644), int(time.time())
            tar.addfile(t, io.BytesIO(data))


def setup_script(a):
    lines = [SETUP]
    accounts = ["root"]
    if a.user:
        accounts.append(a.user)
        # fails, and so ends it, where a package has taken the name
        lines.append(f"useradd -m -s /bin/bash -G sudo {a.user}\n")
        if a.keys:
            lines.append(f"cp -r /root/.ssh /home/{a.user}/.ssh && chown -R {a.user}:{a.user} /home/{a.user}/.ssh\n")
    for name in accounts:
        if a.password:
            lines.append(f"printf '%s\\n' {shlex.quote(name + ':' + a.password)} | chpasswd\n")
        elif a.no_password:
            lines.append(f"usermod -p '*' {name}\n")
        else:
            lines.append(f"passwd -q -d {name}\n")
    return "".join(lines)


class Build:
    def __init__(self, a, folder, lock, progress):
        self.a, self.folder, self.lock, self.progress = a, folder, lock, progress
        self.layout = disk.Layout(a.size)
        self.root = os.geteuid() == 0
        self.tree = self.path("tree")
        self.debs = os.path.join(cache_dir(), "image-packages")
        self.as_root = [] if self.root else AS_ROOT

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)
        return shlex.quote(self.path(name))

    def mmdebstrap_command(self):
        a, q = self.a, shlex.quote
        packages = PACKAGES + [KERNELS[a.kernel]] + (["sudo"] if a.user else []) + a.package
        lines = sources(a)
        if any(" https:" in l for l in lines):
            packages.append("ca-certificates")
        overlay(a, self.layout, self.path("overlay.tar"))
        os.makedirs(self.debs, exist_ok=True)
        os.mkdir(self.path("debs"))
        hooks = ["--setup-hook=mkdir -p \"$1\"/var/cache/apt/archives", f"--setup-hook=sync-in {q(self.debs)} /var/cache/apt/archives",
                 # before the kernel's package makes its initrd, which looks at fstab
                 f"--essential-hook=tar-in {q(self.path('overlay.tar'))} /",
                 f"--customize-hook=sync-out /var/cache/apt/archives {q(self.path('debs'))}",
                 f"--customize-hook=copy-out /var/lib/dpkg/status {q(self.folder)}",
                 f"--customize-hook=upload {self.write('setup', setup_script(a))} /root/ectype-setup",
                 "--customize-hook=chroot \"$1\" sh /root/ectype-setup", "--customize-hook=rm \"$1\"/root/ectype-setup"]
        if a.script:
            hooks += [
                # names are looked up as this machine does; systemd-resolved is not running
                "--customize-hook=mkdir -p \"$1\"/run/systemd/resolve",
                "--customize-hook=upload /etc/resolv.conf /run/systemd/resolve/stub-resolv.conf",
                f"--customize-hook=upload {q(os.path.abspath(a.script))} /root/ectype-script",
                "--customize-hook=chmod 755 \"$1\"/root/ectype-script", "--customize-hook=chroot \"$1\" /root/ectype-script",
                "--customize-hook=rm \"$1\"/root/ectype-script"]
        if not self.root:
            hooks.append("--skip=output/dev")  # no device can be made; the kernel fills /dev
        return ["mmdebstrap", "--mode=" + ("root" if self.root else "unshare"), "--variant=minbase",
                "--architectures=amd64", "--format=" + ("directory" if self.root else "tar"),
                "--include=" + ",".join(packages), "--skip=download/empty,essential/unlink,cleanup/apt/cache", *hooks,
                "--customize-hook=rm -rf \"$1\"/var/cache/apt/archives", "--customize-hook=mkdir -p \"$1\"/var/cache/apt/archives/partial",
                a.suite, self.tree if self.root else "-", *lines]

    def install(self):
        """The files of the system, in self.tree."""
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        if self.root:
            # without, it has to be where other user ids can reach it
            env["TMPDIR"] = self.folder
        else:
            os.makedirs(os.path.join(self.tree, "dev"))
        command = self.mmdebstrap_command()
        # a group of their own: Ctrl-C reaches this program alone, which then ends them in order
        alive, ours = os.pipe()
        guarded = ["sh", "-c", GUARD.format(fd=alive), "sh", *command]
        making = subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=None if self.root else subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, errors="replace", env=env, process_group=0,
                                  pass_fds=(alive, self.lock))
        os.close(alive)
        unpacking = None
        try:
            if self.root:
                watch(making, self.progress)
            else:
                unpacking = subprocess.Popen(
                    [*self.as_root, "tar", "-x", "-p", "--numeric-owner", "--xattrs",
                     "--xattrs-include=*", "-C", self.tree], stdin=making.stdout, process_group=0)
                making.stdout.close()
                watch(making, self.progress)
                if unpacking.wait():
                    raise Failed("the new system could not be unpacked")
        finally:
            for p in (making, unpacking):
                end(p)
            os.close(ours)
        self.keep_packages()

    def keep_packages(self):
        """New packages go into the cache, each by rename; those unused for long leave it."""
        for name in os.listdir(self.path("debs")):
            if name.endswith(".deb") and not os.path.exists(os.path.join(self.debs, name)):
                shutil.copyfile(self.path("debs/" + name), self.path("debs/new"))
                os.replace(self.path("debs/new"), self.path("debs/" + name))
                move(self.path("debs/" + name), os.path.join(self.debs, name))
        with open(self.path("status"), encoding="utf-8", errors="replace") as f:
            used = set(installed(f.read()))
        for name in os.listdir(self.debs):
            path = os.path.join(self.debs, name)
            if name in used:
                os.utime(path)
            elif time.time() - os.stat(path).st_mtime > KEEP_DAYS * 86400:
                os.unlink(path)
        shutil.rmtree(self.path("debs"))

    def make(self):
        """The whole image; returns its path in the temporary directory."""
        raw, run = self.path("disk.raw"), run_quietly
        self.progress.step(f"installing Debian {self.a.suite}")
        self.install()
        self.progress.step("file system")
        disk.partition(run, raw, self.layout)
        try:
            disk.make_root(run, raw, self.layout, self.tree, self.as_root)
        except Failed as e:
            full = shutil.disk_usage(self.folder).free < 16 * disk.MIB
            raise Failed(f"{e}; " + ("the disk of this machine is full" if full else "perhaps --size is too small")) from None
        self.progress.step("boot loaders")
        disk.make_esp(run, raw, self.layout, self.folder)
        disk.make_bios_boot(run, raw, self.layout, self.folder)
        if self.a.format == "raw":
            return raw
        self.progress.step("qcow2")
        convert(raw, self.path("disk.qcow2"), "qcow2")
        return self.path("disk.qcow2")


def move(source, target):
    """A rename, also where the cache is another file system."""
    new = f"{target}.{os.getpid()}.new"
    try:
        shutil.move(source, new)
        os.replace(new, target)
    finally:
        if os.path.exists(new):
            os.unlink(new)


def installed(status):
    """Names of the package files behind dpkg's status file."""
    for block in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture): (.*)$", block, re.M))
        if len(fields) == 3:
            yield "{Package}_{0}_{Architecture}.deb".format(fields["Version"].replace(":", "%3a"), **fields)


def watch(process, progress):
    """Shows what mmdebstrap says; Failed if it fails, with what apt or dpkg said last of errors."""
    lines = []
    for line in process.stderr:
        line = line.strip()
        if line.startswith("I: "):
            progress.detail(line[3:])
        lines = lines[-200:] + [line]
    if process.wait():
        # dpkg gives the reason on the line after
        errors = [f"{l} {after}" if l.endswith(":") else l for l, after in zip(lines, lines[1:] + [""])
                  if re.match(r"(E|Err|dpkg: error)\b", l)] or lines[-1:] or ["no message"]
        progress.finish()
        for l in lines[-12:]:
            print("| " + l, file=sys.stderr)
        raise Failed("mmdebstrap: " + errors[0])


def end(process):
    """End a group of processes if it still runs: by SIGTERM, on which mmdebstrap cleans up, then by force."""
    if process is None or process.poll() is not None:
        return
    for number, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def convert(source, target, form):
    ectype = os.environ.get("ECTYPE_PROGRAM")
    if ectype:
        run_quietly([ectype, "image", "convert", "--format", form, source, target])
    else:
        check_programs({"qemu-img": "qemu-utils"})
        run_quietly(["qemu-img", "convert", "-O", form, source, target])


def temporary(beside):
    """A directory beside a file, and a lock on it as a descriptor. What a killed run has left there for the same
    file goes; a run that is alive, or a child that outlived it, holds the lock."""
    folder, name = os.path.split(os.path.abspath(beside))
    for old in os.listdir(folder):
        path = os.path.join(folder, old)
        if re.fullmatch(re.escape(f".{name}.") + "[a-z0-9_]{8}", old) and os.path.isdir(path) and not os.path.islink(path):
            try:
                lock = os.open(path + "/lock", os.O_RDWR | os.O_NOFOLLOW)
            except OSError:
                continue
            if locked(lock):
                remove(path)
            os.close(lock)
    path = tempfile.mkdtemp(prefix=f".{name}.", dir=folder)
    lock = os.open(path + "/lock", os.O_RDWR | os.O_CREAT, 0o600)
    locked(lock)
    return path, lock


def locked(fd):
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def remove(folder):
    """Its files may be of users that only a namespace can be root over."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder) and os.geteuid():
        subprocess.run([*AS_ROOT, "rm", "-rf", folder], capture_output=True)
    if os.path.lexists(folder):
        print(f"ectype: could not remove {folder}", file=sys.stderr)


def with_temporary(beside, work):
    """work(folder, its lock); the folder is gone afterwards, whatever happens."""
    def interrupted(number, _):
        raise Interrupted(number)
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, interrupted)
    folder, lock = temporary(beside)
    try:
        return work(folder, lock)
    finally:
        for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(s, signal.SIG_IGN)
        remove(folder)
        os.close(lock)


def publish(new, a):
    """Give the whole file its name: what is there by now is not overwritten unless that was asked for."""
    fd = os.open(new, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    if a.force:
        os.replace(new, a.file)
        return
    try:
        os.link(new, a.file)
    except FileExistsError:
        raise Failed(f"{a.file} has appeared meanwhile; not replaced") from None
    except OSError:  # a file system without hard links
        if os.path.lexists(a.file):
            raise Failed(f"{a.file} has appeared meanwhile; not replaced") from None
        os.rename(new, a.file)


def create(args):
    a = parser().parse_args(args)
    check_request(a)
    root = os.geteuid() == 0
    check_programs({**PROGRAMS, **({} if root else PROGRAMS_WITHOUT_ROOT)}, FILES)
    if not root:
        check_namespaces()
    progress = Progress(4 if a.format == "qcow2" else 3)
    try:
        def work(folder, lock):
            publish(Build(a, folder, lock, progress).make(), a)
        with_temporary(a.file, work)
    finally:
        progress.close()
    print(f"ectype: {a.file}: {a.format}, {a.size / (1 << 30):g} GiB, {os.stat(a.file).st_blocks >> 11} MiB on disk",
          file=sys.stderr)


def kernel(args):
    p = Parser(prog="ectype image kernel", allow_abbrev=False,
               description="Copy kernel and initrd out of a Debian image: DIR/vmlinuz, DIR/initrd.img and DIR/cmdline, "
                           "for ectype run --kernel, --initrd and --append. The image is only read.")
    p.add_argument("file", metavar="F", help="the image")
    p.add_argument("dir", metavar="DIR", help="where the files go; made if missing")
    a = p.parse_args(args)
    if not os.path.isfile(a.file):
        raise Failed(f"{a.file}: no such file", 2)
    check_programs({"sfdisk": "fdisk", "debugfs": "e2fsprogs"})
    if os.path.exists(a.dir) and not os.path.isdir(a.dir):
        raise Failed(f"{a.dir} is not a directory", 2)
    made = not os.path.exists(a.dir)

    def work(folder, _):
        raw = a.file
        with open(a.file, "rb") as f:
            magic = f.read(4)
        if magic == b"QFI\xfb":
            raw = os.path.join(folder, "disk.raw")
            convert(a.file, raw, "raw")
        inside = disk.Ext(run_quietly, raw, disk.root_of(run_quietly, raw))
        for name in ("vmlinuz", "initrd.img"):
            if not any(inside.extract(path, os.path.join(folder, name)) for path in ("/" + name, "/boot/" + name)):
                raise Failed(f"{a.file} has neither /{name} nor /boot/{name}", 2)
        with open(os.path.join(folder, "cmdline"), "w", encoding="ascii") as f:
            f.write(f"root=UUID={inside.uuid()} ro console=ttyS0,115200 quiet\n")
        os.makedirs(a.dir, exist_ok=True)
        for name in ("vmlinuz", "initrd.img", "cmdline"):
            move(os.path.join(folder, name), os.path.join(a.dir, name))

    with_temporary(os.path.join(os.path.dirname(os.path.abspath(a.dir.rstrip("/"))), "kernel"), work)
    print(f"ectype: {a.dir}{' (new)' if made else ''}: vmlinuz, initrd.img, cmdline", file=sys.stderr)


def main():
    os.umask(0o022)
    try:
        {"create": create, "kernel": kernel}[sys.argv[1]](sys.argv[2:])
    except Failed as e:
        print(f"ectype: image {sys.argv[1]}: {e}" if not str(e).startswith("image ") else f"ectype: {e}", file=sys.stderr)
        sys.exit(e.status)
    except OSError as e:
        print(f"ectype: image {sys.argv[1]}: {e.filename or ''}: {e.strerror}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as e:
        print(f"ectype: image {sys.argv[1]}: interrupted, nothing made", file=sys.stderr)
        sys.exit(128 + e.number)


if __name__ == "__main__":
    main()
