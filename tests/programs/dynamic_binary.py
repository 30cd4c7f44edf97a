"""A position-independent, dynamically linked C program with threads."""

from programs.counting import Counting, build
from programs.driving import COLD_WAYS, take
from reseat_test import each


class DynamicBinary(Counting):
    def argv(self):
        return [build(self.context, "counter-dynamic", "counter.c", "gcc", "-O1", "-pthread", "SOURCE", "-o", "OUT")]


@each(way=COLD_WAYS)
def test_dynamic_binary(context, way):
    take(context, DynamicBinary, way)
