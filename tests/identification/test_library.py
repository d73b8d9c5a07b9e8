"""Names of reads by a library of references: any reads, statuses, confidences, and the folder of a library."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_up_references import evolved, records

from bioscan_hf import BarcodeBertConfig, BarcodeBertModel, KmerTokenizer
from bioscan_hf.identification import library as module
from bioscan_hf.identification.formats import COLUMNS, Found
from bioscan_hf.identification.library import ReferenceLibrary
from bioscan_hf.identification.region import complement

RANKS = ("order", "family", "genus", "species")


def found_of(rows):
    return Found(pa.table({name: pa.array([row[name] for row in rows], pa.large_string()) for name in COLUMNS}), {})


def make(rows, **options):
    return ReferenceLibrary.from_records(found_of(rows), **options)


@pytest.fixture(scope="module")
def world():
    """All records, those of a library, and one read of each of 20 species of it."""
    rows = records(np.random.default_rng(0))
    reads = rows[::8][:20]
    names = {row["processid"] for row in reads}
    return {"library": [row for row in rows if row["processid"] not in names], "reads": reads}


@pytest.fixture(scope="module")
def library(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 150)
        return make(world["library"])


def variants():
    rng = np.random.default_rng(1)

    def noise(length):
        return "".join(rng.choice(list("ACGT"), length))

    return {
        "as they are": lambda read: read,
        "lower case, with gaps and U": lambda read: f"--{read[:300].lower().replace('t', 'u')}---{read[300:]}--",
        "the other strand": complement,
        "one base inserted": lambda read: f"{read[:320]}A{read[320:]}",
        "20 bases missing": lambda read: read[:300] + read[320:],
        "one base inserted, in 9,000 nt": lambda read: f"{noise(4000)}{read[:320]}A{read[320:]}{noise(4400)}",
        "8 % insertions and deletions": lambda read: "".join(
            letter + (rng.choice(list("ACGT")) if rng.random() < 0.04 else "")
            for letter in read
            if rng.random() > 0.04
        ),
        "three bases missing": lambda read: read[:150] + read[151:300] + read[301:450] + read[451:],
        "the first 313": lambda read: read[:313],
        "the last 200": lambda read: read[-200:],
        "150 in the middle": lambda read: read[250:400],
        "5 % errors": lambda read: evolved(read, 0.05, rng),
        "a fifth N": lambda read: "".join("N" if rng.random() < 0.2 else x for x in read),
        "300 nt in front": lambda read: noise(300) + read,
    }


@pytest.mark.parametrize("variant", variants())
def test_reads_are_named_whatever_happened_to_them(world, library, variant):
    """18 of 20 species are right, no sure name is wrong, and the status tells what was done."""
    changed = [variants()[variant](row["dna_barcode"]) for row in world["reads"]]
    found = library.identify(changed).to_pylist()
    right = [row["species"] == true["species"] for row, true in zip(found, world["reads"], strict=True)]
    assert sum(right) >= 18
    for row, true in zip(found, world["reads"], strict=True):
        assert row["name"] is None or row["name"] == true[row["rank"]]
    fewest = {"20 bases missing": 1, "8 % insertions and deletions": 0}.get(variant, 15)
    assert sum(row["rank"] in ("genus", "species") for row in found) >= fewest
    expected = {
        name: {"indel"} for name in variants() if "inserted" in name or "insertions" in name or "missing" in name
    }
    expected["the other strand"] = {"reversed"}
    expected |= dict.fromkeys(("the first 313", "the last 200", "150 in the middle"), {"short"})
    assert {row["status"] for row in found} <= expected.get(variant, {"ok", "short", "possible_numt"})
    assert {row["strand"] for row in found} == {"-" if variant == "the other strand" else "+"}


def test_insertions_and_deletions_are_told_from_numts_beside_short_references(world):
    """Reads of a known and of a new genus with a letter more or less are "indel", although pieces lie nearer.

    A short reference matches a part of the read better than whole ones, and does not tell what lies beside it.
    """
    rng = np.random.default_rng(12)
    rows = [*world["library"], *world["reads"]]
    gone = rows[-1]["genus"]
    kept = [row for row in rows if row["genus"] != gone]
    pieces = []
    for row in kept[::3]:
        start, length = int(rng.integers(0, 420)), int(rng.integers(150, 240))
        own = {"processid": f"{row['processid']}p", "dna_barcode": row["dna_barcode"][start : start + length]}
        pieces.append({**row, **own})
    library = module.ReferenceLibrary.uncalibrated(found_of([*kept, *pieces]))
    for genus in (kept[0]["genus"], gone):
        reads = []
        for row in [row for row in rows if row["genus"] == genus]:
            read, place = row["dna_barcode"], int(rng.integers(110, 548))
            reads += [f"{read[:place]}{rng.choice(list('ACGT'))}{read[place:]}", read[:place] + read[place + 1 :]]
        status = library.identify(reads)["status"].to_pylist()
        assert status.count("indel") >= 0.97 * len(reads) and "possible_numt" not in status


def test_genes_that_are_not_translated_have_no_frameshift():
    """Of ribosomal RNA, whose sequences have gaps by nature, neither reads nor references are told to have one."""
    rng = np.random.default_rng(13)
    rows = records(rng, 1, 1, 3, 3, root="".join(rng.choice(list("ACGT"), 300)))
    rows[5]["dna_barcode"] = rows[5]["dna_barcode"][:150] + rows[5]["dna_barcode"][151:]
    library = module.ReferenceLibrary.uncalibrated(found_of(rows))
    assert library.references.region is not None and library.frame is None
    reads = [row["dna_barcode"] for row in rows]
    changed = [f"{read[:120]}A{read[120:]}" for read in reads]
    assert set(library.identify(reads + changed)["status"].to_pylist()) == {"ok"}
    assert "frameshift" not in library.audit()["finding"].to_pylist()


def test_two_ends_of_different_genera_are_a_chimera(world, library):
    """Nine of ten are found on either strand, the note names both parents, and none gets a name."""
    reads = world["reads"]
    pairs = [(a, b) for a, b in zip(reads, reads[7:] + reads[:7], strict=True) if a["genus"] != b["genus"]]
    joined = [a["dna_barcode"][:300] + b["dna_barcode"][300:] for a, b in pairs]
    for sequences in (joined, [complement(read) for read in joined]):
        found = library.identify(sequences).to_pylist()
        chimeras = [row for row in found if row["status"] == "chimera"]
        assert len(chimeras) >= 0.9 * len(pairs)
        assert {row["name"] for row in chimeras} == {None} and {row["species"] for row in chimeras} == {None}
    genus = dict(zip(library.records["processid"].to_pylist(), library.records["genus"].to_pylist(), strict=True))
    for (a, b), row in zip(pairs, library.identify(joined).to_pylist(), strict=True):
        if row["status"] == "chimera":
            first, last = row["note"].split(": like ")[1].split(" and then like ")
            assert (genus[first], genus[last]) == (a["genus"], b["genus"])


def test_reads_of_a_genus_without_references_and_short_pieces_are_no_chimeras(world, library):
    rows = world["library"]
    genus = rows[0]["genus"]
    few = make([row for row in rows if row["genus"] != genus])
    new = [row["dna_barcode"] for row in rows if row["genus"] == genus]
    assert "chimera" not in few.identify(new)["status"].to_pylist()
    a, b = (row["dna_barcode"] for row in (world["reads"][0], world["reads"][9]))
    assert library.identify([a[:60] + b[60:]])["status"].to_pylist() != ["chimera"]  # parts of 80 nt at least


def test_foreign_reads_get_a_status_and_no_name(library):
    """Random letters, one letter, another tree of sequences, and reads that cannot be compared have no name at all."""
    rng = np.random.default_rng(2)
    random = "".join(rng.choice(list("ACGT"), 658))
    other = records(np.random.default_rng(9), 1, 1, 1, 1, 1)[0]["dna_barcode"]
    reads = [random, "A" * 658, other, "ACGTA", "", "N" * 500, "NA"]
    found = library.identify(reads).to_pylist()
    assert [row["status"] for row in found] == [
        *("not_coi", "not_coi", "not_coi"),
        *("too_short", "empty", "too_few_letters", "empty"),
    ]
    for row in found:
        assert row["name"] is None and row["note"]
        assert all(row[rank] is None and row[f"{rank}_confidence"] is None for rank in RANKS)


def test_confidences_fall_with_the_rank_and_tell_new_species(world):
    """A species, a genus and a family that are not in the library are not named, and are told as new."""
    rows = [*world["library"], *world["reads"]]
    gone = {"species": rows[0]["species"], "genus": rows[60]["genus"], "family": rows[-1]["family"]}
    kept = [row for row in rows if all(row[rank] != name for rank, name in gone.items())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 150)
        smaller = make(kept)
    for rank, name in gone.items():
        asked = [row for row in rows if row[rank] == name][:8]
        found = smaller.identify([row["dna_barcode"] for row in asked]).to_pylist()
        for row, true in zip(found, asked, strict=True):
            sure = [row[f"{level}_confidence"] or 0 for level in ("class", *RANKS)]
            assert sure == sorted(sure, reverse=True)
            assert row["name"] is None or row["name"] == {"class": "Insecta", **true}[row["rank"]]
        assert np.mean([row["species_new"] for row in found if row["species_new"] is not None]) > 0.5
    known = smaller.identify([row["dna_barcode"] for row in kept[:40]], novel_share=0.1)
    assert np.mean(known["species_new"].to_pylist()) < 0.2


def test_the_share_of_new_species_is_estimated_and_can_be_given(world, library):
    reads = [row["dna_barcode"] for row in world["reads"]]
    metadata = library.identify(reads).schema.metadata
    low, high = map(float, metadata[b"interval"].split(b","))
    assert low < 0.2 and float(metadata[b"novel_share"]) < 0.4
    given = library.identify(reads, novel_share=0.9).schema.metadata
    assert float(given[b"novel_share"]) == pytest.approx(0.9, abs=0.01) and b"interval" not in given
    with pytest.raises(ValueError, match=r"novel_share is 2; give a share from 0 to 1"):
        library.identify(reads, novel_share=2)


def test_records_that_share_a_barcode_vote_and_unnamed_ones_only_add(world):
    """10 records against 1 name the species and the conflict is told, in any order; unnamed records change nothing."""
    rows = world["library"]
    one = dict(rows[0])
    others = [{**one, "processid": f"S{i}", "species": f"{one['genus']} majoris"} for i in range(10)]
    unnamed = [{**one, "processid": f"U{i}", "genus": None, "species": None} for i in range(3)]
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 40)
        for order in ([*unnamed, one, *others], [*others, one, *unnamed], [*others, one]):
            named = make([*order, *rows[40:]]).identify([one["dna_barcode"]]).to_pylist()[0]
            found.append((named["species"], named["conflicts"]))
            assert named["species_confidence"] <= 10 / 11 < named["genus_confidence"]
    assert set(found) == {(f"{one['genus']} majoris", "2 species equally near")}


@pytest.mark.parametrize("kind", ["mixed lengths", "313 nt"])
def test_libraries_of_other_lengths(world, kind):
    """References without a common length are compared by words; those of 313 nt have a region of their own."""
    rng = np.random.default_rng(3)

    def cut(read):
        if kind == "313 nt":
            return read[:313]
        start = int(rng.integers(0, 150))
        return read[start : start + int(rng.integers(380, 500))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 60)
        other = make([{**row, "dna_barcode": cut(row["dna_barcode"])} for row in world["library"]])
    assert (other.references.region is None) == (kind == "mixed lengths")
    reads = [row["dna_barcode"] for row in world["reads"]]
    for read in (lambda read: read, complement):
        found = other.identify([read(text) for text in reads]).to_pylist()
        assert sum(row["species"] == true["species"] for row, true in zip(found, world["reads"], strict=True)) >= 17


def test_saved_libraries_name_alike(world, library, tmp_path):
    library.save_pretrained(tmp_path / "library")
    opened = ReferenceLibrary.from_pretrained(tmp_path / "library")
    reads = [row["dna_barcode"][:400] for row in world["reads"]]
    assert opened.identify(reads).equals(library.identify(reads)) and len(opened) == len(library)
    files = [path for path in (tmp_path / "library").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".bin", ".pt")]
    assert len({path.stat().st_mode for path in files}) == 1  # none is for its owner alone
    with pytest.raises(FileNotFoundError, match="is not a library of references"):
        ReferenceLibrary.from_pretrained(tmp_path)


def test_an_opened_library_does_not_read_its_folder_again(world, library, tmp_path):
    """The folder may be moved, deleted or made anew meanwhile; and other processes take an opened library."""
    library.save_pretrained(tmp_path / "first")
    opened = ReferenceLibrary.from_pretrained(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "moved")
    reads = [row["dna_barcode"] for row in world["reads"]]
    expected = library.identify(reads)
    assert opened.identify(reads).equals(expected)
    for one in (opened, library):
        assert pickle.loads(pickle.dumps(one)).identify(reads).equals(expected)
    opened.save_pretrained(tmp_path / "second")
    for file in ("library.json", "region/config.json", "region/model.safetensors", "search.safetensors"):
        assert (tmp_path / "second" / file).read_bytes() == (tmp_path / "moved" / file).read_bytes()


def test_a_library_is_replaced_whole_and_damage_is_named(world, library, tmp_path):
    """A library without a region leaves nothing of the one that it replaces; files that do not fit are refused."""
    folder = tmp_path / "library"
    library.save_pretrained(folder)
    few = make([{**row, "dna_barcode": row["dna_barcode"][: 300 + i]} for i, row in enumerate(world["library"][:6])])
    (folder / "audit.csv").write_text("of the library before\n")
    few.save_pretrained(folder)
    assert ReferenceLibrary.from_pretrained(folder).references.region is None
    assert not [path for path in folder.rglob("*") if path.name in ("audit.csv", "model.safetensors")]
    library.save_pretrained(folder)
    names = ("library.json", "references.parquet", "search.safetensors", "region/model.safetensors")
    whole = {folder / name: (folder / name).read_bytes() for name in names}
    for path, content in whole.items():
        for damaged in (content[: len(content) // 2], b"{}" if path.suffix == ".json" else b"x" * 100):
            path.write_bytes(damaged)
            with pytest.raises((ValueError, FileNotFoundError)) as told:
                ReferenceLibrary.from_pretrained(folder)
            assert "\n" not in str(told.value)
        path.write_bytes(content)
    few.save_pretrained(tmp_path / "other")
    (folder / "references.parquet").write_bytes((tmp_path / "other" / "references.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"is damaged \(its files have 6, 126 rows\)"):
        ReferenceLibrary.from_pretrained(folder)


def test_few_references_give_names_without_confidences(world):
    few = make(world["library"][:6])
    row = few.identify([world["library"][0]["dna_barcode"]]).to_pylist()[0]
    assert few.calibration is None and row["species"] == world["library"][0]["species"]
    asked = pa.table({"processid": ["a"], "dna_barcode": [world["library"][0]["dna_barcode"]]})
    (batch,) = few.identify_batches([asked])  # as the command does
    assert batch["species"][0].as_py() == row["species"] and batch["id"][0].as_py() == "a"
    assert row["name"] is None and row["species_confidence"] is None


def test_an_encoder_of_ones_own_gives_the_shortlist(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 20)
        other = make(world["library"], model="kmer:4")
    found = other.identify([row["dna_barcode"] for row in world["reads"]]).to_pylist()
    assert sum(row["species"] == true["species"] for row, true in zip(found, world["reads"], strict=True)) >= 18


def test_a_neural_encoder_gives_the_shortlist_and_no_other_opens_the_library(world, tmp_path):
    """Its gradients stopped every such library; another encoder ended in a fault of torch, or in other names."""
    for seed, name in enumerate(("first", "other")):
        torch.manual_seed(seed)
        small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        BarcodeBertModel(BarcodeBertConfig(k=4, **small)).save_pretrained(tmp_path / name)
        KmerTokenizer(k=4).save_pretrained(tmp_path / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ASKED", 20)
        made = make(world["library"], model=str(tmp_path / "first"))
        plain = make(world["library"])
    made.save_pretrained(tmp_path / "library")
    plain.save_pretrained(tmp_path / "plain")
    (tmp_path / "first").rename(tmp_path / "moved")
    opened = ReferenceLibrary.from_pretrained(tmp_path / "library", model=str(tmp_path / "moved"))
    reads = [row["dna_barcode"] for row in world["reads"]]
    found = opened.identify(reads)
    assert found.equals(made.identify(reads)) and opened.identify(["ACGT"])["status"].to_pylist() == ["too_short"]
    right = [name == row["species"] for name, row in zip(found["species"].to_pylist(), world["reads"], strict=True)]
    assert sum(right) >= 16
    for other in (str(tmp_path / "other"), "kmer:4"):
        with pytest.raises(ValueError, match="made with the encoder 'first'; the given one gives other vectors"):
            ReferenceLibrary.from_pretrained(tmp_path / "library", model=other)
    with pytest.raises(ValueError, match=r"plain' was made without an encoder. Leave it out"):
        ReferenceLibrary.from_pretrained(tmp_path / "plain", model="kmer:4")


def test_a_model_that_does_not_exist_is_named(world, tmp_path):
    """It is never looked up on the Hub."""
    table = pa.table({name: pa.array([], pa.large_string()) for name in COLUMNS})
    with pytest.raises(OSError, match="No model at .*absent"):
        ReferenceLibrary.from_records(Found(table, {}), model=str(tmp_path / "absent"))


def test_reads_in_batches_are_named_as_at_once(world, monkeypatch):
    """The share of new species is that of all reads, whichever batch they are in."""
    library = make(world["library"])
    reads = pa.table(
        {
            "processid": [str(place) for place in range(30)],
            "dna_barcode": [row["dna_barcode"] for row in world["library"][:24]]
            + ["", "ACGT" * 100, *["N" * 300] * 4],
        }
    )
    whole = library.identify(reads)
    monkeypatch.setattr(module, "_WINDOW", 10)
    parts = list(library.identify_batches([reads.slice(0, 7), reads.slice(7, 0), reads.slice(7)]))
    assert [len(part) for part in parts] == [17, 10, 3]
    joined = pa.concat_tables(parts)
    assert joined.schema.equals(whole.schema, check_metadata=True)
    assert joined["status"].equals(whole["status"]) and joined["note"].equals(whole["note"])
    for rank in ("family", "species"):
        assert joined[rank].equals(whole[rank])
        assert np.allclose(
            joined[f"{rank}_confidence"].fill_null(-1), whole[f"{rank}_confidence"].fill_null(-1), atol=1e-9
        )
