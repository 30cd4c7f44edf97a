"""The contents of memfds and deleted files in an image: what Reseat itself needs for them, whatever their size; damage;
streams; a twin that is kept. (That they are of the moment of the checkpoint: test_durable.py.)"""

import os
import signal
import sys

from reseat_test import each

MEBIBYTES = 80  # of each of the two; nothing of this size may be in Reseat's memory
OWN_MEBIBYTES = 64

# Holds a memfd (mapped) and a deleted file, and says on request whether they are as they were.
HOLDER = """
import mmap, os, sys
count, block = int(sys.argv[1]), 1 << 20
memory = os.memfd_create("memory")
file = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
def expected(fd, number):
    return bytes([(1 if fd == memory else 101) + number % 100]) * block
for number in range(count):
    for fd in (memory, file):
        os.pwrite(fd, expected(fd, number), number * block)
mapping = mmap.mmap(memory, count * block)
def is_whole(number):
    return all(os.pread(fd, block, number * block) == expected(fd, number) for fd in (memory, file)) and \
           mapping[number * block:(number + 1) * block] == expected(memory, number)
print("ready", flush=True)
for line in sys.stdin:
    mapping[0] = 2
    shared = os.pread(memory, 1, 0) == b"\\2"
    mapping[0] = 1
    print(shared and all(map(is_whole, range(count))), flush=True)
"""

# Runs a command and says how much memory it has needed at most, in KiB.
MEASURE = "import resource, subprocess, sys; status = subprocess.call(sys.argv[1:], close_fds=False); " \
          "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(status)"


def start(context, mebibytes):
    program = context.start([context.need("python3"), "-c", HOLDER, mebibytes], cwd=context.directory)
    program.expect("ready\n", 60)
    return program


def measured(context, *arguments, **how):
    """The output of a command of Reseat, which needed little memory."""
    result = context.run([sys.executable, "-c", MEASURE, context.command, *map(str, arguments)], seconds=120, **how)
    own = int(result.stderr.split()[-1])
    assert own <= OWN_MEBIBYTES << 10 or context.has_sanitizer, f"{arguments[0]} needed {own} KiB"
    return result.stdout


def pipes():
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    return write_in, read_out, (read_in, write_out), ["--slot", f"0=fd:{read_in}", "--slot", f"1=fd:{write_out}"]


def expect_whole(to, back):
    os.write(to, b"?\n")
    assert os.fdopen(back, closefd=False).readline() == "True\n"


@each(options=[[], ["--compress"]])
def test_own_memory(context, options):
    program = start(context, MEBIBYTES)
    directory = context.new_name("checkpoint")
    measured(context, "checkpoint", program.pid, "-o", directory, "--image", "--leave-running", *options)
    program.send("?\n")
    program.expect("True\n", 60)
    shown = context.reseat("show", directory, "--json").json
    assert sum(row["length"] for row in shown["contents"]) == 2 * MEBIBYTES << 20
    stored = os.stat(next(directory.glob("*.core"))).st_blocks * 512
    assert stored < (64 << 20 if options else (2 * MEBIBYTES + 64) << 20), stored  # once, though it is mapped
    program.kill()
    program.wait()
    to, back, theirs, slots = pipes()
    measured(context, "restore", directory, "--cold", *slots, pass_fds=theirs)
    expect_whole(to, back)
    os.kill(program.pid, signal.SIGKILL)


@each(options=[[], ["--compress"]])
def test_stream(context, options):
    program = start(context, 5)
    to, back, theirs, slots = pipes()
    receiver = context.start([context.command, "restore", "-", *slots], stdin="pipe", stdout=None, pass_fds=theirs)
    sender = context.start([context.command, "checkpoint", program.pid, "-o", "-", "--allow=degraded", *options],
                           stdin=None, stdout=receiver.stdin)
    receiver.close_stdin()
    assert sender.wait(30) == 0 and receiver.wait(30) == 0
    expect_whole(to, back)
    os.kill(program.pid, signal.SIGKILL)


def test_damage(context):
    """One bit is wrong: whose content it is is said, and nothing is made of it."""
    program = start(context, 5)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "-o", directory, "--image", "--allow=degraded")
    core = next(directory.glob("*.core"))
    row = context.reseat("show", core, "--json").json["contents"][-1]
    with open(core, "r+b") as file:
        file.seek(row["file_offset"] + 1000)
        file.write(b"?")
    words = f"the content of object {row['object']} at 400000-500000 is damaged"
    assert words in context.reseat("show", core, "--check", status=1).stderr
    assert words in context.reseat("restore", directory, "--cold", "--allow=lost", status=1).stderr
    assert not os.path.exists(f"/proc/{program.pid}")


def test_twin_that_is_kept(context):
    """restore --keep writes the file anew, with the contents that are in it."""
    program = start(context, 5)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "-o", directory, "--allow=degraded")
    context.restore(directory, "--keep")
    program.send("?\n")
    program.expect("True\n")
    program.kill()
    context.until(lambda: context.reap() or not os.path.exists(f"/proc/{program.pid}"), "the end of the process")
    to, back, theirs, slots = pipes()
    context.restore(directory, "--cold", "--new-pid", *slots, pass_fds=theirs)
    expect_whole(to, back)
