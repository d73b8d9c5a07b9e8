"""transformers' `pipeline()` for barcodes and photos: three tasks, known as soon as this package is imported.

`pipeline("dna-classification", model=folder)` names the taxa of barcodes, `pipeline("dna-feature-extraction", ...)`
embeds them, and `pipeline("zero-shot-species-retrieval", model=..., index=...)` names photos or barcodes by the
nearest keys of an index. Lists, columns, generators and `KeyDataset` go in; `batch_size` changes speed, not results.

The tasks need this package and load none of their code from the Hub. Without it, `pipeline("text-classification",
model=folder, trust_remote_code=True)` does the same for a classifier of one rank.
Shape letters: B = batch, L = tokens, D = embedding size, C = classes, K = neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY, base

from ..models.modeling_barcodebert import taxa_probabilities
from ..models.tokenization_kmer import KmerTokenizer

if TYPE_CHECKING:
    from ..search.index import RetrievalIndex

#: Its methods are annotated for any arguments, where ours say which they take.
Pipeline: Any = base.Pipeline

CLEANINGS = ("none", "barcode")

#: Letters that a barcode may hold as it is: what is not A, C, G or T is an unknown k-mer to the tokenizers.
LETTERS = frozenset("ACGTN-RYSWKMBDHV")

#: Options by name.
Options = dict[str, Any]

#: What a query of the retrieval is.
QUERIES = ("image", "dna")


def check_barcode(barcode: Any, clean: str, fewest: int) -> str:
    """A barcode without white space, its letters as `clean` says.

    Args:
        clean: "none" takes capital letters, IUPAC codes and "-" as they are; "barcode" makes A, C, G, T and N of all,
            as `read_sequences` does.
        fewest: Nucleotides that the encoder needs: those of one token.

    Raises:
        ValueError: if it is too short or holds anything but nucleotides, or there is no such cleaning.
        TypeError: if it is no string.
    """
    if clean not in CLEANINGS:
        raise ValueError(f"clean={clean!r} is unknown. There are {', '.join(CLEANINGS)}.")
    if not isinstance(barcode, str):
        raise TypeError(
            f"A barcode is a string, but a {type(barcode).__name__} was given. Pass str, or a list of them."
        )
    text = "".join(barcode.split())
    if clean == "barcode":
        from ..barcodes import clean_barcodes

        text = clean_barcodes([text])[0]
    wrong = next((letter for letter in text if letter not in LETTERS), None)
    if wrong is not None:
        raise ValueError(
            f"The barcode {barcode[:30]!r} holds {wrong!r}. Allowed are A, C, G, T, N, the IUPAC codes and '-', as "
            f"capital letters; clean='barcode' also takes lower case and U."
        )
    if len(text) < fewest:
        raise ValueError(
            f"The barcode {barcode[:30]!r} has {len(text)} nucleotides, but a token takes {fewest}: it has "
            f"no embedding. Leave it out."
        )
    return text


class BarcodePipeline(Pipeline):
    """What the pipelines of barcodes share: a model of barcodes in evaluation, and the tokenizer that fits it.

    Raises:
        ValueError: if the tokenizer is no `KmerTokenizer`, or of other k-mers than the model's.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not isinstance(self.tokenizer, KmerTokenizer):
            raise ValueError(
                f"{self.task} takes a KmerTokenizer, not {type(self.tokenizer).__name__}. Save one beside the model, "
                f"or pass tokenizer=KmerTokenizer(...)."
            )
        read = (self.model.config.k, self.model.config.vocabulary)
        if (self.tokenizer.k, self.tokenizer.vocabulary) != read:
            raise ValueError(
                f"The tokenizer makes k-mers of k={self.tokenizer.k}, vocabulary={self.tokenizer.vocabulary!r}, but "
                f"the model reads k={read[0]}, vocabulary={read[1]!r}. Pass the tokenizer that it was trained with."
            )
        self.model.eval()

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answers for one barcode, or for each of a list, column, generator or torch `Dataset` of them."""
        return _call(super().__call__, inputs, kwargs)

    def preprocess(self, barcode: Any, clean: str = "none") -> dict[str, torch.Tensor]:
        """Ids and mask (1, L) of a barcode."""
        ids, mask = self.tokenizer.encode_column([check_barcode(barcode, clean, self.tokenizer.k)])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


class DnaClassificationPipeline(BarcodePipeline):
    """Names the taxa of barcodes: `pipeline("dna-classification", model=folder)`.

    An answer is a list of {"label", "score"}, the most probable first; scores are probabilities. A classifier of
    several ranks lists, rank by rank from the highest, {"rank", "label", "score"}: first the taxon on the most
    probable path down the tree, so that each first label lies below the one before, then others by their probability.
    A label of None stands for "none of the classes of this rank".

    Args:
        top_k: Taxa of each rank; None is all.
        clean: "none" or "barcode", see `check_barcode`.

    Example:
        >>> pipeline("dna-classification", model="tester/barcodebert-taxa")("ACGT" * 165)  # doctest: +SKIP
        [{'rank': 'order', 'label': 'Diptera', 'score': 0.99}, {'rank': 'family', 'label': 'Culicidae', 'score': 0.97}]
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        config = self.model.config
        trained = any("SequenceClassification" in name for name in config.architectures or ())
        if not trained and config.taxa is None and set(config.id2label.values()) <= {"LABEL_0", "LABEL_1"}:
            raise ValueError(
                "The model has no names of taxa: its classifier was never trained. Fine-tune it first, or use "
                "'dna-feature-extraction'."
            )

    def _sanitize_parameters(self, **given: Any) -> tuple[Options, Options, Options]:
        top_k = given.get("top_k")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}: give 1 or more, or None for all.")
        return _sorted_options(given, ("clean",), (), ("top_k",))

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": self.model(**inputs).logits.float()}

    def postprocess(self, outputs: dict[str, torch.Tensor], top_k: int | None = 1) -> list[dict[str, Any]]:
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
    """Embeds barcodes: `pipeline("dna-feature-extraction", model=folder)` gives D numbers for each.

    For many barcodes, `embed` is faster: it computes equal barcodes once and resumes.

    Args:
        tokens: Give the vectors of the barcode's tokens, (L, D) without padding, instead of the pooled embedding.
        return_tensors: Give torch tensors instead of lists.
        clean: "none" or "barcode", see `check_barcode`.
    """

    def _sanitize_parameters(self, **given: Any) -> tuple[Options, Options, Options]:
        return _sorted_options(given, ("clean",), ("tokens",), ("return_tensors",))

    def _forward(self, inputs: dict[str, torch.Tensor], tokens: bool = False) -> dict[str, torch.Tensor]:
        outputs = self.model(**inputs)
        if not tokens:
            return {"embedding": outputs.pooler_output.float()}
        if "last_hidden_state" not in outputs:
            raise ValueError(
                f"{type(self.model).__name__} embeds barcodes, but makes no vectors of tokens. Leave tokens out."
            )
        return {"tokens": outputs.last_hidden_state.float(), "attention_mask": inputs["attention_mask"]}

    def postprocess(self, outputs: dict[str, torch.Tensor], return_tensors: bool = False) -> Any:
        """(D,), or (L, D) of the attended tokens."""
        if "tokens" in outputs:
            vectors = outputs["tokens"][0][outputs["attention_mask"][0] != 0]
        else:
            vectors = outputs["embedding"][0]
        return vectors if return_tensors else vectors.tolist()


