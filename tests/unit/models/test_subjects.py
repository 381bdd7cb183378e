"""Subjects and stream names of the live data and of replays."""

import pytest

from models.settings import SettingsError, load_settings
from models.subjects import NamespaceError, Streams, product_of, raw_subject, ticks_subject


def test_a_replay_has_streams_and_subjects_of_its_own() -> None:
    """Nothing of a replay can meet the live data."""
    live, replay = Streams(), Streams.of_replay("replay-monday")

    assert (replay.raw, replay.ticks) == ("replay-monday_RAW", "replay-monday_TICKS")
    assert replay.every("raw") == "replay-monday.raw.*.*.*"
    assert live.tree("raw") == "market.raw.>"
    subject = raw_subject(3, "coinbase", "BTC-USD", replay.root)
    assert subject == "replay-monday.raw.3.coinbase.BTC-USD"
    assert product_of(subject) == ("coinbase", "BTC-USD")
    assert ticks_subject(3, "coinbase", "BTC-USD") == "market.ticks.3.coinbase.BTC-USD"


@pytest.mark.parametrize(
    "name", ["market", "MD", "replay-", "replay-A", "replay-a.b", "replay-*", "replay--a", ""]
)
def test_a_name_that_no_replay_can_have_is_refused(name: str) -> None:
    """The error names it and says what would do."""
    with pytest.raises(NamespaceError, match="such as replay-monday") as refused:
        Streams.of_replay(name)

    assert refused.value.name == name


def test_a_process_serves_the_replay_that_its_settings_name() -> None:
    """One setting moves it over whole."""
    assert load_settings(replay_namespace="replay-a").streams == Streams("replay-a", "replay-a")
    assert load_settings().streams == Streams()
    with pytest.raises(SettingsError, match="REPLAY_NAMESPACE='MD'"):
        load_settings(replay_namespace="MD")
