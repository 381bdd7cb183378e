"""Payloads of the recovery workflow: what older and newer releases wrote can be read."""

from models.recovery import ResyncInput, ResyncReport


def test_input_by_hand_needs_three_fields() -> None:
    """What a person types is enough."""
    gap = ResyncInput.model_validate_json('{"venue":"coinbase","product":"BTC-USD","feed":"book"}')
    assert (gap.reason, gap.after, gap.before, gap.resync_id) == ("manual", None, None, "")


def test_unknown_fields_are_ignored() -> None:
    """A newer release may say more."""
    told = {"venue": "coinbase", "product": "BTC-USD", "feed": "trades", "colour": "green"}
    assert ResyncInput.model_validate(told).feed == "trades"


def test_report_of_an_older_release_is_read() -> None:
    """Whatever was added since has a default."""
    told = {
        "resync_id": "r",
        "venue": "coinbase",
        "product": "BTC-USD",
        "feed": "trades",
        "reason": "trade_id",
        "outcome": "closed",
        "sentence": "done",
    }
    assert ResyncReport.model_validate(told).fetched == 0
