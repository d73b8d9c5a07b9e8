"""The card of a dataset: licence, generated parts, and the words of the user, which are kept."""

import re

import pytest
import yaml

from bioscan_hf.dataset.build import build
from bioscan_hf.dataset.card import (
    PUBLISHED_ROWS,
    dataset_card,
    is_bioscan5m,
    is_edited,
    merged,
    pending,
    renewed,
    write_card,
)

NAME = "BIOSCAN_5M_Insect_Dataset_metadata.csv"


def card_of(rows=3, source=NAME, digest="ab", **more):
    return dataset_card(source, ["dna"], {"train": rows}, {"dna": digest}, **more)


def header(card):
    return yaml.safe_load(card.split("---\n")[1])


def words(card):
    """The card without its hashes."""
    return card.split("<!-- bioscan_hf: card")[0].strip()


@pytest.fixture
def old():
    """The card of an earlier build, as it was published."""
    return card_of(3, digest="old")


@pytest.fixture
def new():
    return card_of(2_000, digest="new")


def test_a_licence_is_asserted_for_bioscan5m_alone():
    """By name and rows of each split: other data, simulated or of a user, have the licence "other"."""
    real = dataset_card(NAME, ["dna"], PUBLISHED_ROWS, {"dna": "ab"})
    assert header(real)["license"] == "cc-by-3.0" and header(real)["pretty_name"] == "BIOSCAN-5M"
    assert "CC BY 3.0" in real and "CBG Photography Group" in real and "Costa Rica" in real
    assert sum(PUBLISHED_ROWS.values()) == 5_150_850
    part = {"val": PUBLISHED_ROWS["val"]}
    assert is_bioscan5m(f"{NAME}.gz", part) and not is_bioscan5m("mine.csv", part)
    for card in (card_of(), card_of(source="mine.csv"), dataset_card("mine.csv", ["dna"], part, {"dna": "ab"})):
        assert header(card)["license"] == "other" and header(card)["pretty_name"] != "BIOSCAN-5M"
        assert "CC BY" not in card and "CBG" not in card and "Costa Rica" not in card


def test_a_new_card_is_not_edited(old, new):
    assert not is_edited(old) and not is_edited(new) and "$" not in new
    assert not is_edited(renewed(old, new)), "only its generated parts differ"
    assert is_edited(old.replace("## Columns", "## The columns")) and is_edited("# My own card\n")
    assert not is_edited(old.replace("**3** in all", "**4** in all")), "the tables of splits are ours"
    assert not is_edited(old.replace("\n", "\r\n"))


