"""What a test is given: a directory, the reseat command, and processes that it starts, drives and waits for.

The process that a test runs in is the parent of its targets, and a restored process is the child of the same parent
again (clone(2), CLONE_PARENT). It is a child subreaper too, so that nothing which a test starts can get away from it.
"""

import ctypes
import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
command = None  # where reseat is, if not in the build directory
patience = 1  # how many times as long as is usual we wait for anything (tests/run --patience)
TWIN_NAME = "reseat:"  # a twin's name in ps is `reseat:PID`


class Skip(Exception):
    """The test cannot be made here; the reason is shown."""


class Failure(AssertionError):
    """The test has failed; the text says why."""


class Result:
    """What a command wrote and how it ended."""

    def __init__(self, arguments, status, stdout, stderr, seconds):
        self.arguments, self.status, self.stdout, self.stderr = arguments, status, stdout, stderr
        self.seconds = seconds

    @property
    def json(self):
        return json.loads(self.stdout)

    def __str__(self):
        return f"{' '.join(self.arguments)}: status {self.status}\n{self.stdout}{self.stderr}".rstrip()


def become_subreaper():
    """Makes orphans below us our children, so that we can find and reap them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def process_state(pid):
    """The state letter of /proc/PID/stat ("S", "Z", "T", …), None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def process_has_threads(pid):
    """Whether it has more than its first thread; then it is alive, although that one may have ended (state "Z")."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def process_name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def process_children(pid):
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(child) for child in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass
    return children


def process_descendants(pid):
    found = []
    for child in process_children(pid):
        found += [child] + process_descendants(child)
    return found


class Program:
    """A process that the test started. After a restore under the same PID it stands for the restored process, whose
    pipes are the same objects."""

    def __init__(self, context, arguments, pid, stdin, stdout):
        self.context, self.arguments, self.pid = context, arguments, pid
        self.stdin, self.stdout = stdin, stdout  # descriptors of ours, or None
        self.output = ""  # all that it has written so far
        self.seen = 0  # how much of it `expect` has consumed

    def send(self, text):
        os.write(self.stdin, text.encode() if isinstance(text, str) else text)

    def close_stdin(self):
        os.close(self.stdin)
        self.stdin = None

    def read_available(self, seconds=0.0):
        """Takes in what it has written; returns whether there was anything."""
        if not select.select([self.stdout], [], [], seconds)[0]:
            return False
        data = os.read(self.stdout, 65536)
        self.output += data.decode(errors="replace")
        return bool(data)

    def expect(self, text, seconds=10.0):
        """Waits until it has written `text` (after what was expected before); returns everything up to it."""
        deadline = time.monotonic() + seconds * patience
        while (at := self.output.find(text, self.seen)) < 0:
            if time.monotonic() > deadline:
                raise Failure(f"{self.name} did not write {text!r} within {seconds} s, but {self.output[self.seen:]!r}")
            if not self.read_available(0.1) and not self.alive:
                self.read_available()
                if self.output.find(text, self.seen) < 0:
                    raise Failure(f"{self.name} ended without writing {text!r}: {self.output[self.seen:]!r}")
            self.context.reap()
        before, self.seen = self.output[self.seen:at], at + len(text)
        return before

    @property
    def name(self):
        return f"{os.path.basename(self.arguments[0])} (PID {self.pid})"

    @property
    def alive(self):
        """Whether any of its threads is."""
        self.context.reap()
        return process_state(self.pid) not in (None, "Z", "X") or process_has_threads(self.pid)

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def wait(self, seconds=10.0):
        """Waits for its end and returns the exit status, -N for signal N (None if another process was its parent and
        took the status)."""
        self.context.until(lambda: not self.alive, f"{self.name} to end", seconds)
        self.context.reap()
        return self.context.take_status(self.pid)


class Context:
    def __init__(self, build, directory, verbose=False):
        self.build = Path(build)
        self.command = command or str(self.build / "reseat")
        self.directory = Path(directory)  # of this test; removed afterwards
        self.verbose = verbose
        self.transcript = []  # every reseat command and its output; shown if the test fails
        self._statuses = {}  # PID -> ends not yet asked for, oldest first
        self._deferred = []
        self._count = 0
        become_subreaper()

    # ---- asking ----

    @property
    def has_sanitizer(self):
        """Whether it is a build with AddressSanitizer, whose library wants to be loaded before all others."""
        return b"libasan.so" in (self.build / "libreseat.so").read_bytes()

    def need(self, *programs):
        """Skips the test unless all of these programs are installed; returns the path of the first."""
        os.environ["PATH"] += ":/usr/sbin:/sbin:/usr/local/sbin"
        for program in programs:
            if not shutil.which(program):
                raise Skip(f"{program} is not installed")
        return shutil.which(programs[0])

    def need_root(self):
        if os.geteuid() != 0:
            raise Skip("needs root")

    def until(self, condition, what, seconds=10.0):
        """Waits until `condition()` is true and returns its value; fails with `what` when the time is over."""
        deadline, pause = time.monotonic() + seconds * patience, 0.0005
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise Failure(f"waited {seconds} s for {what}")
            self.reap()
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return value

    def free_port(self):
        """A TCP port of 127.0.0.1 that was free a moment ago."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def connect(self, port, seconds=10.0):
        """A TCP connection to 127.0.0.1, as soon as somebody listens there."""

        def attempt():
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=10 * patience)
            except ConnectionRefusedError:
                return None

        return self.until(attempt, f"somebody to listen at port {port}", seconds)

    def path(self, name):
        """A path in this test's directory, as a string."""
        return str(self.directory / name)

    def new_name(self, what):
        self._count += 1
        return self.directory / f"{what}-{self._count}"

    def defer(self, function, *arguments):
        """Calls function(*arguments) at the end of the test, latest first."""
        self._deferred.append((function, arguments))

    # ---- starting ----

    def spawn(self, arguments, **how):
        """subprocess.Popen without its waiting, which we do ourselves; returns the PID."""
        process = subprocess.Popen([str(a) for a in arguments], **how)
        process.returncode = 0
        return process.pid

    def start(self, arguments, *, environment=None, cwd=None, user=None, stdin="pipe", stdout="pipe", stderr=None,
              pass_fds=(), new_session=False, prepare=None):
        """Starts a program. `stdin`, `stdout`, `stderr`: "pipe" (ours is in the Program; for `stderr` it is the same as
        stdout), a descriptor or file object, or None for /dev/null; `environment`: added to ours; `user`: a name;
        `prepare`: a function called in the child before the program begins."""
        ours_in = ours_out = None
        to_close = []
        if stdin == "pipe":
            stdin, ours_in = os.pipe()
            to_close.append(stdin)
        if stdout == "pipe":
            ours_out, stdout = os.pipe()
            to_close.append(stdout)
        how = {}
        if user:
            entry = pwd.getpwnam(user)
            how = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        null = subprocess.DEVNULL
        pid = self.spawn(
            arguments, stdin=null if stdin is None else stdin, stdout=null if stdout is None else stdout,
            stderr=subprocess.STDOUT if stderr == "pipe" else null if stderr is None else stderr,
            cwd=cwd or self.directory, pass_fds=pass_fds, start_new_session=new_session, preexec_fn=prepare,
            env={**os.environ, **(environment or {})}, **how)
        for fd in to_close:
            os.close(fd)
        return Program(self, [str(a) for a in arguments], pid, ours_in, ours_out)

    def run(self, arguments, *, status=0, seconds=20.0, stdin=None, environment=None, **how):
        """Runs a command to its end. `stdin`: text for it. `status=None`: any exit status will do."""
        text_out, text_err = self.new_name("stdout"), self.new_name("stderr")
        source = None
        if stdin is not None:
            source = self.new_name("stdin")
            source.write_text(stdin)
        began = time.monotonic()
        with open(text_out, "wb") as out, open(text_err, "wb") as err, open(source or os.devnull, "rb") as into:
            pid = self.spawn(arguments, stdin=into, stdout=out, stderr=err, env={**os.environ, **(environment or {})},
                             **{"cwd": self.directory, **how})
        try:
            self.until(lambda: process_state(pid) in (None, "Z", "X"), f"{' '.join(map(str, arguments))} to end", seconds)
        except Failure:
            os.kill(pid, signal.SIGKILL)
            self.until(lambda: process_state(pid) in (None, "Z", "X"), "it to be killed")
            raise
        self.reap()
        result = Result([str(a) for a in arguments], self.take_status(pid), text_out.read_text(errors="replace"),
                        text_err.read_text(errors="replace"), time.monotonic() - began)
        for name in (text_out, text_err, source):
            if name:
                name.unlink()
        if status is not None and result.status != status:
            raise Failure(f"expected status {status} of {result}")
        return result

    # ---- reseat ----

    def reseat(self, *arguments, status=0, **how):
        """Runs `reseat ARGUMENTS` (see run)."""
        if not os.access(self.command, os.X_OK):
            raise Skip(f"{self.command} is not built")
        try:
            result = self.run([self.command, *arguments], status=None, **how)
        except Failure as failure:
            self.transcript.append(f"$ reseat {' '.join(map(str, arguments))}\n{failure}")
            raise
        self.transcript.append(f"$ reseat {' '.join(map(str, arguments))}   # status {result.status}, "
                               f"{result.seconds * 1000:.0f} ms\n{result.stdout}{result.stderr}".rstrip())
        if status is not None and result.status != status:
            raise Failure(f"expected status {status} of {result}")
        return result

    def checkpoint(self, target, form="heir", *options, directory=None):
        """Takes a live checkpoint of a Program or PID and returns its directory. Form "heir" kills the target; so does
        "copy", after a checkpoint that left it running (the copy form of the twin)."""
        directory = Path(directory or self.new_name("checkpoint"))
        pid = target.pid if isinstance(target, Program) else target
        if form not in ("heir", "copy"):
            raise ValueError(form)
        options = list(options) + (["--leave-running"] if form == "copy" else [])
        self.reseat("checkpoint", pid, "--live", "-o", directory, *options)
        if form == "copy":
            os.kill(pid, signal.SIGKILL)
        self.until(lambda: process_state(pid) is None, f"PID {pid} to be gone after the checkpoint")
        self.take_status(pid)
        return directory

    def restore(self, directory, *options, **how):
        """Restores and returns the PID that the command printed."""
        result = self.reseat("restore", directory, *options, **how)
        self.reap()
        words = [word for word in result.stdout.split() if word.isdigit()]
        if not words:
            raise Failure(f"restore printed no PID: {result}")
        return int(words[0])

    # ---- children ----

    def reap(self):
        """Takes in the ends of all children that have ended: leaves no zombie."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._statuses.setdefault(pid, []).append(os.waitstatus_to_exitcode(status))

    def take_status(self, pid):
        """The oldest end of PID that nobody has asked for; None if we were not told of one."""
        statuses = self._statuses.get(pid)
        return statuses.pop(0) if statuses else None

    def clean_up(self):
        """Ends whatever is left; returns what should not have been left, one sentence each."""
        complaints = []
        for function, arguments in reversed(self._deferred):
            try:
                function(*arguments)
            except Exception as exception:  # what a test defers must not keep us from the rest
                complaints.append(f"clean-up: {exception!r}")
        for checkpoint in self.directory.glob("*/*.core"):
            try:
                self.reseat("drop", checkpoint.parent)
            except (Failure, Skip) as failure:
                complaints.append(f"clean-up: {failure}")
        self.reap()
        deadline = time.monotonic() + 10 * patience
        while left := process_descendants(os.getpid()):
            if time.monotonic() > deadline:
                raise Failure(f"cannot be killed: {' '.join(map(str, left))}")
            for pid in left:
                name = process_name(pid)
                complaint = f"a twin was left: {name} is PID {pid}"
                if name.startswith(TWIN_NAME) and process_state(pid) not in (None, "Z", "X") and complaint not in complaints:
                    complaints.append(complaint)
                try:
                    os.kill(pid, signal.SIGKILL)  # zombies too: of one only the first thread may have ended
                except ProcessLookupError:
                    pass
            time.sleep(0.002)
            self.reap()
        shutil.rmtree(self.directory, ignore_errors=True)
        return complaints
