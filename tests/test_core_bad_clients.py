"""What bad clients, dying targets and workers that do not come back can do to others: nothing."""

import array
import contextlib
import os
import random
import resource
import signal
import socket
import struct
import time
from pathlib import Path

from reseat_test import Failure, Skip, timeout
from reseat_test.core import (ALL, EBADMSG, EDQUOT, EINVAL, EIO, EMSGSIZE, EOPNOTSUPP, EPROTONOSUPPORT, ESRCH,
                              ETIMEDOUT, NOBODY, Core, delay_of, good_head, in_child, is_closed, maps, pd, refused,
                              sleeper, table)

# ---- workers ----


@timeout(60)
def test_worker_that_does_not_come_back(context):
    """It is ended after its time, its session answered and closed; nobody else waits."""
    core, target = Core(context), sleeper(context)
    bad, good = core.open(target.pid), core.open(target.pid)
    core.wait_for_sessions(2)
    time.sleep(0.3)  # and for the workers to be idle
    stopped = core.workers()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    bad.socket.send(good_head(pd.LIST, 5) + struct.pack("<II", 0, 10))
    others = [core.connect() for _ in stopped[1:]]
    for other in others:  # so that each of the stopped ones has something to do
        other.socket.send(good_head(pd.OPEN) + bytes(16))
    time.sleep(0.1)
    assert max(delay_of(good) for _ in range(50)) < 1
    bad.socket.settimeout(30)
    head = pd.HEAD.unpack_from(bad.socket.recv(4096))
    assert head[2] == 5 and head[3] == -ETIMEDOUT and is_closed(bad), head
    context.until(lambda: not any(pid in core.workers() for pid in stopped[:1]), "it to be gone")
    assert list(good.list()) == [0, 1, 2]


def test_worker_that_dies(context):
    core, target = Core(context), sleeper(context)
    bad, good = core.open(target.pid), core.open(target.pid)
    core.wait_for_sessions(2)
    time.sleep(0.3)  # and for the workers to be idle
    for pid in core.workers():
        os.kill(pid, signal.SIGSTOP)
    bad.socket.send(good_head(pd.LIST, 5) + struct.pack("<II", 0, 10))
    time.sleep(0.1)
    for pid in core.workers():
        os.kill(pid, signal.SIGKILL)
    head = pd.HEAD.unpack_from(bad.socket.recv(4096))
    assert head[2] == 5 and head[3] == -EIO and is_closed(bad), head
    assert list(good.list()) == [0, 1, 2]


# ---- bad clients ----


def test_malformed_messages(context):
    core, target = Core(context), sleeper(context)
    session = core.open(target.pid)
    before = table(target.pid)
    r, w = os.pipe()
    bad = [
        (b"", [], EBADMSG), (b"x", [], EBADMSG), (b"\0" * 23, [], EBADMSG),
        (good_head(pd.LIST, version=2) + bytes(8), [], EPROTONOSUPPORT),
        (good_head(99), [], EOPNOTSUPP), (good_head(0), [], EOPNOTSUPP),
        (good_head(pd.LIST), [], EBADMSG), (good_head(pd.LIST) + bytes(7), [], EBADMSG),
        (good_head(pd.LIST) + bytes(9), [], EBADMSG), (good_head(pd.LIST, count=1) + bytes(8), [], EBADMSG),
        (good_head(pd.CLOSE, count=2) + bytes(4), [], EBADMSG),
        (good_head(pd.CLOSE, count=0x40000001) + bytes(4), [], EBADMSG),
        (good_head(pd.CLOSE, count=0xFFFFFFFF), [], EBADMSG),
        (good_head(pd.LIST, flags=1) + bytes(8), [], EBADMSG), (good_head(pd.LIST, result=-5) + bytes(8), [], EBADMSG),
        (good_head(pd.INFO), [r], EBADMSG), (good_head(pd.INFO, capabilities=1), [r], EBADMSG),
        (good_head(pd.INFO, capabilities=1), [], EBADMSG), (good_head(pd.LIST) + bytes(8), [r] * 253, EBADMSG),
        (good_head(pd.INSTALL, count=1) + bytes(8), [], EBADMSG),
        (good_head(pd.INSTALL, count=1, capabilities=2) + bytes(8), [r, w], EBADMSG),
        (bytes(16385), [], EMSGSIZE), (bytes(100000), [r] * 10, EMSGSIZE), (b"", [r], EBADMSG),
        (good_head(pd.LIST) + bytes(8), [], EINVAL), (good_head(pd.REQUEST) + bytes(8), [], EINVAL),
        (good_head(pd.INSTALL, count=1, capabilities=1) + struct.pack("<II", 50, 1 << 31), [r], EINVAL),
        (good_head(pd.INSTALL, count=1, capabilities=1) + struct.pack("<II", 50, 8), [r], EINVAL),
    ]
    for data, capabilities, number in bad:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", capabilities))] if capabilities else []
        session.socket.sendmsg([data], rights)
        reply = session.socket.recv(20000)
        head = pd.HEAD.unpack_from(reply)
        assert head[0] == 1 and head[3] == -number and head[5] == len(reply) - pd.HEAD.size > 10, (data[:24], head, reply)
        if len(data) >= pd.HEAD.size and number != EMSGSIZE:
            assert head[1:3] == pd.HEAD.unpack_from(data)[1:3]
    os.close(r)
    try:
        os.set_blocking(w, False)
        os.write(w, b"x")
        raise Failure("core still holds what was not asked for")
    except BrokenPipeError:
        pass
    assert list(session.list()) == sorted(before) and table(target.pid) == before
    core.wait_for_sessions(1)


