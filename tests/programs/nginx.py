"""nginx as one process: epoll, a kept-alive connection, a large answer that is under way during the checkpoint, logs."""

from programs.driving import COLD_WAYS, Driver, connect, need, read_text, take
from programs.counting import HttpLine
from reseat_test import each

LARGE = 8 << 20  # more than the buffers of a connection hold

CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log info;
events {{ worker_connections 64; }}
http {{
    access_log {directory}/access.log;
    keepalive_timeout 600;
    send_timeout 600;
    client_body_temp_path {directory}/temporary; proxy_temp_path {directory}/temporary;
    fastcgi_temp_path {directory}/temporary; uwsgi_temp_path {directory}/temporary; scgi_temp_path {directory}/temporary;
    server {{ listen 127.0.0.1:{port}; root {directory}/site; }}
}}
"""


class Nginx(Driver):
    commands = ("nginx",)

    def start(self):
        self.address = ("127.0.0.1", self.context.free_port())
        site = self.context.directory / "site"
        site.mkdir()
        (site / "small").write_text("a small page\n")
        (site / "large").write_bytes(b"z" * LARGE)
        configuration = self.context.path("nginx.conf")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(directory=self.context.directory, port=self.address[1]))
        self.run([need("nginx"), "-p", self.context.directory, "-e", "error.log", "-c", configuration])
        self.keep(connect(self.address))  # waits until it is ready; and is an idle connection
        self.client = self.keep(HttpLine(self.address))
        self.begin()

    def begin(self):
        """Asks for more than is read until the next drive()."""
        self.large = self.keep(connect(self.address))
        self.large.sendall(b"GET /large HTTP/1.0\r\n\r\n")

    def drive(self):
        for _ in range(5):
            assert self.client.ask("small") == "a small page"
        # No waiting for the end of file: as long as there is a copy, there is none (docs/limits.md).
        answer = b""
        while not (b"\r\n\r\n" in answer and len(answer.partition(b"\r\n\r\n")[2]) >= LARGE):
            data = self.large.recv(1 << 20)
            assert data, f"the answer ends after {len(answer)} bytes"
            answer += data
        assert answer.partition(b"\r\n\r\n")[2] == b"z" * LARGE
        self.begin()
        newcomer = HttpLine(self.address)
        assert newcomer.ask("small") == "a small page"
        newcomer.close()
        alerts = [line for line in read_text(self.context.path("error.log")).splitlines() if "[alert]" in line or "[crit]" in line]
        assert not alerts, alerts


class NginxRestored(Nginx):
    """Not used between checkpoint and kill: the rest of the large answer would be sent a second time."""

    drive_on = False


@each(way=COLD_WAYS)
def test_nginx(context, way):
    take(context, NginxRestored if way == "copy-restored" else Nginx, way)
