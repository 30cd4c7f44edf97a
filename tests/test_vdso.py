"""An image of another machine. One whose vDSO is not this kernel's: the old code leads to the new. Kernels are not
exchanged here (that is done by hand, tests/kernels/); instead the vDSO in an image is changed: another build id, and nothing left of its
functions, so that a process that is not bridged dies of a trap at its next look at the clock."""

import os
import struct
import time

from reseat_test import each
from reseat_test.context import Skip
from reseat_test.image import SECTION, Image

from test_cold import ask, pipes

TRAP = b"\xcc"


class Vdso:
    """The ELF image of a vDSO inside a larger buffer."""

    def __init__(self, data, at, length):
        self.data, self.at, self.length = data, at, length
        headers, = struct.unpack_from("<Q", data, at + 40)
        count, names = struct.unpack_from("<HH", data, at + 60)
        rows = [SECTION.unpack_from(data, at + headers + i * SECTION.size) for i in range(count)]
        self.sections = {self.text(rows[names][4] + row[0]): row for row in rows}

    def text(self, offset):
        return self.data[self.at + offset:self.data.index(0, self.at + offset)].decode()

    def functions(self):
        """[(name, offset of its name, offset)]"""
        table, names = self.sections[".dynsym"], self.sections[".dynstr"]
        found = []
        for at in range(self.at + table[4], self.at + table[4] + table[5], 24):
            name, info, _, index, value, _ = struct.unpack_from("<IBBHQQ", self.data, at)
            if info & 15 == 2 and index:
                found.append((self.text(names[4] + name), names[4] + name, value))
        return found

    def wear_out(self):
        """Another build id; traps for code."""
        note, code = self.sections[".note"], self.sections[".text"]
        last = self.at + note[4] + note[5] - 1
        self.data[last] ^= 0xff
        self.data[self.at + code[4]:self.at + code[4] + code[5]] = TRAP * code[5]

    def rename(self, old, new):
        """So that this kernel's vDSO has no such function."""
        assert len(old) == len(new)
        for name, at, _ in self.functions():
            if name == old:
                self.data[self.at + at:self.at + at + len(new)] = new.encode()


def start_clock(context, *arguments):
    context.need_root()  # for the filter to be put back
    program = context.start([context.build / "tests/durable-clock", *arguments])
    program.expect("ready\n")
    program.send("\n")
    if not program.expect("\n").endswith("right"):
        raise Skip(f"the vDSO of this machine asks the kernel itself: {program.output}")
    return program


def take(context, program):
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "--image", "--allow=degraded", "-o", directory)
    context.until(lambda: not os.path.exists(f"/proc/{program.pid}"), "the process to be gone")
    context.take_status(program.pid)
    return directory, Image(directory / f"{program.pid}.core")


def wear_out(image):
    start, extent, offset, length = image.vdso()
    vdso = Vdso(image.data, offset, length)
    vdso.wear_out()
    image.seal(extent, offset, length)
    image.write()
    return start


def mappings(pid):
    return [line.split(maxsplit=5) for line in open(f"/proc/{pid}/maps")]


def mapping_at(pid, address):
    return next(words for words in mappings(pid) if int(words[0].split("-")[0], 16) == address)


def expect_right(ours):
    """Two answers in a row, from clocks that go on."""
    first, real, verdict = ask(ours, "x")
    assert verdict == "right", verdict
    assert abs(int(real) - time.time() * 1000) < 2000
    second, _, verdict = ask(ours, "x")
    assert verdict == "right" and int(second) >= int(first)
    assert abs(int(second) - time.clock_gettime(time.CLOCK_MONOTONIC) * 1000) < 2000


def restore(context, directory, *options):
    ours, theirs, slots = pipes(context)
    pid = context.restore(directory, *slots, *options, "--allow=degraded", pass_fds=theirs)
    for fd in theirs:
        os.close(fd)
    return pid, ours


def test_bridged(context):
    """All functions work, without a system call; the old place has the old code, and its data is out of reach."""
    directory, image = take(context, start_clock(context))
    start = wear_out(image)
    assert context.reseat("plan", directory).status == 0
    pid, ours = restore(context, directory, "--cold")
    expect_right(ours)
    assert mapping_at(pid, start)[1] == "r-xp" and "[vdso]" not in mapping_at(pid, start)[5:]
    moved = next(words for words in mappings(pid) if words[5:] == ["[vdso]\n"])
    assert int(moved[0].split("-")[0], 16) != start
    data = [words for words in mappings(pid) if int(words[0].split("-")[1], 16) == start]
    assert data and data[0][1] == "---p", data


