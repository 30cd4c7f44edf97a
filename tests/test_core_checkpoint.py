"""Checkpoint and restore through core, by clients without privileges."""

import os
import shutil
import signal
import struct
import time

from reseat_test import each, timeout
from reseat_test.core import (ALL, EBADF, EINVAL, EPERM, ESRCH, NOBODY, Core, in_child, pd, process_name, refused,
                              stat_mode)

# ---- checkpoint and restore ----

KEEP, LEAVE_RUNNING, IMAGE, DROP = 1, 1, 2, 11


def checkpoint(session, flags=0, capabilities=(), allow=0):
    """Session of the twin (None: there is none), and the PID of the twin."""
    body, _, beside = session.call(pd.CHECKPOINT, struct.pack("<II", flags, allow), capabilities=capabilities)
    _, twin, pause, memory, threads, count = struct.unpack_from("<iiQQII", body)
    assert 0 < pause < 10e9 and threads == 1 and count >= 3
    return (pd.Session(beside[0]), twin) if beside else (None, memory)


def restore(twin, flags=0, slots=(), wait=5.0):
    """PID, sessions of the process and of the twin that was kept."""
    body, _, beside = twin.call(pd.RESTORE, struct.pack("<IIQ", flags, 0, int(wait * 1e9)),
                                b"".join(struct.pack("<II", selector, 0) for selector, _ in slots), len(slots),
                                capabilities=[fd for _, fd in slots])
    pid, kept, _, count, same = struct.unpack_from("<iiQII", body)
    assert same == count and os.readlink(f"/proc/self/fd/{beside[1]}") == "anon_inode:[pidfd]"
    os.close(beside[1])
    return pid, pd.Session(beside[0]), pd.Session(beside[2]) if kept else None


def echo(context, **how):
    program = context.start(["sh", "-c", "while read line; do echo $line; done"], **how)
    program.send("first\n")
    program.expect("first\n")
    return program


@timeout(60)
@each(core_user=["root", "nobody"])
def test_checkpoint_and_restore(context, core_user):
    """By a client that has no privilege at all, only the session; the checkpoint is a session, too."""
    context.need_root()
    target = echo(context, user="nobody")
    core = Core(context, user=None if core_user == "root" else "nobody")
    checkpoints = f"{os.path.dirname(core.path)}/checkpoints"

    def give_word():
        target.send("and again\n")
        target.expect("and again\n")

    def client():
        session = core.open(target.pid)
        copy, copy_pid = checkpoint(session, LEAVE_RUNNING)
        give_word()
        assert process_name(copy_pid) == f"reseat:{target.pid}"
        copy.call(DROP)
        context.until(lambda: process_name(copy_pid) is None, "the copy to end")
        with refused(ESRCH):
            restore(copy)
        twin, twin_pid = checkpoint(session)
        for attempt in (lambda: list(session.list()), lambda: checkpoint(session)):
            with refused(ESRCH):
                attempt()
        assert list(twin.list()) == [0, 1, 2]
        with refused(EPERM, "not good for restore"):
            restore(twin.narrow(ALL & ~pd.RIGHTS["restore"]))
        with refused(EPERM, "some selectors only"):
            restore(twin.narrow(ALL, ranges=[(0, 1)]))
        null = os.open("/dev/null", os.O_WRONLY)
        return_words(twin, null)

    def return_words(twin, null):
        if core_user == "nobody":  # which may not choose a PID
            body, _, beside = twin.call(pd.RESTORE, struct.pack("<IIQ", 2, 0, 0))
            pid, session = struct.unpack_from("<i", body)[0], pd.Session(beside[0])
            assert pid != target.pid
        else:
            pid, session, kept = restore(twin, KEEP, [(2, null)])
            assert pid == target.pid and list(kept.list()) == [0, 1, 2]
            assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
            kept.call(DROP)
        with refused(ESRCH):
            list(twin.list())
        assert list(session.list()) == [0, 1, 2]

    in_child(context, client, NOBODY)
    give_word()
    assert os.listdir(checkpoints) == []
    assert stat_mode(checkpoints) == 0o700