def test_random_messages(context):
    """Whatever comes, every packet is answered by one, and nothing is left in core or target."""
    core, target = Core(context), sleeper(context)
    chance = random.Random(1)
    session = core.open(target.pid).narrow(pd.RIGHTS["list"])  # as what is asked for may be done
    before = table(target.pid)
    spare = os.open("/dev/null", os.O_RDONLY)
    for _ in range(1500):
        data = bytearray(good_head(chance.randrange(1, 12), count=chance.choice([0, 0, 1, 2, 300, 2**32 - 1]),
                                   capabilities=chance.choice([0, 0, 0, 1, 2])) + bytes(chance.choice([0, 4, 8, 16, 24])))
        for _ in range(chance.randrange(3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data[8 if len(data) > 16 else 0:12 if len(data) > 16 else 0] = data[8:12] if len(data) > 16 else b""
        if len(data) > 12 and data[12] & 1 and data[2] in (pd.INSTALL, pd.CLOSE):
            data[12] &= 0xFE  # a part: the rest would be waited for
        capabilities = [spare] * chance.choice([0, 0, 0, 1, 2])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", capabilities))] if capabilities else []
        session.socket.sendmsg([data], rights)
        reply, beside, _, _ = session.socket.recvmsg(20000, 2000)
        assert len(reply) >= pd.HEAD.size, data
        for _, _, received in beside:
            for fd in array.array("i", received):
                os.close(fd)
    assert list(session.list()) == sorted(before) and table(target.pid) == before
    core.wait_for_sessions(1)
    assert core.program.alive


@timeout(90)
def test_flood_and_silence(context):
    """One client sends and never reads, one sends a part and no more, one dies at once: another does not notice."""
    core, target = Core(context), sleeper(context)
    good = core.open(target.pid)
    bad = [core.open(target.pid) for _ in range(3)]
    bad[0].socket.setblocking(False)
    message = good_head(pd.LIST) + struct.pack("<II", 0, 4000)
    sent = 0
    for _ in range(20000):
        try:
            bad[0].socket.send(message)
            sent += 1
        except BlockingIOError:
            break
        except (BrokenPipeError, ConnectionResetError):
            break
    bad[1].socket.send(good_head(pd.CLOSE, flags=1, count=1) + struct.pack("<I", 0))
    bad[2].socket.send(good_head(pd.CLOSE, count=1) + struct.pack("<I", 1))
    bad[2].socket.close()
    delays = [delay_of(good) for _ in range(200)]
    assert max(delays) < 1.5, f"another client waited {max(delays):.2f} s"
    assert sent > 50
    # Who does not go on is told so, and its session is closed.
    reply = bad[1].socket.recv(4096)
    assert pd.HEAD.unpack_from(reply)[3] == -ETIMEDOUT and is_closed(bad[1])
    for session in bad[:2]:
        session.socket.close()
    core.wait_for_sessions(1)
    assert 0 in table(target.pid)


def test_parts_that_are_refused(context):
    """All or none, also when the first part was wrong and the rest was not."""
    core, target = Core(context), sleeper(context)
    session, before = core.open(target.pid), table(target.pid)
    null = os.open("/dev/null", os.O_RDONLY)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null]))]
    for flags, selector in ((1, 100), (1, 1 << 20), (0, 102)):
        slot_flags = 1 << 30 if selector == 1 << 20 else 0
        session.socket.sendmsg([good_head(pd.INSTALL, 7, 1, 1, flags) + struct.pack("<II", selector, slot_flags)], rights)
    reply = session.socket.recv(4096)
    assert pd.HEAD.unpack_from(reply)[2:4] == (7, -EINVAL), reply
    assert table(target.pid) == before and list(session.list()) == sorted(before)
    for flags, selector in ((1, 100), (1, 101), (0, 102)):
        session.socket.sendmsg([good_head(pd.INSTALL, 8, 1, 1, flags) + struct.pack("<II", selector, 0)], rights)
    assert pd.HEAD.unpack_from(session.socket.recv(4096))[2:4] == (8, 0)
    assert {100, 101, 102} <= set(table(target.pid))
    # A part of something else in between ends it.
    session.socket.sendmsg([good_head(pd.INSTALL, 9, 1, 1, 1) + struct.pack("<II", 103, 0)], rights)
    session.socket.send(good_head(pd.CLOSE, 9, 1) + struct.pack("<I", 100))
    assert pd.HEAD.unpack_from(session.socket.recv(4096))[3] == -EBADMSG and is_closed(session)
    assert 100 in table(target.pid) and 103 not in table(target.pid)


