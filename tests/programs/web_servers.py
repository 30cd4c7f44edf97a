"""Further servers of HTTP, each with a small configuration: lighttpd, haproxy, busybox, Python's own."""

from programs.counting import HttpLine
from programs.driving import COLD_WAYS, Driver, connect, need, take
from reseat_test import each

LIGHTTPD = """
server.document-root = "{directory}/site"
server.port = {port}
server.bind = "127.0.0.1"
server.errorlog = "{directory}/error.log"
server.max-keep-alive-requests = 100000
server.max-keep-alive-idle = 600
"""

HAPROXY = """
global
    nbthread 3
    maxconn 100
defaults
    mode http
    timeout client 600s
    timeout connect 10s
    timeout server 600s
frontend page
    bind 127.0.0.1:{port}
    http-request return status 200 content-type text/plain string "a small page"
"""


class Web(Driver):
    def argv(self):
        raise NotImplementedError

    def configure(self, text):
        path = self.context.path("configuration")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.format(directory=self.context.directory, port=self.address[1]))
        return path

    def start(self):
        self.address = ("127.0.0.1", self.context.free_port())
        site = self.context.directory / "site"
        site.mkdir()
        (site / "small").write_text("a small page\n")
        self.run(self.argv())
        self.keep(connect(self.address))
        self.client = self.keep(HttpLine(self.address))

    def drive(self):
        for _ in range(5):
            assert self.client.ask("small") == "a small page"
        newcomer = HttpLine(self.address)
        assert newcomer.ask("small") == "a small page"
        newcomer.close()


class Lighttpd(Web):
    commands = ("lighttpd",)

    def argv(self):
        return [need("lighttpd"), "-D", "-f", self.configure(LIGHTTPD)]


class Haproxy(Web):
    commands = ("haproxy",)

    def argv(self):
        return [need("haproxy"), "-db", "-f", self.configure(HAPROXY)]


@each(way=COLD_WAYS)
def test_lighttpd(context, way):
    take(context, Lighttpd, way)


@each(way=COLD_WAYS)
def test_haproxy(context, way):
    take(context, Haproxy, way)
