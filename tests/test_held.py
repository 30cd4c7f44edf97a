"""Restores from an image while somebody still holds objects of the process: its twin, which gives them by itself
(every subject in the modes held and held-copy), or whoever has requested them, who gives them by --slot."""

import fcntl
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from reseat_test import each, timeout
from reseat_test.context import process_state

PYTHON = "/usr/bin/python3"
# Answers over a socket that we have the other end of, and holds a record lock all the while.
ANSWER = """
import fcntl, os, select, socket, sys
peer = socket.socket(fileno=int(sys.argv[1]))
file = open(sys.argv[2], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
data = bytearray(os.urandom(1 << 20))
digest, count, own = sum(data), 0, os.getpid()
print("ready", flush=True)
while line := peer.recv(100):
    count += 1
    peer.send(f"{count} {os.getpid() == own} {sum(data) == digest}".encode() + b" " + line)
"""


class Answering:
    """The program, and our end of its socket."""

    def __init__(self, context, **how):
        self.context = context
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(20)
        self.file = Path(context.path("locked"))
        self.file.write_text("x")
        self.program = context.start([PYTHON, "-c", ANSWER, str(theirs.fileno()), str(self.file)],
                                     pass_fds=[theirs.fileno()], **how)
        self.selector = theirs.fileno()
        self.program.expect("ready\n")
        theirs.close()
        self.pid, self.count = self.program.pid, 0

    def check(self):
        self.ours.send(b"x")
        self.count += 1
        answer = self.ours.recv(100).decode().split()
        assert answer == [str(self.count), "True", "True", "x"], answer

    def checkpoint(self, *options):
        directory = self.context.new_name("checkpoint")
        result = self.context.reseat("checkpoint", self.pid, "-o", directory, *options, "--json").json
        self.context.until(lambda: self.context.reap() or process_state(self.pid) is None, "the process to be gone")
        self.context._statuses.pop(self.pid, None)
        return directory, result["twin"]

    def is_locked(self):
        """Whether somebody has the record lock. (Who, is not always known: the owner of an heir's is dead.)"""
        query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        with open(self.file, "r+") as file:
            kind, *_ = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, query))
        return kind != fcntl.F_UNLCK


def gone(context, pid):
    context.until(lambda: context.reap() or process_state(pid) in (None, "Z"), f"process {pid} to be gone")


def test_what_is_said(context):
    """`plan` and the restore say what is kept; the image stays, and a second restore from it makes all anew."""
    one = Answering(context)
    directory, twin = one.checkpoint()
    plan = context.reseat("plan", directory, "--json").json
    assert {row["cold"]["fate"] for row in plan["capabilities"]} == {"kept"}, plan
    assert "from there" in plan["capabilities"][0]["cold"]["why"], plan
    result = context.reseat("restore", "--cold", directory, "--json").json
    assert result["source"] == "image" and result["same"] == result["slots"] == len(plan["capabilities"]), result
    gone(context, twin)
    one.check()
    plan = context.reseat("plan", directory, "--json").json
    assert {row["cold"]["fate"] for row in plan["capabilities"]} == {"recreated", "degraded"}, plan
    os.kill(one.pid, signal.SIGKILL)
    gone(context, one.pid)
    result = context.reseat("restore", "--cold", "--allow=degraded", directory, "--json").json
    assert result["same"] == 0 and result["slots"] == len(plan["capabilities"]), result


def test_selectors_with_something_else(context):
    """--slot goes before what the twin holds; keep is kept."""
    one = Answering(context)
    directory, _ = one.checkpoint()
    result = context.reseat("restore", "--cold", "--slot", f"{one.selector}=keep", "--slot", "2=null", directory,
                            "--json").json
    assert result["same"] == result["slots"] - 1, result
    assert os.readlink(f"/proc/{one.pid}/fd/2") == "/dev/null"
    one.check()


def test_what_lost_its_name(context):
    """A program, a mapped file and a working directory that were removed: the twin has them."""
    place = context.path("place")
    os.mkdir(place)
    python = context.path("python-copy")
    shutil.copy2(os.path.realpath(PYTHON), python)
    program = context.start([python, "-c", "import sys\nprint('ready', flush=True)\n"
                             "for line in sys.stdin: print(line, end='', flush=True)"],
                            environment={"PYTHONHOME": "/usr"}, cwd=place)
    program.expect("ready\n")
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "-o", directory)
    gone(context, program.pid)
    context.take_status(program.pid)
    os.unlink(python)
    os.rmdir(place)
    context.reseat("restore", "--cold", directory)
    program.send("x\n")
    program.expect("x\n")
    for name, path in ("exe", python), ("cwd", place):
        assert os.readlink(f"/proc/{program.pid}/{name}") == f"{path} (deleted)"


