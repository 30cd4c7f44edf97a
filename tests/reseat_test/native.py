"""The native PD interface of libreseat, as far as the tests need it, by ctypes."""

import ctypes
import errno
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path

from .context import Skip

CLOEXEC, READ, WRITE, REPLACE = 1, 2, 4, 1 << 8
END = 2**32 - 1


class Slot(ctypes.Structure):
    _fields_ = [("selector", c_uint), ("cap", c_int), ("flags", c_uint)]


class PdError(Exception):
    """A function of the library failed: `code` is the errno's name."""

    def __init__(self, code, sentence):
        super().__init__(f"{code}: {sentence}")
        self.code, self.sentence = code, sentence


class Pd:
    """A struct reseat_pd."""

    def __init__(self, context, pid):
        library = context.build / "libreseat.so"
        if context.has_sanitizer:
            raise Skip("a library with AddressSanitizer wants to be loaded first, which in Python it is not")
        self.library = ctypes.CDLL(str(library))
        self.library.reseat_error_message.restype = c_char_p
        self.handle = c_void_p()
        self.call("reseat_pd_open", c_int(pid), byref(self.handle))

    def call(self, name, *arguments):
        error = c_void_p()
        r = getattr(self.library, name)(*arguments, byref(error))
        if r < 0:
            sentence = self.library.reseat_error_message(error).decode() if error else "(no sentence)"
            self.library.reseat_error_free(error)
            raise PdError(errno.errorcode[-r], sentence)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.library.reseat_pd_free(self.handle)

    def install(self, cap, selector, flags=0):
        self.call("reseat_pd_install", self.handle, c_int(cap), c_uint(selector), c_uint(flags))

    def install_many(self, slots):
        """(selector, cap, flags) of each."""
        array = (Slot * len(slots))(*slots)
        self.call("reseat_pd_install_many", self.handle, array, c_size_t(len(slots)))

    def close(self, *selectors):
        array = (c_uint * len(selectors))(*selectors)
        self.call("reseat_pd_close_many", self.handle, array, c_size_t(len(selectors)))

    def request(self, selector):
        """(our descriptor or -1, the selector to ask for next)."""
        cap, following = c_int(), c_uint()
        self.call("reseat_pd_request", self.handle, c_uint(selector), byref(cap), byref(following))
        return cap.value, following.value

    def request_many(self, first, capacity):
        """([(selector, our descriptor, flags)], the selector to ask for next)."""
        array, count, following = (Slot * capacity)(), c_size_t(), c_uint()
        self.call("reseat_pd_request_many", self.handle, c_uint(first), array, c_size_t(capacity), byref(count),
                  byref(following))
        return [(slot.selector, slot.cap, slot.flags) for slot in array[:count.value]], following.value

    def list(self, first, capacity):
        """([selectors], the selector to ask for next)."""
        array, count, following = (c_uint * capacity)(), c_size_t(), c_uint()
        self.call("reseat_pd_list", self.handle, c_uint(first), array, c_size_t(capacity), byref(count),
                  byref(following))
        return array[:count.value], following.value


def table_of(pid):
    """What is in the table of a process: {selector: (link, close-on-exec)}."""
    table = {}
    for selector in map(int, os.listdir(f"/proc/{pid}/fd")):
        info = Path(f"/proc/{pid}/fdinfo/{selector}").read_text()
        flags = next(int(line.split()[1], 8) for line in info.splitlines() if line.startswith("flags:"))
        table[selector] = (os.readlink(f"/proc/{pid}/fd/{selector}"), bool(flags & os.O_CLOEXEC))
    return table
