"""The verbs that look at and change the capability space of a running process: caps --shared, request, install, close,
plan."""

import ctypes
import json
import os
import pwd
import signal
import socket

from reseat_test import Skip, each
from reseat_test.context import process_name, process_state

NOBODY = "nobody"
PTRACE_SEIZE = 0x4206


def sleeper(context, **how):
    """A process that is asleep: it has started up."""
    target = context.start(["sleep", "1000"], **how)
    context.until(lambda: process_name(target.pid) == "sleep" and process_state(target.pid) == "S", "sleep to be asleep")
    return target


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


@each(what=["unix", "tcp", "tcp6", "fifo", "pty"])
def test_shared_finds_the_other_end(context, what):
    if what == "unix":
        one, other = socket.socketpair()
    elif what == "pty":
        one, other = (open(fd, "rb", buffering=0) for fd in os.openpty())
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
    target = sleeper(context, user=NOBODY) if os.geteuid() == 0 else sleeper(context)
    result = context.reseat("caps", target.pid, "--shared", "--json", **as_nobody())
    assert "could not be looked at" in result.stderr and len(result.json) == 3
    assert context.reseat("-q", "caps", target.pid, "--shared", **as_nobody()).stderr == ""


# ---- request ----


def test_request_gives_the_very_object(context):
    with open(context.path("text"), "w+", encoding="utf-8") as file:
        file.write("one\ntwo\n")
        file.flush()
        file.seek(4)
        target = sleeper(context, stdin=file)
    result = context.reseat("request", target.pid, 0, "--", "cat")
    assert result.stdout == "two\n" and result.stderr == ""
    assert context.reseat("request", target.pid, 0, "--", "cat").stdout == "", "the position is not shared"


def test_request_to_another_number(context):
    target = sleeper(context)
    result = context.reseat("request", target.pid, 1, "--to", 7, "--", "sh", "-c", "echo hello >&7; ls /proc/self/fd")
    target.expect("hello")
    assert set(result.stdout.split()) == {"0", "1", "2", "3", "7"}, result  # 3: ls itself
    for number in 0, 1, 2:
        assert context.reseat("request", target.pid, 0, "--to", number, "--", "readlink", f"/proc/self/fd/{number}",
                              status=None).status in (0, 1)


def test_request_several(context):
    """Also where the numbers that they go to are those that we hold others at meanwhile."""
    target = sleeper(context)
    numbers = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    for number in range(10, 21):
        with open(context.path(f"{number}"), "w+", encoding="utf-8") as file:
            context.reseat("install", target.pid, number, "--from", file.fileno(), pass_fds=[file.fileno()])
    pairs = [f"{number + 10}:{10 - number}" for number in numbers]
    context.reseat("request", target.pid, *pairs, "--", "sh", "-c", "for n in 3 4 5 6 7 8 9; do echo to $n >&$n; done")
    for number in range(3, 10):
        assert text_of(context.path(str(20 - number))) == f"to {number}\n"
    result = context.reseat("request", target.pid, "10:3", "77:4", "--", "true", status=1)
    assert "selector 77" in result.stderr


@each(number=[1, 2])
def test_request_to_a_standard_stream(context, number):
    target = sleeper(context)
    result = context.reseat("request", target.pid, 1, "--to", number, "--", "sh", "-c", f"echo to {number} >&{number}")
    target.expect(f"to {number}")
    assert result.stdout == "" and result.stderr == ""
    # Why the command cannot be run is said on our own standard error all the same.
    assert "/no/such" in context.reseat("request", target.pid, 1, "--to", number, "--", "/no/such", status=127).stderr


def test_request_ends_as_the_command_does(context):
    target = sleeper(context)
    for command, status in (["sh", "-c", "exit 7"], 7), (["true"], 0), (["/no/such"], 127), (["/etc/passwd"], 126), (
            ["sh", "-c", "kill -TERM $$"], -15):
        assert context.reseat("request", target.pid, 0, "--", *command, status=None).status == status, command
    # Options behind -- are the command's.
    assert context.reseat("request", target.pid, 0, "--", "echo", "--json", "-q").stdout == "--json -q\n"
    # SIGPIPE, which we ignore, is as it was.
    signals = context.reseat("request", target.pid, 0, "--", "grep", "SigIgn", "/proc/self/status").stdout
    plain = context.run(["grep", "SigIgn", "/proc/self/status"]).stdout
    assert signals == plain


