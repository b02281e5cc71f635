"""Captions: read from files in any usual encoding, and varied the way training asks for.

The order is kohya's: choose a line and the alternatives of wildcards, shuffle and drop tags behind the kept ones, then
put the trigger word, prefix and suffix around what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_lab import jsonio
from adapter_lab.errors import FileFormatError
from adapter_lab.training.dataset.encodings import decode
from adapter_lab.training.dataset.randomness import Draws
from adapter_lab.training.dataset.stated import FIELDS, caption_in

LARGEST_CAPTION_FILE = 1 << 20  # bytes; a longer "caption" is another kind of file
NO_CAPTION_IN_JSON = f"no caption in it, which needs one of the fields {', '.join(FIELDS)}"
_OPEN, _CLOSE = "\x00", "\x01"  # braces that are letters; captions hold no control characters


@dataclass(frozen=True, slots=True)
class CaptionFile:
    """What a caption file holds: its lines that are not blank, and a remark when it was not plain UTF-8."""

    lines: tuple[str, ...]
    remark: str = ""


def read_caption(path: Path) -> CaptionFile:
    """Read a caption in any encoding that is certain, with any line ends; of a `.json` file what it states as one.

    Raises FileFormatError when the file cannot be read or is not text.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_CAPTION_FILE:
            raise FileFormatError(f"{path} is {size:,} bytes long, which no caption is; replace it by a text file.")
        content = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    try:
        text, remark = decode(content)
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path} starts as {error.encoding.upper()} text but is broken; save it as UTF-8."
        ) from error
    unknown = content.decode("latin-1") if remark and not text else text
    if any(ord(letter) < 32 and letter not in "\t\n\r\f\v" for letter in unknown):
        raise FileFormatError(f"{path} is not a text file; write the caption with a text editor.")
    if path.suffix.lower() == ".json" and text.strip():
        try:
            stated = caption_in(jsonio.parsed(text))
        except ValueError:
            stated = None
        if stated is None:
            return CaptionFile((), NO_CAPTION_IN_JSON)
        text = stated
    lines = (re.sub(r"[\ufeff\u200b]", "", line).strip() for line in text.splitlines())
    return CaptionFile(tuple(line for line in lines if line), remark)


@dataclass(frozen=True)
class CaptionRules:
    """How the captions of one source are varied; see the settings of the same names."""

    trigger: str = ""
    prefix: str = ""
    suffix: str = ""
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    shuffle_tags: bool = False
    tag_dropout: float = 0.0
    caption_dropout: float = 0.0
    wildcards: bool = False

    def plain(self, lines: Sequence[str]) -> str:
        """The caption without any chance: first line, first alternatives, every tag in its place."""
        return self._compose(lines, first, lambda tags: list(tags))

    def varied(self, lines: Sequence[str], draws: Draws) -> str:
        """The caption as one use of the image sees it."""
        if draws.chance(self.caption_dropout):
            return ""
        return self._compose(lines, draws.choice, lambda tags: self._shuffle_and_drop(tags, draws))

    def varies(self, lines: Sequence[str]) -> bool:
        """Whether uses of the image can differ in more than being left out as a whole."""
        if self.wildcards and (len(lines) > 1 or any(expand_wildcards(line, first) != line for line in lines)):
            return True
        loose = 0

        def count(tags: list[str]) -> list[str]:
            nonlocal loose
            loose = len(tags)
            return tags

        self._compose(lines, first, count)
        return (self.tag_dropout > 0 and loose > 0) or (self.shuffle_tags and loose > 1)

    def _shuffle_and_drop(self, tags: list[str], draws: Draws) -> list[str]:
        if self.shuffle_tags:
            tags = draws.shuffled(tags)
        if self.tag_dropout > 0:
            tags = [tag for tag in tags if not draws.chance(self.tag_dropout)]
        return tags

    def _compose(
        self,
        lines: Sequence[str],
        choose: Callable[[Sequence[str]], str],
        arrange: Callable[[list[str]], list[str]],
    ) -> str:
        line = (choose(lines) if self.wildcards else lines[0]) if lines else ""
        if self.wildcards:
            line = expand_wildcards(line, choose)
        body = self._arranged(line, arrange)
        if self.trigger and not starts_with_words(body, self.trigger):
            body = ", ".join(part for part in (self.trigger, body) if part)
        return _join(_join(self.prefix, body), self.suffix)

    def _arranged(self, line: str, arrange: Callable[[list[str]], list[str]]) -> str:
        """`line` with its loose tags arranged; a line that arranging leaves alone keeps its own punctuation."""
        separator = self.keep_tokens_separator
        if separator and separator in line:
            front, loose, *back = (split_tags(piece) for piece in line.split(separator, 2))
            return ", ".join(front + arrange(loose) + [tag for tags in back for tag in tags])
        tags = split_tags(line)
        kept = self.keep_tokens
        if self.trigger and starts_with_words(line, self.trigger):
            kept = max(kept, len(split_tags(self.trigger)))
        arranged = arrange(tags[kept:])
        return line.strip() if arranged == tags[kept:] else ", ".join(tags[:kept] + arranged)


def first(values: Sequence[str]) -> str:
    """The choice made where nothing is left to chance."""
    return values[0]


def split_tags(text: str) -> list[str]:
    """The comma-separated tags of a caption, without the empty ones."""
    return [tag for tag in (piece.strip() for piece in text.split(",")) if tag]


def starts_with_words(text: str, words: str) -> bool:
    """Whether `text` starts with `words`, in any case, and the last word ends there."""
    text, words = text.strip().casefold(), words.strip().casefold()
    return text.startswith(words) and not (text[len(words) :][:1].isalnum() or text[len(words) :][:1] in ("_", "-"))


def unbalanced_braces(text: str) -> bool:
    """Whether a `{` or `}` of `text` has no partner, `{{` and `}}` being letters."""
    return _without_escapes(text) is None


def expand_wildcards(text: str, choose: Callable[[Sequence[str]], str]) -> str:
    """`text` with each `{a|b}` replaced by one alternative, also nested; `{{` and `}}` stand for braces.

    Text with a brace that has no partner is left as it is.
    """
    rest = _without_escapes(text)
    if rest is None:
        return text
    while (match := re.search(r"\{([^{}]*)\}", rest)) is not None:
        rest = rest[: match.start()] + choose(match[1].split("|")).strip() + rest[match.end() :]
    return rest.replace(_OPEN, "{").replace(_CLOSE, "}")


def _without_escapes(text: str) -> str | None:
    """`text` with other letters for `{{` and `}}`; None when a brace has no partner.

    `}}` inside two open braces ends both.
    """
    depth, result = 0, []
    for token in re.findall(r"\{\{|\}\}|.", text, re.DOTALL):
        if token == "}}" and depth >= 2:
            depth -= 2
        elif token in ("{{", "}}"):
            token = _OPEN if token == "{{" else _CLOSE
        else:
            depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return None
        result.append(token)
    return None if depth else "".join(result)


def _join(left: str, right: str) -> str:
    left, right = left.strip(), right.strip()
    if left and right and not right.startswith(","):
        return f"{left} {right}"
    return left + right
