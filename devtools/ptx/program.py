"""PTX text of one kernel → the engine's instructions: every register, constant and parameter gets a number."""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from devtools.ptx.instructions import NUMBER, RULES, TABLE

RECORD = np.dtype(
    [(name, "i4") for name in ("operation", "guard", "negated", "outputs", "inputs", "bytes", "rule", "target")]
    + [("immediate", "i8"), ("out", "i4", 4), ("in", "i4", 6)],
)
SPECIAL_REGISTERS = (
    "%tid.x",
    "%laneid",
    "%warpid",
    *(f"%{n}.{axis}" for n in ("ctaid", "nctaid") for axis in "xyz"),
    "%ntid.x",
)
REDUCTIONS = (
    "add.s32",
    "min.s32",
    "max.s32",
    "min.u32",
    "max.u32",
    "and.b32",
    "or.b32",
    "xor.b32",
    "min.f32",
    "max.f32",
)
VOTE = len(REDUCTIONS)
_MATRIX = re.compile(r"(ldmatrix|stmatrix)\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared\.b16")
_MEMORY = re.compile(r"(ld|st)\.(global|shared)(?:::cta)?(?:\.v[24])?\.[bsuf](8|16|32|64)")
_NUMBER = re.compile(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|-?(?:0x[0-9a-fA-F]+|\d+)U?")


class Unsupported(ValueError):
    """An instruction that the emulator does not know, or knows with other operands."""


@dataclass
class Program:
    """A parsed kernel.

    ``code`` is a `RECORD` per instruction; ``constants`` and ``parameters`` map registers to values and to places among
    the kernel's parameters; ``mnemonics``, ``text`` and ``lines`` (file, line of the source) are of each instruction.
    """

    name: str = ""
    threads: int = 32
    registers: dict[str, int] = field(default_factory=lambda: {name: i for i, name in enumerate(SPECIAL_REGISTERS)})
    constants: dict[int, int] = field(default_factory=dict)
    parameters: dict[int, int] = field(default_factory=dict)
    code: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, RECORD))
    mnemonics: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    lines: list[tuple[str, int]] = field(default_factory=list)

    def where(self, place: int) -> str:
        """Source line and text of an instruction."""
        file, line = self.lines[place]
        return f"{file}:{line}: {self.text[place]}"


def parse(text: str) -> Program:
    """Parses the one kernel of a module. `Unsupported` names what is not known."""
    return _Parser(text).program


