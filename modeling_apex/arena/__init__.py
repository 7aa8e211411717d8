"""
The arena experiment: judging scores on battles, the songs between which people chose.

Reading a preference head takes numpy only; running the experiment needs the `eval` extra.
"""

from modeling_apex.arena.battle_files import build_battle_table, load_battle_table
from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.preference import PREFERENCE_HEAD_FILE, PreferenceHead, score_preference

__all__ = [
    "PREFERENCE_HEAD_FILE",
    "BattleTable",
    "PreferenceHead",
    "build_battle_table",
    "load_battle_table",
    "score_preference",
]
