"""mosquitto: MQTT clients that stay connected, a subscription, a retained message."""

from programs.driving import COLD_WAYS, Driver, connect, need, take
from reseat_test import each


def field(text):
    return len(text).to_bytes(2, "big") + text.encode()


class Client:
    """MQTT 3.1.1, as little as is needed."""

    def __init__(self, address, name):
        self.socket = connect(address)
        self.send(0x10, field("MQTT") + b"\x04\x02\x00\x00" + field(name))
        assert self.receive() == (0x20, b"\x00\x00")

    def send(self, kind, body):
        assert len(body) < 128
        self.socket.sendall(bytes([kind, len(body)]) + body)

    def receive(self):
        head = self.exactly(2)
        return head[0], self.exactly(head[1])

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, "the broker has closed the connection"
            data += more
        return data

    def close(self):
        self.socket.close()


class Mosquitto(Driver):
    commands = ("mosquitto",)

    def start(self):
        address = ("127.0.0.1", self.context.free_port())
        configuration = self.context.path("mosquitto.conf")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(f"listener {address[1]} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        self.run([need("mosquitto"), "-c", configuration])
        self.subscriber = self.keep(Client(address, "subscriber"))
        self.subscriber.send(0x82, b"\x00\x01" + field("news") + b"\x00")
        assert self.subscriber.receive() == (0x90, b"\x00\x01\x00")
        self.publisher = self.keep(Client(address, "publisher"))
        self.expected = {"number": 0}

    def drive(self):
        for _ in range(5):
            self.expected["number"] += 1
            message = field("news") + str(self.expected["number"]).encode()
            self.publisher.send(0x30, message)
            assert self.subscriber.receive() == (0x30, message)
        self.publisher.send(0xC0, b"")
        assert self.publisher.receive() == (0xD0, b"")


@each(way=COLD_WAYS)
def test_mosquitto(context, way):
    take(context, Mosquitto, way)
