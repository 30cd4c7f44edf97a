"""Durable images from outside: what other tools make of them, what a failure leaves behind, what the options do."""

import os
import pty
import re
import shutil
import struct

from reseat_test import Skip, each, timeout

ECHO = """
import sys
print("ready", flush=True)
count = 0
for line in sys.stdin:
    count += 1
    print(count, line, end="", flush=True)
"""


def start_echo(context):
    program = context.start([context.need("python3"), "-c", ECHO])
    program.expect("ready\n")
    return program


def start_threads(context):
    """The program whose stacks are known; returns it, its path, and where its memory with every second page is."""
    path = context.build / "tests/durable-threads"
    program = context.start([path])
    program.expect("ready ")
    return program, path, int(program.expect("\n"), 16)


def core_of(directory, pid):
    return directory / f"{pid}.core"


# ---- the order of things ----


@each(flags=[[], ["--image"], ["--leave-running"], ["--image", "--leave-running"], ["--compress"]])
def test_what_is_left(context, flags):
    """Which of twin, image and process there are afterwards."""
    program = start_echo(context)
    directory = context.new_name("checkpoint")
    result = context.reseat("checkpoint", program.pid, "-o", directory, "--allow=degraded", *flags, "--json").json
    assert (result["twin"] is None) == ("--image" in flags), result
    assert result["memory_bytes"] > 100000
    assert program.alive == ("--leave-running" in flags) == result["running"]
    assert os.listdir(directory) == [f"{program.pid}.core"]
    assert (directory.stat().st_mode & 0o777, core_of(directory, program.pid).stat().st_mode & 0o777) == (0o700, 0o600)
    twins = [row for row in context.reseat("list", "--json").json if row["dir"] == str(directory)]
    assert len(twins) == ("--image" not in flags)
    if twins:
        context.reseat("drop", directory)
        assert os.path.exists(directory), "the image went with the twin"
    if "--leave-running" in flags:
        program.send("a\n")
        program.expect("1 a\n")


def test_image_stays_after_restore(context):
    program = start_echo(context)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "-o", directory)
    context.restore(directory)
    program.send("a\n")
    program.expect("1 a\n")
    assert os.listdir(directory) == [f"{program.pid}.core"]


def test_keep_keeps_the_image(context):
    """The file is written anew for the kept twin, with the memory that it had."""
    program = start_echo(context)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "-o", directory)
    before = core_of(directory, program.pid).stat()
    context.restore(directory, "--keep")
    after = core_of(directory, program.pid).stat()
    assert after.st_ino != before.st_ino and after.st_size >= before.st_size
    assert abs(after.st_blocks - before.st_blocks) < 64, (before, after)
    program.kill()
    program.wait()
    context.restore(directory)
    program.send("b\n")
    program.expect("1 b\n")


def test_drop_leaves_images(context):
    """Dropping is about twins: an image whose twin has ended by itself is not removed either."""
    program = start_echo(context)
    directory = context.new_name("checkpoint")
    twin = context.reseat("checkpoint", program.pid, "-o", directory, "--json").json["twin"]
    os.kill(twin, 9)
    context.until(lambda: not context.reseat("list", "--json").json, "the twin to be gone")
    context.reseat("drop", directory)
    context.reseat("show", directory, "--check")


def test_image_alone_would_lose(context):
    """Without a twin, pipes to us are cut for good: that is refused before anything is done, unless allowed."""
    program = start_echo(context)
    result = context.reseat("checkpoint", program.pid, "-o", "d", "--image", status=3)
    assert "Selector 0" in result.stderr and not os.path.exists(context.path("d")), result
    program.send("a\n")
    program.expect("1 a\n")


# ---- other tools ----


