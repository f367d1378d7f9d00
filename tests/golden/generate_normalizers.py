"""Makes normalizers.json and tokenizer/no_alphabet.json: ids of random texts by Hugging Face's tokenizers.

    pip install tokenizers
    python tests/golden/generate_normalizers.py

Every variant is tokenizer/byte_level.json with some keys replaced and some tokens taken out. The thousand texts follow
from a seed and from pools of characters, which stand in the file, so the test makes them again. Of each fifty texts the
file has one hash: of the ids, and of the text that they decode to.
"""

import json
import pathlib
import platform
import sys

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

GOLDEN = pathlib.Path(__file__).parent
SEED, N_TEXTS, N_PER_HASH = 7, 1000, 50

# A pool is a list of pieces and of spans of characters. None has a character that Unicode 17 made a letter or a number.
POOLS = [
    [" ", "  ", "\n", "\t", "'s", "a", "The", "x1", "é", "e\u0301"],
    [[0x20, 0x7E]],
    [[0xA0, 0x24F], [0x300, 0x36F]],  # Latin, combining marks
    [[0x300, 0x36F], "a", "o", "A", "\u0327\u0301", "\u0315\u0300\u05ae\u0321b", "\u0340", "\u0344", "\u0f71\u0f72\u0f80"],
    [[0x1100, 0x11FF], [0x1161, 0x1175], [0x11A8, 0x11C2], [0xAC00, 0xD7A3]],  # Hangul: letters and syllables
    [[0x900, 0x97F], "\u0958", "\u093c", "\u09c7\u09be", [0x980, 0x9FF]],  # Devanagari, Bengali
    [[0xE01, 0xE5B], "\u0e33", "\u0eb3"],  # Thai, Lao
    [[0x5D0, 0x5EA], [0x591, 0x5C7], [0x621, 0x65F], [0xFB1D, 0xFB4F], [0xFE70, 0xFEFC]],  # Hebrew, Arabic: right to left
    [[0xFF01, 0xFF9F], [0xFFA1, 0xFFDC]],  # wide, and half-width Katakana and Hangul
    [[0x3041, 0x30FF], "\u304b\u3099", "\uff76\uff9e", [0x3200, 0x33FF], [0xF900, 0xFAD9]],
    ["ﬁ", "ﬃ", "ſt", "\ufdfa", "①", "²", "½", "Ⅷ", "㍿", "㎢", "…", "™", "Å", "Ω", "K", "µ", "ﷲ", "\u1e9b\u0323"],
    ["👩\u200d👩\u200d👧", "🇨🇭", "👍🏽", "1\ufe0f\u20e3", "🤗", [0x1F300, 0x1F64F]],
    [[0xE000, 0xE010], [0x378, 0x379], [0xFFFE, 0xFFFF], [0x10FFF0, 0x10FFFF], "\ufeff", "\u00ad", "\u034f", "\u200b"],
    # Characters and decompositions that are younger than Unicode 9, and those around them.
    ["\u32ff", "\U00011935\U00011930", [0x8D3, 0x8E1], [0x1DF5, 0x1DF9], "a\u0315\u08d3", [0x10D24, 0x10D27], "\U00016d67"],
    [[0x1D400, 0x1D420], [0x1D15E, 0x1D164], [0x2F800, 0x2FA1D]],  # mathematical letters, notes, ideographs
    ["<strip>", "word", "normal", "<|endoftext|>", "no", "rmal", "caf", "\u0301", "éx", "e\u0301x", "e\u0301y", "éy", "ﬁx", "fix", "\u0338"],
    ["\x0b", "\x7f", "\x00", "\r\n", "\u2028", "\u3000", "\u00a0"],
    [[0x370, 0x3FF], [0x1F00, 0x1FFE], [0x400, 0x52F]],  # Greek with accents, Cyrillic
]


