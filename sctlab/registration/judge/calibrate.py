"""Fitting the judge's model on registrations whose error is known (see `benchmarks/verdict.py`); needs scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import minimize

from sctlab.registration.judge.model import CLIP, OFFSET_MM, Calibration, JudgeModel, Linear, transformed
from sctlab.registration.judge.witnesses import witnesses

Fit: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]

GROSS_MM, SOUND_MM = 15.0, 8.0  # mean errors between them teach the gross model nothing
LOCAL_MM, FINE_MM = 10.0, 6.0  # errors of the worst place over visible tissue edges, likewise
SILENT = ((), ("information",), ("self-similarity",), ("information", "self-similarity"))
# What the models of the whole leave out. How much has no data tells nothing of the rest: an overlap that is small but right
# looked like a failure. Windows tell of places.
NOT_GROSS = ("without data", "place gain", "place mm")
NOT_ERROR = ("without data",)
# Signals of the local model: how far the judge's own registration moves one place, how much better one fits elsewhere, and how
# far windows of the whole body wander, which is what this image's windows do anyway. More learn the calibrated anatomies by heart.
LOCAL = ("refit place mm", "place gain", "elsewhere mean mm")
SPECIFICITY = 0.90  # of the local model on sound registrations: a doubtful one costs a look
MISSED_FAILURES, FALSE_FAILURES = 0.5, 3.0  # per cent of failures below the threshold; of sound ones above it, at most
PENALTIES = {"gross": 1.0, "local": 30.0}  # inverse strength of the logistic models' regularisation
GROUPS = 4  # of registrations by their predicted error, each with its own spread
FOLDS = 6


def fit_model(rows: Sequence[dict[str, Any]], *, gross: Sequence[str], command: str) -> JudgeModel:
    """Fit a calibration for every set of silent witnesses whose others were asked.

    Args:
        rows: `case`, `anatomy` (held out together), `kind`, `signals`, `error_mm` and `worst_mm` (None where no transform
            would be right).
        gross: Kinds that begin so are gross failures.
        command: For the record.
    """
    heard = {name.split(" ")[0] for row in rows for name in row["signals"]}
    possible = [s for s in SILENT if set(witnesses()) - set(s) <= heard]
    calibrations = {"+".join(sorted(silent)): _fit(rows, frozenset(silent), gross) for silent in possible}
    cases = len({row["case"] for row in rows})
    return JudgeModel(command=command, cases=cases, registrations=len(rows), calibrations=calibrations)


def fit_places(model: JudgeModel, rows: Sequence[dict[str, Any]]) -> JudgeModel:
    """A model with its calibrations of one place (`local`) fitted anew, on rows that have all of `LOCAL`.

    Args:
        model: Whose other parts stay as they are.
        rows: `anatomy`, `kind`, `signals`, `worst_mm` of sound registrations and of such with an error in one place.
    """
    return model.model_copy(update={"calibrations": {k: _with_places(c, rows) for k, c in model.calibrations.items()}})


def _with_places(calibration: Calibration, rows: Sequence[dict[str, Any]]) -> Calibration:
    from sklearn.model_selection import GroupKFold

    sound = np.array([row["kind"].startswith("sound") for row in rows])
    worst = np.array([row["worst_mm"] for row in rows])
    cases = np.array([row["anatomy"] for row in rows])
    table = np.array([[transformed(n, row["signals"][n]) for n in LOCAL] for row in rows])
    # A signal that other models know keeps its scale.
    mean = {n: round(float(v), 6) for n, v in zip(LOCAL, table.mean(0), strict=True)} | calibration.mean
    scale = {n: round(float(v), 6) for n, v in zip(LOCAL, table.std(0), strict=True)} | calibration.scale
    x = np.clip((table - [mean[n] for n in LOCAL]) / [scale[n] for n in LOCAL], -CLIP, CLIP)
    usual = {n: round(float(v), 5) for n, v in zip(LOCAL, x[sound].mean(0), strict=True)} | calibration.sound
    fine, wrong = sound & (worst < FINE_MM), ~sound & (worst > LOCAL_MM)
    used = np.flatnonzero(fine | wrong)
    held_out = np.full(len(rows), np.nan)
    for train, test in GroupKFold(min(FOLDS, len(set(cases[used])))).split(used, groups=cases[used]):
        weights, intercept = _free(x[used[train]], wrong[used[train]])
        held_out[used[test]] = 1 / (1 + np.exp(-(x[used[test]] @ weights + intercept)))
    return calibration.model_copy(
        update={
            "mean": mean,
            "scale": scale,
            "sound": usual,
            "local": _linear(LOCAL, *_free(x[used], wrong[used])),
            "local_threshold": round(float(np.nanpercentile(held_out[fine], 100 * SPECIFICITY)), 4),
        }
    )


def _fit(rows: Sequence[dict[str, Any]], silent: frozenset[str], gross_kinds: Sequence[str]) -> Calibration:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold, cross_val_predict

    assert silent <= set(witnesses())
    names = sorted({n for row in rows for n in row["signals"] if n.split(" ")[0] not in silent})
    table = np.array([[transformed(n, row["signals"].get(n, np.nan)) for n in names] for row in rows])
    mean, scale = np.nanmean(table, 0), np.maximum(np.nanstd(table, 0), 1e-3)
    x = np.clip((table - mean) / scale, -CLIP, CLIP)
    is_sound = np.array([row["kind"].startswith("sound") for row in rows])
    sound = np.array(
        [np.mean(column[np.isfinite(column)] if np.isfinite(column).any() else 0.0) for column in x[is_sound].T]
    )
    sound = sound.round(5)
    x = np.where(np.isfinite(x), x, sound)
    # Held out by anatomy: images of one CT under two modalities are one, and so are simulated patients of one region,
    # because what the judge will see is a body that it was not calibrated on.
    cases = np.array([row["anatomy"] for row in rows])
    is_gross = np.array([row["kind"].startswith(tuple(gross_kinds)) for row in rows])
    error = np.array([np.nan if row["error_mm"] is None else row["error_mm"] for row in rows])
    worst = np.array([np.nan if row.get("worst_mm") is None else row["worst_mm"] for row in rows])
    folds = GroupKFold(min(FOLDS, len(set(cases))))

    def logistic(
        fit: Fit, positive: np.ndarray, negative: np.ndarray, about: Sequence[str]
    ) -> tuple[Linear, np.ndarray]:
        used = np.flatnonzero(positive | negative)
        columns = [k for k, name in enumerate(names) if name in about]
        table, truth = x[used][:, columns], positive[used]
        held_out = np.full(len(rows), np.nan)
        for train, test in folds.split(table, truth, cases[used]):
            weights, intercept = fit(table[train], truth[train])
            held_out[used[test]] = 1 / (1 + np.exp(-(table[test] @ weights + intercept)))
        return _linear([names[k] for k in columns], *fit(table, truth)), held_out

    positive, negative = is_gross | (error > GROSS_MM), ~is_gross & (error < SOUND_MM)
    gross, held_out = logistic(_monotone, positive, negative, [n for n in names if n not in NOT_GROSS])
    # As high as the hardest failures but for 0.5 % allow; never so low that more than 3 % of the others are taken for some.
    low = np.nanpercentile(held_out[negative], 100 - FALSE_FAILURES)
    high = np.nanpercentile(held_out[positive], MISSED_FAILURES, method="higher")  # not halfway down to the missed one
    gross_threshold = float(np.clip(max(low, high), 0.05, 0.95))
    # Gross failures are not among the local model's, nor signals of the whole: they tell what the gross model knows already.
    fine = is_sound & (worst < FINE_MM)
    local, held_out = logistic(_free, ~is_gross & (worst > LOCAL_MM) & (error < SOUND_MM), fine, LOCAL)
    local_threshold = float(np.nanpercentile(held_out[fine], 100 * SPECIFICITY))

    known = np.isfinite(error)
    target = np.log(error[known] + OFFSET_MM)
    ridge = Ridge(alpha=3.0, positive=True)
    columns = [k for k, name in enumerate(names) if name not in NOT_ERROR]
    about = x[known][:, columns]
    predicted = cross_val_predict(ridge, about, target, groups=cases[known], cv=folds)
    ridge.fit(about, target)
    spread, missed = _normalised(predicted, target - predicted)
    return Calibration(
        mean=dict(zip(names, mean.round(6).tolist(), strict=True)),
        scale=dict(zip(names, scale.round(6).tolist(), strict=True)),
        sound=dict(zip(names, sound.tolist(), strict=True)),
        gross=gross,
        local=local,
        error=_linear([names[k] for k in columns], ridge.coef_, float(ridge.intercept_)),
        gross_threshold=round(gross_threshold, 4),
        local_threshold=round(local_threshold, 4),
        spread=spread,
        missed=missed,
    )


def _free(x: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and intercept of a balanced logistic regression."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=PENALTIES["local"], class_weight="balanced", max_iter=2000).fit(x, positive)
    return model.coef_[0], float(model.intercept_[0])


def _monotone(x: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, float]:
    """The same without negative weights, which scikit-learn has not: no registration fails because a signal got better.

    Signals go together in the calibration; a phantom or a thin slab in which one of them is better than in any patient was
    called failed for it.
    """
    share = float(positive.mean())
    balance = np.where(positive, 0.5 / share, 0.5 / (1 - share))
    sign = np.where(positive, 1.0, -1.0)
    strength = PENALTIES["gross"]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, margin = parameters[1:], sign * (x @ parameters[1:] + parameters[0])
        slope = -balance * sign / (1 + np.exp(np.clip(margin, -500, 500)))
        value = strength * (balance * np.logaddexp(0, -margin)).sum() + 0.5 * (weights**2).sum()
        return value, np.concatenate([[strength * slope.sum()], strength * (x.T @ slope) + weights])

    bounds = [(None, None)] + [(0.0, None)] * x.shape[1]
    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[1:], float(found[0])


def _normalised(predicted: np.ndarray, missed: np.ndarray) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """How much is missed by size of the prediction, and quantiles of all residuals in its units.

    Quantiles of each group alone are those of its few largest residuals, and so too wide; in units of a spread all
    registrations share them.
    """
    order = np.argsort(predicted, kind="stable")
    groups = np.array_split(order, GROUPS)
    spread = [(float(np.median(predicted[g])), float(np.abs(missed[g]).mean())) for g in groups]
    at, size = np.array(spread).T
    low, high = _conformal(missed / np.interp(predicted, at, size))
    return [(round(at, 5), round(size, 5)) for at, size in spread], (round(low, 5), round(high, 5))


def _conformal(missed: np.ndarray, cover: float = 0.9) -> tuple[float, float]:
    """Lower and upper quantile of residuals with the finite-sample correction of split conformal prediction."""
    share = min(1.0, np.ceil((len(missed) + 1) * (1 + cover) / 2) / max(len(missed), 1))
    return float(np.quantile(missed, 1 - share)), float(np.quantile(missed, share))


def _linear(names: Sequence[str], weights: np.ndarray, intercept: float) -> Linear:
    return Linear(weights={n: round(float(w), 5) for n, w in zip(names, weights, strict=True)}, intercept=intercept)
