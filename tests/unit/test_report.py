"""The page of a round shows its record, and escapes markup."""

import re

from trainer.evaluation.style_stats import style_stats
from trainer.records.report import page

RECORD = {
    "round": 7,
    "outcome": "published",
    "reason": None,
    "votes": 120,
    "optimization": {
        "steps": [
            {"reward": 0.1, "kl": 0.0, "mean_length": 20.0, "eos_rate": 1.0},
            {"reward": 0.4, "kl": 0.02, "mean_length": 22.5, "eos_rate": 0.98},
            {"reward": 0.6, "kl": 0.03, "mean_length": 21.0, "eos_rate": 1.0},
        ],
        "stopped": None,
    },
    "gate": {
        "outcome": "unknown",
        "passed": False,
        "reasons": [],
        "figures": {"trained_gain": 0.4, "held_out_gain": None},
    },
    "style": {"live": {"words": 20.0}, "candidate": {"words": 12.5}},
    "samples": [{"prompt": "Who?", "before": "Me & <b>you</b>", "after": "Us."}],
    "weightiest": [{"vote": "ev_1", "rater": "u_1", "kind": "thumb", "weight": 0.2}],
    "raters": [{"rater": "u_1", "votes": 3, "weight": 0.3, "reliability": 0.9, "leniency": -0.1}],
    "rests_on": [{"rater": "u_7"}],
    "clusters": [{"raters": 5, "votes": 61, "agreement": 14.5, "chance": 9.4}],
    "versions": {"torch": "2.13.0"},
}


def test_the_page_shows_everything_of_the_record() -> None:
    found = page(RECORD)
    shown = ("Round 7", "published", "trained gain", "12.5", "Us.", "ev_1", "u_1", "u_7", "14.5", "2.13.0")
    for text in shown:
        assert text in found
    assert "held out gain" not in found  # it is None
    assert "Figures and their limits" not in found  # an earlier release recorded none


def test_each_hyperparameter_stands_beside_its_reason() -> None:
    derived = {
        "max_tokens": {"value": 16384, "reason": "of a hundred replies, <one>"},
        "learning_rate": {"value": 0.000421374, "reason": "found by the trust region in the last round"},
    }
    text = re.sub(r"</t.>", " ", page({**RECORD, "hyperparameters": derived}))
    found = re.sub(r"<[^>]+>", "", text)
    assert "max tokens 16384 of a hundred replies, &lt;one&gt;" in found
    assert "learning rate 0.0004214 found by the trust region" in found


def test_each_figure_of_the_gate_stands_beside_its_limit() -> None:
    checks = {
        "kl": {"found": 12.5, "limit": 11.25, "error": 0.75, "state": "unknown"},
        "approval_width": {"found": 0.2, "limit": 0.5, "error": None, "state": "good"},
    }
    found = page({**RECORD, "gate": {**RECORD["gate"], "checks": checks}})  # type: ignore[dict-item]
    cells = [re.findall("<td>([^<]*)</td>", row) for row in re.findall("<tr>.*?</tr>", found)]
    assert ["kl", "12.5", "0.75", "11.25", "unknown"] in cells
    assert ["approval width", "0.2", "", "0.5", "good"] in cells


def test_the_curves_of_a_record_need_nothing_else() -> None:
    found = page(RECORD)
    assert len(re.findall("<svg", found)) == 4
    assert not re.search(r"(src|href)=", found)  # it needs nothing else


def test_constraints_stand_in_words_with_the_replies_that_broke_them() -> None:
    broken = {"state": "blocked", "candidate": 0.3, "error": 0.06, "base": 0.01, "live": 0.02, "limit": 0.06}
    unjudged = {"state": "unjudged", "notice": "the base knows 3 questions"}
    figures = {"constraints": {"begging": broken, "sycophancy": unjudged}}
    found = page({**RECORD, "gate": {"figures": figures}, "blocked": {"begging": ["Rate <me>!"]}})
    for text in ("Begging for votes", "0.06", "blocked", "the base knows 3 questions", "Rate &lt;me&gt;!"):
        assert text in found
    assert "&#x27;state" not in found  # no dictionary is printed


def test_a_record_of_the_release_before_is_shown() -> None:
    old = {**RECORD, "improvement": RECORD["optimization"], "hindsight": {"regrets": True}}
    del old["optimization"]
    found = page(old)
    assert len(re.findall("<svg", found)) == 4
    assert "regrets" in found


def test_replies_are_escaped() -> None:
    assert "Me &amp; &lt;b&gt;you&lt;/b&gt;" in page(RECORD)
    assert "<script>" not in page({**RECORD, "reason": "<script>alert(1)</script>"})


def test_a_failed_round_shows_its_traceback() -> None:
    found = page({"round": 8, "outcome": "failed", "reason": "ValueError: no", "traceback": "line 1\nline 2"})
    assert '<span class="failed">failed</span>' in found
    assert "<pre>line 1\nline 2</pre>" in found


def test_a_curve_goes_up_where_the_figure_does() -> None:
    heights = [
        [float(point.split(",")[1]) for point in points.split()]
        for points in re.findall(r'points="([^"]+)"', page(RECORD))
    ]
    reward, kl, length, ended = heights
    assert reward[0] > reward[1] > reward[2]  # down is more, in a picture
    assert kl[0] > kl[2]
    assert length[1] < length[2] < length[0]
    assert ended[0] == ended[2] < ended[1]


def test_style_statistics_are_shares_of_replies() -> None:
    found = style_stats(["Why not? I do!", "- one\n- two", "Plain words here.", "1. first 🙂"])
    assert found["ask a question"] == 0.25
    assert found["exclaim"] == 0.25
    assert found["have a list"] == 0.5
    assert found["have an emoji"] == 0.25
    assert found["say I"] == 0.25
    assert found["words"] == 3.5
    assert style_stats([])["words"] == 0
