"""PHP's command line with stream_select()."""

from programs.counting import Counting
from programs.driving import SOURCES, COLD_WAYS, need, take
from reseat_test import each


class Php(Counting):
    def argv(self):
        return [need("php"), f"{SOURCES}/counter.php"]


@each(way=COLD_WAYS)
def test_php(context, way):
    take(context, Php, way)
