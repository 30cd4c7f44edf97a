"""Core, the service: who gets sessions, what they are good for, and what bad clients can do to others.

The client is examples/pd_client.py, so that is tested with it.
"""

import array
import contextlib
import ctypes
import importlib.util
import os
import random
import resource
import shutil
import signal
import socket
import struct
import time
from pathlib import Path

from reseat_test import Failure, Skip, each, timeout

TOP = Path(__file__).resolve().parent.parent
EXAMPLE = TOP / "examples" / "pd_client.py"
NOBODY = 65534
EPERM, ESRCH, EIO, EBADF, EEXIST, EINVAL, EBADMSG, EMSGSIZE = 1, 3, 5, 9, 17, 22, 74, 90
EPROTONOSUPPORT, EOPNOTSUPP, ETIMEDOUT, ESTALE, EDQUOT, EKEYEXPIRED = 93, 95, 110, 116, 122, 127

spec = importlib.util.spec_from_file_location("pd_client", EXAMPLE)
pd = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pd)
ALL = pd.RIGHTS["all"]


class Core:
    """A core of the test's own."""

    def __init__(self, context, path=None, configuration=None, user=None):
        self.context, self.path = context, path or str(context.new_name("core") / "socket")
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        before = os.stat(self.path).st_ino if os.path.exists(self.path) else None
        if user:
            shutil.chown(os.path.dirname(self.path), user)
        self.configuration = context.path("core.conf")
        Path(self.configuration).write_text(configuration or "")
        self.log = open(context.path("core.log"), "wb")
        self.program = context.start(
            [context.command, "-v", "core", "--socket", self.path, "--config", self.configuration, "--checkpoints",
             f"{os.path.dirname(self.path)}/checkpoints"], stderr=self.log, user=user)
        context.until(lambda: os.path.exists(self.path) and os.stat(self.path).st_ino != before or not self.program.alive,
                      "core to listen")
        assert self.program.alive, self.words
        self.pid = self.program.pid
        self.descriptors_at_first = self.descriptors()

    @property
    def words(self):
        return Path(self.log.name).read_text()

    def open(self, pid, rights=ALL):
        return pd.Session.open(pid, rights, self.path)

    def connect(self):
        connection = pd.Channel(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        connection.socket.connect(self.path)
        return connection

    def descriptors(self):
        """Without those that lead to its workers, of which there are more or fewer."""
        return len(os.listdir(f"/proc/{self.pid}/fd")) - len(self.workers())

    def wait_for_sessions(self, count, seconds=20):
        """Until it holds no more than so many: each takes a socket and a pidfd."""
        self.context.until(lambda: self.descriptors() == self.descriptors_at_first + 2 * count,
                           f"core to hold {count} sessions, and nothing else", seconds)

    def workers(self):
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


@contextlib.contextmanager
def refused(number, words=""):
    try:
        yield
    except OSError as error:
        assert error.errno == number, f"expected {number}: {error!r}"
        assert words in error.strerror, f"no {words!r} in: {error!r}"
    else:
        raise Failure(f"was not refused with {number}")


def sleeper(context, **how):
    program = context.start(["sleep", "1000"], **how)
    wait_for_sleep(context, program)
    return program


def wait_for_sleep(context, program):
    """Until it has executed its program, and sleeps: before, things still change."""
    status = Path(f"/proc/{program.pid}/status")
    context.until(lambda: Path(f"/proc/{program.pid}/cmdline").read_bytes() == b"\0".join(
        os.fsencode(a) for a in program.arguments) + b"\0" and "State:\tS" in status.read_text(), "a program to begin")


def table(pid):
    """What a process holds: selector → link."""
    return {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}


def maps(pid):
    """Its memory, without the sizes of what grows by itself."""
    return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "[stack]" not in line]