def test_request_refuses(context):
    target = sleeper(context)
    unused = context.reseat("request", target.pid, 9, "--", "true", status=1)
    assert f"selector 9 of process {target.pid} is unused" in unused.stderr
    assert "2147483647" in context.reseat("request", target.pid, 2147483647, "--", "true", status=1).stderr
    assert "descriptor 99999999" in context.reseat("request", target.pid, 0, "--to", 99999999, "--", "true", status=1).stderr
    target.kill()
    target.wait()
    assert str(target.pid) in context.reseat("request", target.pid, 0, "--", "true", status=1).stderr


# ---- install and close ----

ECHO = """
import os, sys
while line := os.read(0, 100):
    for word in line.decode().split():
        try:
            os.write(int(word), b"to " + word.encode() + b"\\n")
        except OSError as error:
            os.write(1, error.strerror.encode() + b"\\n")
"""


def echo(context):
    """Writes to the selectors that it is told, and says what goes wrong."""
    return context.start(["python3", "-c", ECHO])


def fdinfo_flags(pid, selector):
    with open(f"/proc/{pid}/fdinfo/{selector}", encoding="utf-8") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("flags"))


def text_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def test_install_what_we_have(context):
    target = echo(context)
    with open(context.path("out"), "w", encoding="utf-8") as file:
        assert context.reseat("install", target.pid, 5, "--from", file.fileno(), pass_fds=[file.fileno()]).stdout == ""
        target.send("5 1")
        target.expect("to 1")
        assert text_of(context.path("out")) == "to 5\n"
        # The very object: the position that the target has moved is ours.
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 5
    # Our standard input, if nothing is said; and JSON.
    assert context.reseat("install", target.pid, 6, "--json", stdin="text").json == {"pid": target.pid, "installed": [6]}
    assert "stdin" in os.readlink(f"/proc/{target.pid}/fd/6")


def test_install_a_file(context):
    target = sleeper(context)
    out = context.path("out")
    assert "--create" in context.reseat("install", target.pid, 5, "--open", out, status=1).stderr
    assert not os.path.exists(out) and not os.path.exists(f"/proc/{target.pid}/fd/5")
    context.reseat("install", target.pid, 5, "--open", out, "--create")
    assert fdinfo_flags(target.pid, 5) & 0o2003003 == os.O_RDWR
    with open(out, "w", encoding="utf-8") as file:
        file.write("before\n")
    for access, flags in ("r", os.O_RDONLY), ("w", os.O_WRONLY), ("rw", os.O_RDWR), ("append", os.O_WRONLY | os.O_APPEND):
        context.reseat("install", target.pid, 5, "--open", out, "--access", access, "--replace", "--cloexec")
        assert fdinfo_flags(target.pid, 5) & (os.O_ACCMODE | os.O_APPEND | os.O_CLOEXEC) == flags | os.O_CLOEXEC, access
    assert text_of(out) == "before\n", "it was truncated"
    # In place of something: for the same access, and at the end; close-on-exec as it was.
    context.reseat("install", target.pid, 1, "--open", out, "--replace")
    context.reseat("install", target.pid, 5, "--open", out, "--replace")
    assert fdinfo_flags(target.pid, 1) & (os.O_ACCMODE | os.O_APPEND | os.O_CLOEXEC) == os.O_WRONLY | os.O_APPEND
    assert fdinfo_flags(target.pid, 5) & os.O_CLOEXEC
    context.reseat("install", target.pid, 0, "--open", "/dev/null", "--replace")
    assert fdinfo_flags(target.pid, 0) & os.O_ACCMODE == os.O_RDONLY


def test_install_in_two_places_at_once(context):
    target = sleeper(context)
    context.reseat("install", target.pid, 1, 2, 40, "--open", context.path("out"), "--create", "--replace")
    rows = context.reseat("caps", target.pid, "--json").json
    assert len({row_of(rows, selector)["object"] for selector in (1, 2, 40)}) == 1
    # All or none.
    result = context.reseat("install", target.pid, 41, 40, "--open", "/dev/null", status=1)
    assert "selector 40" in result.stderr and not os.path.exists(f"/proc/{target.pid}/fd/41")


def test_install_copy(context):
    one, other = sleeper(context), sleeper(context)
    context.reseat("install", one.pid, 9, "--copy", f"{other.pid}:0")
    rows = context.reseat("caps", one.pid, other.pid, "--json").json
    assert len({row["object"] for row in rows if (row["pid"], row["selector"]) in ((one.pid, 9), (other.pid, 0))}) == 1
    assert "unused" in context.reseat("install", one.pid, 10, "--copy", f"{other.pid}:77", status=1).stderr
    assert context.reseat("install", one.pid, 10, "--copy", "4194304:0", status=1).stderr


