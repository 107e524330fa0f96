"""python rank.py LIBRARY POLICY_DIR REQUESTS PAGES: the C ABI through ctypes, without the package, numpy or torch.

Ranks every request of a file and writes the pages, both in the format of examples/request_file.py.
"""

import ctypes
import struct
import sys
from ctypes import POINTER, c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path


class Options(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("seed", c_uint32), ("error", c_char_p)]
    _fields_ += [("error_size", c_size_t)]


class Request(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("context", POINTER(c_float)), ("features", c_size_t)]
    _fields_ += [("predictions", POINTER(c_float)), ("candidates", c_size_t), ("tasks", c_size_t)]
    _fields_ += [("mask", POINTER(c_uint8)), ("boost_mul", POINTER(c_float)), ("boost_add", POINTER(c_float))]
    _fields_ += [("groups", POINTER(c_int32)), ("caps", POINTER(c_int32)), ("group_columns", c_size_t)]
    _fields_ += [("scenario", c_char_p), ("scenario_size", c_size_t), ("draw", c_uint64)]
    _fields_ += [("flags", c_uint32), ("reserved", c_uint32)]
    _fields_ += [("values", POINTER(c_float)), ("item_values", POINTER(c_float))]
    _fields_ += [("error", c_char_p), ("error_size", c_size_t)]
    _fields_ += [("items", POINTER(c_float)), ("item_columns", c_size_t)]
    _fields_ += [("categories", POINTER(c_char_p)), ("embeddings", POINTER(c_float)), ("embedding_size", c_size_t)]
    _fields_ += [("item_ids", POINTER(c_int64)), ("cap_slots", POINTER(c_int32)), ("decay", POINTER(c_float))]
    _fields_ += [("production_scores", POINTER(c_float)), ("pins", POINTER(c_int32)), ("demoted", POINTER(c_uint8))]


class Page(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("k", c_size_t), ("values", POINTER(c_float)), ("indices", POINTER(c_int32))]
    _fields_ += [("weights", POINTER(c_float)), ("concentration", POINTER(c_float))]
    _fields_ += [("filled", c_int32), ("missing_predictions", c_int32), ("fallback", c_int32), ("explored", c_int32)]
    _fields_ += [("seed", c_uint64), ("policy_version", c_char * 16)]
    _fields_ += [("mixture_weight", c_float), ("verdict", c_int32), ("baseline", c_char * 64)]
    _fields_ += [("searched", c_int32), ("shuffled", c_int32), ("effects", c_void_p)]
    _fields_ += [("missing_items", c_int32), ("reserved", c_int32)]


class Ranker:
    """A policy directory, ready to rank. Any number of threads may use one: ctypes lets go of the GIL in a call."""

    def __init__(self, library: str, directory: str) -> None:
        self.core = ctypes.CDLL(library)
        self.core.pygrade_ranker_load.argtypes = [c_char_p, POINTER(Options), POINTER(c_void_p)]
        self.core.pygrade_ranker_rank.argtypes = [c_void_p, POINTER(Request), POINTER(Page)]
        self.core.pygrade_ranker_free.argtypes = [c_void_p]
        self.core.pygrade_version.restype = c_char_p
        self.core.pygrade_stable_id.argtypes, self.core.pygrade_stable_id.restype = [c_char_p, c_size_t], c_int64
        self.handle, error = c_void_p(), ctypes.create_string_buffer(256)
        options = Options(ctypes.sizeof(Options), 0, 0, ctypes.cast(error, c_char_p), len(error))
        if self.core.pygrade_ranker_load(directory.encode(), options, ctypes.byref(self.handle)) != 0:
            raise ValueError(error.value.decode())

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.core.pygrade_ranker_free(self.handle)

    def rank(self, request: Request, k: int) -> Page:
        tasks, error = request.tasks, ctypes.create_string_buffer(256)
        request.size, request.error, request.error_size = ctypes.sizeof(request), ctypes.cast(error, c_char_p), 256
        page = Page(ctypes.sizeof(Page), k, (c_float * k)(), (c_int32 * k)(), (c_float * tasks)(), (c_float * tasks)())
        if self.core.pygrade_ranker_rank(self.handle, request, page) != 0:
            raise ValueError(error.value.decode())
        return page


class Reader:
    """Reads the file of requests; its arrays are used where they lie."""

    def __init__(self, content: bytearray) -> None:
        self.content, self.at = content, 8

    def array(self, kind: type, count: int):
        taken = (kind * count).from_buffer(self.content, self.at)
        self.at += -(-ctypes.sizeof(taken) // 4) * 4
        return taken

    def request(self, features: int, tasks: int, ranker: Ranker) -> tuple[Request, int]:
        n, k, parts, columns, scenario_size, seed, offset = self.array(c_uint32, 7)
        request = Request(features=features, tasks=tasks, candidates=n, group_columns=columns)
        if parts & 64:
            request.flags, request.draw = 3, seed << 32 | offset  # explore, by that draw
        names = ["context", "predictions", "mask", "boost_mul", "boost_add", "groups", "caps", "values", "item_values"]
        sizes = [features, n * tasks, n, n, n, n * columns, columns, tasks, n]
        kinds = [c_float, c_float, c_uint8, c_float, c_float, c_int32, c_int32, c_float, c_float]
        bits = [1, 0, 2, 4, 8, 16, 16, 128, 256]
        for name, size, kind, bit in zip(names, sizes, kinds, bits, strict=True):
            if parts & bit or bit == 0:
                setattr(request, name, self.array(kind, size))
        if parts & 512:
            names = bytes(self.array(c_char, 8 * n))
            request.item_ids = (c_int64 * n)(*(ranker.core.pygrade_stable_id(names[8 * i :], 8) for i in range(n)))
        if parts & 32:
            request.scenario = bytes(self.array(c_char, scenario_size))
            request.scenario_size = scenario_size
        return request, k


def main(library: str, directory: str, requests: str, pages: str) -> None:
    ranker, reader = Ranker(library, directory), Reader(bytearray(Path(requests).read_bytes()))
    count, features, tasks = reader.array(c_uint32, 3)
    with open(pages, "wb") as file:
        file.write(b"PGPAG001" + struct.pack("<2I", count, tasks))
        for _ in range(count):
            request, k = reader.request(features, tasks, ranker)
            page = ranker.rank(request, k)
            draw = page.seed >> 32, page.seed & 0xFFFFFFFF
            head = k, page.filled, page.fallback != 0, page.explored, *draw, page.missing_items
            file.write(struct.pack("<7If12s", *head, page.mixture_weight, page.policy_version))
            arrays = [(page.values, k), (page.indices, k), (page.weights, tasks), (page.concentration, tasks)]
            for values, size in arrays:
                file.write(ctypes.string_at(values, 4 * size))
    print(f"ctypes: {count} pages by pygrade {ranker.core.pygrade_version().decode()}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
