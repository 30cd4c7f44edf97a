"""A Java virtual machine: some 20 threads, a compiler at work, safepoints by page protection, HTTP kept alive."""

from programs.counting import Counting, HttpLine, build
from programs.driving import COLD_WAYS, need, take
from reseat_test import each, timeout


class Java(Counting):
    line = HttpLine
    steady = False

    def argv(self):
        # The compiler is a module of every runtime; the command `javac` comes in another, large package.
        compiler = "java", "-m", "jdk.compiler/com.sun.tools.javac.Main", "-d", "OUT", "SOURCE"
        return [need("java"), "-Xmx128m", "-cp", build(self.context, "classes", "Counter.java", *compiler), "Counter"]


@timeout(60)
@each(way=COLD_WAYS)
def test_java(context, way):
    take(context, Java, way)
