"""
Tell what a file is by its first bytes: which demuxer is for it, where it begins, and what nobody should open.

What comes in are bytes; what leaves is a name, or a refusal that says what it is.
"""

import os
import re
from typing import BinaryIO, NoReturn

from modeling_apex.inference.audio_limits_apex import AudioError
from modeling_apex.inference.libsndfile_apex import MAX_TAGS

# Containers that libsndfile does not read, or reads only in part, told by their first bytes. The demuxer is named
# rather than guessed: left to guess, FFmpeg also opens playlists, which may point at other files and hosts.
CONTAINERS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)", re.DOTALL), "mov", "MP4/M4A/QuickTime"),
    (re.compile(rb"\x1aE\xdf\xa3"), "matroska", "WebM/Matroska"),
    (re.compile(rb"0&\xb2u\x8ef\xcf\x11"), "asf", "WMA/ASF"),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), "avi", "AVI"),
    (re.compile(rb"(RIFF|RF64).{4}WAVE", re.DOTALL), "wav", "WAV"),
    (re.compile(rb"FORM.{4}AIF[FC]", re.DOTALL), "aiff", "AIFF"),
    (re.compile(rb"OggS"), "ogg", "Ogg"),
    (re.compile(rb"fLaC"), "flac", "FLAC"),
    (re.compile(rb"FLV\x01"), "flv", "FLV"),
    (re.compile(rb"caff"), "caf", "CAF"),
    (re.compile(rb"\x0bw.{3}[\x58-\xff]", re.DOTALL), "eac3", "E-AC-3"),
    (re.compile(rb"\x0bw"), "ac3", "AC-3"),
    (re.compile(rb"G.{187}G", re.DOTALL), "mpegts", "MPEG transport stream"),
    (re.compile(rb"\x00\x00\x01\xba"), "mpeg", "MPEG program stream"),
    (re.compile(rb"ADIF|\xff[\xf0\xf1\xf8\xf9]"), "aac", "AAC"),
    (re.compile(rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]"), "mp3", "MP3"),
)

