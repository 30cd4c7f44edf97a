"""Core on Fiasco.OC: compiled here, run where there is a kernel (FIASCO=path/to/fiasco)."""

import os
import re
import subprocess
from pathlib import Path

from reseat_test import Failure, Skip, timeout

ROOT = Path(__file__).resolve().parent.parent


def build(context):
    """All of foc/ with all warnings, each of them an error."""
    context.need("make", "gcc", "ld", "objcopy")
    directory = context.directory / "foc"
    result = subprocess.run(["make", "--silent", "-C", str(ROOT / "foc"), f"BUILD={directory}"], capture_output=True, text=True)
    if result.returncode != 0:
        raise Failure(f"foc/ does not compile: {result.stdout}{result.stderr}")
    return directory


def entry(path):
    """Type and entry of an ELF program, as elf(5) says."""
    head = path.read_bytes()[:64]
    assert head[:4] == b"\x7fELF"
    wide = head[4] == 2
    return head[4], int.from_bytes(head[24:32] if wide else head[24:28], "little")


@timeout(120)
def test_foc_compiles(context):
    directory = build(context)
    assert entry(directory / "start.elf")[0] == 1, "the multiboot start is a 32-bit program"
    assert entry(directory / "core") == (2, 0x2000000), "core lies at 32 MiB"
    for component in "peer", "target", "checkpointer":
        assert entry(directory / component)[0] == 2
    start = (directory / "start.elf").read_bytes()
    assert b"\x02\xb0\xad\x1b" in start[:8192], "the multiboot header is within the first 8 KiB"


def test_foc_run_without_kernel(context):
    result = subprocess.run([str(ROOT / "foc/run"), str(context.directory), ""], capture_output=True, text=True)
    assert result.returncode == 2 and "FIASCO=" in result.stderr, result
    result = subprocess.run([str(ROOT / "foc/run"), str(context.directory), "/nonexistent"], capture_output=True, text=True)
    assert result.returncode == 2 and "cannot be read" in result.stderr, result


@timeout(700)
def test_foc_run(context):
    kernel = os.environ.get("FIASCO")
    if not kernel:
        raise Skip("no Fiasco.OC kernel: set FIASCO=path/to/fiasco (docs/foc.md)")
    context.need("qemu-system-x86_64")
    directory = build(context)
    result = subprocess.run([str(ROOT / "foc/run"), str(directory), kernel], capture_output=True, text=True)
    if result.returncode != 0 or not re.search(r"^[1-9]\d* passed, 0 failed$", result.stdout, re.M):
        raise Failure(f"status {result.returncode}: {result.stdout[-4000:]}{result.stderr}")