def backtraces(context, program, core):
    """gdb's view: {function at which the thread was started: [its functions, innermost first]}."""
    context.need("gdb")
    result = context.run(["gdb", "-nx", "-batch", "-ex", "thread apply all backtrace", program, core], seconds=60, status=None)
    stacks = {}
    for part in re.split(r"\nThread \d+ ", result.stdout)[1:]:
        # A C library without symbols has frames of no name; they are in a file, other than those of a broken stack.
        part = re.sub(r"^#\d+ .*\?\? \(\) from /.*\n", "", part, flags=re.MULTILINE)
        frames = re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?([^ ]+) \(", part, re.MULTILINE)
        frames = [frame for frame in frames if frame not in ("start_thread", "clone3", "__clone3", "_start")]
        frames = [frame for frame in frames if "libc_start" not in frame]
        stacks[frames[-1]] = frames
    return stacks, result


@each(flags=[[], ["--compress"], ["--leave-running"]])
def test_gdb(context, flags):
    program, path, memory = start_threads(context)
    directory = context.new_name("checkpoint")
    context.need("gdb")
    context.reseat("checkpoint", program.pid, "-o", directory, "--image", "--allow=degraded", *flags)
    stacks, result = backtraces(context, path, core_of(directory, program.pid))
    assert sorted(stacks) == ["main", "run_callback", "run_clock", "run_sleeper"], result.stdout
    assert not any(frame == "??" for frames in stacks.values() for frame in frames), result.stdout
    assert stacks["main"].count("sleep_deeper") == 2 and stacks["run_sleeper"].count("sleep_deeper") == 4
    assert "ask_the_time" in stacks["run_clock"] and "compare_for_ever" in stacks["run_callback"]
    values = context.run(["gdb", "-nx", "-batch", "-ex", "print marker", "-ex", f"x/s {memory + 2 * 4096 * 10}",
                          "-ex", f"x/s {memory + 4096}", path, core_of(directory, program.pid)], seconds=60,
                         status=None).stdout
    assert "written since" in values, values
    if "--compress" not in flags:
        assert "page 20" in values and '""' in values, values


@each(tool=["readelf -aW", "eu-readelf -a", "readelf -x .reseat.process"])
def test_readelf(context, tool):
    context.need(tool.split()[0])
    program, _, _ = start_threads(context)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "-o", directory)
    core = core_of(directory, program.pid)
    result = context.run([*tool.split(), core], seconds=60)
    bad = [line for line in (result.stdout + result.stderr).splitlines()
           if re.search(r"warning|error:|invalid|corrupt|garbage", line, re.IGNORECASE)]
    assert not bad, bad
    if "-a" in tool:
        text = context.run(["readelf", "-lWn", core]).stdout if tool.startswith("readelf") else result.stdout
        assert "PRSTATUS" in text and "AUXV" in text and "FILE" in text, text


def program_headers(core):
    with open(core, "rb") as file:
        header = file.read(64)
        offset, = struct.unpack_from("<Q", header, 32)
        count, = struct.unpack_from("<H", header, 56)
        file.seek(offset)
        return [struct.unpack("<IIQQQQQQ", file.read(56)) for _ in range(count)]


def test_size_on_disk(context):
    """Zero pages are holes; pages of files that were never written are not there."""
    program, _, memory = start_threads(context)
    directory = context.new_name("checkpoint")
    result = context.reseat("checkpoint", program.pid, "-o", directory, "--leave-running", "--json").json
    core = core_of(directory, program.pid)
    loads = [segment for segment in program_headers(core) if segment[0] == 1]
    assert all(segment[2] % 4096 == segment[3] % 4096 == 0 for segment in loads)
    ours, = [segment for segment in loads if segment[3] <= memory < segment[3] + segment[6]]
    assert ours[5] == ours[6], "the whole mapping is in the file"
    on_disk = core.stat().st_blocks * 512
    assert on_disk < result["memory_bytes"] + 300000 < core.stat().st_size
    dirty = 0
    with open(f"/proc/{program.pid}/smaps_rollup") as rollup:
        dirty = sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith(("Private_Dirty", "Anonymous")))
    assert result["memory_bytes"] < dirty, "more is stored than it has of its own"


@each(flags=[["--compress"], ["--self-contained"]])
def test_options_of_storing(context, flags):
    program, _, _ = start_threads(context)
    plain, other = context.new_name("checkpoint"), context.new_name("checkpoint")
    usual = context.reseat("checkpoint", program.pid, "-o", plain, "--leave-running", "--image", "--json").json
    changed = context.reseat("checkpoint", program.pid, "-o", other, "--leave-running", "--image", "--json", *flags).json
    blocks = [core_of(directory, program.pid).stat().st_blocks * 512 for directory in (plain, other)]
    if flags == ["--compress"]:
        assert blocks[1] < blocks[0] - 1000000, blocks
        assert abs(changed["memory_bytes"] - usual["memory_bytes"]) < 100000
    else:
        assert changed["memory_bytes"] > usual["memory_bytes"] + 1500000 and blocks[1] > blocks[0] + 1500000


BULK = """
import mmap, os, sys, time
memory = mmap.mmap(-1, {size}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
piece = os.urandom(1 << 20)
for _ in range({size} >> 20):
    memory.write(piece)
print("ready", flush=True)
time.sleep(1000)
"""