# What few songs are in, and FFmpeg reads. Decoded in a child process: these decoders are less used and less tried.
RARE_CONTAINERS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"wvpk"), "wv", "WavPack"),
    (re.compile(rb"MAC "), "ape", "Monkey's Audio"),
    (re.compile(rb"TTA[12]"), "tta", "True Audio"),
    (re.compile(rb"MPCK"), "mpc8", "Musepack"),
    (re.compile(rb"MP\+"), "mpc", "Musepack"),
    (re.compile(rb"tBaK"), "tak", "TAK"),
    (re.compile(rb"ajkg"), "shn", "Shorten"),
    (re.compile(rb"OSQ "), "osq", "OSQ"),
    (re.compile(rb"RKA7"), "rka", "RK Audio"),
    (re.compile(rb"BONK|\x00BONK"), "bonk", "Bonk"),
    (re.compile(rb"qoaf"), "qoa", "QOA"),
    (re.compile(rb"DSD "), "dsf", "DSF"),
    (re.compile(rb"FRM8.{8}DSD ", re.DOTALL), "iff", "DSDIFF"),
    (re.compile(rb"FORM.{4}(8SVX|16SV|MAUD)", re.DOTALL), "iff", "IFF"),
    (re.compile(rb"DTSHDHDR"), "dtshd", "DTS-HD"),
    (re.compile(rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\x1f\xff\xe8\x00|\xff\x1f\x00\xe8"), "dts", "DTS"),
    (re.compile(rb".{4}\xf8\x72\x6f\xba", re.DOTALL), "truehd", "TrueHD"),
    (re.compile(rb".{4}\xf8\x72\x6f\xbb", re.DOTALL), "mlp", "MLP"),
    (re.compile(rb"(\x72\xf8\x1f\x4e|\xf8\x72\x4e\x1f)"), "spdif", "S/PDIF"),
    (re.compile(rb"#!AMR"), "amr", "AMR"),
    (re.compile(rb"Creative Voice File"), "voc", "Creative Voice"),
    (re.compile(rb"\.snd|dns\."), "au", "AU"),
    (re.compile(rb"riff\x2e\x91\xcf\x11"), "w64", "Wave64"),
    (re.compile(rb"\x64\xa3[\x01-\x04]\x00|\x00[\x01-\x04]\xa3\x64"), "ircam", "IRCAM"),
    (re.compile(rb"NIST_1A"), "nistsphere", "NIST SPHERE"),
    (re.compile(rb"\.RMF|\.ra\xfd"), "rm", "RealAudio"),
    (re.compile(rb"nut/multimedia container\x00"), "nut", "NUT"),
    (re.compile(rb"(ea3\x03|EA3\x01)"), "oma", "ATRAC/OMA"),
    (re.compile(rb"\.SoX|XoS\."), "sox", "SoX"),
    (re.compile(rb"STRM"), "ast", "AST"),
    (re.compile(rb"TWIN"), "vqf", "TwinVQ"),
    (re.compile(rb"MMMD"), "mmf", "SMAF"),
    (re.compile(rb"\x80\x00.{2}[\x02-\x04]\x12\x04", re.DOTALL), "adx", "CRI ADX"),
    (re.compile(rb"RIFF.{4}QLCM", re.DOTALL), "qcp", "QCP"),
    (re.compile(rb"[\x02\x03](dss|ds2)"), "dss", "DSS"),
    (re.compile(rb"\xb7\xd8\x00\x20\x37\x49\xda\x11"), "wtv", "WTV"),
    (re.compile(rb"\x06\x0e\x2b\x34"), "mxf", "MXF"),
    (re.compile(rb"\x00\x00\x00\x00\x01\xbc.{8}\xe1\xe2", re.DOTALL), "gxf", "GXF"),
    (re.compile(rb"\x56[\xe0-\xff]"), "loas", "AAC/LOAS"),
    (re.compile(rb"[FC]WS[\x01-\x20]"), "swf", "Flash"),
    (re.compile(rb"\xc0\xde\xc2"), "codec2", "Codec 2"),
    (re.compile(rb"ALP .{4}ADPCM\x00", re.DOTALL), "alp", "ALP"),
    (re.compile(rb"KVAG"), "kvag", "KVAG"),
    (re.compile(rb"ASF\x00"), "argo_asf", "Argonaut ASF"),
    (re.compile(rb"\x00\x20.{18}vs12", re.DOTALL), "apm", "APM"),
)

HEADERLESS = re.compile(
    r"\.(g722|g723(_1)?|tco|g726(le)?|gsm|sbc|msbc|aptx(hd)?|dfpwm|302|daud|rso|aud|alaw|mulaw|al|ul|raw|pcm|s8|u8|"
    r"[suf](16|24|32|48|64)[lb]e)",
    re.IGNORECASE,
)
"""Names that end so are of sound whose bytes do not say what they are: it cannot be told from noise."""

MAX_ZERO_BYTES = 1 << 20
"""How many zero bytes may stand before a song."""

# What people pass by mistake or on purpose, told by its first bytes. No library is asked to open it: archives unpack
# to more than they seem, and playlists point at other files and hosts.
_TEXT_START = rb"(?:\xef\xbb\xbf)?\s*"
_ARCHIVE_ADVICE = "Unpack it and pass the songs in it."
_PLAYLIST_ADVICE = "Playlists are not followed; pass the songs that it names."
REFUSED_FORMATS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)"), "a ZIP archive", _ARCHIVE_ADVICE),
    (re.compile(rb"\x1f\x8b"), "a gzip archive", _ARCHIVE_ADVICE),
    (re.compile(rb"BZh[1-9]"), "a bzip2 archive", _ARCHIVE_ADVICE),
    (re.compile(rb"\xfd7zXZ\x00"), "an xz archive", _ARCHIVE_ADVICE),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "a Zstandard archive", _ARCHIVE_ADVICE),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive", _ARCHIVE_ADVICE),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive", _ARCHIVE_ADVICE),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive", _ARCHIVE_ADVICE),
    (re.compile(_TEXT_START + rb"#EXT(M3U|INF|-X-)", re.IGNORECASE), "an M3U playlist", _PLAYLIST_ADVICE),
    (re.compile(_TEXT_START + rb"\[playlist\]", re.IGNORECASE), "a PLS playlist", _PLAYLIST_ADVICE),
    (re.compile(_TEXT_START + rb"ffconcat version", re.IGNORECASE), "an ffconcat playlist", _PLAYLIST_ADVICE),
    (
        re.compile(_TEXT_START + rb"(<\?xml.{0,400}?)?<(mpd|asx|smil|playlist)[\s>]", re.IGNORECASE | re.DOTALL),
        "an XML playlist",
        _PLAYLIST_ADVICE,
    ),
    (re.compile(_TEXT_START + rb"v=0\r?\no="), "a session description (SDP)", _PLAYLIST_ADVICE),
)


