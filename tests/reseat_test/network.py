"""Network namespaces for tests: each is held by a process that sleeps in it."""

import os


class Namespace:
    """A network namespace, held by a process that sleeps in it."""

    def __init__(self, context, name):
        self.context, self.name = context, name
        self.holder = context.start(["unshare", "--net", "sleep", "1000"])
        context.until(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"),
                      "the network namespace")
        self.run("ip", "link", "set", "lo", "up")

    def enter(self, *arguments):
        return ["nsenter", "-t", str(self.holder.pid), "-n", *map(str, arguments)]

    def run(self, *arguments, **how):
        return self.context.run(self.enter(*arguments), **how)


def lay_cable(context):
    """Two namespaces with a cable between them: `here` has 10.77.0.1, `there` 10.77.0.2."""
    context.need_root()
    context.need("python3", "ip", "unshare", "nsenter")
    here, there = Namespace(context, "here"), Namespace(context, "there")
    context.run(["ip", "link", "add", "reseat-here", "netns", str(here.holder.pid), "type", "veth",
                 "peer", "name", "reseat-there", "netns", str(there.holder.pid)])
    here.run("ip", "addr", "add", "10.77.0.1/24", "dev", "reseat-here")
    there.run("ip", "addr", "add", "10.77.0.2/24", "dev", "reseat-there")
    here.run("ip", "link", "set", "reseat-here", "up")
    there.run("ip", "link", "set", "reseat-there", "up")
    return here, there
