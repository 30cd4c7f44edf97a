"""Who gets a session of what: the kernel's word, what proves nothing, set-user-ID programs, the configuration."""

import contextlib
import ctypes
import os
import shutil
import signal
import struct
import threading
from pathlib import Path

from reseat_test import Skip, each
from reseat_test.core import (ALL, EINVAL, EXAMPLE, EPERM, ESRCH, ESTALE, NOBODY, Core, ask, in_child, pd, refused,
                              sleeper, stat_mode, wait_for_sleep)

# ---- who gets one ----


def test_proofs_that_prove_nothing(context):
    core, target, other = Core(context), sleeper(context), sleeper(context)
    pidfd = os.pidfd_open(target.pid)
    mem = f"/proc/{target.pid}/mem"
    good = os.open(mem, os.O_RDWR)
    assert ask(core, target.pid, [pidfd, good])[1] == ALL
    assert ask(core, target.pid, [pidfd, os.open(mem, os.O_RDONLY)])[1] == pd.RIGHTS["read"]
    with refused(EPERM, "none of the rights"):
        ask(core, target.pid, [pidfd, os.open(mem, os.O_RDONLY)], pd.RIGHTS["install"])
    with refused(EPERM, "no descriptor of /proc"):
        ask(core, target.pid, [pidfd])
    own = os.open(context.path("mem"), os.O_RDWR | os.O_CREAT)
    for wrong in (os.open(mem, os.O_PATH), os.open(mem, os.O_WRONLY), os.open(f"/proc/{other.pid}/mem", os.O_RDWR),
                  os.open("/proc/self/mem", os.O_RDWR), os.open(f"/proc/{target.pid}/maps", os.O_RDONLY), own, pidfd,
                  os.open(f"/proc/{target.pid}/task/{target.pid}/mem", os.O_RDWR), os.open(f"/proc/{target.pid}", os.O_RDONLY)):
        with refused(EPERM, "is not /proc"):
            ask(core, target.pid, [pidfd, wrong])
    for wrong in (own, good, os.open(f"/proc/{target.pid}", os.O_RDONLY), os.pipe()[0]):
        with refused(EINVAL, "must be a pidfd"):
            ask(core, target.pid, [wrong, good])
    with refused(EINVAL, "needs a pidfd"):
        ask(core, target.pid, [])
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with contextlib.suppress(OSError):  # before Linux 6.9 there are none of threads
        of_thread = os.pidfd_open(thread.native_id, os.O_EXCL)
        with refused(EINVAL, "of thread"):
            ask(core, thread.native_id, [of_thread, good])
    stop.set()
    thread.join()
    with refused(EPERM, "core itself"):
        ask(core, core.pid, [os.pidfd_open(core.pid), good])
    target.kill()
    target.wait()
    with refused(ESRCH, "has ended"):
        ask(core, target.pid, [pidfd, good])


def test_another_instance_of_procfs(context):
    """Core cannot see that what is called /proc/PID/mem there is what it should be."""
    context.need_root()
    core, target = Core(context), sleeper(context)

    def client():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x00020000) < 0 or libc.mount(None, b"/", None, 0x4000 | (1 << 18), None) < 0 or \
                libc.mount(b"proc", b"/proc", b"proc", 0, None) < 0:
            return  # not possible here
        with refused(EPERM, "same instance of procfs"):
            core.open(target.pid)

    in_child(context, client)
    assert list(core.open(target.pid).list()) == [0, 1, 2]


def test_kernel_decides_for_an_ordinary_user(context):
    """Core is root, the client is not: its own processes it gets, others it does not."""
    context.need_root()
    core, roots = Core(context), sleeper(context)
    users = sleeper(context, user="nobody")
    memory_of_root = os.open(f"/proc/{roots.pid}/mem", os.O_RDWR)

    def client():
        session = core.open(users.pid)
        assert list(session.list()) == [0, 1, 2]
        session.install(9, 0)
        session.close(9)
        with refused(EPERM, "could not open"):
            core.open(roots.pid)
        # Opened by somebody else, and passed on: a session should have been.
        with refused(EPERM, "CAP_SYS_PTRACE"):
            ask(core, roots.pid, [os.pidfd_open(roots.pid), memory_of_root])

    in_child(context, client, NOBODY)


def test_capabilities_of_a_file(context):
    """Such a client may trace everything, but somebody else could have its connection from before: it counts for less."""
    context.need_root()
    context.need("/usr/bin/python3")
    core, target = Core(context), sleeper(context, user="daemon")
    program = context.path("python3")
    shutil.copy("/usr/bin/python3", program)
    wanted = 1 << 19 | 1 << 1 | 1 << 2  # CAP_SYS_PTRACE, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    try:
        os.setxattr(program, "security.capability", struct.pack("<IIIII", 0x02000001, wanted, 0, 0, 0))
    except OSError as error:
        raise Skip(f"no capabilities of files here: {error}") from None
    code = ("import os, sys; sys.path.insert(0, sys.argv[1]); import pd_client\n"
            "os.close(os.open(f'/proc/{sys.argv[2]}/mem', os.O_RDWR))\nprint('may')\n"
            "pd_client.Session.open(int(sys.argv[2]), 63, sys.argv[3])\nprint('has')")
    result = context.run([program, "-c", code, str(EXAMPLE.parent), target.pid, core.path], status=None, user=NOBODY,
                         group=NOBODY, extra_groups=[], cwd="/")
    if "may" not in result.stdout:
        raise Skip(f"it has not got them: {result}")
    assert result.status != 0 and "has" not in result.stdout and "CAP_SYS_PTRACE" in result.stderr, result
    as_root = context.run([program, "-c", code, str(EXAMPLE.parent), target.pid, core.path])
    assert "has" in as_root.stdout