def refuse_format(name: str, head: bytes) -> None:
    """Raise `AudioError` if the first bytes of a file are those of an archive or a playlist."""
    for pattern, label, advice in REFUSED_FORMATS:
        if pattern.match(head):
            raise AudioError(f"{name}: is {label}, not a song. {advice}")


def recognize(head: bytes) -> tuple[str, str, bool] | None:
    """Return the demuxer, the name for people and whether it is rare, of what begins so; None if unknown."""
    for entries, is_rare in ((CONTAINERS, False), (RARE_CONTAINERS, True)):
        for pattern, demuxer, label in entries:
            if pattern.match(head):
                return demuxer, label, is_rare
    return None


def refuse_unknown(name: str, head: bytes) -> NoReturn:
    """Raise `AudioError` for a file of which [`recognize`] knows nothing."""
    ending = os.path.splitext(name)[1]
    advice = (
        "Check that it is a song and not, say, a web page saved under that name, or convert it to WAV or FLAC."
        if HEADERLESS.fullmatch(ending) is None
        else f"Audio of this kind ({ending}) has no header that says what it is; convert it to WAV first: `ffmpeg -i "
        f"song{ending} song.wav`. For raw samples, tell FFmpeg the format, such as `-f s16le -ar 44100 "
        "-ac 2` before `-i`."
    )
    raise AudioError(f"{name}: is not in a format that this program reads; its first bytes are {head[:8]!r}. {advice}")


def find_start(handle: BinaryIO) -> int:
    """Return where a song begins, behind zero bytes and tags (ID3v2, APE), however they follow each other."""
    start = 0
    for _ in range(MAX_TAGS):
        handle.seek(start)
        tag = handle.read(32)
        if tag[:3] == b"ID3" and len(tag) >= 10:
            size = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
            start += 10 + size + (10 if tag[5] & 0x10 else 0)
        elif tag[:8] == b"APETAGEX":
            start += 32 + int.from_bytes(tag[12:16], "little")
        elif tag[:1] == b"\0":
            handle.seek(start)
            zeros = handle.read(MAX_ZERO_BYTES)
            num_zeros = len(zeros) - len(zeros.lstrip(b"\0"))
            if num_zeros == len(zeros):
                break
            # What begins with zeros itself, such as the size of an MP4 box, begins with at most three or four.
            begins = range(max(0, num_zeros - 4), num_zeros + 1)
            parts = {place: zeros[place : place + 512] for place in begins}
            known = [place for place, part in parts.items() if recognize(part) or part[:8] == b"APETAGEX"]
            if not known or known[0] == 0:
                break
            start += known[0]
        else:
            break
    return min(start, handle.seek(0, os.SEEK_END))