def start_bulk(context, mebibytes):
    program = context.start([context.need("python3"), "-c", BULK.format(size=mebibytes << 20)], stdin=None)
    program.expect("ready\n", 60)
    return program


@each(flags=[[], ["--compress"]])
@timeout(180)
def test_memory_of_our_own(context, flags):
    """An image of 192 MiB is written and read by processes that may have 40 MiB of data."""
    context.need("prlimit")
    if context.has_sanitizer:
        raise Skip("not with sanitizers: they take more than that for themselves")
    program = start_bulk(context, 192)
    directory = context.new_name("checkpoint")

    def limited(*arguments):
        return context.run(["prlimit", "--data=40000000", context.command, *arguments], seconds=120)

    limited("checkpoint", program.pid, "-o", directory, "--image", "--leave-running", *flags)
    assert core_of(directory, program.pid).stat().st_blocks * 512 > 1 << 20
    limited("show", directory, "--check")


@timeout(120)
def test_progress(context):
    """On a terminal, after half a second: one line, which is taken away again."""
    program = start_bulk(context, 32)
    ours, theirs = pty.openpty()
    reader = context.start(["sh", "-c", "head -c 3000000 >/dev/null; sleep 1.5; cat >/dev/null"], stdin="pipe",
                           stdout=None)
    writer = context.start([context.command, "checkpoint", program.pid, "-o", "-", "--leave-running"], stdin=None,
                           stdout=reader.stdin, stderr=theirs)
    reader.close_stdin()
    os.close(theirs)
    assert writer.wait(60) == 0
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # nobody has the other half any more
            break
        if not part:
            break
        said += part
    assert b"writing memory [" in said and b"% of 3" in said, said
    assert b"checkpointed" in said.split(b"\r\033[K")[-1], said


def test_self_contained(context):
    """With --self-contained the process comes back although its program is gone."""
    context.need_root()
    path = context.path("program")
    shutil.copy(context.build / "tests/durable-threads", path)
    with open(context.path("output"), "wb") as output:
        program = context.start([path], stdin=None, stdout=output)
    context.until(lambda: os.path.getsize(context.path("output")), "the program to be ready")
    directories = [context.new_name("checkpoint") for _ in range(2)]
    for directory, option in zip(directories, ([], ["--self-contained"])):
        context.reseat("checkpoint", program.pid, "-o", directory, "--image", "--leave-running", *option)
    program.kill()
    program.wait()
    os.unlink(path)
    refused = context.reseat("restore", directories[0], "--cold", "--new-pid", "--allow=lost", status=1)
    assert path in refused.stderr, refused
    pid = context.restore(directories[1], "--cold", "--new-pid", "--allow=degraded")
    assert len(os.listdir(f"/proc/{pid}/task")) == 4


# ---- show ----


def test_show(context):
    """All tables, for people and as JSON; the memory is as large as the checkpoint said."""
    program, path, memory = start_threads(context)
    directory = context.new_name("checkpoint")
    said = context.reseat("checkpoint", program.pid, "-o", directory, "--json").json
    shown = context.reseat("show", directory, "--json").json
    assert shown == context.reseat("show", core_of(directory, program.pid), "--json").json
    assert shown["process"][0]["pid"] == program.pid and shown["process"][0]["form"] == "heir"
    assert len(shown["threads"]) == 4 and len(shown["threads"][0]["regs"].split()) == 32
    assert sum(extent["length"] for extent in shown["extents"]) == said["memory_bytes"]
    vma, = [vma for vma in shown["vmas"] if int(vma["start"], 16) <= memory < int(vma["end"], 16)]
    assert vma["kind"] == "anonymous" and vma["protection"] == "r w"
    assert any(vma["path"] == str(path) for vma in shown["vmas"])
    assert [capability["selector"] for capability in shown["capabilities"]] == [0, 1, 2]
    assert shown["states"][0]["exe"] == str(path) and shown["states"][0]["umask"]
    text = context.reseat("show", directory, "--check").stdout
    for word in ("process\n", "threads\n", "vmas\n", "capabilities\n", "objects\n", "states\n", str(path)):
        assert word in text, text
    assert "extents\n" not in text and "extents\n" in context.reseat("-v", "show", directory).stdout


