"""
Each door of another program, called as that program calls it.

TRL and torchmetrics are the real ones. The others are not on a package index: what they call is restated here as their
sources state it.
"""

import base64
import json
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from modeling_apex.rewards import SongReward
from modeling_apex.rewards.__main__ import main as serve
from modeling_apex.rewards.adapters import verl_omni
from modeling_apex.rewards.adapters.audiobox import initialize_predictor
from modeling_apex.rewards.adapters.cmi_rewardbench import ApexRewardModel
from modeling_apex.rewards.adapters.flow_grpo import apex_score
from modeling_apex.rewards.adapters.torchmetrics import build_metric
from modeling_apex.rewards.adapters.trl import build_reward_function
from modeling_apex.rewards.adapters.unirl import build_backend_class
from modeling_apex.rewards.adapters.verl_omni_server import build_server
from modeling_apex.rewards.adapters.versa import register_apex_metric

from small_model import build_small_model

RATE = 24_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "model"
    build_small_model().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def songs():
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((2, count)) * 0.1).astype(np.float32) for count in (5000, 2400)]


@pytest.fixture(scope="module")
def expected(folder, songs):
    return SongReward(folder)(songs, RATE)


def test_adapters_are_thin():
    for path in Path(verl_omni.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path.name


class TestTrl:
    def test_a_column_of_sound_is_scored(self, folder, songs, expected):
        reward = build_reward_function(SongReward(folder))
        cells = [{"array": song, "sampling_rate": RATE} for song in songs]
        # As TRL calls it, with columns and what it adds to them.
        rewards = reward(
            prompts=["a", "b"], completions=["x", "y"], completion_ids=[[1], [2]], audio=cells, trainer_state=None
        )
        assert rewards == pytest.approx(expected.tolist())

    def test_a_song_that_cannot_be_scored_has_no_reward(self, folder, songs):
        reward = build_reward_function(
            SongReward(folder, on_error="nan"),
            decode=lambda completions, **_: [(songs[0], RATE), (np.zeros(2, np.float32), RATE)],
        )
        first, second = reward(prompts=["a", "b"], completions=["x", "y"], completion_ids=[[1], [2]])
        assert first is not None
        assert second is None

    def test_a_data_set_without_sound_is_refused(self, folder):
        with pytest.raises(ValueError, match="no column 'audio' with sound"):
            build_reward_function(SongReward(folder))(prompts=["a"], completions=["x"], completion_ids=[[1]])

    def test_a_real_trainer_takes_a_step(self, folder, songs, tmp_path):
        from datasets import Dataset
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        from trl import GRPOConfig, GRPOTrainer

        words = {word: index for index, word in enumerate(["<pad>", "<eos>", "a", "b", "c", "d"])}
        tokenizer = Tokenizer(models.WordLevel(words, **{"unk_token": "a"}))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"pad_token": "<pad>", "eos_token": "<eos>"})
        config = GPT2Config(
            vocab_size=6, n_positions=32, n_embd=8, n_layer=1, n_head=1, eos_token_id=1, bos_token_id=1
        )
        rows = Dataset.from_list(
            [{"prompt": "a b", "audio": {"array": song[0].tolist(), "sampling_rate": RATE}} for song in songs]
        )
        arguments = GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=4,
            max_steps=1,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
        )
        calls = []
        reward = build_reward_function(SongReward(folder), name="apex_musicality")

        def counted(**columns: Any) -> list[float | None]:
            calls.append(reward(**columns))
            return calls[-1]

        counted.__name__ = reward.__name__
        trainer = GRPOTrainer(
            model=GPT2LMHeadModel(config),
            reward_funcs=counted,
            args=arguments,
            train_dataset=rows,
            processing_class=fast,
        )
        trainer.train()
        assert trainer.state.global_step == 1
        [rewards] = calls
        assert len(rewards) == 2
        logged = [entry for entry in trainer.state.log_history if "rewards/apex_musicality/mean" in entry]
        assert logged[0]["rewards/apex_musicality/mean"] == pytest.approx(np.mean(rewards), abs=1e-4)