# ---- when it fails ----


def test_nothing_is_lost(context):
    """Of a damaged image nothing is made, and the twin has everything that it had."""
    one = Answering(context)
    directory, twin = one.checkpoint()
    core = directory / f"{one.pid}.core"
    whole = core.read_bytes()
    with open(core, "r+b") as file:
        file.seek(len(whole) // 2)
        file.write(bytes(byte ^ 0xff for byte in whole[len(whole) // 2:][:4096]))
    context.reseat("restore", "--cold", directory, status=1)
    assert process_state(twin) == "S" and one.is_locked()
    core.write_bytes(whole)
    context.restore(directory)
    one.check()


@each(between=["nothing", "restore"])
def test_two_that_want_the_lock(context, between):
    """Whoever waits for the record lock may get it when the twin lets go: the restore fails, the twin waits in turn, and
    has it again when it is free; or whoever is restored from it."""
    one = Answering(context)
    waiting = context.start([PYTHON, "-c", f"import fcntl, time\nfile = open({str(one.file)!r}, 'r+')\n"
                             "fcntl.lockf(file, fcntl.LOCK_EX)\nprint('got it', flush=True)\ntime.sleep(100)"])
    fcntl_number = "72 "
    context.until(lambda: open(f"/proc/{waiting.pid}/syscall").read().startswith(fcntl_number), "it to wait")
    for _ in range(50):  # it is woken, and may be too late
        directory, twin = one.checkpoint()
        result = context.reseat("restore", "--cold", directory, status=None)
        if result.status != 0:
            break
        one.check()
        shutil.rmtree(directory)
    assert result.status == 1 and "somebody else has taken it meanwhile" in result.stderr, result
    waiting.expect("got it\n")
    if between == "restore":
        refusal = context.reseat("restore", directory, status=1)
        assert "somebody else has taken it meanwhile" in refusal.stderr, refusal.stderr
    assert process_state(twin) == "S"
    waiting.kill(signal.SIGKILL)
    waiting.wait()
    if between == "nothing":
        context.until(one.is_locked, "the twin to have the lock again")
    context.restore(directory)
    assert one.is_locked()
    one.check()


@timeout(240)
@each(form=["heir", "copy"])
def test_killed_at_any_time(context, form):
    """Reseat is killed in the middle: the process runs and the twin is gone, or the twin gives back all of it."""
    one = Answering(context)
    options = ["--leave-running"] if form == "copy" else []
    usual, whole = None, 0

    def end_of_original():
        if form == "copy":
            os.kill(one.pid, signal.SIGKILL)

    def checkpoint():
        directory = context.new_name("checkpoint")
        twin = context.reseat("checkpoint", one.pid, "-o", directory, *options, "--json").json["twin"]
        end_of_original()
        gone(context, one.pid)
        return directory, twin

    for round in range(25):
        directory, twin = checkpoint()
        began = time.monotonic()
        reseat = context.spawn([context.command, "restore", "--cold", directory], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        if usual:
            time.sleep(usual * random.uniform(0.1, 1.1))
            os.kill(reseat, signal.SIGKILL)
        context.until(lambda: context.reap() or process_state(reseat) is None, "the end of reseat")
        usual = usual or time.monotonic() - began
        context.until(lambda: context.reap() or (process_state(twin) is None) != (process_state(one.pid) is None),
                      "either the twin or the process to be there")
        if process_state(twin) is None:
            whole += 1
        else:
            context.restore(directory)
        assert one.is_locked()
        one.check()
        context.reseat("drop", directory)
        shutil.rmtree(directory, ignore_errors=True)
    assert 0 < whole < 25, whole


# ---- without a twin ----


def test_requested_before(context):
    """Who has requested a capability holds its object, also when the process has ended, and gives it back."""
    one = Answering(context)
    directory = context.path("checkpoint")
    steps = (f"{context.command} checkpoint {one.pid} --image --allow=degraded -o {directory} && "
             f"{context.command} restore --cold --allow=degraded {directory} --slot {one.selector}=fd:9")
    context.reseat("request", one.pid, one.selector, "--to", "9", "--", "sh", "-c", steps)
    one.check()
