"""
Room 1's door to the network: a URL comes in, a temporary file with its content leaves.

A URL may come from a stranger, so nothing is taken on trust. Only http and https are spoken; the host name is resolved
here, every address that it has must lie in the public internet, and the connection goes to the checked address itself,
so that a name that resolves otherwise a moment later leads nowhere else; where the user has set a proxy, the proxy
looks names up. Each redirect goes through the same checks.
Size and time are watched while the bytes arrive. `registration` hangs [`download`] into `decoding_apex`.
"""

import ipaddress
import logging
import socket
import threading
import urllib.request
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO

from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits, import_optional
from modeling_apex.inference.decoding_apex import create_temporary_file
from modeling_apex.storage.source_names import HideSecrets, hide_secrets, name_source

MAX_REDIRECTS = 5
MAX_ADDRESSES = 4
"""Addresses of one host that are tried before giving up."""
CONNECT_SECONDS = 10.0
RETRY_SECONDS = (0.5, 2.0)
"""Waits before a song is asked for again, after a server that is busy or a connection that broke."""
SILENCE_SECONDS = 30.0
"""How long a server may send nothing."""

_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_BUSY_STATUS = frozenset({429, 500, 502, 503, 504})
_HIDE_SECRETS = HideSecrets()
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")
# Public unicast, by IANA's registries: of IPv4 what they give to no special purpose, of IPv6 what they have given to
# the five regions (IPv6 Global Unicast Address Assignments) but for special purposes within.
_OTHER_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        "168.63.129.16/32",  # public by the registry; in Azure, every machine's own platform
    )
)
_PUBLIC_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        *("2001::/16", "2003::/18", "2400::/11", "2600::/12", "2610::/23", "2620::/23", "2630::/12"),
        *("2800::/12", "2a00::/11", "2c00::/12"),
    )
)
_OTHER_IPV6 = tuple(ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2620:4f:8000::/48"))
# IPv6 addresses that stand for an IPv4 address in their last 32 bits (RFC 6052).
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = 0x5EFE  # before the IPv4 address in the last 64 bits (RFC 5214)


def download(url: str, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    """
    Stream a URL into a temporary file.

    Args:
        url (`str`):
            An `http(s)` URL.
        limits (`AudioLimits`), resources (`ExitStack`):
            What is refused, and who owns the temporary file.

    Returns:
        `tuple[str, BinaryIO]`: the URL by [`name_source`], and the file at its beginning.

    Raises:
        `AudioError`: If the URL is not http(s), leads to an address that is not public, redirects too often, is too
            large or too slow, or cannot be fetched.
        `ImportError`: If httpx is not installed.
    """
    name = name_source(url)
    httpx = import_optional("httpx", "httpx")
    for logger in map(logging.getLogger, _LOGGERS):
        logger.addFilter(_HIDE_SECRETS)  # one filter, so once however often
    handle = create_temporary_file(resources)
    with _Deadline(limits.max_download_seconds) as deadline, _Clients(httpx) as clients:
        try:
            _fetch_patiently(httpx, clients, name, httpx.URL(url), handle, limits, deadline)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            # UnicodeError: a host name that the encoding of domain names (IDNA) does not have.
            _refuse_slowness(name, limits, deadline)
            raise AudioError(
                f"{name}: the download failed ({type(error).__name__}: {hide_secrets(str(error))}). Check the URL and "
                "the connection, or download the song and pass its path."
            ) from error
        _refuse_slowness(name, limits, deadline)  # a connection that was cut can look like the end of the song
    handle.seek(0)
    return name, handle


def is_public_address(address: str) -> bool:
    """
    Tell whether an IP address is a unicast address of the public internet.

    Special purposes (loopback, private, link-local, shared, documentation, multicast, ...), the clouds' addresses of
    their own platform, and what nobody was given are not. An IPv4 address in the dress of an IPv6 one (mapped, 6to4,
    Teredo, NAT64, ISATAP) is judged by what it stands for as well.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _OTHER_IPV4)
    last = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    stands_for = [parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())]
    stands_for += [last] if parsed in _TRANSLATED else []
    if embedded := [inner for inner in stands_for if inner is not None]:
        return all(is_public_address(str(inner)) for inner in embedded)
    if int(parsed) >> 32 & 0xFFFF == _ISATAP and not is_public_address(str(last)):
        return False
    return any(parsed in network for network in _PUBLIC_IPV6) and not any(parsed in other for other in _OTHER_IPV6)


class _Clients:
    """
    The connections of one download: directly to addresses that were checked, or to a proxy that the user has named.

    A proxy (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`) looks names up itself and may reach other networks than this
    machine does. Naming one is the user's choice, and what it may reach is the proxy's to say; only what stands in a
    URL as an address is still checked here. `NO_PROXY` names hosts that are reached directly.
    """

    def __init__(self, httpx: Any) -> None:
        self._httpx = httpx
        self._resources = ExitStack()
        self._clients: dict[str | None, Any] = {}

    def __enter__(self) -> "_Clients":
        return self

    def __exit__(self, *exception: object) -> None:
        self._resources.close()

    def find_proxy(self, target: Any) -> str | None:
        """Return the address of the proxy for a URL, or `None` if it is reached directly."""
        proxies = urllib.request.getproxies()
        proxy = proxies.get(target.scheme) or proxies.get("all")
        if not proxy or urllib.request.proxy_bypass(target.host) or urllib.request.proxy_bypass(_name_port(target)):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def open(self, proxy: str | None, name: str) -> Any:
        """Return the client for a proxy, or for no proxy."""
        if proxy not in self._clients:
            timeout = self._httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
            # Compressed replies would have to be unpacked before their size is known; audio gains nothing by them.
            headers = {"Accept": "audio/*, video/*, */*;q=0.5", "Accept-Encoding": "identity"}
            options = {"timeout": timeout, "headers": headers, "verify": self._httpx.create_ssl_context()}
            try:
                client = self._httpx.Client(**options, proxy=proxy, trust_env=False)
            except (ValueError, ImportError) as error:
                raise AudioError(
                    f"{name}: the proxy {name_source(str(proxy))} cannot be used ({hide_secrets(str(error))}). Fix "
                    "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or name the host in NO_PROXY."
                ) from error
            self._clients[proxy] = self._resources.enter_context(client)
        return self._clients[proxy]


def _name_port(target: Any) -> str:
    return f"{target.host}:{target.port or (443 if target.scheme == 'https' else 80)}"


class _Deadline:
    """
    Cut the connections of a download that takes too long.

    A timeout of httpx bounds each wait for bytes, and a server that sends one byte now and then never reaches it.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = threading.Event()
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
            if self.passed.is_set():
                self._cut()

    def _cut(self) -> None:
        self.passed.set()
        for stream in self._streams:
            with suppress(OSError):  # closed by now, or wrapped in TLS, which is a stream of its own
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _refuse_slowness(name: str, limits: AudioLimits, deadline: _Deadline) -> None:
    if deadline.passed.is_set():
        raise AudioError(
            f"{name}: the download takes longer than {limits.max_download_seconds:g} s. Download the song first, or "
            "raise the limit with AudioLimits(max_download_seconds=...)."
        )


class _BusyError(AudioError):
    """A server that may answer otherwise in a moment."""


def _fetch_patiently(
    httpx: Any, clients: _Clients, name: str, target: Any, handle: BinaryIO, limits: AudioLimits, deadline: _Deadline
) -> None:
    """Fetch a song, from its beginning again where a server is busy or a connection breaks, a few times."""
    for seconds in RETRY_SECONDS:
        try:
            return _fetch(httpx, clients, name, target, handle, limits, deadline)
        except (_BusyError, httpx.ReadError, httpx.RemoteProtocolError):
            deadline.passed.wait(seconds)
            if deadline.passed.is_set():
                raise
        handle.seek(0)
        handle.truncate()
    return _fetch(httpx, clients, name, target, handle, limits, deadline)


def _fetch(
    httpx: Any, clients: _Clients, name: str, target: Any, handle: BinaryIO, limits: AudioLimits, deadline: _Deadline
) -> None:
    """Follow redirects to a song and save it."""
    for hop in range(MAX_REDIRECTS + 1):
        if target.scheme not in ("http", "https"):
            where = f", and this one leads to {name_source(str(target))}" if hop else ""
            raise AudioError(
                f"{name}: only http and https URLs are read{where}. Download the song first, or pass it as an open "
                "binary file."
            )
        response = _send_request(httpx, clients, name, target, limits, deadline)
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


def _send_request(
    httpx: Any, clients: _Clients, name: str, target: Any, limits: AudioLimits, deadline: _Deadline
) -> Any:
    """Send one request, without following redirects, to a proxy or a checked address; return the open response."""
    extensions = {"trace": deadline.trace}
    proxy = clients.find_proxy(target)
    client = clients.open(proxy, name)
    if proxy is not None and not limits.allow_private_addresses and _is_address(target):
        _resolve_public(name, target)
    if proxy is not None or limits.allow_private_addresses:
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


def _is_address(target: Any) -> bool:
    """Tell whether a URL's host is an address rather than a name, in whatever way it is written."""
    host = str(target.raw_host, "ascii").strip("[]")
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except OSError:
        return f".{host.lower().rstrip('.')}".endswith(".localhost")
    return True


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
        kind = _BusyError if response.status_code in _BUSY_STATUS else AudioError
        raise kind(f"{name}: the server answered {response.status_code} {response.reason_phrase}. Check the URL.")
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
