"""Programs that read, work and write: checkpointed when they have had half of their input. What they write in the end
must be what they write without a checkpoint."""

import fcntl
import os
import random
import select
import termios

from programs.driving import WAYS, Driver, need, status_at_end, take
from reseat_test import each

FILTERS = {
    "cat": ["cat"],
    "gzip": ["gzip", "-9", "-c"],
    "xz": ["xz", "-1", "-c"],
    "xz-threads": ["xz", "-1", "-T2", "--block-size=100000", "-c"],
    "sort": ["sort"],
    "sort-threads": ["sort", "--parallel=4", "--buffer-size=4M"],
    "sha256sum": ["sha256sum"],
    "awk": ["awk", "{ sum += length($0); print sum }"],
    "sed": ["sed", "s/7/seven/g"],
    "grep": ["grep", "77"],
    "openssl-enc": ["openssl", "enc", "-aes-256-cbc", "-pbkdf2", "-nosalt", "-pass", "pass:x"],
    "dd": ["dd", "bs=1000", "iflag=fullblock", "status=none"],
    "tr": ["tr", "0-9", "a-j"],
    "zstd": ["zstd", "-3", "-c"],
    "busybox-gzip": ["busybox", "gzip", "-c"],
    "bash": ["bash", "-c", "while read -r line; do ((sum += line % 1000)); done; echo $sum"],
    "perl": ["perl", "-ne", "$s += $_ % 1000; END { print $s }"],
    "lua": ["lua", "-e", "local s = 0 for l in io.lines() do s = s + l % 1000 end print(s)"],
}


def make_input():
    numbers = random.Random(1)
    return b"".join(b"%d\n" % numbers.randrange(10**9) for _ in range(8000))


class Filter(Driver):
    """The first drive() writes half of the input, the second one nothing: finish() writes the rest."""

    words = ()
    steady = False

    def start(self):
        self.input = make_input()
        self.argv = [need(self.words[0]), *self.words[1:]]
        self.output_so_far = b""
        self.program = self.context.start(self.argv, cwd="/")
        self.pid = self.program.pid
        os.set_blocking(self.program.stdin, False)
        self.given = 0

    def is_settled(self):
        """It waits for more."""
        waiting = fcntl.ioctl(self.program.stdin, termios.FIONREAD, b"\0\0\0\0")
        return waiting == b"\0\0\0\0" and super().is_settled()

    def drive(self):
        self.feed(len(self.input) // 2)

    def feed(self, end):
        while self.given < end:
            readable, writable, _ = select.select([self.program.stdout], [self.program.stdin], [], 10)
            assert readable or writable, f"it does not read on, after {self.given} bytes of {len(self.input)}"
            if readable:
                self.output_so_far += os.read(self.program.stdout, 65536)
            if writable:
                try:
                    self.given += os.write(self.program.stdin, self.input[self.given : min(end, self.given + 4096)])
                except BlockingIOError:
                    pass

    def finish(self):
        self.feed(len(self.input))
        self.program.close_stdin()
        while True:
            assert select.select([self.program.stdout], [], [], 10)[0], "it does not end"
            data = os.read(self.program.stdout, 65536)
            if not data:
                return self.output_so_far
            self.output_so_far += data


@each(name=list(FILTERS), way=WAYS)
def test_filter(context, name, way):
    class Named(Filter):
        words = FILTERS[name]
        drive_on = False
        settles = way == "copy-restored"  # what it reads between checkpoint and kill is gone

    undisturbed = Named(context)
    undisturbed.start()
    undisturbed.drive()
    expected = undisturbed.finish()
    assert status_at_end(context, undisturbed.program) == 0

    driver = take(context, Named, way)
    assert driver.finish() == expected, "it has written something else than without a checkpoint"
    assert status_at_end(context, driver.program) == 0
