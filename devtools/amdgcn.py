"""What can be checked in AMD machine code (gfx942 assembly) without executing it.

- **LDS**: an access of constant place lies within the kernel's bytes; of other places the constant offset does.
- **Waits**: no path uses a register before an ``s_waitcnt`` for the load that fills it, or passes ``s_barrier`` before
  its stores to LDS are done. Loads of vectors end in order, so do those of LDS; scalar loads in any order.
- **Scratch**: no access of it, and nothing that the reader does not know.

Semantics: AMD, *Instinct MI300 Instruction Set Architecture*, "Manually Inserted Wait States" and "Data Share".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_REGISTERS = re.compile(r"(?<![\w.])([vsa])(\d+)\b|(?<![\w.])([vsa])\[(\d+):(\d+)\]|\bvcc(_lo|_hi)?\b")
_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8, "96": 12, "128": 16}
_LANES = ("ds_bpermute_b32", "ds_permute_b32", "ds_swizzle_b32")  # through the LDS unit, not its memory
_VECTOR, _LDS, _SCALAR = "vector memory", "LDS", "scalar memory"
_COUNTER = {_VECTOR: "vmcnt", _LDS: "lgkmcnt", _SCALAR: "lgkmcnt"}
_STORED = "stores to LDS"
_MOST = 64  # operations that a counter can tell apart


@dataclass(frozen=True)
class Instruction:
    """One of a kernel: the line of its text, and its operands."""

    line: int
    name: str
    operands: tuple[str, ...]
    rest: str  # all of them as text, with the modifiers

    @property
    def unit(self) -> str:
        """The memory whose counter it raises; "": none."""
        if self.name.startswith(("global_", "buffer_")):
            return _VECTOR
        if self.name.startswith(("s_load_", "s_buffer_load_")):
            return _SCALAR
        return _LDS if self.name.startswith("ds_") else ""

    @property
    def loads(self) -> bool:
        """Whether its first operand is filled later."""
        return bool(self.unit) and not re.search(r"_(store|write)", self.name)

    @property
    def to(self) -> frozenset[str]:
        """Registers of the first operand."""
        return frozenset(_registers(self.operands[0])) if self.operands else frozenset()

    @property
    def used(self) -> frozenset[str]:
        """All registers."""
        return frozenset(_registers(self.rest)) | ({"vcc"} if "_vcc" in self.name else set())


def _registers(text: str) -> Iterator[str]:
    for one, number, several, first, last, _ in _REGISTERS.findall(text):
        if not one and not several:
            yield "vcc"
        for n in range(int(number or first or 0), int(number or last or -1) + 1):
            yield f"{one or several}{n}"


Pending = dict[tuple[str, str], int]  # register (or `_STORED`) and memory → operations of this memory since


@dataclass
class _Kernel:
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def next_of(self, place: int) -> list[int]:
        """The instructions that may follow one."""
        name, target = self.code[place].name, self.code[place].rest.strip()
        if name == "s_endpgm":
            return []
        if name == "s_branch":
            return [self.labels[target]]
        return [place + 1, self.labels[target]] if name.startswith("s_cbranch") else [place + 1]


def _read(text: str) -> _Kernel:
    kernel, inside = _Kernel(), False
    for number, raw in enumerate(text.split("\n"), 1):
        line = re.split(r";|//", raw)[0].strip()
        if label := re.fullmatch(r"([\w$.]+):", line):
            inside = inside or not label[1].startswith(".")
            kernel.labels[label[1]] = len(kernel.code)
            if label[1].startswith(".Lfunc_end"):
                break
        elif inside and re.match(r"[a-z]", line):
            name, _, rest = line.partition(" ")
            kernel.code.append(Instruction(number, name, tuple(part.strip() for part in rest.split(",")), rest))
    return kernel


def findings(text: str, lds_bytes: int) -> list[str]:
    """What is wrong in the assembly of one kernel that is given so many bytes of LDS."""
    kernel = _read(text)
    found = {} if kernel.code else {0: "no instruction is there"}
    for instruction in kernel.code:
        if problem := _unknown(instruction):
            found[instruction.line] = problem
    if not found:
        found = _outside(kernel, lds_bytes) | _unwaited(kernel)
    return [f"line {line}: {problem}" for line, problem in sorted(found.items())]


def _unknown(instruction: Instruction) -> str:
    name = instruction.name
    if name.startswith("scratch_"):
        return f"{name} uses scratch"
    known_wait = name != "s_waitcnt" or re.fullmatch(r"((vmcnt|lgkmcnt|expcnt)\(\d+\)[ &]*)+", instruction.rest)
    if name.startswith(("flat_", "s_setpc", "s_swappc", "s_call")) or "atomic" in name or not known_wait:
        return f"{name} {instruction.rest} is not known to this check"
    return ""


# ---- bounds of LDS ---------------------------------------------------------------------------------------------------
def _outside(kernel: _Kernel, lds_bytes: int) -> dict[int, str]:
    """Accesses beyond the bytes, by line. Constants are followed within straight code."""
    found, constants, starts = {}, dict[str, int](), set(kernel.labels.values())
    for place, instruction in enumerate(kernel.code):
        if place in starts:
            constants = {}
        if instruction.unit == _LDS and instruction.name not in _LANES:
            address = instruction.operands[1 if instruction.loads else 0].split(" ")[0]
            end = constants.get(address, 0) + _end(instruction)
            if end > lds_bytes or end < 0:
                found[instruction.line] = f"{instruction.name} reaches byte {end} of {lds_bytes} of LDS"
        constants = {name: value for name, value in constants.items() if name not in instruction.to}
        if instruction.name.startswith("v_mov_b32") and re.fullmatch(r"-?(0x)?[0-9a-f]+", instruction.operands[1]):
            constants[instruction.operands[0]] = int(instruction.operands[1], 0)
    return found


def _end(instruction: Instruction) -> int:
    """Bytes from the address of a DS instruction to the end of its access."""
    size = _BYTES[re.findall(r"_[buif](\d+)", instruction.name)[-1]]
    offsets = [int(value, 0) for value in re.findall(r"\boffset[01]?:(\w+)", instruction.rest)] or [0]
    if re.search(r"(read|write)2", instruction.name):
        offsets = [value * size * (64 if "st64" in instruction.name else 1) for value in offsets]
    return max(offsets) + size


# ---- waits -----------------------------------------------------------------------------------------------------------
def _unwaited(kernel: _Kernel) -> dict[int, str]:
    """Uses of registers that may not be there yet, by line, on any path."""
    found: dict[int, str] = {}
    before: dict[int, Pending] = {0: {}}
    todo = [0]
    while todo:
        place = todo.pop()
        instruction, pending = kernel.code[place], dict(before[place])
        if problem := _step(instruction, pending):
            found[instruction.line] = problem
        for after in kernel.next_of(place):
            known = before.get(after)
            merged = pending if known is None else _merge(known, pending)
            if merged != known:
                before[after] = merged
                todo.append(after)
    return found


def _merge(one: Pending, other: Pending) -> Pending:
    return {key: min(one.get(key, _MOST), other.get(key, _MOST)) for key in one.keys() | other.keys()}


def _step(instruction: Instruction, pending: Pending) -> str:
    """Changes what is pending by an instruction; returns what is wrong with it."""
    if instruction.name == "s_waitcnt":
        for counter, left in re.findall(r"(\w+)\((\d+)\)", instruction.rest):
            done = [key for key, age in pending.items() if _done(key[1], counter, age, int(left))]
            for key in done:
                del pending[key]
        return ""
    problem, unit, loaded = "", instruction.unit, instruction.to if instruction.loads else frozenset()
    if instruction.name == "s_barrier" and (_STORED, _LDS) in pending:
        problem = "s_barrier does not wait for the stores to LDS before it"
        del pending[_STORED, _LDS]
    sources = frozenset(_registers(",".join(instruction.operands[1:]))) if loaded else instruction.used
    for register, memory in list(pending):
        again = register in loaded and memory == unit != _SCALAR  # in order: the later load wins
        if register in sources or (register in loaded and not again):
            problem = problem or f"{instruction.name} uses {register} without a wait for its load from {memory}"
            del pending[register, memory]
    if unit:
        for key in pending:
            if key[1] == unit:
                pending[key] = min(pending[key] + 1, _MOST)
        waits_for = loaded or ({_STORED} if unit == _LDS else frozenset())
        pending |= {(name, unit): 0 for name in waits_for}
    return problem


def _done(memory: str, counter: str, age: int, left: int) -> bool:
    """Whether an operation is done if so many of its counter are left; those of a memory end in order, but scalar."""
    return _COUNTER[memory] == counter and (left == 0 if memory == _SCALAR else left <= age)
