"""
What others report: the paper on its Music Arena battles (arXiv 2605.03395), and CMI-RewardBench of its judges. It
stands beside ours and is never mistaken for it.

The published rules let the lower score win; `DIRECT_RULES` holds what the published scores reach when read rightly.
"""

SOURCE = "arXiv 2605.03395"

# Classifier and feature set to AUC on all, instrumental and vocal battles and F1 on all, as far as they are reported.
CLASSIFIERS: dict[tuple[str, str], dict[str, float]] = {
    ("svm", "popularity"): {"auc_all": 0.614, "auc_instrumental": 0.638, "auc_vocal": 0.572, "f1_all": 0.524},
    ("svm", "popularity_and_aesthetics"): {
        "auc_all": 0.642,
        "auc_instrumental": 0.686,
        "auc_vocal": 0.560,
        "f1_all": 0.595,
    },
    ("logistic_regression", "popularity"): {"auc_all": 0.600},
    ("logistic_regression", "popularity_and_aesthetics"): {"auc_all": 0.613},
}
DIRECT_RULES: dict[str, float] = {"score_streams": 0.443, "score_likes": 0.482, "aesthetics_mean": 0.473}

CMI_SOURCE = "musicality, from the README of github.com/Haiwen-Xia/CMI-RewardBench: measured by its authors, not here"
# Spearman's correlation on PAM and MusicEval, accuracy on Music Arena and CMI-Pref.
CMI_RESULTS: dict[str, dict[str, float]] = {
    "SongEval-RM": {"PAM": 0.6977, "MusicEval": 0.6949, "MusicArena": 0.7388, "CMI-Pref": 0.7240},
    "CMI-RM": {"PAM": 0.6606, "MusicEval": 0.8266, "MusicArena": 0.7343, "CMI-Pref": 0.7820},
    "Gemini 3 Pro": {"PAM": 0.5967, "MusicEval": 0.6018, "MusicArena": 0.6885, "CMI-Pref": 0.6580},
    "TuneJury": {"MusicArena": 0.7194, "CMI-Pref": 0.7140},
    "TuneJury without prompt": {"MusicArena": 0.7007, "CMI-Pref": 0.7240},
    "MuQ-Eval": {"MusicArena": 0.6761, "CMI-Pref": 0.6600},
}
