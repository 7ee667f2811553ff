"""What a distillation makes beside the folder's weights: a merged adapter, ONNX, GGUF, a layout for another library, a
copy on the hub.

Also of a folder that is finished. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdnas.measuring.clocks import by_own_threads
from kdnas.measuring.devices import as_studies
from kdnas.measuring.latency import measure
from kdnas.models import gguf, llama_cpp, lora_adapters, merged_adapters
from kdnas.models.sentence_layout import no_sentence_encoder
from kdnas.students import model_folder
from kdnas.study.layer_words import is_static
from kdnas.study.space import Candidate
from kdnas.study.spec import StudySpec, from_values
from kdnas.study.spec_latency import LatencySpec
from kdnas.study.spec_recipes import CausalRecipe, EncoderRecipe, LoraRecipe
from kdnas.study.timed_words import AUTO
from kdnas.system.errors import KdnasError, UsageError
from kdnas.system.progress import Progress

if TYPE_CHECKING:
    from kdnas.models.onnx import Exported
    from kdnas.models.sentence_layout import Layout
    from kdnas.recipes.contract import Workbench

LATER = 16  # tokens after the first one that a pass in llama.cpp writes
TRANSFORMERS, SENTENCES = LIBRARIES = ("transformers", "sentence-transformers")


@dataclass(frozen=True)
class Extras:
    """What is wanted. `merge`: the student's adapter added to its base; None does so where the base was cut. `library`:
    which one the folder is for, of `LIBRARIES`; None: sentence-transformers where the teacher is of that. `figures`:
    what its recipe tells of a finished student, which a folder that is scored and removed can do without."""

    onnx: bool = False
    push: str | None = None
    merge: bool | None = None
    library: str | None = None
    figures: bool = True
    gguf: bool = False

    def check(self, spec: StudySpec, candidate: Candidate | None = None) -> None:
        """Raise UsageError, before anything is trained, for what cannot be of this candidate, where one is given."""
        if candidate is not None and is_static(candidate) and (self.onnx or self.library == TRANSFORMERS):
            raise UsageError(
                "A static student is a table of vectors, and no network that transformers or onnxruntime opens.",
                f"Leave out {'--onnx' if self.onnx else '--for'}: SentenceTransformer opens it.",
            )
        if self.merge is not None and not isinstance(spec.recipe, LoraRecipe):
            raise UsageError(
                f"Students of the recipe {spec.recipe.name} have no adapter to merge.",
                "Leave out --merge and --no-merge.",
            )
        if self.library == SENTENCES and not isinstance(spec.recipe, EncoderRecipe):
            raise UsageError(
                f"Students of the recipe {spec.recipe.name} are no sentence encoders.",
                "Leave out --for, or take the recipe hidden-state or sentence-embedding.",
            )
        if self.gguf:
            if not isinstance(spec.recipe, CausalRecipe):
                raise UsageError(
                    f"Students of the recipe {spec.recipe.name} are no causal models.",
                    "Leave out --gguf.",
                )
            gguf.require("Writing GGUF")
        if self.push is not None:
            from kdnas.students.upload import check_push

            check_push(self.push)
        if self.onnx:
            from kdnas.models.onnx import require

            require()

    def layout(self, bench: Workbench) -> Layout | None:
        """How the student is to make one vector of a text as its teacher does; None for a plain folder.

        Raises UsageError, before anything is trained, where the teacher has no such layout or none to follow.
        """
        if self.library == TRANSFORMERS:
            return None
        found = bench.sentence_layout()
        if found is None and self.library == SENTENCES:
            raise no_sentence_encoder(bench.spec.teacher.checkpoint or bench.spec.teacher.model)
        return found

    # ------------------------------------------------------------------ while a folder is written

    def merged(self, work: Path) -> dict[str, Any]:
        """Merge the adapter in a folder that is being written, where that is wanted; what `kdnas.json` says of it."""
        if not lora_adapters.is_adapter(work):
            return {}
        if not (merged_adapters.cut(work) if self.merge is None else self.merge):
            return {}
        merged_adapters.merge(work)
        return {"adapter": merged_adapters.ADAPTER}

    def exported(
        self, folder: Path, settings: LatencySpec, on_progress: Progress, there: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write ONNX and GGUF into a folder where they are wanted; what `kdnas.json` is to say of what was written.

        `there` is what it says already: files that lie in the folder are left alone.
        """
        found: dict[str, Any] = {}
        if self.onnx and not _lies(folder, (there or {}).get("onnx")):
            from kdnas.models.onnx import export

            on_progress("writing ONNX", None)
            found["onnx"] = _onnx_facts(export(folder, settings), settings)
        if self.gguf and not _lies(folder, (there or {}).get("gguf")):
            from kdnas.models import gguf_writing

            on_progress("writing GGUF", None)
            found["gguf"] = asdict(gguf_writing.write(folder))
            if llama_cpp.there():
                on_progress(_not_timed(settings) or "timing it in llama.cpp", None)
                found["gguf"]["llama_cpp"] = _in_llama_cpp(folder / gguf_writing.FILE, settings)
        return found

    # ------------------------------------------------------------------ of a finished folder

    def completed(self, output: Path, on_progress: Progress) -> dict[str, Any]:
        """What a finished folder says of itself, with what was wanted and is missing made now.

        Raises UsageError where that would take another folder.
        """
        facts = model_folder.read_facts(output)
        if self.merge is not None and self.merge is lora_adapters.is_adapter(output):
            how = "as an adapter" if self.merge else "merged"
            raise UsageError(f"{output} is finished already, {how}.", "Name another --output to have it otherwise.")
        laid_out = SENTENCES if facts.get("embedding") else TRANSFORMERS
        if self.library not in (None, laid_out):
            raise UsageError(
                f"{output} is finished already, for {laid_out}.", "Name another --output to have it otherwise."
            )
        with as_studies():
            made = self.exported(output, from_values(facts["spec"]).latency, on_progress, facts)
        if made:
            facts |= made
            model_folder.write_facts(output, facts)
        return facts

    def pushed(self, output: Path, facts: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Upload the folder, where that is wanted."""
        if self.push is None:
            return dict(facts)
        from kdnas.students.upload import push

        on_progress(f"uploading to {self.push}", None)
        return {**facts, "pushed": push(output, self.push)}


def _lies(folder: Path, written: Mapping[str, Any] | None) -> bool:
    """Whether the file that was written for a folder still lies in it."""
    return written is not None and (folder / str(written["file"])).is_file()


def _not_timed(settings: LatencySpec) -> str | None:
    """Why a file of fp32 weights is not timed for a study; None where it is."""
    if settings.dtype in (AUTO, "float32"):
        return None
    return f"not timed: the file is in float32, and the study times in {settings.dtype}"


def _in_llama_cpp(file: Path, settings: LatencySpec) -> dict[str, Any]:
    """Median milliseconds of a first token after a text of the spec's length, and of each later one, by the studies'
    protocol: one text at a time, in llama.cpp on the CPU. None for those of a study that times in another dtype."""
    if (why := _not_timed(settings)) is not None:
        return {"version": llama_cpp.version(), "first_ms": None, "token_ms": None, "flag": why}
    from kdnas.models import open as opening

    positions = int(opening.open_config(file.parent, str(file.parent)).max_position_embeddings)
    later = min(LATER, positions - settings.length)
    running = llama_cpp.LlamaCpp(file, settings.length + 1 + later, settings.threads)
    ids = [1 + place % 100 for place in range(settings.length)]
    if running.generate(ids, 1 + later) != 1 + later:
        raise KdnasError("llama.cpp writes fewer tokens than asked for.", "Leave out --gguf.")
    cpu, clock = torch.device("cpu"), by_own_threads(settings.threads)
    first = measure(lambda: running.generate(ids, 1), None, settings, cpu, clock=clock)
    whole = measure(lambda: running.generate(ids, 1 + later), None, settings, cpu, clock=clock)
    per = (whole.p50 - first.p50) / later
    noise = None if per > 0 else "a token takes less than the timing is exact"
    return {
        "version": llama_cpp.version(),
        "first_ms": first.p50,
        "token_ms": None if noise else per,
        "flag": first.flag or whole.flag or noise,
    }


def _onnx_facts(exported: Exported, settings: LatencySpec) -> dict[str, Any]:
    """With the median latency of onnxruntime on the CPU, in ms, by the studies' protocol; None for that of a study that
    times in another dtype."""
    why = _not_timed(settings)
    timed = measure(exported.once, None, settings, torch.device("cpu")) if why is None else None
    return {
        "file": exported.file,
        "difference": exported.difference,
        "latency_ms": None if timed is None else timed.p50,
        "count": 0 if timed is None else timed.count,
        "flag": why if timed is None else timed.flag,
        "opset": exported.opset,
        "output": exported.output,
    }
