"""Bayesian zero-shot learning against the published numbers and the formulas with dense matrices, and errors."""

import json

import numpy as np
import pytest
from scipy.stats import multivariate_t
from sklearn.linear_model import Ridge

from bioscan_hf.evaluation.bzsl import (
    GENUS_SETTINGS,
    bayesian_zero_shot,
    genus_species_zero_shot,
    late_fusion,
    nearest_seen,
    surrogate_classes,
)
from bioscan_hf.evaluation.bzsl_features import map_images, principal_axes, ridge_map
from bioscan_hf.evaluation.bzsl_likelihood import Setting, class_statistics
from bioscan_hf.evaluation.bzsl_tuning import (
    GENUS_GRID,
    SURROGATE_GRID,
    hold_out_species,
    tune_bayesian_zero_shot,
    tune_genus_species,
)

SURROGATE = Setting(k0=0.1, k1=10, m=5, s=1, neighbours=2)
GENUS = Setting(k0=0.1, k1=10, m=25, s=0.5)


@pytest.fixture(scope="module")
def published(reference):
    """8 seen and 4 unseen species of 4 genera, 6 features."""
    folder = reference / "barcodebert"
    with np.load(folder / "bzsl.npz") as arrays:
        data = dict(arrays)
    data["scores"] = json.loads((folder / "bzsl.json").read_text())
    data["x_test"] = np.concatenate([data["x_seen"], data["x_unseen"]])
    data["y_test"] = np.concatenate([data["y_seen"], data["y_unseen"]])
    return data


