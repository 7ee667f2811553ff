"""The model card of a student's folder: Markdown from a template, with the hub's front matter. Writes no file.

What stands in the front matter beside `kdnas.json` (licence, languages, names on the hub) is looked up by `origin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.students import best_epoch
from kdnas.students.origin import Origin
from kdnas.study import layer_words, timed_words
from kdnas.study.constraints import PART, figures, limits_of
from kdnas.system.folders import MODEL_FACTS
from kdnas.system.templates import render
from kdnas.system.text import Markdown, clean

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MOST_COLUMNS = 20  # of a confusion table that a card shows
TEMPLATES = Path(__file__).with_name("templates")
OWN_BASE = ("base", "./base")  # what an adapter calls a base that was cut, and lies within its folder
PIPELINES = {  # what the class that opens a folder is for, in the hub's words
    "AutoModel": "feature-extraction",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSequenceClassification": "text-classification",
    "PeftModel": "text-classification",
}


def card(facts: Mapping[str, Any], origin: Origin, results: Mapping[str, Any] | None = None) -> str:
    """A model card in Markdown with the hub's front matter."""
    from huggingface_hub import ModelCard, ModelCardData

    opener = _opener(facts)
    origin = _cleaned(origin)
    data = ModelCardData(
        base_model=origin.teacher_id,
        datasets=None if origin.data_id is None else [origin.data_id],
        language=list(origin.languages) or None,
        license=origin.licence,
        library_name=_library(facts, opener),
        pipeline_tag="sentence-similarity" if facts.get("embedding") else PIPELINES.get(opener),
        tags=["kdnas", "knowledge-distillation", *(["sentence-transformers"] if facts.get("embedding") else [])],
        model_name=f"A student of {origin.teacher_name}",
        eval_results=_results(facts, origin, opener, results),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(facts, origin, results)}"))


def adapter_card(base: str, origin: Origin) -> str:
    """What stands beside an adapter whose merged student lies in the folder above: the lines that open it.

    `base` is the one that the adapter's configuration names.
    """
    origin = _cleaned(origin)
    usage = Markdown("\n".join(_adapter_usage(base)))
    return render(TEMPLATES, "adapter.md", teacher=origin.teacher_name, own=base in OWN_BASE, usage=usage)


def _cleaned(origin: Origin) -> Origin:
    """YAML quotes whatever a name holds, but leaves marks of the reading direction as they are."""
    one = {name: None if value is None else clean(value) for name, value in vars(origin).items() if name != "languages"}
    return Origin(**one, languages=tuple(map(clean, origin.languages)))  # type: ignore[arg-type]


def _opener(facts: Mapping[str, Any]) -> str:
    return str(facts.get("opens_with", "AutoModel"))


def _library(facts: Mapping[str, Any], opener: str) -> str:
    embedding = facts.get("embedding")
    return "peft" if opener == "PeftModel" else str(embedding["library"]) if embedding else "transformers"


def _results(
    facts: Mapping[str, Any], origin: Origin, opener: str, results: Mapping[str, Any] | None
) -> list[EvalResult]:
    """The figures of the card as the hub reads them."""
    from huggingface_hub import EvalResult

    task = PIPELINES.get(opener, "feature-extraction")

    def result(of: str, kind: str, name: str, value: float, split: str | None = None) -> EvalResult:
        dataset_type = origin.data_id or of
        return EvalResult(
            task_type=task, dataset_type=dataset_type, dataset_name=of, dataset_split=split,
            metric_type=kind, metric_name=name, metric_value=value,
        )  # fmt: skip

    found = []
    classified = facts.get("classification") or {}
    for part, split in (("held_out", "held-out"), ("test", "test")):
        if part in classified:
            own = classified[part]["student"]
            found.append(result(origin.data_name, "accuracy", f"accuracy, {split}", own["accuracy"], split))
            found.append(result(origin.data_name, "f1", f"macro F1, {split}", own["macro_f1"], split))
    found.append(result(origin.data_name, "loss", "held-out loss", facts["metrics"]["loss"], "held-out"))
    for name, entry in ((results or {}).get("tasks") or {}).items():
        for metric, value in entry["student"]["metrics"].items():
            found.append(
                EvalResult(
                    task_type="text-classification", dataset_type="glue", dataset_name=clean(name),
                    dataset_config=clean(name), dataset_split="validation",
                    metric_type=metric, metric_name=metric, metric_value=value,
                )
            )  # fmt: skip
    return found


