"""What the drivers of real programs share.

A Driver starts one program that nobody here wrote and uses it from outside: over the connections, pipes or files that
its users have. drive() does so and asserts every answer; what the program must remember stands in `expected`, plain
data. take() leads a driver through one of the ways that a live checkpoint can go; drive() is called before and after,
over the same connections, and must not notice.

    heir           checkpoint (the program is killed by it), restore; twice, so that a restored process is
                   itself checkpointed
    copy           checkpoint --leave-running, drive on, drop the twin, drive on
    copy-restored  checkpoint --leave-running, drive on, kill -9, restore: the program is as at the checkpoint, its
                   connections have gone on
    cold           checkpoint --image, which leaves no twin, restore --cold; twice. What the test holds the other end of is put
                   at its selectors by --slot (pipes, terminals) or goes on by itself (TCP connections). Not for programs
                   whose connections are unix sockets: those end with the process
"""

import copy
import os
import re
import shutil
import signal
import socket
import time

from reseat_test import Skip

WAYS = ["heir", "copy", "copy-restored"]
COLD_WAYS = WAYS + ["cold"]
SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sources")
PATIENCE = 10  # seconds after which something that should happen has not


def need(command):
    """The full path of a command; the test is skipped if it is missing."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", os.path.expanduser("~/.cargo/bin")])
    path = shutil.which(command, path=places)
    if not path:
        raise Skip(f"{command} is not installed")
    return path


def read_text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def connect(address):
    """A stream connection to a server that may still be starting."""
    end = time.monotonic() + PATIENCE
    while True:
        candidate = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        candidate.settimeout(PATIENCE)
        try:
            candidate.connect(address)
            return candidate
        except (ConnectionRefusedError, FileNotFoundError):
            candidate.close()
            assert time.monotonic() < end, f"nobody answers at {address}"
            time.sleep(0.02)


class Line:
    """A connection on which a line is answered by a line."""

    def __init__(self, address):
        self.socket = connect(address)
        self.file = self.socket.makefile("rb")

    def send(self, text):
        self.socket.sendall(text.encode() + b"\n")

    def receive(self):
        line = self.file.readline()
        assert line.endswith(b"\n"), f"the connection has ended, its last words: {line!r}"
        return line.rstrip(b"\r\n").decode()

    def ask(self, text):
        self.send(text)
        return self.receive()

    def close(self):
        self.file.close()
        self.socket.close()


class Driver:
    """A program under test. Subclasses say how to start it and how to drive it."""

    commands = ()  # what must be installed
    steady = True  # between two uses no thread and no descriptor comes or goes by itself
    settles = True  # when nobody uses it, it sleeps. False: it is checkpointed while it works
    drive_on = True  # copy-restored: use it between checkpoint and kill. False if its state is also in files
    output = None

    def __init__(self, context):
        self.context = context
        self.expected = {}
        for command in self.commands:
            need(command)

    # -- what a subclass fills in --

    def start(self):
        raise NotImplementedError

    def drive(self):
        raise NotImplementedError

    # -- what it may use --

    def run(self, argv, **how):
        """Starts the program; what it writes goes to a file."""
        if "stdout" not in how:
            self.output = self.context.path("output")
            log = open(self.output, "wb")
            self.context.defer(log.close)
            how.update(stdout=log, stderr=log)
        how.setdefault("stdin", None)
        self.program = self.context.start(argv, **how)
        self.pid = self.program.pid

    def keep(self, closeable):
        """Closes it when the test is over."""
        self.context.defer(closeable.close)
        return closeable

    def wait_for_output(self, text):
        self.context.until(lambda: text in read_text(self.output), f"{text!r} in the output")

    # -- the verbs --

    def checkpoint(self, *flags):
        """Returns the checkpoint's directory."""
        # It has no command line while it is in execve(2).
        self.context.until(lambda: read_text(f"/proc/{self.pid}/cmdline"), f"PID {self.pid} to be a program")
        if self.settles:
            self.context.until(self.is_settled, f"PID {self.pid} to have nothing to do")
        self.before = portrait(self.pid, self.steady, self.settles)
        directory = self.context.new_name("checkpoint")
        said = self.context.reseat("checkpoint", self.pid, "--live", *flags, "-o", directory).stdout
        self.twin = int(re.search(r"twin (\d+)", said)[1])
        return directory

    def checkpoint_image(self):
        """Returns the directory, and the slots for a cold restore: what has another end, opened anew."""
        if self.settles:
            self.context.until(self.is_settled, f"PID {self.pid} to have nothing to do")
        self.before = portrait(self.pid, self.steady, self.settles)
        slots = {}
        for slot in os.listdir(f"/proc/{self.pid}/fd"):
            place = f"/proc/{self.pid}/fd/{slot}"
            if os.readlink(place).startswith(("pipe:", "/dev/pts/")):
                flags = int(re.search(r"flags:\s*(\d+)", read_text(f"/proc/{self.pid}/fdinfo/{slot}"))[1], 8)
                slots[slot] = os.open(place, flags & (os.O_ACCMODE | os.O_NONBLOCK | os.O_APPEND) | os.O_NOCTTY)
                self.context.defer(os.close, slots[slot])
        directory = self.context.new_name("checkpoint")
        self.context.reseat("checkpoint", self.pid, "--image", "--allow=degraded", "-o", directory)
        return directory, slots

    def restore_cold(self, directory, slots):
        wishes = [word for slot, fd in slots.items() for word in ("--slot", f"{slot}=fd:{fd}")]
        pid = self.context.restore(directory, "--cold", *wishes, pass_fds=slots.values())
        assert pid == self.pid, f"restore printed PID {pid}, not {self.pid}"
        self.compare(objects_are_new=True)

    def is_settled(self):
        """Its first thread sleeps, and nothing about it changes for a moment."""
        first = portrait(self.pid, self.steady)
        for _ in range(3):
            time.sleep(0.002)
            stat = read_text(f"/proc/{self.pid}/stat").rpartition(")")[2].split()
            if stat[0] not in "ST" or portrait(self.pid, self.steady) != first:
                return False
        return True

    def await_end(self):
        """The program has been killed: takes its end, so that its PID becomes free."""
        pid = self.pid
        self.context.until(lambda: not os.path.exists(f"/proc/{pid}"), f"the end of PID {pid}")
        self.context.take_status(pid)

    def restore(self, directory, *flags):
        pid = self.context.restore(directory, *flags)
        self.forget_twin()
        assert pid == self.pid, f"restore printed PID {pid}, not {self.pid}"
        self.compare()
        assert not os.path.exists(directory), "the twin is used up, but its directory is still there"

    def drop(self, directory):
        self.context.reseat("drop", directory)
        self.forget_twin()
        assert not os.path.exists(directory), "the twin was dropped, but its directory is still there"

    def forget_twin(self):
        """Its end must not be taken for that of another process that is given its PID."""
        twin = self.twin
        self.context.until(lambda: not os.path.exists(f"/proc/{twin}"), f"the end of the twin {twin}")
        self.context.take_status(twin)

    def compare(self, objects_are_new=False):
        now = portrait(self.pid, self.steady, self.settles)
        for seen in (self.before, now) if objects_are_new and self.steady else ():
            seen["capabilities"] = {slot: re.sub(r":\[\d+\]", "", name) for slot, name in seen["capabilities"].items()}
        changes = [f"{name} was {self.before.get(name)!r}, is {now.get(name)!r}"
                   for name in sorted(self.before.keys() | now.keys()) if self.before.get(name) != now.get(name)]
        assert not changes, "; ".join(changes)


