"""The command line, `kdnas …`: one small file per group of commands; what a command does is done elsewhere.

A new command is a line in COMMANDS and a click command in a file of this folder. Only the file of the command
that was called is imported, and heavy libraries only inside the commands that need them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kdnas.cli.frame import Lazy, run
from kdnas.system import process

COMMANDS: dict[str, tuple[str, str]] = {  # name → (module:command, what it does); shown in this order
    "search": ("kdnas.cli.search:search", "Begin or resume a study and run it here"),
    "plan": ("kdnas.cli.search:plan", "Say what a search would do, without running it"),
    "campaign": ("kdnas.cli.campaign:campaign", "Compare teachers and recipes on one task, with one budget"),
    "studies": ("kdnas.cli.studies:studies", "List the studies of the store"),
    "show": ("kdnas.cli.studies:show", "Show a study and its trials"),
    "compare": ("kdnas.cli.compare:compare", "Compare studies: fronts, histories and settings"),
    "logs": ("kdnas.cli.studies:logs", "Print what the workers of a study wrote down"),
    "pause": ("kdnas.cli.control:pause", "Let the running epoch finish, then wait"),
    "resume": ("kdnas.cli.control:resume", "Go on with a paused, stopped or dead study, in the background"),
    "stop": ("kdnas.cli.control:stop", "End the workers of a study after the running trial, or at once"),
    "rescore": ("kdnas.cli.control:rescore", "Rank the finished trials by another α and β; nothing runs again"),
    "recheck": ("kdnas.cli.control:recheck", "Evaluate the leaders again with fresh seeds"),
    "tag": ("kdnas.cli.remarks:tag", "Tag a study, or take tags away"),
    "note": ("kdnas.cli.remarks:note", "Write a note to a study"),
    "delete": ("kdnas.cli.control:delete", "Remove a study from the store"),
    "export": ("kdnas.cli.files:export", "Write the best candidates as JSON, CSV or Markdown"),
    "import": ("kdnas.cli.files:import_", "Begin a study from an exported file, its candidates first"),
    "backup": ("kdnas.cli.backup:backup", "Copy a study, or all of them, into a file, while they run"),
    "restore": ("kdnas.cli.backup:restore", "Bring the studies of a backup into the store"),
    "finalize": ("kdnas.cli.finalize:finalize", "Distil a candidate on the whole data and write it as a model folder"),
    "distill": ("kdnas.cli.finalize:distill", "Distil a given configuration, without a search"),
    "static": ("kdnas.cli.static:static", "Make a static sentence encoder of a teacher: a vector a token, no network"),
    "evaluate": ("kdnas.cli.evaluate:evaluate", "Score a model folder on tasks, beside its teacher"),
    "predict": ("kdnas.cli.predict:predict", "Label texts with a classifier, with probabilities"),
    "finetune": ("kdnas.cli.models:finetune", "Train a model on text, without distillation"),
    "generate": ("kdnas.cli.models:generate", "Let a causal model write, and score it with ROUGE"),
    "report": ("kdnas.cli.report:report", "Write a study as one HTML page, or as Markdown with pictures"),
    "worker": ("kdnas.cli.worker:worker", "Join a study from this machine, with one worker or several"),
    "slurm": ("kdnas.cli.slurm:slurm", "Write a file for sbatch: workers of a study on many GPUs"),
    "recipes": ("kdnas.cli.environment:recipes", "List the recipes, how students learn, and their options"),
    "strategies": ("kdnas.cli.environment:strategies", "List the search strategies and their options"),
    "assets": ("kdnas.cli.environment:assets", "List or fetch the models and texts that ship"),
    "cache": ("kdnas.cli.environment:cache", "List or clear what is cached on disk"),
    "latency": ("kdnas.cli.environment:latency", "Measure a model by the studies' protocol"),
    "doctor": ("kdnas.cli.environment:doctor", "Say what is found here, what is missing, and the hint"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 usage or environment, 130 interrupted."""
    process.set_up()
    if arguments is None and any("://" in word for word in sys.argv):
        from kdnas.store.command_line import hide_passwords

        hide_passwords()
    sys.exit(run(Lazy("kdnas", COMMANDS), arguments))