class Random:
    """Knuth's linear congruential generator, whose high bits are used."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


def texts():
    random = Random(SEED)
    for _ in range(N_TEXTS):
        text = ""
        for _ in range(1 + random.below(6)):
            pool = POOLS[random.below(len(POOLS))]
            for _ in range(1 + random.below(8)):
                piece = pool[random.below(len(pool))]
                text += piece if isinstance(piece, str) else chr(piece[0] + random.below(piece[1] - piece[0] + 1))
        yield text


def fnv(data, state):
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def sequence(*normalizers):
    return {"type": "Sequence", "normalizers": list(normalizers)}


def added(index, content, **options):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"id": 400 + index, "content": content, **plain, **options}


NFC, NFD, NFKC, NFKD, LOWERCASE, STRIP_ACCENTS = [
    {"type": kind} for kind in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"]
]
STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
REPLACE = {"type": "Replace", "pattern": {"String": "e\u0301"}, "content": "E'"}
PREPEND = {"type": "Prepend", "prepend": "\u0327x"}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACED = {**BYTE_LEVEL, "add_prefix_space": True}
SPLIT = {
    "type": "Split",
    "pattern": {
        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    },
    "behavior": "Isolated",
    "invert": False,
}
QWEN2 = {"type": "Sequence", "pretokenizers": [SPLIT, {**BYTE_LEVEL, "use_regex": False}]}
STARCODER = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}
ROBERTA = {
    "type": "RobertaProcessing",
    "sep": ["<|endoftext|>", 0],
    "cls": ["<|begin|>", 1],
    "trim_offsets": True,
    "add_prefix_space": True,
}
# Hugging Face would give new ids to added tokens whose ids do not follow those of the model.
NO_ADDED = {"added_tokens": []}
ADDED = [
    added(0, "éx"),
    added(1, "ﬁx"),
    added(2, "e\u0301y", normalized=False),
    added(3, "\u0301", normalized=False, special=True),
    added(4, "caf", single_word=True),
    added(5, "①", lstrip=True),
    added(6, "no", rstrip=True, normalized=False),
    added(7, "A\u030a", special=True),
]
TRUNCATION = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 8},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}

# By name: the keys of the file to replace ("model." is followed by one of the model's), and bytes without a token.
VARIANTS = {
    "plain": {},
    "NFC": {"normalizer": NFC},
    "NFD": {"normalizer": NFD},
    "NFKC": {"normalizer": NFKC},
    "NFKD": {"normalizer": NFKD},
    "StripAccents": {"normalizer": STRIP_ACCENTS},
    "NFC, Lowercase": {"normalizer": sequence(NFC, LOWERCASE)},
    "Lowercase, NFKC": {"normalizer": sequence(LOWERCASE, NFKC)},
    "NFD, Lowercase, StripAccents": {"normalizer": sequence(NFD, LOWERCASE, STRIP_ACCENTS)},
    "NFKD, Strip, NFC": {"normalizer": sequence(NFKD, STRIP, NFC)},
    "NFD, Replace": {"normalizer": sequence(NFD, REPLACE)},
    "Replace, NFC": {"normalizer": sequence(REPLACE, NFC)},
    "Prepend, NFC": {"normalizer": sequence(PREPEND, NFC)},
    "NFC, Prepend, NFD": {"normalizer": sequence(sequence(NFC, PREPEND), sequence(), sequence(NFD))},
    "no normalizers": {"normalizer": sequence()},
    "prefix space": {"pre_tokenizer": SPACED},
    "prefix space, in a sequence, NFKC": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPACED]},
        "normalizer": NFKC,
    },
    "prefix space, no pattern": {"pre_tokenizer": {**SPACED, "use_regex": False}},
    "GPT-NeoX": {"normalizer": NFC, "post_processor": BYTE_LEVEL},
    "Qwen 2": {"normalizer": NFC, "pre_tokenizer": QWEN2, "post_processor": BYTE_LEVEL},
    "StarCoder": {"pre_tokenizer": STARCODER},
    "RoBERTa": {"pre_tokenizer": SPACED, "post_processor": ROBERTA},
    "cut and padded": {"truncation": TRUNCATION, "padding": PADDING},
    "added": {"added_tokens": ADDED},
    "added, NFC": {"added_tokens": ADDED, "normalizer": NFC},
    "added, NFKD": {"added_tokens": ADDED, "normalizer": NFKD},
    "added, NFD, StripAccents": {"added_tokens": ADDED[:3], "normalizer": sequence(NFD, STRIP_ACCENTS)},
    "added, prefix space": {"added_tokens": ADDED, "pre_tokenizer": SPACED},
    "no 0B": {**NO_ADDED, "without": [0x0B]},
    "no 0B, no 7F, StarCoder": {**NO_ADDED, "without": [0x0B, 0x7F], "pre_tokenizer": STARCODER},
    "no 20, unknown": {**NO_ADDED, "without": [0x20], "model.unk_token": "<|begin|>"},
    "no CC, no E3, all words are tokens": {**NO_ADDED, "without": [0xCC, 0xE3], "model.ignore_merges": True},
    "13 bytes that UTF-8 has not": {**NO_ADDED, "without": [0xC0, 0xC1, *range(0xF5, 0x100)]},
}
# To Hugging Face's decoder "éx" is the byte 0xE9 and x, and an added token is what its normal form says.
NOT_DECODED = {name for name in VARIANTS if "added" in name or "Prepend" in name}


def alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def variant(base, changes):
    file = json.loads(base)
    gone = {alphabet()[byte] for byte in changes.get("without", [])}
    model = file["model"]
    model["vocab"] = {token: id for token, id in model["vocab"].items() if not gone & set(token)}
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) in model["vocab"]]
    for key, value in changes.items():
        if key.startswith("model."):
            model[key.removeprefix("model.")] = value
        elif key != "without":
            file[key] = value
    return json.dumps(file)


def hashes(tokenizer, missing=(), decoded=True):
    # As transformers does unless it is asked to.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    all_texts, out = list(texts()), []
    for start in range(0, N_TEXTS, N_PER_HASH):
        state = 0xCBF29CE484222325
        for text in all_texts[start : start + N_PER_HASH]:
            if not set(missing) & set(text.encode()):
                ids = tokenizer.encode(text).ids
                state = fnv(b"".join(token.to_bytes(4, "little") for token in ids), state)
                if decoded:
                    state = fnv(tokenizer.decode(ids, skip_special_tokens=False).encode(), state)
        out.append(f"{state:016x}")
    return out


def no_alphabet():
    """Trains a tokenizer as BpeTrainer does by default: it has the bytes of the text that it has seen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lines = ["In the beginning God created the heaven and the earth.", "And the earth was without form, and void;"]
    trainer = trainers.BpeTrainer(vocab_size=90, show_progress=False, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator(lines, trainer)
    (GOLDEN / "tokenizer" / "no_alphabet.json").write_text(tokenizer.to_str(), encoding="utf-8")
    return [{"text": text, "ids": tokenizer.encode(text).ids} for text in [*lines, "the void", "earth<|endoftext|>the"]]


def alone():
    """Encodes words that stand alone, or do not."""
    tokens = [
        added(0, "aa", single_word=True),
        added(1, "éx", single_word=True, normalized=False),
        added(2, "<s>", lstrip=True, rstrip=True, single_word=True),
        added(3, "word", single_word=True, special=True),
    ]
    base = (GOLDEN / "tokenizer" / "byte_level.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_str(variant(base, {"added_tokens": tokens}))
    texts = ["aaa", "aaaa aa", "aéx éx", "a <s> <s>b", "a<s>aa", "éxéx éx", "aa\u0301 \u0301aa aa½ ‿aa", "<s>éx<s>aa", "word word_"]
    cases = [{"text": text, "ids": tokenizer.encode(text).ids} for text in texts]
    return {"added_tokens": tokens, "cases": cases}


def main():
    base = (GOLDEN / "tokenizer" / "byte_level.json").read_text(encoding="utf-8")
    variants = []
    for name, changes in VARIANTS.items():
        decoded = name not in NOT_DECODED
        tokenizer = Tokenizer.from_str(variant(base, changes))
        variants.append(
            {"name": name, "changes": changes, "decoded": decoded, "fnv1a": hashes(tokenizer, changes.get("without", ()), decoded)}
        )
    golden = {
        "metadata": {
            "tokenizers": tokenizers.__version__,
            "python": platform.python_version(),
            "command": " ".join(["python", "tests/golden/generate_normalizers.py", *sys.argv[1:]]),
        },
        "seed": SEED,
        "n_texts": N_TEXTS,
        "n_per_hash": N_PER_HASH,
        "pools": POOLS,
        "first": next(texts()),
        "variants": variants,
        "no_alphabet": no_alphabet(),
        "alone": alone(),
    }
    (GOLDEN / "normalizers.json").write_text(json.dumps(golden, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    main()
