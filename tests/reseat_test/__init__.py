"""What a test of Reseat is written with.

A test file (`tests/test_*.py`, `tests/programs/*.py`) defines functions `test_*(context)`. Each runs in a process
of its own, which is the parent of everything the test starts, with a directory of its own; a test passes by
returning, fails by any exception (a plain `assert` is the usual one), and is skipped by `raise Skip("reason")`:

    from reseat_test import Skip, each, timeout

    @each(form=["heir", "copy"])                  # one test for each value: test_echo[heir], test_echo[copy]
    @timeout(60)                                  # seconds; 30 unless told
    def test_echo(context, form):
        context.need("cat")                       # skipped if there is no such program
        program = context.start(["cat"])          # stdin and stdout are pipes that we hold
        program.send("before\\n")
        program.expect("before\\n")
        directory = context.checkpoint(program, form)
        context.restore(directory)                # same PID: `program` is the restored process now
        program.send("after\\n")
        program.expect("after\\n")

`context.reseat("list", "--json")` runs the command itself and returns what it wrote and its status; a status that is
not the expected one (0 unless `status=` says another, `status=None`: any) fails the test.

Two things to know. The process that a test runs in reaps *all* its children (targets that a checkpoint killed, twins
that a restore used up, restored processes), because they are its children: so start programs with `context.start` or
`context.run`, not with `subprocess`. And what is left at the end is cleaned up, in this order: `context.defer`red
calls, checkpoints (`reseat drop`), descendants (SIGKILL, by PID), the directory; a twin that is left although it is in
no checkpoint of the test's directory fails the test.
"""

from .context import Context, Failure, Program, Result, Skip
from .marks import alone, each, timeout

__all__ = ["Context", "Failure", "Program", "Result", "Skip", "alone", "each", "timeout"]
