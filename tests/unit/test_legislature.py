"""The `legislature` import on made-up rows: each voter counts once, no outcome is told."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import assert_no_leak, build_timelines, log_from_table
from brewhouse.domains.importer import import_source
from brewhouse.domains.loader import DomainFolder, load_domain
from brewhouse.prompts.builder import TreeBuilder, Voice
from brewhouse.prompts.evidence import item_book, profile_versions
from brewhouse.prompts.markup import Tagged
from brewhouse.prompts.questions import build_questions
from brewhouse.prompts.stream import StreamLayout
from brewhouse.prompts.tree import PromptTree
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.tasks.suite import load_suite
from tests.conftest import SHARED

OUTCOME = "Zresult"
"""Stands in `result` of every roll call: what is known only afterwards."""

ADA, BEN, CAL, DOT, EVE = "A000001", "B000002", "C000003", "D000004", "E000005"
MEMBERS = [
    # Ada goes from the House to the Senate, where she votes under S901.
    (ADA, "S901", "Ada", "Ames", "1970-05-01", "F", "sen", "OH", None, "Republican"),
    (BEN, None, "Ben", "Bright", "1980-05-01", "M", "rep", "TX", 3, "Democrat"),
    (CAL, None, "Cal", "Cole", "1955-05-01", "M", "rep", "OH", 1, "Republican"),
    (DOT, None, "Dot", "Drew", None, "F", "rep", "OH", 2, "Republican"),
    (EVE, "S902", "Eve", "Ewing", "1960-05-01", "F", "sen", "VT", None, "Independent"),
]
IN_2020 = {ADA: ("R", "OH"), BEN: ("D", "TX"), CAL: ("R", "OH"), DOT: ("D", "OH")}
IN_2021 = {BEN: ("D", "TX"), CAL: ("R", "OH"), DOT: ("R", "OH"), "L000099": ("R", "TX")}
"""The last one stands in no list of members."""
SENATE = {"S901": ("R", "OH"), "S902": ("I", "VT")}

ROLLS = [
    # vote_id, when (local), category, type, subject, more columns
    ("h1", "2020-03-03T14:00:00-05:00", "amendment", "On the Amendment", None,
     {"bill": "hr7", "amend_author": "Bright of Texas Part A Amendment No. 1"}),
    ("h2", "2020-03-03T23:00:00-05:00", "passage", "On the Resolution",
     "Providing for consideration of the bill (H.R. 7) Clean Pumps Act, and for other purposes",
     {"bill": "hres9"}),
    ("h3", "2020-03-04T01:30:00-05:00", "procedural", "On Motion to Adjourn", None, {}),
    ("h4", "2020-03-04T11:00:00-05:00", "amendment", "On the Amendment", None,
     {"bill": "hr7", "amend_author": "Bright of Texas Part A Amendment No. 2 En Bloc"}),
    ("h5", "2020-03-05T11:00:00-05:00", "recommit", "On the Motion to Recommit", "Clean Pumps Act",
     {"bill": "hr7"}),
    ("h6", "2021-01-03T12:00:00-05:00", "leadership", "Election of the Speaker", None, {}),
    ("h7", "2021-07-06T12:00:00-04:00", "quorum", "Call by States", None, {}),
    ("h8", "2021-07-06T13:00:00-04:00", "passage-suspension",
     "On Motion to Suspend the Rules and Pass", "Rural Broadband Act", {"bill": "hr8"}),
    ("s1", "2021-07-06T13:00:00-04:00", "cloture", "On the Cloture Motion",
     "On the Cloture Motion PN5", {"nom_title": "Jo Roe, of Maine, to be an Ambassador to Chad"}),
    ("s2", "2021-07-07T13:00:00-04:00", "nomination", "On the Nomination", "Confirmation: Jo Roe",
     {"nom_title": "Jo Roe, of Maine, to be an Ambassador to Chad"}),
    ("s3", "2021-07-07T14:00:00-04:00", "amendment", "On the Amendment", "Ames Amdt. No. 12",
     {"bill": "s4", "bill_title": "No short title on file",
      "amend_purpose": "To prohibit funds for the taxation of small wind turbines."}),
    ("s4", "2021-07-08T13:00:00-04:00", "passage", "On the Joint Resolution", "S.J. Res. 9",
     {"bill": "sjres9", "bill_title": "A joint resolution providing for congressional disapproval "
      "of the rule submitted by the Secretary of Labor relating to \"Overtime\""}),
    ("s5", "2021-07-08T14:00:00-04:00", "passage", "On the Joint Resolution", "S.J. Res. 10",
     {"bill": "sjres10", "bill_title": "A joint resolution providing for congressional disapproval "
      "of the proposed export of certain defense articles"}),
    ("s6", "2021-07-08T15:00:00-04:00", "procedural", "On the Motion to Proceed",
     "On the Motion to Proceed PN6", {}),
]  # fmt: skip
VOTES = {
    "h1": {ADA: "No", BEN: "Aye", CAL: "No", DOT: "Not Voting"},
    "h2": {ADA: "Nay", BEN: "Yea", CAL: "Nay", DOT: "Yea"},
    "h3": {ADA: "Yea", BEN: "Nay", CAL: "Yea", DOT: "Present"},
    "h4": {ADA: "No", BEN: "Aye", CAL: "No", DOT: "Aye"},
    "h5": {ADA: "Yea", BEN: "Nay", CAL: "Yea", DOT: "Nay"},
    "h6": {BEN: "Bright", CAL: "Cole", DOT: "Present"},
    "h7": {BEN: "Present", CAL: "Present", DOT: "Not Voting"},
    "h8": {BEN: "Yea", CAL: "Yea", DOT: "Yea", "L000099": "Yea"},
    "s1": {"S901": "Nay", "S902": "Yea"},
    "s2": {"S901": "Nay", "S902": "Yea"},
    "s3": {"S901": "Yea", "S902": "Nay"},
    "s4": {"S901": "Yea", "S902": "Nay"},
    "s5": {"S901": "Nay", "S902": "Nay"},
    "s6": {"S901": "Nay", "S902": "Yea"},
}


def write_source(folder: Path) -> Path:
    folder.mkdir()
    names = "bioguide_id lis_id first_name last_name birthday gender type state district party"
    members = pd.DataFrame(MEMBERS, columns=names.split())
    members["full_name"] = members.first_name + " " + members.last_name
    members.to_csv(folder / "members.csv.gz", index=False)
    optional = ("bill", "bill_title", "amend_purpose", "amend_author", "nom_title")
    rolls = [
        {
            "vote_id": vote,
            "chamber": vote[0],
            "congress": 116 if when < "2021" else 117,
            "date": when,
            "category": category,
            "type": kind,
            "question": ": ".join(filter(None, (kind, subject))),
            "subject": subject,
            "result": OUTCOME,
            **{name: more.get(name) for name in optional},
        }
        for vote, when, category, kind, subject, more in ROLLS
    ]
    pd.DataFrame(rolls).to_parquet(folder / "items_rollcalls.parquet")
    seats = {v: SENATE if v[0] == "s" else IN_2020 if v < "h6" else IN_2021 for v in VOTES}
    votes = [
        (vote, member, answer, *seats[vote][member])
        for vote, answers in VOTES.items()
        for member, answer in answers.items()
    ]
    columns = ["vote_id", "member_id", "vote", "party", "state"]
    pd.DataFrame(votes, columns=columns).to_parquet(folder / "member_votes.parquet")
    return folder


@pytest.fixture(scope="module")
def legislature() -> DomainFolder:
    return load_domain("legislature")


@pytest.fixture(scope="module")
def cut(legislature: DomainFolder, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("legislature")
    return import_source(legislature.domain, write_source(folder / "raw"), folder / "snapshot")


@pytest.fixture(scope="module")
def prompts(legislature: DomainFolder, cut: Snapshot) -> dict[str, str]:
    """The prompt of every vote, by interaction."""
    spec = legislature.domain
    verbalizer = Verbalizer(spec)
    layout = StreamLayout(
        domain=spec,
        verbalizer=verbalizer,
        markup=Tagged(),
        book=build_questions(spec, load_suite(legislature)),
        length=lambda s: len(s.text.split()),
    )
    voice = Voice(
        layout=layout,
        items=item_book(cut.read("items"), verbalizer),
        versions=profile_versions(cut.read("members"), verbalizer),
    )
    timelines = build_timelines(
        log_from_table(cut.read("interactions")),
        history_surfaces=spec.history_surfaces,
        lag_micros=int(spec.history.lag.total_seconds() * 1e6),
    )
    assert_no_leak(timelines)
    trees: list[PromptTree] = list(
        TreeBuilder(domain=spec, voices={spec.style: voice}).requests(timelines)
    )
    return {leaf.row: tree.prompt(i) for tree in trees for i, leaf in enumerate(tree.leaves)}


def _lines(prompt: str) -> list[str]:
    """The history of a prompt: what stands between its profile and its question."""
    return prompt.split("\n")[2:-1]


def test_a_senator_who_was_a_representative_is_one_member(cut: Snapshot) -> None:
    log = cut.read("interactions").to_pandas()
    assert set(log.member_id) == {ADA, BEN, CAL, DOT, EVE}
    assert set(log[log.member_id == ADA].item_id) == {*VOTES} - {"h6", "h7", "h8"}
    assert not log.duplicated(["member_id", "item_id"]).any()
    assert log.interaction_id.is_unique


@pytest.mark.parametrize(
    ("vote", "member", "action"),
    [
        ("h1", BEN, "yea"),
        ("h1", CAL, "none"),
        ("h2", DOT, "yea"),
        ("h1", DOT, None),  # not voting
        ("h3", DOT, None),  # present
        ("h6", BEN, None),  # a name, for Speaker
        ("h6", DOT, None),
        ("h7", BEN, None),  # a call of the roll
    ],
)
def test_only_yea_and_nay_are_actions(
    cut: Snapshot, vote: str, member: str, action: str | None
) -> None:
    log = cut.read("interactions").to_pandas()
    found = log[(log.item_id == vote) & (log.member_id == member)].action.tolist()
    assert found == ([action] if action else [])


def test_profiles_change_with_party_chamber_and_power(cut: Snapshot) -> None:
    members = cut.read("members").to_pandas().sort_values("valid_from")
    told = {
        member: list(zip(one.chamber, one.party, one.side, strict=True))
        for member, one in members.groupby("member_id")
    }
    # Two of each party sat in the House of 2020 and one of each in the Senate of 2021: a tie is the
    # President's.
    assert told[ADA] == [
        ("representative", "Republican", "majority"),
        ("senator", "Republican", "minority"),
    ]
    assert told[DOT] == [
        ("representative", "Democrat", "minority"),
        ("representative", "Republican", "majority"),
    ]
    ada = members[members.member_id == ADA]
    assert ada.age.tolist() == ["40s", "50s"]
    assert ada.since.tolist() == ["2020", "2020"]
    assert members[members.member_id == DOT].age.isna().all()


@pytest.mark.parametrize(
    ("vote", "proposer", "motion"),
    [
        ("h1", "Democrat", "amendment"),
        ("h2", "Republican", "rule"),
        ("h4", "Democrat", "package"),
        ("h5", "Democrat", "recommit"),
        ("s1", "Democrat", "nominee"),
        ("s2", "Democrat", "nominee"),
        ("s3", "Republican", "amendment"),
        ("s4", "Republican", "disapproval"),  # of what a Democrat's government ruled
        ("s5", "Democrat", "resolution"),  # of an export, which either party's members bring
        ("s6", "Democrat", "nominee"),
    ],
)
def test_whose_proposal_it_is(cut: Snapshot, vote: str, proposer: str, motion: str) -> None:
    items = cut.read("items").to_pandas().set_index("item_id")
    assert (items.proposer[vote], items.motion[vote]) == (proposer, motion)


def test_a_house_amendment_has_no_title_of_a_later_roll_call(cut: Snapshot) -> None:
    items = cut.read("items").to_pandas().set_index("item_id")
    assert items.subject["h1"] == "amendment"
    assert items.subject["h4"] == "Clean Pumps Act"
    assert items.subject["s2"] == "Ambassador to Chad"
    assert items.created_at["h1"] == pd.Timestamp("2020-03-03 19:00", tz="UTC")
    assert items.created_at["h8"] == pd.Timestamp("2021-07-06 17:00", tz="UTC")
    assert {"h6", "h7"}.isdisjoint(items.index)


def test_the_result_is_told_nowhere(cut: Snapshot, prompts: dict[str, str]) -> None:
    assert len(prompts) == cut.read("interactions").num_rows
    tables = (cut.read(name).to_pandas().to_csv() for name in ("members", "items", "interactions"))
    assert not any(OUTCOME.lower() in text.lower() for text in (*tables, *prompts.values()))


def test_votes_of_a_day_are_no_evidence_for_one_another(prompts: dict[str, str]) -> None:
    for vote in ("h1", "h2", "h3"):  # h3 is past midnight, in the same sitting
        assert _lines(prompts[f"{vote}-{ADA}"]) == []
    assert _lines(prompts[f"h4-{ADA}"]) == [
        "<house amendment> other amendment Democrat<nay>",
        "<house passage> other rule Republican<nay>",
        "<house procedural> other adjourn Republican<yea>",
    ]


def test_held_out_surfaces_are_asked_but_stand_in_no_history(prompts: dict[str, str]) -> None:
    asked = "\n<house recommit> Clean Pumps Act other recommit Democrat"
    assert prompts[f"h5-{BEN}"].endswith(asked)
    assert all("recommit" not in " ".join(_lines(text)) for text in prompts.values())
    history = _lines(prompts[f"s2-{ADA}"])
    assert history[-2].startswith("<update> now OH senator aged 50s of the minority Republican")
    assert history[-1] == "<senate cloture> ambassador nominee Democrat<nay>"


def test_tiers(legislature: DomainFolder) -> None:
    suite = load_suite(legislature)
    assert {t.name for t in suite.tier("T2")} == {"senate_nomination_yea", "house_recommit_yea"}
    assert {t.surface for t in suite.tasks} == set(legislature.domain.surfaces)
    assert all(t.positive == ("yea",) and t.negative == ("none",) for t in suite.tasks)


@pytest.mark.shared_data
def test_the_real_records_import(legislature: DomainFolder, tmp_path: Path) -> None:
    if not (SHARED / "data" / "legislature").is_dir():
        pytest.skip("data folder ../shared/data/legislature is absent")
    cut = import_source(legislature.domain, SHARED / "data" / "legislature", tmp_path / "s")
    log = cut.read("interactions").to_pandas()
    assert len(log) > 1_500_000
    assert log.member_id.str.fullmatch(r"[A-Z]\d{6}").all()
    assert not log.duplicated(["member_id", "item_id"]).any()
    late = log[log.shown_at >= "2024-07-28"]
    assert (late.action == "yea").mean() == pytest.approx(0.67, abs=0.01)
    items = cut.read("items").to_pandas()
    amended = items[items.item_id.str.startswith("h") & items.motion.isin(["amendment", "package"])]
    assert (amended.subject != "amendment").mean() > 0.6
