"""Core, the service: its sessions, the example client, and how it is run."""

import os
import signal
import socket
import struct
import time
from pathlib import Path

from reseat_test.core import (ALL, EINVAL, EKEYEXPIRED, EOPNOTSUPP, EPERM, ESRCH, EXAMPLE, NOBODY, Core, in_child, pd,
                              refused, sleeper, table)

# ---- the example, as it stands ----


def test_example(context):
    assert len(EXAMPLE.read_text().splitlines()) < 150
    core, target = Core(context), sleeper(context)
    Path(context.path("file")).write_text("hello\n")

    def client(*words, status=0):
        return context.run([EXAMPLE, *words], status=status, environment={"RESEAT_CORE": core.path})

    before = table(target.pid)
    assert client("list", target.pid).stdout.split() == ["0", "1", "2"]
    client("install", target.pid, 77, context.path("file"))
    assert client("list", target.pid).stdout.split() == ["0", "1", "2", "77"]
    assert client("copy", target.pid, 77).stdout == "hello\n"
    assert client("same", target.pid, 77, target.pid, 77).stdout == "same\n"
    assert client("same", target.pid, 77, target.pid, 1).stdout == "different\n"
    assert "77" in client("install", target.pid, 77, context.path("file"), status=1).stderr
    client("close", target.pid, 77)
    assert "unused" in client("copy", target.pid, 77, status=1).stderr
    lent = client("lend", target.pid, "list", 60, "--", "python3", "-c", "import sys; sys.path.insert(0, sys.argv[1])\n"
                  "import pd_client\nsession = pd_client.Session(3)\nprint(*session.list())\nsession.close(0)",
                  EXAMPLE.parent, status=1)
    assert lent.stdout.split() == ["0", "1", "2"] and "not good for close" in lent.stderr
    assert table(target.pid) == before


# ---- sessions ----


def test_narrowed_sessions(context):
    core, target = Core(context), sleeper(context)
    session = core.open(target.pid)
    null = os.open("/dev/null", os.O_RDWR)
    for selector in (10, 20, 21, 30):
        session.install(selector, null)
    reading = session.narrow(pd.RIGHTS["read"])
    assert list(reading.list()) == [0, 1, 2, 10, 20, 21, 30] and reading.request(10) is not None
    for attempt in (lambda: reading.install(40, null), lambda: reading.close(10)):
        with refused(EPERM, "not good for"):
            attempt()
    wider = reading.narrow(ALL)  # which is no wider
    with refused(EPERM, "not good for close"):
        wider.close(10)
    some = session.narrow(ALL, ranges=[(20, 21), (15, 20), (30, 99)])
    assert list(some.list()) == [20, 21, 30]
    body, count, capabilities = some.call(pd.REQUEST, struct.pack("<II", 0, 100))
    assert count == len(capabilities) == 3 and struct.unpack_from("<I", body)[0] == pd.END
    some.install(16, null)
    some.close(16)
    assert some.request(17) is None
    for attempt in (lambda: some.request(10), lambda: some.close(10), lambda: some.install(14, null),
                    lambda: some.compare(10, session, 20)):
        with refused(EPERM, "does not have selector"):
            attempt()
    with refused(EPERM, "does not have selector"):
        session.compare(20, some, 10)
    assert some.compare(20, session, 10) == 0
    fewer = some.narrow(ALL, ranges=[(0, 20)])
    assert list(fewer.list()) == [20]
    with refused(EINVAL, "none of the selectors"):
        fewer.narrow(ALL, ranges=[(21, 21)])
    with refused(EINVAL, "no range"):
        session.narrow(ALL, ranges=[(5, 4)])
    only_install = session.narrow(pd.RIGHTS["install"])
    with refused(EPERM, "replacing"):
        only_install.install(10, null, pd.REPLACE)
    with refused(EPERM, "some selectors only"):
        some.call(pd.CHECKPOINT, struct.pack("<II", 1, 0), capabilities=[null])
    brief = session.narrow(ALL, seconds=0.3)
    brief_too = brief.narrow(ALL, seconds=100)
    assert list(brief_too.list())
    time.sleep(0.35)
    for late in (brief, brief_too):
        with refused(EKEYEXPIRED, "time"):
            list(late.list())
    assert list(session.list())


