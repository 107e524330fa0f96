"""A private redis-server to start, freeze and kill."""

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

BINARY = shutil.which("redis-server")


class RedisServer:
    """A server in a directory, on a free TCP port of the loopback and a Unix socket."""

    def __init__(self, directory: Path, *options: str, save: bool = False) -> None:
        self.directory, self.options = directory, options
        self.keep = ("--appendonly", "yes", "--appendfsync", "always") if save else ("--appendonly", "no")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.socket = directory / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [BINARY, "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        command += ["--dir", str(self.directory), "--save", "", *self.keep, *self.options]
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

    def freeze(self) -> None:
        """Stop answering but keep the connections."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