def surrogate(data, **options):
    arguments = {"setting": SURROGATE, "components": None, **options}
    arrays = [data[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    return bayesian_zero_shot(*arrays, data["att"].T, [2, 5, 8, 11], **arguments)


def genus(data, **options):
    arguments = {"setting": GENUS, "components": None, **options}
    arrays = [data[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    return genus_species_zero_shot(*arrays, data["genera"] - 12, **arguments)


def test_surrogate_species_as_published(published):
    """Log-likelihoods, answers and accuracies of the published program. It lists the unseen species first."""
    result = surrogate(published)
    n_seen = len(published["y_seen"])
    theirs = np.argsort(published["ss_class_id"].ravel())
    order = np.argsort(result.codes)
    np.testing.assert_array_equal(result.codes[order], published["ss_class_id"].ravel()[theirs])
    ours = result.log_likelihoods[n_seen:, order]
    np.testing.assert_allclose(ours, published["ss_loglik_unseen"][:, theirs], rtol=0, atol=1e-11)
    np.testing.assert_array_equal(result.predictions[:n_seen], published["ss_pred_seen"].ravel())
    np.testing.assert_array_equal(result.predictions[n_seen:], published["ss_pred_unseen"].ravel())
    scores = published["scores"]["surrogate"]
    assert result.seen_accuracy == scores["seen_macro"]
    assert result.unseen_accuracy == scores["unseen_macro"]
    assert result.harmonic_mean == pytest.approx(scores["H"], abs=1e-15)
    assert result.genera is None


def test_genus_and_species_as_published(published):
    """Answers and accuracies of the published program, whose table of the gamma function is read one place off: each
    class's log-likelihood is off by one number for all specimens, by 0.0161 to 0.0180 here, and in float32. The table
    holds half-integers, so that one place is half a unit, as the last assertion says."""
    from math import lgamma

    result = genus(published)
    n_seen, dimensions = len(published["y_seen"]), published["x_train"].shape[1]
    np.testing.assert_array_equal(result.codes, published["gs_class_id"])
    error = published["gs_loglik_unseen"] - result.log_likelihoods[n_seen:]
    assert np.ptp(error, axis=0).max() < 2e-5
    assert 0.0161 < np.abs(error).min() and np.abs(error).max() < 0.0180
    np.testing.assert_array_equal(
        np.where(result.predictions < 0, result.genera + 12, result.predictions)[n_seen:], published["gs_pred_unseen"]
    )
    scores = published["scores"]["genus_species"]
    assert result.seen_accuracy == scores["seen_macro"]
    assert result.unseen_accuracy == scores["unseen_genus_macro"]
    assert result.harmonic_mean == pytest.approx(scores["H"], abs=1e-15)
    v = published["gs_v"].astype(float)
    shift = [
        lgamma((x + dimensions + 1) / 2) - lgamma((x + dimensions) / 2) - lgamma((x + 1) / 2) + lgamma(x / 2)
        for x in v
    ]
    np.testing.assert_allclose(error.mean(axis=0), shift, rtol=0, atol=1e-5)


def groups(n_species=12, n_genera=4, dimensions=5, seed=0):
    """Species around genera around 0, of 1 to 30 specimens; photos and an attribute per species."""
    rng = np.random.default_rng(seed)
    genera = np.arange(n_species) % n_genera
    centres = 4 * rng.normal(size=(n_genera, dimensions))[genera] + rng.normal(size=(n_species, dimensions))
    labels = np.repeat(np.arange(n_species), np.linspace(1, 30, n_species).astype(int))
    mixing = rng.normal(size=(dimensions, dimensions))
    x = centres[labels] + rng.normal(size=(len(labels), dimensions)) @ mixing
    return x, labels, centres + 0.1 * rng.normal(size=centres.shape), genera


def dense_log_likelihoods(x, labels, test, surrogates, setting):
    """The formulas of the paper with whole matrices and scipy's Student t. A species of one specimen has a scatter of
    zero and does not contribute to the mean covariance."""
    species, d, k0, k1 = np.unique(labels), x.shape[1], setting.k0, setting.k1
    m = setting.m * d
    n = {c: (labels == c).sum() for c in species}
    mean = {c: x[labels == c].mean(axis=0) for c in species}
    scatter = {c: (x[labels == c] - mean[c]).T @ (x[labels == c] - mean[c]) for c in species}
    mu0 = np.mean(list(mean.values()), axis=0)
    psi = (m - d - 1) / setting.s * np.mean([scatter[c] / (n[c] - 1) for c in species if n[c] > 1], axis=0)
    columns = []
    for c in species:
        q, v = k0 * k1 / (k0 + k1), n[c] + m - d + 1
        pull = n[c] * q / (n[c] + q) * np.square(mean[c] - mu0).sum()
        sigma = (psi + scatter[c] + pull * np.ones((d, d))) * (n[c] + q + 1) / ((n[c] + q) * v)
        columns.append(multivariate_t((n[c] * mean[c] + q * mu0) / (n[c] + q), sigma, v).logpdf(test))
    for parts in surrogates:
        kappa = np.array([n[c] * k1 / (n[c] + k1) for c in parts])
        total = kappa.sum()
        kappa_class = (total + k0) * k1 / (total + k0 + k1)
        v = sum(n[c] - 1 for c in parts) + m - d + 1
        mu = (sum(k * mean[c] for k, c in zip(kappa, parts, strict=True)) + k0 * mu0) / (total + k0)
        sigma = (psi + sum(scatter[c] for c in parts)) * (kappa_class + 1) / (kappa_class * v)
        columns.append(multivariate_t(mu, sigma, v).logpdf(test))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("setting", [Setting(), Setting(0.7, 25, 1.5, 0.5, 2), Setting(1, 10, 500, 5, 1)])
def test_equals_the_formulas(setting):
    """Both variants, with species of one specimen, equal the formulas with dense matrices."""
    x, labels, attributes, genera = groups()
    train = ~np.isin(labels, [3, 10])
    seen = np.unique(labels[train])
    distances = np.linalg.norm(attributes[seen] - attributes[[3, 10], None], axis=2)
    nearest = seen[np.argsort(distances, axis=1)[:, : setting.neighbours]]
    assert set(nearest[0]) != set(nearest[1]), "another test covers the rule for ties"
    data = x[train], labels[train], x, labels
    ours = bayesian_zero_shot(*data, attributes, [3, 10], setting=setting, components=None)
    expected = dense_log_likelihoods(*data[:3], nearest, setting)
    np.testing.assert_allclose(ours.log_likelihoods, expected, rtol=1e-9, atol=1e-9)
    ours = genus_species_zero_shot(*data, genera, setting=setting, components=None)
    expected = dense_log_likelihoods(*data[:3], [seen[genera[seen] == g] for g in range(4)], setting)
    np.testing.assert_allclose(ours.log_likelihoods, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.confidences, 1 / np.exp(expected - expected.max(1, keepdims=True)).sum(1))


def test_accuracies_are_means_over_classes():
    """Seen species 0 (3 of 4 right by construction of the labels below) and 1 (1 of 1); unseen species 2 is answered
    with 1 or 2. The mean over specimens would differ."""
    x = np.array([[0.0], [0.1], [0.2], [10.0], [10.1], [10.2]])
    test = np.array([[0.1], [0.0], [0.2], [10.1], [10.1]])
    arguments = (x, [0, 0, 0, 1, 1, 1], test, [0, 0, 0, 0, 1], [[0.0], [1.0], [0.9]], [2])
    result = bayesian_zero_shot(*arguments, setting=Setting(neighbours=1))
    assert result.predictions.tolist() == [0, 0, 0, 1, 1]
    assert result.seen_per_class == {0: 0.75, 1: 1.0} and result.seen_accuracy == 0.875
    assert result.unseen_per_class == {} and result.unseen_accuracy is result.harmonic_mean is None


def test_unseen_specimens_of_unknown_genus_and_labels_beyond_the_classes():
    """A label -1, and an unseen species of unknown genus, do not count. One of a genus without seen species, or one
    that is not among `unseen`, counts as wrong. Nothing crashes."""
    x, labels, attributes, genera = groups()
    train = labels < 8
    genera = np.where(np.arange(12) == 9, -1, np.where(np.arange(12) == 8, 77, genera))
    test_labels = np.where(labels == 7, -1, labels)
    result = genus_species_zero_shot(x[train], labels[train], x, test_labels, genera, components=None)
    assert set(result.unseen_per_class) == {77, 2, 3} and result.unseen_per_class[77] == 0
    assert 7 not in result.seen_per_class and result.unseen_per_class[2] > 0
    result = bayesian_zero_shot(x[train], labels[train], x, test_labels, attributes, [10, 11], components=None)
    assert result.unseen_per_class[8] == result.unseen_per_class[9] == 0


def test_two_unseen_species_never_use_the_same_seen_species():
    """Attributes on a line: seen 0, 1, 2, 3 at 0, 1, 2, 4, unseen 4 and 5 both at 0.4, 6 at 0.3. With 2 neighbours all
    would use {0, 1}; the second uses {0, 2}, the third {0, 3}. With 4 neighbours of 4 there is only one set."""
    unseen = np.array([4, 5, 6])
    nearest = nearest_seen([[0.0], [1], [2], [4], [0.4], [0.4], [0.3]], np.arange(4), unseen)
    statistics = class_statistics(np.arange(8.0)[:, None] % 5, np.repeat(np.arange(4), 2))
    members, codes = surrogate_classes(statistics, nearest, unseen, 2)
    assert [member.rows.tolist() for member in members[4:]] == [[0, 1], [0, 2], [0, 3]]
    assert codes.tolist() == list(range(7))
    with pytest.raises(ValueError, match="3 unseen species are too many for 4 seen ones with neighbours=4"):
        surrogate_classes(statistics, nearest, unseen, 4)


def test_tuning_is_every_setting_scored_alone():
    """The shared products of the grid against one run per setting, and the inputs stay as they were (the published
    program lowers the labels by 1 in place, and would score them shifted). Species 0 has one specimen, held out."""
    x, labels, attributes, genera = groups(seed=3)
    unseen = np.isin(labels, [2, 9])
    train = ~unseen & (np.arange(len(x)) % 3 > 0)
    data = [x[train], labels[train], x[~train], labels[~train]]
    copies = [array.copy() for array in (*data, attributes, genera)]
    grid = SURROGATE_GRID[::7]
    trials = tune_bayesian_zero_shot(*data, attributes, grid=grid, components=None)
    assert {trial.setting for trial in trials} == set(grid)
    for trial in trials:
        alone = bayesian_zero_shot(*data, attributes, [0, 2, 9], setting=trial.setting, components=None)
        assert (trial.seen_accuracy, trial.unseen_accuracy) == (alone.seen_accuracy, alone.unseen_accuracy)
    best = [trial.harmonic_mean for trial in trials]
    assert best == sorted(best, reverse=True) and best[0] > best[-1], "the settings make no difference here"
    for trial in tune_genus_species(*data, genera, grid=GENUS_GRID[::9], components=None):
        alone = genus_species_zero_shot(*data, genera, setting=trial.setting, components=None)
        assert trial.harmonic_mean == alone.harmonic_mean
    for array, copy in zip((*data, attributes, genera), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_published_settings():
    assert len(SURROGATE_GRID) == len(set(SURROGATE_GRID)) == 144 and Setting() == Setting(0.1, 10, 5, 10, 3)
    assert [(s.m, s.s) for s in GENUS_SETTINGS.values()] == [(25, 0.5), (5, 1), (5, 0.5), (25, 0.5)]


def test_hold_out_species():
    """10 species of 5 specimens and 2 rows without a label: 2 species wholly, 1 specimen of each of 8."""
    labels = np.append(np.repeat(np.arange(10), 5), [-1, -1])
    fit, validate = hold_out_species(labels, species=0.2, specimens=0.2, seed=4)
    assert (fit & validate).sum() == 0 and not (fit | validate)[-2:].any() and (fit | validate)[:-2].all()
    left, held = np.bincount(labels[fit], minlength=10), np.bincount(labels[validate], minlength=10)
    assert sorted(left) == [0] * 2 + [4] * 8 and sorted(held) == [1] * 8 + [5] * 2
    assert (hold_out_species(labels, seed=5)[1] != validate).any(), "the seed does nothing"


@pytest.mark.parametrize("centred", [False, True])
def test_principal_axes(centred):
    """As scikit-learn's, up to sign; uncentred differs by a constant shift. The greatest element sets the sign."""
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) + 3
    pca = PCA(3).fit(x)
    train, test = principal_axes(x, x[:7], 3, centred=centred)
    shift = 0 if centred else pca.mean_ @ pca.components_.T
    np.testing.assert_allclose(np.abs(train), np.abs(pca.transform(x) + shift))
    np.testing.assert_allclose(test, train[:7])
    flipped = principal_axes(x[::-1], x[:7], 3, centred=centred)[1]
    np.testing.assert_allclose(flipped, test)
    same, _ = principal_axes(x, x, 6, centred=centred)
    np.testing.assert_array_equal(same, x)


def test_centring_changes_no_answer():
    x, labels, attributes, _ = groups()
    arguments = x, labels, x, labels, attributes, []
    one, two = (bayesian_zero_shot(*arguments, components=3, centred=centred) for centred in (False, True))
    np.testing.assert_allclose(one.log_likelihoods, two.log_likelihoods, atol=1e-9)


def test_late_fusion():
    """Two classifiers of the same rows. By range: (0, 0.5, 1) + (1, 0.75, 0) = (1, 1.25, 1): the middle class, which
    neither prefers. With the maximum as the lower bound, as in the published program, it would be another."""
    x, labels, attributes, _ = groups(4, 2, 3)
    base = bayesian_zero_shot(x, labels, x[:1], labels[:1], attributes, [], components=None)
    from dataclasses import replace

    rows = [[0.0, 5.0, 10.0, 0.0]], [[9.0, 8.0, 5.0, 5.0]]
    parts = [replace(base, log_likelihoods=np.array(row)) for row in rows]
    both = late_fusion(parts, labels, labels[:1])
    np.testing.assert_allclose(both.log_likelihoods, [[1, 1.25, 1, 0]])
    assert both.predictions.tolist() == [1]
    with pytest.raises(ValueError, match="same specimens"):
        late_fusion([base, replace(base, codes=base.codes + 1)], labels, labels[:1])


def test_ridge_map_and_mapped_images():
    """As scikit-learn's ridge regression without intercept. DIT doubles the train set with mapped photos."""
    rng = np.random.default_rng(0)
    images, dna = rng.normal(size=(40, 6)), rng.normal(size=(40, 4))
    peer = Ridge(alpha=2.5, fit_intercept=False).fit(images, dna)
    np.testing.assert_allclose(ridge_map(images, dna, 2.5), peer.coef_.T)
    train, test = map_images(dna[:30], images[:30], dna[30:], images[30:])
    scale = lambda a: (a - a.mean(1, keepdims=True)) / a.std(1, ddof=1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(train[:30], scale(dna[:30]))
    np.testing.assert_allclose(test, scale(dna[30:]))
    np.testing.assert_allclose(train[30:], scale(images[:30]) @ ridge_map(scale(images), scale(dna)))
    with pytest.raises(ValueError, match="train_dna: row 2 is constant"):
        map_images(np.where(np.arange(30)[:, None] == 2, 1.0, dna[:30]), images[:30], dna[30:], images[30:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: np.full((4, 2), np.nan)}, "train_features has NaN or infinite values in the rows 0, 1, 2, 3: "),
        ({2: np.ones(3)}, r"test_features must be a matrix .* got \(3,\)"),
        ({2: np.ones((1, 3)), 3: [0]}, "train_features have 2 dimensions and test_features 3"),
        ({1: [0, 1]}, r"train_labels has the shape \(2,\), but train_features has 4 rows"),
        ({1: ["a", "a", "b", "b"]}, "train_labels must be class ids .* LabelMaps.encode"),
        ({1: [-1] * 4}, "No train row has a label"),
        ({1: [0, 1, 2, 3]}, "4 specimens of 4 species are too few for 2 features.*Keep at most 0 components"),
        (
            {0: np.array([[0, 0], [1, 1], [5, 5], [6, 6]])},
            "singular: of 2 features, 1 do not vary.*at most 1 components",
        ),
        ({4: [[0.0], [1.0]]}, r"a row for each species id up to 2, got \(2, 1\)"),
        ({4: [[0.0], [1.0], [np.nan]]}, r"attributes of the species \[2\] are NaN"),
        ({5: [1]}, "unseen must be distinct species that are not in train"),
    ],
)
def test_bad_input_raises(changes, message):
    x = np.array([[0.0, 0], [1, 2], [5, 5], [6, 4]])
    arguments = [x, [0, 0, 1, 1], x[:2], [0, 2], [[0.0], [1.0], [2.0]], [2]]
    options = {"setting": Setting(neighbours=1), "components": None}
    bayesian_zero_shot(*arguments, **options)
    for place, value in changes.items():
        arguments[place] = value
    with pytest.raises(ValueError, match=message):
        bayesian_zero_shot(*arguments, **options)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(m=1.5, neighbours=1), "m must be more than 1 [+] 1 / 2 times"),
        (Setting(k0=0, neighbours=1), "k0 must be a number above 0, got 0"),
        (Setting(s=-1, neighbours=1), "s must be a number above 0, got -1"),
        (Setting(neighbours=3), "neighbours must lie between 1 and the 2 seen species, got 3"),
    ],
)
def test_bad_settings_raise(setting, message):
    x = np.array([[0.0, 0], [1, 2], [5, 5], [6, 4]])
    with pytest.raises(ValueError, match=message):
        bayesian_zero_shot(x, [0, 0, 1, 1], x, [0, 0, 1, 1], [[0.0], [1.0], [2.0]], [2], setting=setting)


