"""Restores from an image alone, from outside: where the process ends up, many at once, what is refused."""

import os
import shutil
import signal
import subprocess
import time

from reseat_test import each
from reseat_test.context import process_descendants

PYTHON = "/usr/bin/python3"  # one that everybody may execute
COUNT = """
import os, sys
data = bytearray(os.urandom(3 << 20))
digest = sum(data)
print("ready", flush=True)
count = 0
for line in sys.stdin:
    count += 1
    print(count, os.getpid(), sum(data) == digest, line, end="", flush=True)
"""


def start(context, source=COUNT, **how):
    program = context.start([PYTHON, "-c", source], **how)
    program.expect("ready\n")
    return program


def checkpoint(context, program, *options):
    """An image and no twin; the process is gone."""
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "--image", "--allow=degraded", "-o", directory, *options)
    context.until(lambda: not os.path.exists(f"/proc/{program.pid}"), "the process to be gone")
    context.take_status(program.pid)
    return directory


def pipes(context):
    """Two pipes for standard input and output of a process that is put back: our ends, and --slot with theirs."""
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    return (write_in, read_out), (read_in, write_out), ["--slot", f"0=fd:{read_in}", "--slot", f"1=fd:{write_out}"]


def ask(ours, text):
    os.write(ours[0], text.encode() + b"\n")
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(ours[1], 1)
        assert byte, "the process has closed its output"
        line += byte
    return line.decode().split()


def test_without_its_twin(context):
    """A checkpoint with both: when the twin is gone, restore takes the image by itself."""
    program = start(context)
    directory = context.new_name("checkpoint")
    twin = context.reseat("checkpoint", program.pid, "--allow=degraded", "-o", directory, "--json").json["twin"]
    context.until(lambda: not os.path.exists(f"/proc/{program.pid}"), "the process to be gone")
    context.take_status(program.pid)
    os.kill(twin, signal.SIGKILL)
    context.until(lambda: not os.path.exists(f"/proc/{twin}"), "the twin to be gone")
    ours, theirs, slots = pipes(context)
    result = context.reseat("restore", directory, *slots, "--json", pass_fds=theirs).json
    assert result["pid"] == program.pid and result["source"] == "image", result
    assert ask(ours, "x") == ["1", str(program.pid), "True", "x"]


def test_many_at_once(context):
    """Eight processes of one image at the same time, each with a PID of its own."""
    program = start(context)
    directory = checkpoint(context, program)
    ours, theirs, running = [], [], []
    for _ in range(8):
        mine, its, slots = pipes(context)
        running.append(context.start([context.command, "restore", "--cold", "--new-pid", directory, *slots],
                                     stderr="pipe", pass_fds=its))
        ours.append(mine)
    pids = set()
    for one in running:
        words = one.expect("\n").split()
        assert words[0] == "restored", one.output
        pids.add(int(words[1]))
    assert len(pids) == 8
    for round in (1, 2):
        for mine in ours:
            count, pid, whole, text = ask(mine, "x")
            assert (int(count), whole, text) == (round, "True", "x") and int(pid) in pids


def test_parent(context):
    """It is handed to init or a subreaper (here: us), and is in our session."""
    program = start(context)
    directory = checkpoint(context, program)
    ours, theirs, slots = pipes(context)
    pid = context.restore(directory, "--cold", *slots, pass_fds=theirs)
    stat = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    assert int(stat[1]) == os.getpid() and int(stat[3]) == os.getsid(0)
    os.kill(pid, signal.SIGTERM)
    context.until(lambda: context.reap() or not os.path.exists(f"/proc/{pid}"), "the end of the process")
    assert context.take_status(pid) == -signal.SIGTERM


def test_nothing_of_ours_is_left(context):
    """No mapping and no descriptor: what it has is what it had."""
    program = start(context)

    def portrait():
        maps = [line.split()[:2] + line.split()[5:] for line in open(f"/proc/{program.pid}/maps")]
        return maps, sorted(os.listdir(f"/proc/{program.pid}/fd"), key=int)

    time.sleep(0.2)  # it sleeps in its read
    before = portrait()
    directory = checkpoint(context, program)
    ours, theirs, slots = pipes(context)
    context.restore(directory, "--cold", *slots, pass_fds=theirs)
    after = portrait()
    assert after == before, ([row for row in after[0] if row not in before[0]],
                             [row for row in before[0] if row not in after[0]], before[1], after[1])
    assert ask(ours, "x")[0] == "1"


# ---- what is refused, and what then ----


