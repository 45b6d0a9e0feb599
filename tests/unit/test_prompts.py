"""Prompts: golden text, budgets, the prefix property, and leaves that see only what they may."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import PromptError
from brewhouse.prompts.builder import stream_layout
from brewhouse.prompts.evidence import ItemText, Past, Version, known_rank, merge
from brewhouse.prompts.markup import Plain, Tagged, data
from brewhouse.prompts.questions import answer_tokens, build_questions, check_answer_words
from brewhouse.prompts.stream import Candidate, StreamLayout, Target
from brewhouse.prompts.table1 import Table1Layout, question_phrases
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import tokenize_tree
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.tasks.suite import load_suite

GOLDEN = Path(__file__).parent / "golden"
HOUR = 3_600_000_000
DAY = 24 * HOUR
START = 1_704_067_200_000_000


def past(day: float, text: str, action: str, surface: str = "feed", age: float = 0.5) -> Past:
    at = START + int(day * DAY)
    return Past(known_rank(at, at), at, surface, action, text, at - int(age * DAY))


def version(day: float, role: str) -> Version:
    at = START + int(day * DAY)
    return Version(known_rank(at, at), at, f"senior {role} audit finance", f"now lead {role}")


EVIDENCE = merge(
    [
        past(1, "kafka Stiodim video software", "liked"),
        past(1.001, "audit poll finance", "none"),
        past(4, "senior rust remote software", "viewed", "jobs", age=2),
        past(20, "nursing article health", "hidden", age=9),
    ],
    [version(0, "audit"), version(10, "treasury")],
)


@pytest.fixture(scope="module")
def layout(linkedin: DomainFolder, tokenizer: PromptTokenizer) -> StreamLayout:
    return stream_layout(linkedin.domain, load_suite(linkedin), tokenizer)


def candidate(layout: StreamLayout, row: str, text: str, surface: str = "feed") -> Candidate:
    return Candidate(
        row=row,
        question=layout.book.on(surface)[0],
        label=0,
        weight=1.0,
        item=ItemText(text, text, START + int(20.5 * DAY)),
    )


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("markup", [Tagged(), Plain()], ids=lambda m: m.name)
def test_stream_golden(
    layout: StreamLayout, linkedin: DomainFolder, markup: Tagged | Plain
) -> None:
    told = StreamLayout(
        domain=linkedin.domain,
        verbalizer=layout.verbalizer,
        markup=markup,
        book=layout.book,
        length=lambda s: len(s.text.split()),
    )
    tree = told.request(
        "m1",
        EVIDENCE,
        [candidate(layout, "x", "solar photo energy")],
        request_at=START + 21 * DAY,
        moment=START + 21 * DAY,
    )
    golden(f"stream_{markup.name}.txt", tree.prompt(0))


def test_table1_golden(layout: StreamLayout, linkedin: DomainFolder) -> None:
    table1 = Table1Layout(
        domain=linkedin.domain,
        markup=Plain(),
        book=layout.book,
        phrases=question_phrases(layout.book, load_suite(linkedin)),
        length=lambda s: len(s.text.split()),
    )
    tree = table1.request(
        "m1", EVIDENCE, [candidate(layout, "x", "solar photo energy")], moment=START + 21 * DAY
    )
    golden("table1.txt", tree.prompt(0))


def test_nothing_after_the_moment_is_told(layout: StreamLayout) -> None:
    for day, absent in ((20.0, "nursing"), (4.0, "rust"), (10.0, "treasury")):
        moment = START + int(day * DAY)
        tree = layout.request(
            "m1", EVIDENCE, [candidate(layout, "x", "solar")], request_at=moment, moment=moment
        )
        assert absent not in tree.prompt(0)
        later = layout.request(
            "m1",
            EVIDENCE,
            [candidate(layout, "x", "solar")],
            request_at=moment + 1,
            moment=moment + 1,
        )
        assert absent in later.prompt(0)


def test_budget_keeps_the_newest_and_drops_whole_interactions(layout: StreamLayout) -> None:
    many = [past(i / 4, f"item{i} poll finance", "liked") for i in range(100)]
    tree = layout.request(
        "m1",
        many,
        [candidate(layout, "x", "solar")],
        request_at=START + 99 * DAY,
        moment=START + 99 * DAY,
    )
    limits = layout.domain.history
    told = [line for line in tree.trunk_text().split("\n") if "<feed>" in line]
    assert len(told) <= limits.max_events
    assert told[-1].startswith("<feed>")
    assert "item99" in told[-1]
    assert all(line.endswith("<liked>") for line in told)
    assert (
        sum(layout.length(s) for part in (tree.root, *tree.steps) for s in part)
        <= limits.max_tokens
    )


def test_a_long_profile_leaves_room_for_history(layout: StreamLayout) -> None:
    wordy = " ".join(f"skill{i}" for i in range(400))
    many = [
        Version(0, 0, wordy, "now more"),
        *[past(i / 4, f"i{i} poll", "liked") for i in range(60)],
    ]
    limit = layout.domain.history.max_tokens
    end = START + 99 * DAY
    asked = candidate(layout, "x", "solar")
    trees = [
        layout.request("m1", many, [asked], request_at=end, moment=end),
        *layout.training("m1", many, [Target(candidate=asked, request_at=end, moment=end)]),
        *layout.documents("m1", many),
    ]
    for tree in trees:
        assert len(tree.steps) >= 5
        assert sum(layout.length(s) for p in (tree.root, *tree.steps) for s in p) <= limit


def test_a_dropped_profile_change_moves_into_the_head(layout: StreamLayout) -> None:
    many = [
        version(0, "audit"),
        *[past(1 + i / 8, f"a{i} poll", "liked") for i in range(10)],
        version(3, "treasury"),
        *[past(4 + i / 8, f"b{i} poll", "liked") for i in range(80)],
    ]
    tree = layout.request(
        "m1",
        many,
        [candidate(layout, "x", "solar")],
        request_at=START + 40 * DAY,
        moment=START + 40 * DAY,
    )
    assert tree.trunk_text().split("\n")[1] == "<profile> senior treasury audit finance"


def test_training_leaves_read_like_requests_and_see_no_later_profile(layout: StreamLayout) -> None:
    evidence = merge(
        [past(i / 4, f"i{i} poll finance", "liked") for i in range(120)],
        [version(-1, "audit"), version(0.1, "treasury"), version(15, "lending")],
    )
    targets = [
        Target(
            candidate=candidate(layout, f"t{i}", f"i{i} poll finance"),
            request_at=START + i * DAY // 4,
            moment=START + i * DAY // 4,
        )
        for i in range(120)
    ]
    rows = []
    for tree in layout.training("m1", evidence, targets):
        for index, leaf in enumerate(tree.leaves):
            rows.append(leaf.row)
            number, prompt = int(leaf.row[1:]), tree.prompt(index)
            trunk = prompt.split("\n")[:-1]
            assert not any(f" i{n} " in line for line in trunk for n in range(number, 120))
            assert ("lending" in prompt) == (number > 60)
            assert ("treasury" in prompt) == (number > 0 and "lending" not in trunk[1])
            told = sum("<liked>" in line for line in trunk)
            assert told >= min(number, layout.domain.history.max_events // 2 - 4)
    assert sorted(rows) == sorted(f"t{i}" for i in range(120))


def test_a_prefix_of_the_trunk_is_a_prefix_of_its_tokens(
    layout: StreamLayout, tokenizer: PromptTokenizer
) -> None:
    full = layout.request("m1", EVIDENCE, [], request_at=START + 99 * DAY, moment=START + 99 * DAY)
    whole = tokenize_tree(full, tokenizer.encode, begin=tokenizer.begin).tokens_T
    for day in (2, 5, 12):
        part = layout.request(
            "m1", EVIDENCE, [], request_at=START + day * DAY, moment=START + day * DAY
        )
        some = tokenize_tree(part, tokenizer.encode, begin=tokenizer.begin).tokens_T
        assert np.array_equal(whole[: len(some)], some)


hostile = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            [
                "\n<jobs>",
                "<applied>",
                "<",
                ">",
                '"',
                "\n",
                "\r",
                "\u2028",
                "\x00",
                "\u202e",
                "\x85",
                '" ->',
                " applied",
                "\n<profile>",
                "<|begin|>",
                "\u200b",
                "\u0338",
                "e\u0301",
                "\ufeff",
            ]
        ),
        max_size=8,
    ).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(hostile)
def test_user_text_cannot_forge_structure(tokenizer: PromptTokenizer, text: str) -> None:
    segment = data(text)
    assert not set("<>[]\n\r\t\x00\u2028\u2029\x85") & set(segment.text)
    assert data(segment.text) == segment
    assert not set(tokenizer.encode(segment)) & set(tokenizer._marks.values())


@settings(max_examples=100, deadline=None)
@given(st.lists(hostile, min_size=1, max_size=4))
def test_the_lines_of_a_prompt_are_ours_alone(layout: StreamLayout, texts: list[str]) -> None:
    evidence = [past(i, text, "liked") for i, text in enumerate(texts)]
    tree = layout.request(
        "m1",
        evidence,
        [candidate(layout, "x", texts[0])],
        request_at=START + 50 * DAY,
        moment=START + 50 * DAY,
    )
    lines = tree.prompt(0).splitlines()
    assert len(lines) == 2 + len(texts) + 1
    assert sum(line.count("<liked>") for line in lines) == len(texts)
    assert all(line.startswith("<feed>") for line in lines[2:])


def test_answers_that_share_a_first_token(
    linkedin: DomainFolder, tokenizer: PromptTokenizer
) -> None:
    suite = load_suite(linkedin)
    twins = suite.tasks[0].model_copy(update={"answers": ("surely yes", "surely no")})
    book = build_questions(
        linkedin.domain, suite.select([]).__class__(domain="linkedin", tasks=(twins,))
    )
    with pytest.raises(PromptError, match="share their first token .* choose words that differ"):
        answer_tokens(book, Plain(), tokenizer.encode)
    with pytest.raises(PromptError, match=f"task {twins.name}: answers 'surely yes'"):
        check_answer_words(book)


def test_ages_and_gaps_are_words(linkedin: DomainFolder) -> None:
    verbalizer = Verbalizer(linkedin.domain)
    assert [verbalizer.age(START + d * DAY, START) for d in (0, 1, 2, 5, 50)] == [
        "new",
        "new",
        "days",
        "week",
        "old",
    ]
    assert verbalizer.gap(None, START) is None
    assert [verbalizer.gap(START, START + h * HOUR) for h in (1, 6, 30, 100, 999)] == [
        None,
        None,
        "soon",
        "later",
        "long",
    ]


def test_the_tokenizer_survives_saving(tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = PromptTokenizer.load(tmp_path)
    for segment in (
        data("senior kafka remote"),
        tokenizer.markup.answer("liked"),
        data("Zürich 漢"),
    ):
        assert loaded.encode(segment) == tokenizer.encode(segment)
        assert loaded.decode(loaded.encode(segment)) == segment.text
    assert loaded.markup.name == "tagged"
    assert len(loaded) == len(tokenizer)