STATUS_FIELDS = ("Name", "Umask", "Tgid", "PPid", "TracerPid", "Uid", "Gid", "Groups", "NStgid", "NSpgid", "NSsid",
                 "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
                 "Seccomp", "Cpus_allowed", "Mems_allowed", "CoreDumping", "THP_enabled")
SIGNAL_FIELDS = ("SigBlk", "SigIgn", "SigCgt")


def portrait(pid, steady=True, settles=True):
    """What must be the same before a checkpoint and after the restore, seen from outside."""
    place = f"/proc/{pid}/"
    fields = dict(line.split(":\t", 1) for line in read_text(place + "status").splitlines() if ":\t" in line)
    seen = {name: fields[name] for name in STATUS_FIELDS + (SIGNAL_FIELDS if settles else ()) if name in fields}
    for name in ("cmdline", "oom_score_adj", "limits", "cgroup"):
        seen[name] = read_text(place + name)
    for name in ("exe", "cwd", "root"):
        seen[name] = os.readlink(place + name)
    # Of what follows the name in stat: terminal, its foreground group, priority, nice value, policy.
    stat = read_text(place + "stat").rpartition(")")[2].split()
    seen["scheduling"] = [stat[field] for field in (4, 5, 15, 16, 37, 38)]
    if steady:
        seen["threads"] = {tid: read_text(f"{place}task/{tid}/comm") for tid in sorted(os.listdir(place + "task"))}
        seen["capabilities"] = {slot: os.readlink(f"{place}fd/{slot}") for slot in sorted(os.listdir(place + "fd"))}
    return seen


