"""Search with vsearch and BLAST+: simulated barcodes whose nearest neighbours are known."""

import shutil

import numpy as np
import pytest

from bioscan_hf.identification.sequence_search import (
    PACKAGES,
    neighbour_labels,
    search_nearest,
    sintax,
    uniform_barcodes,
)
from bioscan_hf.metrics import accuracy

PROGRAMS = {"vsearch": ("vsearch",), "blast": ("blastn", "makeblastdb")}


def need(*programs):
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        pytest.skip(f"not on the PATH: {', '.join(absent)}; install {PACKAGES[absent[0]]}")


@pytest.fixture(params=list(PROGRAMS))
def tool(request):
    need(*PROGRAMS[request.param])
    return request.param


def changed(barcode, places):
    """The barcode with other letters at these places."""
    letters = list(barcode)
    for place in places:
        letters[place] = "ACGT"["CGTA".index(letters[place])]
    return "".join(letters)


@pytest.fixture(scope="module")
def library():
    """Four unrelated barcodes of 658 nucleotides, a copy of the third, and three without 8 nucleotides in a row."""
    rng = np.random.default_rng(0)
    barcodes = ["".join(rng.choice(list("ACGT"), 658)) for _ in range(4)]
    return [*barcodes, barcodes[2], "", "N" * 300, "ACG"]


def test_neighbours_and_identities(tool, library):
    """10 of 658 letters changed, not near the ends: identity 648/658, and two equal references in row order."""
    queries = [changed(library[2], range(50, 600, 55)), library[3], changed(library[0], [300])]
    result = search_nearest(library, queries, tool=tool, k=2)
    assert result.neighbours.tolist() == [[2, 4], [3, -1], [0, -1]]
    expected = [[648 / 658, 648 / 658], [1, np.nan], [657 / 658, np.nan]]
    np.testing.assert_allclose(result.identities, expected, rtol=1e-6)
    assert result.tool == tool and result.seconds > 0 and result.version[0].isdigit()
    assert result.command.startswith("vsearch --usearch_global" if tool == "vsearch" else "blastn -task megablast")


def test_spelling_of_barcodes(tool, library):
    """Lower case, gaps and U do not matter. Barcodes without 8 nucleotides in a row are not found and have no hits, as
    N equals any letter in vsearch. A query without a hit keeps its row."""
    spelled = [library[1].lower(), library[0][:99] + "---" + library[0][99:], library[3].replace("T", "u")]
    nothing = ["", "-", "N" * 300, "ACG", "ACGTACGNACGTACG"]
    result = search_nearest(library, [*nothing, *spelled], tool=tool)
    assert result.neighbours[:, 0].tolist() == [-1] * 5 + [1, 0, 3]
    np.testing.assert_array_equal(result.identities[:, 0], [np.nan] * 5 + [1] * 3)


def test_a_random_query_has_no_hit_and_counts_as_wrong(tool, library):
    """Two of four labelled queries are right; the random one and the one of another class are not."""
    rng = np.random.default_rng(9)
    strange = "".join(rng.choice(list("ACGT"), 658))
    result = search_nearest(library[:4], [strange, *library[:4]], tool=tool, min_identity=0.9)
    predictions = neighbour_labels(result.neighbours, [5, 6, 7, 8])
    assert predictions.tolist() == [-1, 5, 6, 7, 8]
    assert accuracy(predictions, [5, 5, 6, 0, -1])["micro_accuracy"] == 2 / 4


@pytest.mark.parametrize("queries", [[], ["", "NNNN"]])
def test_no_query_has_a_word(tool, library, queries):
    result = search_nearest(library, queries, tool=tool, k=3)
    assert result.neighbours.shape == result.identities.shape == (len(queries), 3)
    assert (result.neighbours == -1).all() and np.isnan(result.identities).all()


def test_threads_change_nothing(tool):
    """Many equally near references: each barcode occurs four times."""
    rng = np.random.default_rng(1)
    barcodes = ["".join(rng.choice(list("ACGT"), 200)) for _ in range(30)] * 4
    queries = [changed(barcode, [60, 120]) for barcode in barcodes[:30]]
    one, two = (search_nearest(barcodes, queries, tool=tool, k=4, threads=threads) for threads in (1, 2))
    assert one.neighbours.tolist() == [[row, row + 30, row + 60, row + 90] for row in range(30)]
    np.testing.assert_array_equal(two.neighbours, one.neighbours)
    np.testing.assert_array_equal(two.identities, one.identities)


def test_min_identity(tool, library):
    """648/658 = 0.985."""
    query = [changed(library[2], range(50, 600, 55))]
    found = [int(search_nearest(library, query, tool=tool, min_identity=x).neighbours[0, 0]) for x in (0.98, 0.99)]
    assert found == [2, -1]


def test_strands(tool, library):
    query = [library[1][::-1].translate(str.maketrans("ACGT", "TGCA"))]
    found = [search_nearest(library, query, tool=tool, both_strands=x, min_identity=0.9) for x in (False, True)]
    assert [int(result.neighbours[0, 0]) for result in found] == [-1, 1]


def test_candidates_of_vsearch(library):
    """The reference with the most common words comes first but is not the most similar: 2 candidates are needed.

    Of the query, the first has 40 letters changed side by side, which spoils 47 words of 8 (a little more than 618 of
    658 are equal, with gaps), and the second 24 letters 25 apart, which spoils 192 words (634 are equal)."""
    need("vsearch")
    block, single = changed(library[0], range(400, 440)), changed(library[0], range(30, 630, 25))
    results = [search_nearest([block, single], [library[0]], candidates=n) for n in (1, 2)]
    assert [int(result.neighbours[0, 0]) for result in results] == [0, 1]
    assert float(results[1].identities[0, 0]) == pytest.approx(634 / 658)
    assert results[0].identities[0, 0] < results[1].identities[0, 0]


