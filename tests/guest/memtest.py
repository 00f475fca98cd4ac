#!/usr/bin/env python3
"""memtest86+ on the serial console: part of its first pass, without errors."""
import re
import time
from guest import Guest, cache, ok, finish, SLOW


def screen(text):
    """The characters without the terminal's control sequences."""
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9])", " ", text)


if __name__ == "__main__":
    with Guest("--kernel", cache("memtest"), "--append", "console=ttyS0,115200 nosmp", "--memory", "64M") as g:
        deadline = time.monotonic() + 150 * SLOW
        tests = set()
        while time.monotonic() < deadline and g.pump(1):
            text = screen(g.text)
            tests = set(re.findall(r"#(\d+) +\[", text))
            if len(tests) >= 3 or g.process.poll() is not None:
                break
        text = screen(g.text)
        ok("memtest86+ starts", "Memtest86" in text, text[-500:] + g.errors())
        ok("memtest86+ finds the memory", re.search(r"6[0-9](\.\d+)?\s*M", text), text[:2000])
        ok("memtest86+ goes on to its third test", len(tests) >= 3, f"{sorted(tests)}: {text[-600:]}")
        errors = [int(n) for n in re.findall(r"Errors:\s*(\d+)", text)]
        ok("memtest86+ finds no errors", not any(errors) and "FAIL" not in text, text[-600:])
        ok("memtest86+ is still running", g.process.poll() is None, g.errors())
    finish()
