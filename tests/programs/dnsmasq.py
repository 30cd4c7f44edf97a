"""dnsmasq: UDP, a socket for each query, a user of its own."""

import socket
import struct

from programs.driving import COLD_WAYS, Driver, need, take
from reseat_test import each


class Dnsmasq(Driver):
    commands = ("dnsmasq",)

    def start(self):
        port = self.context.free_port()
        self.run([need("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file",
                  f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--address=/a.test/192.0.2.7"])
        self.client = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.client.connect(("127.0.0.1", port))
        self.client.settimeout(0.2)
        self.context.until(self.answers, "dnsmasq to answer")
        self.client.settimeout(10)

    def answers(self):
        try:
            return self.ask(1)
        except (ConnectionRefusedError, TimeoutError):
            return False

    def ask(self, number):
        question = b"\x01a\x04test\x00" + struct.pack(">HH", 1, 1)
        self.client.send(struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + question)
        answer = self.client.recv(512)
        assert answer[:2] == struct.pack(">H", number), answer
        assert answer.endswith(bytes([192, 0, 2, 7])), answer
        return True

    def drive(self):
        for number in range(2, 12):
            self.ask(number)


@each(way=COLD_WAYS)
def test_dnsmasq(context, way):
    take(context, Dnsmasq, way)