def _operands(text: str) -> list[str]:
    """Split at the commas that are not within { } or [ ]."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text)]


def _vector(operand: str) -> list[str]:
    return _operands(operand.strip("{} ")) if operand.startswith("{") else [operand]


class _Parser:
    def __init__(self, text: str) -> None:
        self.program = Program()
        self.files = {number: name.rsplit("/", 1)[-1] for number, name in _files(text)}
        self.labels: dict[str, int] = {}
        self.branches: list[tuple[int, str]] = []  # instruction, label
        self.records: list[dict[str, object]] = []
        self.scopes: list[dict[str, str]] = []  # names of registers that are declared in inline assembly
        self.declared = 0
        self.line = ("?", 0)
        self.inline = False  # in inline assembly, whose lines are not those of the source
        head = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)\n\{(.*?)\n\}", text, re.S)
        if head is None:
            raise Unsupported("the text has no kernel; want one .entry")
        self.program.name, parameters, attributes, body = head.groups()
        self.parameters = {name: place for place, name in enumerate(re.findall(r"\w+_param_\d+", parameters))}
        self.symbols = set(re.findall(r"\.extern\s+\.shared[^;]*?\b(\w+)\[\]", text))
        if found := re.search(r"\.reqntid\s+(\d+)", attributes):
            self.program.threads = int(found[1])
        self._body(body)
        for place, label in self.branches:
            self.records[place]["target"] = self.labels[label]
        self.program.code = np.zeros(len(self.records), RECORD)
        for row, record in zip(self.program.code, self.records, strict=True):
            for key, value in record.items():
                if isinstance(value, list):
                    row[key][: len(value)] = value
                else:
                    row[key] = value

    def _body(self, body: str) -> None:
        statement = ""
        for raw in body.split("\n"):
            self.inline = "begin inline asm" in raw or (self.inline and "end inline asm" not in raw)
            line = raw.split("//")[0].strip()
            if line.startswith(".loc"):
                self._location(line)
            elif label := re.fullmatch(r"([\w$]+):", line):
                self.labels[label[1]] = len(self.records)
            else:
                statement = self._split(f"{statement} {line}")

    def _split(self, text: str) -> str:
        """Handles the statements of a text; returns the one that is not complete."""
        statement = ""
        for c in text:
            if c in "{}" and not statement.strip():  # else it belongs to an operand
                self.scopes = [*self.scopes, {}] if c == "{" else self.scopes[:-1]
            elif c == ";":
                self._statement(statement.strip())
                statement = ""
            else:
                statement += c
        return statement

    def _declare(self, text: str) -> None:
        if self.scopes:
            self.declared += 1
            self.scopes[-1] |= {name: f"{name}@{self.declared}" for name in _operands(text.split(None, 2)[2])}

    def _location(self, text: str) -> None:
        """The innermost line that is not Triton's own."""
        if self.inline:
            return
        chain = [(self.files.get(a, "?"), int(b)) for a, b in re.findall(r"(?:\.loc|inlined_at)\s+(\d+)\s+(\d+)", text)]
        ours = [place for place in chain if place[0] not in ("standard.py", "random.py", "core.py") and place[1]]
        self.line = (ours or chain)[0]

    # ---- operands
    def _register(self, name: str) -> int:
        for scope in reversed(self.scopes):
            name = scope.get(name, name)
        if not re.fullmatch(r"[%=&][\w.-]+|\w+@\d+|_", name):
            raise Unsupported(f"operand {name}")
        return self.program.registers.setdefault(name, len(self.program.registers))

    def _source(self, text: str) -> int:
        """The register of a source; that of a constant holds it from the beginning."""
        if text in self.symbols:
            text = "0"  # shared memory begins there
        if not _NUMBER.fullmatch(text):
            return self._register(text)
        value = int(text[2:], 16) if text[:2] in ("0f", "0F", "0d", "0D") else int(text.rstrip("U"), 0)
        number = self._register(f"={value}")
        self.program.constants[number] = value & (2**64 - 1)
        return number

    def _address(self, text: str) -> tuple[int, int]:
        found = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if found is None:
            raise Unsupported(f"address {text}")
        return self._source(found[1]), int(found[2] or 0)

    # ---- instructions
    def _statement(self, text: str) -> None:
        if text.startswith(".reg"):
            return self._declare(text)
        if not text or text.startswith(".pragma"):
            return None
        text = re.sub(r"\s+", " ", text)
        found = re.fullmatch(r"(?:@(!?)(%?\w+) )?([\w.:]+) ?(.*)", text)
        if found is None:
            raise Unsupported(text)
        negated, guard, mnemonic, rest = found.groups()
        self.guard, self.negated = (-1, 0) if guard is None else (self._register(guard), int(negated == "!"))
        try:
            self._instruction(mnemonic, _operands(rest))
        except (Unsupported, KeyError, IndexError) as error:
            raise Unsupported(f"{self.line[0]}:{self.line[1]}: {text} is not known ({error})") from None
        self.program.text.append(text)
        self.program.mnemonics.append(mnemonic)
        self.program.lines.append(self.line)

    def _emit(self, name: str, out: list[str], sources: list[int], **more: object) -> None:
        rule = RULES.index(TABLE[name].defined) if name in TABLE else 0
        record = {"operation": NUMBER[name], "guard": self.guard, "negated": self.negated, "outputs": len(out)}
        record |= {"inputs": len(sources), "rule": rule, "out": [self._register(o) for o in out], "in": sources}
        self.records.append(record | more)

    def _instruction(self, mnemonic: str, operands: list[str]) -> None:
        if mnemonic.startswith(("min.", "max.")) and len(operands) == 4:
            mnemonic = f"{mnemonic[:3]}3{mnemonic[3:]}"
        if mnemonic.startswith("mov.b") and "{" in "".join(operands):
            self._halves(int(mnemonic[5:]), operands)
        elif mnemonic in TABLE:
            if len(operands) != TABLE[mnemonic].sources + 1:
                raise Unsupported(f"{len(operands)} operands; want {TABLE[mnemonic].sources + 1}")
            self._emit(mnemonic, operands[:1], [self._source(operand) for operand in operands[1:]])
        elif mnemonic in ("bra", "bra.uni"):
            self.branches.append((len(self.records), operands[0]))
            self._emit("bra", [], [])
        elif mnemonic == "ret":
            self._emit("ret", [], [])
        elif mnemonic in ("bar.sync", "barrier.sync"):
            if operands not in (["0"], ["0", str(self.program.threads)]):
                raise Unsupported("want barrier 0 of all threads")
            self._emit("bar.sync", [], [])
        elif mnemonic == "bar.warp.sync":
            self._emit(mnemonic, [], [self._source(operands[0])])
        elif mnemonic.startswith("ld.param."):
            self._parameter(mnemonic[9:], operands)
        elif (found := _MEMORY.fullmatch(mnemonic)) or (found := _MATRIX.fullmatch(mnemonic)):
            self._memory(found, operands)
        else:
            self._of_the_warp(mnemonic.split("."), operands)

    def _of_the_warp(self, parts: list[str], operands: list[str]) -> None:
        sources = [self._source(operand) for operand in operands[1:]]
        if parts[:2] == ["shfl", "sync"] and parts[3:] == ["b32"] and len(sources) == 4 and "|" not in operands[0]:
            self._emit(f"shfl.{parts[2]}", operands[:1], sources)
        elif parts[:2] == ["redux", "sync"] and len(sources) == 2:
            name = ".".join(parts[2:])
            self._emit("redux", operands[:1], sources, target=REDUCTIONS.index({"add.u32": "add.s32"}.get(name, name)))
        elif parts == ["vote", "sync", "ballot", "b32"] and len(sources) == 2:
            self._emit("ballot", operands[:1], sources, target=VOTE)
        else:
            raise Unsupported("mnemonic or operands")

    def _halves(self, bits: int, operands: list[str]) -> None:
        """mov between a register and its parts."""
        to, source = _vector(operands[0]), _vector(operands[1])
        name = "pack" if len(source) > 1 else "unpack"
        self._emit(name, to, [self._source(part) for part in source], bytes=bits // 8 // max(len(to), len(source)))

    def _parameter(self, kind: str, operands: list[str]) -> None:
        name = operands[1].strip("[] ")
        number = self._register(f"&{name}")
        self.program.parameters[number] = self.parameters[name]
        self._emit(
            {"b32": "mov.b32", "u32": "mov.b32", "s32": "mov.b32", "b64": "mov.b64", "b8": "cvt.u16.u8"}[kind],
            operands[:1],
            [number],
        )

    def _memory(self, found: "re.Match[str]", operands: list[str]) -> None:
        matrix = found.re is _MATRIX
        loads = found[1].startswith("ld")
        registers = _vector(operands[not loads])
        wanted = int(found[2]) if matrix else int((re.search(r"\.v([24])", found[0]) or [0, "1"])[1])
        if len(registers) != wanted or len(operands) != 2:
            raise Unsupported(f"{len(registers)} registers; want {wanted}")
        base, offset = self._address(operands[loads])
        name = found[1] if matrix else f"{found[1]}.{found[2]}"
        more = {
            "immediate": offset,
            "bytes": 2 if matrix else int(found[3]) // 8,
            "target": int(matrix and bool(found[3])),
        }
        sources = [base] if loads else [base, *(self._source(r) for r in registers)]
        self._emit(name, registers if loads else [], sources, **more)


def _files(text: str) -> list[tuple[str, str]]:
    """Number and name of each .file, which may have a directory before it."""
    found = re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"(?:\s+"([^"]*)")?', text, re.M)
    return [(number, second or first) for number, first, second in found]
