"""Reseat is killed at every system call that changes anything, and between any two instructions, in every verb.

Afterwards either the target runs and finds from the inside that nothing has happened to it (tests/chaos/target.c), or
it is gone and `reseat restore` brings it back so; never half, never twice; a left-over twin is listed and can be
dropped; and the target can still be checkpointed and restored. After SIGINT, which a verb can clean up after, nothing
at all may be left. tests/chaos/killer.c chooses the moment.

`make check` sweeps over all calls of checkpoint and restore and takes some random samples of everything else.
RESEAT_CHAOS_ROUNDS=5000 takes so many samples of each random test (and RESEAT_CHAOS_SEED the same ones again);
RESEAT_CHAOS_LOG=FILE writes down each failure as it comes.
"""

import ctypes
import os
import random
import signal
import time
from pathlib import Path

from reseat_test import Failure, Program, Skip, each, timeout
from reseat_test.context import TWIN_NAME, process_children, process_descendants, process_name, process_state

SOURCES = Path(__file__).resolve().parent / "chaos"
ROUNDS = int(os.environ.get("RESEAT_CHAOS_ROUNDS") or 0)
LOG = os.environ.get("RESEAT_CHAOS_LOG")
LONG = 24 * 3600
QUICK_SECONDS = 15  # of random samples, on a machine that is too slow for a hundred
FAILURES_SHOWN = 8
ANSWER_SECONDS = 10
MOST_CALLS = 1000  # that change anything, in one verb

SYS_KCMP, KCMP_VM = 312, 1
RUNNING, PARKED = "running", "parked"
CHECKPOINT, LEAVE = ["checkpoint", "--live"], ["checkpoint", "--live", "--leave-running"]
DURABLE, DURABLE_LEAVE = ["checkpoint"], ["checkpoint", "--leave-running"]
HELD = ["restore", "--cold"]  # from the image, with the objects that the twin holds
LONG_VERBS = (DURABLE, DURABLE_LEAVE, HELD)


# What the target is, and how it is started.
KINDS = {
    "counting": ("counting", {}),
    "threads": ("threads", {}),
    "handlers": ("handlers", {}),
    "filtered": ("filtered", {}),
    "leader": ("counting", {"new_session": True}),
    "user": ("threads", {"user": "nobody"}),
}


UNDER_KILLER = {"ASAN_OPTIONS": "detect_leaks=0"}  # LeakSanitizer does not work in what is traced


def build(context, name, *options):
    program = context.path(name)
    context.need("gcc")
    context.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O1", *options, SOURCES / f"{name}.c", "-o", program])
    return program


def end_of_vdso(pid):
    """The last bytes of the vDSO, which nobody uses but Reseat."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith("[vdso]"):
            end = int(line.split("-")[1].split()[0], 16)
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(end - 192)
                return memory.read(192)
    return b""


def scratch_mappings(pid):
    """Executable mappings of no file: only Reseat makes such in our targets."""
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [line[0] for line in lines if len(line) == 5 and "x" in line[1]]


class NumberTaken(Exception):
    """Somebody who has nothing to do with us has the number of one of the target's threads."""


