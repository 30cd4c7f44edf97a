"""Images that are changed by tests, with right checksums (docs/image.md)."""

import ctypes
import ctypes.util
import struct

SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
VMA = struct.Struct("<QQQIIII")  # start, end, offset, protection, flags, kind, object; the rest is not needed
EXTENT = struct.Struct("<QQQQQ")  # address, length, file offset, stored length, checksum
VMA_VDSO = 6


class Image:
    """The file of a checkpoint, changed in place with right checksums (docs/image.md)."""

    def __init__(self, path):
        self.path = path
        self.data = bytearray(open(path, "rb").read())
        self.hash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
        self.hash.XXH3_64bits_withSeed.restype = ctypes.c_uint64
        at, = struct.unpack_from("<Q", self.data, 40)
        count, names = struct.unpack_from("<HH", self.data, 60)
        self.headers = (at, count * SECTION.size)
        rows = [SECTION.unpack_from(self.data, at + i * SECTION.size) for i in range(count)]
        self.sections = {self.text(rows[names][4] + row[0]): (i, row) for i, row in enumerate(rows)}

    def text(self, at):
        return self.data[at:self.data.index(0, at)].decode()

    def checksum(self, at, length, seed=0):
        data = bytes(self.data[at:at + length])
        return self.hash.XXH3_64bits_withSeed(data, ctypes.c_size_t(length), ctypes.c_uint64(seed))

    def rows(self, name):
        """Where the rows of a table are, one after the other."""
        _, row = self.sections[name]
        return range(row[4], row[4] + row[5], row[9])

    def vdso(self):
        """Address, and where it is in the file; it is one extent."""
        for at in self.rows(".reseat.vma"):
            start, end, _, _, _, kind, _ = VMA.unpack_from(self.data, at)
            if kind == VMA_VDSO:
                for extent in self.rows(".reseat.extent"):
                    address, length, offset, stored, _ = EXTENT.unpack_from(self.data, extent)
                    if address == start and length == end - start == stored:
                        return start, extent, offset, length
        raise AssertionError("no vDSO in the image")

    def seal(self, extent, offset, length):
        """Checksums for an extent that was changed."""
        struct.pack_into("<Q", self.data, extent + 32, self.checksum(offset, length))
        self.seal_section(".reseat.extent")

    def seal_section(self, name):
        _, sums = self.sections[".reseat.checksums"]
        index, row = self.sections[name]
        struct.pack_into("<Q", self.data, sums[4] + 8 * index, self.checksum(row[4], row[5]))
        own = sums[4] + 8 * self.sections[".reseat.checksums"][0]
        struct.pack_into("<Q", self.data, own, 0)
        struct.pack_into("<Q", self.data, own, self.checksum(sums[4], sums[5]))

    def remove_rows(self, name):
        """The section is still there, but its name is none that anybody knows."""
        index, row = self.sections[name]
        _, names = self.sections[".shstrtab"]
        at = names[4] + row[0]
        self.data[at:at + 4] = b".old"
        self.seal_section(".shstrtab")

    def write(self):
        open(self.path, "wb").write(self.data)
