"""Folders of photos: none is passed over in silence, and each has an id of its own."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from datasets import Image as Photo
from photo_world import encoder
from PIL import Image

from bioscan_hf.identification.photos import photo_vectors, read_specimens


def picture(kind, size=(32, 24)):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


FILES = {
    "a.jpg": (picture("JPEG"), "ok"),
    "b/a.PNG": (picture("PNG"), "ok"),
    "d.gif": (picture("GIF"), "ok"),
    "e.heic": (b"\0\0\0\x18ftypheic", "unreadable"),
    "f.jpg": (picture("JPEG"), "ok"),  # two photos of one name
    "f.tif": (picture("TIFF"), "ok"),
    "g.JPG": (picture("JPEG"), "ok"),  # with its raw file
    "g.CR2": (b"II*\0", None),
    "h.png": (picture("PNG", (7, 40)), "unreadable"),  # too small to show anything
    "i.jpg": (b"", "unreadable"),
    "notes.txt": (b"x", None),
    ".i.jpg": (b"x", None),
}


def test_every_photo_of_a_folder_is_listed(tmp_path):
    for name, (content, _) in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    found = read_specimens(tmp_path)
    _, status = photo_vectors(encoder(), found.photos, found.ids)
    listed = {path.relative_to(tmp_path).as_posix(): told for path, told in zip(found.photos, status, strict=True)}
    assert listed == {name: told for name, (_, told) in FILES.items() if told}
    assert found.ids == ["a", "b/a", "d", "e", "f.jpg", "f.tif", "g", "h", "i"]


def test_one_path_is_no_list_of_photos(tmp_path):
    """Each letter of it had the status no_photo."""
    from bioscan_hf import EmbeddingLibrary

    library = EmbeddingLibrary.from_embeddings(np.eye(3), {"species": ["a", "b", "c"]})
    for one in ("photos", tmp_path, Image.new("RGB", (9, 9))):
        with pytest.raises(TypeError, match="read_specimens reads a folder"):
            library.identify(one)


def test_photos_in_any_form(tmp_path):
    """Photos of a column, a Dataset or Arrow; None and NaN mean a missing photo; an empty list gives no rows."""
    from bioscan_hf import EmbeddingLibrary

    shades = [np.full((64, 64, 3), shade, np.uint8) for shade in (20, 120, 220)]
    for number, pixels in enumerate(shades):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    names = ["Apis a", "Bombus b", "Osmia c"]
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    (tmp_path / "refs.csv").write_text(
        "\n".join(["id,photo,species", *map(",".join, zip("abc", paths, names, strict=True))])
    )
    library = EmbeddingLibrary.from_files(tmp_path / "refs.csv", model=encoder())
    expected = library.identify(shades)
    assert expected["status"].to_pylist() == ["ok"] * 3 and expected["nearest"].to_pylist() == ["a", "b", "c"]
    dataset = Dataset.from_dict({"image": paths}).cast_column("image", Photo())
    for form in (
        paths,
        pd.Series(paths, index=[2, 1, 0]),
        pa.array(paths),
        (Image.open(path) for path in paths),
        dataset,
        dataset["image"],
    ):
        assert library.identify(form).equals(expected)
    assert library.identify(pd.Series([None, float("nan")]))["status"].to_pylist() == ["no_photo"] * 2
    assert library.identify([]).schema.equals(expected.schema)
