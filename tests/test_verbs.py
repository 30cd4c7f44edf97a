"""The verbs that look at and change the capability space of a running process: caps --shared, request, install, close,
plan."""

import ctypes
import json
import os
import pwd
import signal
import socket

from reseat_test import Skip, each
from reseat_test.context import process_state

NOBODY = "nobody"
PTRACE_SEIZE = 0x4206


def sleeper(context, **how):
    return context.start(["sleep", "1000"], **how)


def as_nobody():
    """How a command runs as an ordinary user."""
    if os.geteuid() != 0:
        raise Skip("only root can become another user")
    entry = pwd.getpwnam(NOBODY)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


def row_of(rows, selector):
    return next(row for row in rows if row["selector"] == selector)


def places(holders):
    return {(holder["pid"], holder["selector"]) for holder in holders}


# ---- caps --shared ----


def test_shared_names_holders_and_other_ends(context):
    read, write = os.pipe()
    reader, twice = (sleeper(context, stdin=read, stdout=None) for _ in range(2))
    writer = sleeper(context, stdin=None, stdout=write)
    row = row_of(context.reseat("caps", reader.pid, "--shared", "--json").json, 0)
    assert places(row["holders"]) == {(twice.pid, 0), (os.getpid(), read)}, row
    assert places(row["other_ends"]) == {(writer.pid, 1), (os.getpid(), write)}, row
    assert {"pid": writer.pid, "selector": 1, "command": "sleep"} in row["other_ends"]
    os.close(read)
    os.close(write)
    header, line = context.reseat("caps", "--shared", reader.pid).stdout.splitlines()[:2]
    assert header.split() == ["SEL", "KIND", "OBJECT", "ACCESS", "FLAGS", "HELD_ALSO_BY", "OTHER_END", "NAME"]
    assert line.split()[5:7] == [f"{twice.pid}:0(sleep)", f"{writer.pid}:1(sleep)"], line


@each(what=["unix", "tcp", "tcp6", "fifo"])
def test_shared_finds_the_other_end(context, what):
    if what == "unix":
        one, other = socket.socketpair()
    elif what == "fifo":
        os.mkfifo(context.path("fifo"))
        one = open(os.open(context.path("fifo"), os.O_RDONLY | os.O_NONBLOCK), "rb")
        other = open(os.open(context.path("fifo"), os.O_WRONLY), "wb")
    else:  # a client that speaks IPv4 to a server that listens on IPv6
        listener = socket.create_server(("::" if what == "tcp6" else "127.0.0.1", 0), dualstack_ipv6=what == "tcp6",
                                        family=socket.AF_INET6 if what == "tcp6" else socket.AF_INET)
        one = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        other = listener.accept()[0]
        listener.close()
    first, second = sleeper(context, stdin=one), sleeper(context, stdin=other)
    one.close()
    other.close()
    for target, peer in (first, second), (second, first):
        row = row_of(context.reseat("caps", target.pid, "--shared", "--json").json, 0)
        assert places(row["other_ends"]) == {(peer.pid, 0)} and row["holders"] == [], row


def test_shared_is_not_fooled_by_equal_inodes(context):
    """The same file opened twice is two objects; so are two eventfds, which have one inode."""
    with open(context.path("file"), "w", encoding="utf-8") as first, open(context.path("file"), "w", encoding="utf-8") as second:
        one = sleeper(context, stdin=None, stdout=first, stderr=os.eventfd(0))
        other = sleeper(context, stdin=None, stdout=second, stderr=os.eventfd(0))
        rows = context.reseat("caps", one.pid, "--shared", "--json").json
        assert places(row_of(rows, 1)["holders"]) == {(os.getpid(), first.fileno())}
        assert all(holder["pid"] != other.pid for row in rows for holder in row["holders"]), rows


def test_shared_says_how_many_it_could_not_see(context):
    target = context.start(["sleep", "1000"], user=NOBODY) if os.geteuid() == 0 else sleeper(context)
    result = context.reseat("caps", target.pid, "--shared", "--json", **as_nobody())
    assert "could not be looked at" in result.stderr and len(result.json) == 3
    assert context.reseat("-q", "caps", target.pid, "--shared", **as_nobody()).stderr == ""


# ---- plan ----


def state_of(pid):
    """What a process shows of itself and that something done to it would change."""
    found = {}
    for name in "maps", "status", "timers", "wchan":
        try:
            with open(f"/proc/{pid}/{name}", encoding="utf-8") as file:
                found[name] = file.read()
        except OSError:
            found[name] = None
    found["status"] = [line for line in found["status"].splitlines() if line.startswith(("Tracer", "Sig", "Shd", "Threads", "Seccomp"))]
    found["fds"] = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in sorted(os.listdir(f"/proc/{pid}/fd"))}
    found["children"] = open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8").read()
    return found


