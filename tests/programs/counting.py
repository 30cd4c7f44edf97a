"""Drivers for the servers in sources/: each adds up numbers, for each connection and in total, and counts ticks."""

import fcntl
import http.client
import os
import re
import shutil
import tempfile

from programs.driving import SOURCES, Driver, Line, need, read_text, status_at_end


class HttpLine:
    """Line's interface over one kept-alive HTTP connection, which is never opened a second time."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(*address, timeout=10)
        self.connection.connect()
        self.connection.auto_open = 0

    def ask(self, text):
        self.connection.request("GET", "/" + text.replace(" ", "/"))
        response = self.connection.getresponse()
        assert response.status == 200, response.status
        return response.read().decode().strip()

    def close(self):
        self.connection.close()


class Counting(Driver):
    """Two connections that live through everything, one of them busy, and new ones each time."""

    line = Line

    def argv(self):
        raise NotImplementedError

    def start(self):
        self.run(self.argv())
        port = self.context.until(lambda: re.search(r"^(\d+)$", read_text(self.output), re.MULTILINE),
                                  "the port that the program prints", 15)
        self.address = ("127.0.0.1", int(port[1]))
        self.lines = [self.another() for _ in range(2)]
        self.expected = {"sums": [0, 0], "total": 0}

    def another(self):
        return self.keep(self.line(self.address))

    def add(self, line, number):
        """Asks over `line` and checks the total; returns the connection's sum and the ticks."""
        answer = line.ask(f"add {number}").split()
        assert answer[::2] == ["sum", "total", "ticks"], answer
        self.expected["total"] += number
        assert int(answer[3]) == self.expected["total"], (answer, self.expected)
        return int(answer[1]), int(answer[5])

    def drive(self):
        for which, times in ((0, 30), (1, 2)):
            for number in range(times):
                self.expected["sums"][which] += number + 7
                got, ticks = self.add(self.lines[which], number + 7)
                assert got == self.expected["sums"][which], (got, self.expected)
        newcomer = self.another()
        self.context.until(lambda: self.add(newcomer, 1)[1] > ticks + 2, "the ticks of the program")


def build(context, name, source, *compiler):
    """The path of an executable (or class directory) made by the `compiler` words, in which OUT and SOURCE are
    replaced. Kept in the build directory while the source is not newer, because some compilers are slow."""
    source = os.path.join(SOURCES, source)
    out = os.path.join(context.build, "programs", name)
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(f"{out}.lock", "w") as lock:  # others that want it wait: what runs is not to be replaced
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(out) or os.path.getmtime(out) < os.path.getmtime(source):
            compile_anew(context, out, source, *compiler)
    return out


def compile_anew(context, out, source, *compiler):
    place = tempfile.mkdtemp(dir=os.path.dirname(out))  # on the file system on which it is renamed
    context.defer(shutil.rmtree, place)
    fresh = os.path.join(place, "built")
    words = [need(compiler[0]), *(word.replace("OUT", fresh).replace("SOURCE", source) for word in compiler[1:])]
    compiling = context.start(words, environment={"GO111MODULE": "off"}, stderr="pipe")
    status = status_at_end(context, compiling, 60)
    compiling.read_available()
    assert status == 0, f"{' '.join(words)} ended with {status}: {compiling.output}"
    if os.path.isdir(out):
        shutil.rmtree(out)
    os.replace(fresh, out)
