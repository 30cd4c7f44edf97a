"""Images of processes that do not stand still: what they do between the first look at them and their stop is neither
held against them nor overlooked."""

import os

PYTHON = "/usr/bin/python3"
WRITER = """
import sys
with open(sys.argv[1], "wb", buffering=0) as log:
    number = 0
    while True:
        log.write(b"line %d\\n" % number)
        number += 1
"""
# Half of the time it holds an end of a pipe whose other end is ours.
HOLDER = """
import os, sys, time
while True:
    pipe = os.open(sys.argv[1], os.O_RDONLY)
    time.sleep(0.001)
    os.close(pipe)
    time.sleep(0.001)
"""


def start(context, source, argument, opened=None):
    program = context.start([PYTHON, "-c", source, argument], stdin=None, stdout=None)
    context.until(lambda: (opened or argument) in opened_by(program.pid), "it to be at work")
    return program


def opened_by(pid):
    names = []
    for slot in os.listdir(f"/proc/{pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{slot}"))
        except FileNotFoundError:
            pass
    return names


def cold_fates(context, what):
    rows = context.reseat("plan", what, "--json").json["capabilities"]
    return {row["name"]: row["cold"]["fate"] for row in rows}


def checkpoint(context, program, status):
    directory = context.new_name("checkpoint")
    result = context.reseat("checkpoint", program.pid, "--image", "-o", directory, status=status)
    if result.status == 0:
        context.until(lambda: not os.path.exists(f"/proc/{program.pid}"), "the process to be gone")
        context.take_status(program.pid)
    return directory, result


def test_a_file_that_grows(context):
    """A log that grows while it is looked at is no file that somebody else has changed."""
    log = context.path("log")
    program = start(context, WRITER, log)
    for _ in range(50):
        fates = cold_fates(context, program.pid)
        assert fates[log] == "recreated", fates
    for _ in range(5):
        directory, _ = checkpoint(context, program, status=0)
        context.restore(directory, "--cold")
    program.kill()
    program.wait()
    lines = open(log).read().split("\n")
    assert lines[:-1] == [f"line {number}" for number in range(len(lines) - 1)], "a line is missing, or there twice"


def test_what_is_opened_at_the_last_moment(context):
    """An image in which something is degraded or lost is not made unless that was allowed, whenever it was opened."""
    ours = os.pipe()
    for end in ours:
        context.defer(os.close, end)
    program = start(context, HOLDER, f"/proc/{os.getpid()}/fd/{ours[0]}", os.readlink(f"/proc/self/fd/{ours[0]}"))
    refused = 0
    for _ in range(20):
        directory, result = checkpoint(context, program, status=None)
        if result.status == 0:
            fates = cold_fates(context, directory)
            assert set(fates.values()) == {"recreated"}, fates
            context.restore(directory, "--cold")
        else:
            refused += 1
            assert result.status == 3 and "the writers are outside the checkpoint" in result.stderr, result
            assert program.alive and not os.path.exists(directory)
    assert refused, "it was never refused"
