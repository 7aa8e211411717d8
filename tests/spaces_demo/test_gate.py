"""What a stranger posts at a running Space: nothing of it is drawn, little of it is kept, and few routes are there."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from patience import PATIENCE
from starlette.routing import Route

from modeling_apex import PreferenceHead
from spaces_demo import compare_view, rank_view
from spaces_demo.app import build_app, build_launch_options
from spaces_demo.gate import MAX_BODY_BYTES, MAX_SESSIONS, build_policy, check_content
from spaces_demo.settings import SpaceSettings

SCRIPT = "<img src=x onerror=alert(1)>"
CLOSED = (
    "/gradio_api/deep_link?session_hash=a",
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/key",
    "/gradio_api/startup-events",
    "/gradio_api/queue/status",
    "/gradio_api/runs",
    "/gradio_api/run-history/buckets",
    "/gradio_api/proxy=https://example.hf.space/",
    "/gradio_api/file=https://example.com/song.wav",
    "/gradio_api/file/etc/passwd",
    "/gradio_api/custom_component/a/client/b/c",
    "/gradio_api/stream/a/b/1/playlist.m3u8",
    "/gradio_api/token",
    "/gradio_api/user",
    "/openapi.json",
    "/logout",
    "/pwa_icon",
)
CLOSED_POSTS = (
    "run/predict",
    "run/score",
    "api/predict",
    "component_server",
    "process_recording",
    "vibe-edit",
    "login",
)


@pytest.fixture(scope="module")
def held() -> Any:
    """A Space whose inside can be looked at, with a small model and a limit of its own."""
    settings = SpaceSettings(queue_size=400, max_seconds=31.0)
    app = build_app(settings)
    _, url, _ = app.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **build_launch_options(settings)
    )
    yield SimpleNamespace(url=url, app=app)
    app.close(verbose=False)


def ask(url: str, body: dict[str, Any], session: str) -> str:
    """Post to the queue as a page does, and past it as an attacker would; return everything that comes back."""
    body = {"session_hash": session, **body}
    past = httpx.post(f"{url}gradio_api/run/predict", json=body, timeout=PATIENCE).text
    posted = httpx.post(f"{url}gradio_api/queue/join", json=body, timeout=PATIENCE)
    if posted.status_code != 200:
        return posted.text + past
    return httpx.get(f"{url}gradio_api/queue/data", params={"session_hash": session}, timeout=PATIENCE).text + past


def find_answers(text: str) -> list[Any]:
    """Return what the endpoints answered, in the words of the queue and of a call past it; errors are none."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith(("data: {", "{"))]
    messages = [json.loads(line) for line in lines]
    messages += [message["output"] for message in messages if "output" in message]
    return [message["data"] for message in messages if "data" in message]


def test_no_endpoint_draws_what_is_posted_to_it(space: SimpleNamespace, report: dict[str, Any]) -> None:
    hostile = {**report, "song": SCRIPT, "warnings": [SCRIPT]}
    # What each tab draws, whole but for the fields that a script could be in.
    head = PreferenceHead({"coherence": 1.0})
    comparison = {**compare_view.build_comparison(hostile, hostile, head), "note": SCRIPT}
    ranking = rank_view.build_ranking([hostile, {**hostile, "error": SCRIPT}])
    ranking["ranking"][0]["place"] = SCRIPT
    dependencies = httpx.get(f"{space.url}config", timeout=PATIENCE).json()["dependencies"]
    assert dependencies
    num_answers, drawing = 0, set()
    for dependency in dependencies:
        for number, value in enumerate((None, SCRIPT, hostile, comparison, ranking)):
            body = {"fn_index": dependency["id"], "data": [value] * len(dependency["inputs"])}
            answers = find_answers(ask(space.url, body, f"hostile{dependency['id']}-{number}"))
            num_answers += len(answers)
            if "<img" in json.dumps(answers):
                drawing.add(dependency["api_name"])
    assert drawing == set()
    assert num_answers > 0  # to nothing at all, which is the first model for `/about`


@pytest.mark.parametrize("path", CLOSED)
def test_what_the_page_does_not_need_is_not_there(space: SimpleNamespace, path: str) -> None:
    assert httpx.get(space.url.rstrip("/") + path, timeout=PATIENCE).status_code == 404


@pytest.mark.parametrize("path", CLOSED_POSTS)
def test_nothing_skips_the_queue(space: SimpleNamespace, path: str) -> None:
    body = {"data": [None, None], "fn_index": 0, "session_hash": "a"}
    assert httpx.post(f"{space.url}gradio_api/{path}", json=body, timeout=PATIENCE).status_code == 404


def test_the_open_routes_are_these(held: SimpleNamespace) -> None:
    gate = httpx.Client(base_url=held.url, timeout=PATIENCE)
    paths = {route.path for route in held.app.app.routes if isinstance(route, Route) and "{" not in route.path}
    answering = {path for path in paths if gate.get(path).status_code != 404}
    assert answering <= {"/", "/config", "/config/", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"}


def test_the_config_names_no_folder_but_that_of_the_samples(space: SimpleNamespace, model_folder: Path) -> None:
    text = httpx.get(f"{space.url}config", timeout=PATIENCE).text
    assert str(model_folder.parent) not in text


def test_every_answer_carries_the_policy(space: SimpleNamespace) -> None:
    for path in ("", "config", "missing", "theme.css"):
        headers = httpx.get(space.url + path, timeout=PATIENCE).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert "unsafe-inline" not in scripts
        assert "frame-ancestors 'self' https://huggingface.co" in policy
    assert "'sha256-" in httpx.get(space.url, timeout=PATIENCE).headers["content-security-policy"]
    assert "sha256" not in build_policy(b'<script type="module" src="a.js"></script>')


def test_hundreds_of_posts_leave_a_bounded_number_of_answers_and_sessions(held: SimpleNamespace) -> None:
    about = next(fn for fn in held.app.fns.values() if fn.api_name == "about")
    with httpx.Client(base_url=held.url, timeout=PATIENCE) as client:
        for number in range(300):
            body = {"fn_index": about._id, "data": [None], "session_hash": f"s{number}"}
            assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    queue = held.app._queue
    working = {event.session_hash for event in list(queue.event_ids_to_events.values())}
    assert len(set(queue.pending_messages_per_session) - working) <= MAX_SESSIONS + 1 + len(working)
    assert len(held.app.state_holder.session_data) <= MAX_SESSIONS
    assert len(queue.event_analytics) <= 1
    assert queue.cached_event_analytics_summary == {"functions": {}}


def test_large_bodies_are_refused(space: SimpleNamespace) -> None:
    answer = httpx.post(f"{space.url}gradio_api/queue/join", content=b"[" * (MAX_BODY_BYTES + 1), timeout=PATIENCE)
    assert answer.status_code == 413
    assert "Upload files first" in answer.text
    deep = httpx.post(f"{space.url}gradio_api/queue/join", content=b"[" * 100_000, timeout=PATIENCE)
    assert deep.status_code == 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a JSON object"),
        ({"session_hash": "a" * 65}, "`session_hash` must be up to 64"),
        ({"event_id": {}}, "`event_id` must be up to 64"),
        ({"data": [[{"path": "https://example.com/song.wav"}]]}, "`path` is a URL"),
    ],
)
def test_what_no_page_sends_is_refused(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_content(content)


def test_an_upload_by_http_is_refused_in_words(serve: Callable[..., Any], space: SimpleNamespace) -> None:
    answer = httpx.post(
        f"{space.url}gradio_api/upload", files={"files": ("a.wav", bytes(2 * 1024**2))}, timeout=PATIENCE
    )
    assert answer.status_code == 413
    page = httpx.post(
        f"{space.url}gradio_api/upload", files={"files": ("evil.html", f"<p>{SCRIPT}".encode())}, timeout=PATIENCE
    ).json()
    shown = httpx.get(f"{space.url}gradio_api/file={page[0]}", timeout=PATIENCE)
    assert shown.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in shown.headers["content-security-policy"]
