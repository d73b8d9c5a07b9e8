"""BIOSCAN-5M as a `datasets` builder that reads a release.

    builder = Bioscan5M(config_name="cropped_256", data_dir="RELEASE")
    builder.as_streaming_dataset(split="val")

With `datasets` < 4 this file also loads as a script: `load_dataset(".../bioscan5m.py", "dna", data_dir="RELEASE",
trust_remote_code=True)`. `datasets` >= 4 does not run scripts; use `bioscan-hf build RELEASE OUT`, whose Parquet
`load_dataset("OUT", "dna")` reads without code. A build also resumes after an interruption; a builder's cache does
not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from bioscan_hf.dataset.sources import Release
from bioscan_hf.schema import CONFIGS


@dataclass
class Bioscan5MConfig(datasets.BuilderConfig):
    """A config; `data_dir` is the folder of a release, or its metadata."""


class Bioscan5M(datasets.GeneratorBasedBuilder):
    """Reads a release, in folders or zips, without unpacking it. The splits are those that have rows."""

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

    def _source(self) -> Release:
        if not self.config.data_dir:
            raise ValueError("data_dir is missing: give the folder of a BIOSCAN-5M release, or its metadata.")
        return Release(self.config.data_dir)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            features=self._source().features(self.config.name) if self.config.data_dir else None,
            homepage="https://biodiversitygenomics.net/5M-insects/",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        source = self._source()
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"source": source, "split": split})
            for split in source.splits()
        ]

    def _generate_examples(self, source: Release, split: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        yield from enumerate(source.rows(self.config.name, split))