def test_blast_tasks(library):
    """Every twelfth letter changed: runs of 11 are equal, which blastn's words find and megablast's of 28 do not."""
    need(*PROGRAMS["blast"])
    query = [changed(library[0], range(5, 658, 12))]
    found = {task: search_nearest(library, query, tool="blast", task=task) for task in ("megablast", "blastn")}
    assert found["megablast"].neighbours[0, 0] == -1 and found["blastn"].neighbours[0, 0] == 0


def test_sintax(library):
    """Every reference has taxa at two ranks, -1 where unknown; confidences are shares of 100 samples."""
    need("vsearch")
    rng = np.random.default_rng(2)
    strange = "".join(rng.choice(list("ACGT"), 658))
    taxa = {"genus": [10, 11, 12, -1, 12, 0, 0, 0], "species": [20, 21, 22, 23, 22, 0, 0, 0]}
    queries = [changed(library[2], [300]), library[3], "", library[1].lower(), strange]
    result = sintax(library, taxa, queries)
    assert result.taxa["genus"].tolist()[:4] == [12, -1, -1, 11]
    assert result.taxa["species"].tolist()[:4] == [22, 23, -1, 21]
    assert result.confidences["species"].tolist()[:4] == [1, 1, 0, 1]
    again = sintax(library, taxa, queries)
    np.testing.assert_array_equal(again.confidences["species"], result.confidences["species"])
    empty = sintax(library, taxa, ["", "N"])
    assert empty.taxa["genus"].tolist() == [-1, -1] and empty.confidences["genus"].tolist() == [0, 0]


def test_sintax_between_two_species(library):
    """Half of the query is from each of two species of one genus: the genus is certain, the species is not."""
    need("vsearch")
    other = library[0][:329] + library[1][329:]
    result = sintax([library[0], library[1]], {"genus": [4, 4], "species": [0, 1]}, [other])
    assert result.confidences["genus"][0] == 1 and 0.5 <= result.confidences["species"][0] < 1


def test_neighbour_labels():
    """The nearest labelled neighbour: reference 1 has no label, so the second neighbour counts."""
    assert neighbour_labels([[0, 1], [1, 2], [1, -1], [-1, -1]], [7, -1, 9]).tolist() == [7, 9, -1, -1]
    with pytest.raises(ValueError, match="the highest row is 3"):
        neighbour_labels([[3]], [1, 2, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool": "diamond"}, "tool is 'diamond'; give one of vsearch, blast"),
        ({"task": "blastp"}, "task is 'blastp'; give one of"),
        ({"k": 0}, "k is 0; give a positive number"),
        ({"min_identity": 97}, "min_identity is 97; give a share"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        search_nearest(["ACGTACGTA"], ["ACGTACGTA"], **options)


def test_bad_barcodes_raise(tool):
    with pytest.raises(ValueError, match="query barcodes have characters .* the first is row 1 with 'EL'"):
        search_nearest(["ACGTACGTA"], ["ACGTN", "ELEC"], tool=tool)
    with pytest.raises(ValueError, match="reference barcodes are missing: 1, the first in row 0"):
        search_nearest([None], ["ACGT"], tool=tool)
    with pytest.raises(ValueError, match="None of the 2 references has 8 nucleotides in a row"):
        search_nearest(["ACG", ""], ["ACGT"], tool=tool)
    assert uniform_barcodes(["ac-gu", ""], "query") == ["ACGT", ""]


def test_bad_taxa_raise():
    for taxa in ({}, {"genus": [1, 2]}, {str(i): [1] for i in range(10)}):
        with pytest.raises(ValueError, match="taxa must have 1 to 9 ranks, each with an id for each of the 1"):
            sintax(["ACGTACGTA"], taxa, ["ACGT"])
    with pytest.raises(ValueError, match="seed is 0; give a positive number"):
        sintax(["ACGTACGTA"], {"genus": [1]}, ["ACGT"], seed=0)


def test_absent_program_is_named_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for options, package in (({}, "vsearch .apt install vsearch"), ({"tool": "blast"}, "apt install ncbi-blast+")):
        with pytest.raises(FileNotFoundError, match="is not on the PATH. Install .*" + package.replace("+", r"\+")):
            search_nearest(["ACGTACGTA"], ["ACGT"], **options)
    with pytest.raises(FileNotFoundError, match="'vsearch' is not on the PATH"):
        sintax(["ACGTACGTA"], {"genus": [1]}, ["ACGT"])


@pytest.mark.parametrize("program", ["vsearch", "blastn"])
def test_a_program_that_fails_is_quoted(monkeypatch, tmp_path, program):
    """A placeholder program that fails as on a full disk."""
    for name in ("vsearch", "makeblastdb", "blastn"):
        path = tmp_path / name
        path.write_text("#!/bin/sh\n" + ("echo 'disk is full' >&2; exit 3\n" if name == program else "exit 0\n"))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RuntimeError, match=rf"{program} .*failed \(3\): disk is full"):
        search_nearest(["ACGTACGTA"], ["ACGTACGTA"], tool="vsearch" if program == "vsearch" else "blast")