def test_twins_that_clients_end_leave_nothing(context):
    core, target = Core(context), echo(context)
    checkpoints = f"{os.path.dirname(core.path)}/checkpoints"
    session = core.open(target.pid)
    for _ in range(3):
        _, twin = checkpoint(session, LEAVE_RUNNING)
        os.kill(twin, signal.SIGKILL)
        context.until(lambda: process_name(twin) is None, "the twin to end")
    old, new = ".1-2.reseat-abcdef", ".1-3.reseat-abcdef"
    for name, age in (old, 7200), (new, 0):  # drafts that killed workers could leave
        os.mkdir(f"{checkpoints}/{name}", 0o700)
        with open(f"{checkpoints}/{name}/1.core", "wb"):
            pass
        os.utime(f"{checkpoints}/{name}", (time.time() - age,) * 2)
    twin, _ = checkpoint(session, LEAVE_RUNNING)
    assert len(left := os.listdir(checkpoints)) == 2 and new in left, left
    shutil.rmtree(f"{checkpoints}/{new}")
    twin.call(DROP)
    assert os.listdir(checkpoints) == []


@timeout(60)
def test_checkpoint_into_a_descriptor(context):
    """An image, for which the client's own file is opened by the client, and from which it restores by itself."""
    context.need_root()
    core, target = Core(context), echo(context)
    session = core.open(target.pid)
    image = os.open(context.path("image"), os.O_RDWR | os.O_CREAT, 0o600)
    for number, flags, beside in ((EINVAL, IMAGE, []), (EINVAL, 0, [image]), (EINVAL, 8, []),
                                  (EBADF, IMAGE, [os.open("/dev/null", os.O_RDONLY)]),
                                  (EBADF, IMAGE, [os.open(context.path("image"), os.O_PATH)])):
        with refused(number, "checkpoint: "):
            checkpoint(session, flags, beside)
    twin, memory = checkpoint(session, IMAGE | LEAVE_RUNNING, [image], allow=2)
    assert twin is None and 4096 < memory < os.stat(context.path("image")).st_size + (1 << 24)
    target.send("still here\n")
    target.expect("still here\n")
    assert os.fstat(image).st_uid == os.getuid()


def test_twin_that_core_has_not_made(context):
    """What stands in a directory of somebody else's is not carried out with core's privileges."""
    context.need_root()
    core, target = Core(context), echo(context)
    directory = context.checkpoint(target)
    twin = next(row for row in context.reseat("list", "--json").json if row["dir"] == str(directory))["twin"]
    session = core.open(twin)
    for operation, fixed in ((pd.RESTORE, struct.pack("<IIQ", 0, 0, 0)), (DROP, b"")):
        with refused(EPERM, "was not made by this core"):
            session.call(operation, fixed)
    with refused(EINVAL, "not a twin"):
        core.open(os.getpid()).call(DROP)
    assert context.restore(directory) == target.pid
    target.send("here\n")
    target.expect("here\n")


@timeout(60)
def test_by_the_command(context):
    """`reseat checkpoint`, `restore` and `drop` with --core, by a user who could not restore under the old PID."""
    context.need_root()
    core, target = Core(context), echo(context, user="nobody")
    through = ["--core", core.path]

    def reseat(*arguments, status=0):
        return context.reseat(*arguments, *through, status=status, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")

    def give_word():
        target.send("and again\n")
        target.expect("and again\n")

    taken = reseat("checkpoint", target.pid, "--leave-running", "--json").json
    assert taken["dir"] is None and taken["running"] is True
    give_word()
    reseat("drop", "--twin", taken["twin"])
    context.until(lambda: process_name(taken["twin"]) is None, "the copy to end")
    twin = reseat("checkpoint", target.pid, "--json").json["twin"]
    context.until(lambda: process_name(target.pid) is None, "the target to end")
    assert f"restored {target.pid} in" in reseat("restore", "--twin", twin, "--slot", "2=null").stdout
    give_word()
    assert os.readlink(f"/proc/{target.pid}/fd/2") == "/dev/null"
    for wrong in (["checkpoint", target.pid, "-o", "d"], ["checkpoint", target.pid, "--image"], ["restore", "d"], ["restore"],
                  ["restore", "--twin", "1", "--cold"], ["restore", "--twin", "x"], ["drop", "d"], ["drop"]):
        assert "usage: " in reseat(*wrong, status=2).stderr
    assert "usage: " in context.reseat("restore", "--twin", twin, status=2).stderr
