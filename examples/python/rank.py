"""python rank.py LIBRARY POLICY_DIR: the C ABI through ctypes, without the package, numpy or torch.

Ranks 40 made-up candidates and prints the page: a candidate and the bits of its score a line.
"""

import ctypes
import struct
import sys
from ctypes import POINTER, c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p


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
    _fields_ += [("shifts", POINTER(c_float)), ("item_ids", POINTER(c_int64))]


class Page(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("k", c_size_t), ("values", POINTER(c_float)), ("indices", POINTER(c_int32))]
    _fields_ += [("weights", POINTER(c_float)), ("concentration", POINTER(c_float))]
    _fields_ += [("filled", c_int32), ("missing_predictions", c_int32), ("fallback", c_int32), ("explored", c_int32)]
    _fields_ += [("seed", c_uint64), ("policy_version", c_char * 16)]
    _fields_ += [("trust", c_float), ("verdict", c_int32), ("baseline", c_char * 64)]
    _fields_ += [("searched", c_int32), ("reserved", c_int32)]


class Ranker:
    """A policy directory, ready to rank. Any number of threads may use one: ctypes lets go of the GIL in a call."""

    def __init__(self, library: str, directory: str) -> None:
        self.core = ctypes.CDLL(library)
        self.core.pygrade_ranker_load.argtypes = [c_char_p, POINTER(Options), POINTER(c_void_p)]
        self.core.pygrade_ranker_rank.argtypes = [c_void_p, POINTER(Request), POINTER(Page)]
        self.core.pygrade_ranker_free.argtypes = [c_void_p]
        self.num_features, self.num_tasks = self.core.pygrade_ranker_num_features, self.core.pygrade_ranker_num_tasks
        for count in (self.num_features, self.num_tasks):
            count.argtypes, count.restype = [c_void_p], c_size_t
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


def main(library: str, directory: str) -> None:
    ranker = Ranker(library, directory)
    features, tasks = (int(count(ranker.handle)) for count in (ranker.num_features, ranker.num_tasks))
    request = Request(features=features, candidates=40, tasks=tasks)
    request.context = (c_float * features)(*[0.5] * features)
    request.item_values = (c_float * 40)(*(1 + i % 8 for i in range(40)))
    request.predictions = (c_float * (40 * tasks))(*((1 + i * 7 % 50) / 64 for i in range(40 * tasks)))
    page = ranker.rank(request, 10)
    for i in range(10):
        print(f"{page.indices[i]} {struct.unpack('<I', struct.pack('<f', page.values[i]))[0]:08x}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