def _body(facts: Mapping[str, Any], origin: Origin, results: Mapping[str, Any] | None) -> str:
    spec = facts["spec"]
    kind = str(facts["config"].get("model_type", spec["recipe"]["name"]))
    return render(
        TEMPLATES,
        "card.md",
        teacher=origin.teacher_name,
        data=origin.data_name,
        kind=kind,
        parameters=f"{facts['parameters']:,}",
        teacher_parameters=_count(_teacher_parameters(facts)),
        shape=", ".join(f"{name} {value}" for name, value in layer_words.shown(facts["candidate"]).items()),
        kdnas=facts["kdnas"],
        recipe=spec["recipe"]["name"],
        trial=facts.get("trial"),
        study=facts.get("study"),
        latency={"flag": None, **facts["latency"]},
        metrics=facts["metrics"],
        constraints=_constraints(facts),
        campaign=facts.get("campaign"),
        protocol=spec["latency"],
        timed=timed_words.in_words({**spec["latency"], **_dtype(facts)}),
        usage=Markdown("\n".join(_usage(facts))),
        classification=_classification(facts.get("classification")),
        forms=_forms(facts.get("forms")),
        scores=Markdown(str(results["markdown"]).strip()) if results and results.get("markdown") else None,
        most_epochs=spec["full"]["epochs"],
        kept=best_epoch.words({**facts["metrics"], "stopped_early": False}),
        seed=facts["seed"],
        training=spec["training"],
        batch=spec["data"]["batch_size"],
        length=spec["data"]["length"],
        head=_head(facts.get("head")),
        embedding=facts.get("embedding"),
        static=layer_words.is_static(facts),
        dtype=facts["dtype"],
        onnx=facts.get("onnx"),
        gguf=facts.get("gguf"),
        adapter=facts.get("adapter"),
        versions=", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        teacher_fingerprint=facts["teacher"].get("fingerprint", "unknown"),
        data_fingerprint=facts["data"].get("fingerprint", "unknown"),
        facts_file=MODEL_FACTS,
    )


