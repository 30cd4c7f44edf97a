"""Streams: `checkpoint -o -` into `restore -`, through a pipe, damaged, cut off, and from one network namespace to
another."""

import os
import signal
import time

from reseat_test import each
from reseat_test.network import lay_cable

COUNTER = """
import socket, sys
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
memory = bytearray(b"x" * 3000000)
count = 0
while True:
    client, _ = server.accept()
    while client.recv(100):
        count += 1
        memory[count * 1000] = count
        client.sendall(b"%d %d\\n" % (count, sum(memory[1000:count * 1000 + 1:1000])))
    client.close()
"""

# What netcat does, in a few lines.
SEND = """
import shutil, socket, sys, time
for attempt in range(100):
    try:
        there = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
shutil.copyfileobj(sys.stdin.buffer, there.makefile('wb'))
"""
RECEIVE = "import socket, sys, shutil; c = socket.create_server(('0.0.0.0', int(sys.argv[1]))).accept()[0]; " \
          "shutil.copyfileobj(c.makefile('rb'), sys.stdout.buffer)"


def ask(namespace, address, port):
    """One round with the counter."""
    question = "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); " \
               "s.sendall(b'?'); print(s.recv(100).decode(), end='')"
    return namespace.run("python3", "-c", question, address, port).stdout


def test_between_network_namespaces(context):
    context.need("bash")
    here, there = lay_cable(context)

    # Started in the first namespace, with nothing that comes from us.
    target = context.start(["nsenter", "-t", here.holder.pid, "-n", "python3", "-c", COUNTER, "5000"],
                           stdin=None, stdout="pipe", new_session=True)
    target.expect("ready\n")
    assert ask(here, "10.77.0.1", 5000) == "1 1\n" and ask(here, "10.77.0.1", 5000) == "2 3\n"

    shell = context.start(["bash", "-c", f"""
        {' '.join(there.enter('python3', '-c'))} "{RECEIVE}" 6000 |
        {' '.join(there.enter(context.command))} restore - --allow=degraded --slot 1=/dev/null"""], stderr="pipe")
    sender = context.run(["bash", "-c", f"""set -o pipefail
        {' '.join(here.enter(context.command))} checkpoint {target.pid} -o - --allow=degraded |
        {' '.join(here.enter('python3', '-c'))} "{SEND}" 10.77.0.2 6000"""], status=None)
    assert "checkpointed" in sender.stderr, sender
    shell.expect(f"restored {target.pid} ")
    assert os.readlink(f"/proc/{target.pid}/ns/net") == os.readlink(f"/proc/{there.holder.pid}/ns/net")
    # From both ends of the cable: it counts on where it was, in the other namespace only.
    assert ask(there, "127.0.0.1", 5000) == "3 6\n"
    assert ask(here, "10.77.0.2", 5000) == "4 10\n"


def start(context):
    """A program without anything that an image could not bring back."""
    path = context.build / "tests/durable-threads"
    with open(context.path("ready"), "wb") as ready:
        program = context.start([path], stdin=None, stdout=ready)
    context.until(lambda: os.path.getsize(context.path("ready")), "the program to be ready")
    return program


def stream_of(context, program, *options):
    path = context.new_name("stream")
    context.run(["bash", "-c", f"{context.command} checkpoint {program.pid} -o - {' '.join(options)} >{path}"])
    return path


@each(options=[[], ["--compress"], ["--self-contained"]])
def test_through_a_pipe(context, options):
    program = start(context)
    result = context.run(["bash", "-c", f"set -o pipefail; {context.command} checkpoint {program.pid} -o - "
                          f"{' '.join(options)} | {context.command} restore -"], status=None)
    assert f"restored {program.pid} " in result.stdout, result
    assert len(os.listdir(f"/proc/{program.pid}/task")) == 4


def test_receiver_goes_away(context):
    """Whoever is to get it goes away in the middle: the process runs on."""
    program = start(context)
    result = context.run(["bash", "-c", f"{context.command} checkpoint {program.pid} -o - | head -c 100000 >/dev/null; "
                          "exit ${PIPESTATUS[0]}"], status=1)
    assert "Broken pipe" in result.stderr, result
    assert program.alive and len(os.listdir(f"/proc/{program.pid}/task")) == 4
    assert not context.reseat("list", "--json").json


def test_cut_off_and_damaged(context):
    """A part of a stream, or one with a wrong bit, makes no process."""
    program = start(context)
    stream = stream_of(context, program, "--leave-running")
    whole = stream.read_bytes()
    broken = context.path("broken")
    cuts = [0, 1, 31, 32, 33, 60, 5000, len(whole) // 2, len(whole) - 1]
    flips = [0, 17, 25, 32, 36, 41, 50, 70, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1]
    for cut, flip in [(cut, None) for cut in cuts] + [(len(whole), flip) for flip in flips]:
        part = bytearray(whole[:cut])
        if flip is not None:
            part[flip] ^= 0x10
        with open(broken, "wb") as file:
            file.write(part)
        result = context.run(["bash", "-c", f"{context.command} restore - --new-pid <{broken}"], status=1)
        assert "stream" in result.stderr and result.stdout == "", (cut, flip, result)
    result = context.run(["bash", "-c", f"(cat {stream}; echo more) | {context.command} restore - --new-pid"])
    assert "restored" in result.stdout, result


@each(line=["checkpoint 1 -o - --live", "checkpoint 1 -o - --json", "restore - --new-pid --new-namespace"])
def test_wrong_usage(context, line):
    context.reseat(*line.split(), status=2)


def test_closed_standard_streams(context):
    """No image goes to nowhere: the process would be gone for good."""
    program = start(context)
    result = context.run(["bash", "-c", f"{context.command} checkpoint {program.pid} -o - >&-"], status=2)
    assert "standard output, which is closed" in result.stderr and program.alive, result
    result = context.run(["bash", "-c", f"{context.command} restore - <&-"], status=2)
    assert "standard input, which is closed" in result.stderr, result


def test_interrupted_while_it_waits(context):
    """SIGTERM ends a restore that waits for a stream that never comes."""
    reader, writer = os.pipe()
    waiting = context.start([context.command, "restore", "-"], stdin=reader, stderr="pipe")
    time.sleep(0.3)
    waiting.kill(signal.SIGTERM)
    assert waiting.wait() == 130
    waiting.read_available()
    assert "interrupted" in waiting.output, waiting.output
    os.close(writer)
