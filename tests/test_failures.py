"""Bad luck: what fails must fail clearly, and the target runs on as it was."""

import errno
import os
import signal
import time

from reseat_test import Skip, each, timeout

# Two threads that are joined, and a robust-looking conversation: a lost tid address would let join hang for ever.
JOINER = """
import sys, threading
go = threading.Event()
threads = [threading.Thread(target=go.wait) for _ in range(3)]
for thread in threads: thread.start()
print("ready", flush=True)
sys.stdin.readline()
go.set()
for thread in threads: thread.join()
print("joined", flush=True)
sys.stdin.readline()
"""

ECHO = """
import sys
print("ready", flush=True)
count = 0
for line in sys.stdin:
    count += 1
    print(count, line, end="", flush=True)
"""


def start(context, source):
    context.need("python3")
    program = context.start(["python3", "-c", source])
    program.expect("ready\n")
    return program


def full_file_system(context):
    """A directory in which nothing can be written any more, but directories made."""
    place = context.directory / "full"
    place.mkdir()
    if os.geteuid() != 0:
        raise Skip("mounting a small file system takes root")
    context.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)])
    context.defer(context.run, ["umount", "-l", str(place)])
    with open(place / "filler", "wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 1024):
                pass
        except OSError as failure:
            assert failure.errno == errno.ENOSPC
    return place


@each(flags=[[], ["--leave-running"]])
def test_no_space(context, flags):
    program = start(context, JOINER)
    place = full_file_system(context)
    result = context.reseat("checkpoint", program.pid, "--live", *flags, "-o", place / "checkpoint", status=1)
    assert "No space left" in result.stderr, result
    assert sorted(os.listdir(place)) == ["filler"], "the draft was left"
    program.send("go\n")
    program.expect("joined\n")
    # And once more, where there is room.
    directory = context.checkpoint(program, "heir")
    context.restore(directory)


def test_directory_exists(context):
    program = start(context, ECHO)
    (context.directory / "there").mkdir()
    result = context.reseat("checkpoint", program.pid, "--live", "-o", context.directory / "there", status=1)
    assert "exists already" in result.stderr, result
    program.send("a\n")
    program.expect("1 a\n")


def twin_of(context, directory):
    import json
    rows = json.loads(context.reseat("list", "--json").stdout)
    return next(row["twin"] for row in rows if row["dir"] == str(directory))


@each(form=["heir", "copy"])
def test_twin_is_deaf(context, form):
    """No stray signal wakes a twin into running the program a second time, or ends it."""
    program = start(context, ECHO)
    directory = context.new_name("checkpoint")
    flags = ["--leave-running"] if form == "copy" else []
    context.reseat("checkpoint", program.pid, "--live", *flags, "-o", directory)
    twin = twin_of(context, directory)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTSTP,
                   signal.SIGSTOP, signal.SIGCONT, signal.SIGALRM, signal.SIGPIPE, signal.SIGCHLD):
        os.kill(twin, number)
    time.sleep(0.05)
    assert twin_of(context, directory) == twin
    if form == "copy":
        os.kill(program.pid, signal.SIGKILL)
    context.restore(directory)
    program.send("b\n")
    program.expect("1 b\n")


def test_twin_was_killed(context):
    program = start(context, ECHO)
    directory = context.checkpoint(program, "heir")
    os.kill(twin_of(context, directory), signal.SIGKILL)
    result = context.reseat("restore", directory, status=1)
    assert "twin" in result.stderr and "gone" in result.stderr, result
    context.reseat("drop", directory)
    assert not os.path.exists(directory)


def test_terminal_is_gone(context):
    """A session leader's terminal is closed while its twin sleeps: it can be had back without one, if that is allowed."""
    ours, theirs = os.openpty()
    leader = context.start(["python3", "-c", """
import fcntl, os, signal, sys, termios, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
print("ready", flush=True)
while True:
    time.sleep(0.01)
    open(sys.argv[1], "w").write(open("/proc/self/stat").read().rsplit(")")[1].split()[4])
""", context.path("tty")], stdin=theirs)
    os.close(theirs)
    leader.expect("ready\n")
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", leader.pid, "--live", "-o", directory)
    os.close(ours)
    refused = context.reseat("restore", directory, status=3)
    assert "controlling terminal" in refused.stderr, refused
    context.reseat("restore", directory, "--allow=degraded")
    context.until(lambda: open(context.path("tty")).read() == "0", "the process to be without a terminal")


def test_pid_is_taken(context):
    program = start(context, ECHO)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "--live", "--leave-running", "-o", directory)
    result = context.reseat("restore", directory, "--wait", "200ms", status=1)
    assert f"PID {program.pid} is taken by the process" in result.stderr, result
    program.send("c\n")
    program.expect("1 c\n")


@timeout(60)
def test_many_in_a_row(context):
    program = start(context, ECHO)
    for i in range(30):
        context.restore(context.checkpoint(program, "heir"))
        program.send("d\n")
        program.expect(f"{i + 1} d\n")
