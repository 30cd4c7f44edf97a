"""Ruby: threads, its timer thread and POSIX timer."""

from programs.counting import Counting
from programs.driving import SOURCES, COLD_WAYS, need, take
from reseat_test import each


class Ruby(Counting):
    def argv(self):
        return [need("ruby"), f"{SOURCES}/counter.rb"]


@each(way=COLD_WAYS)
def test_ruby(context, way):
    take(context, Ruby, way)
