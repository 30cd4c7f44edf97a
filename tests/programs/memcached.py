"""memcached: worker threads with libevent, as root starts it: it becomes `nobody` itself."""

import os

from programs.driving import COLD_WAYS, Driver, Line, need, take
from reseat_test import Skip, alone, each


class Memcached(Driver):
    commands = ("memcached",)
    privileges = ()

    def start(self):
        port = self.context.free_port()
        self.run([need("memcached"), "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "4", *self.privileges])
        self.clients = [self.keep(Line(("127.0.0.1", port))) for _ in range(8)]  # two a thread
        assert self.clients[0].ask("set counter 0 0 1\r\n0\r") == "STORED"
        assert self.clients[0].ask("set large 0 0 100000\r\n" + "y" * 100000 + "\r") == "STORED"
        self.port = port
        self.expected = {"counter": 0}

    def drive(self):
        for client in self.clients[:7]:
            self.expected["counter"] += 1
            answer = client.ask("incr counter 1\r")
            assert answer == str(self.expected["counter"]), (answer, self.expected)
        assert self.clients[3].ask("get large\r") == "VALUE large 0 100000"
        assert self.clients[3].receive() == "y" * 100000
        assert self.clients[3].receive() == "END"
        # A request of which half has been sent stays half a request until the next drive().
        if "half" in self.expected:
            assert self.clients[7].ask("23\r") == "STORED"
            assert self.clients[7].ask("incr half 0\r") == "123"
        self.expected["half"] = True
        self.clients[7].socket.sendall(b"set half 0 0 3\r\n1")
        newcomer = Line(("127.0.0.1", self.port))
        assert newcomer.ask("version\r").startswith("VERSION")
        newcomer.close()


class OwnUser(Memcached):
    privileges = ("-u", "nobody")

    def __init__(self, context):
        super().__init__(context)
        if os.geteuid() != 0:
            raise Skip("only root can start a program as another user")


class AsRoot(Memcached):
    def __init__(self, context):
        super().__init__(context)
        if os.geteuid() == 0:
            self.privileges = ("-u", "root")


@alone  # it is the next PID that counts
@each(way=COLD_WAYS)
def test_memcached_own_user(context, way):
    take(context, OwnUser, way)


@each(way=COLD_WAYS)
def test_memcached(context, way):
    take(context, AsRoot, way)
