"""The renderer: equal specs give equal songs, songs are sound, and each factor moves its own cues and no other's."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from datasets_scripts.synthetic import ARENA_SYSTEMS, FACTOR_NAMES, PLATFORMS, SYSTEMS, Factors, Prompt, SongSpec
from datasets_scripts.synthetic.composition import Note, compose
from datasets_scripts.synthetic.factors import draw_independent_factors, draw_natural_factors
from datasets_scripts.synthetic.instruments import normalize_level, render_pad
from datasets_scripts.synthetic.prompts import draw_prompt
from datasets_scripts.synthetic.random_streams import build_generator, build_identifier
from datasets_scripts.synthetic.samples import build_sample_specs
from datasets_scripts.synthetic.song import render_song
from datasets_scripts.synthetic.systems import get_system
from datasets_scripts.synthetic.voice import render_lead

PROMPT = Prompt("pop", "hopeful", "a test", 110.0, 2, "major", False)
MIDDLE = Factors(0.6, 0.6, 0.6, 0.6, 0.6)


def build_spec(song_id="a", factors=MIDDLE, **changes):
    values = {"seed": 3, "system": "synthwave-a", "prompt": PROMPT, "seconds": 6.0} | changes
    return SongSpec(song_id=song_id, factors=factors, **values)


def build_pair(name, song_id="a", **changes):
    """Two specs that differ in one factor only: low, then high."""
    return [build_spec(song_id, dataclasses.replace(MIDDLE, **{name: value}), **changes) for value in (0.1, 0.9)]


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_every_system_makes_a_sound_song(system):
    song = render_song(build_spec(system=system))
    assert song.shape == (144000,)
    assert song.dtype == np.float32
    assert np.all(np.isfinite(song))
    assert 0.2 < np.max(np.abs(song)) <= 0.97 + 1e-6
    assert 0.08 < np.sqrt(np.mean(song**2)) < 0.16
    assert abs(np.mean(song)) < 1e-3


@settings(max_examples=8, deadline=None)
@given(
    values=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 5),
    seconds=st.floats(2.0, 6.0),
    is_instrumental=st.booleans(),
    tempo=st.floats(70, 140),
)
def test_songs_stay_within_bounds_whatever_the_factors(values, seconds, is_instrumental, tempo):
    prompt = dataclasses.replace(PROMPT, is_instrumental=is_instrumental, tempo=tempo)
    song = render_song(build_spec(factors=Factors(*values), seconds=seconds, prompt=prompt))
    assert len(song) == round(seconds * 24000)
    assert np.all(np.isfinite(song))
    assert np.max(np.abs(song)) <= 0.97 + 1e-6


def test_equal_specs_give_equal_songs_and_other_ids_give_others():
    first, again, other = (render_song(build_spec(song_id)) for song_id in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.corrcoef(first, other)[0, 1]) < 0.5


def test_rate_and_channels_follow_the_spec():
    song = render_song(build_spec(sampling_rate=44100, num_channels=2, seconds=3.0))
    assert song.shape == (132300, 2)
    left, right = song.T
    assert 0.3 < np.corrcoef(left, right)[0, 1] < 0.999


def read_parts(spec):
    composition = compose(spec)
    return {name: getattr(composition, name) for name in ("lead", "hook", "bass", "pad", "hits")}


@pytest.mark.parametrize(
    ("name", "unmoved"),
    [
        ("musicality", {"hook", "hits"}),
        ("memorability", {"bass", "pad", "hits"}),
        ("clarity", {"lead", "hook", "bass", "pad"}),
        ("naturalness", {"hook", "bass", "pad", "hits"}),
    ],
)
def test_a_factor_leaves_the_other_parts_as_they_are(name, unmoved):
    low, high = map(read_parts, build_pair(name))
    assert {part for part in low if low[part] == high[part]} == unmoved


def test_coherence_moves_when_and_in_which_key_but_not_what_is_played():
    low, high = (compose(spec) for spec in build_pair("coherence"))
    low_beats, high_beats = np.diff(low.half_bar_times), np.diff(high.half_bar_times)
    assert np.std(low_beats) > 3 * np.std(high_beats)
    shared = min(len(low.hits), len(high.hits))
    assert [hit.drum for hit in low.hits[:8]] == [hit.drum for hit in high.hits[:8]]
    assert shared > 20


def compute_cues(spec):
    """Holes (coherence), tones above the band (memorability), unbroken shuffle (the opposite of clarity)."""
    song, rate = render_song(spec), spec.sampling_rate
    level = np.sqrt(np.convolve(song**2, np.ones(240) / 240, "same"))[::240]
    frequencies, _, spectrum = signal.stft(song, rate, nperseg=2048, noverlap=1024)
    power = np.abs(spectrum[(frequencies >= 1500) & (frequencies < 5000)]) ** 2 + 1e-12
    high = signal.sosfilt(signal.butter(4, (5500, 9000), "bandpass", output="sos", fs=rate), song)
    shuffle = np.sqrt(np.convolve(high**2, np.ones(120) / 120, "same"))[::120]
    return np.array(
        [
            -np.mean(level < 0.06 * np.median(level)) / 0.05,
            np.mean(np.log10(power.max(0) / power.mean(0))) / 0.5,
            -np.mean(np.log10(np.median(shuffle) + 1e-6)) / 0.6,
        ]
    )


def test_cues_in_the_finished_song_move_with_their_own_factor_only():
    names = ("coherence", "memorability", "clarity")
    moves = {}
    for name in FACTOR_NAMES:
        pairs = [build_pair(name, song_id) for song_id in ("a", "b")]
        moves[name] = np.mean([compute_cues(high) - compute_cues(low) for low, high in pairs], axis=0)
    for column, name in enumerate(names):
        assert moves[name][column] > 0.8
        others = [abs(moves[other][column]) for other in FACTOR_NAMES if other != name]
        assert max(others) < 0.6 * moves[name][column]


@pytest.mark.parametrize(("name", "column"), [("coherence", 0), ("memorability", 1), ("clarity", 2)])
def test_cues_are_monotone_in_their_factor(name, column):
    values = [
        np.mean([compute_cues(build_spec(i, dataclasses.replace(MIDDLE, **{name: v})))[column] for i in "ab"])
        for v in (0.0, 0.35, 0.7, 1.0)
    ]
    assert np.all(np.diff(values) > 0)


def test_musical_chords_do_not_beat_and_unmusical_ones_do():
    notes, rate = [Note(0.0, 4.0, 57.0, 1.0)], 24000
    speeds = []
    for musicality in (0.0, 0.5, 1.0):
        pad = render_pad(notes, 4 * rate, rate, get_system("synthwave-a"), musicality, build_generator(0, "pad"))
        level = np.sqrt(np.convolve(pad**2, np.ones(1200) / 1200, "valid"))[2400:-2400:240]
        speeds.append(np.mean(np.abs(np.diff(level))) / np.mean(level))
    assert min(speeds[:2]) > 1.5 * speeds[2]


def test_musical_notes_lie_in_the_scale_and_unmusical_ones_do_not():
    def compute_distance(spec):
        calm = dataclasses.replace(spec, seconds=20.0, factors=dataclasses.replace(spec.factors, coherence=1.0))
        allowed = (np.array([0, 2, 4, 5, 7, 9, 11]) + PROMPT.tonic) % 12
        pitches = np.array([note.pitch for note in compose(calm).pad]) % 12
        return np.mean(np.min(np.abs((pitches[:, None] - allowed + 6) % 12 - 6), axis=1))

    sour, sweet = build_pair("musicality")
    assert compute_distance(sour) > 0.25 > 0.15 > compute_distance(sweet)


def test_a_natural_lead_breathes_and_an_unnatural_one_never_stops():
    phrases = compose(build_spec()).lead
    stable, quiet = [], []
    for value in (0.0, 0.5, 1.0):
        lead = render_lead(build_spec(factors=dataclasses.replace(MIDDLE, naturalness=value)), phrases)
        level = np.sqrt(np.convolve(lead**2, np.ones(480) / 480, "same"))[4800:-4800:240]
        stable.append(np.std(level) / np.mean(level))
        quiet.append(np.mean(level < 0.35 * level.max()))
    assert stable[0] < stable[1] < stable[2]
    assert quiet[0] < quiet[2]


def test_the_lead_hears_no_factor_but_naturalness():
    phrases = compose(build_spec()).lead
    other = build_spec(factors=Factors(0.1, 0.9, 0.1, 0.9, 0.6))
    np.testing.assert_array_equal(render_lead(build_spec(), phrases), render_lead(other, phrases))


def test_independent_factors_are_independent_and_natural_ones_are_linked():
    generator = build_generator(0, "draws")
    free = np.array([list(draw_independent_factors(generator).to_dict().values()) for _ in range(800)])
    linked = np.array([list(draw_natural_factors(generator, 0.5).to_dict().values()) for _ in range(800)])
    off_diagonal = ~np.eye(5, dtype=bool)
    assert np.abs(np.corrcoef(free.T)[off_diagonal]).max() < 0.15
    assert np.corrcoef(linked.T)[off_diagonal].min() > 0.2
    assert linked.min() >= 0
    assert linked.max() <= 1


def test_labels_run_from_one_to_five():
    assert list(Factors(0.0, 0.25, 0.5, 0.75, 1.0).to_labels().items()) == list(
        zip(FACTOR_NAMES, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True)
    )


def test_factor_names_are_the_aesthetic_heads():
    from modeling_apex.inference.heads_apex import DEFAULT_HEADS

    assert tuple(head["name"] for head in DEFAULT_HEADS if head["group"] == "aesthetics") == FACTOR_NAMES


def test_streams_depend_on_every_name():
    draws = {build_generator(*key).random() for key in [(0, "a"), (1, "a"), (0, "b"), (0, "a", "b")]}
    assert len(draws) == 4
    assert build_generator(0, "a").random() == build_generator(0, "a").random()
    assert len(build_identifier(0, "a")) == 36


def test_prompts_seldom_repeat():
    texts = {draw_prompt(build_generator(0, str(number))).text for number in range(500)}
    assert len(texts) > 495


def test_two_platforms_eleven_others_and_six_samples():
    assert (len(PLATFORMS), len(ARENA_SYSTEMS), len(SYSTEMS)) == (2, 11, 13)
    means = [np.mean(list(spec.factors.to_dict().values())) for spec in build_sample_specs().values()]
    assert means == sorted(means, reverse=True)
    assert len(means) == 6


def test_silence_stays_silence_when_leveled():
    assert not normalize_level(np.zeros(8, np.float32), 0.1).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": 0.5}, "lasts between 2 and 1200 seconds"),
        ({"sampling_rate": 8000}, "between 16000 and 96000"),
        ({"num_channels": 3}, "choose 1 .mono. or 2 .stereo."),
        ({"system": "suno"}, "There is no system called 'suno'. Choose one of: synthwave-a"),
    ],
)
def test_impossible_specs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_spec(**change)


def test_factors_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"Factor `clarity` is 1\.2, but factors lie between 0 and 1"):
        Factors(0.5, 0.5, 0.5, 1.2, 0.5)
