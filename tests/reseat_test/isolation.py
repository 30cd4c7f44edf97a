"""A PID namespace for each test (pid_namespaces(7)).

Tests run beside each other, and each reseat among them may have to move the number that the next process gets
(ns_last_pid), or needs a number that is free at the moment only. In a namespace of its own no test takes a number from
another; and when the namespace ends, so does everything in it. The test is not its first process, but that one's child:
the first process is special to the kernel, and to Reseat.
"""

import ctypes
import os

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000

libc = ctypes.CDLL(None, use_errno=True)


def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def is_possible():
    """Tries it: in containers root may be without the rights, or a system call filter in the way."""
    child = os.fork()
    if child == 0:
        try:
            enter()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def enter():
    """Returns in a process of a new PID namespace, with /proc to match. This process stays behind as its ancestor, and
    ends when it ends."""
    must(libc.unshare(CLONE_NEWPID | CLONE_NEWNS))
    stay_behind()
    hide_mounts()
    must(libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None))
    stay_behind()


def hide_mounts():
    """Lets no mount of ours reach another mount namespace. The root of a chroot(2) need not be where something is
    mounted (EINVAL); then at least what we mount over /proc stays here."""
    if libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) < 0:
        must(libc.mount(None, b"/proc", None, MS_REC | MS_PRIVATE, None))


def stay_behind():
    """Forks, and returns in the child only; the parent reaps until the child has ended, and ends."""
    child = os.fork()
    if child == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(max(0, os.waitstatus_to_exitcode(status)))
