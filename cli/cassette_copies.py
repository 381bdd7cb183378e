"""What `ledgerflux cassette` does and prints; `cli.cassette` has its options.

Apart from those because it needs Arrow and AWS's library, which no other command should pay for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console

from activities.cassette_export import Exported, export_cassette
from activities.cassette_import import Imported, import_cassette
from cli.temporal import EXIT_FAILED, known_settings, say
from storage.errors import ConflictError, StorageError
from storage.history import Past, PastError, text_of
from storage.lake import Lake
from storage.objects import ObjectStore
from streaming.core.hold import Hold
from streaming.core.normalizer import DEFAULT_HOLD, ProductNormalizer
from venues.simulator.cassette import CassetteError
from workers.venue import VENUES

_SHOWN_EVERY = 1000

_Done = TypeVar("_Done", Imported, Exported)


def import_file(file: Path, venue: str, *, as_json: bool) -> None:
    """Import a recording and say what is in it."""
    if venue not in VENUES:
        raise typer.BadParameter(
            f"no such venue: {venue!r}; choose from {', '.join(VENUES)}", param_hint="--venue"
        )
    settings = known_settings()
    hold = Hold(
        DEFAULT_HOLD.messages, settings.resync_max_queue_ms * 1000, settings.resync_stale_ms * 1000
    )

    def core(product: str) -> ProductNormalizer:
        return ProductNormalizer(
            venue, product, hold=hold, ticker_watermark="ticker" in settings.coinbase_channels
        )

    def work(lake: Lake, progress: Callable[[int], None]) -> Awaitable[Imported]:
        return import_cassette(lake, file, venue, VENUES[venue].decode, core, progress)

    done = _run("import", work)
    _show(
        done,
        f"{done.frames:,} frames of {_named(done.products)}, {text_of(done.since_us)} to "
        f"{text_of(done.until_us)}, are in the lake as epoch {done.epoch} of {venue}, with "
        f"{done.ticks:,} ticks; {done.gaps:,} gaps, {done.invalid:,} frames that could not be "
        "understood",
        as_json=as_json,
    )


def export_file(
    file: Path,
    venue: str,
    bounds: tuple[int, int],
    products: tuple[str, ...] | None,
    epoch: int | None,
    line: str | None,
    *,
    as_json: bool,
) -> None:
    """Export a range and say what is in it."""
    past = Past("raw", venue, *bounds, products, epoch)

    def work(lake: Lake, progress: Callable[[int], None]) -> Awaitable[Exported]:
        return export_cassette(lake, past, file, line=line, progress=progress)

    done = _run("export", work)
    left_out = f"; {done.left_out:,} notes of the log left out" if done.left_out else ""
    _show(
        done,
        f"{done.frames:,} frames of {_named(done.products)}, {text_of(done.since_us)} to "
        f"{text_of(done.until_us)}, are in {file}{left_out}",
        as_json=as_json,
    )


def _run(what: str, work: Callable[[Lake, Callable[[int], None]], Awaitable[_Done]]) -> _Done:
    """Do it with the lake of the settings; ends the command with a sentence where it cannot."""
    settings = known_settings()

    async def copy(progress: Callable[[int], None]) -> _Done:
        async with ObjectStore.connect(settings) as store:
            return await work(Lake(store), progress)

    console = Console(stderr=True)
    try:
        with console.status(what) as status:
            return asyncio.run(copy(lambda frames: _tell(status.update, what, frames)))
    except ConflictError as error:
        _fail(
            f"{error}: another recording that began in the same microsecond is in the lake, or "
            "this one as a normalizer with other settings understood it"
        )
    except (CassetteError, PastError) as error:
        _fail(str(error))
    except StorageError as error:
        _fail(
            f"{error}. The settings are S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY, S3_SECRET_KEY and "
            "S3_REGION; the lake of `ledgerflux up` is at S3_ENDPOINT=http://127.0.0.1:9000"
        )
    except OSError as error:
        _fail(str(error))


def _tell(update: Callable[[str], None], what: str, frames: int) -> None:
    if frames % _SHOWN_EVERY == 0:
        update(f"{what}: {frames:,} frames")


def _named(products: Mapping[str, int]) -> str:
    """Return the products, as far as they are some."""
    return ", ".join(sorted(products))


def _show(done: Imported | Exported, sentence: str, *, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(done) if as_json else sentence)


def _fail(sentence: str) -> NoReturn:
    say(f"ledgerflux cassette: {sentence}")
    raise typer.Exit(EXIT_FAILED)
