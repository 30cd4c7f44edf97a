"""The power goes at every write: what is on the disk then is the old state or the new one, never half of it.

What a command does to files is recorded (tests/durable/recorder.c), and played up to every point. At each, the disk
may hold, of what was not synced, nothing, only the names, or everything: these are the worst that a file system may
make of it. Wherever the checkpoint has its final name, it must be whole; and when the command says that it is done, it
must be there even if all that was not synced is lost."""

import os
import shutil

from reseat_test import Skip

UNSYNCED = ["lost", "names only", "kept"]


class File:
    """Which stretches of it were written, and which of them are on the disk."""

    def __init__(self):
        self.written, self.on_disk = [], []

    def sync(self):
        self.on_disk = list(self.written)

    def after_the_cut(self, unsynced):
        return self.written if unsynced == "kept" else self.on_disk


class Directory:
    """The names in it, as everybody sees them and on the disk."""

    def __init__(self, names=()):
        self.names, self.on_disk = dict(names), dict(names)

    def sync(self):
        self.on_disk = dict(self.names)

    def after_the_cut(self, unsynced):
        return {name: entry.after_the_cut(unsynced)
                for name, entry in (self.on_disk if unsynced == "lost" else self.names).items()}


class Disk:
    """What is below one directory."""

    def __init__(self, path, names=()):
        self.path, self.root = str(path), Directory(names)

    def find(self, path):
        entry = self.root
        for name in path[len(self.path):].strip("/").split("/"):
            entry = entry.names[name] if name else entry
        return entry

    def parent(self, path):
        return self.find(os.path.dirname(path)), os.path.basename(path)

    def play(self, line):
        verb, path, *rest = line.split(" ")
        if verb in ("mkdir", "create"):
            directory, name = self.parent(path)
            directory.names[name] = Directory() if verb == "mkdir" else File()
        elif verb == "write":
            self.find(path).written.append((int(rest[0]), int(rest[1])))
        elif verb == "sync":
            self.find(path).sync()
        elif verb == "rename":
            (old, old_name), (new, new_name) = self.parent(path), self.parent(rest[0])
            new.names[new_name] = old.names.pop(old_name)
        elif verb == "unlink":
            directory, name = self.parent(path)
            del directory.names[name]
        else:
            raise AssertionError(f"nothing of the kind is done on the way: {line}")


def record(context, below_dir, *arguments):
    """Runs reseat and returns what it did below a directory."""
    library = context.build / "tests/libdurable-recorder.so"
    if context.has_sanitizer:
        raise Skip("not with sanitizers: their libraries must be loaded first")
    log = context.path("record")
    context.reseat(*arguments, environment={"LD_PRELOAD": str(library), "RECORD": log, "RECORD_BELOW": str(below_dir)})
    with open(log) as lines:
        found = lines.read().splitlines()
    os.unlink(log)
    return found


def build(place, entries, contents):
    """Makes the checkpoint directory that is left; the content of each stretch is that of the finished file."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    for name, stretches in entries.items():
        with open(place / name, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            for offset, length in stretches:
                file.seek(offset)
                file.write(contents[offset:offset + length])


def check(context, lines, parent, core_name, old=()):
    """Cuts the power after each line. Returns how many states with a checkpoint were looked at. `old`: what was in the
    checkpoint directory before; that is good as it is."""
    with open(parent / "ckpt" / core_name, "rb") as core:
        contents = core.read()
    place, seen = context.directory / "after", []
    disk = Disk(parent, {"ckpt": Directory(old)} if old else {})
    for number, line in enumerate(["", *lines]):
        if line:
            disk.play(line)
        for unsynced in UNSYNCED:
            entries = disk.root.after_the_cut(unsynced).get("ckpt")
            assert entries is not None or number < len(lines), \
                f"the command says that it is done, but the checkpoint is not on the disk ({unsynced})"
            if entries is None or entries in seen or (old and entries.get(core_name) == []):
                continue
            seen.append(entries)
            build(place, entries, contents)
            result = context.run([context.command, "show", place, "--check"], status=None)
            assert result.status == 0, f"cut after {line!r}, of what was not synced {unsynced}: {result.stderr}"
    shutil.rmtree(place, ignore_errors=True)
    return len(seen)


def start(context):
    return context.start([context.build / "tests/durable-threads"], stdin=None, stdout=None)


def test_checkpoint(context):
    program = start(context)
    parent = context.directory / "disk"
    parent.mkdir()
    lines = record(context, parent, "checkpoint", program.pid, "-o", parent / "ckpt")
    verbs = [line.split()[0] for line in lines]
    assert verbs.count("rename") == 1 and verbs.count("write") > 30 and verbs.count("sync") >= 3, lines
    assert check(context, lines, parent, f"{program.pid}.core") >= 1
    context.restore(parent / "ckpt")


def test_keep(context):
    """A file that is written anew in its directory: the old one or the new one."""
    program = start(context)
    parent = context.directory / "disk"
    parent.mkdir()
    context.reseat("checkpoint", program.pid, "-o", parent / "ckpt")
    lines = record(context, parent, "restore", parent / "ckpt", "--keep")
    assert [line.split()[0] for line in lines].count("rename") == 1, lines
    assert check(context, lines, parent, f"{program.pid}.core", {f"{program.pid}.core": File()}) >= 1
    context.reseat("drop", parent / "ckpt")


def test_model(context):
    """The check finds what it is for: leave out any sync, and some state is half."""
    program = start(context)
    parent = context.directory / "disk"
    parent.mkdir()
    lines = record(context, parent, "checkpoint", program.pid, "-o", parent / "ckpt", "--leave-running")
    syncs = [number for number, line in enumerate(lines) if line.startswith("sync ")]
    assert len(syncs) == 3, lines
    for number in syncs:
        try:
            check(context, lines[:number] + lines[number + 1:], parent, f"{program.pid}.core")
        except AssertionError:
            continue
        raise AssertionError(f"nothing is wrong without {lines[number]!r}")
    context.reseat("drop", parent / "ckpt")
