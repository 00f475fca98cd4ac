#!/usr/bin/env python3
"""The console on a real terminal: raw while it runs, its size in the guest, Ctrl-A keys, restored whatever ends it."""
import os
import signal
import termios
import time
from guest import Guest, linux, ok, finish, Timeout, IS_QEMU, PROMPT


def settings(fd):
    return termios.tcgetattr(fd)


def start(**kw):
    return linux(**kw) if IS_QEMU else Guest(**kw)


def main():
    with start(terminal=True, size=(37, 101)) as g:
        # what the terminal was before cannot be seen from inside: a fresh pty has fixed settings
        other_master, other = os.openpty()
        before = settings(other)
        try:
            g.expect(PROMPT, 170)
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
        time.sleep(3)  # the shell has started it
        g.send("\x03")
        try:
            g.expect(PROMPT, 20)
            ok("Ctrl-C goes to the guest", True)
        except Timeout as e:
            ok("Ctrl-C goes to the guest", False, e)
        g.send("\x01h")
        try:
            g.expect(r"(?i)ctrl-a x|C-a x", 10)
            ok("Ctrl-A h helps", True)
        except Timeout as e:
            ok("Ctrl-A h helps", False, e)
        # Ctrl-A Ctrl-A sends one: the shell's line editor goes to the start of the line
        g.send("hello\x01\x01echo \n")
        try:
            g.expect(r"\nhello\r", 10)
            ok("Ctrl-A Ctrl-A sends one", True)
        except Timeout as e:
            ok("Ctrl-A Ctrl-A sends one", False, e)
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
