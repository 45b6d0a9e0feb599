"""(a) Candidates a second: prompt trees against one prompt a candidate, same weights, same run.

Peers: transformers' own forward pass over batches of ordinary prompts (last position only), and
lm-evaluation-harness's log-likelihood requests on the same model. `python benchmarks/scoring.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import common
import numpy as np

VOCABULARY = 2000
ANSWERS = [5, 6]
SHAPES = ((2048, 40, 50), (512, 40, 20))
SIZES = ("tiny", "small")


def make_tree(trunk: int, leaf: int, candidates: int) -> Any:
    """A request: one trunk, candidates at its end."""
    from brewhouse.prompts.tree import TokenTree

    rng = np.random.default_rng(0)
    return TokenTree(
        member="m",
        tokens_T=rng.integers(20, VOCABULARY, trunk + leaf * candidates).astype(np.int32),
        trunk=trunk,
        leaf_start_N=trunk + leaf * np.arange(candidates),
        branch_N=np.full(candidates, trunk),
        question_N=np.zeros(candidates, np.int64),
        label_N=np.zeros(candidates, np.int64),
        weight_N=np.ones(candidates, np.float32),
        row_N=tuple(map(str, range(candidates))),
    )


Scores = tuple[float, np.ndarray, int, float]
"""Seconds a request, log-odds, tokens, peak memory of the device in MiB."""


def ours(size: str, shape: tuple[int, int, int], on: common.On = common.CPU) -> Scores:
    """Candidates as leaves of one tree."""
    from brewhouse.model.ranker import Ranker
    from brewhouse.prompts.questions import QuestionBook
    from brewhouse.scoring.scorer import Scorer

    tree = make_tree(*shape)
    ranker = Ranker(common.build(size, vocabulary=VOCABULARY, on=on), [ANSWERS])
    scorer = Scorer(ranker, None, QuestionBook(questions=(), readings={}))  # type: ignore[arg-type]
    found = scorer.score([tree])
    seconds = common.best_of(3, lambda: scorer.score([tree]))
    odds = found.logits_NA[:, 0] - found.logits_NA[:, 1]
    return seconds, odds, found.tokens, on.peak_mib()


def transformers_prompts(
    size: str, shape: tuple[int, int, int], on: common.On = common.CPU
) -> Scores:
    """The same from ordinary prompts of equal length, in batches, by transformers alone."""
    import torch

    tree = make_tree(*shape)
    decoder = common.build(size, vocabulary=VOCABULARY, on=on).eval()
    prompts = np.stack([tree.single(i).tokens_T for i in range(len(tree.row_N))]).astype(np.int64)

    def run() -> np.ndarray:
        rows = []
        with torch.inference_mode():
            for start in range(0, len(prompts), on.batch):
                batch = torch.from_numpy(prompts[start : start + on.batch]).to(on.device)
                rows.append(decoder(input_ids=batch, logits_to_keep=1).logits[:, -1])
        logits = torch.cat(rows).float().cpu().numpy()
        return logits[:, ANSWERS[0]] - logits[:, ANSWERS[1]]

    if on.warm:
        run()
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found, prompts.size, on.peak_mib()


def harness(size: str, shape: tuple[int, int, int]) -> tuple[float, np.ndarray]:
    """The same by lm-evaluation-harness: log-likelihood of each answer after each prompt."""
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY)}
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w2")),
        pad_token="w0",
        eos_token="w1",
    )
    tree = make_tree(*shape)
    model = HFLM(
        pretrained=common.build(size, vocabulary=VOCABULARY, on=common.CPU).eval(),
        tokenizer=plain,
        batch_size=common.CPU.batch,
        device="cpu",
        max_length=4096,
    )
    requests = [
        ((f"{i}", f"{answer}"), tree.single(i).tokens_T.tolist(), [answer])
        for i in range(len(tree.row_N))
        for answer in ANSWERS
    ]
    start = time.perf_counter()
    found = model._loglikelihood_tokens(requests, disable_tqdm=True)
    seconds = time.perf_counter() - start
    scores = np.array([value for value, _ in found]).reshape(-1, len(ANSWERS))
    return seconds, scores[:, 0] - scores[:, 1]


def run() -> Iterable[common.Result]:
    """All shapes and sizes against both peers."""
    import lm_eval
    import transformers

    peers = (
        (transformers_prompts, f"transformers {transformers.__version__}, a prompt each"),
        (harness, f"lm-evaluation-harness {lm_eval.__version__}"),
    )
    for size in SIZES:
        for shape in SHAPES:
            trunk, leaf, candidates = shape
            (seconds, scores, tokens, _), memory = common.in_own_process(ours, size, shape)
            for peer, label in peers:
                (theirs, reference, *_), other = common.in_own_process(peer, size, shape)
                found = common.result(
                    f"scoring {size} {trunk}/{leaf}/{candidates}",
                    ours=candidates / seconds,
                    peer=candidates / theirs,
                    unit="candidates/s",
                    against=label,
                    tokens_per_candidate=round(tokens / candidates, 1),
                    peer_tokens_per_candidate=trunk + leaf,
                    max_difference=float(f"{np.abs(scores - reference).max():.1e}"),
                    peak_mib=round(memory),
                    peer_peak_mib=round(other),
                )
                common.show([found])
                yield found


if __name__ == "__main__":
    common.main("scoring", run)
