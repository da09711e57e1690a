"""The bytes that one token stands for, which may be a part of a character.

Vocabularies write bytes in one of two ways: byte-level ones have a printable character for each
byte (GPT-2's table), those of SentencePiece write a space as U+2581 and single bytes as `<0xAB>`.
"""

import re
from functools import cache

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_bytes(piece: str, *, is_byte_level: bool) -> bytes:
    r"""The bytes of a vocabulary entry.

    >>> token_bytes("Ġhay", is_byte_level=True), token_bytes("▁hay", is_byte_level=False)
    (b' hay', b' hay')
    >>> token_bytes("<0xE2>", is_byte_level=False)
    b'\xe2'
    """
    if is_byte_level:
        table = _table()
        if all(character in table for character in piece):
            return bytes(table[character] for character in piece)
        return piece.encode()
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


@cache
def _table() -> dict[str, int]:
    """GPT-2's: printable bytes stand for themselves, others for characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
