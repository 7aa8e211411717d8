"""The running Space as programs see it: endpoints by name, polite refusals, twenty callers at once."""

import concurrent.futures
import gc
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from patience import PATIENCE

from spaces_demo import app as app_module
from spaces_demo.settings import SpaceSettings

README = Path(__file__).parents[2] / "spaces_demo" / "README.md"


@pytest.fixture(scope="module")
def client(space: SimpleNamespace) -> Client:
    return Client(space.url, verbose=False)


def read_memory() -> int:
    """Return the memory that this process holds, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_endpoints_are_those_of_the_readme(client: Client) -> None:
    named = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    assert named == {"/score", "/compare", "/rank", "/about"}
    assert named == set(re.findall(r"^\| `(/\w+)` \|", README.read_text(), flags=re.MULTILINE))


def test_score(client: Client, songs_folder: Path, report: dict[str, Any]) -> None:
    answer = client.predict(handle_file(songs_folder / "first.wav"), api_name="/score")
    assert answer == report


def test_compare_with_and_without_a_head(client: Client, songs_folder: Path) -> None:
    songs = [handle_file(songs_folder / f"{name}.wav") for name in ("first", "second")]
    answer = client.predict(*songs, api_name="/compare")
    assert answer["probability_a"] is None
    assert "without a preference head" in answer["note"]
    answer = client.predict(*songs, "voting-model", api_name="/compare")
    assert 0 < answer["probability_a"] < 1
    assert answer["song_a"]["model"]["id"] == "voting-model"
    assert len(answer["scores"]) == 7


def test_rank(client: Client, songs_folder: Path) -> None:
    songs = [handle_file(songs_folder / name) for name in ("first.wav", "broken.mp3", "second.wav", "third.wav")]
    answer = client.predict(songs, "musicality", api_name="/rank")
    scores = [row["report"]["scores"]["musicality"] for row in answer["ranking"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert [report["song"] for report in answer["refused"]] == ["broken.mp3"]


def test_about(client: Client) -> None:
    facts = client.predict(api_name="/about")
    assert facts["model"]["id"] == "random-model"
    assert client.predict("voting-model", api_name="/about")["preference_head"] == {
        "num_battles": 400,
        "held_out_auc": 0.625,
    }
    with pytest.raises(AppError, match="no model 'other'"):
        client.predict("other", api_name="/about")
    with pytest.raises(AppError, match=r"must be given by its name, a string, got \{'a': 1\}"):
        client.predict({"a": 1}, api_name="/about")


def test_refusals_reach_the_client_in_words(client: Client, songs_folder: Path) -> None:
    with pytest.raises(AppError, match=r"broken\.mp3: this cannot be read as a song"):
        client.predict(handle_file(songs_folder / "broken.mp3"), api_name="/score")
    with pytest.raises(AppError, match="There is no song yet"):
        client.predict(None, api_name="/score")
    with pytest.raises(AppError, match=r"Song B: broken\.mp3: this cannot"):
        client.predict(
            handle_file(songs_folder / "first.wav"), handle_file(songs_folder / "broken.mp3"), api_name="/compare"
        )
    with pytest.raises(AppError, match="7 songs are too many"):
        client.predict([handle_file(songs_folder / "first.wav")] * 7, "all", api_name="/rank")


def test_files_of_the_server_are_not_to_be_had(client: Client) -> None:
    path = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError):
        client.predict(path, api_name="/score")


def test_plain_http_works_as_the_readme_says(
    space: SimpleNamespace, songs_folder: Path, report: dict[str, Any]
) -> None:
    base = f"{space.url}gradio_api"
    with (songs_folder / "first.wav").open("rb") as file:
        uploaded = httpx.post(f"{base}/upload", files={"files": ("first.wav", file)}, timeout=PATIENCE).json()[0]
    song = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(f"{base}/call/score", json={"data": [song, None]}, timeout=PATIENCE).json()["event_id"]
    text = httpx.get(f"{base}/call/score/{event}", timeout=PATIENCE).text
    assert json.loads(text.partition("event: complete\ndata: ")[2].splitlines()[0])[0] == report
    about = httpx.post(f"{base}/call/about", json={"data": [None]}, timeout=PATIENCE).json()["event_id"]
    assert "event: complete" in httpx.get(f"{base}/call/about/{about}", timeout=PATIENCE).text


def test_too_large_an_upload_is_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "large.wav").write_bytes(bytes(2 * 1024**2))
    with pytest.raises(ValueError, match="exceeds the maximum file size"):
        client.predict(handle_file(tmp_path / "large.wav"), api_name="/score")


def test_twenty_at_once_finish_or_are_turned_away(
    serve: Callable[[SpaceSettings], SimpleNamespace], model_folder: Path, songs_folder: Path, report: dict[str, Any]
) -> None:
    space = serve(SpaceSettings(models=(str(model_folder),), queue_size=6))
    clients = [Client(space.url, verbose=False) for _ in range(20)]
    song = songs_folder / "first.wav"

    def call(client: Client) -> Any:
        try:
            return client.predict(handle_file(song), api_name="/score")
        except Exception as error:
            return error

    # A first round brings what every round needs into memory.
    call(clients[0])
    before = read_memory()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, clients))
    finished = [answer for answer in answers if isinstance(answer, dict)]
    refused = [answer for answer in answers if not isinstance(answer, dict)]
    assert all(answer == report for answer in finished)
    assert len(finished) >= space.settings.queue_size
    assert all("Queue is full" in str(error) for error in refused)
    assert call(clients[-1]) == report
    assert read_memory() - before < 100 * 1024**2


def test_main_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launched: dict[str, Any] = {}
    monkeypatch.setenv("APEX_MODEL", str(model_folder))
    monkeypatch.setenv("APEX_MAX_MB", "2")
    monkeypatch.setattr(app_module.gr.Blocks, "launch", lambda self, **options: launched.update(options))
    caplog.set_level(logging.INFO)
    app_module.main()
    assert launched["max_file_size"] == 2 * 1024**2
    assert launched["share"] is False


def test_a_wrong_model_stops_the_start() -> None:
    with pytest.raises(FileNotFoundError, match="not available from the Hub"):
        app_module.build_app(SpaceSettings(models=("nobody/nothing",)))
