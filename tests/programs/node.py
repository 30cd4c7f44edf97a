"""Node.js: V8 with its heap that fork does not inherit, libuv, a worker thread, HTTP kept alive."""

from programs.counting import Counting, HttpLine
from programs.driving import SOURCES, COLD_WAYS, need, take
from reseat_test import each


class Node(Counting):
    line = HttpLine

    def argv(self):
        return [need("node"), f"{SOURCES}/counter.js"]


@each(way=COLD_WAYS)
def test_node(context, way):
    take(context, Node, way)
