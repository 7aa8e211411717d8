"""
verl-omni's audio reward by HTTP: `POST` a waveform as JSON, get its score as JSON.

`python -m modeling_apex.rewards` serves it.
"""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from modeling_apex.rewards.adapters.verl_omni import compute_score

PROTOCOL_VERSION, MAX_BYTES = "1", 512 * 2**20


class RewardHandler(BaseHTTPRequestHandler):
    """Answer one request; the server carries the model and the score as `options`."""

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        try:
            if not 0 < size <= MAX_BYTES:
                raise ValueError(f"the request has {size} bytes, but 1 to {MAX_BYTES} are accepted.")
            request = json.loads(self.rfile.read(size))
            if (version := request["protocol_version"]) != PROTOCOL_VERSION:
                raise ValueError(f"protocol_version must be {PROTOCOL_VERSION!r}, got {version!r}.")
            waveform = np.frombuffer(base64.b64decode(request["waveform_f32_base64"], validate=True), "<f4")
            if len(waveform) != request["num_samples"]:
                raise ValueError(f"num_samples is {request['num_samples']}, but {len(waveform)} samples came.")
            audio = waveform.astype(np.float32), request["sample_rate"]
            self._answer(200, compute_score("HTTP", audio, **self.server.options))  # type: ignore[attr-defined]
        except (ValueError, KeyError, TypeError) as error:
            self._answer(400, {"error": f"{type(error).__name__}: {error}"})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


def build_server(host: str, port: int, **options: Any) -> ThreadingHTTPServer:
    """Build the server; port 0 takes a free one."""
    server: Any = ThreadingHTTPServer((host, port), RewardHandler)
    server.options = options
    return server
