"""What the tests of core are written with: a core of the test's own, and a client, which is examples/pd_client.py, so
that it is tested with it."""

import contextlib
import ctypes
import importlib.util
import os
import shutil
import socket
import struct
import time
from pathlib import Path

from .context import Failure

TOP = Path(__file__).resolve().parent.parent.parent
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


def process_name(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return None if state == "Z" else Path(f"/proc/{pid}/comm").read_text().rstrip()
    except (FileNotFoundError, ProcessLookupError):
        return None


def ask(core, pid, proofs, rights=ALL):
    connection = core.connect()
    try:
        body, _, (session,) = connection.call(pd.OPEN, struct.pack("<iIQ", 0, rights, 0), capabilities=proofs)
        return pd.Session(session), struct.unpack_from("<iI", body)[1]
    finally:
        connection.socket.close()


def stat_mode(path):
    return os.stat(path).st_mode & 0o777


def good_head(operation, tag=1, count=0, capabilities=0, flags=0, version=1, result=0):
    return pd.HEAD.pack(version, operation, tag, result, flags, count, capabilities)


def delay_of(session):
    began = time.monotonic()
    list(session.list())
    return time.monotonic() - began


def is_closed(session):
    """Whether core has closed it: with a reset, if there was something that it had not read."""
    try:
        return session.socket.recv(10) == b""
    except ConnectionResetError:
        return True
