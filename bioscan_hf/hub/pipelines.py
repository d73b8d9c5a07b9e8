"""Pipelines of transformers for barcodes and photos.

`import bioscan_hf.auto` registers the tasks. They need this package and load no code from the Hub. Without it,
`pipeline("text-classification", model=folder, trust_remote_code=True)` runs a classifier of one rank; with it, one of
several ranks as well.
Shape letters: B = batch, L = tokens, D = embedding size, C = classes, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY, base

from ..barcodes import LETTERS, clean_barcodes, spell
from ..models.taxon_classifier import taxa_probabilities
from ..models.tokenization_kmer import KmerTokenizer
from ..search.index import RetrievalIndex, load_index
from ..search.retrieve import retrieve
from ..search.vectors import check_query
from .library_pipeline import LibraryAnswers, library_of, register_library
from .text_classification import TaxonTextClassificationPipeline

#: Any: its methods take any arguments, ours take named ones.
Pipeline: Any = base.Pipeline

#: Modalities of the queries of a retrieval.
QUERIES = ("image", "dna")

#: Options of names by a library of references.
LIBRARY_OPTIONS = ("top_k", "ranks", "novel_share")

Options = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def check_barcode(barcode: Any, clean: str, fewest: int) -> str:
    """The barcode in its one spelling (`barcodes.spell`), cleaned as `clean` says.

    Args:
        clean: "none" keeps IUPAC codes and N; "barcode" writes N for IUPAC codes and removes N at the end.
        fewest: Nucleotides of one token: the minimum length.

    Raises:
        ValueError: if it is too short or has other letters, or `clean` is unknown.
        TypeError: if it is not a string.
    """
    if clean not in ("none", "barcode"):
        raise ValueError(f"clean is {clean!r}; give 'none' or 'barcode'.")
    if not isinstance(barcode, str):
        raise TypeError(f"A barcode must be a string, but a {type(barcode).__name__} was given.")
    text = clean_barcodes([barcode])[0] if clean == "barcode" else spell(barcode) or ""
    if wrong := next((letter for letter in text if letter not in LETTERS), None):
        raise ValueError(
            f"The barcode {barcode[:30]!r} contains {wrong!r}. Allowed are A, C, G, T, U, N, the IUPAC codes and '-'."
        )
    if len(text) < fewest:
        raise ValueError(f"The barcode {barcode[:30]!r} has {len(text)} nucleotides; a token needs {fewest}.")
    return text


class _NamedPipeline(Pipeline):
    """Base of the pipelines: loads only what a class names, and takes any sequence as a list."""

    _load_tokenizer: bool | None = False
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answer for one input, or for each of a list, column, generator or torch `Dataset`."""
        if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
            inputs = list(inputs)
            if not inputs:
                return []
        return super().__call__(inputs, **kwargs)


class BarcodePipeline(_NamedPipeline):
    """Base of the barcode pipelines: a model in evaluation mode and its tokenizer.

    Raises:
        ValueError: if the tokenizer is not a `KmerTokenizer`, or has other k-mers than the model.
    """

    _load_tokenizer: bool | None = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not isinstance(self.tokenizer, KmerTokenizer):
            given = type(self.tokenizer).__name__
            raise ValueError(f"{self.task} takes a KmerTokenizer, not {given}. Save one beside the model.")
        read = (self.model.config.k, self.model.config.vocabulary)
        if (self.tokenizer.k, self.tokenizer.vocabulary) != read:
            raise ValueError(
                f"The tokenizer has k={self.tokenizer.k}, vocabulary={self.tokenizer.vocabulary!r}, but the model "
                f"reads k={read[0]}, vocabulary={read[1]!r}. Pass the tokenizer that it was trained with."
            )
        self.model.eval()

    def preprocess(self, barcode: Any, clean: str = "none") -> Tensors:
        """Ids and mask (1, L) of a barcode."""
        ids, mask = self.tokenizer.encode_column([check_barcode(barcode, clean, self.tokenizer.k)])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


