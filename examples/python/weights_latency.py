"""weights_latency: what POST /v1/weights of a run's service takes."""

import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def latency(run: Path, contexts: list[dict], count: int = 3000) -> dict:
    """Of /v1/weights over one connection that is kept alive, µs."""
    command = [sys.executable, "-m", "pygrade", "serve", "--run", run, "--port", "0", "--allow-unproven"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        port = next(int(m[1]) for line in server.stderr if (m := re.search(r"https?://\S+:(\d+) serves", line)))
        connection, times = http.client.HTTPConnection("127.0.0.1", port), []
        for i in range(count):
            body = json.dumps({"context": contexts[i % len(contexts)]})
            start = time.perf_counter()
            connection.request("POST", "/v1/weights", body)
            answer = connection.getresponse().read()
            times.append(1e6 * (time.perf_counter() - start))
        server.terminate()
    return {"p50_us": round(np.median(times)), "p99_us": round(np.quantile(times, 0.99)), "answer": json.loads(answer)}
