"""The command's own manners: how it is called, what it prints, how it ends."""

import json
import os
import random
import re
import signal
import time

from reseat_test import Skip, each
from reseat_test.context import process_children, process_name, process_state

VERBS = ["caps", "request", "install", "close", "plan", "checkpoint", "restore", "verify", "list", "drop"]


def sleeper(context, **how):
    """A process that is asleep: it has started up."""
    target = context.start(["sleep", "1000"], **how)
    context.until(lambda: process_name(target.pid) == "sleep" and process_state(target.pid) == "S", "sleep to be asleep")
    return target


# ---- usage ----


@each(line=[
    "", "fish", "--fish", "-x list", "caps", "caps x", "caps 0", "caps -1", "caps 1x", "caps +1", "caps 99999999999999999999",
    "caps 1 --json=yes", "list 1", "-q -v list", "checkpoint", "checkpoint x -o d --live", "checkpoint 1 2 -o d --live",
    "checkpoint 1 --live", "checkpoint 1 -o", "checkpoint 1 -o - --live", "checkpoint 1 -o d --live --allow=all",
    "checkpoint 1 -o d --live=yes", "checkpoint 1 -o d --liv", "restore", "restore a b", "restore a --wait", "restore a --wait 5m",
    "restore a --wait -1", "restore a --wait 99999999999999999999", "restore a --slot 1", "restore a --slot =x",
    "restore a --slot x=/dev/null", "restore a --slot 1=", "restore a --slot 1=fd:x", "restore a --slot 1=fd:77",
    "restore a --slot 1=/dev/null --slot 1=/dev/null", "restore a --allow", "verify", "verify a x", "verify a 1 2", "drop",
    "drop --twin x", "plan", "plan 1 2", "plan 0", "plan d --leave-running", "plan 1 --slot 1", "plan 1 --slot 1=fd:x", "plan 1 --slot 1=keep --slot 1=null", "restore a --slot 1", "restore a --slot x=keep",
    "restore a --slot 1=keep --slot 1=close", "request", "request 1", "request 1 0", "request 1 0 true", "request 1 0 --",
    "request 1 -- true", "request x 0 -- true", "request 1 x -- true", "request 1 0 2 -- true", "request 1 0: -- true", "request 1 0:x -- true", "request 1 :1 -- true", "request 1 0:3 1:3 -- true", "request 1 0 --to x -- true",
    "request 1 0 --to -1 -- true", "install", "install 1", "install 1 x", "install x 1", "install 1 2 2", "install 1 2 --from x",
    "install 1 2 --from 77", "install 1 2 --open a --copy 1:2", "install 1 2 --from 0 --from 0", "install 1 2 --copy 1",
    "install 1 2 --copy 1:", "install 1 2 --copy :1", "install 1 2 --copy 1:x", "install 1 2 --create", "install 1 2 --access r",
    "install 1 2 --open a --access x", "close", "close 1", "close 1 x", "close x 1", "close 1 2 2", "close 1 99999999999",
])
def test_wrong_usage(context, line):
    result = context.reseat(*line.split(), status=2)
    assert result.stdout == ""
    first, *rest = result.stderr.splitlines()
    assert first.startswith("reseat: ") and rest[-1].startswith("usage: reseat "), result


@each(verb=VERBS)
def test_help_of_verb(context, verb):
    result = context.reseat(verb, "--help")
    assert result.stdout.startswith(f"usage: reseat {verb}") and "Example:" in result.stdout and result.stderr == ""
    assert context.reseat("-h", verb).stdout == result.stdout


def test_help_and_version(context):
    text = context.reseat("--help").stdout
    assert all(re.search(rf"^  {verb} ", text, re.MULTILINE) for verb in VERBS)
    assert re.fullmatch(r"reseat \d+\.\d+\.\d+\n", context.reseat("--version").stdout)


# ---- output ----


def test_caps_table(context):
    target = sleeper(context)
    header, *rows = context.reseat("caps", target.pid).stdout.splitlines()
    assert header.split() == ["SEL", "KIND", "OBJECT", "ACCESS", "FLAGS", "NAME"]
    assert [row.split()[:2] for row in rows] == [["0", "pipe"], ["1", "pipe"], ["2", "device"]]
    starts = [header.index(word) for word in ("KIND", "OBJECT", "ACCESS", "FLAGS", "NAME")]
    for row in rows:
        assert all(row[start - 1] == " " and row[start] != " " for start in starts), f"not aligned:\n{header}\n{row}"


