"""
Songs in object stores: a URI comes in, a file object that the scorer takes leaves.

`s3://` and `gs://` are read by pyarrow, `hf://` by the Hub's own client, other protocols by fsspec where a package for
them is installed. Nothing is fetched before the first bytes are asked for, and never more than a few megabytes are
held, so that a song costs what its decoder needs, and a broken one is an error of that song alone. Size and time are
limited as for URLs, and what ends early or changes meanwhile is an error, never a shorter song.

A URI may come from a stranger's table. Object stores are reached by the address and the credentials of this machine's
environment alone; a URI that sets its own host is read where `allow_private_addresses` says that it may. What
lies on this machine is read by its path and never by a URI.
"""

import functools
import io
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from modeling_apex.corpus.identity import URL_PREFIXES, is_uri
from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits
from modeling_apex.storage.source_names import hide_secrets, name_source

BLOCK_NUM_BYTES = 4 * 1024**2
NUM_ATTEMPTS = 3
NUM_STORES = 16  # connections to so many buckets are kept
_LOCAL = frozenset(
    {"arrow_hdfs", "asynclocal", "async_wrapper", "asyncwrapper", "blockcache", "cached", "data", "dir", "file"}
    | {"filecache", "generic", "libarchive", "local", "memory", "reference", "simplecache", "tar", "zip"}
)
# Whose URIs name a container, and whose host comes from the environment or is that of one company.
_STORES = frozenset({"abfs", "abfss", "adl", "az", "oci", "ocilake", "oss", "tos", "tosfs"})
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_OWN_HOST = ("endpoint_override", "scheme")


def open_song(uri: Any, *, limits: AudioLimits | None = None) -> Any:
    """
    Make of the place of a song what the pipeline and the scorer take.

    Args:
        uri (`str`, or `dict` with `path`):
            `s3://bucket/key`, `gs://bucket/key`, `hf://datasets/owner/name/path`, or a URI of another protocol of
            fsspec. As in all URIs, `%20` stands for a space, and a `#` or `?` of a name is written `%23` or `%3F`.
        limits ([`AudioLimits`], *optional*):
            What is refused.

    Returns:
        `BinaryIO` or what was given: a [`RemoteSong`], whose errors are raised when it is read; paths, `http(s)` URLs,
        which are fetched where they are decoded, and all other audio are returned as they are.
    """
    if isinstance(uri, dict) and uri.get("bytes") is None and uri.get("array") is None:
        return open_song(uri["path"], limits=limits) if is_uri(uri.get("path")) else uri
    if not is_uri(uri) or uri.lower().startswith(URL_PREFIXES):
        return uri
    return cast(BinaryIO, RemoteSong(uri, limits or AudioLimits()))


