"""A Rust program: threads, channels, blocking TcpListener."""

from programs.counting import Counting, build
from programs.driving import COLD_WAYS, take
from reseat_test import each, timeout


class RustBinary(Counting):
    def argv(self):
        return [build(self.context, "counter-rust", "counter.rs", "rustc", "-O", "SOURCE", "-o", "OUT")]


@timeout(60)
@each(way=COLD_WAYS)
def test_rust_binary(context, way):
    take(context, RustBinary, way)
