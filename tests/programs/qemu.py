"""qemu-system-x86_64 without KVM: a guest that counts, asked over its serial line, and the monitor, both on unix sockets.

The guest is a boot sector that sends each byte that it receives back, followed by how many it has received so far
(modulo 256): what it answers after a restore shows that its memory and its processor went on."""

import re

from programs.driving import WAYS, Driver, connect, need, take
from reseat_test import each

GUEST = bytes([
    0x31, 0xDB,        # xor bx, bx             bl counts
    0xBA, 0xFD, 0x03,  # wait: mov dx, 0x3fd    line status of the first serial port
    0xEC,              # in al, dx
    0xA8, 0x01,        # test al, 1             a byte has come?
    0x74, 0xF8,        # jz wait
    0xBA, 0xF8, 0x03,  # mov dx, 0x3f8
    0xEC,              # in al, dx
    0xEE,              # out dx, al
    0xFE, 0xC3,        # inc bl
    0x88, 0xD8,        # mov al, bl
    0xEE,              # out dx, al
    0xEB, 0xEC,        # jmp wait
])


class Qemu(Driver):
    commands = ("qemu-system-x86_64",)
    steady = False  # its thread pool shrinks when idle

    def start(self):
        sector = self.context.path("sector")
        with open(sector, "wb") as file:
            file.write(GUEST.ljust(510, b"\0") + b"\x55\xaa")
        monitor, serial = self.context.path("monitor"), self.context.path("serial")
        self.run([need("qemu-system-x86_64"), "-accel", "tcg", "-m", "32", "-display", "none", "-nic", "none", "-monitor",
                  f"unix:{monitor},server,nowait", "-serial", f"unix:{serial},server,nowait", "-drive",
                  f"file={sector},format=raw,if=floppy", "-boot", "a"])
        self.monitor = self.keep(connect(monitor))
        self.serial = self.keep(connect(serial))
        self.read_until(self.monitor, b"(qemu) ")
        self.expected = {"count": self.wait_for_guest()}

    def wait_for_guest(self):
        """It runs as soon as it answers (the firmware does not); returns the count of its last answer."""
        self.serial.settimeout(0.3)
        last = None
        for _ in range(60):
            if last is None:
                self.serial.sendall(b"?")
            try:
                last = self.serial.recv(100)[-1]
            except TimeoutError:
                if last is not None:
                    self.serial.settimeout(10)
                    return last
        raise AssertionError("the guest did not come up")

    @staticmethod
    def read_until(connection, text):
        received = b""
        while text not in received:
            data = connection.recv(4096)
            assert data, f"the connection has ended, its last words: {received!r}"
            received += data
        return received

    def ask_monitor(self, command):
        self.monitor.sendall(command.encode() + b"\n")
        # The monitor echoes the command first, with control sequences of its line editor.
        return self.read_until(self.monitor, b"\r\n(qemu) ").decode(errors="replace")

    def drive(self):
        for _ in range(20):
            self.expected["count"] = self.expected["count"] + 1 & 255
            self.serial.sendall(b"a")
            answer = b""
            while len(answer) < 2:
                answer += self.serial.recv(2)
            assert answer == bytes([ord("a"), self.expected["count"]]), (answer, self.expected)
        assert "VM status: running" in self.ask_monitor("info status")
        self.ask_monitor("stop")
        assert "VM status: paused" in self.ask_monitor("info status")
        registers = self.ask_monitor("info registers")
        assert int(re.search("EBX=([0-9a-f]+)", registers)[1], 16) & 255 == self.expected["count"], registers
        self.ask_monitor("cont")


@each(way=WAYS)
def test_qemu(context, way):
    take(context, Qemu, way)
