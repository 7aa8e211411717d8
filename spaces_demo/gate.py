"""
What stands before Gradio: which requests come through, how large they may be, and what every answer tells a browser.

Gradio serves some sixty routes, of which this page needs a dozen: the others are not there. What a program or a page
sends to the queue is read here, within a bound, and passed on only if it names no file elsewhere. Uploads are received
by [`Uploads`] in place of Gradio's own route. Every answer carries a policy that lets a browser run the page's own
scripts and no other.
"""

import base64
import hashlib
import json
import re
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spaces_demo.uploads import UploadRefusedError, Uploads, forget_progress

MAX_BODY_BYTES = 256 * 1024
"""What a request that is no upload may have: names of files and a model, never the files."""
MAX_SESSIONS = 64
"""Sessions that are remembered, and answers that wait for their reader; of more, the oldest are forgotten."""

_SESSION = r"[\w-]{1,64}"
_API = "/gradio_api"
UPLOAD_ROUTE = f"{_API}/upload"
QUEUE_ROUTES = rf"{_API}/(queue/join|call/(v2/)?\w+|cancel|reset)/?"
OPEN_ROUTES = {
    "GET": re.compile(
        r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte)/.+"
        rf"|{_API}/(info|openapi\.json|theme\.css|app_id|queue/data|upload_progress)/?"
        rf"|{_API}/heartbeat/{_SESSION}|{_API}/call/(v2/)?\w+/{_SESSION}"
        # A file by its path, never by an address: `C:` is a drive, `https:` is not.
        rf"|{_API}/file=(?!\w\w+:).+"
    ),
    "POST": re.compile(rf"{QUEUE_ROUTES}|{UPLOAD_ROUTE}/?"),
}
START_ROUTE = f"{_API}/startup-events"
"""Starts the queue; Gradio's own `launch` asks for it once, and nobody else may."""

# What had to stay open. `unsafe-eval`: Gradio's HTML component and `js=` compile their templates in the browser.
# Inline styles: Gradio and the bars of this page set widths and colours by them. `data:` and `blob:`: the player.
POLICY = {
    "default-src": "'none'",
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "manifest-src": "'self'",
    "base-uri": "'self'",
    "form-action": "'none'",
    "frame-ancestors": "'self' https://huggingface.co",
}
FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), payment=(), usb=()",
}
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


class Gate:
    """ASGI middleware of the page; `uploads` receives what visitors send."""

    def __init__(self, app: ASGIApp, uploads: Uploads):
        self.app = app
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, _Sender(send, scope["path"]))
        # Nothing here speaks over a websocket, which closes when nobody accepts it.

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
        if not self._is_open(scope, method):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        elif method == "POST" and path.rstrip("/") == UPLOAD_ROUTE:
            await self._receive_upload(scope, receive, send)
        elif method == "POST":
            await self._pass_on(scope, receive, send)
        else:
            if path.startswith(f"{_API}/upload_progress"):
                forget_progress()
            await self.app(scope, receive, send)

    def _is_open(self, scope: Scope, method: str) -> bool:
        if scope["path"] == START_ROUTE:
            return method == "GET" and not scope["app"].startup_events_triggered
        return method in OPEN_ROUTES and OPEN_ROUTES[method].fullmatch(scope["path"]) is not None

    async def _receive_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response: Response = JSONResponse(await self.uploads.receive(Request(scope, receive)))
        except UploadRefusedError as error:
            # Whoever still sends is told to stop: what was not read cannot be the beginning of another request.
            response = PlainTextResponse(str(error), error.status, headers={"Connection": "close"})
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await _read_body(Request(scope, receive))
        except ClientDisconnect:
            return
        except ValueError as error:
            await PlainTextResponse(str(error), 413, headers={"Connection": "close"})(scope, receive, send)
            return
        try:
            content = json.loads(body)
            check_content(content)
        except (ValueError, RecursionError) as error:
            await JSONResponse({"detail": f"The request is refused: {error}"}, 400)(scope, receive, send)
            return
        forget_answers(scope["app"].get_blocks()._queue)
        # Written anew, so that what comes behind reads what was checked.
        clean = json.dumps(content).encode()
        is_sent = False

        async def receive_clean() -> Message:
            nonlocal is_sent
            if is_sent:
                return await receive()
            is_sent = True
            return {"type": "http.request", "body": clean, "more_body": False}

        headers = [
            (name, value) for name, value in scope["headers"] if name not in (b"content-length", b"content-type")
        ]
        headers += [(b"content-length", str(len(clean)).encode()), (b"content-type", b"application/json")]
        await self.app({**scope, "headers": headers}, receive_clean, send)


async def _read_body(request: Request) -> bytes:
    pieces, num_bytes = [], 0
    async for piece in request.stream():
        num_bytes += len(piece)
        if num_bytes > MAX_BODY_BYTES:
            raise ValueError(
                f"The request has more than {MAX_BODY_BYTES} bytes. Upload files first, and name them here."
            )
        pieces.append(piece)
    return b"".join(pieces)


def check_content(content: Any) -> None:
    """
    Refuse what no page and no client of this one sends.

    Raises:
        `ValueError`: If a session's name is no short word, or a file is named by an address, which Gradio would fetch.
    """
    if not isinstance(content, dict):
        raise ValueError("it must be a JSON object.")
    for name in ("session_hash", "event_id"):
        value = content.get(name)
        if value is not None and not (isinstance(value, str) and re.fullmatch(_SESSION, value)):
            raise ValueError(f"`{name}` must be up to 64 letters, digits, - or _.")
    _refuse_addresses(content)


def _refuse_addresses(content: Any) -> None:
    if isinstance(content, dict):
        path = content.get("path")
        if isinstance(path, str) and re.match(r"\s*\w\w+:", path):
            raise ValueError("`path` is a URL. Upload the file first, and send the path that the upload returned.")
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        _refuse_addresses(part)


def forget_answers(queue: Any) -> None:
    """Drop the oldest answers that nobody came for; Gradio keeps them for ever. Those still being made stay."""
    working = {event.session_hash for event in list(queue.event_ids_to_events.values())}
    for known in (queue.pending_messages_per_session, queue.pending_event_ids_session):
        done = [session for session in list(known) if session not in working]
        for session in done[: max(0, len(done) - MAX_SESSIONS)]:
            known.pop(session, None)


class _Sender:
    """Send an answer on with the headers of this page; a page of HTML is held until its scripts are known."""

    def __init__(self, send: Send, path: str):
        self._send = send
        self._is_file = path.startswith(f"{_API}/file=")
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            for name, value in HEADERS.items():
                headers[name] = value
            headers["Content-Security-Policy"] = FILE_POLICY if self._is_file else build_policy()
            message = {**message, "headers": headers.raw}
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            headers = MutableHeaders(raw=self._start["headers"])
            headers["Content-Security-Policy"] = build_policy(self._body)
            await self._send({**self._start, "headers": headers.raw})
            message, self._start = {**message, "body": self._body}, None
        await self._send(message)


def build_policy(html: bytes = b"") -> str:
    """Return the content security policy of an answer, which lets the scripts that are written in `html` run."""
    hashes = (base64.b64encode(hashlib.sha256(script).digest()) for script in _INLINE_SCRIPT.findall(html))
    allowed = "".join(f" 'sha256-{digest.decode()}'" for digest in hashes)
    return "; ".join(f"{name} {value}{allowed if name == 'script-src' else ''}" for name, value in POLICY.items())