class TestVerlOmni:
    def test_a_score_in_process(self, folder, songs, expected):
        result = verl_omni.compute_score("songs", (songs[0].mean(0), RATE), None, {}, model=folder)
        assert result["score"] == pytest.approx(expected.tolist()[0], abs=1e-5)
        assert set(result) == {"score", *expected.components}
        assert all(isinstance(value, float) for value in result.values())

    def test_what_cannot_be_scored_is_an_error(self, folder):
        with pytest.raises(ValueError, match="lasts 3 samples"):
            verl_omni.compute_score("songs", (np.zeros(3, np.float32), RATE), model=folder)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--score", "loudness"], "has no score loudness"),
            (["/nope/model"], "/nope/model"),
        ],
    )
    def test_a_server_that_could_not_answer_does_not_start(self, words, message, capsys):
        assert serve(words) == 2
        assert message in capsys.readouterr().err

    @pytest.mark.enable_socket
    def test_a_score_by_http(self, folder, songs, expected):
        server = build_server("127.0.0.1", 0, model=folder)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            mono = songs[0].mean(0).astype("<f4")
            request = {
                "protocol_version": "1",
                "waveform_f32_base64": base64.b64encode(mono.tobytes()).decode(),
                "num_samples": len(mono),
                "sample_rate": RATE,
                "prompt": "a song",
                "metadata": {},
            }
            assert post(server, request)["score"] == pytest.approx(expected.tolist()[0], abs=1e-5)
            for wrong, message in (
                ({"protocol_version": "2"}, "protocol_version must be '1'"),
                ({"num_samples": 7}, "num_samples is 7"),
                ({"waveform_f32_base64": "%"}, "Error"),
                ({"sample_rate": "fast"}, "Error"),
            ):
                with pytest.raises(urllib.error.HTTPError) as caught:
                    post(server, request | wrong)
                assert caught.value.code == 400
                assert message in json.loads(caught.value.read())["error"]
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def post(server: Any, content: dict[str, Any]) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        url, json.dumps(content).encode()
    ) as answer:
        return json.loads(answer.read())


def test_unirl_gets_rewards_components_and_errors(folder, songs, expected, monkeypatch):
    @dataclass
    class RewardResponse:
        rewards: list[float]
        component_rewards: dict[str, list[float]] = field(default_factory=dict)
        successes: list[bool] = field(default_factory=list)
        errors: list[str | None] = field(default_factory=list)
        compute_time: float = 0.0

    class LocalRewardBackend:
        def __init__(self, device: str = "cuda", **model_kwargs: Any) -> None:
            self.device, self.model_kwargs, self.model = device, model_kwargs, None
            self._load_model()

        def compute_rewards(self, request: Any) -> RewardResponse:
            return RewardResponse(self._compute_model_rewards(request))

    install(monkeypatch, "unirl.reward.local.base", LocalRewardBackend=LocalRewardBackend)
    backend = build_backend_class()(device="cpu", model=folder)
    request = SimpleNamespace(audio=[*songs, np.zeros(2, np.float32)], audio_sample_rate=RATE, metadata=None)
    response = backend.compute_rewards(request)
    assert response.rewards[:2] == pytest.approx(expected.tolist())
    assert response.successes == [True, True, False]
    assert "lasts 2 samples" in response.errors[2]
    assert response.component_rewards["clarity"][:2] == pytest.approx(expected.components["clarity"].tolist())
    assert backend.model is backend.reward.model


def test_flow_grpo_gets_scores_and_details(folder, songs, expected):
    compute = apex_score("cpu", model=folder, sampling_rate=RATE)
    scores, details = compute(songs, ["a", "b"], None)
    assert scores == pytest.approx(expected.tolist())
    assert details["score_likes"] == pytest.approx(expected.components["score_likes"].tolist())
    batch = torch.from_numpy(np.stack([songs[0], songs[0]]))
    assert compute(batch, ["a", "b"], [{"sampling_rate": RATE}] * 2)[0] == pytest.approx([expected.tolist()[0]] * 2)


