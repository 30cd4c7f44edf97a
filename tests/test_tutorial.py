"""docs/tutorial.md, typed in as it stands: each section's commands are run by one shell, and what they print must look like
what the page shows, numbers and paths apart."""

import ctypes
import fcntl
import gzip
import os
import re
import shutil
import socket
import struct
from collections import Counter
from pathlib import Path

from reseat_test import Skip, timeout

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"
MARK = "-- end of block --"
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def sections(page):
    """Title -> list of (commands, what they print or None)."""
    found = {}
    for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, body = section.split("\n", 1)
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)
        runs = []
        for language, text in blocks:
            if language == "sh":
                runs.append([text, None])
            elif language == "text":
                runs[-1][1] = text
        found[title] = runs
    return found


SECTIONS = sections(PAGE)
README = sections(PAGE.parent.parent / "README.md")


def own_network():
    """A network of our own, so that the page's port is free and nobody else's."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0:
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def play(context, runs):
    """Runs a section; returns what each of its blocks has printed."""
    script = "set -e\n" + "".join(f"{commands}echo '{MARK}'\n" for commands, _ in runs)
    path = f"{os.path.dirname(os.path.abspath(context.command))}:{os.environ['PATH']}"
    result = context.run(["bash", "-c", script], status=None, seconds=60, environment={"PATH": path},
                         preexec_fn=own_network if os.geteuid() == 0 else None)
    assert result.status == 0, str(result)
    printed = result.stdout.split(MARK + "\n")
    assert printed.pop() == ""
    return printed


def looks_like(shown, printed):
    """Whether every line is as the page has it; numbers, paths, device names and the width of columns may differ."""

    def plain(text):
        text = re.sub(r"/\S*/", "/", text)
        text = re.sub(r"\d+", "N", text)
        return [line.split() for line in text.strip().splitlines()]

    return plain(shown) == plain(printed)


def check_page(runs, printed):
    for number, ((_, shown), got) in enumerate(zip(runs, printed)):
        if shown is not None:
            assert looks_like(shown, got), f"block {number} shows\n{shown}\nbut prints\n{got}"


def numbers_in(*paths):
    """The numbers behind the words of all lines."""
    return [int(line.split()[1]) for path in paths for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_every_section_is_tested(_context):
    tested = {"Send the output of a running program elsewhere", "Rotate the log of a program that cannot reopen it",
              "Close a descriptor that a program leaks", "Give the listening socket of a running server to its successor",
              "Find out who holds the other end of a pipe"}
    assert set(SECTIONS) == tested and all(SECTIONS.values())


@timeout(90)
def test_send_output_elsewhere(context):
    runs = SECTIONS["Send the output of a running program elsewhere"]
    printed = play(context, runs)
    # Where the shell has its own output and errors differs; so does how far the program got.
    caps, tails, here = printed[0], printed[1], printed[2]
    assert caps.splitlines()[0] == runs[0][1].splitlines()[0].rstrip()
    assert re.search(r"^ +1 +file +o\d+ +w +- +/.*/wrong\.log$", caps, re.MULTILINE), caps
    assert looks_like(runs[1][1], tails), tails
    seen = [int(number) for number in re.findall(r"line (\d+)", here)]
    assert seen, here
    wrong, right = numbers_in(context.path("wrong.log")), numbers_in(context.path("right.log"))
    assert wrong and right
    everything = sorted(wrong + right + seen)
    assert everything == list(range(1, len(everything) + 1)), "a line is missing, or there twice"
    assert wrong == list(range(1, len(wrong) + 1)) and right == sorted(right)


@timeout(90)
def test_rotate_a_log(context):
    runs = SECTIONS["Rotate the log of a program that cannot reopen it"]
    check_page(runs, play(context, runs))
    with gzip.open(context.path("server.log.1.gz"), "rt") as file:
        old = [int(line.split()[1]) for line in file]
    new = numbers_in(context.path("server.log"))
    assert old and new and old + new == list(range(1, len(old) + len(new) + 1))


@timeout(90)
def test_close_a_leak(context):
    runs = SECTIONS["Close a descriptor that a program leaks"]
    check_page(runs, play(context, runs))


@timeout(120)
def test_hand_over_a_socket(context):
    if not shutil.which("curl"):
        raise Skip("curl is not installed")
    runs = SECTIONS["Give the listening socket of a running server to its successor"]
    check_page(runs, play(context, runs))
    answers = Counter(Path(context.path("answers")).read_text(encoding="utf-8").splitlines())
    assert set(answers) == {"old", "new"}, answers


@timeout(90)
def test_find_the_other_end(context):
    runs = SECTIONS["Find out who holds the other end of a pipe"]
    printed = play(context, runs)
    header, first = printed[0].splitlines()[:2]
    assert header.split() == runs[0][1].splitlines()[0].split()
    assert re.search(r"pipe +o1 +r +- +- +\d+:1\(sleep\) +pipe:\[\d+\] read end$", first), first
    assert looks_like(runs[1][1], printed[1])


@timeout(90)
def test_readme(context):
    """The example in the README, which is the first one of the tutorial in short."""
    runs = README.get("Running processes")
    if not runs:
        raise Skip("the README has no section of that name")
    check_page(runs, play(context, runs))
    wrong, right = numbers_in(context.path("wrong.log")), numbers_in(context.path("right.log"))
    assert wrong and right and wrong + right == list(range(len(wrong) + len(right)))
