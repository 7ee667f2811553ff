"""The model card of a student's folder, in Markdown with the hub's front matter. Reads and writes no file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kdnas.system.folders import MODEL_FACTS

MOST_COLUMNS = 20  # of a confusion table that a card shows


def card(facts: Mapping[str, Any], results: Mapping[str, Any] | None = None) -> str:
    """A model card in Markdown with the hub's front matter."""
    spec, metrics, latency = facts["spec"], facts["metrics"], facts["latency"]
    teacher, data, config = spec["teacher"], spec["data"], facts["config"]
    protocol = spec["latency"]
    library = "peft" if facts.get("opens_with") == "PeftModel" else "transformers"
    front = ["---", f"library_name: {library}", "tags:", "- kdnas", "- knowledge-distillation"]
    if "/" in teacher["model"] and not teacher["model"].startswith((".", "/", "~")):
        front += [f"base_model: {json.dumps(teacher['model'])}"]
    front += ["---"]
    kind = str(config.get("model_type", spec["recipe"]["name"]))
    shape = ", ".join(f"{name} {value}" for name, value in facts["candidate"].items())
    came = (
        f"trial {facts['trial']} of the study `{facts['study']}`"
        if facts.get("trial") is not None
        else "a configuration given by hand"
    )
    early = ", stopped early" if metrics["stopped_early"] else ""
    lines = [
        *front,
        "",
        f"# A student of {teacher['model']}",
        "",
        f"A {kind} model of {facts['parameters']:,} parameters ({shape}), distilled from `{teacher['model']}` on "
        f"`{data['source']}` by kdnas {facts['kdnas']} with the recipe `{spec['recipe']['name']}`; {came}.",
        "",
        "| | student | teacher |",
        "| --- | ---: | ---: |",
        f"| parameters of the body | {facts['parameters']:,} | {_count(facts['teacher'].get('parameters'))} |",
        f"| latency, median ms | {latency['student_ms']:.3g} | {latency['teacher_ms']:.3g} |",
        f"| held-out loss (0 matches the teacher, 1 is a constant prediction) | {metrics['loss']:.4f} | 0 |",
        f"| held-out loss, raw | {metrics['raw_loss']:.6g} | |",
        "",
        f"{latency['speedup']:.2f} times as fast as its teacher: one forward pass of the body, batch "
        f"{protocol['batch_size']}, {protocol['length']} tokens, {protocol['threads']} thread(s), on "
        f"{latency['device']}, student and teacher timed in turn."
        + (f" The figure is doubtful: {latency['flag']}." if latency.get("flag") else ""),
        "",
        "## Use",
        "",
        "```python",
        *_usage(kind, facts),
        "```",
        "",
        *_classification(facts.get("classification")),
        *_forms(facts.get("forms")),
        *_scores(results),
        "## How it was made",
        "",
        f"- {metrics['epochs']} of at most {spec['full']['epochs']} epochs{early}, the best one "
        f"({metrics['best_epoch']}) kept; {metrics['tokens']:,} tokens; seed {facts['seed']}.",
        f"- AdamW, learning rate {spec['training']['learning_rate']:g}, warm-up {spec['training']['warmup']:g} of the "
        f"steps, batches of {data['batch_size']} × {data['length']} tokens.",
        *_head(facts.get("head")),
        f"- Weights are stored as {facts['dtype']}; nothing that only the distillation needed is among them.",
        *(
            [f"- `{facts['onnx']['file']}`: the same model as ONNX, outputs within {facts['onnx']['difference']:.1e}."]
            if facts.get("onnx")
            else []
        ),
        "- " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + ".",
        f"- Fingerprints: teacher {facts['teacher'].get('fingerprint', 'unknown')}, "
        f"data {facts['data'].get('fingerprint', 'unknown')}.",
        "",
        f"All of this is in `{MODEL_FACTS}`. The student inherits its teacher's and its text's biases and terms.",
        "",
    ]
    return "\n".join(lines)


