"""openssl s_server inside a TLS 1.3 session with a client that is Python's."""

import ssl

from programs.driving import COLD_WAYS, Driver, connect, need, take
from reseat_test import each


class SServer(Driver):
    commands = ("openssl",)
    drive_on = False  # a record that was received twice would break the session, and rightly so

    def start(self):
        key, certificate = self.context.path("key.pem"), self.context.path("certificate.pem")
        openssl = need("openssl")
        self.context.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
                          "-days", "2", "-subj", "/CN=localhost"])
        port = self.context.free_port()
        self.run([openssl, "s_server", "-accept", f"127.0.0.1:{port}", "-key", key, "-cert", certificate, "-rev",
                  "-quiet"])
        settings = ssl.create_default_context(cafile=certificate)
        settings.minimum_version = ssl.TLSVersion.TLSv1_3
        settings.check_hostname = False
        self.client = self.keep(settings.wrap_socket(connect(("127.0.0.1", port))))
        self.expected = {"lines": 0}

    def drive(self):
        for _ in range(10):
            self.expected["lines"] += 1
            line = f"line {self.expected['lines']} of a session"
            self.client.sendall(line.encode() + b"\n")
            answer = self.client.recv(1000).decode()
            assert answer == line[::-1] + "\n", answer
        assert self.client.version() == "TLSv1.3"


@each(way=COLD_WAYS)
def test_openssl(context, way):
    take(context, SServer, way)
