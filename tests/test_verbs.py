"""The verbs that look at and change the capability space of a running process: caps --shared, request, install, close,
plan."""

import os
import pwd
import socket

from reseat_test import Skip, each

NOBODY = "nobody"


def sleeper(context, **how):
    return context.start(["sleep", "1000"], **how)


def as_nobody():
    """How a command runs as an ordinary user."""
    if os.geteuid() != 0:
        raise Skip("only root can become another user")
    entry = pwd.getpwnam(NOBODY)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


def row_of(rows, selector):
    return next(row for row in rows if row["selector"] == selector)


def places(holders):
    return {(holder["pid"], holder["selector"]) for holder in holders}


# ---- caps --shared ----


def test_shared_names_holders_and_other_ends(context):
    read, write = os.pipe()
    reader, twice = (sleeper(context, stdin=read, stdout=None) for _ in range(2))
    writer = sleeper(context, stdin=None, stdout=write)
    row = row_of(context.reseat("caps", reader.pid, "--shared", "--json").json, 0)
    assert places(row["holders"]) == {(twice.pid, 0), (os.getpid(), read)}, row
    assert places(row["other_ends"]) == {(writer.pid, 1), (os.getpid(), write)}, row
    assert {"pid": writer.pid, "selector": 1, "command": "sleep"} in row["other_ends"]
    os.close(read)
    os.close(write)
    header, line = context.reseat("caps", "--shared", reader.pid).stdout.splitlines()[:2]
    assert header.split() == ["SEL", "KIND", "OBJECT", "ACCESS", "FLAGS", "HELD_ALSO_BY", "OTHER_END", "NAME"]
    assert line.split()[5:7] == [f"{twice.pid}:0(sleep)", f"{writer.pid}:1(sleep)"], line


@each(what=["unix", "tcp", "tcp6", "fifo"])
def test_shared_finds_the_other_end(context, what):
    if what == "unix":
        one, other = socket.socketpair()
    elif what == "fifo":
        os.mkfifo(context.path("fifo"))
        one = open(os.open(context.path("fifo"), os.O_RDONLY | os.O_NONBLOCK), "rb")
        other = open(os.open(context.path("fifo"), os.O_WRONLY), "wb")
    else:  # a client that speaks IPv4 to a server that listens on IPv6
        listener = socket.create_server(("::" if what == "tcp6" else "127.0.0.1", 0), dualstack_ipv6=what == "tcp6",
                                        family=socket.AF_INET6 if what == "tcp6" else socket.AF_INET)
        one = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        other = listener.accept()[0]
        listener.close()
    first, second = sleeper(context, stdin=one), sleeper(context, stdin=other)
    one.close()
    other.close()
    for target, peer in (first, second), (second, first):
        row = row_of(context.reseat("caps", target.pid, "--shared", "--json").json, 0)
        assert places(row["other_ends"]) == {(peer.pid, 0)} and row["holders"] == [], row


def test_shared_is_not_fooled_by_equal_inodes(context):
    """The same file opened twice is two objects; so are two eventfds, which have one inode."""
    with open(context.path("file"), "w", encoding="utf-8") as first, open(context.path("file"), "w", encoding="utf-8") as second:
        one = sleeper(context, stdin=None, stdout=first, stderr=os.eventfd(0))
        other = sleeper(context, stdin=None, stdout=second, stderr=os.eventfd(0))
        rows = context.reseat("caps", one.pid, "--shared", "--json").json
        assert places(row_of(rows, 1)["holders"]) == {(os.getpid(), first.fileno())}
        assert all(holder["pid"] != other.pid for row in rows for holder in row["holders"]), rows


def test_shared_says_how_many_it_could_not_see(context):
    target = context.start(["sleep", "1000"], user=NOBODY) if os.geteuid() == 0 else sleeper(context)
    result = context.reseat("caps", target.pid, "--shared", "--json", **as_nobody())
    assert "could not be looked at" in result.stderr and len(result.json) == 3
    assert context.reseat("-q", "caps", target.pid, "--shared", **as_nobody()).stderr == ""
