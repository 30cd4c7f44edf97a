"""What installs and closes capabilities in a process is killed at every system call that changes anything, and between
any two instructions.

Afterwards the target runs and finds that nothing has happened to it (tests/chaos/target.c), and its table is as it was
before or as it was wanted: all or nothing was installed, nothing used in passing is left. RESEAT_CHAOS_ROUNDS as in
test_chaos.py.
"""

import os
import random
import time

from reseat_test import Failure, each, timeout
from reseat_test.context import process_state
from reseat_test.native import table_of
from test_chaos import KINDS, ROUNDS, SOURCES, UNDER_KILLER, build

ANSWER_SECONDS = 10
QUICK_SECONDS = 12
MOST_CALLS = 400
FIRST = 200  # selector; the target looks at those below 128 itself

# name -> (what is done before, the command, what is done afterwards): operation and count
DEEDS = {
    "install": (None, ("install", 1), "close"),
    "install-many": (None, ("install", 300), "close"),
    "replace": (("install", 2), ("replace", 2), "close"),
    "replace-many": (("install", 300), ("replace", 300), "close"),
    "ring": (None, ("ring", 2), "close"),
    "close": (("install", 3), ("close", 3), None),
}


class Rig:
    def __init__(self, context, kind):
        self.context = context
        self.killer = build(context, "killer")
        self.installer = context.path("installer")
        sanitizer = ["-fsanitize=address"] if context.has_sanitizer else []
        context.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", *sanitizer, "-I", SOURCES.parents[1] / "src/lib",
                     SOURCES / "installer.c", "-o", self.installer, "-L", context.build,
                     f"-Wl,-rpath,{context.build.resolve()}", "-lreseat"])
        target = build(context, "target", "-pthread")
        name, how = KINDS[kind]
        self.program = context.start([target, name], **how)
        self.count = self.struck = self.rounds = 0
        self.calls = {}
        self.check()

    def check(self):
        self.program.send("how are you?\n")
        line = self.program.expect("\n", ANSWER_SECONDS)
        count, verdict, *_ = line.split()
        if verdict != "ok" or int(count) < self.count:
            raise Failure(f"the target says: {line}")
        self.count = int(count)

    def table(self):
        """Without the descriptors that a thread of the target has for a moment."""
        for attempt in range(100):
            try:
                return table_of(self.program.pid)
            except FileNotFoundError:
                if attempt == 99 or process_state(self.program.pid) in (None, "Z", "X"):
                    raise Failure(f"the target is gone: {process_state(self.program.pid)}") from None
        return None

    def links(self):
        return {selector: link for selector, (link, _) in self.table().items()}

    def line(self, operation, count):
        return [self.installer, operation, str(self.program.pid), str(FIRST), str(count)]

    def do(self, operation, count):
        self.context.run(self.line(operation, count))

    def wait_for(self, tables, said):
        """The leader may still be on its way back when its tracer is gone."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while (links := self.links()) not in tables:
            if time.monotonic() > deadline:
                raise Failure(f"{said}: the table is {links}, which is none of {tables}")
            time.sleep(0.002)
        return links

    def strike(self, deed, moment):
        before_it, (operation, count), after_it = DEEDS[deed]
        clean = self.links()
        if before_it:
            self.do(*before_it)
        before = self.links()
        selectors = range(FIRST, FIRST + count)
        wanted = {selector: link for selector, link in before.items() if selector not in selectors}
        if operation != "close":
            wanted |= {selector: "anon_inode:[eventfd]" for selector in selectors}
        if operation == "ring":
            wanted[FIRST] = "anon_inode:[io_uring]"
        result = self.context.run([self.killer, *map(str, moment), "--", *self.line(operation, count)], seconds=60,
                                  environment=UNDER_KILLER)
        said = result.stdout.splitlines()[-1]
        self.rounds += 1
        self.struck += said.startswith("struck")
        if said.startswith("ended") and not said.endswith(" 0"):
            raise Failure(f"{deed} failed without having been struck: {result}")
        self.wait_for([wanted] if said.startswith("ended") else [before, wanted], f"{deed} {moment}: {said}")
        self.check()
        now = self.wait_for([before, wanted], f"{deed} {moment}: {said}, and a moment later")
        left = [selector for selector in selectors if selector in now]
        if left:
            self.do("close", len(left))
        self.wait_for([clean], f"{deed} {moment}: {said}, and closed")
        self.calls[deed] = int(said.split()[1]) if said.startswith("ended") else self.calls.get(deed, 120)
        return said


@timeout(300)
@each(deed=list(DEEDS))
def test_every_change(context, deed):
    rig = Rig(context, "counting")
    for at in range(1, MOST_CALLS):
        if rig.strike(deed, ["--changes", "--at", at]).startswith("ended"):
            break
    assert rig.struck > 10


@timeout(24 * 3600 if ROUNDS else 120)
@each(kind=["counting", "threads", "handlers", "user"] if os.geteuid() == 0 else ["counting", "threads"])
def test_random_moments(context, kind):
    rig = Rig(context, kind)
    end = time.monotonic() + (24 * 3600 if ROUNDS else QUICK_SECONDS)
    for _ in range(ROUNDS or 100):
        deed = random.choice(list(DEEDS))
        moment = ["--changes", "--at", random.randint(1, rig.calls.get(deed, 120))]
        match random.randrange(4):
            case 0:
                moment += ["--entry"]
            case 1:
                moment += ["--steps", int(random.expovariate(1 / 300))]
            case 2:
                moment += ["--late", int(random.expovariate(1 / 150)) + 1]
        rig.strike(deed, moment)
        if time.monotonic() > end:
            break
    assert rig.struck > 0
