"""PTX text of one kernel → the engine's instructions: every register, constant and parameter gets a number."""

import re
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from devtools.ptx.instructions import OPERATIONS, TABLE

RECORD = np.dtype(
    [(name, "i4") for name in ("operation", "guard", "negated", "outputs", "inputs", "bytes", "target")]
    + [("immediate", "i8"), ("out", "i4", 4), ("in", "i4", 6)],
    align=True,
)
SPECIAL_REGISTERS = (
    "%tid.x", "%laneid", "%warpid", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%ntid.x"
)  # fmt: skip
_TOKEN = re.compile(r"//[^\n]*|\.loc[^\n]*|[\w$]+:|[{}]|[^\s{};][^;]*;")  # braces within a statement belong to operands
_OPERAND = re.compile(r"\{[^}]*\}|\[[^]]*\]|[^,\s]+")
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]")
_REGISTER = re.compile(r"[%=&][\w.-]+|\w+@\d+|_")
_NUMBER = re.compile(r"0[fFdD]([0-9a-fA-F]{8}|[0-9a-fA-F]{16})|(-?(?:0x[0-9a-fA-F]+|\d+))U?")  # a float by its bits
_OF_TRITON = ("standard.py", "random.py", "core.py")


class Unsupported(ValueError):
    """An instruction that the emulator does not know, or knows with other operands."""


@dataclass
class Program:
    """A parsed kernel.

    ``code`` is a `RECORD` per instruction; ``constants`` and ``parameters`` map registers to values and to places among
    the kernel's parameters; ``where`` has the source line and the text of each instruction.
    """

    name: str = ""
    threads: int = 32
    registers: dict[str, int] = field(default_factory=lambda: {name: i for i, name in enumerate(SPECIAL_REGISTERS)})
    constants: dict[int, int] = field(default_factory=dict)
    parameters: dict[int, int] = field(default_factory=dict)
    code: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, RECORD))
    where: list[str] = field(default_factory=list)


@cache
def parse(text: str) -> Program:
    """Parses the one kernel of a module. `Unsupported` names what is not known."""
    head = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)\n\{(.*?)\n\}", text, re.S)
    if head is None:
        raise Unsupported("the text has no kernel; expected one .entry")
    name, parameters, attributes, body = head.groups()
    threads = re.search(r"\.reqntid\s+(\d+)", attributes)
    files = re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"(?:\s+"([^"]*)")?', text, re.M)  # number, folder if any, name
    return _Parser(
        Program(name, int(threads[1]) if threads else 32),
        {name: place for place, name in enumerate(re.findall(r"\w+_param_\d+", parameters))},
        set(re.findall(r"\.extern\s+\.shared[^;]*?\b(\w+)\[\]", text)),
        {number: (second or first).rsplit("/", 1)[-1] for number, first, second in files},
    ).parse(body)


@dataclass
class _Parser:
    program: Program
    parameters: dict[str, int]  # places by name
    symbols: set[str]  # where shared memory begins
    files: dict[str, str]  # names by number
    labels: dict[str, int] = field(default_factory=dict)
    branches: list[tuple[int, str]] = field(default_factory=list)  # instruction, label
    records: list[tuple[object, ...]] = field(default_factory=list)
    scopes: list[dict[str, str]] = field(default_factory=list)  # names of registers declared in braces
    declared: int = 0
    line: str = "?"  # of the source
    inline: bool = False  # in inline assembly, whose lines are not those of the source

    def parse(self, body: str) -> Program:
        for token in _TOKEN.findall(body):
            if token.startswith("//"):
                self.inline = "begin inline asm" in token or (self.inline and "end inline asm" not in token)
            elif token.startswith(".loc") and not self.inline:
                self._location(token)
            elif token.endswith(":"):
                self.labels[token[:-1]] = len(self.records)
            elif token in "{}":
                self.scopes = [*self.scopes, {}] if token == "{" else self.scopes[:-1]
            elif token.startswith(".reg"):
                if self.scopes:
                    self.declared += 1
                    names = _OPERAND.findall(token[:-1].split(None, 2)[2])
                    self.scopes[-1] |= {name: f"{name}@{self.declared}" for name in names}
            elif not token.startswith((".loc", ".pragma")):
                text = " ".join(token[:-1].split())
                try:
                    self._instruction(text)
                except (Unsupported, KeyError) as error:
                    raise Unsupported(f"{self.line}: {text} is not known ({error})") from None
        self.program.code = np.array(self.records, RECORD)
        for place, label in self.branches:
            self.program.code[place]["target"] = self.labels[label]
        return self.program

    def _location(self, text: str) -> None:
        """The innermost line that is not Triton's own."""
        chain = [(self.files.get(a, "?"), int(b)) for a, b in re.findall(r"(?:\.loc|inlined_at)\s+(\d+)\s+(\d+)", text)]
        ours = [place for place in chain if place[0] not in _OF_TRITON and place[1]]
        self.line = "{}:{}".format(*(ours or chain)[0])

    def _instruction(self, text: str) -> None:
        found = re.fullmatch(r"(?:@(!?)(%?\w+) )?([\w.:]+) ?(.*)", text)
        if found is None:
            raise Unsupported("not an instruction")
        negated, guard, mnemonic, rest = found.groups()
        groups = [self._operand(operand) for operand in _OPERAND.findall(rest)]
        entry = TABLE[" ".join([mnemonic, *("[]" if brackets else str(len(names)) for names, _, brackets in groups)])]
        operands = [name for names, _, _ in groups for name in names]
        if entry.operation == "branch":
            self.branches.append((len(self.records), operands.pop()))
        if entry.operation == "wait":
            if operands not in (["0"], ["0", str(self.program.threads)]):
                raise Unsupported("expected barrier 0 of all threads")
            operands = []
        out = [self._register(name) for name in operands[: entry.outputs]]
        sources = [self._source(name) for name in operands[entry.outputs :]]
        operation, guarded = OPERATIONS.index(entry.operation), -1 if guard is None else self._register(guard)
        self.records.append(
            (
                operation, guarded, negated == "!", len(out), len(sources), entry.bytes, entry.target,
                sum(offset for _, offset, _ in groups),
                tuple((*out, 0, 0, 0, 0)[:4]), tuple((*sources, 0, 0, 0, 0, 0, 0)[:6]),
            )
        )  # fmt: skip
        self.program.where.append(f"{self.line}: {text}")

    def _operand(self, text: str) -> tuple[list[str], int, bool]:
        """The registers of an operand; if it is an address, its offset, and True."""
        if found := _ADDRESS.fullmatch(text):
            return [found[1]], int(found[2] or 0), True
        return _OPERAND.findall(text[1:-1]) if text.startswith("{") else [text], 0, False

    def _register(self, name: str) -> int:
        for scope in reversed(self.scopes):
            name = scope.get(name, name)
        if not _REGISTER.fullmatch(name):
            raise Unsupported(f"operand {name}")
        return self.program.registers.setdefault(name, len(self.program.registers))

    def _source(self, text: str) -> int:
        """The register of a source; that of a constant or parameter holds it from the beginning."""
        if text in self.parameters:
            number = self._register(f"&{text}")
            self.program.parameters[number] = self.parameters[text]
            return number
        if text in self.symbols:
            text = "0"  # shared memory begins there
        if not (found := _NUMBER.fullmatch(text)):
            return self._register(text)
        value = int(found[1], 16) if found[1] else int(found[2], 0)
        number = self._register(f"={value}")
        self.program.constants[number] = value & (2**64 - 1)
        return number
