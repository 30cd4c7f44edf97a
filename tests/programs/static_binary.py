"""A statically linked C program: no dynamic linker, its own start-up, threads."""

from programs.counting import Counting, build
from programs.driving import COLD_WAYS, take
from reseat_test import each


class StaticBinary(Counting):
    def argv(self):
        return [build(self.context, "counter-static", "counter.c", "gcc", "-static", "-O1", "-pthread", "SOURCE", "-o", "OUT")]


@each(way=COLD_WAYS)
def test_static_binary(context, way):
    take(context, StaticBinary, way)
