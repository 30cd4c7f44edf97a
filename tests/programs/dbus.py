"""dbus-daemon: a client that keeps its connection, and its name on the bus."""

import os
import struct

from programs.driving import WAYS, Driver, connect, need, take
from reseat_test import each

CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
"""


def padded(data, to):
    return data + b"\0" * (-len(data) % to)


def text(value):
    return struct.pack("<I", len(value)) + value.encode() + b"\0"


def method_call(member, serial):
    """A message to the bus itself, without arguments: D-Bus specification, "Message Protocol"."""
    fields = b""
    for code, kind, value in ((1, "o", "/org/freedesktop/DBus"), (2, "s", "org.freedesktop.DBus"), (3, "s", member),
                              (6, "s", "org.freedesktop.DBus")):
        fields = padded(fields, 8) + bytes([code, 1]) + kind.encode() + b"\0" + text(value)
    header = struct.pack("<cBBBIII", b"l", 1, 0, 1, 0, serial, len(fields)) + fields
    return padded(header, 8)


class Dbus(Driver):
    commands = ("dbus-daemon",)

    def start(self):
        address = self.context.path("bus")
        configuration = self.context.path("bus.conf")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(address))
        self.run([need("dbus-daemon"), "--nofork", "--nopidfile", f"--config-file={configuration}"])
        self.client = self.keep(connect(address))
        self.client.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        assert self.client.recv(100).startswith(b"OK ")
        self.client.sendall(b"BEGIN\r\n")
        self.expected = {"serial": 0}
        self.name = self.call("Hello")
        assert b":1." in self.name, self.name

    def receive(self, count):
        data = b""
        while len(data) < count:
            more = self.client.recv(count - len(data))
            assert more, "the bus has closed the connection"
            data += more
        return data

    def call(self, member):
        """The body of the answer; signals in between are dropped."""
        self.expected["serial"] += 1
        self.client.sendall(method_call(member, self.expected["serial"]))
        while True:
            start = self.receive(16)
            _, kind, _, _, body, _, fields = struct.unpack("<cBBBIII", start)
            self.receive(fields + -fields % 8)
            content = self.receive(body)
            assert kind != 3, f"the bus answers with an error: {content!r}"
            if kind == 2:
                return content

    def drive(self):
        name = self.name[4:].rstrip(b"\0")
        for _ in range(5):
            assert name in self.call("ListNames"), "the connection has lost its name"
        assert len(self.call("GetId")) > 32


@each(way=WAYS)
def test_dbus(context, way):
    take(context, Dbus, way)