@each(form=["--live", "--image"])
def test_bridged_again(context, form):
    """A process that was bridged is checkpointed again."""
    directory, image = take(context, start_clock(context))
    wear_out(image)
    pid, ours = restore(context, directory, "--cold")
    expect_right(ours)
    again = context.new_name("checkpoint")
    context.reseat("checkpoint", pid, form, "--allow=degraded", "-o", again)
    context.until(lambda: context.reap() or not os.path.exists(f"/proc/{pid}"), "the process to be gone")
    if form == "--image":
        wear_out(Image(again / f"{pid}.core"))
        pid, ours = restore(context, again, "--cold")
    else:
        pid = context.restore(again)
    expect_right(ours)


def test_function_of_no_name(context):
    """What this kernel's vDSO lacks, and nobody knows, fails."""
    directory, image = take(context, start_clock(context, "freely"))
    _, extent, offset, length = image.vdso()
    vdso = Vdso(image.data, offset, length)
    vdso.wear_out()
    vdso.rename("__vdso_time", "__vdso_nope")
    vdso.rename("time", "nope")
    image.seal(extent, offset, length)
    image.write()
    pid, ours = restore(context, directory, "--cold")
    _, _, verdict = ask(ours, "x")
    assert verdict == "time", verdict


def test_stopped_inside(context):
    """A thread that is in the vDSO most of the time is not caught there."""
    directory = context.new_name("checkpoint")
    program = context.start([context.build / "tests/durable-threads"])
    program.expect("\n")
    time.sleep(0.2)
    context.reseat("checkpoint", program.pid, "--image", "--allow=degraded", "-o", directory)
    context.until(lambda: not os.path.exists(f"/proc/{program.pid}"), "the process to be gone")
    context.take_status(program.pid)
    image = Image(directory / f"{program.pid}.core")
    wear_out(image)
    restore(context, directory, "--cold")


def test_thread_inside(context):
    """Its instruction pointer says that it stood in the vDSO: refused by name."""
    program = start_clock(context, "freely")
    directory, image = take(context, program)
    start = wear_out(image)
    row = image.rows(".reseat.thread")[0]
    struct.pack_into("<Q", image.data, row + 40 + 16 * 8, start + 0x800)  # rip
    image.seal_section(".reseat.thread")
    image.write()
    result = context.reseat("restore", directory, "--cold", "--allow=lost", status=1)
    assert f"thread {program.pid} stood in the vDSO" in result.stderr, result


def test_no_room(context):
    """What is no ELF file is refused, before any process is made."""
    program = start_clock(context, "freely")
    directory, image = take(context, program)
    _, extent, offset, length = image.vdso()
    image.data[offset:offset + 4] = b"none"
    image.seal(extent, offset, length)
    image.write()
    result = context.reseat("restore", directory, "--cold", "--allow=lost", status=1)
    assert "not an ELF file" in result.stderr, result


def test_processor(context):
    """What the processor of the image had and ours has not is named, and makes the restore degraded."""
    directory, image = take(context, start_clock(context, "freely"))
    features, = struct.unpack_from("<Q", image.data, image.rows(".reseat.machine")[0] + 64)
    at = image.rows(".reseat.blob").start + features
    end = image.data.index(0, at)
    assert image.data[at:at + 7] == b"pni pcl", image.data[at:at + 64]
    image.data[at:at + 3] = b"pmi"
    image.data[end - 4:end] = b"xyzz"
    image.seal_section(".reseat.blob")
    image.write()
    result = context.reseat("restore", directory, "--cold", "--slot", "0=/dev/null", "--slot", "1=/dev/null", status=3)
    assert "lacks what the old one had: pmi " in result.stderr and "xyzz;" in result.stderr, result
    assert "pclmulqdq" not in result.stderr, result
    restore(context, directory, "--cold")


def test_no_record(context):
    """An image of before there was a record of the machine."""
    directory, image = take(context, start_clock(context, "freely"))
    image.remove_rows(".reseat.machine")
    image.write()
    _, ours = restore(context, directory, "--cold")
    expect_right(ours)
