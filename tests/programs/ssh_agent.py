"""ssh-agent, which is not dumpable and holds its keys in memory; asked over one connection that stays open."""

import struct

from programs.driving import WAYS, Driver, connect, need, take
from reseat_test import each

REQUEST_IDENTITIES, IDENTITIES_ANSWER = 11, 12


class SshAgent(Driver):
    commands = ("ssh-agent", "ssh-add", "ssh-keygen")

    def start(self):
        self.address = self.context.path("agent")
        key = self.context.path("key")
        self.run([need("ssh-agent"), "-D", "-a", self.address])
        self.context.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "a key for a test", "-f", key])
        self.client = self.keep(connect(self.address))
        self.context.run([need("ssh-add"), "-q", key], environment={"SSH_AUTH_SOCK": self.address})

    def receive(self, count):
        data = b""
        while len(data) < count:
            more = self.client.recv(count - len(data))
            assert more, "the agent has closed the connection"
            data += more
        return data

    def drive(self):
        self.client.sendall(struct.pack(">IB", 1, REQUEST_IDENTITIES))
        answer = self.receive(struct.unpack(">I", self.receive(4))[0])
        assert struct.unpack(">BI", answer[:5]) == (IDENTITIES_ANSWER, 1), answer
        assert b"a key for a test" in answer, answer
        listing = self.context.run([need("ssh-add"), "-l"], environment={"SSH_AUTH_SOCK": self.address})
        assert "a key for a test" in listing.stdout


@each(way=WAYS)
def test_ssh_agent(context, way):
    take(context, SshAgent, way)