def test_a_file_that_has_changed(context):
    python = context.path("python-copy")
    shutil.copy2(os.path.realpath(PYTHON), python)
    program = context.start([python, "-c", COUNT], environment={"PYTHONHOME": "/usr"})
    program.expect("ready\n")
    directory = checkpoint(context, program)
    ours, theirs, slots = pipes(context)
    later = time.time() + 5
    os.utime(python, (later, later))
    refusal = context.reseat("restore", "--cold", directory, *slots, pass_fds=theirs, status=3)
    assert f"the file {python}" in refusal.stderr and "has been written to since" in refusal.stderr
    context.restore(directory, "--cold", "--allow=lost", *slots, pass_fds=theirs)
    assert ask(ours, "x")[2] == "True"


def test_a_file_that_is_gone(context):
    python = context.path("python-copy")
    shutil.copy2(os.path.realpath(PYTHON), python)
    program = context.start([python, "-c", COUNT], environment={"PYTHONHOME": "/usr"})
    program.expect("ready\n")
    directory = checkpoint(context, program, "--self-contained")
    os.unlink(python)
    ours, theirs, slots = pipes(context)
    result = context.reseat("restore", "--cold", directory, *slots, pass_fds=theirs)
    assert "is not there any more" in result.stderr
    assert ask(ours, "x")[2] == "True"


def test_the_pid_is_taken(context):
    program = start(context)
    directory = checkpoint(context, program)
    ours, theirs, slots = pipes(context)
    context.restore(directory, "--cold", *slots, pass_fds=theirs)
    refusal = context.reseat("restore", "--cold", "--wait", "50ms", directory, *slots, pass_fds=theirs, status=1)
    assert f"PID {program.pid} is taken by the process 'python3'" in refusal.stderr
    assert ask(ours, "x")[0] == "1"


def test_more_privileges_than_the_caller(context):
    """An image of root's in the hands of somebody else."""
    context.need_root()
    program = start(context)
    directory = checkpoint(context, program)
    os.chmod(context.directory, 0o755)
    os.system(f"chown -R nobody {directory}")
    refusal = context.reseat("restore", "--cold", "--new-pid", directory, status=1, user="nobody", group=65534,
                             extra_groups=[])
    assert "had other user ids" in refusal.stderr, refusal.stderr
    refusal = context.reseat("restore", "--cold", "--new-pid", directory, status=1)
    assert "belongs to user" in refusal.stderr, refusal.stderr


def test_as_an_ordinary_user(context):
    """Without any privilege: under a fresh PID, and what cannot be is said."""
    context.need_root()
    os.chmod(context.directory, 0o755)
    os.mkdir(context.path("place"))
    shutil.chown(context.path("place"), "nobody")
    nobody = {"user": "nobody", "group": 65534, "extra_groups": []}
    program = start(context, user="nobody", cwd=context.path("place"))
    for selector in (0, 1):
        os.chown(f"/proc/{program.pid}/fd/{selector}", 65534, 65534)  # the pipes, as if nobody had made them
    directory = context.path("place/checkpoint")
    context.reseat("checkpoint", program.pid, "--image", "--allow=degraded", "-o", directory, **nobody)
    context.until(lambda: not os.path.exists(f"/proc/{program.pid}"), "the process to be gone")
    context.take_status(program.pid)
    ours, theirs, slots = pipes(context)
    refusal = context.reseat("restore", "--cold", directory, *slots, pass_fds=theirs, status=1, **nobody)
    assert "the old PID" in refusal.stderr and "--new-pid" in refusal.stderr
    result = context.reseat("restore", "--cold", "--new-pid", directory, *slots, pass_fds=theirs, **nobody)
    pid = result.stdout.split()[1]
    assert "exe will be reseat" in result.stderr
    assert ask(ours, "x")[2:] == ["True", "x"]
    assert f"Uid:\t65534\t65534" in open(f"/proc/{pid}/status").read()


def test_live_only(context):
    program = start(context)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "--live", "-o", directory)
    refusal = context.reseat("restore", "--cold", directory, status=1)
    assert "--live" in refusal.stderr
    context.restore(directory)
    program.send("x\n")
    program.expect("True x\n")


# ---- a PID namespace of its own ----

NUMBERS = """
import os, sys, threading
gate = threading.Event()
threads = [threading.Thread(target=gate.wait) for _ in range(3)]
for thread in threads:
    thread.start()
numbers = [os.getpid()] + [thread.native_id for thread in threads]
print("ready", flush=True)
for line in sys.stdin:
    now = sorted(int(name) for name in os.listdir("/proc/self/task"))
    inside = [int(open(f"/proc/self/task/{name}/status").read().split("NSpid:")[1].split("\\n")[0].split()[-1]) for name in now]
    print(os.getpid() == numbers[0], sorted(inside) == sorted(numbers), line, end="", flush=True)
    if line == "end\\n":
        gate.set()
        sys.exit(7)
"""


