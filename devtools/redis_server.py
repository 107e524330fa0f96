"""A private redis-server to start, freeze and kill."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Self

BINARY = shutil.which("redis-server")


def send(port: int, *words: object) -> object:
    """The answer of a server on the loopback to one command."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    with socket.create_connection(("127.0.0.1", port), 20) as link, link.makefile("rwb") as stream:
        stream.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
        stream.flush()
        return _answer(stream)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until(what: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something to be true; errors count as not yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            if what():
                return
        except (OSError, RuntimeError):
            pass
        if time.monotonic() > end:
            raise RuntimeError("it did not happen in time")
        time.sleep(0.02)


def _answer(stream: BinaryIO) -> object:
    line = stream.readline()[:-2]
    kind, text = line[:1], line[1:]
    if kind == b"-":
        raise RuntimeError(text.decode())
    if kind == b"+":
        return text
    if kind == b"$":
        return stream.read(int(text) + 2)[:-2] if int(text) >= 0 else None
    return [_answer(stream) for _ in range(int(text))] if kind == b"*" else int(text)


class RedisServer:
    """A server in a directory, on a free TCP port of the loopback and a Unix socket; the end of a block kills it."""

    def __init__(self, directory: Path, *options: str, save: bool = False) -> None:
        self.directory, self.options = directory, options
        self.keep = ("--appendonly", "yes", "--appendfsync", "always") if save else ("--appendonly", "no")
        self.port = free_port()
        self.socket = directory / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [BINARY, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), *self.options]
        command += ["--unixsocket", str(self.socket), "--save", "", *self.keep]
        log = self.directory / "redis.log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream)
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as link:
                    link.sendall(b"PING\r\n")
                    if link.recv(16).startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"redis-server does not answer: {log.read_text()[-2000:]}")

    def url(self, prefix: str = "test", **options: object) -> str:
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"redis://127.0.0.1:{self.port}/0?prefix={prefix}{more}"

    def socket_url(self, prefix: str = "test") -> str:
        return f"unix://{self.socket}?db=0&prefix={prefix}"

    def send(self, *words: object) -> object:
        return send(self.port, *words)

    def freeze(self) -> None:
        """Stop answering but keep the connections."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