@timeout(120)
def test_thousands_of_sessions(context):
    core, target = Core(context, configuration="sessions 3000"), sleeper(context)
    session = core.open(target.pid)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    if hard < 8192:
        raise Skip("too few descriptors are allowed here")
    many = [session.narrow(ALL) for _ in range(2999)]
    for _ in range(2):
        with refused(EDQUOT, "3000 sessions"):
            session.narrow(ALL)
    with refused(EDQUOT, "3000 sessions"):
        core.open(target.pid)
    assert [list(many[i].list()) for i in (0, 1500, 2998)] == [[0, 1, 2]] * 3
    assert max(delay_of(session) for _ in range(50)) < 1
    memory = int(Path(f"/proc/{core.pid}/status").read_text().split("VmRSS:")[1].split()[0])
    assert memory < 32 * 1024, f"core takes {memory} KiB"
    for one in many:
        one.socket.close()
    core.wait_for_sessions(1, 60)
    session.narrow(ALL)


def test_too_many_connections(context):
    core, target = Core(context, configuration="connections 20"), sleeper(context)
    session = core.open(target.pid)
    connections = [core.connect() for _ in range(25)]
    answers = []
    for connection in connections:
        connection.socket.settimeout(0.2)
        try:
            answers.append(pd.HEAD.unpack_from(connection.socket.recv(4096))[3])
        except TimeoutError:
            answers.append(0)
    assert answers.count(-EDQUOT) >= 5 and answers.count(0) >= 15, answers
    assert list(session.list()) == [0, 1, 2]
    for connection in connections:
        connection.socket.close()
    context.until(lambda: not refuses(core, target.pid), "room again")


@timeout(60)
def test_what_one_user_uses_up_others_have(context):
    context.need_root()
    core, target = Core(context, configuration="connections 40\nsessions 50\nworkers 4"), sleeper(context)
    users = sleeper(context, user="nobody")
    good = core.open(target.pid)

    def client():
        session = core.open(users.pid)
        many = [session.narrow(ALL) for _ in range(49)]
        connections = [core.connect() for _ in range(60)]
        for one in many:  # parts that never come: each holds a worker for 2 s
            one.socket.send(good_head(pd.CLOSE, flags=1, count=1) + struct.pack("<I", 0))
        for other in connections[:30]:
            other.socket.send(good_head(pd.OPEN) + bytes(16))
        assert max(delay_of(good) for _ in range(200)) < 1

    in_child(context, client, NOBODY)
    assert list(core.open(target.pid).list()) == [0, 1, 2] and list(good.list()) == [0, 1, 2]


def refuses(core, pid):
    try:
        core.open(pid)
        return False
    except OSError:
        return True