def test_caps_json(context):
    shared, own = os.pipe()
    targets = [sleeper(context, stdin=shared) for _ in range(2)]
    rows = context.reseat("--json", "caps", *(target.pid for target in targets)).json
    assert rows == context.reseat("caps", *(target.pid for target in targets), "--json").json
    assert [row["pid"] for row in rows] == [targets[0].pid] * 3 + [targets[1].pid] * 3
    assert all(set(row) >= {"pid", "selector", "kind", "object", "access", "cloexec", "name"} for row in rows)
    by_selector = {(row["pid"], row["selector"]): row for row in rows}
    for selector, is_same in ((0, True), (1, False)):
        first, second = (by_selector[target.pid, selector] for target in targets)
        assert (first["object"] == second["object"]) == is_same, f"{first}\n{second}"
    os.close(shared)
    os.close(own)


def test_names_cannot_drive_the_terminal(context):
    name = context.path("a\033[31m\nb\x9b\udcff")
    with open(name, "w", encoding="utf-8", errors="surrogateescape") as file:
        target = sleeper(context, stdin=file)
    result = context.reseat("caps", target.pid)
    assert "\033" not in result.stdout and len(result.stdout.splitlines()) == 4, repr(result.stdout)
    row = context.reseat("caps", target.pid, "--json").json[0]
    assert row["selector"] == 0 and "a" in row["name"]


