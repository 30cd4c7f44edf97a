"""Runs subjects (tests/subjects/subject.h) in every mode.

A subject is started as our child, prints `ready`, and goes on when it reads a byte from its go pipe. In between it is
checkpointed and restored in one of these ways:

    plain    nothing at all; shows that the subject itself is right (only with --without-reseat)
    heir     checkpoint (kills it), restore, go
    copy     checkpoint --leave-running, go: the target checks itself and ends; restore, go: the restored one does too
    run-on   checkpoint --leave-running three times, each twin dropped, go
    keep     checkpoint, restore --keep, go until it ends; restore again, go
    twice    heir, two times in a row
    new-pid  checkpoint, restore --new-pid, go                                  (subjects that say they can)
    beside   checkpoint --leave-running, restore --new-pid beside it, go, both  (subjects that say they can)
    install  capabilities are installed, replaced and closed in it, one and many, go
    cold     checkpoint --image (no twin is left), restore --cold, go
    cold-new-pid  the same with --new-pid                                       (subjects that say they can)
    cold-twice    cold, and again from the same image when the process has ended
    held     checkpoint with twin and image, restore --cold while the twin lives, go
    held-copy     checkpoint --leave-running with both, go; restore --cold, go

In the cold modes what the runner holds the other end of (its pipes, the socket of the peer) is put at its selectors by
--slot. In the held modes all objects are taken from the twin. What is said of one mode in a row may imply another (IMPLIED).
"""

import fcntl
import os
import signal
import socket
import subprocess
from pathlib import Path

from .native import CLOEXEC, REPLACE, Pd, PdError, table_of
from .context import Failure, Skip, process_children, process_name, process_state

COLD_MODES = ["cold", "cold-new-pid", "cold-twice"]
LIVE_MODES = ["heir", "copy", "run-on", "keep", "twice", "new-pid", "beside"]
ALONE = ["--image", "--allow=degraded"]
HELD_MODES = ["held", "held-copy"]
MODES = LIVE_MODES + COLD_MODES + HELD_MODES
# What is said of a mode is said of these, too, unless they have words of their own.
IMPLIED = {"cold": COLD_MODES, "heir": ["held"], "copy": ["held-copy"], "held": ["held-copy"]}
INSTALL = "install"  # what makes a checkpoint be refused is nothing to it: a row's "all" does not mean it
INSTALLED = 300  # at once
NEW_PID_MODES = ["new-pid", "beside", "cold-new-pid"]
OUTPUT, GO, PEER = 1, 3, 4  # the selectors of subject.h
FAILED, REFUSED = 1, 3
SKIPPED = 77
HIGH = 100  # what we hand to a subject comes in above this; it moves it to where it wants it


class Subject:
    """One row of a subject program's table, as `PROGRAM --list` prints it."""

    def __init__(self, program, line):
        name, flags, skip, refused, fails = line.split("\t")
        self.program, self.name = program, name
        self.flags = flags.split()
        self.skip = by_mode(skip)
        # mode -> (exit status, words of the sentence)
        self.refused = {mode: (REFUSED, words) for mode, words in by_mode(refused).items()}
        self.refused.update({mode: (FAILED, words) for mode, words in by_mode(fails).items()})

    @property
    def title(self):
        return f"{os.path.basename(self.program)}/{self.name}"

    def modes(self):
        return [mode for mode in MODES + [INSTALL] if mode not in NEW_PID_MODES or "new-pid" in self.flags]