class RemoteSong(io.RawIOBase):
    """
    A song in an object store, to be read once from its beginning.

    Args:
        uri (`str`), limits ([`AudioLimits`]):
            As for [`open_song`].

    Attributes:
        name (`str`): The URI without what opens it.
    """

    def __init__(self, uri: str, limits: AudioLimits):
        self.name = name_source(uri)
        self._uri, self._limits = uri, limits
        self._source: Any = None
        self._open: Callable[[], Any] = lambda: None
        self._num_bytes, self._num_read, self._block = 0, 0, memoryview(b"")
        self._deadline = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteSong, (self._uri, self._limits)  # to be read where it arrives

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """
        Read the next bytes.

        Raises:
            `AudioError`: If the URI is none that is read here, or the song cannot be fetched whole within the limits.
            `ImportError`: If pyarrow is not installed.
        """
        if self._source is None:
            self._deadline = time.monotonic() + self._limits.max_download_seconds
            self._open = self._fetch(lambda: find_opener(self._uri, self._limits))
            self._source = self._fetch(self._open)
            self._num_bytes = self._fetch(lambda: _measure(self._source))
            self._limits.refuse_size(self.name, self._num_bytes)
        if not self._block:
            self._block = memoryview(self._read_block())
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._block))
        view[:size], self._block = self._block[:size], self._block[size:]
        return size

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
        super().close()

    def _read_block(self) -> bytes:
        num_left = self._num_bytes - self._num_read
        if num_left <= 0:
            return b""
        block: bytes = self._fetch(lambda: self._source.read(min(BLOCK_NUM_BYTES, num_left)))
        self._num_read += len(block)
        if not block:
            raise AudioError(
                f"{self.name}: the store ends the song after {self._num_read} of its {self._num_bytes} bytes. Try "
                "again, or fetch the song and pass its path."
            )
        if self._num_read == self._num_bytes > BLOCK_NUM_BYTES and self._has_changed():
            raise AudioError(f"{self.name}: changed while it was fetched. Try again once it is written.")
        return block

    def _has_changed(self) -> bool:
        """Tell whether what was read in several pieces is another object by now."""
        again = self._fetch(self._open)
        try:
            return bool(_describe(self._source) != _describe(again))
        finally:
            again.close()

    def _fetch(self, ask: Callable[[], Any]) -> Any:
        """Ask the store for something, within the time of this song, and name the song where that fails."""
        try:
            return _wait_for(ask, self._deadline - time.monotonic())
        except TimeoutError as error:
            raise AudioError(
                f"{self.name}: fetching it takes longer than {self._limits.max_download_seconds:g} s. Fetch the song "
                "first, or raise the limit with AudioLimits(max_download_seconds=...)."
            ) from error
        except AudioError as error:
            raise AudioError(f"{self.name}: {error}") from error
        except FileNotFoundError as error:
            raise AudioError(f"{self.name}: there is no such song in the store. Check the URI.") from error
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # of any client of any store: it costs this song alone
            reason = hide_secrets(" ".join(str(error).split()))
            for secret in filter(None, re.split("[:@]", urlsplit(self._uri).netloc.rpartition("@")[0])):
                reason = reason.replace(secret, "***").replace(unquote(secret), "***")
            raise AudioError(
                f"{self.name}: cannot be fetched ({type(error).__name__}: {reason[:500]}). Check the URI, the "
                "credentials of this machine and the connection."
            ) from None  # the error of a client can repeat the URI with its password


def _wait_for(ask: Callable[[], Any], seconds: float) -> Any:
    """Call a function in a thread of its own, for no client bounds the time that a slow store may take."""
    answers: list[Any] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="apex-store", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if failures:
        raise failures[0]
    if not answers:
        raise TimeoutError
    return answers[0]


def _measure(source: Any) -> int:
    """Return the bytes of an open file of pyarrow or fsspec."""
    size = source.size
    return int(size() if callable(size) else size)


def _describe(source: Any) -> Any:
    """Return what a store says of an open file: its tag or time of writing among it, where the store has one."""
    describe = getattr(source, "metadata", None)
    if callable(describe):
        return describe()
    return {name: str(value) for name, value in (getattr(source, "details", None) or {}).items()}


def find_opener(uri: str, limits: AudioLimits) -> Callable[[], Any]:
    """
    Find what opens a URI.

    Returns:
        `Callable[[], Any]`: opens a file for reading; what it returns has `read`, `close` and `size`.

    Raises:
        `AudioError`: If the protocol is unknown, not installed or not allowed, or the URI is incomplete.
        `ImportError`: If pyarrow is not installed.
    """
    parts = urlsplit(uri)
    protocol = _ALIASES.get(parts.scheme.lower(), parts.scheme.lower())
    if "::" in uri.partition("://")[0] or protocol in _LOCAL:
        raise AudioError(
            f"{protocol}:// points to this machine or wraps another location, and is not read. Pass the path of the "
            "song."
        )
    if parts.fragment or uri.endswith("#"):
        raise AudioError(
            "a # begins a fragment, which is not sent to a store. If it belongs to the name, write it as %23."
        )
    if not parts.netloc or not parts.path.strip("/"):
        raise AudioError(f"is incomplete: expected {protocol}://bucket/path/to/song.")
    if protocol in ("s3", "gs"):
        return _find_by_arrow(protocol, parts, limits)
    if protocol == "hf":
        return _find_on_hub(parts)
    return _find_by_fsspec(protocol, uri, limits)


