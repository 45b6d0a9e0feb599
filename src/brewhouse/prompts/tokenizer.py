"""Tokenizers: the domain's own BPE for models trained from scratch, the model's own otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brewhouse.errors import PromptError
from brewhouse.prompts.markup import MARKUPS, Markup, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, BEGIN = "<|pad|>", "<|begin|>"
_MARKUP_KEY = "brewhouse_markup"


class PromptTokenizer:
    """Encodes segments, each at most once; data can never become a mark."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markup: Markup) -> None:
        """Wrap a Hugging Face tokenizer and the markup its prompts are written in."""
        self.tokenizer = tokenizer
        self.markup = markup
        self._cache: dict[Segment, tuple[int, ...]] = {}
        self._marks = {str(t): i for i, t in tokenizer.added_tokens_decoder.items()}

    @property
    def begin(self) -> int:
        """Id of the begin token."""
        if self.tokenizer.bos_token_id is None:
            msg = "the tokenizer has no begin token; set bos_token in its tokenizer_config.json"
            raise PromptError(msg)
        return int(self.tokenizer.bos_token_id)

    @property
    def pad(self) -> int:
        """Id used for padding; padding is masked, so any id serves where none is declared."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.begin)

    @property
    def marks(self) -> tuple[int, ...]:
        """Ids of tokens that are marks, not words: those added to the vocabulary."""
        return tuple(sorted(self._marks.values()))

    @property
    def line_marks(self) -> tuple[int, ...]:
        """Ids of marks that begin a line: a profile, its change, an interaction or a question."""
        return tuple(sorted(i for text, i in self._marks.items() if text.startswith("\n")))

    def __len__(self) -> int:
        """Vocabulary size with added tokens."""
        return len(self.tokenizer)

    def encode(self, segment: Segment) -> tuple[int, ...]:
        """Token ids of a segment."""
        ids = self._cache.get(segment)
        if ids is None:
            ids = self._cache[segment] = self._encode(segment)
        return ids

    def encode_data(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        """Token ids of data segments, encoded in one call."""
        if not segments:
            return []
        found = self.tokenizer(
            [s.text for s in segments], add_special_tokens=False, split_special_tokens=True
        )["input_ids"]
        return [tuple(int(i) for i in ids) for ids in found]

    def length(self, segment: Segment) -> int:
        """Number of tokens of a segment."""
        return len(self.encode(segment))

    def _encode(self, segment: Segment) -> tuple[int, ...]:
        if segment.is_mark and segment.text in self._marks:
            return (self._marks[segment.text],)
        ids = self.tokenizer(
            segment.text, add_special_tokens=False, split_special_tokens=not segment.is_mark
        )["input_ids"]
        return tuple(int(i) for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def save(self, folder: Path) -> None:
        """Write Hugging Face tokenizer files, with the markup's name."""
        self.tokenizer.init_kwargs[_MARKUP_KEY] = self.markup.name
        self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def load(cls, folder: Path | str, *, markup: str | None = None) -> PromptTokenizer:
        """Read tokenizer files; pretrained ones are told in `plain` markup unless said otherwise.

        Raises:
            PromptError: No tokenizer there.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        except (OSError, ValueError) as error:
            msg = f"no tokenizer at {folder}: {error}; give a folder with tokenizer.json"
            raise PromptError(msg) from error
        name = markup or tokenizer.init_kwargs.get(_MARKUP_KEY, "plain")
        return cls(tokenizer, MARKUPS[name]())


def train_tokenizer(
    texts: Iterable[str], *, marks: list[str], vocab_size: int, markup: Markup
) -> PromptTokenizer:
    """Train a byte-level BPE on texts of the training window; marks become single tokens.

    Args:
        texts: Sanitised texts as they stand in prompts.
        marks: Structural tokens, in a fixed order.
        vocab_size: Size with bytes and marks included.
        markup: What the prompts are written in.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [
        AddedToken(m, normalized=False, special=True) for m in dict.fromkeys([PAD, BEGIN, *marks])
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, 256 + len(special)),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, bos_token=BEGIN)
    return PromptTokenizer(fast, markup)