def by_mode(text):
    """{"copy": "reason", …} from "copy,keep: reason; twice: another"."""
    reasons, implied = {}, {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        modes, _, reason = part.partition(":")
        for mode in modes.split(","):
            named = {"all": MODES, "live": LIVE_MODES + HELD_MODES}.get(mode.strip(), [mode.strip()])
            for one in named:
                if one not in MODES + [INSTALL]:
                    raise ValueError(f"no mode {one!r} in {text!r}")
                reasons[one] = reason.strip()
                for other in IMPLIED.get(one, []):
                    implied.setdefault(other, reason.strip())
    for mode, reason in implied.items():
        reasons.setdefault(mode, reason)
    return reasons


class Stage:
    """One subject in one mode, from its start to its last outcome."""

    def __init__(self, context, subject, mode):
        self.context, self.subject, self.mode = context, subject, mode
        # What is refused in mode keep, but not in heir, is refused by the restore.
        self.keep_refused = mode == "keep" and "heir" not in subject.refused and subject.refused.get(mode)
        self.refused = None if self.keep_refused else subject.refused.get(mode)
        self.peer = None
        self.kept = {}  # cold modes: selector -> a descriptor of ours on what the subject has there
        self.is_gone = False  # it was checkpointed, and its restore refused as it should be
        self.log = open(context.path("stderr"), "ab")
        go, self.go_end = os.pipe()
        go_high = fcntl.fcntl(go, fcntl.F_DUPFD, HIGH)
        os.close(go)
        handed, environment = [go_high], {"SUBJECT_GO": str(go_high)}
        if "peer" in subject.flags:
            ours, theirs = (fcntl.fcntl(end.detach(), fcntl.F_DUPFD, HIGH) for end in socket.socketpair())
            self.peer = context.start([subject.program, "--peer", subject.name], stdin=None, stderr=self.log,
                                      pass_fds=[theirs], environment={"SUBJECT_PEER": str(theirs)})
            handed, environment = handed + [ours], {**environment, "SUBJECT_PEER": str(ours)}
            self.hold(PEER, ours)
        if mode in COLD_MODES:
            environment["SUBJECT_NEW_OBJECTS"] = "1"
        output, written = os.pipe()
        self.hold(OUTPUT, written)
        self.hold(GO, go_high)
        self.target = context.start([subject.program, subject.name], stdin=None, stdout=written, stderr=self.log,
                                    pass_fds=handed, environment=environment)
        self.target.stdout = output
        for fd in handed + [written] + ([theirs] if self.peer else []):
            os.close(fd)

    def hold(self, selector, fd):
        if self.mode in COLD_MODES:
            self.kept[selector] = os.dup(fd)
            self.context.defer(os.close, self.kept[selector])

    # ---- the subject's side ----

    def wait_ready(self):
        self.read_line("ready")
        if "below" in self.subject.flags:
            while children := process_children(self.target.pid):
                (self.target.pid,) = children
        if "stopped" in self.subject.flags:
            os.kill(self.target.pid, signal.SIGSTOP)
            self.context.until(lambda: process_state(self.target.pid) == "T", "the subject to be stopped")

    def read_line(self, wanted):
        try:
            self.target.expect("\n", 25)
        except Failure as failure:
            raise Failure(f"{failure}; {self.how_it_ended()}") from None
        line = self.target.output[:self.target.seen].splitlines()[-1]
        if line.startswith("skip: "):
            raise Skip(line.removeprefix("skip: "))
        if line != wanted:
            raise Failure(line)

    def how_it_ended(self):
        status = self.context.take_status(self.target.pid)
        state = process_state(self.target.pid)
        return f"its state is {state}" if state else f"its status was {status}"

    def go(self, count=1):
        if "stopped" in self.subject.flags:
            state = process_state(self.target.pid)
            if state != "T":
                raise Failure(f"the process was stopped by SIGSTOP before, but now its state is {state}")
            os.kill(self.target.pid, signal.SIGCONT)
        try:
            os.write(self.go_end, b"g" * count)
        except BrokenPipeError:
            pass  # it is dead; what it wrote or its status, read next, says why
        for _ in range(count):
            self.read_line("ok")

    def wait_gone(self):
        pid = self.target.pid
        self.context.until(lambda: process_state(pid) is None, "the subject to end")
        status = self.context.take_status(pid)
        if status not in (0, None):
            raise Failure(f"it said ok, but its exit status was {status}")

    def check_peer(self):
        if not self.peer:
            return
        if self.peer.alive:
            self.peer.kill(signal.SIGTERM)
        status = self.peer.wait()
        self.peer.read_available()
        if self.peer.output or status not in (0, -signal.SIGTERM):
            raise Failure(f"its peer: {self.peer.output.strip() or f'status {status}'}")

    # ---- Reseat's side ----

    def checkpoint(self, *options):
        """Returns the directory, or None if it was refused as it should be."""
        directory = self.context.new_name("checkpoint")
        status, words = self.refused or (0, None)
        result = self.context.reseat("checkpoint", self.target.pid, "--live", "-o", directory, *options, status=status)
        if words:
            self.check_sentence(result, words)
            return None
        if "--leave-running" not in options:
            self.wait_killed()
        return directory

    def check_sentence(self, result, words):
        if words not in result.stderr:
            raise Failure(f"expected {words!r} in the refusal: {result}")

    def wait_killed(self):
        pid = self.target.pid
        self.context.until(lambda: process_state(pid) is None, "the checkpointed process to be gone")
        self.context.take_status(pid)

    def restore(self, directory, *options, **how):
        if "--keep" in options and self.keep_refused:
            status, words = self.keep_refused
            self.check_sentence(self.context.reseat("restore", directory, *options, status=status), words)
            options = ()
        pid = self.context.restore(directory, *options, **how)
        if "--new-pid" in options:
            if pid == self.target.pid:
                raise Failure(f"restore --new-pid has used the old PID {pid}")
            self.target.pid = pid
        elif pid != self.target.pid:
            raise Failure(f"the PID was {self.target.pid}, after the restore it is {pid}")
        name = process_name(pid)
        if name.startswith("reseat:"):
            raise Failure(f"the restored process is still called {name}")

    def drop(self, directory):
        self.context.reseat("drop", directory)
        if directory.exists():
            raise Failure(f"{directory} is still there after it was dropped")

    def must_be_used_up(self, directory):
        if directory.exists():
            raise Failure(f"{directory} is still there although its twin was used up")

    # ---- from an image ----

    def checkpoint_image(self, *options):
        """Returns the directory, or None if it was refused as it should be: what cannot be made anew here, or has no
        place here, is refused by the restore."""
        directory = self.context.new_name("checkpoint")
        result = self.context.reseat("checkpoint", self.target.pid, "-o", directory, *options, status=None)
        if self.refused and result.status == self.refused[0]:
            self.check_sentence(result, self.refused[1])
            return None
        if result.status != 0:
            raise Failure(f"expected status 0 of {result}")
        if "--leave-running" not in options:
            self.wait_killed()
        return directory

    def restore_cold(self, directory, *options):
        """Returns whether there is a process to go on with."""
        wishes = [word for selector, fd in self.kept.items() for word in ("--slot", f"{selector}=fd:{fd}")]
        if self.refused:
            status, words = self.refused
            self.check_sentence(self.context.reseat("restore", "--cold", directory, *wishes, *options, status=status,
                                                    pass_fds=self.kept.values()), words)
            return False
        self.restore(directory, "--cold", *wishes, *options, pass_fds=self.kept.values())
        return True

    # ---- the modes ----

    def plain(self):
        if os.environ.get("SUBJECT_SABOTAGE") == "stop":  # a bare stop, as a careless tracer would cause it
            os.kill(self.target.pid, signal.SIGSTOP)
            self.context.until(lambda: process_state(self.target.pid) == "T", "the subject to be stopped")
            if "stopped" not in self.subject.flags:
                os.kill(self.target.pid, signal.SIGCONT)
        self.go()

    def heir(self):
        if directory := self.checkpoint():
            self.restore(directory)
            self.must_be_used_up(directory)
        self.go()

    def copy(self):
        directory = self.checkpoint("--leave-running")
        self.go()
        if directory:
            self.wait_gone()
            self.restore(directory)
            self.go()

    def run_on(self):
        for _ in range(3):
            if directory := self.checkpoint("--leave-running"):
                self.drop(directory)
        self.go()

    def keep(self):
        directory = self.checkpoint()
        if directory:
            self.restore(directory, "--keep")
        self.go()
        if directory and not self.keep_refused:
            self.wait_gone()
            self.restore(directory)
            self.go()

    def twice(self):
        for _ in range(2):
            if directory := self.checkpoint():
                self.restore(directory)
        self.go()

    def new_pid(self):
        if directory := self.checkpoint():
            self.restore(directory, "--new-pid")
        self.go()

    def beside(self):
        directory = self.checkpoint("--leave-running")
        if directory:
            self.restore(directory, "--new-pid")
        self.go(2 if directory else 1)

    # ---- the native PD interface ----

    def free_selectors(self, table, count):
        limits = Path(f"/proc/{self.target.pid}/limits").read_text()
        most = next(int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max open files"))
        free = [selector for selector in range(min(most, 5000) - 1, 0, -1) if selector not in table]
        return sorted(free[:count])

    def install_and_close(self, pd):
        pid, cap = self.target.pid, os.eventfd(1)
        other = os.open("/dev/null", os.O_RDWR)
        table = table_of(pid)
        free = self.free_selectors(table, INSTALLED)
        for selector in free[-1:] + free[:1]:
            pd.install(cap, selector, CLOEXEC)
            pd.install(other, selector, REPLACE)
            if table_of(pid) != {**table, selector: ("/dev/null", False)}:
                raise Failure(f"selector {selector} was installed, but the table is {table_of(pid)} after {table}")
            pd.close(selector)
        pd.install_many([(selector, cap, 0) for selector in free])
        pd.close(*free)
        if table_of(pid) != table:
            raise Failure(f"the table was {table}, and is now {table_of(pid)}")
        os.close(cap)
        os.close(other)

    def install(self):
        maps = Path(f"/proc/{self.target.pid}/maps")
        try:
            with Pd(self.context, self.target.pid) as pd:
                before = maps.read_text()
                for _ in range(3):
                    self.install_and_close(pd)
        except PdError as error:
            is_filtered = error.code == "EPERM" and "seccomp" in error.sentence and os.geteuid() != 0
            if INSTALL not in self.subject.refused and not is_filtered:
                raise Failure(f"install: {error}") from None
            if not is_filtered and self.subject.refused[INSTALL][1] not in error.sentence:
                raise Failure(f"expected {self.subject.refused[INSTALL][1]!r} in {error}") from None
        else:
            if INSTALL in self.subject.refused:
                raise Failure(f"install was not refused: {self.subject.refused[INSTALL][1]!r}")
            if "threads" not in self.subject.title and maps.read_text() != before:
                raise Failure(f"the memory map was\n{before}and is now\n{maps.read_text()}")
        self.go()

    def cold(self, *options):
        directory = self.checkpoint_image(*ALONE)
        if not directory or self.restore_cold(directory, *options):
            self.go()
        else:
            self.is_gone = True

    def cold_new_pid(self):
        self.cold("--new-pid")

    def cold_twice(self):
        directory = self.checkpoint_image(*ALONE)
        if directory and not self.restore_cold(directory):
            self.is_gone = True
            return
        self.go()
        if directory:
            self.wait_gone()
            self.restore_cold(directory)
            self.go()

    def restore_held(self, directory):
        """Like restore_cold(), with all objects from the twin; if that is refused, the twin has lost nothing."""
        if not self.restore_cold(directory):
            self.restore(directory)
        if twins := [row for row in self.context.reseat("list", "--json").json if row["dir"] == str(directory)]:
            raise Failure(f"its twin was used up, but is still there: {twins}")
        self.go()

    def held(self):
        directory = self.checkpoint_image()
        if directory:
            self.restore_held(directory)
        else:
            self.go()

    def held_copy(self):
        directory = self.checkpoint_image("--leave-running")
        self.go()
        if directory:
            self.wait_gone()
            self.restore_held(directory)


def run_subject(context, subject, mode):
    """The test of one subject in one mode."""
    if "root" in subject.flags:
        context.need_root()
    if os.geteuid() != 0 and mode not in ["plain", "run-on", INSTALL] + NEW_PID_MODES:
        raise Skip("without CAP_CHECKPOINT_RESTORE nobody gets the old PID back")
    if mode in subject.skip:
        raise Skip(subject.skip[mode])
    stage = Stage(context, subject, mode)
    stage.wait_ready()
    try:
        getattr(stage, mode.replace("-", "_"))()
        if not stage.is_gone:
            stage.wait_gone()
            stage.check_peer()
    except Failure as failure:
        written = Path(context.path("stderr")).read_text(errors="replace")
        raise Failure(f"{failure}\n{written}".rstrip()) from None
    finally:
        stage.log.close()


def find_subjects(build):
    """All rows of all subject programs in the build directory."""
    subjects = []
    for program in sorted(Path(build, "tests/subjects").glob("*")):
        if program.is_file() and os.access(program, os.X_OK) and not program.suffix:
            lines = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout
            subjects += [Subject(str(program), line) for line in lines.splitlines()]
    return subjects
