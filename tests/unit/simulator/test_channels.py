"""Reading subscribe messages."""

from venues.simulator.channels import AUTH_REASON, read_wish

LISTED = ("BTC-USD", "ETH-USD", "ETH-BTC")


def test_wish_root_products_apply_to_every_channel() -> None:
    """The documentation's own example: own products come on top of the root's."""
    message: dict[str, object] = {
        "product_ids": ["ETH-USD"],
        "channels": ["level2_batch", "heartbeat", {"name": "ticker", "product_ids": ["ETH-BTC"]}],
    }
    wish = read_wish(message, LISTED, authenticated=False)
    assert wish.reasons == []
    assert wish.keys == [
        ("level2_batch", "ETH-USD"),
        ("heartbeat", "ETH-USD"),
        ("ticker", "ETH-USD"),
        ("ticker", "ETH-BTC"),
    ]


def test_wish_alias_names_the_same_channel() -> None:
    """What an acknowledgement calls a channel may be used to subscribe."""
    message: dict[str, object] = {
        "product_ids": ["BTC-USD"],
        "channels": ["level2_50", "ticker_1000"],
    }
    wish = read_wish(message, LISTED, authenticated=False)
    assert wish.keys == [("level2_batch", "BTC-USD"), ("ticker_batch", "BTC-USD")]


def test_wish_bad_parts_become_reasons() -> None:
    """Unknown channels and products, and channels without a signature, are named once."""
    message: dict[str, object] = {
        "product_ids": ["NO-NO", "BTC-USD"],
        "channels": ["ticker", "full", "level2", "gossip", "matches"],
    }
    wish = read_wish(message, LISTED, authenticated=False)
    assert wish.keys == [("ticker", "BTC-USD"), ("matches", "BTC-USD")]
    assert wish.reasons == [
        AUTH_REASON,
        "gossip is not a valid channel",
        "NO-NO is not a valid product",
    ]


def test_wish_without_products_means_the_whole_channel() -> None:
    """Unsubscribing needs no products; `status` never has any."""
    wish = read_wish({"channels": ["ticker", "status"]}, LISTED, authenticated=False)
    assert wish.whole_channels == ["ticker"]
    assert wish.keys == [("status", "")]


def test_wish_of_no_known_shape_is_refused() -> None:
    """Channels must be a list with something in it."""
    shapes: tuple[object, ...] = (None, "ticker", [], {"name": "ticker"})
    for channels in shapes:
        wish = read_wish({"channels": channels}, LISTED, authenticated=False)
        assert wish.reasons == ["No channels provided"]
