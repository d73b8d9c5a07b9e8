"""The CLIBD processor: published batches, texts, errors, saving and loading, augmentation, and the collator."""

import json
import warnings

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import BARCODE, GNAT, clibd_rows, encoded, picture, text_tokenizer
from transformers import BertTokenizer

from bioscan_hf.models.pixels import photo_pixels, rotate_by
from bioscan_hf.models.processing_clibd import PUBLISHED, ClibdProcessor, make_image_processor, photos_on_device
from bioscan_hf.models.spelling import spell
from bioscan_hf.models.taxonomy_text import BIOCLIP_TEMPLATES, TEXT_TEMPLATES, clibd_text
from bioscan_hf.schema import RANKS
from bioscan_hf.training.clibd.batches import ClibdCollator
from bioscan_hf.training.draws import text_id


@pytest.fixture(scope="module")
def processor():
    return ClibdProcessor(make_image_processor(32), None, text_tokenizer())


def test_the_published_batches(reference):
    """Rows of a published split: tokens are equal, photos are equal in half precision, as stored."""
    folder = reference / "clibd"
    processor = ClibdProcessor(
        make_image_processor(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        text_tokenizer=BertTokenizer(vocab=str(folder / "tiny_vocab.txt")),
        **PUBLISHED,
    )
    expected, texts = (
        np.load(folder / "dataset.npz"),
        json.loads((folder / "dataset.json").read_text())["text_strings"],
    )
    with h5py.File(folder / "tiny_split.hdf5") as file:
        rows = file["val_seen"]
        photos = [bytes(image[:length]) for image, length in zip(rows["image"], rows["image_mask"], strict=True)]
        barcodes = [value.decode() for value in rows["barcode"]]
        ranks = ("order", "family", "genus", "species")
        taxa = [{rank: rows[rank][row].decode() for rank in ranks} for row in range(len(photos))]
    unknown = [{rank: None if name == "not_classified" else name for rank, name in taxon.items()} for taxon in taxa]
    assert [clibd_text(taxon, "published") for taxon in unknown] == texts
    for batch in range(2):
        part = slice(3 * batch, 3 * batch + 3)
        found = processor(photos[part], unknown[part], barcodes[part])
        for ours, theirs in (
            ("dna_input_ids", "dna"),
            ("text_input_ids", "input_ids"),
            ("text_attention_mask", "attention_mask"),
        ):
            np.testing.assert_array_equal(found[ours], expected[f"eval/b{batch}/{theirs}"])
        image = expected[f"eval/b{batch}/image"].astype(np.float32)
        np.testing.assert_allclose(found["pixel_values"], image, rtol=0, atol=2.5e-4)
        on_device = processor(photos[part], on_device=True)
        assert on_device["pixel_values"].dtype == torch.uint8
        np.testing.assert_allclose(photos_on_device(on_device, processor.image_processor), image, rtol=0, atol=2.5e-4)


def test_the_published_tokens_of_barcodes(reference):
    cases = reference.json("clibd/dna_tokens.json")["cases"]
    # The published tokens of lower-case letters are unknown; here they are those of upper-case letters.
    cases = {name: case for name, case in cases.items() if case["seq"] and spell(case["seq"]) == case["seq"]}
    ids = ClibdProcessor()(dna=[case["seq"] for case in cases.values()])["dna_input_ids"]
    assert ids.tolist() == [case["ids"] for case in cases.values()] and len(cases) > 3


@pytest.mark.parametrize(
    ("template", "text", "without_species", "with_common_name"),
    [
        ("known", "Diptera Sciaridae Claustropyga acanthostyla", "Diptera Sciaridae Claustropyga", None),
        (
            "published",
            "Diptera Sciaridae Claustropyga Claustropyga acanthostyla",
            "Diptera Sciaridae Claustropyga not_classified",
            None,
        ),
        ("scientific", "Claustropyga acanthostyla", "Claustropyga", None),
        ("common", "Claustropyga acanthostyla", "Claustropyga", "gnat"),
        (
            "taxonomic",
            "Animalia Arthropoda Insecta Diptera Sciaridae Claustropyga acanthostyla",
            "Animalia Arthropoda Insecta Diptera Sciaridae Claustropyga",
            None,
        ),
        (
            "scientific_common",
            "Claustropyga acanthostyla",
            "Claustropyga",
            "Claustropyga acanthostyla with common name gnat",
        ),
        (
            "taxonomic_common",
            "Animalia Arthropoda Insecta Diptera Sciaridae Claustropyga acanthostyla",
            "Animalia Arthropoda Insecta Diptera Sciaridae Claustropyga",
            "Animalia Arthropoda Insecta Diptera Sciaridae Claustropyga acanthostyla with common name gnat",
        ),
    ],
)
def test_texts(template, text, without_species, with_common_name):
    assert clibd_text(GNAT, template) == text
    assert clibd_text(GNAT | {"species": None}, template) == without_species
    assert clibd_text(GNAT | {"common_name": "gnat"}, template) == (with_common_name or text)
    nothing = "not_classified not_classified not_classified not_classified" if template == "published" else None
    assert clibd_text({}, template) == nothing
    assert len(BIOCLIP_TEMPLATES) == 5


@given(
    st.fixed_dictionaries({rank: st.sampled_from([None, "", "not_classified", "Aa", "Aa bb"]) for rank in RANKS}),
    st.sampled_from(TEXT_TEMPLATES),
)
@settings(max_examples=200, deadline=None)
def test_texts_have_no_empty_words(taxonomy, template):
    text = clibd_text(taxonomy, template)
    assert text is None or (text == " ".join(text.split()) and text)
    if template != "published":
        assert text is None or "not_classified" not in text


@pytest.mark.parametrize("taxonomy", [{"tribe": "Sciarini"}, {"kingdom": "Animalia"}])
def test_unknown_rank_raises(taxonomy):
    with pytest.raises(ValueError, match=f"Unknown rank '{next(iter(taxonomy))}'"):
        clibd_text(taxonomy)
    with pytest.raises(ValueError, match="Unknown text template 'poem'"):
        clibd_text(GNAT, "poem")


def test_every_type_of_photo(processor, tmp_path):
    """Equal pixels from an image, an array, a tensor, bytes, a path, and a value of datasets."""
    image = picture()
    (tmp_path / "photo.png").write_bytes(encoded(image))
    array = np.array(image)
    forms = [
        image,
        array,
        torch.from_numpy(array).permute(2, 0, 1),
        encoded(image),
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        {"bytes": encoded(image), "path": None},
        {"bytes": None, "path": str(tmp_path / "photo.png")},
    ]
    for form in forms:
        np.testing.assert_array_equal(photo_pixels(form), array)
    pixels = processor(forms)["pixel_values"]
    assert pixels.shape == (8, 3, 32, 32) and torch.equal(pixels, pixels[:1].expand_as(pixels))
    assert torch.equal(processor(image)["pixel_values"], pixels[:1])
    assert torch.equal(processor(np.stack([array, array]))["pixel_values"], pixels[:2])


def test_read_only_array(processor):
    """Such as np.asarray(image): the same batch, without a warning of torch, and unchanged."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    locked = photo.copy()
    locked.flags.writeable = False
    assert photo_pixels(locked).flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = processor(images=locked)["pixel_values"]
    assert torch.equal(found, processor(images=photo)["pixel_values"]) and np.array_equal(locked, photo)


def test_processor_of_another_model_raises(processor, tmp_path):
    """The folder of an image processor has no processor_config.json."""
    processor.image_processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no processor of CLIBD"):
        ClibdProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_photos_of_other_colours_become_rgb(mode):
    image = picture(mode=mode)
    np.testing.assert_array_equal(photo_pixels(image), np.array(image.convert("RGB")))
    if mode not in ("CMYK",):  # PNG does not support it
        assert photo_pixels(encoded(image)).shape == (40, 60, 3)
    grey = np.array(picture(mode="L"))
    np.testing.assert_array_equal(photo_pixels(grey), np.stack([grey] * 3, 2))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_upper_8_of_16_bits_are_used(form):
    """0, 255, 256, 32,768 and 65,535 of 65,535 are 0, 0, 1, 128 and 255 of 255; Pillow alone would make most 255."""
    values = np.array([0, 255, 256, 32768, 65535], np.uint16)
    grey = np.tile(np.repeat(values, 8), (8, 1))  # 8 x 40 pixels
    pixels = photo_pixels(encoded(Image.fromarray(grey), form))
    expected = np.tile(np.repeat(np.array([0, 0, 1, 128, 255], np.uint8), 8), (8, 1))
    np.testing.assert_array_equal(pixels, np.stack([expected] * 3, 2))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_range_raise(dtype):
    photo = encoded(Image.fromarray(np.zeros((40, 40), dtype)), "TIFF")
    with pytest.raises(ValueError, match="cannot be decoded .*whose range is unknown"):
        photo_pixels(photo)


@pytest.mark.parametrize(
    ("photo", "error", "message"),
    [
        (encoded(picture(), "JPEG")[:300], ValueError, r"Row 1 of the batch: the photo cannot be decoded"),
        (b"", ValueError, r"cannot be decoded .*0 bytes"),
        (b"no picture", ValueError, r"cannot be decoded"),
        (picture(5, 40), ValueError, r"has 5 x 40 pixels, but either side needs 8"),
        (encoded(picture(40, 7)), ValueError, r"has 40 x 7 pixels"),
        (np.zeros((0, 0, 3), np.uint8), ValueError, r"has 0 x 0 pixels"),
        (np.zeros((40, 40, 4), np.uint8), ValueError, r"shape \(40, 40, 4\)"),
        (torch.zeros(40, 40, 3, dtype=torch.uint8), ValueError, r"tensor of the shape \(40, 40, 3\)"),
        (np.zeros((40, 40, 3)), ValueError, r"array of float64. Give uint8"),
        (Image.fromarray(np.zeros((40, 40), np.int32)), ValueError, r"mode is 'I', whose range is unknown"),
        ("nowhere.jpg", FileNotFoundError, r"nowhere.jpg"),
        (7, TypeError, r"Row 1 of the batch: the photo is a int"),
    ],
)
def test_bad_photo_is_named(processor, photo, error, message):
    with pytest.raises(error, match=message):
        processor([picture(), photo])


def test_invalid_inputs_and_options_raise(processor):
    for call, error, message in (
        ({}, ValueError, "nothing to process"),
        ({"dna": []}, ValueError, "0 of dna"),
        ({"dna": [BARCODE], "images": [picture(), picture()]}, ValueError, "2 of image, 1 of dna"),
        ({"dna": [BARCODE, " "], "names": ["A", "B"]}, ValueError, "B: the barcode is empty"),
        ({"dna": [BARCODE, 5]}, TypeError, "Row 1 of the batch: the barcode is a int"),
        ({"text": [GNAT, 5]}, TypeError, "Row 1 of the batch: a int is neither"),
        ({"text": [{"tribe": "x"}]}, ValueError, "Unknown rank 'tribe'"),
        ({"images": [picture()], "mode": "test"}, ValueError, "Unknown mode 'test'"),
    ):
        with pytest.raises(error, match=message):
            processor(**call)
    with pytest.raises(ValueError, match="no text_tokenizer"):
        ClibdProcessor()(text=["Diptera"])
    for options, message in (
        ({"text_template": "poem"}, "Unknown text_template 'poem'"),
        ({"text_prompt": "a photo"}, "must hold '{}' once"),
        ({"text_padding": "left"}, "Unknown text_padding 'left'"),
        ({"text_max_length": 0}, "text_max_length is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ClibdProcessor(**options)


def test_none_is_a_missing_value(processor):
    """The row of a missing value attends to one token, and is False in `*_present`."""
    batch = processor([picture(), None], [None, GNAT], [None, BARCODE])
    assert {name: batch[f"{name}_present"].tolist() for name in ("image", "text", "dna")} == {
        "image": [True, False],
        "text": [False, True],
        "dna": [False, True],
    }
    assert batch["dna_attention_mask"].sum(1).min() >= 1
    whole = processor([picture()], [GNAT], [BARCODE])
    assert not any(name.endswith("_present") for name in whole)
    assert torch.equal(batch["dna_input_ids"][1:], whole["dna_input_ids"])
    assert processor(text=[{}, GNAT])["text_present"].tolist() == [False, True]


def test_options_of_texts(processor):
    """Prompt, maximum length and padding; one letter is one token."""
    changed = ClibdProcessor(
        make_image_processor(32), None, text_tokenizer(), "scientific", "a photo of {}.", 30, "max_length"
    )
    ids = changed(text=[GNAT | {"species": None}])["text_input_ids"]
    assert ids.shape == (1, 30)
    letters = len("aphotoofClaustropyga.")
    assert changed(text=[GNAT | {"species": None}])["text_attention_mask"].sum() == letters
    assert processor(text=["ab", "abcd"])["text_input_ids"].shape == (2, 4)


@pytest.mark.parametrize("text", [True, False])
def test_saved_and_loaded(tmp_path, text):
    options = {"text_template": "taxonomic", "text_prompt": "[{}]", "text_max_length": 9, "text_padding": "max_length"}
    saved = ClibdProcessor(make_image_processor(32), None, text_tokenizer() if text else None, **options)
    saved.save_pretrained(tmp_path)
    loaded = ClibdProcessor.from_pretrained(tmp_path)
    assert loaded.modalities == saved.modalities == (("image", "dna", "text") if text else ("image", "dna"))
    assert {name: getattr(loaded, name) for name in options} == options
    arguments = {"images": [picture()], "dna": [BARCODE]} | ({"text": [GNAT]} if text else {})
    one, other = saved(**arguments), loaded(**arguments)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert set(one) == set(loaded.model_input_names)
    given = ClibdProcessor.from_pretrained(tmp_path, text_tokenizer=text_tokenizer())
    assert given.modalities == ("image", "dna", "text")


def test_training_augments_photos_as_published(processor):
    """The generator determines crops, flips and rotations, which are equal on the device."""
    image = picture(90, 60)

    def draw(**options):
        return processor([image] * 4, mode="train", generator=torch.Generator().manual_seed(1), **options)

    one, device = draw(), draw(on_device=True)
    assert torch.equal(one["pixel_values"], draw()["pixel_values"])
    assert set(device) == {"pixel_values", "rotation"} and device["pixel_values"].dtype == torch.uint8
    assert torch.equal(photos_on_device(device, processor.image_processor), one["pixel_values"])
    straight = (device["pixel_values"].float() / 255 - 0.5) / 0.5
    # The colour of the corners, 127.5, is rounded.
    torch.testing.assert_close(rotate_by(straight, device["rotation"]), one["pixel_values"], atol=0.004, rtol=0)
    assert device["rotation"].abs().max() <= 45 and len(set(device["rotation"].tolist())) == 4
    assert not torch.equal(one["pixel_values"][0], one["pixel_values"][1])
    assert (one["pixel_values"][:, :, 0, 0].abs() < 0.004).any(), "no corner was left empty"


def test_augmentation_depends_only_on_the_specimen(processor):
    """The same in any batch; different in the next epoch and with another seed."""
    collator = ClibdCollator(processor, templates=["known", "scientific", "common"], seed=5)
    whole, part = collator(clibd_rows()), collator(clibd_rows()[2:4])
    for name in ("pixel_values", "rotation", "dna_input_ids", "dna_ids", "text_ids"):
        assert torch.equal(whole[name][2:4], part[name]), name
    collator.set_epoch(1)
    assert not torch.equal(collator(clibd_rows())["pixel_values"], whole["pixel_values"])
    other = ClibdCollator(processor, templates=["known", "scientific", "common"], seed=6)
    assert not torch.equal(other(clibd_rows())["rotation"], whole["rotation"])
    assert any(not torch.equal(collator(clibd_rows())["text_ids"], whole["text_ids"]) for _ in range(1))


def test_validation_is_not_random(processor):
    collator = ClibdCollator(processor, mode="eval")
    batch = collator([row | {"index": 10 + i} for i, row in enumerate(clibd_rows())])
    assert "rotation" not in batch and batch["labels"].tolist() == list(range(10, 16))
    collator.set_epoch(1)
    assert torch.equal(collator([row | {"index": 0} for row in clibd_rows()])["pixel_values"], batch["pixel_values"])


def test_labels_and_equal_inputs(processor):
    batch = ClibdCollator(processor, ["dna", "text"], label_columns=["genus", "species"])(clibd_rows())
    assert batch["labels"][0, 1] == -1 and batch["labels"].shape == (6, 2)
    assert batch["labels"][0, 0] == batch["labels"][2, 0] != batch["labels"][1, 0]
    assert len(set(batch["dna_ids"].tolist())) == 6
    assert text_id("Diptera") == text_id("Diptera") >= 0 > text_id("") == text_id(None) == -1
    assert "pixel_values" not in batch


def test_trimmed_barcodes(processor):
    batch = ClibdCollator(processor, ["dna"], trim_padding=True)(clibd_rows())
    assert batch["dna_input_ids"].shape == batch["dna_attention_mask"].shape == (6, 1 + len(BARCODE) // 5)


def test_errors_of_the_collator(processor):
    for arguments, message in (
        ({"modalities": ["smell"]}, "Unknown 'smell'"),
        ({"label_columns": ["tribe"]}, "Unknown 'tribe'"),
        ({"templates": ["poem"]}, "Unknown text template 'poem'"),
        ({"mode": "test"}, "Unknown mode 'test'"),
    ):
        with pytest.raises(ValueError, match=message):
            ClibdCollator(processor, **arguments)
    with pytest.raises(ValueError, match="no text_tokenizer"):
        ClibdCollator(ClibdProcessor(), ["text"])
    broken = clibd_rows()
    broken[3]["image"] = {"bytes": b"x", "path": None}
    with pytest.raises(ValueError, match="The specimen P3: the photo cannot be decoded"):
        ClibdCollator(processor)(broken)
