"""What a URL is called in reports, tables and logs: enough to know the place, nothing that opens it."""

import logging

import pytest

from modeling_apex.storage.source_names import HideSecrets, hide_secrets, name_source


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://host/a.mp3", "https://host/a.mp3"),
        ("https://host/path?mail=a@b", "https://host/path?mail=***"),
        ("http://me:se@cret@host:81/a.mp3?x=1", "http://host:81/a.mp3?x=1"),
        ("HTTPS://me@host/a.mp3#access_token=5ecre7", "HTTPS://host/a.mp3"),
        ("https://host/get?id=41&format=mp3", "https://host/get?id=41&format=mp3"),
        ("https://h/g?v=dQw4w9WgXcQ&song=a%20b", "https://h/g?v=dQw4w9WgXcQ&song=a%20b"),
        ("https://h/g?id=550e8400-e29b-41d4-a716-446655440000", "https://h/g?id=550e8400-e29b-41d4-a716-446655440000"),
        (
            "https://b/a?X-Amz-Credential=A%2F1&X-Amz-Signature=ab",
            "https://b/a?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://b/a?sv=1&se=2&sp=r&sig=ab%3D", "https://b/a?sv=***&se=***&sp=***&sig=***"),
        ("https://c/a?Policy=p&Key-Pair-Id=k;token=t", "https://c/a?Policy=***&Key-Pair-Id=***&token=***"),
        ("https://c/a?API%4Bey=k&t=1", "https://c/a?API%4Bey=***&t=***"),
        ("https://c/a?x=4f1c9a77e1b24c0d8d3d9a1c0b7f2e6a", "https://c/a?x=***"),
        ("https://c/a?4f1c9a77e1b24c0d8d3d9a1c0b7f2e6a", "https://c/a?***"),
        ("https://c/go?to=https%3A%2F%2Fme%3Apw%40host", "https://c/go?to=***"),
        ("songs/what?token=1.wav", "songs/what?token=1.wav"),
        ("s3://AKIA:se/cret@bucket/a.mp3", "s3://bucket/a.mp3"),
        ("abfs+ssl://me:pw@host/a.mp3", "abfs+ssl://host/a.mp3"),
        ("http://host:81/me@home.mp3", "http://host:81/me@home.mp3"),
        ("s3://bucket/me@home.mp3", "s3://bucket/me@home.mp3"),
    ],
)
def test_names(source: str, name: str) -> None:
    assert name_source(source) == name
    assert name_source(name) == name, "a name is its own name"


def test_texts_and_records() -> None:
    text = "GET https://me:pw@host/a?sig=1 and 'http://b/c?token=2', then nothing"
    assert hide_secrets(text) == "GET https://host/a?sig=*** and 'http://b/c?token=***', then nothing"
    record = logging.LogRecord("httpx", logging.INFO, "", 1, "HTTP Request: %s %s", ("GET", "http://b/?key=2"), None)
    assert HideSecrets().filter(record)
    assert record.getMessage() == "HTTP Request: GET http://b/?key=***"