def test_cmi_rewardbench_gets_two_columns(folder, songs, expected, tmp_path):
    model = ApexRewardModel(folder, "cpu")
    assert model.sr == RATE
    soundfile.write(tmp_path / "song.wav", songs[1].T, RATE, subtype="FLOAT")
    inputs = [SimpleNamespace(audio=torch.from_numpy(songs[0])), SimpleNamespace(audio=str(tmp_path / "song.wav"))]
    scores = model.score_batch(inputs, batch_size=1, max_dur=30)
    assert scores.shape == (2, 2)
    assert np.isnan(scores[:, 0]).all()
    assert scores[:, 1] == pytest.approx(expected.tolist(), abs=1e-5)
    shorter = model.score_batch(inputs[:1], max_dur=0.1)
    assert shorter[0, 1] == pytest.approx(SongReward(folder)(songs[0][:, :2400], RATE).tolist()[0], abs=1e-6)


def test_versa_gets_a_registered_metric(folder, songs, expected, monkeypatch):
    class BaseMetric:
        def __init__(self, config: dict[str, Any] | None = None) -> None:
            self.config = config or {}
            self._setup()

    @dataclass
    class MetricMetadata:
        name: str
        category: Any
        metric_type: Any
        requires_reference: bool
        requires_text: bool
        gpu_compatible: bool
        auto_install: bool
        dependencies: list[str]
        description: str

    category, kind = Enum("MetricCategory", ["INDEPENDENT"]), Enum("MetricType", ["DICT"])
    install(
        monkeypatch,
        "versa.definition",
        BaseMetric=BaseMetric,
        MetricCategory=category,
        MetricMetadata=MetricMetadata,
        MetricType=kind,
    )
    registered = {}
    registry = SimpleNamespace(register=lambda metric, metadata, aliases: registered.update({metadata.name: metric}))
    register_apex_metric(registry)
    metric = registered["apex"]({"model": folder})
    result = metric.compute(songs[0].mean(0), metadata={"sample_rate": RATE})
    assert result["apex_musicality"] == pytest.approx(expected.tolist()[0], abs=1e-5)
    assert metric.get_metadata().requires_reference is False


def test_audiobox_habit(folder, songs, expected, tmp_path):
    predictor = initialize_predictor(ckpt=folder)
    soundfile.write(tmp_path / "song.wav", songs[1].T, RATE, subtype="FLOAT")
    first, second = predictor.forward(
        [{"path": torch.from_numpy(songs[0]), "sample_rate": RATE}, {"path": str(tmp_path / "song.wav")}]
    )
    assert [first["musicality"], second["musicality"]] == pytest.approx(expected.tolist(), abs=1e-5)
    [part] = predictor.forward([{"path": str(tmp_path / "song.wav"), "start_time": 0, "end_time": 0.05}])
    assert part["musicality"] == pytest.approx(SongReward(folder)(songs[1][:, :1200], RATE).tolist()[0], abs=1e-5)


def test_torchmetrics_means_over_updates(folder, songs, expected):
    metric = build_metric(folder)
    padded = torch.zeros(2, 2, 5000)
    for row, song in enumerate(songs):
        padded[row, :, : song.shape[1]] = torch.from_numpy(song)
    metric.update(padded, ["a", "b"], torch.tensor([5000, 2400]), torch.tensor([RATE, RATE]))
    assert metric.compute().item() == pytest.approx(np.mean(expected.tolist()), abs=1e-5)
    metric.update(padded[:1], ["a"], torch.tensor([5000]), torch.tensor([RATE]))
    assert metric.compute().item() == pytest.approx(np.mean([*expected.tolist(), expected.tolist()[0]]), abs=1e-5)
    metric.reset()
    assert np.isnan(metric.compute().item())


def install(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Put a module under a dotted name, with its parents, for a program that is not on a package index."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:depth]))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(module).update(members)
