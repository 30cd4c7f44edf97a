#!/usr/bin/env python3
"""A client of core in another language: lists, requests, installs and closes capabilities of a process.

    pd_client.py list PID            the selectors in use
    pd_client.py copy PID SEL        what can be read from the file at that selector, from its beginning
    pd_client.py install PID SEL FILE   opens FILE and puts it at that selector
    pd_client.py close PID SEL       empties that selector
    pd_client.py same PID SEL PID SEL   whether both hold the same object
    pd_client.py lend PID RIGHTS SECONDS -- COMMAND…
                                     runs COMMAND with a narrowed session as descriptor 3

docs/protocol.md describes the messages; this file is all that a client needs. Core listens where $RESEAT_CORE says,
or at /run/reseat/core.
"""

import array
import os
import socket
import struct
import sys

VERSION, MESSAGE_BYTES, CAPABILITIES_MAX, END = 1, 16384, 253, 0xFFFFFFFF
OPEN, INFO, NARROW, LIST, REQUEST, INSTALL, CLOSE, COMPARE, CHECKPOINT, RESTORE = range(1, 11)
EXACT = 1 << 1  # in the head of a request
CLOSE_ON_EXEC, READ, WRITE, REPLACE = 1 << 0, 1 << 1, 1 << 2, 1 << 8  # of a slot
RIGHTS = {"list": 1, "request": 2, "install": 4, "close": 8, "checkpoint": 16, "restore": 32, "read": 3, "all": 63}
HEAD = struct.Struct("<HHIiIII")  # version, operation, tag, result, flags, count, capabilities


class Refused(OSError):
    """Core's answer, with its sentence."""


class Channel:
    """A socket to core: the one that it listens at, or a session."""

    def __init__(self, sock):
        self.socket, self.tag = sock, 0

    def call(self, operation, fixed=b"", items=b"", count=0, flags=0, capabilities=()):
        """One request and its reply: what stands behind the head, the number of items, and descriptors."""
        self.tag += 1
        head = HEAD.pack(VERSION, operation, self.tag, 0, flags, count, len(capabilities))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", capabilities))] if capabilities else []
        self.socket.sendmsg([head, fixed, items], rights)
        data, beside, _, _ = self.socket.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(CAPABILITIES_MAX * 4),
                                                 socket.MSG_CMSG_CLOEXEC)
        if len(data) < HEAD.size:
            raise Refused(32, "core has closed the connection")
        _, _, _, result, _, count, _ = HEAD.unpack_from(data)
        body = data[HEAD.size:]
        if result < 0:
            raise Refused(-result, body[:count].decode(errors="replace"))
        received = array.array("i")
        for level, kind, bytes_ in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received.frombytes(bytes_[:len(bytes_) // 4 * 4])
        return body, count, list(received)


class Session(Channel):
    """A session of one process. Its descriptor can be passed on: whoever holds it, has it."""

    def __init__(self, fd):
        super().__init__(socket.socket(fileno=fd))

    @classmethod
    def open(cls, pid, rights=RIGHTS["all"], path=os.environ.get("RESEAT_CORE", "/run/reseat/core")):
        """Proves that the kernel lets us trace the process by a descriptor of its memory, and asks core."""
        core = Channel(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        core.socket.connect(path)
        proofs = [os.pidfd_open(pid)]
        try:
            proofs.append(os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC))
        except PermissionError:
            pass  # core's configuration may let us do without
        _, _, (session,) = core.call(OPEN, struct.pack("<iIQ", 0, rights, 0), capabilities=proofs)
        for fd in proofs:
            os.close(fd)
        core.socket.close()
        return cls(session)

    def list(self):
        selector = 0
        while selector != END:
            body, count, _ = self.call(LIST, struct.pack("<II", selector, 4000))
            selector, _ = struct.unpack_from("<II", body)
            yield from struct.unpack_from(f"<{count}I", body, 8)

    def request(self, selector):
        """A descriptor of ours of what is at `selector`, or None."""
        _, _, capabilities = self.call(REQUEST, struct.pack("<II", selector, 1), flags=EXACT)
        return capabilities[0] if capabilities else None

    def install(self, selector, fd, flags=0):
        self.call(INSTALL, items=struct.pack("<II", selector, flags), count=1, capabilities=[fd])

    def close(self, selector):
        self.call(CLOSE, items=struct.pack("<I", selector), count=1)

    def compare(self, selector, other, other_selector):
        body, _, _ = self.call(COMPARE, items=struct.pack("<II", selector, other_selector), count=1,
                               capabilities=[other.socket.fileno()])
        return struct.unpack("<i", body)[0]

    def narrow(self, rights, seconds=0, ranges=()):
        _, _, (session,) = self.call(NARROW, struct.pack("<IIQ", rights, 0, int(seconds * 1e9)),
                                     b"".join(struct.pack("<II", *one) for one in ranges), len(ranges))
        return Session(session)


def main(verb, pid, *words):
    session = Session.open(int(pid))
    if verb == "list":
        print(*session.list())
    elif verb == "copy":
        fd = session.request(int(words[0]))
        if fd is None:
            sys.exit(f"selector {words[0]} of process {pid} is unused")
        offset = 0
        while data := os.pread(fd, 65536, offset):
            offset += sys.stdout.buffer.write(data)
    elif verb == "install":
        session.install(int(words[0]), os.open(words[1], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666))
    elif verb == "close":
        session.close(int(words[0]))
    elif verb == "same":
        print("same" if session.compare(int(words[0]), Session.open(int(words[1])), int(words[2])) == 0 else "different")
    elif verb == "lend":
        rights = sum({RIGHTS[word] for word in words[0].split(",")})
        narrowed = session.narrow(rights, float(words[1]))
        os.set_inheritable(os.dup2(narrowed.socket.fileno(), 3), True)
        os.execvp(words[3], words[3:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"pd_client: {error.strerror}")
