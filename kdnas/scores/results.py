"""`results.json` and its Markdown table: merged with earlier results of the same models, averaged, written.

Scores nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdnas.students.model_folder import RESULTS
from kdnas.system.files import write_atomically
from kdnas.system.text import markdown as markdown_of

FORMAT = "kdnas-results"
VERSION = 1
EMBEDDING_WORDS = {  # metric → words for people
    "spearman": "similarities, Spearman with the teacher's",
    "recall@10": "retrieval, recall@10",
    "ndcg@10": "retrieval, nDCG@10",
    "aligned_recall@10": "in the teacher's index, recall@10",
    "aligned_ndcg@10": "in the teacher's index, nDCG@10",
    "probe_accuracy": "classes by a linear probe, accuracy",
    "probe_macro_f1": "classes by a linear probe, macro F1",
}


def share_of_teacher(entry: Mapping[str, Any]) -> float | None:
    """The student's score in percent of the teacher's; None where there is no teacher or its score is not positive."""
    if "teacher" not in entry or entry["teacher"]["score"] <= 0:
        return None
    return float(100.0 * entry["student"]["score"] / entry["teacher"]["score"])


def merged(new: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The new results, with tasks of an earlier file that came from the same models by the same protocol."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        old = {}
    result = dict(new)
    if isinstance(old, dict) and old.get("format") == FORMAT:
        same = all(old.get(part) == new.get(part) for part in ("model", "teacher", "protocol"))
        if same:
            result["tasks"] = {**old.get("tasks", {}), **new["tasks"]}
        if old.get("model") == new.get("model") and "perplexity" in old and "perplexity" not in result:
            result["perplexity"] = old["perplexity"]
        if old.get("model") == new.get("model") and "labels" in old and "labels" not in result:
            result["labels"] = old["labels"]
        of_both = all(old.get(part) == new.get(part) for part in ("model", "teacher"))
        if of_both and "embeddings" in old and "embeddings" not in result:
            result["embeddings"] = old["embeddings"]
    result["average"] = average(result["tasks"])
    result["markdown"] = markdown(result)
    return result


def average(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The mean score over the tasks, of the student and, where every task has it, of the teacher."""
    if not tasks:
        return {}
    entry: dict[str, Any] = {"tasks": len(tasks)}
    for who in ("student", "teacher"):
        if all(who in task for task in tasks.values()):
            entry[who] = {"score": statistics.fmean(task[who]["score"] for task in tasks.values())}
    entry["kept"] = share_of_teacher(entry)
    return entry


def markdown(results: Mapping[str, Any]) -> str:
    """The scores as a table, with the protocol below it."""
    protocol = results["protocol"]
    lines: list[str] = []
    if results["tasks"]:
        lines += ["| task | metrics | student | teacher | kept |", "| --- | --- | ---: | ---: | ---: |"]
        for name, task in results["tasks"].items():
            teacher = task.get("teacher", {}).get("metrics", {})
            own = task["student"]["metrics"]
            lines.append(
                f"| {name} | {', '.join(own)} | {_percent(own.values())} | {_percent(teacher.values())} | "
                f"{_share(task['kept'])} |"
            )
        if len(results["tasks"]) > 1:
            mean = average(results["tasks"])
            teacher_mean = mean.get("teacher", {}).get("score")
            lines.append(
                f"| **average** | | {_percent([mean['student']['score']])} | "
                f"{_percent([] if teacher_mean is None else [teacher_mean])} | {_share(mean['kept'])} |"
            )
        how = (
            f"Fine-tuned with AdamW, learning rate {protocol['learning_rate']:g}, batch {protocol['batch_size']}, "
            f"at most {protocol['length']} tokens, 3 epochs (5 for cola, mrpc, stsb, rte, wnli; 2 for "
            f"rotten-tomatoes), warm-up {protocol['warmup']:g}, weight decay {protocol['weight_decay']:g}; "
            f"validation split, last weights, median of {len(protocol['seeds'])} seed(s), in percent."
            if protocol["finetune"]
            else "As the models are, without fine-tuning; validation split, in percent."
        )
        left_out = {
            name: sum(task.get("left_out", {}).get(n, 0) for n in task.get("left_out", {}) if n != "train")
            for name, task in results["tasks"].items()
        }
        if any(left_out.values()):
            counts = ", ".join(f"{count:,} of {name}" for name, count in left_out.items() if count)
            how += f" Not scored, since a model was trained on their texts: {counts}."
        if protocol["limit"] is not None:
            how += f" Only the first {protocol['limit']:,} examples of each split: no figure to quote."
        lines += ["", how]
    if "embeddings" in results:
        lines += ["", *_embeddings(results["embeddings"])]
    if "labels" in results:
        lines += ["", *_labels(results["labels"])]
    if "perplexity" in results:
        lines += ["", *_perplexity(results["perplexity"])]
    return "\n".join(lines).strip() + "\n"


