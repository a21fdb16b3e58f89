"""A plain function: nothing here knows of koco."""

import re
from collections import Counter

COMMON = {"a", "and", "are", "for", "in", "into", "is", "it", "its", "of", "on", "or", "that", "the", "to", "with"}


def keywords(text: str, count: int = 5) -> dict:
    """The words that a text uses most."""
    words = [word for word in re.findall(r"[a-zà-ÿ']+", text.lower()) if word not in COMMON]
    print(f"{len(words)} words")
    return {"words": len(words), "keywords": [word for word, _ in Counter(words).most_common(count)]}
