"""How many patients it takes to see a small difference between two classifiers tested on the same scans.

Of every scan, both classifiers are right, both are wrong, or one of them is right. Only the last kind, on which they
disagree, tells them apart (McNemar 1947). The scans of a patient are alike, so they count for less than their number.

The model: a patient has own shares of "only A right", "only B right" and "no difference", drawn from a Dirichlet
distribution around those of all patients; the patient's scans follow them. That is the beta-binomial model with a
third outcome (Mosimann 1962). One number, the correlation, says how alike the scans of a patient are: the variance of
a patient's sum over m scans is 1 + (m - 1) * correlation times that of m unrelated scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import dirichlet_multinomial, multinomial, norm, t, ttest_1samp, ttest_ind

NEH_PATIENTS, NEH_SCANS_A_PATIENT = 441, 29  # 12,649 scans of 441 patients
REPEATS = 2000


@dataclass(frozen=True)
class Agreement:
    """How two classifiers go together on the scans of patients.

    disagreement: share of scans on which exactly one is right, 0..1. correlation: of two scans of one patient in what
    the classifiers differ there (-1, 0 or 1), 0..1. scans: how many scans a patient has; several numbers are drawn
    with equal chance.

    The defaults suit two classifiers right on about 92.5 %: at .14 they would err independently, and the course's own
    students disagree on .4 to .7 of what independence would give, with correlations of .16 to .38.
    """

    disagreement: float = 0.07
    correlation: float = 0.2
    scans: tuple[int, ...] = (NEH_SCANS_A_PATIENT,)


def measure_agreement(correct_a: np.ndarray, correct_b: np.ndarray, patients: Sequence[str] | np.ndarray) -> Agreement:
    """The agreement of two classifiers in data. correct_a, correct_b: (n,) right or not; patients: (n,) keys.

    The correlation is the analysis of variance estimate (Donner 1986), at least 0. Raises ValueError for a single
    patient, one scan for every patient, or classifiers that never differ.
    """
    difference = np.asarray(correct_a, np.float64) - np.asarray(correct_b, np.float64)
    _, patient_of, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    n, k = len(difference), len(sizes)
    if k < 2 or n == k or not difference.any():
        raise ValueError("two patients, several scans of one, and classifiers that differ are needed")
    means = np.bincount(patient_of, weights=difference) / sizes  # (patients,)
    between = (sizes * (means - difference.mean()) ** 2).sum() / (k - 1)
    within = ((difference - means[patient_of]) ** 2).sum() / (n - k)
    typical = (n - (sizes**2).sum() / n) / (k - 1)  # scans a patient, corrected for unequal numbers
    correlation = (between - within) / (between + (typical - 1) * within)
    return Agreement(float((difference != 0).mean()), float(np.clip(correlation, 0, 0.999)), tuple(sizes.tolist()))


def closed_form(
    difference: float, agreement: Agreement = Agreement(), power: float = 0.8, alpha: float = 0.05
) -> float:  # fmt: skip
    """Patients for a two-sided paired z-test to see ``difference`` with that power: McNemar's sample size (Connor
    1987) times the design effect of clustered scans. difference: of accuracies, a fraction of 1."""
    _check(difference, agreement)
    none, there = agreement.disagreement, agreement.disagreement - difference**2  # variances of a scan's difference
    reach = norm.ppf(1 - alpha / 2) * np.sqrt(none) + norm.ppf(power) * np.sqrt(there)
    return float(_inflated(agreement) * (reach / difference) ** 2)


def closed_form_equal(
    margin: float, agreement: Agreement = Agreement(), power: float = 0.8, alpha: float = 0.05
) -> float:  # fmt: skip
    """Patients to show that two equally good classifiers differ by less than ``margin`` (a fraction of 1): two
    one-sided tests at alpha, both of which must pass (Schuirmann 1987), with the design effect of `closed_form`."""
    _check(margin, agreement)
    reach = norm.ppf(1 - alpha) + norm.ppf(1 - (1 - power) / 2)
    return float(_inflated(agreement) * agreement.disagreement * (reach / margin) ** 2)


def equivalence_p(values: Sequence[float], margin: float, rivals: Sequence[float] | None = None) -> float:
    """p of two one-sided t-tests (TOST): below 0.05, the mean difference lies between -margin and margin.

    values: (n,) differences of independent repeats; or, with rivals (m,), scores of two samples (Welch's test).
    Source: Schuirmann 1987, https://doi.org/10.1007/BF01068419.
    """
    values = np.asarray(values, np.float64)
    if rivals is None:
        sides = ttest_1samp(values, -margin, alternative="greater"), ttest_1samp(values, margin, alternative="less")
    else:
        sides = (ttest_ind(values + margin, rivals, equal_var=False, alternative="greater"),
                 ttest_ind(values - margin, rivals, equal_var=False, alternative="less"))  # fmt: skip
    return float(max(side.pvalue for side in sides))


def half_width(
    data: float, training: float, data_seeds: int | np.ndarray, students: int = 1, level: float = 0.95
) -> float | np.ndarray:  # fmt: skip
    """Half of the t-interval to expect for a mean over data seeds (2 or more), in the unit of the two spreads.

    data: standard deviation of the true difference from one data seed to the next. training: what another training of
    both networks adds in one data seed. students: pairs of networks trained in each.
    """
    spread = np.sqrt(data**2 + training**2 / students)
    return t.ppf((1 + level) / 2, np.asarray(data_seeds) - 1) * spread / np.sqrt(data_seeds)


def data_seeds_needed(half: float, data: float, training: float, students: int = 1) -> int:
    """The fewest data seeds whose interval is expected to reach at most ``half`` to either side; see `half_width`."""
    found = 2
    while half_width(data, training, found, students) > half:
        found += 1
    return found


def simulate_power(
    difference: float, patients: Sequence[int], agreement: Agreement = Agreement(), alpha: float = 0.05,
    repeats: int = REPEATS, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """(len(patients),) share of simulated studies that see the difference: the 95 % interval for it, from the spread
    between patients, lies above zero.

    A study is drawn as how many of its patients have each possible outcome, so that 100,000 patients cost no more
    than 100. Raises ValueError for a difference that the disagreement does not allow.
    """
    _check(difference, agreement)
    sums, sizes, chance = _outcomes(difference, agreement)
    random, powers = np.random.default_rng(seed), []
    for count in patients:
        drawn = random.multinomial(count, chance, size=repeats)  # (repeats, outcomes)
        scans = drawn @ sizes
        estimate = drawn @ sums / scans
        squares = drawn @ sums**2 - 2 * estimate * (drawn @ (sums * sizes)) + estimate**2 * (drawn @ sizes**2)
        error = np.sqrt(np.maximum(squares, 0) * count / (count - 1)) / scans
        powers.append(((estimate > 0) & (estimate > t.ppf(1 - alpha / 2, count - 1) * error)).mean())
    return np.array(powers)


def patients_needed(
    difference: float, agreement: Agreement = Agreement(), power: float = 0.8, alpha: float = 0.05,
    repeats: int = REPEATS, seed: int = 0,
) -> int:  # fmt: skip
    """Patients with whom a share ``power`` of simulated studies sees ``difference`` (a fraction of 1, not points).

    Studies of five sizes around the closed form are simulated; the size is read off the line through their powers,
    which is straight where power is in standard normal units and patients are under a square root.
    """
    guess = closed_form(difference, agreement, power, alpha)
    sizes = np.unique(np.maximum(np.round(guess * np.array([0.6, 0.8, 1.0, 1.25, 1.6])), [4, 5, 6, 7, 8]).astype(int))
    found = simulate_power(difference, sizes, agreement, alpha, repeats, seed).clip(0.5 / repeats, 1 - 0.5 / repeats)
    slope, offset = np.polyfit(np.sqrt(sizes), norm.ppf(found), 1)
    return int(np.ceil(max(2.0, ((norm.ppf(power) - offset) / slope) ** 2)))


def smallest_difference(
    patients: int = NEH_PATIENTS, agreement: Agreement = Agreement(), power: float = 0.8, alpha: float = 0.05
) -> float:  # fmt: skip
    """The smallest difference (a fraction of 1) that so many patients show with that power, by the closed form.

    Raises ValueError where so few patients show none that the disagreement allows.
    """
    return float(brentq(lambda d: closed_form(d, agreement, power, alpha) - patients, 1e-7, agreement.disagreement))


def power_curves(
    differences: Sequence[float] = (0.001, 0.005, 0.01, 0.02, 0.05), agreement: Agreement = Agreement(),
    patients: Sequence[int] | None = None, repeats: int = REPEATS, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Power by number of patients. A row for each number, a column for each difference.

    patients: None takes 17 numbers from 10 to 1,000,000.
    """
    patients = np.unique(np.geomspace(10, 1e6, 17).round().astype(int)) if patients is None else np.asarray(patients)
    columns = {one: simulate_power(one, patients, agreement, repeats=repeats, seed=seed) for one in differences}
    return pd.DataFrame(columns, index=pd.Index(patients, name="patients")).rename_axis("difference", axis="columns")


def sensitivity_table(
    difference: float = 0.001, disagreements: Sequence[float] = (0.03, 0.07, 0.14),
    correlations: Sequence[float] = (0.0, 0.1, 0.2, 0.4), scans: tuple[int, ...] = (NEH_SCANS_A_PATIENT,),
) -> pd.DataFrame:  # fmt: skip
    """Patients needed for one difference by what is not known: a row for each disagreement, a column for each
    correlation."""
    rows = {
        disagreement: [patients_needed(difference, Agreement(disagreement, rho, scans)) for rho in correlations]
        for disagreement in disagreements
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(correlations))
    return table.rename_axis("disagreement").rename_axis("correlation", axis="columns")


def _inflated(agreement: Agreement) -> float:
    """Patients for each unrelated scan: the design effect over the scans of a patient."""
    sizes = np.asarray(agreement.scans, np.float64)
    return float((sizes * (1 + (sizes - 1) * agreement.correlation)).mean() / sizes.mean() ** 2)


def _check(difference: float, agreement: Agreement) -> None:
    if not 0 < difference <= agreement.disagreement:
        limit = f"above 0 and at most the disagreement, {agreement.disagreement:g}"
        raise ValueError(f"the difference must be {limit}, not {difference:g}; both are fractions of 1")


def _outcomes(difference: float, agreement: Agreement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a patient can show: (outcomes,) arrays of A's lead in scans, of scans, and of the chance of both."""
    shares = np.array([agreement.disagreement + difference, agreement.disagreement - difference]) / 2
    shares = np.append(shares, 1 - agreement.disagreement)  # only A right, only B right, no difference
    sums, sizes, chances = [], [], []
    for size, times in zip(*np.unique(agreement.scans, return_counts=True), strict=True):
        a, b = (part.ravel() for part in np.indices((size + 1, size + 1)))
        a, b = a[a + b <= size], b[a + b <= size]
        counts = np.stack([a, b, size - a - b], axis=1)
        chance = np.bincount(a - b + size, weights=_chances(counts, shares, agreement.correlation))
        sums.append(np.arange(-size, size + 1))
        sizes.append(np.full(2 * size + 1, size))
        chances.append(chance * times / len(agreement.scans))
    total = np.concatenate(chances)
    return np.concatenate(sums), np.concatenate(sizes), total / total.sum()


def _chances(counts: np.ndarray, shares: np.ndarray, correlation: float) -> np.ndarray:
    """(n,) chance of each row of counts (n, 3) among the scans of a patient."""
    size = int(counts[0].sum())
    if correlation == 0 or size == 1:
        return multinomial.pmf(counts, size, shares)
    return dirichlet_multinomial.pmf(counts, shares * (1 / correlation - 1), size)