def _dtype(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the student was timed in, where its folder says so; folders of earlier versions do not."""
    return {name: value for name, value in facts["latency"].items() if name == "dtype"}


def _constraints(facts: Mapping[str, Any]) -> dict[str, str] | None:
    """What the study asked of its students, and what the finished one misses of it; None where it asked nothing."""
    spec, latency, metrics = facts["spec"], facts["latency"], facts["metrics"]
    limits = limits_of(spec.get(PART), latency["teacher_ms"])
    told = figures(
        loss=metrics["raw_loss" if spec["reward"]["loss"] == "raw" else "loss"],
        latency_ms=latency["student_ms"],
        teacher_latency_ms=latency["teacher_ms"],
        parameters=facts["parameters"],
    )
    return {"asked": str(limits), "missed": limits.told(told)} if limits else None


def _head(head: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a student that was not trained to classify tells apart, and how often it agrees with its teacher."""
    return None if head is None else {"labels": head["labels"], "agreement": f"{head['agreement']:.1%}"}


def _teacher_parameters(facts: Mapping[str, Any]) -> Any:
    classified = facts.get("classification") or {}
    return facts["teacher"].get("parameters", classified.get("size", {}).get("teacher", {}).get("parameters"))


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


# ----------------------------------------------------------------------------------------------------------- usage

FOLDER = 'folder = "."  # where this file lies; from elsewhere its path, or its name on the hub'


def _usage(facts: Mapping[str, Any]) -> list[str]:
    """Python that runs as it stands in the model's own folder."""
    opener = _opener(facts)
    if opener == "PeftModel":
        return _adapter_usage(facts["base"])
    reader = facts.get("tokenizer_opens_with", "AutoTokenizer")
    code = ", trust_remote_code=True" if facts.get("own_code") else ""  # the folder holds the model's class itself
    if facts.get("embedding"):
        return [
            "from sentence_transformers import SentenceTransformer",
            "",
            FOLDER,
            f"model = SentenceTransformer(folder{code})",
            'vectors = model.encode(["Knowledge, distilled.", "What a teacher knows."])',
            "print(model.similarity(vectors, vectors))",
        ]
    lines = [
        f"from transformers import {opener}, {reader}",
        "",
        FOLDER,
        f"tokenizer = {reader}.from_pretrained(folder{code})"
        + ("" if reader == "AutoTokenizer" else "  # AutoTokenizer reads other tokens than tokenizer.json describes"),
        f"model = {opener}.from_pretrained(folder{code})",
    ]
    if opener != "AutoModelForCausalLM":
        return [*lines, 'outputs = model(**tokenizer(["Knowledge, distilled."], return_tensors="pt"))']
    return [
        *lines,
        'inputs = tokenizer("Knowledge is", return_tensors="pt", return_token_type_ids=False)',
        "written = model.generate(**inputs, max_new_tokens=40)",
        "print(tokenizer.decode(written[0], skip_special_tokens=True))",
    ]


def _adapter_usage(base: str) -> list[str]:
    """An adapter goes over its base, which lies in the folder where it was cut, and which it names else."""
    own = base in OWN_BASE
    named = 'f"{folder}/base"' if own else "named, config=AutoConfig.from_pretrained(folder)"
    return [
        f"from peft import {'' if own else 'PeftConfig, '}PeftModel",
        "from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer",
        "",
        FOLDER,
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        *([] if own else ["named = PeftConfig.from_pretrained(folder).base_model_name_or_path"]),
        f"base = AutoModelForSequenceClassification.from_pretrained({named})",
        "model = PeftModel.from_pretrained(base, folder).eval()",
        'outputs = model(**tokenizer(["Knowledge, distilled."], return_tensors="pt"))',
    ]


# ---------------------------------------------------------------------------------------------------------- tables


def _forms(forms: Sequence[Mapping[str, Any]] | None) -> dict[str, Any] | None:
    """The same student made smaller, each form as it was measured."""
    if not forms:
        return None
    part = "test" if "test" in forms[0] else "held_out"
    rows = [
        (
            form["form"], f"{form['parameters']:,}", f"{form['zeros']:.0%}", f"{form['mib']:.2f}",
            *_times(form), f"{form[part]['accuracy']:.4f}", f"{form[part]['macro_f1']:.4f}",
        )
        for form in forms
    ]  # fmt: skip
    untimed = next((form["flag"] for form in forms if form["latency_ms"] is None), None)
    return {"rows": rows, "part": "the test part" if part == "test" else "the held-out part", "untimed": untimed}


def _times(form: Mapping[str, Any]) -> tuple[str, str]:
    """Latency and speed-up of a form, as a table has them."""
    return ("–", "–") if form["latency_ms"] is None else (f"{form['latency_ms']:.3g}", f"{form['speedup']:.1f}")


def _classification(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Scores of a classifier and its teacher, what their weights take, and the student's confusion table."""
    if not found:
        return None
    rows: list[tuple[str, str, str]] = []
    for part, words in (("held_out", "held-out"), ("test", "test")):
        if part in found:
            own, taught, of = found[part]["student"], found[part]["teacher"], f"{found[part]['examples']:,} {words}"
            rows.append((f"accuracy, {of} examples", f"{own['accuracy']:.4f}", f"{taught['accuracy']:.4f}"))
            rows.append((f"macro F1, {words}", f"{own['macro_f1']:.4f}", f"{taught['macro_f1']:.4f}"))
    own, taught = found["size"]["student"], found["size"]["teacher"]
    for name, words in (("parameters", "parameters"), ("trainable", "of them learned"), ("non_zero", "not zero")):
        rows.append((words, f"{own[name]:,}", f"{taught[name]:,}"))
    rows.append(("weights, MiB", f"{own['mib']:.1f}", f"{taught['mib']:.1f}"))
    part = "test" if "test" in found else "held_out"
    names = [str(name) for name in found["classes"]]
    shown = len(names) <= MOST_COLUMNS
    return {
        "rows": rows,
        "part": part.replace("_", "-"),
        "names": names,
        "confusion": list(zip(names, found[part]["student"]["confusion"], strict=True)) if shown else [],
    }
