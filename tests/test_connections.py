"""TCP connections that outlive their process in an image: between two network namespaces, in both directions, with
what is sent meanwhile; and what becomes of them when the checkpoint fails, or the image is dropped."""

import os
import time
from pathlib import Path

from reseat_test import each
from reseat_test.network import lay_cable

# Counts lines; writes nowhere but into the connection and its own log.
SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 5000), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("ready", flush=True)
client, _ = server.accept()
count = 0
for line in client.makefile("r"):
    count += 1
    client.sendall(f"{count} {line}".encode())
print("ended", flush=True)
client.close()
"""

# Sends what it is told, and tells what it gets.
CLIENT = """
import socket, sys, threading
connection = socket.create_connection((sys.argv[1], 5000), 20)
connection.settimeout(None)
def listen():
    try:
        for line in connection.makefile("r"):
            print("got", line, end="", flush=True)
        print("end of file", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
threading.Thread(target=listen, daemon=True).start()
print("connected", flush=True)
for line in sys.stdin:
    if line == "end\\n":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.sendall(line.encode())
"""


class Pair:
    """A server in one namespace and a client in the other."""

    def __init__(self, context, address="10.77.0.1"):
        self.context = context
        self.here, self.there = lay_cable(context)
        if ":" in address:
            self.here.run("ip", "addr", "add", address + "/64", "dev", "reseat-here", "nodad")
            self.there.run("ip", "addr", "add", address[:-1] + "2/64", "dev", "reseat-there", "nodad")
        self.log = Path(context.path("server.log"))
        with open(self.log, "wb") as log:
            self.server = context.start(self.here.enter("python3", "-c", SERVER, address), stdin=None, stdout=log,
                                        stderr=log, new_session=True)
        context.until(lambda: "ready" in self.log.read_text(), "the server")
        self.client = context.start(self.there.enter("python3", "-c", CLIENT, address), stdin="pipe", stdout="pipe")
        self.client.expect("connected\n")

    def say(self, text):
        self.client.send(text + "\n")

    def reseat(self, *arguments, **how):
        return self.here.run(self.context.command, *arguments, **how)

    def checkpoint(self):
        directory = self.context.new_name("checkpoint")
        self.reseat("checkpoint", self.server.pid, "--image", "-o", directory)
        return directory


@each(address=["10.77.0.1", "fd77::1"])
def test_outlives_its_process(context, address):
    pair = Pair(context, address)
    pair.say("first")
    pair.client.expect("got 1 first\n")
    for round in range(2):  # what was carried over can be carried over again
        directory = pair.checkpoint()
        pair.say(f"while away {round}")
        time.sleep(1.5)  # is sent several times, to nobody
        pair.reseat("restore", "--cold", directory)
        pair.client.expect(f"got {2 * round + 2} while away {round}\n")
        pair.say(f"afterwards {round}")
        pair.client.expect(f"got {2 * round + 3} afterwards {round}\n")
    pair.say("end")
    pair.client.expect("end of file\n")
    context.until(lambda: "ended" in pair.log.read_text(), "the server to end")


def test_runs_on_if_the_checkpoint_fails(context):
    pair = Pair(context)
    pair.say("first")
    pair.client.expect("got 1 first\n")
    result = context.run(["bash", "-c", f"{' '.join(pair.here.enter(context.command))} checkpoint {pair.server.pid} -o - "
                          "| head -c 50000 >/dev/null; exit ${PIPESTATUS[0]}"], status=1)
    assert "Broken pipe" in result.stderr, result
    pair.say("second")
    pair.client.expect("got 2 second\n")


def test_peer_learns_that_the_image_is_dropped(context):
    pair = Pair(context)
    directory = pair.checkpoint()
    pair.say("anybody there?")
    time.sleep(0.5)
    pair.client.read_available()
    assert "Error" not in pair.client.output, pair.client.output
    pair.reseat("drop", directory)
    pair.client.expect("ConnectionResetError\n")


def test_is_reset_where_a_twin_was_kept(context):
    """With a twin the connection is the twin's, and an image has none: refused, or a reset."""
    pair = Pair(context)
    pair.say("first")
    pair.client.expect("got 1 first\n")
    plan = pair.reseat("plan", pair.server.pid)
    assert "a checkpoint with --image that kills the process; it reads as reset" in plan.stdout, plan
    directory = context.new_name("checkpoint")
    pair.reseat("checkpoint", pair.server.pid, "-o", directory)
    pair.reseat("drop", directory)
    result = pair.reseat("restore", "--cold", directory, status=3)
    assert "cannot be carried over" in result.stderr, result
    pair.reseat("restore", "--cold", "--allow=degraded", directory)
    context.until(lambda: "ConnectionResetError" in pair.log.read_text(), "the server to find the reset")
    assert os.path.exists(directory)


# Sends much, which nobody reads for now; reads only when it is told to.
FULL_SERVER = """
import hashlib, os, socket, sys, time
server = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
client, _ = server.accept()
client.setblocking(False)
block, sent = bytes(range(256)) * 16, 0
try:
    while True:
        sent += client.send(block)
except BlockingIOError:
    pass
if sys.argv[3] == "early":
    client.shutdown(socket.SHUT_WR)
print("sent", sent, flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
client.setblocking(True)
received = b"".join(iter(lambda: client.recv(65536), b""))
print("received", len(received), hashlib.sha256(received).hexdigest(), flush=True)
if sys.argv[3] != "early":
    client.shutdown(socket.SHUT_WR)
print("ended", client.recv(1), flush=True)
"""

FULL_CLIENT = """
import hashlib, socket, sys
connection = socket.create_connection((sys.argv[1], 5000), 20)
data = b"0123456789abcdef" * 9000
connection.sendall(data)
if sys.argv[2] != "early":
    connection.shutdown(socket.SHUT_WR)
print("sent", len(data), hashlib.sha256(data).hexdigest(), flush=True)
sys.stdin.readline()
received = b"".join(iter(lambda: connection.recv(65536), b""))
expected = (bytes(range(256)) * (len(received) // 256 + 1))[:len(received)]
print("received", len(received), received == expected, flush=True)
if sys.argv[2] == "early":
    connection.shutdown(socket.SHUT_WR)
"""


@each(ends=["early", "late"])
def test_full_queues_and_half_closed(context, ends):
    """Both directions full, of which one has ended (early: that from the server, FIN_WAIT; late: that from the client,
    CLOSE_WAIT): nothing is lost, doubled or out of order."""
    here, there = lay_cable(context)
    log, go = Path(context.path("server.log")), Path(context.path("go"))
    with open(log, "wb") as file:
        server = context.start(here.enter("python3", "-c", FULL_SERVER, "10.77.0.1", go, ends), stdin=None, stdout=file,
                               stderr=file, new_session=True)
    context.until(lambda: "ready" in log.read_text(), "the server")
    client = context.start(there.enter("python3", "-c", FULL_CLIENT, "10.77.0.1", ends), stdin="pipe", stdout="pipe")
    client.expect("\n", seconds=20)
    said = client.output.split()
    context.until(lambda: "sent" in log.read_text(), "the server's queue to be full")
    sent = int(log.read_text().split()[2])
    time.sleep(0.5)  # the end of what the client has sent has come
    directory = context.new_name("checkpoint")
    here.run(context.command, "checkpoint", server.pid, "--image", "-o", directory)
    time.sleep(0.5)
    here.run(context.command, "restore", "--cold", directory)
    go.touch()
    client.send("\n")
    client.expect(f"received {sent} True\n", seconds=20)
    context.until(lambda: "received" in log.read_text(), "the server to read everything")
    assert f"received {said[1]} {said[2]}" in log.read_text(), (said, log.read_text())
    context.until(lambda: "ended" in log.read_text(), "the server to end")


# A small send buffer, filled by small pieces; the listener is older and has a higher number than the connection.
CRAMPED = """
import os, socket, sys, time
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen(1)
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
os.dup2(server.fileno(), 100)
server.close()
server = socket.socket(fileno=100)
accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(sys.argv[2]))
size = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
accepted.setblocking(False)
sent = b""
for i in range(10**6):
    try:
        piece = b"%d," % i * (1 + i % 50)
        sent += piece[:accepted.send(piece)]
    except BlockingIOError:
        break
if sys.argv[3] == "ended":
    accepted.shutdown(socket.SHUT_WR)
print("full", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
print("size", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == size, flush=True)
accepted.close()
client.settimeout(60)
received = b"".join(iter(lambda: client.recv(65536), b""))
print("received", received == sent, flush=True)
server.settimeout(20)
late = socket.create_connection(server.getsockname())
print("listens", server.accept()[1] == late.getsockname(), flush=True)
print("done", flush=True)
"""


@each(size=[4096, 200000], end=["open", "ended"])
def test_cramped_buffers(context, size, end):
    """What is queued takes more of the buffer in the new socket than it did in the old one."""
    here, _ = lay_cable(context)
    here.run("ip", "link", "set", "lo", "up")
    log, go = Path(context.path("log")), Path(context.path("go"))
    with open(log, "wb") as file:
        program = context.start(here.enter("python3", "-c", CRAMPED, go, str(size), end), stdin=None, stdout=file,
                                stderr=file, new_session=True)
    context.until(lambda: "full" in log.read_text(), "the queues to be full")
    directory = context.new_name("checkpoint")
    here.run(context.command, "checkpoint", program.pid, "--image", "-o", directory)
    here.run(context.command, "restore", "--cold", directory)
    go.touch()
    context.until(lambda: "done" in log.read_text() or "Error" in log.read_text(), "the restored program", 90)
    assert log.read_text() == "full\nsize True\nreceived True\nlistens True\ndone\n", log.read_text()


LOOPBACK = """
import os, socket, sys, time
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
client.sendall(b"never read")
print("ready", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
for name, end in ("client", client), ("accepted", accepted):
    try:
        print(name, end.recv(100), flush=True)
    except OSError as error:
        print(name, type(error).__name__, flush=True)
late = socket.create_connection(server.getsockname())
print("listens", server.accept()[1] == late.getsockname(), flush=True)
"""


def test_without_privileges(context):
    """An ordinary user may not freeze a connection: that is said beforehand, and then it is found reset."""
    context.need_root()
    place = Path(context.path("place"))
    place.mkdir()
    os.chmod(context.directory, 0o755)
    os.chown(place, 65534, 65534)
    log, go = place / "log", place / "go"
    with open(log, "wb") as file:
        os.chown(log, 65534, 65534)
        program = context.start(["python3", "-c", LOOPBACK, go], stdin=None, stdout=file, stderr=file,
                                new_session=True, user="nobody", cwd=place)
    context.until(lambda: "ready" in log.read_text(), "the program")
    nobody = {"user": "nobody", "group": 65534, "extra_groups": []}
    result = context.reseat("checkpoint", program.pid, "--image", "-o", place / "image", status=3, **nobody)
    assert "cannot be carried over" in result.stderr and "CAP_NET_ADMIN" in result.stderr, result
    assert program.alive
    context.reseat("checkpoint", program.pid, "--image", "--allow=degraded", "-o", place / "image", **nobody)
    context.reseat("restore", "--cold", "--new-pid", place / "image", status=3, **nobody)
    context.reseat("restore", "--cold", "--new-pid", "--allow=degraded", place / "image", **nobody)
    go.touch()
    context.until(lambda: "listens" in log.read_text(), "the restored program")
    assert log.read_text() == "ready\nclient ConnectionResetError\naccepted ConnectionResetError\nlistens True\n", \
        log.read_text()
