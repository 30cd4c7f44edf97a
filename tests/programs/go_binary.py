"""A Go program: goroutines, its own scheduler with preemption by signals, timers, epoll, HTTP kept alive."""

from programs.counting import Counting, HttpLine, build
from programs.driving import COLD_WAYS, take
from reseat_test import each, timeout


class GoBinary(Counting):
    line = HttpLine
    steady = False

    def argv(self):
        return [build(self.context, "counter-go", "counter.go", "go", "build", "-o", "OUT", "SOURCE")]


@timeout(90)
@each(way=COLD_WAYS)
def test_go_binary(context, way):
    take(context, GoBinary, way)
