"""What a machine's processes have for themselves.

of(pid): a Footprint of the monitor and the processes it started. Counted are
pages that no other process maps, swap, and shared memory of the monitor's own
(the code cache, which smaps calls shared because it is mapped twice). Pages of
the snapshot's file that nobody else has mapped so far are in `clean` alone:
they are the page cache's, and can be dropped. Page tables are apart.
"""
import glob
import re


def processes(pid):
    found = [pid]
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with open(path, encoding="ascii") as f:
            for child in f.read().split():
                found += processes(int(child))
    return found


class Footprint:
    def __init__(self):
        self.dirty = self.clean = self.own_shared = self.page_tables = 0  # KiB

    def add(self, pid):
        mapped, size = {}, None
        with open(f"/proc/{pid}/smaps", encoding="utf-8") as f:
            for line in f:
                head = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)", line)
                if head:
                    path = head.group(1)
                    continue
                key, size = line.split(":", 1)
                if key in ("Private_Dirty", "Swap"):
                    self.dirty += int(size.split()[0])
                elif key == "Private_Clean":
                    self.clean += int(size.split()[0])
                elif key == "Shared_Dirty" and path.startswith("/memfd:"):
                    mapped[path] = max(mapped.get(path, 0), int(size.split()[0]))
        self.own_shared += sum(mapped.values())
        with open(f"/proc/{pid}/status", encoding="utf-8") as f:
            self.page_tables += int(re.search(r"VmPTE:\s*(\d+)", f.read()).group(1))

    def mib(self):
        return (self.dirty + self.own_shared) / 1024

    def __str__(self):
        return (f"{self.mib():.1f} MiB: {self.dirty / 1024:.1f} written, {self.own_shared / 1024:.1f} of code cache; besides "
                f"{self.clean / 1024:.1f} of files that no other has mapped, {self.page_tables / 1024:.1f} of page tables")


def of(pid):
    f = Footprint()
    for p in processes(pid):
        f.add(p)
    return f
