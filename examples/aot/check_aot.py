"""Check the output of `pygrade aot` against its manifest: python check_aot.py DIR

Checks the size and SHA-256 of every file, that it is a binary for its kind of GPU and contains the kernel, and that the
arguments do not overlap. Exit code 1: problems, which are printed. Needs only Python.
"""

import hashlib
import json
import struct
import sys
from pathlib import Path

MACHINES = {"cubin": 190, "hsaco": 224}  # e_machine of ELF: CUDA, AMD GPU


def symbols(elf: bytes) -> set[str]:
    """The names in the symbol tables of a 64-bit little-endian ELF file."""
    start, size, number = (
        struct.unpack_from("<Q", elf, 40)[0],
        struct.unpack_from("<H", elf, 58)[0],
        struct.unpack_from("<H", elf, 60)[0],
    )
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, start + i * size) for i in range(number)]
    names = set()
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind in (2, 11):  # SYMTAB, DYNSYM
            text = sections[link][4]
            for at in range(offset, offset + length, entry):
                place = text + struct.unpack_from("<I", elf, at)[0]
                names.add(elf[place : elf.index(b"\0", place)].decode())
    return names


def problems(directory: Path) -> list[str]:
    """Problems with the directory, in words."""
    manifest = json.loads((directory / "manifest.json").read_text())
    if manifest["format"] != 1:
        return [f"format is {manifest['format']}; this program knows 1"]
    found = []
    listed = {"manifest.json"}
    for binary in manifest["binaries"]:
        for file in binary["files"]:
            name, listed = file["file"], listed | {file["file"]}
            content = (directory / name).read_bytes() if (directory / name).exists() else b""
            if len(content) != file["bytes"] or hashlib.sha256(content).hexdigest() != file["sha256"]:
                found.append(f"{name}: its bytes are not those of the manifest")
            elif file["kind"] == "ptx":
                if f".entry {binary['kernel']}(" not in content.decode() or f".target {binary['arch']}" not in str(
                    content
                ):
                    found.append(f"{name}: no kernel {binary['kernel']} for {binary['arch']}")
            elif (
                content[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", content, 18)[0] != MACHINES[file["kind"]]
            ):
                found.append(f"{name}: no {file['kind']}")
            elif binary["kernel"] not in symbols(content):
                found.append(f"{name}: no kernel {binary['kernel']}")
        end = 0
        for argument in binary["arguments"]:
            if argument["offset"] < end or argument["offset"] % argument["bytes"]:
                found.append(f"{binary['variant']}: argument {argument['name']} overlaps or is not aligned")
            end = argument["offset"] + argument["bytes"]
    extra = {path.name for path in directory.iterdir()} - listed
    return found + [f"{name}: not in the manifest" for name in sorted(extra)]


def main() -> int:
    directory = Path(sys.argv[1])
    found = problems(directory)
    for problem in found:
        print(problem, file=sys.stderr)
    manifest = json.loads((directory / "manifest.json").read_text())
    binaries = manifest["binaries"]
    print(f"{len(binaries)} binaries for {', '.join(sorted({b['arch'] for b in binaries}))}: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