SET_USER_ID = r"""
import os, sys, time
ready, gate = int(sys.argv[1]), int(sys.argv[2])
os.write(ready, b"x")
os.read(gate, 1)
os.execv(sys.argv[3], [sys.argv[3], "1000"])
"""


def test_set_user_id_program(context):
    """Neither a session nor a descriptor of before is good for what a process executes afterwards."""
    context.need_root()
    core = Core(context)
    program = context.path("set-user-id")
    shutil.copy(shutil.which("sleep"), program)
    os.chmod(program, 0o4755)
    if os.statvfs(program).f_flag & os.ST_NOSUID:
        raise Skip("the directory of tests is mounted nosuid")
    gate, opener = os.pipe()
    ready, says_ready = os.pipe()
    target = context.start(["python3", "-c", SET_USER_ID, str(says_ready), str(gate), program], user="nobody",
                           pass_fds=[says_ready, gate])
    os.read(ready, 1)

    def client():
        pidfd, memory = os.pidfd_open(target.pid), os.open(f"/proc/{target.pid}/mem", os.O_RDWR)
        session = core.open(target.pid)
        before = list(session.list())
        narrowed = session.narrow(ALL)
        os.write(opener, b"x")
        context.until(lambda: "set-user-id" in Path(f"/proc/{target.pid}/comm").read_text(), "it to execute")
        for one in (session, narrowed):
            for attempt in (lambda: list(one.list()), lambda: one.request(0), lambda: one.close(0),
                            lambda: one.install(77, 0), lambda: one.compare(0, one, 1)):
                with refused(ESTALE, "another program"):
                    attempt()
        with refused(EPERM, "CAP_SYS_PTRACE"):
            ask(core, target.pid, [pidfd, memory])
        assert before

    in_child(context, client, NOBODY)
    assert Path(f"/proc/{target.pid}/status").read_text().split("Uid:")[1].split()[1] == "0"
    session = core.open(target.pid)  # root may
    assert 77 not in list(session.list())


def test_program_of_the_same_user(context):
    """An execve that gains nothing ends the session too; a new one can be opened."""
    core = Core(context)
    target = context.start(["sh", "-c", "read x; exec sleep 1000"])
    session = core.open(target.pid)
    target.send("\n")
    context.until(lambda: "sleep" in Path(f"/proc/{target.pid}/comm").read_text(), "it to execute")
    with refused(ESTALE, "open a new one"):
        list(session.list())
    assert list(core.open(target.pid).list()) == [0, 1, 2]


def test_configuration(context):
    context.need_root()
    core = Core(context, configuration=f"""
        # comment
        deny   client=root program={os.path.realpath(shutil.which('cat'))}
        grant  client=nobody target=root rights=list,request   # and nothing else
        limit  client=* rights=read lifetime=1h
    """)
    cat, sleep = context.start(["cat"]), sleeper(context)
    wait_for_sleep(context, cat)
    with refused(EPERM, "denies"):
        core.open(cat.pid)
    session = core.open(sleep.pid)
    body, _, _ = session.call(pd.INFO)
    pid, rights, left = struct.unpack("<iIQ", body)
    assert pid == sleep.pid and rights == pd.RIGHTS["read"] and 3590e9 < left < 3600e9, (pid, rights, left)
    with refused(EPERM, "not good for install"):
        session.install(9, 0)

    def client():
        granted = core.open(sleep.pid)
        assert list(granted.list()) == [0, 1, 2]
        assert granted.request(0) is not None
        with refused(EPERM, "not good for close"):
            granted.close(0)

    in_child(context, client, NOBODY)
    # Read again: a mistake changes nothing, what is right counts from then on.
    Path(core.configuration).write_text("limit client=*\nfrobnicate\n")
    core.program.kill(signal.SIGHUP)
    context.until(lambda: "core.conf, line 2" in core.words, "core to complain")
    with refused(EPERM, "denies"):
        core.open(cat.pid)
    Path(core.configuration).write_text("")
    core.program.kill(signal.SIGHUP)
    context.until(lambda: core.open(cat.pid) if not denied(core, cat.pid) else None, "core to read it again")
    assert list(session.list()) == [0, 1, 2]


def denied(core, pid):
    try:
        core.open(pid)
        return False
    except pd.Refused as error:
        return "denies" in error.strerror


@each(line=["frobnicate", "deny client=no-such-user-here", "limit rights=everything", "grant rights=list", "grant client=root",
            "grant client=* rights=list", "sessions none", "sessions 0", "limit lifetime=5m", "limit program=sleep", "deny x"])
def test_configuration_that_is_wrong(context, line):
    Path(context.path("core.conf")).write_text(f"# first\n{line}\n")
    result = context.reseat("core", "--socket", context.path("socket"), "--config", context.path("core.conf"), status=1)
    assert "core.conf, line 2: " in result.stderr, result
    assert not os.path.exists(context.path("socket"))


def test_core_of_an_ordinary_user(context):
    context.need_root()
    target, roots = sleeper(context, user="nobody"), sleeper(context)
    core = Core(context, user="nobody")

    def client():
        session = core.open(target.pid)
        session.install(20, 0)
        assert list(session.list()) == [0, 1, 2, 20]
        with refused(EPERM):
            core.open(roots.pid)

    in_child(context, client, NOBODY)
    assert stat_mode(core.path) == 0o600
    with refused(EPERM):  # root's client may, but this core may not
        core.open(roots.pid)


def stat_mode(path):
    return os.stat(path).st_mode & 0o777