EDITS = {
    "text": lambda card: card.replace("## Citation", "## How to cite us\n\nOurs is CC0.\n\n## Citation"),
    "licence": lambda card: card.replace("license: other", "license: cc0-1.0  # ours"),
    "tags": lambda card: card.replace("- biology\n", "- biology\n- moths\n"),
    "new key": lambda card: card.replace("pretty_name:", "language:\n- en\npretty_name:"),
    "no table": lambda card: re.sub(r"<!-- bioscan_hf: generated.*?generated part -->", "", card, flags=re.DOTALL),
    "own card": lambda card: "---\nlicense: cc0-1.0\n---\n# Moths of Malaise traps\n",
    "no header": lambda card: "# Moths of Malaise traps\n",
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("place", ["local", "there"])
def test_edits_are_kept_here_and_on_the_hub(old, new, edit, place):
    """Of an edited card, the header's configs and sizes and the marked table are new, and nothing else."""
    changed = EDITS[edit](old)
    assert is_edited(changed)
    found = merged(changed if place == "local" else old, changed if place == "there" else old, new)
    assert header(found)["configs"] == header(new)["configs"]
    assert header(found)["size_categories"] == ["1K<n<10K"]
    kept = (
        {key: value for key, value in header(changed).items() if key not in ("configs", "size_categories")}
        if (edit != "no header")
        else {}
    )
    assert {key: value for key, value in header(found).items() if key not in ("configs", "size_categories")} == kept
    assert ("**2,000** in all" in found) == (edit not in ("no table", "own card", "no header"))
    lines = [line for line in changed.splitlines() if "bioscan_hf: card" not in line and "Build old" not in line]
    gone = ("n<1K", "Rows: **3**", "| train | 3")
    assert [line for line in lines if line not in found and not any(part in line for part in gone)] == []
    again = merged(found, found, new)
    assert words(again) == words(found), "a second upload changes nothing"
    assert words(merged(old, found, new)) == words(found), "nor does one from a folder that was not edited"


def test_edits_in_both_places(old, new):
    """Kept where they do not compete; else refused, unless forced: then the folder's card wins."""
    mine = EDITS["text"](old)
    published = merged(mine, old, new)
    assert "Ours is CC0" in published
    there = EDITS["licence"](published)
    both = merged(mine, there, new)
    assert "cc0-1.0" in both and "Ours is CC0" in both, "the folder has nothing new"
    later = EDITS["tags"](mine)
    assert "moths" in merged(later, published, new), "the Hub is as it was published"
    for other in (there, both, merged(mine, both, new)):
        with pytest.raises(
            ValueError, match="README.md was edited here and on the Hub since the last upload.*--force"
        ):
            merged(later, other, new)
        forced = merged(later, other, new, force=True)
        assert "moths" in forced and "cc0-1.0" not in forced
    again = merged(EDITS["new key"](later), merged(later, both, new, force=True), new)
    assert "moths" in again and "language" in again, "after that the folder goes on alone"
    with pytest.raises(ValueError, match="edited here and on the Hub"):
        merged(EDITS["tags"](old), merged(old, published, new), new)  # the published text is not in the new folder
    assert merged(EDITS["own card"](old), EDITS["own card"](old), new).count("Malaise") == 1, "equal edits agree"


def test_a_licence_that_was_given_stays(old, new):
    found = merged(old, None, new, license="cc0-1.0")
    assert header(found)["license"] == "cc0-1.0"
    assert header(merged(old, found, new))["license"] == "cc0-1.0", "also without the option"
    assert header(merged(EDITS["no header"](old), found, new, license="mit", force=True))["license"] == "mit"


def test_a_card_during_an_upload(old, new):
    """Only a config without files; after an interruption, the words of the user are still there."""
    waiting = pending(merged(EDITS["text"](old), None, new))
    assert [config["config_name"] for config in header(waiting)["configs"]] == ["upload_not_finished"]
    assert "is being uploaded" in waiting and "Ours is CC0" in waiting
    found = merged(old, waiting, new)
    assert header(found)["configs"] == header(new)["configs"]
    assert "is being uploaded" not in found and "Ours is CC0" in found
    assert merged(old, pending(merged(old, None, new)), new) == merged(old, None, new)


def test_a_header_that_is_not_yaml(old, new):
    for text in ("tags: [a\n", "- a\n"):
        with pytest.raises(ValueError, match="The header of README.md is not"):
            merged(f"---\n{text}---\n# x\n", None, new)


def test_a_build_keeps_an_edited_card(release, tmp_path):
    """Built again with --force, or completed: the user's words stay, and the configs are those of the new build."""
    build(release, tmp_path / "out", ["dna"])
    path = tmp_path / "out/README.md"
    edited = EDITS["licence"](EDITS["text"](path.read_text()))
    path.write_text(edited)
    build(release, tmp_path / "out", ["dna"], splits=["val"], force=True)
    found = path.read_text()
    assert "Ours is CC0" in found and header(found)["license"] == "cc0-1.0"
    assert [one["split"] for one in header(found)["configs"][0]["data_files"]] == ["val"]
    write_card(tmp_path, "x")
    assert (tmp_path / "README.md").read_text() == "x"
