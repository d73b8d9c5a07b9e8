"""A page over a small world: a library, a dataset with photos, and clusters with a new species and a wrong name."""

import itertools
import shutil
from collections import Counter

import numpy as np
import pytest

from bioscan_hf import load_bioscan5m
from bioscan_hf.schema import LABEL_COLUMNS


def vectors(barcodes):
    """Counts of 4-mers (N, 256)."""
    places = {"".join(letters): i for i, letters in enumerate(itertools.product("ACGT", repeat=4))}
    x = np.zeros((len(barcodes), len(places)), np.float32)
    for row, letters in enumerate(barcodes):
        for word, count in Counter(letters[i : i + 4] for i in range(len(letters) - 3)).items():
            if word in places:
                x[row, places[word]] = count
    return x


@pytest.fixture(scope="session")
def library(dataset, tmp_path_factory):
    """A library of the dataset."""
    from bioscan_hf.identification import library as module

    folder = tmp_path_factory.mktemp("references") / "library"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 60)
        module.ReferenceLibrary.from_files([str(dataset)]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clusters(dataset, tmp_path_factory):
    """Clusters of every specimen with a species: one has a wrong name, and a species far from others has lost its."""
    from bioscan_hf.clustering.output import SpecimenPhotos, write_output
    from bioscan_hf.clustering.protocol import JoinedSpecimens, cluster_embeddings

    data = load_bioscan5m(dataset, "dna", "all", columns=["processid", "dna_barcode", "split", *LABEL_COLUMNS])
    data = data.filter(lambda name: name is not None, input_columns="species").sort("processid")
    labels = {rank: data[rank][:] for rank in LABEL_COLUMNS}
    common = [name for name, count in Counter(labels["species"]).most_common() if count >= 5]
    wrong = labels["species"].index(common[0])
    labels["species"][wrong] = common[1]
    bins = {name: set() for name in common}
    for name, own in zip(labels["species"], labels["dna_bin"], strict=True):
        bins.setdefault(name, set()).add(own)
    lost = next(name for name in common[2:] if len(bins[name]) == 1)
    x = vectors(data["dna_barcode"][:])
    x[[name == lost for name in labels["species"]]] += 3
    labels["species"] = [None if name == lost else name for name in labels["species"]]
    ids = data["processid"][:]
    specimens = JoinedSpecimens(ids, {"dna": x}, labels, data["split"][:], {}, {"dataset": "dataset"})
    folder = tmp_path_factory.mktemp("clusters")
    how = {"reducer": "none", "n_clusters": len(set(labels["species"]))}
    results = cluster_embeddings(specimens, folder, **how)
    photos = SpecimenPhotos(dataset, "cropped_256", "all", ids)
    write_output(folder, {"dna": results}, specimens, photos=photos, reducer="pca")
    return folder, ids[wrong]


@pytest.fixture(scope="session")
def served(library, dataset, clusters):
    """The page, served on this machine."""
    from bioscan_hf.app.page import open_parts, serve

    page = serve(open_parts([str(library), str(dataset)], clusters=clusters[0]))
    yield page
    page.close()


@pytest.fixture(scope="session")
def browser():
    """Chromium of this machine without a window."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs Chromium: apt install chromium (CI installs it)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()