def test_plan_of_a_plain_process(context):
    target = sleeper(context)
    context.until(lambda: "nanosleep" in open(f"/proc/{target.pid}/wchan", encoding="utf-8").read() or os.geteuid(), "it to sleep")
    before = state_of(target.pid)
    plan = context.reseat("plan", target.pid, "--json").json
    assert plan["pid"] == target.pid and plan["form"] == "heir" and plan["live"] == {"possible": True, "why": None}
    assert [(row["selector"], row["live"]["fate"]) for row in plan["capabilities"]] == [(0, "kept"), (1, "kept"), (2, "kept")]
    assert all(row["cold"]["fate"] in ("recreated", "degraded", "lost") for row in plan["capabilities"])
    assert all(item["fate"] == "note" for item in plan["process"]), plan["process"]
    assert state_of(target.pid) == before
    text = context.reseat("plan", target.pid).stdout
    assert text.splitlines()[0].split() == ["SEL", "KIND", "OBJECT", "LIVE", "COLD", "NAME"]
    assert "live restore: 3 kept, 0 recreated, 0 degraded, 0 lost\n" in text


PECULIAR = """
import ctypes, os, socket, sys, threading, time
own = os.pidfd_open(os.getpid())
os.dup2(own, 10)
os.close(own)
status = os.open("/proc/self/status", os.O_RDONLY)
os.dup2(status, 11)
os.dup2(status, 12)
os.close(status)
pair = socket.socketpair()
print("ready", flush=True)
count = 0
if "busy" in sys.argv:
    while True:
        count += 1
        if count % 1000 == 0:
            print(count, flush=True)
sys.stdin.read()
"""


def peculiar(context, *words):
    target = context.start(["python3", "-c", PECULIAR, *words])
    target.expect("ready")
    return target


def test_plan_says_what_is_degraded_and_why(context):
    target = peculiar(context)
    plan = context.reseat("plan", target.pid, "--json").json
    fates = {row["selector"]: row["live"] for row in plan["capabilities"]}
    assert fates[10]["fate"] == "degraded" and "pidfd on the process itself" in fates[10]["why"]
    assert fates[11]["fate"] == "recreated" and "opened again" in fates[11]["why"]
    text = context.reseat("plan", target.pid).stdout
    assert "  degraded, selector 10: " in text and "  recreated, selectors 11, 12: " in text
    # And it is so: the checkpoint refuses for exactly this reason.
    refused = context.reseat("checkpoint", target.pid, "--live", "-o", "d", status=3).stderr
    assert fates[10]["why"] in refused


def test_plan_speaks_of_children(context):
    target = context.start(["sh", "-c", "sleep 1000; echo back"])
    context.until(lambda: open(f"/proc/{target.pid}/task/{target.pid}/children", encoding="utf-8").read(), "the child")
    plan = context.reseat("plan", target.pid, "--json").json
    assert any(item["fate"] == "lost" and "child" in item["why"] for item in plan["process"])


def test_plan_leaves_a_busy_and_traced_target_alone(context):
    """We trace it: any stop, signal or change of its state would be told to us."""
    target = peculiar(context, "busy")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_SEIZE, target.pid, None, None) == 0, os.strerror(ctypes.get_errno())
    states = set()
    pid = context.spawn([context.command, "plan", target.pid, "--json"], stdout=open(context.path("plan"), "wb"))
    while process_state(pid) not in (None, "Z"):
        states.add(process_state(target.pid))
        target.read_available()
    assert states <= {"R", "S"}, states
    assert os.waitpid(target.pid, os.WNOHANG) == (0, 0), "it was stopped"
    with open(context.path("plan"), encoding="utf-8") as file:
        plan = json.load(file)
    assert not plan["live"]["possible"] and "traced" in plan["live"]["why"], plan["live"]
    assert len(plan["capabilities"]) >= 5
    count = len(target.output)
    context.until(lambda: target.read_available(1) and len(target.output) > count, "it to count on")


def test_plan_of_a_checkpoint(context):
    target = peculiar(context)
    directory = context.path("parked")
    context.reseat("checkpoint", target.pid, "--live", "-o", directory, "--allow=degraded")
    plan = context.reseat("plan", directory, "--json").json
    fates = {row["selector"]: row["live"]["fate"] for row in plan["capabilities"]}
    assert fates[0] == "kept" and fates[11] == "recreated" and plan["pid"] == target.pid
    context.reseat("restore", directory)
    assert target.alive
    context.reseat("plan", "nowhere", status=1)


def test_plan_of_a_dead_twin(context):
    target = sleeper(context)
    directory = context.path("parked")
    twin = context.reseat("checkpoint", target.pid, "--live", "-o", directory, "--json").json["twin"]
    os.kill(twin, signal.SIGKILL)
    context.until(lambda: context.reap() or process_state(twin) is None, "the twin to end")
    plan = context.reseat("plan", directory, "--json").json
    assert not plan["live"]["possible"] and plan["live"]["why"]
    assert "live restore: not possible." in context.reseat("plan", directory).stdout


def test_plan_of_who_cannot_be_looked_at(context):
    assert "1 " in context.reseat("plan", 1, status=1, **as_nobody()).stderr
    target = sleeper(context)
    target.kill()
    target.wait()
    assert str(target.pid) in context.reseat("plan", target.pid, status=1).stderr
