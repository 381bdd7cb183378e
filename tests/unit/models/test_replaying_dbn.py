"""Replays of DBN files: what can be asked for, and the stream that they fill."""

import pytest

from models.replaying import BadReplayError, ReplayInput
from models.settings import Settings
from models.subjects import Streams
from streaming.broker.jetstream import derivatives_config


def test_files_are_replayed_whole() -> None:
    """What chooses from the lake cannot choose from files; at least one file is named."""
    ReplayInput(dbn=["a.dbn"], dbn_kind="options").check()
    with pytest.raises(BadReplayError, match="leave products out"):
        ReplayInput(dbn=["a.dbn"], products=["ESU4"]).check()
    with pytest.raises(BadReplayError, match="leave since out"):
        ReplayInput(dbn=["a.dbn"], since="2024-07-01").check()
    with pytest.raises(BadReplayError, match="names no file"):
        ReplayInput(dbn=[]).check()


def test_their_stream_is_bounded_like_the_live_ones() -> None:
    """Its subjects are nobody else's."""
    config = derivatives_config(Streams(), Settings(js_retention_minutes=7, js_max_bytes=2**30))
    assert config.name == "MD_DERIVATIVES"
    assert config.subjects == ["market.futures.>", "market.options.>"]
    assert (config.max_age, config.max_bytes) == (420.0, 2**30)
