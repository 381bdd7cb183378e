"""Databento's DBN files, plain or zstd: metadata and records, in bounded memory.

Owns the framing, so that whatever is wrong with a file is told by record and byte, and every
whole record before it is given. What the records mean is `storage.dbn`'s part.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pyarrow as pa
from databento_dbn import DBN_VERSION, DBNDecoder, DBNError, DBNRecord, Metadata

from storage.errors import StorageError

SCHEMAS = ("trades", "mbp-10", "definition")
"""Schemas that are read; a file may also have none, being a capture of several kinds of records."""

_MAGIC = b"DBN"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PRELUDE_BYTES = 8
_MAX_METADATA_BYTES = 64 * 1024**2
_HEADER_BYTES = 16
_WORD_BYTES = 4
_STEPS_BYTES = (256 * 1024, 64, 1)


class DbnError(StorageError):
    """A DBN file, or something in it, that cannot be replayed.

    Attributes: place, the file; record, its number from 1 (0: the file as a whole).
    """

    is_final = True

    def __init__(self, place: str, why: str, record: int = 0) -> None:
        super().__init__(place, f"record {record} {why}" if record else why)
        self.record = record


class DbnFile:
    """One file, read once from its beginning. Attributes: name, for people; metadata; number.

    `number`: of the record that was given last, from 1.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Open it and read its metadata.

        Raises:
            DbnError: it cannot be read, is no DBN file, or of a version or schema that is not
                known here.
        """
        self.name = name or str(path)
        self.number = 0
        self._offset = 0
        self._chunks = _chunks(path)
        self._buffer = b""
        self._version = 0
        self.metadata = self._read_metadata()

    def __iter__(self) -> Iterator[DBNRecord]:
        """Give the records in order.

        Raises:
            DbnError: the file ends within a record, a record is damaged, or there is none at all.
                Every whole record before that has been given.
        """
        while True:
            for record in self._buffered():
                self.number += 1
                yield record
            if self._buffer and _size_at(self._buffer, 0) < _HEADER_BYTES:
                raise self._next_is("is damaged: it has no length")
            if not self._more():
                break
        if self._buffer:
            raise self._next_is(f"is cut: the file ends after {len(self._buffer)} bytes of it")
        if not self.number:
            raise DbnError(self.name, "has metadata, but no record")

    def refusal(self, why: str) -> DbnError:
        """Return an error about the record that was given last."""
        return DbnError(self.name, why, self.number)

    def _next_is(self, what: str) -> DbnError:
        """Return an error about the record that should come next."""
        return DbnError(self.name, f"at byte {self._offset:,} {what}", self.number + 1)

    def _read_metadata(self) -> Metadata:
        prelude = self._take(_PRELUDE_BYTES)
        if not prelude:
            raise DbnError(self.name, "is empty")
        size = int.from_bytes(prelude[len(_MAGIC) + 1 :], "little")
        is_dbn = prelude.startswith(_MAGIC) and len(prelude) == _PRELUDE_BYTES
        if not is_dbn or size > _MAX_METADATA_BYTES:
            raise DbnError(self.name, "is no DBN file, neither plain nor zstd-compressed")
        self._check_version(prelude[len(_MAGIC) :][:1])
        try:
            metadata = Metadata.decode(prelude + self._take(size))
        except BaseException as error:
            if not isinstance(error, DBNError) and not _is_panic(error):
                raise
            raise DbnError(self.name, f"has metadata that cannot be read ({error})") from error
        if metadata.schema is not None and str(metadata.schema) not in SCHEMAS:
            raise DbnError(
                self.name, f"holds {metadata.schema}, but only {', '.join(SCHEMAS)} can be replayed"
            )
        return metadata

    def _check_version(self, byte: bytes) -> None:
        self._version = int.from_bytes(byte, "little")
        if not 1 <= self._version <= DBN_VERSION:
            raise DbnError(
                self.name,
                f"is of DBN version {self._version}, but only 1 to {DBN_VERSION} are known here; "
                "a newer databento-dbn may know it",
            )

    def _buffered(self) -> Iterator[DBNRecord]:
        """Give the records that have been read whole, and keep the rest."""
        ends = _ends(self._buffer)
        if not ends:
            return
        try:
            records = self._decode(self._buffer[: ends[-1]])
        except (DBNError, ValueError):
            for _ in ends:  # one is damaged: those before it count
                yield self._one()
            return
        self._take(ends[-1])
        yield from records

    def _one(self) -> DBNRecord:
        """Return the next record."""
        size = _size_at(self._buffer, 0)
        try:
            (record,) = self._decode(self._buffer[:size])
        except (DBNError, ValueError) as error:
            raise self._next_is(f"is damaged ({error})") from error
        self._take(size)
        return record

    def _decode(self, data: bytes) -> list[DBNRecord]:
        """Decode whole records.

        Raises:
            DBNError, ValueError: one is damaged.
        """
        decoder = DBNDecoder(
            has_metadata=False,
            ts_out=self.metadata.ts_out,
            input_version=self._version,
        )
        try:
            return cast("list[DBNRecord]", decoder.write_and_decode(data))
        except BaseException as error:
            if not _is_panic(error):
                raise
            raise ValueError(str(error)) from error

    def _take(self, size: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        while len(self._buffer) < size and self._more():
            pass
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        self._offset += len(taken)
        return taken

    def _more(self) -> bool:
        """Read on; tell whether there was anything."""
        try:
            chunk = next(self._chunks, b"")
        except OSError as error:
            why = error.strerror or str(error)
            if self._offset:
                raise self._next_is(
                    f"cannot be read: the file is cut or damaged ({why})"
                ) from error
            raise DbnError(self.name, f"cannot be read ({why})") from error
        self._buffer += chunk
        return bool(chunk)


def _is_panic(error: BaseException) -> bool:
    """Tell whether the library gave up on what it read: no `Exception`, and of no public type."""
    return type(error).__name__ == "PanicException"


def _size_at(data: bytes, at: int) -> int:
    """Return how long the record says that it is."""
    return data[at] * _WORD_BYTES


def _ends(data: bytes) -> list[int]:
    """Return where the records end that are there whole."""
    ends: list[int] = []
    at = 0
    while at < len(data):
        size = _size_at(data, at)
        at += size
        if size < _HEADER_BYTES or at > len(data):
            break
        ends.append(at)
    return ends


def _chunks(path: Path) -> Iterator[bytes]:
    """Give the content, decompressed; of one that is cut, everything up to there.

    Raises:
        OSError: it cannot be read, or not further.
    """
    with path.open("rb") as file:
        compression = "zstd" if file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC else None
    done = 0
    failure: OSError | None = None
    # A read that reaches a cut gives nothing at all: go up to it in ever smaller steps.
    for step in _STEPS_BYTES:
        try:
            with pa.input_stream(str(path), compression=compression) as stream:
                for _ in range(done // _STEPS_BYTES[0]):
                    stream.read(_STEPS_BYTES[0])
                stream.read(done % _STEPS_BYTES[0])
                while chunk := stream.read(step):
                    done += len(chunk)
                    yield chunk
        except OSError as error:
            failure = error
        else:
            return
    if failure is not None:
        raise failure