def test_install_says_what_is_in_the_way(context):
    target = sleeper(context)
    before = state_of(target.pid)
    result = context.reseat("install", target.pid, 0, "--open", "/dev/null", status=1)
    assert f"{target.pid}" in result.stderr and "selector 0" in result.stderr and "pipe" in result.stderr
    assert "--replace" in result.stderr
    assert context.reseat("install", target.pid, 0, "--open", "/no/such/file", "--replace", status=1).stderr
    assert state_of(target.pid) == before
    # Beyond what the target may have.
    assert context.reseat("install", target.pid, 2147483000, "--open", "/dev/null", status=1).stderr
    assert state_of(target.pid) == before


def test_close(context):
    target = echo(context)
    reader = context.start(["cat"], stdin=(ends := os.pipe())[0])
    os.close(ends[0])
    context.reseat("install", target.pid, 5, 6, "--from", ends[1], pass_fds=[ends[1]])
    os.close(ends[1])
    context.until(lambda: reader.alive, "cat to run")
    result = context.reseat("close", target.pid, 5, 9, status=1)
    assert "selector 9" in result.stderr and os.path.exists(f"/proc/{target.pid}/fd/5"), "all or none"
    assert context.reseat("close", target.pid, 5, 6, "--json").json == {"pid": target.pid, "closed": [5, 6]}
    reader.wait()  # sees the end
    target.send("5 1")
    target.expect("Bad file descriptor")
    target.expect("to 1")
    assert str(target.pid) in context.reseat("close", target.pid, 5, status=1).stderr


def test_changing_needs_the_right_to(context):
    target = sleeper(context)
    other = as_nobody()
    for arguments in ("install", target.pid, 5, "--open", "/dev/null"), ("close", target.pid, 0), (
            "request", target.pid, 0, "--", "true"):
        result = context.reseat(*arguments, status=1, **other)
        assert str(target.pid) in result.stderr and "root" in result.stderr, result
    # Their own they may.
    theirs = sleeper(context, user=NOBODY, cwd="/")
    context.reseat("install", theirs.pid, 5, "--open", "/dev/null", **other)
    context.reseat("close", theirs.pid, 5, **other)


THREADS = """
import sys, threading, time
def spin():
    while True: sum(range(1000))
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
print("ready", flush=True)
while line := sys.stdin.readline():
    print("still here", flush=True)
"""


@each(state=["stopped", "busy", "threads"])
def test_install_whatever_it_does(context, state):
    if state == "threads":
        target = context.start(["python3", "-c", THREADS])
        target.expect("ready")
    else:
        target = peculiar(context, "busy")
    if state == "stopped":
        target.kill(signal.SIGSTOP)
        context.until(lambda: process_state(target.pid) == "T", "it to stop")
    context.reseat("install", target.pid, 20, 21, "--open", "/etc/passwd")
    context.reseat("close", target.pid, 20)
    assert os.readlink(f"/proc/{target.pid}/fd/21") == "/etc/passwd" and not os.path.exists(f"/proc/{target.pid}/fd/20")
    if state == "stopped":
        assert process_state(target.pid) == "T", "it was left stopped, and shall stay so"
        target.kill(signal.SIGCONT)
    if state == "threads":
        target.send("are you\n")
        target.expect("still here")
    else:
        count = len(target.output)
        context.until(lambda: target.read_available(1) and len(target.output) > count, "it to count on")


def test_install_into_a_traced_process(context):
    target = sleeper(context)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_SEIZE, target.pid, None, None) == 0
    for arguments in ("install", target.pid, 5, "--open", "/dev/null"), ("close", target.pid, 0):
        result = context.reseat(*arguments, status=1)
        assert "traced" in result.stderr and str(os.getpid()) in result.stderr, result
    assert context.reseat("request", target.pid, 1, "--", "true").stderr == "", "it needs no tracing"


