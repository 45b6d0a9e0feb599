"""What MLflow calls to load a registered ranker, `models:/ranker@champion`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brewhouse.errors import PromptError
from brewhouse.prompts.tree import TokenTree
from brewhouse.scoring.scorer import Scorer

if TYPE_CHECKING:
    import pandas as pd

LOADER = __name__


class PromptModel:
    """Log-odds of prompts, one task each."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def predict(
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Score prompts that end where the answer is due.

        Args:
            model_input: Columns `prompt` (text as the verbalizer wrote it, marks included) and
                `task`.
            params: Not used.

        Returns:
            Log-odds of yes, (rows,) float32.

        Raises:
            PromptError: A task is unknown to the model.
        """
        del params
        book, tokenizer = self.scorer.book, self.scorer.tokenizer
        trees = []
        for number, (prompt, task) in enumerate(
            zip(model_input["prompt"], model_input["task"], strict=True)
        ):
            if task not in book.readings:
                known = ", ".join(sorted(book.readings))
                msg = f"the model has no task '{task}'; it knows {known}"
                raise PromptError(msg)
            ids = tokenizer.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            trees.append(_tree([tokenizer.begin, *ids], book.readings[task].question, number))
        if not trees:
            return np.zeros(0, np.float32)
        leaves = self.scorer.score(trees)
        tasks = list(model_input["task"])
        rows = [book.log_odds(task, leaves.logits_NA[i : i + 1])[0] for i, task in enumerate(tasks)]
        return np.array(rows, np.float32)


def _tree(ids: list[int], question: int, number: int) -> TokenTree:
    """A prompt as a tree whose only leaf is its last token."""
    return TokenTree(
        member="",
        tokens_T=np.array(ids, np.int32),
        trunk=len(ids) - 1,
        leaf_start_N=np.array([len(ids) - 1]),
        branch_N=np.array([len(ids) - 1]),
        question_N=np.array([question]),
        label_N=np.zeros(1, np.int64),
        weight_N=np.ones(1, np.float32),
        row_N=(str(number),),
    )


def _load_pyfunc(data_path: str) -> PromptModel:
    return PromptModel(Scorer.load(Path(data_path)))
