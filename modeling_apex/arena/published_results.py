"""
What the paper reports on its Music Arena battles (arXiv 2605.03395), to stand beside ours and never to be mistaken for
it.

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
