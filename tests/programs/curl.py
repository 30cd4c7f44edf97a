"""curl in the middle of a download: a client's side of a connection; we are the server."""

import hashlib
import os
import socket

from programs.driving import WAYS, Driver, need, status_at_end, take
from reseat_test import each

SIZE = 3 << 20


class Curl(Driver):
    commands = ("curl",)
    drive_on = False  # what is taken from the socket between checkpoint and kill is gone
    steady = False

    def start(self):
        listening = socket.create_server(("127.0.0.1", 0))
        self.file = self.context.path("downloaded")
        self.run([need("curl"), "-sS", "-o", self.file, f"http://127.0.0.1:{listening.getsockname()[1]}/"])
        listening.settimeout(10)
        self.server = self.keep(listening.accept()[0])
        listening.close()
        self.server.settimeout(10)
        assert self.server.recv(4096).startswith(b"GET / ")
        self.server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        self.content = os.urandom(SIZE)
        self.sent = 0

    def drive(self):
        self.send(SIZE // 8)
        # What is under way when curl is checkpointed is its own business.

    def send(self, count):
        part = self.content[self.sent : self.sent + count]
        self.server.sendall(part)
        self.sent += len(part)


@each(way=WAYS)
def test_curl(context, way):
    class Downloading(Curl):
        settles = way == "copy-restored"  # what it reads between checkpoint and kill is gone

    driver = take(context, Downloading, way)
    driver.send(SIZE)
    assert status_at_end(context, driver.program) == 0
    with open(driver.file, "rb") as file:
        got = file.read()
    assert len(got) == SIZE, f"{len(got)} bytes of {SIZE}"
    assert hashlib.sha256(got).digest() == hashlib.sha256(driver.content).digest(), "not what was sent"