def test_no_colour_in_a_pipe_and_some_on_a_terminal(context):
    assert "\033" not in context.reseat("list").stdout
    leader, terminal = os.openpty()
    for environment, expected in ({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False):
        pid = context.spawn([context.command, "list"], stdout=terminal, env={**os.environ, **environment})
        context.until(lambda: context.reap() or not os.path.exists(f"/proc/{pid}"), "list to end")
        assert (b"\033[1m" in os.read(leader, 65536)) == expected
    os.close(terminal)
    os.close(leader)


def test_closed_standard_streams(context):
    target = sleeper(context)
    for closed in (0, 1, 2):
        command = f"exec {context.command} caps {target.pid} {closed}>&-"
        result = context.run(["sh", "-c", command], status=None)
        assert result.status == 0, f"{closed} closed: {result}"


def test_output_that_cannot_be_written(context):
    for arguments in ("list",), ("caps", str(os.getpid())), ("--help",):
        result = context.run(["sh", "-c", 'exec "$@" >/dev/full', "sh", context.command, *arguments], status=1)
        assert "No space left" in result.stderr


# ---- how verbs end ----


def test_failures(context):
    gone = sleeper(context)
    gone.kill()
    gone.wait()
    for arguments, text in (
        (["caps", gone.pid], str(gone.pid)),
        (["checkpoint", gone.pid, "--live", "-o", "d"], str(gone.pid)),
        (["restore", "nowhere"], "nowhere"),
        (["verify", "nowhere"], "nowhere"),
        (["drop", "nowhere"], "nowhere"),
        (["drop", "--twin", os.getpid()], str(os.getpid())),
        (["restore", "nowhere", "--slot", "0=/no/such/file"], "/no/such/file"),
    ):
        result = context.reseat(*arguments, status=1)
        assert result.stdout == "" and result.stderr.startswith("reseat: ") and text in result.stderr, str(result)
    assert not os.path.exists(context.path("d"))


def test_there_and_back(context):
    target = sleeper(context)
    directory = context.path("parked")
    parked = context.reseat("checkpoint", target.pid, "--live", "-o", directory, "--json").json
    assert parked["pid"] == target.pid and parked["capabilities"] == 3 and parked["threads"] == 1
    assert 0 < parked["pause_ns"] < 10**9 and not parked["running"]
    row, = [row for row in context.reseat("list", "--json").json if row["dir"] == directory]
    assert row["pid"] == target.pid and row["twin"] == parked["twin"] and row["capabilities"] == 3 and not row["running"]
    listed = context.reseat("list").stdout.splitlines()
    assert listed[0].split() == ["DIR", "PID", "TWIN", "AGE", "PRIVATE", "CAPS"]
    assert any(line.split()[:3] == [directory, str(target.pid), str(parked["twin"])] for line in listed)

    restored = context.reseat("restore", directory, "--keep", "--json").json
    assert restored["pid"] == target.pid and restored["slots"] == restored["same"] == 3 and restored["restore_ns"] > 0
    assert context.reseat("verify", directory).stdout == "3 of 3 slots hold the same object\n"
    other = sleeper(context)
    result = context.reseat("verify", directory, other.pid, status=1)
    assert not result.stdout.startswith("3 of 3") and len(result.stdout.splitlines()) >= 3
    differences = context.reseat("verify", directory, other.pid, "--json", status=1).json["differences"]
    assert {row["selector"] for row in differences} >= {0, 1}
    context.reseat("drop", directory)
    assert not os.path.exists(directory)
    assert all(row["dir"] != directory for row in context.reseat("list", "--json").json)
    assert target.alive


def test_restore_line(context):
    target = sleeper(context)
    directory = context.checkpoint(target)
    text = context.reseat("restore", directory).stdout
    assert re.fullmatch(rf"restored {target.pid} in [\d.]+ m?s, 3 of 3 slots hold the same object\n", text), text


@each(form=["path", "fd"])
def test_slot(context, form):
    target = context.start(["sh", "-c", "while read line; do echo got $line; done"])
    directory = context.checkpoint(target)
    elsewhere = context.path("elsewhere")
    with open(elsewhere, "w", encoding="utf-8") as file:
        slot = f"1={elsewhere}" if form == "path" else f"1=fd:{file.fileno()}"
        context.reseat("restore", directory, "--slot", slot, pass_fds=(file.fileno(),))
    target.send("a line\n")
    context.until(lambda: "got a line\n" in open(elsewhere, encoding="utf-8").read(), "the line to go elsewhere")


def test_slot_null_close_and_keep(context):
    target = context.start(["sh", "-c", "exec 5</etc/passwd 6</etc/group; read line; ls -l /proc/self/fd >&2; echo got $line"],
                           stderr="pipe")
    context.until(lambda: os.path.exists(f"/proc/{target.pid}/fd/6"), "it to open them")
    directory = context.checkpoint(target)
    context.reseat("restore", directory, "--slot", "5=null", "--slot", "6=close", "--slot", "0=keep", "--slot", "1=fail")
    assert os.readlink(f"/proc/{target.pid}/fd/5") == "/dev/null" and not os.path.exists(f"/proc/{target.pid}/fd/6")
    target.send("a line\n")
    target.expect("got a line")
    assert " 5 -> /dev/null" in target.output and "/etc/group" not in target.output


def test_slot_policies_of_a_cold_restore(context):
    """The same words, when the process is made from its image alone."""
    with open(context.path("in"), "w+", encoding="utf-8") as file:
        target = context.start(["sh", "-c", "exec 5</etc/passwd 6</etc/group 7>other; sleep 0.1; while :; do read line; done"],
                               stdin=file, stdout=None)
        context.until(lambda: os.path.exists(f"/proc/{target.pid}/fd/7"), "it to open them")
        context.until(lambda: not process_children(target.pid), "its child to end")
    directory = context.path("parked")
    context.reseat("checkpoint", target.pid, "--image", "-o", directory)
    context.until(lambda: context.reap() or process_state(target.pid) is None, "the PID to become free")
    for policy in "close", "keep", "fail":
        assert "selector 9" in context.reseat("restore", directory, "--slot", f"9={policy}", status=1).stderr
    result = context.reseat("restore", directory, "--slot", "5=keep", "--allow=lost", status=3)
    assert "selector 5" in result.stderr and "made anew" in result.stderr, result
    os.rename(context.path("other"), context.path("gone"))
    assert "elector 7" in context.reseat("restore", directory, "--allow=lost", "--slot", "7=fail", status=3).stderr
    context.reseat("restore", directory, "--slot", "0=fail", "--slot", "5=null", "--slot", "6=close", "--slot", "7=null",
                   "--slot", "9=null")
    assert {fd: os.readlink(f"/proc/{target.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{target.pid}/fd")} == {
        "0": context.path("in"), "1": "/dev/null", "2": "/dev/null", "5": "/dev/null", "7": "/dev/null", "9": "/dev/null"}


@each(selector=[3, 4, 5, 63])
def test_slot_that_was_unused(context, selector):
    """Also where a number that is used in passing would be."""
    target = sleeper(context)
    directory = context.checkpoint(target)
    context.reseat("restore", directory, "--slot", f"{selector}=null")
    assert os.readlink(f"/proc/{target.pid}/fd/{selector}") == "/dev/null"
    assert sorted(map(int, os.listdir(f"/proc/{target.pid}/fd"))) == [0, 1, 2, selector]


PERF = """
import ctypes, os, struct, sys
attribute = ctypes.create_string_buffer(struct.pack("IIQ", 1, 120, 1), 120)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK
fd = ctypes.CDLL(None).syscall(298, attribute, 0, -1, -1, 0)
if fd >= 0:
    os.dup2(fd, 10)
    os.close(fd)
print("counting" if fd >= 0 else "not permitted", flush=True)
sys.stdin.read()
"""


def test_slot_fail_overrides_allow(context):
    target = context.start(["python3", "-c", PERF])
    if "counting" not in target.expect("\n"):
        raise Skip("no performance counters here")
    context.reseat("checkpoint", target.pid, "--live", "-o", "d", status=3)
    directory = context.checkpoint(target, "heir", "--allow=degraded")
    for policy in "fail", "keep":
        result = context.reseat("restore", directory, "--allow=lost", "--slot", f"10={policy}", status=3)
        assert "not permitted by --slot" in result.stderr and "elector 10" in result.stderr, result
    context.reseat("restore", directory, "--slot", "0=fail", "--slot", "10=close")
    assert target.alive and not os.path.exists(f"/proc/{target.pid}/fd/10")


def test_slot_policies_refuse(context):
    target = context.start(["sh", "-c", "exec 5</proc/self/stat; read line; echo got $line"])
    context.until(lambda: os.path.exists(f"/proc/{target.pid}/fd/5"), "it to open it")
    directory = context.checkpoint(target)
    for policy in "close", "keep", "fail":
        result = context.reseat("restore", directory, "--slot", f"9={policy}", status=1)
        assert "selector 9" in result.stderr and "unused" in result.stderr, result
    result = context.reseat("restore", directory, "--slot", "5=keep", "--allow=lost", status=3)
    assert "selector 5" in result.stderr and "opened again" in result.stderr, result
    context.reseat("restore", directory, "--slot", "5=fail", "--slot", "9=null")
    assert os.readlink(f"/proc/{target.pid}/fd/9") == "/dev/null"
    target.send("it is\n")
    target.expect("got it is")


def test_refused(context):
    """A process with a child: its child would be lost."""
    target = context.start(["sh", "-c", "sleep 1000; echo back"])
    context.until(lambda: os.path.exists(f"/proc/{target.pid}/task/{target.pid}/children")
                  and open(f"/proc/{target.pid}/task/{target.pid}/children", encoding="utf-8").read(), "the child")
    result = context.reseat("checkpoint", target.pid, "--live", "-o", "d", status=3)
    assert result.stdout == "" and "child" in result.stderr
    assert target.alive and not os.path.exists(context.path("d"))


@each(number=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_while_it_waits(context, number):
    """The PID is taken as long as nobody takes the exit status of the process that was killed."""
    target = sleeper(context)
    directory = context.path("parked")
    context.reseat("checkpoint", target.pid, "--live", "-o", directory, "--leave-running")
    with open(context.path("stderr"), "w+", encoding="utf-8") as errors:
        # Whoever runs the tests may have it ignored (a background job of a shell), which reseat respects.
        heard = ["env", f"--default-signal={number.name[3:]}"]
        pid = context.spawn([*heard, context.command, "restore", directory, "--wait", "60"], stderr=errors)
        caught = 1 << (number - 1)
        context.until(lambda: int(re.search(r"SigCgt:\s*(\w+)", open(f"/proc/{pid}/status").read())[1], 16) & caught,
                      "it to catch the signal")
        time.sleep(random.random() / 10)  # at any moment from then on
        os.kill(pid, number)
        context.until(lambda: context.reap() or not os.path.exists(f"/proc/{pid}"), "it to end")
        assert context.take_status(pid) == 130
        errors.seek(0)
        text = errors.read()
    assert f"interrupted by {number.name}" in text, text
    assert target.alive
    target.kill()
    target.wait()
    context.reseat("restore", directory)
    assert target.alive


def test_attach_without_a_terminal(context):
    target = sleeper(context)
    directory = context.checkpoint(target)
    result = context.reseat("restore", directory, "--attach", status=1, start_new_session=True)
    assert "terminal" in result.stderr
    context.reseat("restore", directory)
    assert target.alive


def test_json_is_one_document(context):
    target = sleeper(context)
    directory = context.checkpoint(target)
    for arguments in (["list"], ["verify", directory], ["drop", directory]):
        json.loads(context.reseat("--json", *arguments, status=None).stdout or "null")
