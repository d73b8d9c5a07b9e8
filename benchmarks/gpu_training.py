"""Real training for `gpu_run.py`: BarcodeBERT with `--preset fast` on real barcodes, then nearest neighbours.

The barcodes come from `real_barcodes.py`. Species of `test` occur in `train`; those of `test_unseen` do not. Keys are
`train`. Settings are to be chosen by `val` and `val_unseen` alone.

Shape letters: B = barcodes, L = tokens, D = embedding size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_barcodes import FAST, TINY, use_tf32
from gpu_report import Report, wait
from torch.utils.data import DataLoader, Sampler

from bioscan_hf.encoders.batches import embed_barcodes, inference
from bioscan_hf.encoders.frames import frames_encoder
from bioscan_hf.encoders.kmers import kmer_counts
from bioscan_hf.evaluation.probing import knn_probe
from bioscan_hf.losses.supervised import supervised_contrastive_loss
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM
from bioscan_hf.models.tokenization_kmer import KmerTokenizer
from bioscan_hf.training.augmentation import Augmentation, AugmentingCollator
from bioscan_hf.training.masking import MaskedKmerCollator, Masking

#: Split and rank; the first two are for choosing, the others for reporting.
QUESTIONS = (("val", "species"), ("val_unseen", "genus"), ("test", "species"), ("test_unseen", "genus"))
CHOSEN_BY = QUESTIONS[:2]

#: Settings of the few minutes of training, where they differ from the preset: it is made for days.
SHORT: dict[str, Any] = {"batch_size": 256, "learning_rate": 5e-4}

#: The contrast recipe of `trainers/contrast_barcodes.py`.
CONTRAST: dict[str, Any] = {"batch_size": 1024, "learning_rate": 3e-4, "temperature": 0.1, "weight_decay": 0.01}
ALTERATIONS = Augmentation(truncation=0.5, substitution=0.01, third_substitution=0.01)


@dataclass(frozen=True)
class Barcodes:
    """Split -> barcodes, and split -> rank -> label ids (-1 where unknown)."""

    letters: dict[str, list[str]]
    labels: dict[str, dict[str, np.ndarray]]

    @classmethod
    def read(cls, folder: Path, limit: int | None = None) -> Barcodes:
        """The file of `real_barcodes.py`; `limit` keeps the first rows of each split."""
        with np.load(folder / "barcodes.npz") as arrays:
            found = dict(arrays)
        letters, labels = {}, {}
        for split in [name.removesuffix("_lengths") for name in found if name.endswith("_lengths")]:
            text, lengths = found[f"{split}_letters"].tobytes().decode("ascii"), found[f"{split}_lengths"]
            ends = np.cumsum(lengths, dtype=np.int64)
            starts = ends - lengths
            letters[split] = [text[a:b] for a, b in zip(starts[:limit], ends[:limit], strict=True)]
            ranks = ("order", "family", "genus", "species", "dna_bin")
            labels[split] = {rank: found[f"{split}_{rank}"][:limit].astype(np.int64) for rank in ranks}
        return cls(letters, labels)

    @classmethod
    def simulated(cls, rows: int, seed: int = 0) -> Barcodes:
        """Made-up barcodes of 8 species in 4 genera, for a trial without the file."""
        draw = np.random.default_rng(seed)
        kinds = draw.integers(0, 4, (8, 658))
        letters, labels = {}, {}
        for split in ("pretrain", "train", *dict(QUESTIONS)):
            species = np.arange(rows) % 8
            text = np.where(draw.random((rows, 658)) < 0.02, draw.integers(0, 4, (rows, 658)), kinds[species])
            letters[split] = [row.tobytes().decode() for row in np.frombuffer(b"ACGT", np.uint8)[text]]
            labels[split] = {"species": species, "genus": species // 2, "dna_bin": species}
        return cls(letters, labels)


@dataclass
class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of the collators; index = epoch x rows + row, so that workers know the epoch."""

    letters: Sequence[str]
    labels: np.ndarray

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, row = divmod(index, len(self.letters))
        return {"dna_barcode": self.letters[row], "species_index": int(self.labels[row]), "epoch": epoch}


class EndlessBatches(Sampler[list[int]]):
    """Batches of a new order of the rows in each epoch, without end."""

    def __init__(self, rows: int, batch_size: int, seed: int = 0):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed

    def __iter__(self) -> Iterator[list[int]]:
        draw, epoch = np.random.default_rng(self.seed), 0
        waiting: list[int] = []
        while True:
            waiting += (epoch * self.rows + draw.permutation(self.rows)).tolist()
            while len(waiting) >= self.batch_size:
                yield waiting[: self.batch_size]
                del waiting[: self.batch_size]
            epoch += 1


@dataclass
class InEpoch:
    """A collator in the epoch of its first row."""

    collator: Any

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.collator.set_epoch(features[0]["epoch"])
        return self.collator(features)


