#!/usr/bin/env python3
"""The console on a real terminal: raw while it runs, its size in the guest, Ctrl-A keys, restored whatever ends it."""
import os
import signal
import termios
from guest import linux, ok, finish, Timeout, IS_QEMU


def settings(fd):
    return termios.tcgetattr(fd)


def main():
    with linux(terminal=True, size=(37, 101)) as g:
        # what the terminal was before cannot be seen from inside: a fresh pty has fixed settings
        other_master, other = os.openpty()
        before = settings(other)
        try:
            g.expect(r"# ", 170)
        except Timeout as e:
            ok("boots on a terminal", False, e)
            return
        ok("boots on a terminal", True)
        raw = settings(g.slave)
        ok("the terminal is raw", not raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG))
        if not IS_QEMU:
            ok("the guest has the window's size", g.shell("stty size").strip() == "37 101", g.text[-300:])
        g.send("sleep 100\n")
        g.expect("sleep 100", 10)
        g.send("\x03")
        try:
            g.expect(r"# ", 20)
            ok("Ctrl-C goes to the guest", True)
        except Timeout as e:
            ok("Ctrl-C goes to the guest", False, e)
        g.send("\x01h")
        try:
            g.expect(r"(?i)ctrl-a x|C-a x", 10)
            ok("Ctrl-A h helps", True)
        except Timeout as e:
            ok("Ctrl-A h helps", False, e)
        g.send("echo \x01\x01 | od -An -tx1 | tr -d ' '\n" if not IS_QEMU else "\n")
        if not IS_QEMU:
            # the shell's line editor takes a lone Ctrl-A as "to the start of the line"
            g.send("\n")
        g.send("\x01x")
        status = g.wait(10)
        ok("Ctrl-A x ends the machine", status is not None, "still running")
        ok("the terminal is as before", settings(g.slave) == before, f"{settings(g.slave)} {before}")

    for name, sig in (("SIGTERM", signal.SIGTERM), ("SIGINT", signal.SIGINT), ("SIGHUP", signal.SIGHUP)):
        with linux(terminal=True) as g:
            try:
                g.expect(r".", 20)
            except Timeout:
                pass
            g.process.send_signal(sig)
            ok(f"{name} ends the machine", g.wait(10) is not None)
            ok(f"{name}: the terminal is as before", settings(g.slave) == before)


if __name__ == "__main__":
    main()
    finish()
