"""Songs from URLs: what is fetched, what strangers cannot reach with one, how much a server may send and how long."""

import functools
import http.server
import io
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from modeling_apex import download as download_module
from modeling_apex.download import download, is_public_address
from modeling_apex.inference.audio_apex import AudioError, AudioLimits, load_audio, open_audio

from waveforms import make_waveform

LOCAL = AudioLimits(allow_private_addresses=True)


def encode_song() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, make_waveform(1.0, 8000).T, 8000, format="FLAC")
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    song = encode_song()

    def do_GET(self) -> None:
        kind, _, argument = self.path.strip("/").partition("?")
        self.server.hosts.append(self.headers["Host"])  # type: ignore[attr-defined]
        if kind == "loop":
            self.redirect(self.path)
        elif kind == "moved":
            self.redirect("/song.flac")
        elif kind == "to":
            self.redirect(argument)
        elif kind == "song.flac":
            self.answer({"Content-Length": str(len(self.song))}, self.song)
        elif kind == "broken":
            self.answer({"Content-Length": str(2 * len(self.song))}, self.song)
        elif kind == "lying":
            self.answer({"Content-Length": "9" * 15}, self.song)
        elif kind == "compressed":
            self.answer({"Content-Encoding": "gzip"}, self.song)
        elif kind == "endless":
            self.answer({}, *[bytes(1 << 16)] * 40)
        elif kind == "slow":
            self.answer({})
            while not self.server.is_over.wait(0.02):  # type: ignore[attr-defined]
                self.wfile.write(self.song[:1])
        elif kind in ("busy", "breaking", "recovering", "healing"):
            self.server.num_failures += 1  # type: ignore[attr-defined]
            if kind in ("recovering", "healing") and self.server.num_failures > 1:  # type: ignore[attr-defined]
                self.answer({"Content-Length": str(len(self.song))}, self.song)
            elif kind in ("busy", "recovering"):
                self.send_error(503)
            else:
                self.answer({"Content-Length": str(len(self.song))}, self.song[: len(self.song) // 2])
        elif kind == "mute":
            self.server.is_over.wait()  # type: ignore[attr-defined]
        else:
            self.send_error(404)

    def redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def answer(self, headers: dict[str, str], *pieces: bytes) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hosts: list[str] = []
        self.num_failures = 0
        self.is_over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *arguments: object) -> None:
        pass  # the client hangs up on purpose


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield server
    server.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a server that failed again at once."""
    monkeypatch.setattr(download_module, "RETRY_SECONDS", (0.0, 0.0))


@pytest.fixture
def name_hosts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Give host names addresses, one list a lookup; return the names that were looked up."""

    def install(**answers: list[list[str]]) -> list[str]:
        lookups: list[str] = []

        def look_up(host: str, port: int, **options: Any) -> list[Any]:
            lookups.append(host)
            name = host.removesuffix(".test").replace("-", "_")
            if name not in answers:
                raise socket.gaierror(-2, "Name or service not known")
            found = answers[name].pop(0) if len(answers[name]) > 1 else answers[name][0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

        # Only the lookup of this module: the client connects to the literal address that it is given.
        fake = type("socket", (), {**vars(socket), "getaddrinfo": staticmethod(look_up)})
        monkeypatch.setattr(download_module, "socket", fake)
        return lookups

    return install


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 127.0.0.1, where the test server listens, pass for an address of the public internet."""
    real = is_public_address
    monkeypatch.setattr(download_module, "is_public_address", lambda text: text == "127.0.0.1" or real(text))


class TestSongs:
    @pytest.mark.parametrize("page", ["song.flac", "moved", "song.flac?track=1"])
    def test_a_song(self, site: Server, page: str) -> None:
        with open_audio(f"{site.url}/{page}", limits=LOCAL) as stream:
            assert stream.name == f"{site.url}/{page}"
            read = np.concatenate(list(stream.blocks))
        np.testing.assert_array_equal(read, load_audio(Handler.song, target_rate=8000))

    def test_missing(self, site: Server) -> None:
        with pytest.raises(AudioError, match=r"http://127.0.0.1:\d+/absent: the server answered 404 Not Found"):
            open_audio(f"{site.url}/absent", limits=LOCAL)

    def test_redirect_loop(self, site: Server) -> None:
        with pytest.raises(AudioError, match=r"/loop: the download failed \(more than 5 redirects\)\. Pass the addre"):
            open_audio(f"{site.url}/loop", limits=LOCAL)

    def test_connection_that_breaks(self, site: Server) -> None:
        with pytest.raises(AudioError, match=r"/broken: the download failed \(RemoteProtocolError.*Check the URL"):
            open_audio(f"{site.url}/broken", limits=LOCAL)

    @pytest.mark.parametrize("page", ["busy", "breaking"])
    def test_a_server_that_fails_is_asked_a_few_times(self, site: Server, page: str) -> None:
        site.num_failures = 0
        reason = "the server answered 503" if page == "busy" else r"the download failed \(RemoteProtocolError"
        with pytest.raises(AudioError, match=rf"/{page}: {reason}"):
            open_audio(f"{site.url}/{page}", limits=LOCAL)
        assert site.num_failures == 3

    @pytest.mark.parametrize("page", ["recovering", "healing"])
    def test_a_server_that_recovers_costs_nothing_and_no_byte_twice(self, site: Server, page: str) -> None:
        site.num_failures = 0
        found = load_audio(f"{site.url}/{page}", target_rate=8000, limits=LOCAL)
        np.testing.assert_array_equal(found, load_audio(Handler.song, target_rate=8000))

    def test_no_server(self) -> None:
        with pytest.raises(AudioError, match=r"http://127.0.0.1:1/a.mp3: the download failed \(ConnectError"):
            open_audio("http://127.0.0.1:1/a.mp3", limits=LOCAL)

    def test_passwords_stay_out_of_names(self, site: Server) -> None:
        url = site.url.replace("http://", "http://me:se@cret@") + "/song.flac"
        with open_audio(url, limits=LOCAL) as stream:
            assert stream.name == f"{site.url}/song.flac"

    def test_signatures_stay_out_of_names_errors_and_logs(
        self, site: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with open_audio(f"{site.url}/song.flac?track=1&X-Amz-Signature=5ecre7", limits=LOCAL) as stream:
            assert stream.name == f"{site.url}/song.flac?track=1&X-Amz-Signature=***"
        for page in ("absent", "loop", "broken", f"to?{site.url}/absent?token=5ecre7", "to?ftp://me:5ecre7@host/?"):
            with pytest.raises(AudioError) as caught:
                open_audio(f"{site.url}/{page}{'&' if '?' in page else '?'}sig=5ecre7", limits=LOCAL)
            assert "5ecre7" not in str(caught.value)
        assert "HTTP Request: GET" in caplog.text
        assert "5ecre7" not in caplog.text

    @pytest.mark.parametrize(
        "url",
        ["http://" + "a" * 70 + ".test/x", "http://[::1/x", "http://host:99999999/x", "http://\x00/x", "http:///x"],
    )
    def test_urls_that_are_none(self, url: str) -> None:
        with pytest.raises(
            AudioError, match=r"http://.*: the download failed \((InvalidURL|Unicode\w*Error|no address)"
        ):
            open_audio(url)


class TestLimits:
    @pytest.mark.parametrize("page", ["endless", "song.flac", "lying"])
    def test_size_is_watched_while_reading(self, site: Server, page: str) -> None:
        with pytest.raises(AudioError, match=r": \d+ bytes or more, but the limit is 2000"):
            open_audio(f"{site.url}/{page}", limits=AudioLimits(max_bytes=2000, allow_private_addresses=True))

    @pytest.mark.parametrize("page", ["slow", "mute"])
    def test_time_is_watched_whatever_the_server_sends(self, site: Server, page: str) -> None:
        """Both pages last as long as the server, so that whoever returns has not waited for their end."""
        limits = AudioLimits(max_download_seconds=0.3, allow_private_addresses=True)
        with pytest.raises(AudioError, match=r"takes longer than 0\.3 s\. Download .*max_download_seconds"):
            open_audio(f"{site.url}/{page}", limits=limits)

    def test_compressed_replies(self, site: Server) -> None:
        with pytest.raises(AudioError, match=r"/compressed: the server sends the song compressed \('gzip'\), though"):
            open_audio(f"{site.url}/compressed", limits=LOCAL)

    def test_nothing_stays_open_after_a_refusal(self, site: Server) -> None:
        before = set(threading.enumerate())
        with ExitStack() as resources:
            with pytest.raises(AudioError):
                download(f"{site.url}/absent", LOCAL, resources)
            assert resources.pop_all()._exit_callbacks  # type: ignore[attr-defined]
        # The server has a thread of its own for that connection; a timer that was called off may be on its way out.
        started = set(threading.enumerate()) - before
        ended = {thread for thread in started if isinstance(thread, threading.Timer) and thread.finished.is_set()}
        assert not [thread for thread in started - ended if "process_request_thread" not in thread.name]


class TestAddresses:
    @pytest.mark.parametrize(
        "address",
        [
            *("127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),  # noqa: S104 (refused, not bound)
            *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
            *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1"),
            *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1"),
            *("2002:7f00:1::1", "2002:a00:1::", "2001:0:7f00:1::"),
            # What `ipaddress` takes for global, and the platforms of clouds.
            *("fec0::1", "168.63.129.16", "192.0.0.192", "192.0.0.9", "192.0.0.10", "192.88.99.1", "100.100.100.200"),
            *(
                "fd00:ec2::254",
                "192.31.196.1",
                "192.52.193.1",
                "192.175.48.1",
                "2001:1::1",
                "2001:3::1",
                "2001:4:112::1",
            ),
            *("2001:20::1", "2620:4f:8000::1", "3ffe::1", "3fff::1", "5f00::1", "4000::1", "2d00::1", "100::1", "::2"),
            *("::ffff:0:10.0.0.1", "::ffff:168.63.129.16", "64:ff9b::a9fe:a9fe", "64:ff9b::a83f:8110"),
            *("2002:a83f:8110::", "2002:c000:c0::", "2001:0:808:808::f5ff:fffe", "2400::5efe:10.0.0.1"),
        ],
    )
    def test_not_public(self, address: str) -> None:
        assert not is_public_address(address)

    @pytest.mark.parametrize(
        "address",
        ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2a10::1"],
    )
    def test_public(self, address: str) -> None:
        assert is_public_address(address)

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433", "0x7f000001"],  # noqa: S104
    )
    def test_this_machine_is_refused_however_it_is_written(self, site: Server, host: str) -> None:
        num_requests = len(site.hosts)
        with pytest.raises(AudioError, match=r"is \S+, which is not a public address.*allow_private_addresses=True"):
            open_audio(f"http://{host}:{site.server_port}/song.flac")
        assert len(site.hosts) == num_requests

    def test_a_name_with_one_private_address_is_refused(self, name_hosts: Callable[..., list[str]]) -> None:
        name_hosts(mixed=[["8.8.8.8", "10.0.0.7"]])
        with pytest.raises(AudioError, match=r"mixed\.test is 10\.0\.0\.7, which is not a public address"):
            open_audio("http://mixed.test/song.flac")

    def test_a_name_without_address(self, name_hosts: Callable[..., list[str]]) -> None:
        name_hosts()
        with pytest.raises(AudioError, match=r"the download failed \(no address for absent\.test: .*not known"):
            open_audio("https://absent.test/song.flac")

    @pytest.mark.usefixtures("loopback_is_public")
    def test_the_checked_address_is_the_one_that_is_connected_to(
        self, site: Server, name_hosts: Callable[..., list[str]]
    ) -> None:
        # The second lookup would lead elsewhere; there must be none.
        lookups = name_hosts(song=[["127.0.0.1"], ["10.0.0.1"]])
        url = f"http://song.test:{site.server_port}/song.flac"
        assert len(load_audio(url, target_rate=8000)) == 8000
        assert lookups == ["song.test"]
        assert site.hosts[-1] == f"song.test:{site.server_port}"

    @pytest.mark.usefixtures("loopback_is_public")
    @pytest.mark.parametrize("target", ["http://10.0.0.1/song.flac", "http://inner.test/song.flac", "//inner.test/x"])
    def test_every_redirect_is_checked(self, site: Server, name_hosts: Callable[..., list[str]], target: str) -> None:
        name_hosts(outer=[["127.0.0.1"]], inner=[["192.168.0.1"]], **{"10.0.0.1": [["10.0.0.1"]]})
        with pytest.raises(AudioError, match=r"is (10\.0\.0\.1|192\.168\.0\.1), which is not a public address"):
            open_audio(f"http://outer.test:{site.server_port}/to?{target}")

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x", "gopher://host/x"])
    def test_redirects_stay_with_http(self, site: Server, target: str) -> None:
        with pytest.raises(AudioError, match=r"only http and https URLs are read, and this one leads to \w+:"):
            open_audio(f"{site.url}/to?{target}", limits=LOCAL)

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "s3://songs/a.mp3", "ftp://host/x"])
    def test_other_schemes(self, url: str) -> None:
        with pytest.raises(AudioError, match=r"only http and https URLs are read\. Download the song first, or pass"):
            open_audio(url)

    @pytest.mark.usefixtures("loopback_is_public")
    def test_the_next_address_is_tried(
        self, site: Server, name_hosts: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download_module, "is_public_address", lambda text: True)
        name_hosts(two=[["127.0.0.2", "127.0.0.1"]], dead=[["127.0.0.2"]], none=[[]])
        real = httpx.Client.send

        def send(client: Any, request: Any, **options: Any) -> Any:
            if request.url.host == "127.0.0.2":
                raise httpx.ConnectError("refused")
            return real(client, request, **options)

        monkeypatch.setattr(httpx.Client, "send", send)
        assert len(load_audio(f"http://two.test:{site.server_port}/song.flac", target_rate=8000)) == 8000
        for host in ("dead", "none"):
            with pytest.raises(AudioError, match=r"the download failed \(ConnectError: (refused|no address for none)"):
                open_audio(f"http://{host}.test/song.flac")


class Proxy(http.server.BaseHTTPRequestHandler):
    """A real proxy: it looks names up itself, in a table of its own, and passes bytes on."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        host, _, page = self.path.removeprefix("http://").partition("/")
        with httpx.Client(trust_env=False) as client:
            answer = client.get(f"{self.server.hosts[host]}/{page}")  # type: ignore[attr-defined]
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        for name in ("Location",):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.end_headers()
        self.wfile.write(answer.content)

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        address, port = self.server.tunnels[self.path]  # type: ignore[attr-defined]
        with socket.create_connection((address, port)) as far:
            self.send_response(200)
            self.end_headers()
            pump = threading.Thread(target=self.copy, args=(far, self.connection))
            pump.start()
            self.copy(self.connection, far)
            pump.join()

    @staticmethod
    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(65536):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ProxyServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Proxy)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.hosts: dict[str, str] = {}
        self.tunnels: dict[str, tuple[str, int]] = {}

    def handle_error(self, *arguments: object) -> None:
        pass


@pytest.fixture
def tls_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server that speaks TLS and holds a certificate for `song.test`, which this process trusts."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs openssl to make a certificate")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=song.test"]
    words += ["-addext", "subjectAltName=DNS:song.test", "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run([openssl, *words], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield "127.0.0.1", server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxy(site: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyServer]:
    """A proxy that this process is told of by its environment, and that alone knows the host `song.test`."""
    server = ProxyServer()
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    server.hosts["song.test"] = site.url
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("https_proxy", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class TestProxies:
    def test_the_proxy_looks_the_name_up(self, proxy: ProxyServer, name_hosts: Callable[..., list[str]]) -> None:
        name_hosts()  # no name is known here
        with open_audio("http://song.test/song.flac") as stream:
            assert sum(map(len, stream.blocks)) == 8000
        assert proxy.asked == ["http://song.test/song.flac"]

    def test_https_goes_through_a_tunnel_and_the_certificate_is_that_of_the_name(
        self, proxy: ProxyServer, tls_site: tuple[str, int], name_hosts: Callable[..., list[str]]
    ) -> None:
        name_hosts()
        proxy.tunnels["song.test:443"] = tls_site
        with open_audio("https://song.test/song.flac") as stream:
            assert sum(map(len, stream.blocks)) == 8000
        assert proxy.asked == ["song.test:443"]
        proxy.tunnels["other.test:443"] = tls_site
        with pytest.raises(AudioError, match=r"the download failed \(ConnectError: .*[Hh]ostname mismatch"):
            open_audio("https://other.test/song.flac")

    @pytest.mark.usefixtures("loopback_is_public")
    @pytest.mark.parametrize("exception", ["song.test", "example.org, .test", "*", "song.test:{port}"])
    def test_no_proxy_names_hosts_that_are_reached_directly(
        self,
        site: Server,
        proxy: ProxyServer,
        name_hosts: Callable[..., list[str]],
        monkeypatch: pytest.MonkeyPatch,
        exception: str,
    ) -> None:
        lookups = name_hosts(song=[["127.0.0.1"]])
        monkeypatch.setenv("no_proxy", exception.format(port=site.server_port))
        assert len(load_audio(f"http://song.test:{site.server_port}/song.flac", target_rate=8000)) == 8000
        assert proxy.asked == []
        assert lookups == ["song.test"]

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "[::1]", "localhost", "a.localhost", "127.1", "2130706433", "169.254.169.254"]
    )
    def test_an_address_in_a_url_is_checked_all_the_same(self, proxy: ProxyServer, host: str) -> None:
        with pytest.raises(AudioError, match=r"is not a public address|no address for a\.localhost"):
            open_audio(f"http://{host}:1/song.flac")
        assert proxy.asked == []

    def test_redirects_are_followed_through_the_proxy(self, proxy: ProxyServer) -> None:
        with pytest.raises(AudioError, match=r"10\.0\.0\.1, which is not a public address"):
            open_audio("http://song.test/to?http://10.0.0.1/song.flac")
        assert proxy.asked == ["http://song.test/to?http://10.0.0.1/song.flac"]

    def test_a_proxy_that_cannot_be_used(self, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "gopher://me:secret@proxy:70")
        with pytest.raises(AudioError, match=r"the proxy gopher://\S+ cannot be used .*Fix HTTPS_PROXY") as caught:
            open_audio("http://song.test/song.flac")
        assert "secret" not in str(caught.value)