@dataclass
class Course:
    """Training against the clock.

    Args:
        seconds: How long it trains; the learning rate follows the share of the time that is over.
        look: Called about every `every` seconds (its time does not count).
    """

    device: torch.device
    seconds: float
    bf16: bool
    look: Callable[[], Mapping[str, Any]] | None = None
    every: float = 60.0
    curve: list[dict[str, Any]] = field(default_factory=list)

    def train(
        self, model: Any, loss_of: Callable[[dict[str, torch.Tensor]], torch.Tensor], batches: Any, settings: Any
    ) -> dict[str, Any]:
        """Steps until the time is over; gives their number, rate and the curve."""
        optimizer = torch.optim.AdamW(
            model.parameters(), settings["learning_rate"], weight_decay=settings.get("weight_decay", 0.0), fused=True
        )
        spent, looked, steps, samples = 0.0, 0.0, 0, 0
        losses: list[torch.Tensor] = []
        model.train()
        start = time.monotonic()
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = settings["learning_rate"] * one_cycle(spent / self.seconds)
            moved = {name: part.to(self.device, non_blocking=True) for name, part in batch.items()}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = loss_of(moved)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), FAST["max_grad_norm"] or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            steps, samples = steps + 1, samples + len(batch["input_ids"])
            if steps % 10 == 0 or self.device.type == "cpu":
                wait(self.device)
                spent = time.monotonic() - start
            over = spent >= self.seconds
            if over or spent - looked >= self.every:
                point = {"seconds": round(spent, 1), "steps": steps, "loss": torch.stack(losses).mean().item()}
                losses = []
                if self.look is not None and not over:
                    before = time.monotonic()
                    point |= self.look()
                    model.train()
                    start += time.monotonic() - before
                looked = spent
                self.curve.append(point)
                print(f"    {point}", flush=True)
            if over:
                break
        return {
            "seconds_of_training": round(spent, 1),
            "steps": steps,
            "samples": samples,
            "samples_per_second": round(samples / spent, 1),
            "curve": self.curve,
        }


def one_cycle(share: float, warmup: float = 0.1) -> float:
    """Learning rate, relative to the peak, after a share of the training."""
    if share < warmup:
        return 0.04 + 0.96 * share / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min((share - warmup) / (1 - warmup), 1.0))


def make_batches(barcodes: Barcodes, splits: Sequence[str], collator: Any, batch_size: int, workers: int) -> Any:
    """Batches without end of the rows of some splits."""
    letters = [barcode for split in splits for barcode in barcodes.letters[split]]
    labels = np.concatenate([barcodes.labels[split]["species"] for split in splits])
    return DataLoader(
        Rows(letters, labels),
        batch_sampler=EndlessBatches(len(letters), batch_size),
        collate_fn=InEpoch(collator),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )


# ---- answers --------------------------------------------------------------------------------------------------------


def nearest_neighbours(
    vectors_of: Callable[[list[str]], np.ndarray],
    barcodes: Barcodes,
    device: torch.device,
    questions: Sequence[tuple[str, str]] = QUESTIONS,
) -> dict[str, Any]:
    """Accuracy of the nearest neighbour in train, by cosine."""
    keys, found = vectors_of(barcodes.letters["train"]), {}
    for split, rank in questions:
        known, asked = barcodes.labels["train"][rank], barcodes.labels[split][rank]
        answers = knn_probe(keys, known, vectors_of(barcodes.letters[split]), asked, device=device)
        found[f"{rank} of {split}"] = None if answers.micro_accuracy is None else round(answers.micro_accuracy, 4)
    return found


def encoder_vectors(
    model: Any, processor: Any, device: torch.device, dtype: torch.dtype | None = None, batch_size: int = 1024
) -> Callable[[list[str]], np.ndarray]:
    """Embeddings of barcodes, on a GPU in bfloat16 unless another dtype is given."""
    chosen = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)

    def vectors(letters: list[str]) -> np.ndarray:
        with inference(model):
            return embed_barcodes(model, processor, letters, batch_size=batch_size, dtype=chosen)[0]

    return vectors


def aligned_vectors(barcodes: Barcodes, device: torch.device, size: int) -> Callable[[list[str]], np.ndarray]:
    """Embeddings of the aligned encoder, fitted to the barcodes that BarcodeBERT is trained on.

    Args:
        size: Its principal components; 0 for the profile.
    """
    config = AlignedBarcodeConfig(positions=658, embedding_size=size, profile_weight=0.0 if size else 1.0)
    tokenizer = KmerTokenizer(k=1, max_nucleotides=config.max_nucleotides)
    model: Any = AlignedBarcodeModel(config)
    letters = barcodes.letters["pretrain"] + barcodes.letters["train"]
    parts = [tokenizer.encode_column(letters[start : start + 4096]) for start in range(0, len(letters), 4096)]
    model.to(device).fit_region([(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)) for x, y in parts])
    return encoder_vectors(model, tokenizer, device, torch.float32)


# ---- the part -------------------------------------------------------------------------------------------------------