class Chaos:
    """One target after the other, and Reseat being killed over them."""

    def __init__(self, context, kind, has_own_parent=False, seed=None):
        """`has_own_parent`: the target's parent is not us, but a program that waits for no child but the target."""
        self.context, self.kind, self.has_own_parent = context, kind, has_own_parent
        self.seed = seed if seed is not None else int(os.environ.get("RESEAT_CHAOS_SEED", random.randrange(10**6)))
        self.random = random.Random(self.seed)
        self.killer = build(context, "killer")
        self.target = build(context, "target", "-pthread")
        self.rounds, self.struck, self.taken, self.unavoidable = 0, 0, 0, 0
        self.failures, self.history = [], []
        self.calls = {}  # (verb, how it is counted) -> how many calls it makes
        self.program = None
        self.start()

    # ---- the target ----

    def start(self):
        self.parent = None
        if self.has_own_parent:
            self.start_below_parent()
        else:
            program, how = KINDS[self.kind]
            self.program = self.context.start([self.target, program], **how)
        self.directory, self.state, self.asked, self.count, self.history = None, RUNNING, False, 0, []
        self.clear_next = False  # what was left must go before the next strike
        self.check()

    def start_below_parent(self):
        (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
        self.parent = self.context.start([self.target, "parent", theirs_in, theirs_out], pass_fds=(theirs_in, theirs_out))
        os.close(theirs_in)
        os.close(theirs_out)
        child = self.context.until(lambda: process_children(self.parent.pid), "the parent to have a child")[0]
        self.program = Program(self.context, [self.target, "counting"], child, ours_in, ours_out)

    def check_parent(self):
        self.parent.send("how are you?\n")
        line = self.parent.expect("\n", ANSWER_SECONDS)
        if " ok " not in line:
            raise Failure(f"the parent says: {line}")

    def ask(self):
        """Asks for an answer, which whoever runs then gives: a question waits in the pipe."""
        if not self.asked:
            self.program.send("how are you?\n")
            self.asked = True

    def check(self, seconds=ANSWER_SECONDS):
        """The target says that nothing has happened to it."""
        self.ask()
        line = self.program.expect("\n", seconds)
        self.asked = False
        count, *words = line.split()
        self.unavoidable += int(words.pop().removeprefix("unavoidable="))
        if words != ["ok"]:
            raise Failure(f"the target says: {line}")
        if int(count) < self.count:
            raise Failure(f"the target has counted from {self.count} back to {count}")
        self.count = int(count)
        status = Path(f"/proc/{self.program.pid}/status").read_text()
        if "TracerPid:\t0\n" not in status:
            raise Failure("the target is still traced")
        if self.parent:
            self.check_parent()

    def run(self, arguments, **how):
        """Numbers come again quickly when processes choose theirs: what is known of a number's earlier ends is not
        about the process that has it now."""
        self.context.reap()
        self.context._statuses.clear()
        return self.context.run(arguments, **how)

    def reseat(self, *arguments, status=0):
        result = self.run([self.context.command, *arguments], status=None, seconds=60)
        self.history.append(f"{' '.join(map(str, arguments))}: status {result.status} {result.stderr.strip()}")
        if status is not None and result.status != status:
            raise Failure(f"expected status {status} of {result}")
        return result

    # ---- what there is ----

    def look(self):
        """Who is alive: (whether the target is, the twins)."""
        self.context.reap()
        parent = self.parent.pid if self.parent else os.getpid()
        mine = [pid for pid in process_children(parent) if process_state(pid) not in (None, "Z", "X")]
        names = {pid: process_name(pid) for pid in mine}
        twins = sorted(pid for pid, name in names.items() if name.startswith(TWIN_NAME))
        strangers = {pid: name for pid, name in names.items() if pid not in twins and pid != self.program.pid}
        return self.program.pid in mine, twins, strangers

    def settle(self):
        """What is left when everything that the kernel still does after the end of Reseat is done."""
        deadline, same, before = time.monotonic() + 10, 0, None
        while same < 4:
            now = self.look()
            same = same + 1 if now == before and not now[2] else 0
            before = now
            if time.monotonic() > deadline:
                raise Failure(f"somebody else is alive: {now[2]}")
            time.sleep(0.0007)
        return before[:2]

    def zombies(self):
        """The dead children of the parent that waits for none but the target."""
        children = process_children(self.parent.pid) if self.parent else []
        return {pid for pid in children if process_state(pid) == "Z" and pid != self.program.pid}

    def listed(self):
        return {row["twin"]: row for row in self.reseat("list", "--json").json if row["pid"] == self.program.pid}

    # ---- striking ----

    def line(self, verb):
        """The command line of a verb in the present state."""
        if verb[0] == "checkpoint":
            self.directory = self.context.new_name("chaos")
            return [verb[0], str(self.program.pid), *verb[1:], "-o", str(self.directory)]
        if verb[0] == "caps":
            return [verb[0], str(self.program.pid if self.state == RUNNING else os.getpid())]
        return [verb[0], *verb[1:], str(self.directory)] if verb[0] != "list" else verb

    def strike(self, verb, *moment):
        """Runs a verb and kills it. Returns what killer.c says: whether it was struck, and the rest of the line."""
        line = self.line(verb)
        result = self.run([self.killer, *map(str, moment), "--", self.context.command, *line], seconds=60,
                          environment=UNDER_KILLER)
        said = result.stdout.splitlines()[-1]
        self.history = self.history[-30:] + [f"{' '.join(verb)} {' '.join(map(str, moment))}: {said} "
                                             f"{result.stderr.strip()}"]
        self.rounds += 1
        self.struck += said.startswith("struck")
        return said

    def count_calls(self, verb, counted):
        """How many calls the verb makes, as far as is known."""
        key = (tuple(verb), counted)
        return self.calls.get(key, {"--changes": 60, "--usual": 1200, "--all": 1500}[counted])

    def random_moment(self, verb):
        counted = self.random.choice(["--changes"] * 4 + ["--usual", "--all"])
        at = self.random.randint(1, int(self.count_calls(verb, counted) * 1.03) + 1)
        moment = ["--at", at] + ([counted] if counted != "--usual" else [])
        match self.random.randrange(5):
            case 0:
                moment += ["--entry"]
            case 1 | 2:
                moment += ["--steps", int(self.random.expovariate(1 / 300))]
            case 3:
                moment += ["--late", int(self.random.expovariate(1 / 150)) + 1]
        return moment, counted

    # ---- judging ----

    def judge(self, verb, said, number=signal.SIGKILL):
        """The target runs as if nothing had been, or can be restored; sets the state."""
        runs, twins = self.settle()
        ended = said.startswith("ended")
        status = os.waitstatus_to_exitcode(int(said.split()[-1]))
        # A file of its own under /proc is not the one that the twin has.
        if ended and status != 0 and verb[0] != "verify" and not self.number_is_taken():
            raise Failure("the verb failed without having been struck")
        if runs:
            try:
                self.check()
            except Failure:
                runs, twins = self.settle()
                if runs:
                    raise
        self.state = RUNNING if runs else PARKED
        if not runs and not twins:
            raise Failure("the target is gone, and there is no twin")
        if number != signal.SIGKILL and status != 0:
            self.judge_failure(verb, runs, twins)
        if status == 0:
            self.judge_success(verb, runs, twins)
        if runs and twins:
            self.judge_both(twins)

    def judge_failure(self, verb, runs, twins):
        """A verb that failed by itself has changed nothing."""
        if verb[0] == "checkpoint":
            if len(twins) != self.twins_before or not runs:
                raise Failure(f"checkpoint failed, but left twins {twins}")
            if left := [name for name in os.listdir(self.context.directory) if self.directory.name in name]:
                raise Failure(f"checkpoint failed, but left {left}")
        if verb[0] == "restore" and (runs or len(twins) != self.twins_before):
            raise Failure("restore failed, but the state is not as before")

    def judge_success(self, verb, runs, twins):
        more = {"checkpoint": 1, "restore": int("--keep" in verb) - 1, "drop": -1}.get(verb[0], 0)
        runs_now = {"checkpoint": "--leave-running" in verb, "restore": True, "drop": True}.get(verb[0], runs)
        if len(twins) != self.twins_before + more or runs != runs_now:
            raise Failure(f"{verb[0]} succeeded, but: target runs {runs}, twins {twins}")

    def judge_both(self, twins):
        """A target that runs on beside its twin: the twin is listed, and nobody can make a second copy that runs in
        the same memory."""
        listed = {}

        def all_listed():  # one that is just dying is not
            listed.update(self.listed())
            return set(self.look()[1]) <= set(listed)

        self.context.until(all_listed, f"twins {twins} to be listed or gone")
        for twin in self.look()[1]:
            shares = os.path.exists(f"/proc/{twin}/maps") and self.shares_memory(twin)
            if shares:
                self.clear_next = True
            if shares and listed[twin]["dir"]:
                result = self.reseat("restore", "--new-pid", listed[twin]["dir"], status=None)
                if result.status == 0:
                    raise Failure(f"two run in the same memory: {result}")

    def shares_memory(self, twin):
        return ctypes.CDLL(None).syscall(SYS_KCMP, self.program.pid, twin, KCMP_VM, 0, 0) == 0

    def left_in_memory(self):
        """What a Reseat that was killed has left in the target's memory, as a set."""
        stub = end_of_vdso(self.program.pid)
        return set(scratch_mappings(self.program.pid)) | ({"the stub"} if any(stub) else set())

    # ---- going on ----

    def clear_up(self):
        """Lets go of twins and directories that were left although the target runs."""
        for twin, row in self.listed().items():
            self.reseat("drop", row["dir"]) if row["dir"] else self.reseat("drop", "--twin", twin)
        for name in os.listdir(self.context.directory):
            path = self.context.directory / name
            if "chaos-" in name and path.is_dir():
                if name.startswith("."):  # a draft, which nobody will ever finish
                    for file in path.iterdir():
                        file.unlink()
                    path.rmdir()
                elif any(path.iterdir()):
                    self.reseat("drop", path)
                    for file in path.iterdir() if path.exists() else ():  # an image stays
                        file.unlink()
                    if path.exists():
                        path.rmdir()
                else:  # removed all but
                    path.rmdir()
        runs, twins = self.settle()
        if not runs or twins:
            raise Failure(f"after dropping what was left: target runs {runs}, twins {twins}")
        self.directory = None

    def restore(self):
        """Restores; a number of the target's that somebody else has just now is waited for."""
        deadline = time.monotonic() + 10
        while (result := self.reseat("restore", self.directory, status=None)).status != 0:
            if not self.number_is_taken():
                raise Failure(f"cannot be restored: {result}")
            if time.monotonic() > deadline:
                raise NumberTaken(result.stderr)
            time.sleep(0.05)

    def number_is_taken(self):
        """The last command failed because somebody has a number of the target's just now."""
        return any(text in self.history[-1] for text in ("File exists", "is taken", "still taken"))

    def bring_back(self):
        """From either state to a target that runs alone."""
        if self.state == PARKED:
            self.restore()
            self.state = RUNNING
            self.check()
        self.clear_up()

    def park(self, verb=None):
        self.reseat(*self.line(verb or CHECKPOINT))
        leaves = verb in (LEAVE, DURABLE_LEAVE)
        self.context.until(lambda: process_state(self.program.pid) is None or leaves, "the target to be gone")
        if leaves:
            self.program.kill()
            self.context.until(lambda: process_state(self.program.pid) is None, "the target to be gone")
        self.state = PARKED

    def prove(self):
        """The target can still be checkpointed and restored, and nothing is left of that."""
        before = scratch_mappings(self.program.pid)
        self.park(self.random.choice([CHECKPOINT, LEAVE]))
        self.bring_back()
        if len(scratch_mappings(self.program.pid)) > len(before):
            raise Failure("a checkpoint and a restore have left a mapping")

    # ---- failures ----

    def guarded(self, function, *arguments):
        """Runs one round; notes its failure and begins with a fresh target."""
        try:
            return function(*arguments)
        except NumberTaken:
            self.taken += 1
        except Failure as failure:
            self.note(str(failure))
        self.end_all()
        self.start()
        return None

    def note(self, text):
        runs, twins, strangers = self.look()
        if strangers:
            text += f"\n  strangers: {strangers}"
        text = "\n".join([f"[{self.kind}, seed {self.seed}, round {self.rounds}] {text}",
                          f"  state: target {self.program.pid} runs {runs}, twins {twins}", "  history:",
                          *(f"    {entry}" for entry in self.history[-12:])])
        self.failures.append(text)
        if LOG:
            with open(LOG, "a", encoding="utf-8") as file:
                file.write(text + "\n\n")

    def end_all(self):
        while left := process_descendants(os.getpid()):
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.context.until(lambda: all(process_state(pid) in (None, "Z", "X") for pid in left), "all to end")
            self.context.reap()
        self.run(["find", self.context.directory, "-mindepth", "1", "-name", "*chaos-*", "-exec", "rm", "-r", "{}", "+"],
                         status=None)

    def report(self):
        self.end_all()
        if self.failures:
            raise Failure(f"{len(self.failures)} failures in {self.rounds} rounds ({self.struck} struck, "
                          f"{self.taken} given up because a number was taken):\n"
                          + "\n".join(self.failures[:FAILURES_SHOWN]))
        if self.taken > self.rounds / 4:
            raise Skip(f"others took the target's numbers in {self.taken} of {self.rounds} rounds")
        if not self.struck:
            raise Failure("nothing was struck")
        print(f"{self.kind}: {self.struck} of {self.rounds} struck, {self.unavoidable} unavoidable disturbances"
              ) if LOG else None

    # ---- rounds ----

    def make_ready(self, verb):
        """Brings about the state in which a verb makes sense."""
        if verb[0] in ("checkpoint", "drop", "verify") and self.state == PARKED:
            self.bring_back()
        if self.clear_next:  # a checkpoint would be refused: the target shares its table with a twin
            self.clear_up()
            self.clear_next = False
        if verb[0] in ("restore", "drop", "verify") and (self.state == RUNNING or not self.directory):
            self.clear_up()
            # `drop` of a parked target would be its end.
            with_image = verb == HELD
            self.park(self.random.choice([DURABLE, DURABLE_LEAVE] if with_image else [CHECKPOINT, LEAVE])
                      if verb[0] == "restore" else None)
            if verb[0] != "restore":
                self.reseat("restore", "--keep", self.directory)
                self.state = RUNNING

    def round(self, verb, moment, number=signal.SIGKILL):
        """One strike and everything after it. Returns whether it was struck at all."""
        self.make_ready(verb)
        before = self.left_in_memory() if self.state == RUNNING else None
        self.twins_before = len(self.settle()[1])
        zombies = self.zombies()
        said = self.strike(verb, "--signal", int(number), *moment)
        self.judge(verb, said, number)
        if self.parent and said.startswith("ended") and self.zombies() - zombies:
            raise Failure(f"left to its parent, who does not want it: {self.zombies() - zombies}")
        if number != signal.SIGKILL and before and self.state == RUNNING:
            if left := self.left_in_memory() - before:
                raise Failure(f"interrupted, it has left something in the target's memory: {left}")
        return said

    def finish_round(self):
        self.bring_back()
        self.prove()


# ---- every call ----


def sweep(chaos, verb, options, number=signal.SIGKILL):
    """Strikes at call 1, 2, … until the verb ends before. What has to do with an image makes hundreds of calls that are
    all alike: of those a few are left out, others each time."""
    stride = 1 if ROUNDS or verb not in LONG_VERBS else 4

    def one(at):
        said = chaos.round(verb, [*options, "--at", at], number)
        chaos.finish_round()
        return said

    said = ""
    for at in range(1 + chaos.random.randrange(stride), MOST_CALLS, stride):
        said = chaos.guarded(one, at) or said
        if said.startswith("ended") or len(chaos.failures) > 20:
            return


VERBS = {"checkpoint": CHECKPOINT, "leave-running": LEAVE, "restore": ["restore"], "keep": ["restore", "--keep"],
         "durable": DURABLE, "durable-leave-running": DURABLE_LEAVE, "held": HELD}


@timeout(400)
@each(verb=list(VERBS), when=["entry", "exit"] if ROUNDS else ["exit"])
def test_every_change(context, verb, when):
    """To be killed when a call is about to begin differs from when the one before is done only in what the target does
    meanwhile."""
    chaos = Chaos(context, "counting")
    sweep(chaos, VERBS[verb], ["--changes", *(["--entry"] if when == "entry" else [])])
    chaos.report()


@timeout(400)
@each(verb=list(VERBS))
def test_every_interruption(context, verb):
    """SIGINT leaves nothing behind."""
    chaos = Chaos(context, "counting")
    sweep(chaos, VERBS[verb], ["--changes"], signal.SIGINT)
    chaos.report()


@timeout(120)
def test_slot_of_killed_restore(context):
    """What was to be put at a selector is not there when it is restored without that."""
    chaos = Chaos(context, "counting")

    def one(at):
        chaos.park(chaos.random.choice([CHECKPOINT, LEAVE]))
        said = chaos.strike(["restore", "--slot", "9=/dev/null"], "--changes", "--at", at)
        if chaos.settle()[0]:  # with the slot: the next round is another one's
            chaos.end_all()
            chaos.start()
        else:
            chaos.bring_back()
        return said

    said = ""
    for at in range(1, MOST_CALLS):
        said = chaos.guarded(one, at) or said
        if said.startswith("ended"):
            break
    chaos.report()


@timeout(240)
def test_restore_after_a_killed_restore(context):
    """A restore begins with what the last one has left undone, by programs in the twin, one over the other."""
    chaos = Chaos(context, "leader")

    def one(first, second):
        chaos.park(CHECKPOINT)
        for verb, moment in (["restore"], ["--at", first]), (["restore", "--keep"], ["--entry", "--at", second]):
            if chaos.state == PARKED:
                said = chaos.strike(verb, "--signal", int(signal.SIGKILL), "--changes", *moment)
                chaos.judge(verb, said, signal.SIGKILL)
        chaos.finish_round()

    for first in (30, 33, 36, 39):
        for second in range(12, 26):
            chaos.guarded(one, first, second)
    chaos.report()


@timeout(120)
@each(verb=["restore", "keep", "drop", "checkpoint"])
def test_parent_that_collects_only_its_own(context, verb):
    """For such a parent the twin is collected by a system call inside it, in which it may be left by us, too."""
    chaos = Chaos(context, "counting", has_own_parent=True)
    sweep(chaos, VERBS.get(verb, [verb]), ["--changes"])
    chaos.report()


# ---- at random ----


def take_sample(chaos, verbs):
    verb = chaos.random.choice(verbs)
    number = chaos.random.choice([signal.SIGKILL] * 3 + [signal.SIGINT])
    moment, counted = chaos.random_moment(verb)
    said = chaos.round(verb, moment, number)
    if said.startswith("ended"):
        chaos.calls[tuple(verb), counted] = int(said.split()[1])
    if chaos.random.randrange(3):  # else: the next strike meets what this one has left
        chaos.finish_round()


@timeout(LONG if ROUNDS else 120)
@each(kind=list(KINDS))
def test_random_moments(context, kind):
    chaos = Chaos(context, kind)
    verbs = [CHECKPOINT] * 3 + [LEAVE] * 2 + [DURABLE, DURABLE_LEAVE] + [["restore"]] * 3 + [["restore", "--keep"]] * 2
    verbs += [["verify"], ["drop"], ["caps"], ["list"]]
    end = time.monotonic() + (LONG if ROUNDS else QUICK_SECONDS)
    for _ in range(ROUNDS or 100):
        chaos.guarded(take_sample, chaos, verbs)
        if time.monotonic() > end:
            break
    chaos.guarded(chaos.finish_round)
    chaos.report()
