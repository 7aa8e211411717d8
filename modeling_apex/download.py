"""
Room 1's door to the network: a URL comes in, a temporary file with its content leaves.

A URL may come from a stranger, so nothing is taken on trust. Only http and https are spoken; the host name is resolved
here, every address that it has must lie in the public internet, and the connection goes to the checked address itself,
so that a name that resolves otherwise a moment later leads nowhere else. Each redirect goes through the same checks.
Size and time are watched while the bytes arrive. `registration` hangs [`download`] into `decoding_apex`.
"""

import ipaddress
import re
import socket
import threading
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO

from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits, import_optional
from modeling_apex.inference.decoding_apex import create_temporary_file

MAX_REDIRECTS = 5
MAX_ADDRESSES = 4
"""Addresses of one host that are tried before giving up."""
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0
"""How long a server may send nothing."""

_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
# Prefixes of IPv6 addresses that stand for an IPv4 address in their last 32 bits (RFC 6052, RFC 4291), and the one
# that networks use for such translation inside (RFC 8215).
_TRANSLATED_NETWORKS = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
_LOCAL_TRANSLATION = ipaddress.IPv6Network("64:ff9b:1::/48")


def download(url: str, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    """
    Stream a URL into a temporary file.

    Args:
        url (`str`):
            An `http(s)` URL.
        limits (`AudioLimits`), resources (`ExitStack`):
            What is refused, and who owns the temporary file.

    Returns:
        `tuple[str, BinaryIO]`: the URL without a password, which must not reach reports and logs, and the file at its
        beginning.

    Raises:
        `AudioError`: If the URL is not http(s), leads to an address that is not public, redirects too often, is too
            large or too slow, or cannot be fetched.
        `ImportError`: If httpx is not installed.
    """
    name = hide_password(url)
    httpx = import_optional("httpx", "httpx")
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    # Compressed replies would have to be unpacked before their size is known; audio gains nothing by them.
    headers = {"Accept": "audio/*, video/*, */*;q=0.5", "Accept-Encoding": "identity"}
    handle = create_temporary_file(resources)
    with _Deadline(limits.max_download_seconds) as deadline:
        try:
            with httpx.Client(timeout=timeout, headers=headers) as client:
                _fetch(httpx, client, name, httpx.URL(url), handle, limits, deadline)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            # UnicodeError: a host name that the encoding of domain names (IDNA) does not have.
            _refuse_slowness(name, limits, deadline)
            raise AudioError(
                f"{name}: the download failed ({type(error).__name__}: {error}). Check the URL and the connection, "
                "or download the song and pass its path."
            ) from error
        _refuse_slowness(name, limits, deadline)  # a connection that was cut can look like the end of the song
    handle.seek(0)
    return name, handle


def hide_password(url: str) -> str:
    """Return a URL without the user and password in it."""
    return re.sub(r"^(\w+:/*)[^/?#]*@", r"\1", url)


def is_public_address(address: str) -> bool:
    """
    Tell whether an IP address lies in the public internet.

    Loopback, private, link-local, shared, reserved, multicast and unspecified addresses do not. An IPv4 address in the
    dress of an IPv6 one (mapped, compatible, 6to4, Teredo, NAT64) is judged by what it stands for as well.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = [parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())]
        if parsed in _LOCAL_TRANSLATION:
            return False
        if any(parsed in network for network in _TRANSLATED_NETWORKS):
            inner.append(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF))
        if embedded := [candidate for candidate in inner if candidate is not None]:
            return all(is_public_address(str(candidate)) for candidate in embedded)
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved)


class _Deadline:
    """
    Cut the connections of a download that takes too long.

    A timeout of httpx bounds each wait for bytes, and a server that sends one byte now and then never reaches it.
    """

    def __init__(self, seconds: float) -> None:
        self.has_passed = False
        self._streams: list[Any] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()

    def trace(self, event: str, facts: dict[str, Any]) -> None:
        """Take note of a connection; httpx calls this for whatever happens to it."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._streams.append(facts["return_value"])
            if self.has_passed:
                self._cut()

    def _cut(self) -> None:
        self.has_passed = True
        for stream in self._streams:
            with suppress(OSError):  # closed by now, or wrapped in TLS, which is a stream of its own
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _refuse_slowness(name: str, limits: AudioLimits, deadline: _Deadline) -> None:
    if deadline.has_passed:
        raise AudioError(
            f"{name}: the download takes longer than {limits.max_download_seconds:g} s. Download the song first, or "
            "raise the limit with AudioLimits(max_download_seconds=...)."
        )


def _fetch(
    httpx: Any, client: Any, name: str, target: Any, handle: BinaryIO, limits: AudioLimits, deadline: _Deadline
) -> None:
    """Follow redirects to a song and save it."""
    for hop in range(MAX_REDIRECTS + 1):
        if target.scheme not in ("http", "https"):
            where = f", and this one leads to {hide_password(str(target))}" if hop else ""
            raise AudioError(
                f"{name}: only http and https URLs are read{where}. Download the song first, or pass it as an open "
                "binary file."
            )
        response = _send_request(httpx, client, name, target, limits, deadline)
        try:
            if response.status_code not in _REDIRECT_STATUS or "location" not in response.headers:
                _save_body(name, response, handle, limits)
                return
            target = target.join(response.headers["location"])
        finally:
            response.close()
    raise AudioError(
        f"{name}: the download failed (more than {MAX_REDIRECTS} redirects). Pass the address that they lead to."
    )


def _send_request(httpx: Any, client: Any, name: str, target: Any, limits: AudioLimits, deadline: _Deadline) -> Any:
    """Send one request, without following redirects, to an address that was checked; return the open response."""
    extensions = {"trace": deadline.trace}
    if limits.allow_private_addresses:
        return client.send(client.build_request("GET", target, extensions=extensions), stream=True)
    failure: Exception | None = None
    for address in _resolve_public(name, target)[:MAX_ADDRESSES]:
        # The name goes into the Host header and into TLS, which still checks the certificate against it.
        request = client.build_request(
            "GET",
            target.copy_with(host=f"[{address}]" if ":" in address else address),
            headers={"Host": target.netloc.decode("ascii")},
            extensions={**extensions, "sni_hostname": target.raw_host.decode("ascii")},
        )
        try:
            return client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = error  # the host may answer at its next address
    raise failure or httpx.ConnectError(f"no address for {target.host}")


def _resolve_public(name: str, target: Any) -> list[str]:
    """Return the addresses of a URL's host; refuse the URL if one of them is not public."""
    host, port = target.raw_host.decode("ascii").strip("[]"), target.port or (443 if target.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise AudioError(
            f"{name}: the download failed (no address for {host}: {error}). Check the URL and the connection."
        ) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    inside = [address for address in addresses if not is_public_address(address)]
    if inside:
        raise AudioError(
            f"{name}: {host} is {inside[0]}, which is not a public address. Songs are fetched from the internet only; "
            "for a server of your own pass AudioLimits(allow_private_addresses=True), or "
            "`--allow-private-addresses` on the command line."
        )
    return addresses


def _save_body(name: str, response: Any, handle: BinaryIO, limits: AudioLimits) -> None:
    if not response.is_success:
        raise AudioError(
            f"{name}: the server answered {response.status_code} {response.reason_phrase}. Check the URL."
        )
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise AudioError(
            f"{name}: the server sends the song compressed ({encoding[:20]!r}), though it was asked not to. Download "
            "it first and pass its path."
        )
    content_length = response.headers.get("content-length", "")
    if content_length.isascii() and content_length.isdigit():
        limits.refuse_size(name, int(content_length[:20]))
    num_bytes = 0
    for piece in response.iter_raw():
        num_bytes += len(piece)
        limits.refuse_size(name, num_bytes)
        handle.write(piece)
