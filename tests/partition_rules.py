"""What every partition must keep, and the counts of its splits, in plain Python."""

from collections import defaultdict

from bioscan_hf.barcodes import spell
from bioscan_hf.schema import METASPLITS, SPLITS


def check_partition(table):
    """Fails unless `split` is a partition by the rules of BIOSCAN-5M."""
    barcodes, of_species, of_genus = defaultdict(set), defaultdict(set), defaultdict(set)
    columns = (table[name].to_pylist() for name in ("split", "dna_barcode", "species", "genus"))
    for split, barcode, species, genus in zip(*columns, strict=True):
        assert split in SPLITS, f"the split {split!r}"
        assert (split == "pretrain") == (not species), f"{species!r} is in {split}"
        barcodes[spell(barcode).strip("N")].add(split)
        of_species[species or None].add(split)
        of_genus[genus or None].add(split)
    for barcode, found in barcodes.items():
        assert len(found) == 1, f"{barcode!r} is in several splits"
    seen, unseen = (set(METASPLITS[part]) for part in ("seen", "unseen"))
    for name, found in of_species.items():
        parts = sum(bool(found & part) for part in (seen, unseen, {"other_heldout"}))
        assert parts == (name is not None), f"{name!r} is in several of seen, unseen and other_heldout"
        assert "train" in found or not found & {"val", "test"}, f"{name!r} is not in train"
        assert "key_unseen" in found or not found & {"val_unseen", "test_unseen"}, f"{name!r} is not in key_unseen"
    for name, found in of_genus.items():
        assert found & seen or not found & unseen or name is None, f"{name!r} has no seen species"


def split_summary(table):
    """Samples, distinct barcodes and distinct species of each of the eight splits."""
    found = {split: (set(), set(), set()) for split in SPLITS}
    columns = (table[name].to_pylist() for name in ("split", "processid", "dna_barcode", "species"))
    for split, processid, barcode, species in zip(*columns, strict=True):
        for values, value in zip(found[split], (processid, spell(barcode).strip("N"), species), strict=True):
            values |= {value} - {None, ""}
    names = ("samples", "barcodes", "species")
    return [{"split": split, **dict(zip(names, map(len, values), strict=True))} for split, values in found.items()]
