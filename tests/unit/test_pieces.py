"""A store of pieces forgets what one shard of members added, and nothing else."""

from __future__ import annotations

import numpy as np

from brewhouse.prompts.markup import data
from brewhouse.prompts.pieces import PieceStore
from brewhouse.prompts.tokenizer import PromptTokenizer


def test_a_store_is_rewound_to_its_mark(tokenizer: PromptTokenizer) -> None:
    store = PieceStore(tokenizer)
    items = store.add_data(["a post about wine", "a job in Oslo"])
    told, mark = store.join(items).tolist(), store.mark()
    for member in ("Staff Engineer", "Nurse", "Baker"):
        store.rewind(mark)
        code = store.add((data(member),))
        # The code that the member before had: the store holds one shard's profiles at a time.
        assert code == mark
        assert len(store.sizes) == mark + 1
        assert store.join(np.array([code])).tolist() == list(tokenizer.encode(data(member)))
        assert store.join(items).tolist() == told
    store.rewind(mark)
    assert store.mark() == mark
    assert store.add_data(["a job in Oslo"]).tolist() == [items[1]]