def _head(head: Mapping[str, Any] | None) -> list[str]:
    """How a student that was not trained to classify does."""
    if head is None:
        return []
    return [
        f"- Its head tells {', '.join(head['labels'])} apart: the teacher's, not trained any further, but its last "
        "layer solved for this student's states. It says what the teacher says of "
        f"{head['agreement']:.1%} of the held-out text's chunks."
    ]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"


def _usage(kind: str, facts: Mapping[str, Any]) -> list[str]:
    opener = str(facts.get("opens_with", "AutoModel"))
    if opener == "PeftModel":
        return _adapter_usage(facts)
    code = ", trust_remote_code=True" if facts.get("own_code") else ""  # the folder holds the model's class itself
    return [
        f"from transformers import {opener}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{code})',
        f'model = {opener}.from_pretrained("FOLDER"{code})',
        'outputs = model(**tokenizer(["Knowledge, distilled."], return_tensors="pt"))',
    ]


def _adapter_usage(facts: Mapping[str, Any]) -> list[str]:
    """An adapter goes over its base, which lies in the folder where it was cut."""
    cut = facts["base"] == "base"
    named = '"FOLDER/base"' if cut else f'{json.dumps(facts["base"])}, config=AutoConfig.from_pretrained("FOLDER")'
    return [
        "from peft import PeftModel",
        "from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        f"base = AutoModelForSequenceClassification.from_pretrained({named})",
        'model = PeftModel.from_pretrained(base, "FOLDER").eval()',
        'outputs = model(**tokenizer(["Knowledge, distilled."], return_tensors="pt"))',
    ]


def _forms(forms: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The same student made smaller, each form as it was measured."""
    if not forms:
        return []
    part = "test" if "test" in forms[0] else "held_out"
    lines = [
        "## Smaller forms",
        "",
        "| form | parameters | zeros | MiB | median ms | × teacher | accuracy | macro F1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for form in forms:
        scores = form[part]
        lines.append(
            f"| {form['form']} | {form['parameters']:,} | {form['zeros']:.0%} | {form['mib']:.2f} | "
            f"{form['latency_ms']:.3g} | {form['speedup']:.1f} | {scores['accuracy']:.4f} | {scores['macro_f1']:.4f} |"
        )
    where = "the test part" if part == "test" else "the held-out part"
    return [*lines, "", f"Scores on {where}; int8 is torch's dynamic quantisation, done on loading.", ""]


def _classification(found: Mapping[str, Any] | None) -> list[str]:
    """Scores of a classifier and its teacher, what their weights take, and the student's confusion table."""
    if not found:
        return []
    lines = ["## Classification", "", "| | student | teacher |", "| --- | ---: | ---: |"]
    for part, words in (("held_out", "held-out"), ("test", "test")):
        if part in found:
            own, taught, of = found[part]["student"], found[part]["teacher"], f"{found[part]['examples']:,} {words}"
            lines += [
                f"| accuracy, {of} examples | {own['accuracy']:.4f} | {taught['accuracy']:.4f} |",
                f"| macro F1, {words} | {own['macro_f1']:.4f} | {taught['macro_f1']:.4f} |",
            ]
    own, taught = found["size"]["student"], found["size"]["teacher"]
    for name, words in (("parameters", "parameters"), ("trainable", "of them learned"), ("non_zero", "not zero")):
        lines.append(f"| {words} | {own[name]:,} | {taught[name]:,} |")
    lines.append(f"| weights, MiB | {own['mib']:.1f} | {taught['mib']:.1f} |")
    part = "test" if "test" in found else "held_out"
    names = [str(name).replace("|", "\\|") for name in found["classes"]]
    if len(names) <= MOST_COLUMNS:
        lines += ["", f"The student on the {part.replace('_', '-')} part, a row for each true class:", ""]
        lines += [f"| | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
        rows = zip(names, found[part]["student"]["confusion"], strict=True)
        lines += [f"| {name} | {' | '.join(map(str, row))} |" for name, row in rows]
    return [*lines, ""]


def _scores(results: Mapping[str, Any] | None) -> list[str]:
    return ["## Scores", "", str(results["markdown"]).strip(), ""] if results else []