def in_child(context, function, user=None):
    """Calls the function in a forked process, perhaps as another user; what it raises fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = ""
        try:
            if user is not None:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
                ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
            function()
        except BaseException as exception:  # whatever it is, it has to get out of this process
            text = f"{type(exception).__name__}: {exception}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    context.until(lambda: context.reap() or not os.path.exists(f"/proc/{pid}"), "a child to end", 60)
    text = os.read(reader, 65536).decode()
    os.close(reader)
    assert not text, text


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


def process_name(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return None if state == "Z" else Path(f"/proc/{pid}/comm").read_text().rstrip()
    except (FileNotFoundError, ProcessLookupError):
        return None


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


# ---- who gets one ----


def ask(core, pid, proofs, rights=ALL):
    connection = core.connect()
    try:
        body, _, (session,) = connection.call(pd.OPEN, struct.pack("<iIQ", 0, rights, 0), capabilities=proofs)
        return pd.Session(session), struct.unpack_from("<iI", body)[1]
    finally:
        connection.socket.close()


def test_proofs_that_prove_nothing(context):
    core, target, other = Core(context), sleeper(context), sleeper(context)
    pidfd = os.pidfd_open(target.pid)
    mem = f"/proc/{target.pid}/mem"
    good = os.open(mem, os.O_RDWR)
    assert ask(core, target.pid, [pidfd, good])[1] == ALL
    assert ask(core, target.pid, [pidfd, os.open(mem, os.O_RDONLY)])[1] == pd.RIGHTS["read"]
    with refused(EPERM, "none of the rights"):
        ask(core, target.pid, [pidfd, os.open(mem, os.O_RDONLY)], pd.RIGHTS["install"])
    with refused(EPERM, "no descriptor of /proc"):
        ask(core, target.pid, [pidfd])
    own = os.open(context.path("mem"), os.O_RDWR | os.O_CREAT)
    for wrong in (os.open(mem, os.O_PATH), os.open(mem, os.O_WRONLY), os.open(f"/proc/{other.pid}/mem", os.O_RDWR),
                  os.open("/proc/self/mem", os.O_RDWR), os.open(f"/proc/{target.pid}/maps", os.O_RDONLY), own, pidfd,
                  os.open(f"/proc/{target.pid}/task/{target.pid}/mem", os.O_RDWR), os.open(f"/proc/{target.pid}", os.O_RDONLY)):
        with refused(EPERM, "is not /proc"):
            ask(core, target.pid, [pidfd, wrong])
    for wrong in (own, good, os.open(f"/proc/{target.pid}", os.O_RDONLY), os.pipe()[0]):
        with refused(EINVAL, "must be a pidfd"):
            ask(core, target.pid, [wrong, good])
    with refused(EINVAL, "needs a pidfd"):
        ask(core, target.pid, [])
    with refused(EPERM, "core itself"):
        ask(core, core.pid, [os.pidfd_open(core.pid), good])
    target.kill()
    target.wait()
    with refused(ESRCH, "has ended"):
        ask(core, target.pid, [pidfd, good])


def test_another_instance_of_procfs(context):
    """Core cannot see that what is called /proc/PID/mem there is what it should be."""
    context.need_root()
    core, target = Core(context), sleeper(context)

    def client():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x00020000) < 0 or libc.mount(None, b"/", None, 0x4000 | (1 << 18), None) < 0 or \
                libc.mount(b"proc", b"/proc", b"proc", 0, None) < 0:
            return  # not possible here
        with refused(EPERM, "same instance of procfs"):
            core.open(target.pid)

    in_child(context, client)
    assert list(core.open(target.pid).list()) == [0, 1, 2]


def test_kernel_decides_for_an_ordinary_user(context):
    """Core is root, the client is not: its own processes it gets, others it does not."""
    context.need_root()
    core, roots = Core(context), sleeper(context)
    users = sleeper(context, user="nobody")
    memory_of_root = os.open(f"/proc/{roots.pid}/mem", os.O_RDWR)

    def client():
        session = core.open(users.pid)
        assert list(session.list()) == [0, 1, 2]
        session.install(9, 0)
        session.close(9)
        with refused(EPERM, "could not open"):
            core.open(roots.pid)
        # Opened by somebody else, and passed on: a session should have been.
        with refused(EPERM, "CAP_SYS_PTRACE"):
            ask(core, roots.pid, [os.pidfd_open(roots.pid), memory_of_root])

    in_child(context, client, NOBODY)


SET_USER_ID = r"""
import os, sys, time
ready, gate = int(sys.argv[1]), int(sys.argv[2])
os.write(ready, b"x")
os.read(gate, 1)
os.execv(sys.argv[3], [sys.argv[3], "1000"])
"""


def test_set_user_id_program(context):
    """Neither a session nor a descriptor of before is good for what a process executes afterwards."""
    context.need_root()
    core = Core(context)
    program = context.path("set-user-id")
    shutil.copy(shutil.which("sleep"), program)
    os.chmod(program, 0o4755)
    if os.statvfs(program).f_flag & os.ST_NOSUID:
        raise Skip("the directory of tests is mounted nosuid")
    gate, opener = os.pipe()
    ready, says_ready = os.pipe()
    target = context.start(["python3", "-c", SET_USER_ID, str(says_ready), str(gate), program], user="nobody",
                           pass_fds=[says_ready, gate])
    os.read(ready, 1)

    def client():
        pidfd, memory = os.pidfd_open(target.pid), os.open(f"/proc/{target.pid}/mem", os.O_RDWR)
        session = core.open(target.pid)
        before = list(session.list())
        narrowed = session.narrow(ALL)
        os.write(opener, b"x")
        context.until(lambda: "set-user-id" in Path(f"/proc/{target.pid}/comm").read_text(), "it to execute")
        for one in (session, narrowed):
            for attempt in (lambda: list(one.list()), lambda: one.request(0), lambda: one.close(0),
                            lambda: one.install(77, 0), lambda: one.compare(0, one, 1)):
                with refused(ESTALE, "another program"):
                    attempt()
        with refused(EPERM, "CAP_SYS_PTRACE"):
            ask(core, target.pid, [pidfd, memory])
        assert before

    in_child(context, client, NOBODY)
    assert Path(f"/proc/{target.pid}/status").read_text().split("Uid:")[1].split()[1] == "0"
    session = core.open(target.pid)  # root may
    assert 77 not in list(session.list())


def test_program_of_the_same_user(context):
    """An execve that gains nothing ends the session too; a new one can be opened."""
    core = Core(context)
    target = context.start(["sh", "-c", "read x; exec sleep 1000"])
    session = core.open(target.pid)
    target.send("\n")
    context.until(lambda: "sleep" in Path(f"/proc/{target.pid}/comm").read_text(), "it to execute")
    with refused(ESTALE, "open a new one"):
        list(session.list())
    assert list(core.open(target.pid).list()) == [0, 1, 2]


def test_configuration(context):
    context.need_root()
    core = Core(context, configuration=f"""
        # comment
        deny   client=root program={os.path.realpath(shutil.which('cat'))}
        grant  client=nobody target=root rights=list,request   # and nothing else
        limit  client=* rights=read lifetime=1h
    """)
    cat, sleep = context.start(["cat"]), sleeper(context)
    wait_for_sleep(context, cat)
    with refused(EPERM, "denies"):
        core.open(cat.pid)
    session = core.open(sleep.pid)
    body, _, _ = session.call(pd.INFO)
    pid, rights, left = struct.unpack("<iIQ", body)
    assert pid == sleep.pid and rights == pd.RIGHTS["read"] and 3590e9 < left < 3600e9, (pid, rights, left)
    with refused(EPERM, "not good for install"):
        session.install(9, 0)

    def client():
        granted = core.open(sleep.pid)
        assert list(granted.list()) == [0, 1, 2]
        assert granted.request(0) is not None
        with refused(EPERM, "not good for close"):
            granted.close(0)

    in_child(context, client, NOBODY)
    # Read again: a mistake changes nothing, what is right counts from then on.
    Path(core.configuration).write_text("limit client=*\nfrobnicate\n")
    core.program.kill(signal.SIGHUP)
    context.until(lambda: "core.conf, line 2" in core.words, "core to complain")
    with refused(EPERM, "denies"):
        core.open(cat.pid)
    Path(core.configuration).write_text("")
    core.program.kill(signal.SIGHUP)
    context.until(lambda: core.open(cat.pid) if not denied(core, cat.pid) else None, "core to read it again")
    assert list(session.list()) == [0, 1, 2]


def denied(core, pid):
    try:
        core.open(pid)
        return False
    except pd.Refused as error:
        return "denies" in error.strerror


@each(line=["frobnicate", "deny client=no-such-user-here", "limit rights=everything", "grant rights=list", "grant client=root",
            "grant client=* rights=list", "sessions none", "sessions 0", "limit lifetime=5m", "limit program=sleep", "deny x"])
def test_configuration_that_is_wrong(context, line):
    Path(context.path("core.conf")).write_text(f"# first\n{line}\n")
    result = context.reseat("core", "--socket", context.path("socket"), "--config", context.path("core.conf"), status=1)
    assert "core.conf, line 2: " in result.stderr, result
    assert not os.path.exists(context.path("socket"))


def test_core_of_an_ordinary_user(context):
    context.need_root()
    target, roots = sleeper(context, user="nobody"), sleeper(context)
    core = Core(context, user="nobody")

    def client():
        session = core.open(target.pid)
        session.install(20, 0)
        assert list(session.list()) == [0, 1, 2, 20]
        with refused(EPERM):
            core.open(roots.pid)

    in_child(context, client, NOBODY)
    assert stat_mode(core.path) == 0o600
    with refused(EPERM):  # root's client may, but this core may not
        core.open(roots.pid)


def stat_mode(path):
    return os.stat(path).st_mode & 0o777


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
    assert head[2] == 5 and head[3] == -ETIMEDOUT and bad.socket.recv(10) == b"", head
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
    assert head[2] == 5 and head[3] == -EIO and bad.socket.recv(10) == b"", head
    assert list(good.list()) == [0, 1, 2]


# ---- bad clients ----


def good_head(operation, tag=1, count=0, capabilities=0, flags=0, version=1, result=0):
    return pd.HEAD.pack(version, operation, tag, result, flags, count, capabilities)


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


def delay_of(session):
    began = time.monotonic()
    list(session.list())
    return time.monotonic() - began


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
    assert pd.HEAD.unpack_from(reply)[3] == -ETIMEDOUT and bad[1].socket.recv(10) == b""
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
    assert pd.HEAD.unpack_from(session.socket.recv(4096))[3] == -EBADMSG and session.socket.recv(10) == b""
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
