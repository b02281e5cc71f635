"""The encoding of a caption file: UTF-8 or what its byte-order mark says, else what its bytes leave no doubt about."""

from __future__ import annotations

import codecs
import contextlib
import re
import unicodedata

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# The hundred and more most frequent characters of Chinese, and what captions of images speak of. Text of other
# languages decoded as Chinese is spread over thousands of characters and hits few of these.
_FREQUENT = frozenset(
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学么之都好看"
    "起发当没成只如事把还用第样道想作种开美总从无情己面最女但现前些所同日手又行意动方期它头经长儿回位分爱老因很给名法间斯知世什"
    "两次使身者被高已亲其进此话常与活正感眼睛红蓝黑白绿黄金紫粉灰色裙裤衣服帽鞋站坐躺笑短卷直脸嘴背景图花草树海山夜光影水室内外"
)
_LEAST_FREQUENT = 0.3


def decode(content: bytes) -> tuple[str, str]:
    """The text and a remark where it was not plain Unicode; the text is "" where no encoding is certain.

    Raises UnicodeDecodeError for text that its mark says is Unicode and that is broken.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding), ""
    if (unmarked := _utf16_without_mark(content)) is not None:
        return content.decode(unmarked), "UTF-16 without a byte-order mark"
    with contextlib.suppress(UnicodeDecodeError):
        return content.decode("utf-8"), ""
    for encoding, name, is_it in (("cp932", "Shift-JIS", _is_japanese), ("gbk", "GBK", _is_chinese)):
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if is_it(text):
                return text, f"not UTF-8, read as {name}"
    if _is_latin(content):
        with contextlib.suppress(UnicodeDecodeError):  # a superset of Latin-1's letters, but for five undefined bytes
            return content.decode("cp1252"), "not UTF-8, read as Latin-1"
        return content.decode("latin-1"), "not UTF-8, read as Latin-1"
    return "", "neither UTF-8 nor another encoding for certain, so taken as no caption"


def _utf16_without_mark(content: bytes) -> str | None:
    """UTF-16 of text with spaces or commas has zeros in bytes of one parity, which no 8-bit text has anywhere."""
    if len(content) < 2 or len(content) % 2 or 0 not in content:
        return None
    for encoding, zeros, letters in (
        ("utf-16-le", content[1::2], content[::2]),
        ("utf-16-be", content[::2], content[1::2]),
    ):
        if zeros.count(0) > 2 * letters.count(0):  # some characters end in a zero, few of them
            with contextlib.suppress(UnicodeDecodeError):
                text = content.decode(encoding)
                if all(unicodedata.category(letter) not in ("Cn", "Co", "Cc") or letter.isspace() for letter in text):
                    return encoding
    return None


def _is_japanese(text: str) -> bool:
    """Whether a fifth of what is not ASCII is kana, which no other encoding's bytes give in Shift-JIS."""
    foreign = [letter for letter in text if ord(letter) > 127]
    kana = [letter for letter in foreign if "\u3041" <= letter <= "\u30ff"]
    return len(kana) >= 2 and 5 * len(kana) >= len(foreign)


def _is_chinese(text: str) -> bool:
    foreign = [letter for letter in text if ord(letter) > 127]
    characters = [letter for letter in foreign if "\u4e00" <= letter <= "\u9fff"]
    frequent = sum(letter in _FREQUENT for letter in characters)
    return len(characters) >= 2 and 2 * len(characters) > len(foreign) and frequent >= _LEAST_FREQUENT * len(characters)


def _is_latin(content: bytes) -> bool:
    """Whether every word with letters beyond ASCII has as many ASCII letters, as words with accents have."""
    words = [word for word in re.split(rb"[\s,.;:!?()\"/_-]+", content) if any(byte > 127 for byte in word)]
    # One byte alone is punctuation of Windows, or a sign such as the degree.
    return all(2 * sum(byte > 127 for byte in word) <= len(word) or len(word) == 1 for word in words)
