"""Requirements on text: the same, nearly the same, a number, a letter, a part, a pattern."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import unicodedata

from planner.quality.examples import Scorer

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d)\.?)(?:[eE][-+]?\d+)?|[-+]?\d+")
_LETTER_ALONE = re.compile(r"^\W*([A-Za-z])\W*$")
_LETTER_NAMED = re.compile(r"\b(?:answer|choice|option)\b\W*(?:is|:)?\W*([A-Z])\b(?!')", re.IGNORECASE)
_LETTER_FIRST = re.compile(r"^\W*([A-Z])[).:]")
_SIMPLE = 200  # characters of a pattern without repetition of groups, which cannot take long
_REPEATED_GROUP = re.compile(r"[)\]*+}][*+{]|\)\?|[*+].*[*+]|\{")
_SEARCH = "import re, sys; sys.exit(0 if re.search(sys.argv[1], sys.stdin.read()) else 3)"


def normalised(text: str) -> str:
    """Compatibility form, folded case, single spaces, without quotes around it or a mark at its end."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip("\"'`*").rstrip(".!").strip()


def number(text: str) -> float | None:
    """The last number in a text, its thousands separated by commas or not."""
    found = [match[0] for match in _NUMBER.finditer(text) if any(c.isdigit() for c in match[0])]
    value = float(found[-1].replace(",", "")) if found else math.nan
    return value if math.isfinite(value) else None


def within(output: str, reference: str, scorer: Scorer) -> bool:
    """Whether the answer's last number is the reference's, within the scorer's tolerances."""
    said, wanted = number(output), number(reference)
    if said is None or wanted is None:
        return False
    return math.isclose(said, wanted, rel_tol=scorer.relative_tolerance, abs_tol=scorer.tolerance)


def choice(text: str) -> str | None:
    """The letter that a text chooses: alone, before a bracket at its beginning, or where it says "answer"."""
    text = text.strip()
    named = _LETTER_NAMED.findall(text)
    match = _LETTER_ALONE.match(text) or _LETTER_FIRST.match(text)
    return match[1].upper() if match else named[-1].upper() if named else None


def contains(output: str, part: str) -> bool:
    """Whether a part occurs, whatever its case and spacing."""
    return " ".join(part.casefold().split()) in " ".join(output.casefold().split())


def pattern_fault(pattern: object) -> str | None:
    """Why something is not a regular expression; None when it is one."""
    if not isinstance(pattern, str) or not pattern:
        return "needs its text, or a reference, that is a pattern"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"has a pattern that is not one ({error})"
    return None


def pattern_found(pattern: str, output: str, timeout_s: float) -> bool:
    """Whether the pattern occurs; one that could backtrack without end runs in a process of its own, with a limit."""
    if len(pattern) <= _SIMPLE and not _REPEATED_GROUP.search(pattern):
        return re.search(pattern, output) is not None
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _SEARCH, pattern],
            input=output.encode("utf-8", "replace"),
            capture_output=True,
            timeout=timeout_s,
            env={"PYTHONUTF8": "1"},
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
