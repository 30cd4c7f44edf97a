"""redis-server: idle clients, blocked ones, subscribers, an open transaction, a script, keys that expire; as root, as its
own user without any privilege, and under load by redis-benchmark."""

import os
import pwd
import threading
import time

from programs.driving import WAYS, Driver, connect, need, status_at_end, take
from reseat_test import Skip, alone, each


class Resp:
    """A connection that speaks the redis protocol."""

    def __init__(self, address):
        self.socket = connect(address)
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        parts = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))

    def receive(self):
        line = self.file.readline()
        assert line.endswith(b"\r\n"), f"the connection has ended, its last words: {line!r}"
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.receive() for _ in range(int(rest))]
        raise AssertionError(f"redis answers {line!r}")

    def ask(self, *words):
        self.send(*words)
        return self.receive()

    def close(self):
        self.file.close()
        self.socket.close()


class Redis(Driver):
    commands = ("redis-server",)

    def argv(self):
        return [need("redis-server")]

    def start(self):
        self.address = ("127.0.0.1", self.context.free_port())
        os.mkdir(self.context.path("writable"))
        os.chmod(self.context.path("writable"), 0o777)
        self.run([*self.argv(), "--port", self.address[1], "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                  "--daemonize", "no", "--unixsocket", self.socket_path()], cwd="/")
        # The socket exists from listen on; over TCP we know when the server is ready.
        self.client = self.keep(Resp(self.address))
        self.local = self.keep(Resp(self.socket_path()))
        self.subscriber = self.keep(Resp(self.address))
        self.waiting = self.keep(Resp(self.address))
        self.transaction = self.keep(Resp(self.address))
        assert self.subscriber.ask("SUBSCRIBE", "news") == ["subscribe", "news", 1]
        assert self.client.ask("MSET", *(word for number in range(2000) for word in (f"key-{number}", "x" * 200))) == "OK"
        self.id = self.client.ask("CLIENT", "ID")
        self.expected = {"counter": 0, "transaction": 0}
        self.begin()

    def socket_path(self):
        """Where redis may write, whoever it is."""
        return self.context.path("writable/socket")

    def begin(self):
        """What is left open until the next drive(): a transaction and a client that waits."""
        assert self.transaction.ask("MULTI") == "OK"
        assert self.transaction.ask("INCR", "transaction") == "QUEUED"
        self.waiting.send("BLPOP", "list", 0)

    def drive(self):
        assert self.client.ask("CLIENT", "ID") == self.id, "another connection than before"
        for client in (self.client, self.local, self.client):
            self.expected["counter"] += 1
            assert client.ask("INCR", "counter") == self.expected["counter"]
        assert self.client.ask("GET", "key-1234") == "x" * 200
        assert self.local.ask("EVAL", "return redis.call('GET', KEYS[1])", 1, "counter") == str(self.expected["counter"])
        assert self.client.ask("PUBLISH", "news", "hello") == 1
        assert self.subscriber.receive() == ["message", "news", "hello"]
        self.expected["transaction"] += 1
        assert self.transaction.ask("EXEC") == [self.expected["transaction"]]
        # The RPUSH is answered before or after the one who waits is served.
        assert self.client.ask("RPUSH", "list", "served") == 1
        assert self.waiting.receive() == ["list", "served"]
        assert self.client.ask("SET", "short-lived", "x", "PX", 30) == "OK"
        self.context.until(lambda: self.client.ask("GET", "short-lived") is None, "a key to expire")
        newcomer = Resp(self.address)
        assert newcomer.ask("PING") == "PONG"
        newcomer.close()
        self.begin()


class UnprivilegedRedis(Redis):
    """Its PID cannot be had with clone3's set_tid: that needs a capability of the process itself."""

    commands = ("redis-server", "setpriv")

    def argv(self):
        try:
            user = pwd.getpwnam("redis").pw_name
        except KeyError:
            user = "nobody"
        if os.geteuid() != 0:
            raise Skip("only root can start a program as another user")
        return [need("setpriv"), f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups",
                need("redis-server")]


@each(way=WAYS)
def test_redis(context, way):
    take(context, Redis, way)


@alone  # it is the next PID that counts
@each(way=WAYS)
def test_redis_unprivileged(context, way):
    take(context, UnprivilegedRedis, way)


class Load(threading.Thread):
    """Clients that never stop, pipelining increments of a counter of their own: each answer must be the next number."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.client = Resp(address)
        self.stop = False
        self.failure = None
        self.answers = 0
        self.name = f"load-{id(self)}"

    def run(self):
        try:
            count = 0
            while not self.stop:
                for _ in range(10):
                    self.client.send("INCR", self.name)
                for _ in range(10):
                    count += 1
                    answer = self.client.receive()
                    assert answer == count, f"answer {answer} to increment {count}"
                self.answers = count
        except (AssertionError, OSError) as failure:
            self.failure = failure
        self.client.close()


@each(form=["heir", "copy"])
def test_redis_under_load(context, form):
    """Five rounds while eight clients have requests under way all the time. (After `copy` the target runs on; to restore
    a copy under load is asking for requests to be answered twice.)"""
    driver = Redis(context)
    driver.start()
    driver.steady = driver.settles = False
    loads = [Load(driver.address) for _ in range(8)]
    for load in loads:
        load.start()
    for _ in range(5):
        time.sleep(0.2)
        if form == "heir":
            directory = driver.checkpoint()
            driver.await_end()
            time.sleep(0.05)
            driver.restore(directory)
        else:
            directory = driver.checkpoint("--leave-running")
            time.sleep(0.1)
            driver.compare()
            driver.drop(directory)
        driver.drive()
        answers = [load.answers for load in loads]
        context.until(lambda: all(load.failure or load.answers > before for load, before in zip(loads, answers)),
                      "all clients to have answers again")
        assert not any(load.failure for load in loads), [load.failure for load in loads]
    for load in loads:
        load.stop = True
    for load in loads:
        load.join(10)
    assert not any(load.failure for load in loads), [load.failure for load in loads]


def test_redis_benchmark(context):
    """redis-benchmark, which exits at the first error of a connection, across three checkpoints and restores."""
    driver = Redis(context)
    driver.start()
    driver.steady = driver.settles = False
    log = context.path("benchmark")
    with open(log, "wb") as out:
        benchmark = context.start([need("redis-benchmark"), "-p", driver.address[1], "-c", 30, "-n", 40000, "-t",
                                   "set,get,lpush,lrange_100", "-q"], stdin=None, stdout=out, stderr=out)
    for _ in range(3):
        time.sleep(0.3)
        assert benchmark.alive, "redis-benchmark ended too early"
        directory = driver.checkpoint()
        driver.await_end()
        driver.restore(directory)
    driver.drive()
    status = status_at_end(context, benchmark)
    text = open(log, encoding="utf-8").read()
    assert status == 0 and "rror" not in text, f"redis-benchmark: status {status}, {text[-1000:]}"