class DnaClassificationPipeline(BarcodePipeline):
    """Names the taxa of barcodes: `pipeline("dna-classification", model=folder)`.

    The model is a classifier, or a library of references: an object or its folder. transformers looks up ids among
    models, so open a library of the Hub first: `model=ReferenceLibrary.from_pretrained("user/library")`.

    An answer is a list of {"label", "score"}, most probable first; scores are probabilities. A classifier of several
    ranks lists {"rank", "label", "score"} from the highest rank down. The first label of each rank is on the most
    probable path of the tree, so it belongs to the first label of the rank above; others follow by probability. The
    label None means "none of the classes of this rank".

    With a library, scores are its confidences, and the label None is a species or genus without a reference. A read
    that is not named has one label, None with the score 0, and its "status" and "note". All reads of a call are named
    together, because the share of new species is estimated from them.

    Args:
        ranks: With a library: ranks of the answer; all by default.
        novel_share: With a library: share of reads whose species has no reference; estimated by default.
        top_k: Taxa per rank; None gives all.
        clean: "none" or "barcode", see `check_barcode`.

    Example:
        >>> pipeline("dna-classification", model="tester/barcodebert-taxa")("ACGT" * 165)  # doctest: +SKIP
        [{'rank': 'order', 'label': 'Diptera', 'score': 0.99}, {'rank': 'family', 'label': 'Culicidae', 'score': 0.97}]
    """

    _load_tokenizer = None  # a library has none

    def __init__(self, *args: Any, **kwargs: Any):
        library = library_of(kwargs.get("model", args[0] if args else None))
        self.answers = None if library is None else LibraryAnswers(library)
        if self.answers is not None:
            self.options = {name: kwargs[name] for name in LIBRARY_OPTIONS if name in kwargs}
            self.model: Any = kwargs.get("model")
            self.tokenizer, self.task = None, kwargs.get("task", "")
            self.device = self.answers.device
            return
        super().__init__(*args, **kwargs)
        config = self.model.config
        trained = any("SequenceClassification" in name for name in config.architectures or ())
        if not trained and config.taxa is None and set(config.id2label.values()) <= {"LABEL_0", "LABEL_1"}:
            raise ValueError(
                "The model has no names of taxa, so its classifier was never trained. Fine-tune it first, or use "
                "'dna-feature-extraction'."
            )

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answer for one barcode, or for each of a list, column, generator or torch `Dataset`."""
        if self.answers is None:
            return super().__call__(inputs, **kwargs)
        given = {name: kwargs.pop(name) for name in LIBRARY_OPTIONS if name in kwargs}
        if unknown := [name for name in kwargs if name not in ("batch_size", "num_workers")]:
            raise TypeError(
                f"Unknown option {unknown[0]!r} of the pipeline. Allowed are {', '.join(LIBRARY_OPTIONS)}."
            )
        options = self.options | given
        check_top_k(options.get("top_k", 1))
        return self.answers(inputs, **options)

    def _sanitize_parameters(self, **given: Any) -> tuple[Options, Options, Options]:
        check_top_k(given.get("top_k"))
        return _sorted_options(given, ("clean",), (), ("top_k",))

    def _forward(self, inputs: Tensors) -> Tensors:
        return {"logits": self.model(**inputs).logits.float()}

    def postprocess(self, outputs: Tensors, top_k: int | None = 1) -> list[dict[str, Any]]:
        """The answer for logits (1, C)."""
        config, logits = self.model.config, outputs["logits"]
        if config.taxa is None:
            scores, places = logits.softmax(1)[0].sort(descending=True, stable=True)
            pairs = list(zip(scores.tolist(), places.tolist(), strict=True))[:top_k]
            return [{"label": config.id2label[place], "score": score} for score, place in pairs]
        parents = [config.parents[rank] for rank in list(config.taxa)[1:]]
        probabilities = taxa_probabilities(list(self.model.rank_logits(logits).values()), parents)
        answers = []
        for (rank, first), of_rank in zip(self.model.predict_taxa(logits).items(), probabilities, strict=True):
            names, best = config.taxa[rank], int(first.ids)
            found = [(None if best < 0 else names[best], float(first.probabilities))]
            scores, places = of_rank[0].sort(descending=True, stable=True)
            others = zip(scores.tolist(), places.tolist(), strict=True)
            found += [(names[place], score) for score, place in others if place != best]
            answers += [{"rank": rank, "label": label, "score": score} for label, score in found[:top_k]]
        return answers


class DnaFeatureExtractionPipeline(BarcodePipeline):
    """Embeds barcodes: `pipeline("dna-feature-extraction", model=folder)` returns D numbers for each.

    For many barcodes, `embed` is faster: it computes equal barcodes once and resumes.

    Args:
        tokens: Return the token vectors (L, D) without padding instead of the pooled embedding.
        return_tensors: Return torch tensors instead of lists.
        clean: "none" or "barcode", see `check_barcode`.
    """

    def _sanitize_parameters(self, **given: Any) -> tuple[Options, Options, Options]:
        return _sorted_options(given, ("clean",), ("tokens",), ("return_tensors",))

    def _forward(self, inputs: Tensors, tokens: bool = False) -> Tensors:
        outputs = self.model(**inputs)
        if not tokens:
            return {"embedding": outputs.pooler_output.float()}
        if "last_hidden_state" not in outputs:
            raise ValueError(f"{type(self.model).__name__} has no token vectors. Leave tokens out.")
        return {"tokens": outputs.last_hidden_state.float(), "attention_mask": inputs["attention_mask"]}

    def postprocess(self, outputs: Tensors, return_tensors: bool = False) -> Any:
        """(D,), or (L, D) of the attended tokens."""
        if "tokens" in outputs:
            vectors = outputs["tokens"][0][outputs["attention_mask"][0] != 0]
        else:
            vectors = outputs["embedding"][0]
        return vectors if return_tensors else vectors.tolist()


class ZeroShotSpeciesRetrievalPipeline(_NamedPipeline):
    """Names photos or barcodes by the nearest keys of an index, also for species without training data.

    `pipeline("zero-shot-species-retrieval", model=clibd, index=index)`; both are folders or Hub repositories.
    An answer is a list of {"rank", "label", "score", "keys"} with the distinct names of the nearest keys, nearest
    first. The score is the cosine of the nearest key with that name, and `keys` the number of nearest keys that have
    it. The label None stands for keys without a name at that rank.

    Args:
        index: Folder written by `save_index`, dataset repository made by `push_index`, or a `RetrievalIndex`.
        index_revision, index_token, index_cache_dir: Branch, tag or commit of the repository, token of the Hub, and
            folder for downloads.
        modality: "image" (PIL images, paths, bytes or arrays) or "dna" (strings). None is "image" if the model has an
            image encoder.
        top_k, ties: Number of nearest keys, and their tie rule, as for `search.retrieve.retrieve`.
        ranks: Ranks of the answer.
        clean: For barcodes, see `check_barcode`.

    Raises:
        ValueError: if no index is given, the model is not a CLIBD model, or the index has another dimension.
    """

    _load_processor = True

    def __init__(
        self,
        *args: Any,
        index: str | Path | RetrievalIndex | None = None,
        index_revision: str | None = None,
        index_token: str | bool | None = None,
        index_cache_dir: str | Path | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.model.config.model_type != "clibd":
            raise ValueError(f"{self.task} takes a CLIBD model, not {type(self.model).__name__}.")
        if index is None:
            raise ValueError(f"{self.task} needs reference keys: pass index=, a folder or a repository.")
        self.index = open_index(index, index_revision, index_token, index_cache_dir)
        check_query(self.model.config.projection_dim, self.index.dim)
        self.model.eval()

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes the model and the processor. `save_index` writes the index."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, **given: Any) -> tuple[Options, Options, Options]:
        options = _sorted_options(given, ("modality", "clean"), ("top_k", "ranks", "ties"), ())
        if (modality := given.get("modality")) is not None:
            possible = [name for name in QUERIES if name in self.model.config.modalities]
            if modality not in possible:
                raise ValueError(f"modality is {modality!r}; give {' or '.join(map(repr, possible))}.")
        return options

    def preprocess(self, query: Any, modality: str | None = None, clean: str = "none") -> Tensors:
        """Model inputs for one query."""
        if (modality or self.model.config.modalities[0]) == "image":
            return dict(self.processor(images=[query], names=["The query"]))
        barcode = check_barcode(query, clean, self.processor.dna_tokenizer.k)
        return dict(self.processor(dna=[barcode], names=["The query"]))

    def _forward(
        self, inputs: Tensors, top_k: int = 5, ranks: Sequence[str] = ("species",), ties: str = "vote"
    ) -> Tensors:
        """Cosines (B, K) of the nearest keys, and label ids (B, K) of each rank."""
        if missing := [rank for rank in ranks if rank not in self.index.codes]:
            raise ValueError(f"The index has no rank {missing[0]!r}. It has {', '.join(self.index.codes)}.")
        if "pixel_values" in inputs:
            vectors = self.model.get_image_features(inputs["pixel_values"].to(self.model.dtype))
        else:
            vectors = self.model.get_dna_features(inputs["dna_input_ids"], inputs["dna_attention_mask"])
        found = retrieve(self.index, vectors.float().cpu().numpy(), k=top_k, ties=ties, device=self.device)
        codes = {rank: torch.from_numpy(found.predictions[rank]) for rank in ranks}
        return {"cosines": torch.from_numpy(found.similarities)} | codes

    def postprocess(self, outputs: Tensors) -> list[dict[str, Any]]:
        """The answer for cosines and label ids (1, K)."""
        answers = []
        cosines = outputs["cosines"][0].tolist()
        for rank in (name for name in outputs if name != "cosines"):
            codes = outputs[rank][0].tolist()
            for code in dict.fromkeys(codes):
                label = None if code < 0 else self.index.classes[rank][code]
                score = cosines[codes.index(code)]
                answers.append({"rank": rank, "label": label, "score": score, "keys": codes.count(code)})
        return answers


def check_top_k(top_k: int | None) -> None:
    """Raises ValueError for a number below 1."""
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}: give 1 or more, or None for all.")


def open_index(
    index: str | Path | RetrievalIndex,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> RetrievalIndex:
    """An index from a folder or from a dataset repository of the Hub."""
    if isinstance(index, RetrievalIndex):
        return index
    if not Path(index).is_dir():
        where: Options = {"revision": revision, "token": token, "cache_dir": cache_dir}
        index = snapshot_download(str(index), repo_type="dataset", **where)
    return load_index(index)


class _NoDefault(dict[str, Any]):
    """Default model of a task that has none: it says what to pass."""

    def __init__(self, task: str, wanted: str) -> None:
        super().__init__(model=None)
        self.told = f"pipeline({task!r}) has no default model, because none is published. Pass model=: {wanted}."

    def __getitem__(self, key: str) -> Any:
        raise ValueError(self.told)


#: Task -> pipeline, Auto class, type, and what may be its model.
TASKS: dict[str, tuple[Any, Any, str, str]] = {
    "dna-classification": (
        DnaClassificationPipeline,
        AutoModelForSequenceClassification,
        "text",
        "a classifier (`bioscan-hf train finetune`) or a library of references (`bioscan-hf references`; of the Hub, "
        "ReferenceLibrary.from_pretrained('user/library'))",
    ),
    "dna-feature-extraction": (
        DnaFeatureExtractionPipeline,
        AutoModel,
        "text",
        "an encoder of barcodes (`bioscan-hf train pretrain`, or `bioscan-hf convert` of a published checkpoint)",
    ),
    "zero-shot-species-retrieval": (
        ZeroShotSpeciesRetrievalPipeline,
        AutoModel,
        "multimodal",
        "a CLIBD model (`bioscan-hf train clibd`, or `bioscan-hf convert` of a published checkpoint), and index=",
    ),
}


def register_pipelines() -> None:
    """Registers the tasks, and libraries of references, with transformers."""
    register_library()
    PIPELINE_REGISTRY.supported_tasks["text-classification"]["impl"] = TaxonTextClassificationPipeline
    for task, (pipeline, auto, kind, wanted) in TASKS.items():
        default = _NoDefault(task, wanted)
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline, pt_model=auto, type=kind, default=default)
        # Otherwise `save_pretrained` saves our code beside the model, which then needs trust_remote_code.
        del pipeline._registered_impl


def _sorted_options(
    given: Options, preprocess: Sequence[str], forward: Sequence[str], postprocess: Sequence[str]
) -> tuple[Options, Options, Options]:
    """The given options of each step. Options that are not given keep the values of the constructor."""
    steps = (preprocess, forward, postprocess)
    known = [*chain(*steps)]
    if unknown := [name for name in given if name not in known]:
        raise TypeError(f"Unknown option {unknown[0]!r} of the pipeline. Allowed are {', '.join(known)}.")
    first, second, third = ({name: given[name] for name in step if name in given} for step in steps)
    return first, second, third