def test_session_is_a_capability(context):
    """Passed to somebody who could never have opened it."""
    context.need_root()
    core, target = Core(context), sleeper(context)
    session = core.open(target.pid)

    def stranger():
        with refused(EPERM):
            core.open(target.pid)
        assert list(session.list()) == [0, 1, 2]
        session.install(50, os.open("/dev/null", os.O_RDONLY))

    os.chmod(os.path.dirname(core.path), 0o755)
    in_child(context, stranger, NOBODY)
    assert list(session.list()) == [0, 1, 2, 50]


def test_session_ends_with_its_process(context):
    core, target = Core(context), sleeper(context)
    session = core.open(target.pid)
    target.kill()
    target.wait()
    for attempt in (lambda: list(session.list()), lambda: session.request(0), lambda: session.close(0),
                    lambda: session.install(9, 0), lambda: session.compare(0, session, 1)):
        with refused(ESRCH, "ended"):
            attempt()
    session.socket.close()
    core.wait_for_sessions(0)


def test_what_is_asked_of_the_wrong_socket(context):
    core, target = Core(context), sleeper(context)
    session, connection = core.open(target.pid), core.connect()
    with refused(EOPNOTSUPP, "session"):
        connection.call(pd.LIST, struct.pack("<II", 0, 10))
    pidfd = os.pidfd_open(target.pid)
    with refused(EOPNOTSUPP, "core's own socket"):
        session.call(pd.OPEN, struct.pack("<iIQ", 0, ALL, 0), capabilities=[pidfd])
    with refused(EINVAL, "not a session"):
        session.call(pd.COMPARE, items=struct.pack("<II", 0, 0), count=1, capabilities=[pidfd])
    mine, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with refused(EINVAL, "not a session of this core"):
        session.call(pd.COMPARE, items=struct.pack("<II", 0, 0), count=1, capabilities=[mine.fileno()])
    assert list(session.list()) == [0, 1, 2]


# ---- as a service ----


def test_socket_activation_and_notification(context):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path, notify = context.path("passed"), context.path("notify")
    listener.bind(path)
    listener.listen(8)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(notify)
    manager.settimeout(10)

    def pass_on():
        os.dup2(listener.fileno(), 3, True)

    os.set_inheritable(listener.fileno(), True)
    program = context.start(["sh", "-c", f'LISTEN_PID=$$ exec "$0" core --config /dev/null', context.command],
                            environment={"LISTEN_FDS": "1", "NOTIFY_SOCKET": notify}, pass_fds=[3], prepare=pass_on)
    assert manager.recv(100) == b"READY=1"
    target = sleeper(context)
    assert list(pd.Session.open(target.pid, ALL, path).list()) == [0, 1, 2]
    program.kill(signal.SIGTERM)
    assert manager.recv(100) == b"STOPPING=1"
    assert program.wait() == 0
    assert os.path.exists(path)  # it was not core's to remove


def test_the_place_where_it_listens(context):
    core = Core(context)
    again = context.reseat("core", "--socket", core.path, status=1)
    assert "listens there already" in again.stderr
    core.program.kill(signal.SIGKILL)
    core.program.wait()
    assert os.path.exists(core.path)
    core = Core(context, core.path)  # in the place of the one that was killed
    core.program.kill(signal.SIGTERM)
    assert core.program.wait() == 0 and not os.path.exists(core.path)
    Path(context.path("file")).write_text("precious")
    assert "not a socket" in context.reseat("core", "--socket", context.path("file"), status=1).stderr
    assert Path(context.path("file")).read_text() == "precious"


def test_privileges_that_are_left(context):
    context.need_root()
    core, target = Core(context), sleeper(context)
    list(core.open(target.pid).list())
    for pid in [core.pid] + core.workers():
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        kept = {bit for bit in range(64) if int(status["CapEff"], 16) >> bit & 1}
        assert kept <= {1, 2, 5, 6, 7, 19, 21, 23, 24, 40} and 19 in kept, kept
        assert status["CapPrm"] == status["CapEff"] and int(status["CapBnd"], 16) & ~int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "0"
        assert len(os.listdir(f"/proc/{pid}/task")) == 1


def test_workers_go_with_core(context):
    core, target = Core(context), sleeper(context)
    session = core.open(target.pid)
    list(session.list())
    workers = core.workers()
    assert workers
    core.program.kill(signal.SIGKILL)
    core.program.wait()
    context.until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "the workers to end")
    with refused(32):
        list(session.list())
    assert target.alive
