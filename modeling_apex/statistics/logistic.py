"""
Logistic regression, the one fit behind leaderboards, the preference head and anchors; numpy only.

What comes in are features with how often each row's event happened; what leaves are coefficients in logits. Bradley
and Terry's model is a case of it: who met whom are the features, and strengths the coefficients.
"""

import numpy as np

MAXIMUM_NEWTON_STEPS = 100
TOLERANCE = 1e-10


def compute_logistic(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities, without overflow at either end."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def fit_logistic(
    design: np.ndarray,
    successes: np.ndarray,
    penalties: np.ndarray,
    *,
    trials: np.ndarray | float = 1.0,
    offsets: np.ndarray | float = 0.0,
    tolerance: float = TOLERANCE,
) -> np.ndarray:
    """
    Fit penalised logistic regressions without intercept by Newton's method.

    Args:
        design (`np.ndarray` of shape `(num_rows, num_features)` or `(..., num_rows, num_features)`):
            Features, the same in every fit, or those of each.
        successes (`np.ndarray` of shape `(..., num_rows)`):
            How often each row's event happened, 0 to `trials`; leading axes are independent fits.
        penalties (`np.ndarray` of shape `(..., num_features)`): Weight of half the squared coefficient, above zero.
        trials (`np.ndarray` of shape `(..., num_rows)`, defaults to 1): How often each row was tried.
        offsets (`np.ndarray` of shape `(..., num_rows)`, defaults to 0): Logits that are known beforehand.
        tolerance (`float`, defaults to 1e-10): Largest last step of a coefficient.

    Returns:
        `np.ndarray` of shape `(..., num_features)`: Coefficients.
    """
    num_features, is_shared = design.shape[-1], design.ndim == 2
    turned = np.swapaxes(design, -1, -2)  # (..., num_features, num_rows)
    # One design for all fits: its products are made once.
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), num_features**2) if is_shared else None
    leading = np.broadcast_shapes(successes.shape[:-1], design.shape[:-2])
    coefficients = np.zeros((*leading, num_features))
    for _ in range(MAXIMUM_NEWTON_STEPS):
        logits = coefficients @ turned if is_shared else (design @ coefficients[..., None])[..., 0]
        chances = compute_logistic(logits + offsets)
        residuals = successes - trials * chances
        pull = residuals @ design if is_shared else (turned @ residuals[..., None])[..., 0]
        spread = trials * chances * (1.0 - chances)
        if products is not None:
            curvature = (spread @ products).reshape(*coefficients.shape, num_features)
        else:
            curvature = (turned * spread[..., None, :]) @ design
        gradient = penalties * coefficients - pull
        hessian = penalties[..., None] * np.eye(num_features) + curvature
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        # Far from the optimum a full Newton step can overshoot; two logits a step cannot.
        coefficients = coefficients - np.clip(step, -2.0, 2.0)
        if np.abs(step).max(initial=0.0) < tolerance:
            break
    return coefficients