def _find_by_arrow(protocol: str, parts: SplitResult, limits: AudioLimits) -> Callable[[], Any]:
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if not limits.allow_private_addresses and (foreign := [name for name in _OWN_HOST if name in query]):
        raise AudioError(
            f"sets its own host ({', '.join(foreign)}), which may lie in this network. Set AWS_ENDPOINT_URL "
            "instead, or allow it with AudioLimits(allow_private_addresses=True) or --allow-private-addresses."
        )
    user, _, bucket = parts.netloc.rpartition("@")
    if ":" in bucket:
        raise AudioError(
            "has a : in the name of its bucket. If there is a key before it, write a / in the key as %2F."
        )
    open_store = _open_s3 if protocol == "s3" else _open_gs
    store = open_store(bucket, user, tuple(sorted(query.items())))
    path = f"{bucket}/{unquote(parts.path.lstrip('/'))}"
    return lambda: store.open_input_file(path)


@functools.lru_cache(NUM_STORES)
def _open_s3(bucket: str, user: str, query: tuple[tuple[str, str], ...]) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    options: dict[str, Any] = dict(query)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in options:
        scheme, _, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    is_known = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not is_known and not {"region", "endpoint_override"} & set(options):
        options["region"] = resolve_s3_region(bucket)
    if user:
        options["access_key"], _, options["secret_key"] = (unquote(part) for part in user.partition(":"))
    return S3FileSystem(**options, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=NUM_ATTEMPTS))


@functools.lru_cache(NUM_STORES)
def _open_gs(bucket: str, user: str, query: tuple[tuple[str, str], ...]) -> Any:
    from datetime import timedelta

    from pyarrow.fs import GcsFileSystem

    options: dict[str, Any] = {"retry_time_limit": timedelta(seconds=30), **dict(query)}
    return GcsFileSystem(**options, anonymous=user == "anonymous")


def _find_on_hub(parts: SplitResult) -> Callable[[], Any]:
    from huggingface_hub import HfFileSystem

    path = f"{parts.netloc}/{unquote(parts.path.lstrip('/'))}"
    # What it knows of a repository is asked for anew: a listing of before could be of another commit.
    return lambda: HfFileSystem(use_listings_cache=False, skip_instance_cache=True).open(
        path, "rb", block_size=BLOCK_NUM_BYTES
    )


def _find_by_fsspec(protocol: str, uri: str, limits: AudioLimits) -> Callable[[], Any]:
    from fsspec.registry import get_filesystem_class, known_implementations

    try:
        store_class = get_filesystem_class(protocol)
    except ValueError as error:
        raise AudioError(
            f"{protocol}:// is a protocol that nothing here reads. Use s3, gs, hf, http(s), or a path."
        ) from error
    except ImportError as error:
        package = known_implementations[protocol]["class"].partition(".")[0]
        needed = known_implementations[protocol].get("err") or f"install {package}"
        raise AudioError(f"{protocol}:// needs a package that is not installed: {needed}.") from error
    if protocol not in _STORES and not limits.allow_private_addresses:
        raise AudioError(
            f"{protocol}:// sets its own host, which may lie in this network. Allow it with "
            "AudioLimits(allow_private_addresses=True) or --allow-private-addresses."
        )
    store = store_class(**store_class._get_kwargs_from_urls(uri))
    path = store_class._strip_protocol(uri)
    return lambda: store.open(path, "rb", block_size=BLOCK_NUM_BYTES)