def _percent(values: Any) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values) or "–"


def _share(kept: float | None) -> str:
    return "–" if kept is None else f"{kept:.1f} %"


def _labels(entry: Mapping[str, Any]) -> list[str]:
    whose = {"test": "the test part of its study", "held_out": "the held-out part of its study"}
    both = [who for who in ("student", "teacher") if who in entry]
    lines = [f"| labels | {' | '.join(both)} |", f"| --- |{' ---: |' * len(both)}"]
    for name, words in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        lines.append(f"| {words} | {' | '.join(f'{100 * entry[who][name]:.1f}' for who in both)} |")
    kept = f", {entry['kept']:.1f} % of the teacher's accuracy kept" if "kept" in entry else ""
    place = whose.get(entry["part"], entry["part"])
    lines += ["", f"As the models are, on {entry['examples']:,} examples ({place}), in percent{kept}.", ""]
    names = [markdown_of(name) for name in entry["classes"]]
    lines += [f"| the student's | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    rows = zip(names, entry["student"]["confusion"], strict=True)
    return [*lines, *(f"| {name} | {' | '.join(map(str, row))} |" for name, row in rows)]


def _perplexity(entry: Mapping[str, Any]) -> list[str]:
    lines = ["| masked-language perplexity | |", "| --- | ---: |"]
    lines += [f"| {who} | {entry[who]['perplexity']:.1f} |" for who in ("student", "teacher") if who in entry]
    return [*lines, "", str(entry["how"])]


def _embeddings(entry: Mapping[str, Any]) -> list[str]:
    both = [who for who in ("student", "teacher") if who in entry]
    kept = entry.get("kept")
    lines = [f"| embeddings | {' | '.join(both)} |{' kept |' if kept else ''}"]
    lines.append(f"| --- |{' ---: |' * (len(both) + bool(kept))}")
    for name, words in EMBEDDING_WORDS.items():
        if name in entry["student"]:
            cells = [f"{entry[who][name]:.3f}" for who in both]
            share = None if kept is None else kept[name]
            cells += [] if kept is None else ["–" if share is None else f"{share:.1f} %"]
            lines.append(f"| {words} | {' | '.join(cells)} |")
    said, protocol = [], entry["protocol"]
    if "queries" in entry:
        left = entry["left_out"]
        said.append(
            f"{entry['queries']:,} queries against {entry['documents']:,} documents of {entry['source']}, by cosine."
        )
        if left["trained_on"]:
            said.append(f"{left['trained_on']:,} queries are not asked, since a model was trained on their texts.")
        if left["more_queries"] or left["more_documents"]:
            more = f"{left['more_queries']:,} queries and {left['more_documents']:,} documents more are there"
            said.append(f"Drawn; {more}.")
        if left.get("without_answer"):
            said.append(f"{left['without_answer']:,} queries have no answer in the file, and are not asked.")
    probe = entry.get("probe")
    if probe:
        said.append(
            f"The probe is a logistic regression on {probe['train']:,} texts, scored on {probe['test']:,} others."
        )
        if probe.get("left_out"):
            said.append(f"{probe['left_out']:,} of these are left out, since they were trained on.")
    said.append(f"At most {protocol['length']} tokens of a text.")
    return [*lines, "", " ".join(said), *_dimensions(entry)]


def _dimensions(entry: Mapping[str, Any]) -> list[str]:
    """A table of the scores of the first dimensions alone, all of them in its first row."""
    if not entry.get("dimensions"):
        return []
    rows = {str(entry["width"]): entry, **entry["dimensions"]}
    lines: list[str] = []
    for name, words in EMBEDDING_WORDS.items():
        if name not in entry["student"] or "ndcg" in name or "f1" in name:
            continue
        beside = "teacher" in entry
        lines += [
            "",
            f"| {words}: dimensions | student |{' teacher | kept | of the whole teacher |' if beside else ''}",
        ]
        lines.append(f"| ---: | ---: |{' ---: | ---: | ---: |' if beside else ''}")
        for width, row in rows.items():
            cells = [width, f"{row['student'][name]:.3f}"]
            if beside and name in row["teacher"]:
                whole = row.get("kept_of_whole", row["kept"])
                cells += [f"{row['teacher'][name]:.3f}", _share(row["kept"][name]), _share(whole[name])]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "The first dimensions alone, divided by their length; the teacher's likewise."]


def write(results: Mapping[str, Any], path: Path) -> None:
    """`results.json` and, beside it, the Markdown table."""
    write_atomically(path, json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomically(path.with_suffix(".md"), str(results["markdown"]))


def default_output(model: Path) -> Path:
    return model / RESULTS