class Pupil:
    """A BarcodeBERT of the shape and dropout of the preset, in training."""

    def __init__(self, report: Report, barcodes: Barcodes, small: bool, workers: int):
        torch.manual_seed(0)
        shape: dict[str, Any] = TINY if small else {"num_hidden_layers": FAST["num_hidden_layers"]}
        dropout = {"hidden_dropout_prob": FAST["dropout"], "attention_probs_dropout_prob": FAST["dropout"]}
        config = BarcodeBertConfig(k=4, num_attention_heads=FAST["num_attention_heads"], **shape, **dropout)
        model: Any = BarcodeBertForMaskedLM._from_config(config, attn_implementation=FAST.get("attention", "sdpa"))
        self.report, self.device, self.barcodes, self.small, self.workers = (
            report,
            report.device,
            barcodes,
            small,
            workers,
        )
        self.model, self.tokenizer = model.to(report.device), KmerTokenizer(k=4)
        frames, inputs = frames_encoder(self.model.bert, self.tokenizer)
        self.encoders = {
            "": encoder_vectors(self.model.bert, self.tokenizer, self.device),
            ", mean over reading frames": encoder_vectors(frames, inputs, self.device, batch_size=256),
        }

    def look(self) -> dict[str, Any]:
        """Accuracy on the validation splits, by each encoder."""
        found: dict[str, Any] = {}
        for name, vectors in self.encoders.items():
            answers = nearest_neighbours(vectors, self.barcodes, self.device, CHOSEN_BY)
            found |= {f"{question}{name}": value for question, value in answers.items()}
        return found

    def rows(self, name: str, train: Callable[[], dict[str, Any]] | None = None) -> None:
        """Trains, and adds a row for each encoder; the first one also describes the training."""
        for suffix, vectors in self.encoders.items():
            trains = train if not suffix else None

            def row(vectors: Any = vectors, trains: Any = trains) -> dict[str, Any]:
                about = trains() if trains is not None else {}
                return nearest_neighbours(vectors, self.barcodes, self.device) | about

            self.report.row(f"BarcodeBERT, {name}{suffix}", row)

    def pretrain(self, seconds: float) -> dict[str, Any]:
        """Masked k-mers of train and pretrain, by the preset."""
        masking = Masking(FAST["mask_ratio"], FAST["loss_on"], random_offset=FAST["random_offset"])
        collator = MaskedKmerCollator(self.tokenizer, masking, cut_padding=FAST["cut_padding"])
        run = torch.compile(self.model, dynamic=False) if FAST["torch_compile"] else self.model
        settings = SHORT | ({"batch_size": 8} if self.small else {})
        batches = make_batches(self.barcodes, ("pretrain", "train"), collator, settings["batch_size"], self.workers)
        course = Course(self.device, seconds, FAST["bf16"], self.look)
        trained = course.train(self.model, lambda batch: run(**batch).loss, batches, settings)
        return trained | {"settings": {**FAST, **settings}, "labels": "none"}

    def contrast(self, seconds: float) -> dict[str, Any]:
        """Contrast of the species of train, by the recipe of the package."""
        collator = AugmentingCollator(self.tokenizer, ["species"], ALTERATIONS, views=1, seed=0)
        settings = CONTRAST | ({"batch_size": 8} if self.small else {})
        batches = make_batches(self.barcodes, ("train",), collator, settings["batch_size"], self.workers)
        course = Course(self.device, seconds, FAST["bf16"], self.look, every=30.0)
        trained = course.train(self.model, partial(contrast_loss, self.model.bert), batches, settings)
        return trained | {"settings": settings, "labels": "species of train"}


def measure_training(report: Report, small: bool, folder: Path | None, seconds: float, workers: int) -> None:
    """Baselines, masked k-mers for three quarters of the time, then contrast of species."""
    use_tf32(True)
    torch._dynamo.reset()
    device = report.device
    barcodes = Barcodes.simulated(32) if folder is None else Barcodes.read(folder, 256 if small else None)
    report.row("barcodes", lambda: {split: len(rows) for split, rows in barcodes.letters.items()})
    six = partial(kmer_counts, k=6, normalize=True)
    report.row("6-mers", lambda: nearest_neighbours(six, barcodes, device))
    size = 0 if small else 512
    report.row(
        "aligned encoder", lambda: nearest_neighbours(aligned_vectors(barcodes, device, size), barcodes, device)
    )
    pupil = Pupil(report, barcodes, small, workers)
    pupil.rows("random weights")
    seconds = max(2.0, min(seconds, report.left() - (0 if small else 45)))
    pupil.rows("masked k-mers", lambda: pupil.pretrain(0.75 * seconds))
    pupil.rows("masked k-mers, then contrast of species", lambda: pupil.contrast(0.25 * seconds))


def contrast_loss(encoder: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of `trainers/contrast_barcodes.py`."""
    labels = batch["labels"][:, 0]
    pooled = encoder(input_ids=batch["input_ids"], attention_mask=batch.get("attention_mask")).pooler_output.float()
    unit = torch.nn.functional.normalize(pooled, dim=1)
    return supervised_contrastive_loss(unit, {"species": labels}, temperature=CONTRAST["temperature"])