@timeout(90)
def test_descriptor_that_is_slow_to_close(context):
    """A socket that lingers at its last close, and other traps, cost their sender a worker and nobody else anything."""
    core, target = Core(context), sleeper(context)
    good = core.open(target.pid)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for where in ("beside a message that takes none", "queued behind the end of the client"):
        trap = socket.create_connection(listener.getsockname())
        trap.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 8))
        trap.setblocking(False)
        try:
            while True:
                trap.send(bytes(65536))
        except BlockingIOError:
            pass
        bad = core.open(target.pid)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [trap.fileno()]))]
        if where.startswith("queued"):
            bad.socket.send(good_head(pd.LIST) + struct.pack("<II", 0, 10))
        bad.socket.sendmsg([good_head(pd.INFO, capabilities=1)], rights)
        trap.close()
        bad.socket.close()
        delays = [delay_of(good) for _ in range(100)]
        assert max(delays) < 1.5, f"{where}: another client waited {max(delays):.2f} s"


VFORK = r"""
#include <unistd.h>
#include <stdio.h>
int main(void) { puts("ready"); fflush(stdout); if (vfork() == 0) { sleep(20); _exit(0); } pause(); }
"""


@timeout(90)
def test_target_that_cannot_be_stopped(context):
    """In the middle of a vfork(2) a process does not stop: that is refused after a while, and nobody waits with it."""
    context.need("gcc")
    Path(context.path("vfork.c")).write_text(VFORK)
    context.run(["gcc", "-O1", "-o", context.path("vfork"), context.path("vfork.c")])
    stuck = context.start([context.path("vfork")])
    stuck.expect("ready\n")
    core, target = Core(context), sleeper(context)
    bad, good, third = core.open(stuck.pid), core.open(target.pid), core.open(stuck.pid)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))]
    bad.socket.sendmsg([good_head(pd.INSTALL, 1, 1, 1) + struct.pack("<II", 9, 0)], rights)
    began, delays = time.monotonic(), []
    while time.monotonic() - began < 1.5:
        delays.append(delay_of(good))
        good.install(30, 0)
        good.close(30)
    assert max(delays) < 0.7, f"others waited {max(delays):.2f} s"
    assert list(third.list()) == [0, 1, 2]  # who looks at that one itself waits for one operation
    head = pd.HEAD.unpack_from(bad.socket.recv(4096))
    assert head[3] in (-ETIMEDOUT, -16), head
    assert stuck.alive


def test_target_that_dies_meanwhile(context):
    core = Core(context)
    null = os.open("/dev/null", os.O_RDONLY)
    chance = random.Random(2)
    for _ in range(30):
        target = sleeper(context)
        session = core.open(target.pid)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 200))]
        slots = b"".join(struct.pack("<II", 100 + i, 0) for i in range(200))
        session.socket.sendmsg([good_head(pd.INSTALL, 5, 200, 200) + slots], rights)
        time.sleep(chance.random() * 0.003)
        target.kill()
        head = pd.HEAD.unpack_from(session.socket.recv(4096))
        assert head[2] == 5 and head[3] in (0, -ESRCH), head
        target.wait()
        session.socket.close()


def test_nothing_is_left_in_a_target(context):
    """After everything that can be done to it, and after core was killed in the middle of it."""
    core, target = Core(context), context.start(["sh", "-c", "while read line; do echo $line; done"])
    context.until(lambda: Path(f"/proc/{target.pid}/wchan").read_text() != "0", "sh to read")
    session = core.open(target.pid)
    before, memory = table(target.pid), maps(target.pid)
    null = os.open("/dev/null", os.O_RDONLY)
    for _ in range(20):
        session.install(40, null)
        session.install(40, null, pd.REPLACE)
        session.close(40)
    assert table(target.pid) == before and maps(target.pid) == memory
    for _ in range(15):
        core = Core(context)
        session = core.open(target.pid)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 100))]
        slots = b"".join(struct.pack("<II", 100 + i, 0) for i in range(100))
        session.socket.sendmsg([good_head(pd.INSTALL, 5, 100, 100) + slots], rights)
        time.sleep(random.random() * 0.002)
        for pid in core.workers() + [core.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        core.program.wait()
        context.until(lambda: "TracerPid:\t0" in Path(f"/proc/{target.pid}/status").read_text(), "it to be let go")
        target.send("alive\n")
        target.expect("alive\n")
        added = set(table(target.pid)) - set(before)
        assert added in (set(), set(range(100, 200))), f"neither all nor none: {added}"
        if added:
            cleaner = Core(context)
            body = b"".join(struct.pack("<I", selector) for selector in sorted(added))
            cleaner.open(target.pid).call(pd.CLOSE, items=body, count=len(added))
            cleaner.program.kill(signal.SIGTERM)
            cleaner.program.wait()
    assert table(target.pid) == before
