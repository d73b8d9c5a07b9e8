"""BIOSCAN-5M as a `datasets` builder, over the release reader of bioscan_hf.

    builder = Bioscan5M(config_name="cropped_256", data_dir="RELEASE")
    builder.as_streaming_dataset(split="val")

With `datasets` < 4 this file also loads as a script: `load_dataset(".../bioscan5m.py", "dna", data_dir="RELEASE",
trust_remote_code=True)`. `datasets` >= 4 runs no scripts: there `bioscan-hf build RELEASE OUT` writes Parquet that
`load_dataset("OUT", "dna")` reads with no code, and that survives an interruption, which a builder's cache does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from bioscan_hf.release import check as release
from bioscan_hf.release.columns import features
from bioscan_hf.release.layout import find_metadata
from bioscan_hf.schema import CONFIGS


@dataclass
class Bioscan5MConfig(datasets.BuilderConfig):
    """One kind of photo, or none ("dna"); `data_dir` is the folder of a release, or its metadata."""


class Bioscan5M(datasets.GeneratorBasedBuilder):
    """Reads a release, in folders or zips, without unpacking it. Splits are those that have rows."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = Bioscan5MConfig
    BUILDER_CONFIGS = [
        Bioscan5MConfig(
            name=name,
            version=datasets.Version("1.0.0"),
            description="Barcodes and taxonomy." if name == "dna" else f"Barcodes, taxonomy and photos ({name}).",
        )
        for name in CONFIGS
    ]
    DEFAULT_CONFIG_NAME = "dna"

    def _source(self) -> str:
        if not self.config.data_dir:
            raise ValueError("data_dir is missing: give the folder of a BIOSCAN-5M release, or its metadata.")
        return str(self.config.data_dir)

    def _info(self) -> datasets.DatasetInfo:
        extra: list[str] = []
        if self.config.data_dir:
            extra = release.extra_columns(find_metadata(self._source()))
        return datasets.DatasetInfo(
            features=features(self.config.name, extra),
            license="CC BY 3.0",
            homepage="https://biodiversitygenomics.net/5M-insects/",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        counts = release.scan(find_metadata(self._source()), unassigned=True).counts
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in counts]

    def _generate_examples(self, split: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        yield from enumerate(release.iterate_rows(self._source(), self.config.name, (split,)))