def test_through_core(context):
    """The same verbs with the rights of the service."""
    service = context.path("core")
    core = context.start([context.command, "core", "--socket", service], stdin=None, stdout=None)
    context.until(lambda: os.path.exists(service), "core to listen")
    target, other = echo(context), sleeper(context)
    through = ["--core", service]
    context.reseat("install", target.pid, 5, 6, "--open", context.path("out"), "--create", *through)
    target.send("5 6 1")
    target.expect("to 1")
    assert text_of(context.path("out")) == "to 5\nto 6\n"
    context.reseat("install", target.pid, 6, "--open", context.path("out"), "--replace", "--access", "r", *through)
    context.reseat("install", target.pid, 6, "--open", context.path("out"), "--replace", *through)
    assert fdinfo_flags(target.pid, 6) & os.O_ACCMODE == os.O_RDONLY
    context.reseat("install", target.pid, 7, "--copy", f"{other.pid}:0", *through)
    assert context.reseat("request", target.pid, 6, *through, "--", "cat").stdout == "to 5\nto 6\n"
    assert "selector 77" in context.reseat("close", target.pid, 7, 77, *through, status=1).stderr
    assert context.reseat("close", target.pid, 7, 6, *through, "--json").json == {"pid": target.pid, "closed": [7, 6]}
    assert "--replace" in context.reseat("install", target.pid, 5, "--open", "/dev/null", *through, status=1).stderr
    core.kill(signal.SIGTERM)
    core.wait()
    assert service in context.reseat("close", target.pid, 5, *through, status=1).stderr


# ---- plan ----


def state_of(pid):
    """What a process shows of itself and that something done to it would change."""
    found = {}
    for name in "maps", "status", "timers":
        try:
            with open(f"/proc/{pid}/{name}", encoding="utf-8") as file:
                found[name] = file.read()
        except OSError:
            found[name] = None
    found["status"] = [line for line in found["status"].splitlines() if line.startswith(("Tracer", "SigP", "SigB", "SigI", "SigC", "Shd", "Threads", "Seccomp"))]
    found["fds"] = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in sorted(os.listdir(f"/proc/{pid}/fd"))}
    found["children"] = open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8").read()
    return found


def test_plan_of_a_plain_process(context):
    target = sleeper(context)
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


def test_plan_with_slots(context):
    target = peculiar(context)

    def plan(*slots, status=0):
        return context.reseat("plan", target.pid, *(word for slot in slots for word in ("--slot", slot)), "--json", status=status)

    fates = {row["selector"]: row for row in plan("10=null", "11=/dev/null", "0=close", "77=null").json["capabilities"]}
    assert {fates[selector][kind]["fate"] for selector in (10, 11, 0) for kind in ("live", "cold")} == {"replaced"}
    assert fates[1]["live"]["fate"] == "kept"
    assert ", 1 replaced" in context.reseat("plan", target.pid, "--slot", "10=close").stdout
    kept = plan("1=keep").json
    assert kept["live"]["possible"] and not kept["cold"]["possible"] and "selector 1 " in kept["cold"]["why"].lower()
    failing = plan("10=fail").json
    assert not failing["live"]["possible"] and "degraded" in failing["live"]["why"]
    assert plan("11=fail").json["live"]["possible"] and not plan("11=keep").json["live"]["possible"]
    assert "selector 77" in plan("77=keep", status=1).stderr


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


def test_plan_of_an_image(context):
    """Twin and image, then the image alone: as it is said, so it comes."""
    with open(context.path("data"), "w+", encoding="utf-8") as file:
        file.write("12345")
        file.flush()
        target = sleeper(context, stdin=file, stdout=None)
    directory = context.path("parked")
    before = context.reseat("plan", target.pid, "--json").json
    context.reseat("checkpoint", target.pid, "-o", directory)
    both = context.reseat("plan", directory, "--json").json
    assert both["live"]["possible"] and both["cold"]["possible"], both
    assert {row["live"]["fate"] for row in both["capabilities"]} == {"kept"}
    context.reseat("drop", directory)
    image = context.reseat("plan", directory, "--json").json
    assert not image["live"]["possible"] and image["cold"]["possible"], image
    assert {row["cold"]["fate"] for row in both["capabilities"]} == {"kept"}  # the twin gives them
    for plan in before, image:
        assert [(row["selector"], row["kind"], row["cold"]["fate"]) for row in plan["capabilities"]] == [
            (0, "file", "recreated"), (1, "device", "recreated"), (2, "device", "recreated")], plan
    os.rename(context.path("data"), context.path("elsewhere"))
    lost = context.reseat("plan", directory, "--json").json["capabilities"][0]["cold"]
    assert lost["fate"] in ("degraded", "lost") and lost["why"], lost
    context.until(lambda: context.reap() or process_state(target.pid) is None, "the PID to become free")
    context.reseat("restore", directory, status=3)
    os.rename(context.path("elsewhere"), context.path("data"))
    context.reseat("restore", directory)
    assert target.alive


def test_plan_of_who_cannot_be_looked_at(context):
    assert "1 " in context.reseat("plan", 1, status=1, **as_nobody()).stderr
    target = sleeper(context)
    target.kill()
    target.wait()
    assert str(target.pid) in context.reseat("plan", target.pid, status=1).stderr
