"""A C program on musl: another libc, other thread structures, no rseq."""

from programs.counting import Counting, build
from programs.driving import COLD_WAYS, take
from reseat_test import each


class MuslBinary(Counting):
    def argv(self):
        return [build(self.context, "counter-musl", "counter.c", "musl-gcc", "-static", "-O1", "-pthread", "SOURCE", "-o", "OUT")]


@each(way=COLD_WAYS)
def test_musl_binary(context, way):
    take(context, MuslBinary, way)