@each(user=["root", "nobody"])
def test_new_namespace(context, user):
    """Twice at the same time, each under the old numbers, which only an ordinary user's own namespace gives him."""
    context.need_root()
    os.chmod(context.directory, 0o755)
    os.mkdir(context.path("place"))
    shutil.chown(context.path("place"), user)
    how = {"user": "nobody", "group": 65534, "extra_groups": []} if user == "nobody" else {}
    program = start(context, NUMBERS, cwd=context.path("place"), **({"user": "nobody"} if how else {}))
    for selector in (0, 1):
        os.chown(f"/proc/{program.pid}/fd/{selector}", 65534, 65534)
    directory = context.path("place/checkpoint")
    context.reseat("checkpoint", program.pid, "--image", "--allow=degraded", "-o", directory, **how)
    context.until(lambda: not os.path.exists(f"/proc/{program.pid}"), "the process to be gone")
    context.take_status(program.pid)
    all_ours, pids = [], []
    for _ in range(2):
        ours, theirs, slots = pipes(context)
        result = context.reseat("restore", "--new-namespace", directory, *slots, pass_fds=theirs, **how)
        pids.append(int(result.stdout.split()[1]))
        all_ours.append(ours)
    for ours in all_ours:
        answer = ask(ours, "x")
        assert answer == ["True", "True", "x"], answer
    for pid, ours in zip(pids, all_ours):
        status = open(f"/proc/{pid}/status").read()
        assert status.split("NSpid:")[1].split("\n")[0].split() == [str(pid), str(program.pid)], status
        assert user == "root" or "CapEff:\t0000000000000000" in status, status
        init = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
        assert ask(ours, "end") == ["True", "True", "end"]
        context.until(lambda: not os.path.exists(f"/proc/{init}"), "the init to end with its process")
        assert context.take_status(init) == 7


def test_said_before_the_end(context):
    """What no image can bring back is said before the process is killed for it, and by `plan`."""
    context.need_root()
    gone = context.path("gone")
    os.mkdir(gone)
    program = start(context, source="""
import ctypes, os, sys
context = ctypes.c_ulong(0)
assert ctypes.CDLL(None).syscall(206, 8, ctypes.byref(context)) == 0  # io_setup(2)
os.rmdir(os.getcwd())
print("ready", flush=True)
for line in sys.stdin:
    print(line, end="", flush=True)
""", cwd=gone)
    plan = context.reseat("plan", program.pid)
    directory = context.new_name("checkpoint")
    refusal = context.reseat("checkpoint", program.pid, "--image", "-o", directory, status=3)
    for text in (plan.stdout, refusal.stderr):
        assert f"the working directory {gone}" in text, text
        assert "[aio]" in text and "cannot be mapped anew" in text, text
    assert not os.path.exists(directory)
    program.send("still here\n")
    program.expect("still here\n")


# ---- killed in the middle ----


def test_killed_at_any_time(context):
    """Reseat is killed while it puts the process back: either there is nothing, or all of it, and it runs."""
    program = start(context)
    directory = checkpoint(context, program)
    began = time.monotonic()
    ours, theirs, slots = pipes(context)
    pid = context.restore(directory, "--cold", *slots, pass_fds=theirs)
    usual = time.monotonic() - began
    os.kill(pid, signal.SIGKILL)
    context.until(lambda: context.reap() or not os.path.exists(f"/proc/{pid}"), "its end")
    whole = 0
    for round in range(40):
        ours, theirs, slots = pipes(context)
        reseat = context.spawn([context.command, "restore", "--cold", directory, *slots], pass_fds=theirs,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(usual * 1.2 * round / 40)
        os.kill(reseat, signal.SIGKILL)
        for fd in theirs:
            os.close(fd)
        context.until(lambda: context.reap() or not os.path.exists(f"/proc/{reseat}"), "the end of reseat")
        context.take_status(reseat)
        try:
            os.write(ours[0], b"x\n")
        except BrokenPipeError:
            pass  # nothing is there any more
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(ours[1], 1)):  # the end of file: nobody has it any more
            line += byte
        if line:
            whole += 1
            assert line.decode().split() == ["1", str(program.pid), "True", "x"], line
            os.kill(program.pid, signal.SIGKILL)
        context.until(lambda: context.reap() or not process_descendants(os.getpid()), "nothing to be left")
        for fd in ours:
            os.close(fd)
    assert whole < 40, "it was never killed in time"