def test_errors_of_the_other_functions():
    x, labels, attributes, genera = groups()
    with pytest.raises(ValueError, match="genera has 3 species and the labels go up to 11"):
        genus_species_zero_shot(x, labels, x, labels, genera[:3])
    with pytest.raises(ValueError, match="The validation set needs seen and unseen species; of its 12, 0 are not in"):
        tune_genus_species(x, labels, x, labels, genera)
    with pytest.raises(ValueError, match="species is 1; give the share to hold out, between 0 and 1"):
        hold_out_species(labels, species=1)
    with pytest.raises(ValueError, match="components is the number"):
        principal_axes(x, x, 0, centred=True)
    with pytest.raises(ValueError, match="rho is a penalty"):
        ridge_map(x, x, 0)


def test_features_on_very_different_scales():
    """Within-species variances from 1e-12 to 1e12 and far means: the results equal those of the unscaled features, as
    a surrogate does not depend on the axes."""
    x, labels, _, genera = groups(seed=1)
    scale = np.logspace(-6, 6, 5)
    one, two = (class_statistics(a, labels) for a in (x, (x + 50) * scale))
    np.testing.assert_allclose(np.abs(one.means @ one.means.T), np.abs(two.means @ two.means.T), rtol=1e-6, atol=1e-6)
