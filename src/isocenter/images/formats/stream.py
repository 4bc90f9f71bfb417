"""Bytes out of files, never more than the file can honestly hold."""

from __future__ import annotations

import bz2
import os
import zlib
from pathlib import Path

import psutil

from isocenter.errors import UnreadableFile

# What DEFLATE can make of one byte at the very best (zlib's technical notes: 1032 : 1).
DEFLATE_BEST = 1032
# Below this many bytes nobody asks how much memory is free.
SMALL = 256 << 20
# The zero bytes that some programs leave behind the last voxel.
PADDING = 4096


def read_bytes(path: Path, count: int = -1) -> bytes:
    """The first `count` bytes of a file, or all of it.

    Raises:
        UnreadableFile: The file is absent, empty, a folder, or closed to us.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(count)
    except FileNotFoundError as error:
        raise UnreadableFile("there is no such file.", where=path, cure="Check the path.") from error
    except OSError as error:
        raise UnreadableFile(
            f"the file cannot be opened ({error.strerror}).", where=path, cure="Check its permissions."
        ) from error
    if not content:
        raise UnreadableFile("the file is empty.", where=path, cure="Copy or export it again.")
    return content


def check_memory(size: int, where: object) -> None:
    """Refuse to allocate what the machine does not have.

    Raises:
        UnreadableFile: `size` bytes are more than the memory that is free.
    """
    if size <= SMALL:
        return
    free = psutil.virtual_memory().available
    if size > free:
        raise UnreadableFile(
            f"its header asks for {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB of memory are free.",
            where=where,
            cure="If the header is right, crop the image or use a machine with more memory.",
        )


def check_size(claimed: int, present: int, where: object, ratio: int = 1) -> None:
    """Compare what a header claims with what the file can hold, before anything is allocated.

    Args:
        claimed: Bytes that the header implies.
        present: Bytes that are there.
        where: The file, for the message.
        ratio: How many bytes each of those present can at best stand for, when they are compressed.

    Raises:
        UnreadableFile: The file is too short for its header.
    """
    if claimed > present * ratio:
        raise cut_short(where, f"its header claims {claimed:,} bytes, and there are {present:,}")
    check_memory(claimed, where)


def cut_short(where: object, evidence: str) -> UnreadableFile:
    """The fault of a file that ends too early."""
    return UnreadableFile(
        f"the file is cut short or its header is wrong: {evidence}.",
        where=where,
        cure="Copy or export it again.",
    )


def inflate_head(content: bytes, count: int, where: object) -> bytes:
    """The first `count` bytes of a gzip stream."""
    try:
        return zlib.decompressobj(wbits=31).decompress(content, count)
    except zlib.error as error:
        raise _damaged(where) from error


def inflate(content: bytes, size: int, where: object, wbits: int = 31) -> bytes:
    """A whole gzip or zlib stream of known size, its checksums verified.

    Args:
        content: The compressed bytes, of one or several gzip members.
        size: The bytes that the header implies; the stream is never read much beyond.
        where: The file, for the message.
        wbits: 31 for gzip, 15 for zlib, 47 for either.

    Raises:
        UnreadableFile: The stream is damaged, ends early or late, or is followed by something else.
    """
    check_size(size, len(content), where, DEFLATE_BEST)
    parts: list[bytes] = []
    left, limit = content, size + PADDING + 1
    while left and limit > 0:
        member = zlib.decompressobj(wbits=wbits)
        try:
            part = member.decompress(left, limit)
        except zlib.error as error:
            raise _damaged(where) from error
        parts.append(part)
        limit -= len(part)
        if not member.eof:
            if limit > 0:
                raise cut_short(where, "the compressed stream stops before its end")
            break
        left = member.unused_data.lstrip(b"\0")
    return checked_length(parts[0] if len(parts) == 1 else b"".join(parts), size, where)


def inflate_bzip2(content: bytes, size: int, where: object) -> bytes:
    """A whole bzip2 stream of known size; see `inflate`."""
    check_memory(size, where)
    decoder = bz2.BZ2Decompressor()
    try:
        plain = decoder.decompress(content, size + PADDING + 1)
    except OSError as error:
        raise _damaged(where) from error
    if not decoder.eof and len(plain) <= size + PADDING:
        raise cut_short(where, "the compressed stream stops before its end")
    return checked_length(plain, size, where)


def checked_length(content: bytes, size: int, where: object) -> bytes:
    """The content, when it holds `size` bytes and nothing but a few zeros behind them.

    Raises:
        UnreadableFile: There are fewer bytes, or more.
    """
    if len(content) < size:
        raise cut_short(where, f"its header claims {size:,} bytes, and there are {len(content):,}")
    if len(content) > size and (len(content) > size + PADDING or any(content[size:])):
        raise UnreadableFile(
            f"it holds more data than its header says ({size:,} bytes).",
            where=where,
            cure="The header is wrong, or the file is a decompression bomb; export it again.",
        )
    return content


def beside(header: Path, name: str) -> Path:
    """The data file that a header names, when it lies in the header's own folder.

    Raises:
        UnreadableFile: The name leads elsewhere: another folder, an absolute path, a link that leaves.
    """
    folder = Path(os.path.realpath(header.parent))
    plain = not any(mark in name for mark in "/\\:\0") and name not in ("", ".", "..")
    target = Path(os.path.realpath(folder / name)) if plain else folder
    if not plain or target.parent != folder:
        raise UnreadableFile(
            "its header points to data outside its own folder, which is not followed.",
            where=header,
            cure="Put the data file beside the header and name it without a path.",
        )
    return header.parent / name


def _damaged(where: object) -> UnreadableFile:
    return UnreadableFile(
        "the compressed data are damaged (the checksum or the stream is wrong).",
        where=where,
        cure="Copy or download it again.",
    )