def test_show_checks_memory(context):
    """One bit of the memory is wrong: reading the tables does not see it, --check does, and says where."""
    program, _, memory = start_threads(context)
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "-o", directory)
    core = core_of(directory, program.pid)
    extent = next(extent for extent in context.reseat("show", core, "--json").json["extents"]
                  if int(extent["address"], 16) == memory)
    with open(core, "r+b") as file:
        file.seek(extent["file_offset"] + 100)
        file.write(b"?")
    context.reseat("show", core)
    result = context.reseat("show", core, "--check", status=1)
    assert f"the memory at {memory:x}" in result.stderr and "checksum" in result.stderr, result


@each(what=["nothing", "no image", "other"])
def test_show_nothing(context, what):
    path = context.directory / "x"
    if what == "no image":
        path.mkdir()
    elif what == "other":
        path.write_text("not an image at all, but long enough to have a header if it were one, you know")
    result = context.reseat("show", path, status=1)
    assert str(path) in result.stderr and result.stdout == "", result


# ---- failures ----


def test_the_core_of_a_debugger(context):
    """One that is no checkpoint is called so, and so is a file where a directory belongs."""
    context.need("gcore")
    program = start_echo(context)
    directory = context.directory / "of-a-debugger"
    os.mkdir(directory, 0o700)
    context.run(["gcore", "-o", directory / "core", program.pid], seconds=60)
    os.rename(directory / f"core.{program.pid}", core_of(directory, program.pid))
    os.chmod(core_of(directory, program.pid), 0o600)
    for verb in (["show"], ["plan"], ["restore", "--cold"]):
        result = context.reseat(*verb, directory, status=1)
        assert "not a core file of a checkpoint" in result.stderr, result
    for verb in (["plan"], ["restore", "--cold"], ["drop"]):
        result = context.reseat(*verb, core_of(directory, program.pid), status=1)
        assert "is no directory" in result.stderr, result
    shutil.rmtree(directory)


@each(flags=[[], ["--image"], ["--leave-running"]])
def test_disk_full(context, flags):
    """A target that was to be killed runs on, unharmed."""
    context.need_root()
    program, _, _ = start_threads(context)
    place = context.directory / "small"
    place.mkdir()
    context.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)])
    context.defer(context.run, ["umount", "-l", str(place)])
    result = context.reseat("checkpoint", program.pid, "-o", place / "ckpt", *flags, "--allow=degraded", status=1)
    assert "No space left" in result.stderr, result
    assert os.listdir(place) == [], "the draft was left"
    assert program.alive
    assert not context.reseat("list", "--json").json
    directory = context.new_name("checkpoint")
    context.reseat("checkpoint", program.pid, "-o", directory)
    context.restore(directory)
    assert program.alive


def test_live_contradicts_image(context):
    for option in ("--image", "--compress", "--self-contained"):
        result = context.reseat("checkpoint", os.getpid(), "--live", option, "-o", "d", status=2)
        assert "contradict" in result.stderr, result


# ---- a target that runs on ----

# A counter in private memory and one in memory or a file that a copy shares, which are the same almost all the time.
COUNTERS = """
import mmap, os, struct, sys
bulk = bytearray(os.urandom(1 << 20) * 64)
memory, file, count = mmap.mmap(-1, 1 << 20), os.memfd_create("counter"), 0
def put(number):
    if sys.argv[1] == "memory":
        memory[:8] = struct.pack("Q", number)
    else:
        os.pwrite(file, struct.pack("Q", number), 0)
def get():
    return struct.unpack("Q", memory[:8] if sys.argv[1] == "memory" else os.pread(file, 8, 0))[0]
put(0)
print("ready", flush=True)
while True:
    for _ in range(50):
        shared = get()
        if shared != count:
            print("shared", shared, "private", count, flush=True)
            sys.exit(1)
    count += 1
    put(count)
    if count % 2000 == 0:
        print("count", flush=True)
"""


@each(what=["memory", "file"])
def test_what_is_shared_is_of_the_same_moment(context, what):
    """A copy shares it with the target that runs on: the image has it as it was at the checkpoint."""
    context.need_root()
    output = context.path("output")
    with open(output, "wb") as file:
        program = context.start([context.need("python3"), "-c", COUNTERS, what], stdin=None, stdout=file)
    context.until(lambda: os.path.getsize(output), "the counters to be ready")
    directory = context.new_name("checkpoint")
    result = context.reseat("checkpoint", program.pid, "-o", directory, "--image", "--leave-running", "--json").json
    assert program.alive and result["pause_ns"] > 0
    program.kill()
    program.wait()
    after = context.directory / "after"
    after.touch()
    context.restore(directory, "--cold", "--slot", f"1={after}")
    context.until(lambda: "count" in after.read_text(), "it to count on", 30)
    assert "shared" not in after.read_text()