# -- the ways --


def take(context, driver_class, way):
    """Starts a driver's program and leads it through one of the WAYS; returns the driver."""
    if way == "cold" and os.geteuid() != 0:
        raise Skip("the old PID, and TCP connections, take root")
    driver = driver_class(context)
    driver.start()
    try:
        driver.drive()
        {"heir": through_heir, "copy": through_copy, "copy-restored": through_copy_restored,
         "cold": through_cold}[way](context, driver)
    except AssertionError as failure:
        raise AssertionError(f"{failure}\n{evidence(driver)}") from failure
    return driver


def through_heir(context, driver):
    for _ in range(2):
        directory = driver.checkpoint()
        driver.await_end()
        driver.restore(directory)
        driver.drive()


def through_copy(context, driver):
    directory = driver.checkpoint("--leave-running")
    driver.compare()
    driver.drive()
    driver.drop(directory)
    driver.drive()


def through_copy_restored(context, driver):
    remembered = copy.deepcopy(driver.expected)
    directory = driver.checkpoint("--leave-running")
    if driver.drive_on:
        driver.drive()
    os.kill(driver.pid, signal.SIGKILL)
    driver.await_end()
    driver.restore(directory)
    driver.expected = remembered
    driver.drive()


def through_cold(context, driver):
    for _ in range(2):
        directory, slots = driver.checkpoint_image()
        driver.await_end()
        driver.restore_cold(directory, slots)
        driver.drive()


def status_at_end(context, program, seconds=20):
    """Waits for the last end of a program (there may have been a checkpoint's kill before) and returns its status."""
    context.until(lambda: not os.path.exists(f"/proc/{program.pid}"), f"{program.name} to end", seconds)
    last = None
    while (status := context.take_status(program.pid)) is not None:
        last = status
    return last


def evidence(driver):
    """What a person wants to see when a test fails."""
    words = []
    try:
        for tid in sorted(os.listdir(f"/proc/{driver.pid}/task")):
            place = f"/proc/{driver.pid}/task/{tid}/"
            stat = read_text(place + "stat").rpartition(")")[2].split()
            words.append(f"thread {tid} {read_text(place + 'comm').strip()}: state {stat[0]}, "
                         f"system call {read_text(place + 'syscall').strip()}")
    except (FileNotFoundError, ProcessLookupError):
        words.append(f"PID {driver.pid} is gone")
    if driver.output:
        words.append("its output ends: " + read_text(driver.output)[-1500:])
    return "\n".join(words)