class ZeroShotSpeciesRetrievalPipeline(Pipeline):
    """Names photos or barcodes by the nearest keys of an index, among them species that no model was trained on.

    `pipeline("zero-shot-species-retrieval", model=clibd, index=index)`; both are folders or repositories of the Hub.
    An answer is a list of {"rank", "label", "score", "keys"}: the distinct names of the nearest keys, the nearest
    first; the score is the cosine of the name's nearest key, and `keys` how many of the nearest keys have it. A label
    of None stands for keys whose name at that rank is not known.

    Args:
        index: Folder that `save_index` wrote, dataset repository that `push_index` made, or a `RetrievalIndex`.
        index_revision: Branch, tag or commit of the repository.
        modality: What the inputs are: "image" (PIL images, paths, bytes or arrays) or "dna" (strings). None is photos
            where the model has an encoder of them.
        top_k: Nearest keys that answer.
        ranks: Ranks that are answered.
        ties: How equally near keys are ordered, "vote" or "parity", see `retrieval`.
        clean: Of barcodes, see `check_barcode`.

    Raises:
        ValueError: if no index is given, the model is no CLIBD, or the keys are of another space than its embeddings.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(
        self,
        *args: Any,
        index: str | Path | RetrievalIndex | None = None,
        index_revision: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.model.config.model_type != "clibd":
            raise ValueError(f"{self.task} takes a CLIBD model, not {type(self.model).__name__}.")
        if index is None:
            raise ValueError(f"{self.task} needs the keys to compare with: pass index=, a folder or a repository.")
        self.index = open_index(index, index_revision)
        width, size = self.index.vectors.shape[1], self.model.config.projection_dim
        if width != size:
            raise ValueError(
                f"The keys of the index have {width} dimensions, but the model's embeddings {size}: both must come "
                f"from the same model. Build the index with this one."
            )
        self.model.eval()

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answers for one photo or barcode, or for each of a list, column, generator or torch `Dataset` of them."""
        return _call(super().__call__, inputs, kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes the model and the processor; the index is saved by `save_index`."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(self, **given: Any) -> tuple[Options, Options, Options]:
        options = _sorted_options(given, ("modality", "clean"), ("top_k", "ranks", "ties"), ())
        modality = given.get("modality")
        if modality is not None and (modality not in QUERIES or modality not in self.model.config.modalities):
            possible = " and ".join(name for name in QUERIES if name in self.model.config.modalities)
            raise ValueError(f"modality={modality!r} is not possible. This model takes {possible}.")
        return options

    def preprocess(self, query: Any, modality: str | None = None, clean: str = "none") -> dict[str, torch.Tensor]:
        """Inputs of the model for one query."""
        if (modality or self.model.config.modalities[0]) == "image":
            return dict(self.processor(images=[query], names=["The query"]))
        barcode = check_barcode(query, clean, self.processor.dna_tokenizer.k)
        return dict(self.processor(dna=[barcode], names=["The query"]))

    def _forward(
        self,
        inputs: dict[str, torch.Tensor],
        top_k: int = 5,
        ranks: Sequence[str] = ("species",),
        ties: str = "vote",
    ) -> dict[str, torch.Tensor]:
        """Cosines (B, K) of the nearest keys, and the codes (B, K) of their taxa at each rank."""
        from ..search.retrieve import retrieve

        missing = [rank for rank in ranks if rank not in self.index.codes]
        if missing:
            raise ValueError(f"The index has no rank {missing[0]!r}. It has {', '.join(self.index.codes)}.")
        if "pixel_values" in inputs:
            vectors = self.model.get_image_features(inputs["pixel_values"].to(self.model.dtype))
        else:
            vectors = self.model.get_dna_features(inputs["dna_input_ids"], inputs["dna_attention_mask"])
        found = retrieve(self.index, vectors.float().cpu().numpy(), k=top_k, ties=ties, device=self.device)
        codes = {rank: torch.from_numpy(found.predictions[rank]) for rank in ranks}
        return {"cosines": torch.from_numpy(found.similarities)} | codes

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        """The answer for cosines and codes (1, K)."""
        answers = []
        cosines = outputs["cosines"][0].tolist()
        for rank in (name for name in outputs if name != "cosines"):
            codes = outputs[rank][0].tolist()
            for code in dict.fromkeys(codes):
                label = None if code < 0 else self.index.classes[rank][code]
                score = cosines[codes.index(code)]
                answers.append({"rank": rank, "label": label, "score": score, "keys": codes.count(code)})
        return answers


def open_index(index: str | Path | RetrievalIndex, revision: str | None = None) -> RetrievalIndex:
    """An index of keys: itself, from the folder of that name, or else from a dataset repository of the Hub."""
    from ..search.index import RetrievalIndex, load_index

    if isinstance(index, RetrievalIndex):
        return index
    if Path(index).is_dir():
        return load_index(index)
    from huggingface_hub import snapshot_download

    return load_index(snapshot_download(str(index), repo_type="dataset", revision=revision))


def register_pipelines() -> None:
    """Makes the tasks known to transformers, which then saves none of this code beside a model."""
    for task, pipeline, auto, kind in (
        ("dna-classification", DnaClassificationPipeline, AutoModelForSequenceClassification, "text"),
        ("dna-feature-extraction", DnaFeatureExtractionPipeline, AutoModel, "text"),
        ("zero-shot-species-retrieval", ZeroShotSpeciesRetrievalPipeline, AutoModel, "multimodal"),
    ):
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline, pt_model=auto, type=kind)
        # A model that `save_pretrained` of a pipeline wrote with its code would open with trust_remote_code alone.
        del pipeline._registered_impl


def _sorted_options(
    given: Options, preprocess: Sequence[str], forward: Sequence[str], postprocess: Sequence[str]
) -> tuple[Options, Options, Options]:
    """The options of each step, only those that are given: what is left out keeps the value that the pipeline has."""
    known = (*preprocess, *forward, *postprocess)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(f"Unknown option {unknown[0]!r} of the pipeline. There are {', '.join(known)}.")
    first, second, third = (
        {name: given[name] for name in step if name in given} for step in (preprocess, forward, postprocess)
    )
    return first, second, third


def _call(call: Any, inputs: Any, kwargs: dict[str, Any]) -> Any:
    """Runs a pipeline, with any sequence as a list."""
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
        inputs = list(inputs)
        if not inputs:
            return []
    return call(inputs, **kwargs)
