"""Perl with an interval timer's signals into every system call."""

from programs.counting import Counting
from programs.driving import SOURCES, COLD_WAYS, need, take
from reseat_test import each


class Perl(Counting):
    def argv(self):
        return [need("perl"), f"{SOURCES}/counter.pl"]


@each(way=COLD_WAYS)
def test_perl(context, way):
    take(context, Perl, way)
