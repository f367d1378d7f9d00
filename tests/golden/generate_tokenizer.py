"""Makes tokenizer.json and tokenizer/ in this folder: many texts encoded by Hugging Face's tokenizers and tiktoken.

    pip install tokenizers tiktoken
    python tests/golden/generate_tokenizer.py

Everything is built offline from weights/gpt2-tokenizer. Where both libraries apply they must agree, or nothing is
written. Offsets are Hugging Face's, in bytes instead of characters: a token's range covers every character of which it
has a part.
"""

import json
import pathlib
import platform
import random
import sys

import tiktoken
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GOLDEN = pathlib.Path(__file__).parent
GPT2 = GOLDEN.parent.parent / "weights" / "gpt2-tokenizer"
END_OF_TEXT = "<|endoftext|>"
SEED = 123
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# "All people are born free" or a greeting, in as many scripts as the author could type.
PHRASES = """
All human beings are born free and equal in dignity and rights.
Tous les êtres humains naissent libres et égaux en dignité et en droits.
Alle Menschen sind frei und gleich an Würde und Rechten geboren.
Todos los seres humanos nacen libres e iguales en dignidad y derechos.
la estera se sentó en el gato
Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.
Minden emberi lény szabadon születik és egyenlő méltósága és joga van.
Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.
Hver maður er borinn frjáls og jafn öðrum að virðingu og réttindum.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
Все люди рождаются свободными и равными в своем достоинстве и правах.
Всички хора се раждат свободни и равни по достойнство и права.
Усі люди народжуються вільними і рівними у своїй гідності та правах.
Բոլոր մարդիկ ծնվում են ազատ ու հավասար։
ყველა ადამიანი იბადება თავისუფალი და თანასწორი.
כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.
تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق با هم برابرند.
تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔
ܫܠܡܐ ܥܠܡܐ
ހުރިހާ އިންސާނުން
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।
সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।
ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ
પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.
ସମସ୍ତ ମନୁଷ୍ୟ ଜନ୍ମକାଳରୁ ସ୍ୱାଧୀନ
மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.
ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.
ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.
മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും സ്വാതന്ത്ര്യത്തോടുംകൂടി ജനിച്ചിട്ടുള്ളവരാണ്‌.
සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත.
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ
ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ
འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས།
လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊
មនុស្សទាំងអស់ កើតមកមានសេរីភាព
የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።
ᎾᏂᎥ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ
ᐃᓅᔪᓕᒫᑦ ᐊᓂᖅᑎᕆᔪᓕᒫᑦ
ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ ᠮᠡᠨᠳᠡᠯᠡᠬᠦ
ⴰⵔ ⴷ ⵜⵜⵍⴰⵍⴰⵏ ⵎⴷⴷⵏ
人人生而自由，在尊严和权利上一律平等。
人人生而自由，在尊嚴和權利上一律平等。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
ㄅㄆㄇㄈ 注音
ꆈꌠꉙ ꁱꂷ
𐌰𐌻𐌻𐌰𐌹 𐌼𐌰𐌽𐌽𐌰𐌽𐍃
𒀀𒈾 𒂠 𓀀𓁐𓂀 𐎀𐎁 𐤀𐤁𐤂 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 ⅷ ½ ² ①
🤗 👩‍👩‍👧‍👦 🇨🇭 👍🏽 ☕️ 1️⃣ ✨✨✨
∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β, √2 ≈ 1.414, 5 µm ± 3 ‰
ﬁﬀ ＡＢＣ １２３ ｱｲｳ ㍿ ㎢ e\u0301 n\u0303 \u0130\u0131 ß ẞ Ǆ ǅ ǆ
def f(x):\n    return {"a": x**2, 'b': [1, 2.5e-3]}  # ok
<html><body class="x">&nbsp;</body></html>
https://example.org/a?b=c&d=%20#e user@example.org C:\\Windows\\
I'm you're he'll we've I'd don't DON'T it's 's 'S ’s 'sx 'LL
""".strip("\n").replace("\\n", "\n").replace("\\u0301", "\u0301").replace("\\u0303", "\u0303").replace("\\u0130", "\u0130").replace("\\u0131", "\u0131").split("\n")

EDGES = [
    "", " ", "  ", "   x", "\n", "\n\n", "\n\n\n  x", "\t\tx", "x ", "x  ", "x \n", "x\n ", " \n x", "\r\n", "a\r\nb", "\x00", "a\x00b",
    "\x1c\x1d\x1e\x1f", "\x7f", "\x85", "a\u00a0b", "a\u3000b", "a\u2028b\u2029c", "\u200b", "\ufeffbom", "\ufffd", "\ufffd\ufffd x",
    "1234567", "1 22 333", "3.14", "-1", "١٢٣", "a1b2", "don't Don'T", "naïve café", "日本語", "🤗 hi", "\U0010ffff", "\ue000", "\u0378",
    "_", "__init__", "---", "…", "?!", "“q”", "«»", "a-b", "a—b", "\u00ad", "\u0300", "a\u0300\u0301", "\u0e33", "\u1160",
    "Hello, do you like tea?", "Hello, I am", "Every effort moves you", "Akwirw ier", "Hello, world. Is this-- a test?", " and", "SolidGoldMagikarp", " SolidGoldMagikarp",
    END_OF_TEXT, END_OF_TEXT * 2, f"a{END_OF_TEXT}b", f" {END_OF_TEXT} ", f"\n{END_OF_TEXT}\n", "<|endoftext|", "|endoftext|>", "<|endoftext>",
    f"<|endof{END_OF_TEXT}text|>", "<|EndOfText|>", "<|endoftext |>", f"é{END_OF_TEXT}🤗",
    "Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace.",
    "Hello, do you like tea? <|endoftext|> In the sunlit terracesof someunknownPlace.",
    "Hello, MyNewToken_1 is a new token. <|endoftext|>",
    "a" * 70, "^" * 70, " " * 40, "\n" * 40, "🤗" * 20, "7" * 50, "ab " * 20, "'s" * 20,
]


def gpt2_hf():
    vocab = json.loads((GPT2 / "encoder.json").read_text(encoding="utf-8"))
    lines = (GPT2 / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(line.split(" ")) for line in lines if line]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def gpt2_tiktoken():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet |= {chr(256 + n): byte for n, byte in enumerate(others)}
    vocab = json.loads((GPT2 / "encoder.json").read_text(encoding="utf-8"))
    end = vocab.pop(END_OF_TEXT)
    # tiktoken_ext/openai_public.py
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    ranks = {bytes(alphabet[c] for c in token): rank for token, rank in vocab.items()}
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: end})


def random_texts(n):
    rng = random.Random(SEED)
    pools = [
        range(0x20, 0x7F), range(0x250), range(0x370, 0x600), range(0x600, 0x800), range(0x900, 0xE00), range(0x1E00, 0x2070),
        range(0x2070, 0x2C00), range(0x3000, 0x3400), range(0x4E00, 0x9FFF), range(0xAC00, 0xD7A4), range(0x1F300, 0x1FB00),
        range(0x10000, 0x11000), range(0xE000, 0x110000), [ord(c) for c in " \n\t\r'sStTrReElLvVmMdD"], [ord(c) for c in END_OF_TEXT],
        [0x20, 0xA0, 0x3000, 0x2028, 0x85, 0x0A, 0x61, 0x31, 0x21],
    ]
    for _ in range(n):
        chosen = rng.sample(pools, rng.randrange(1, 4))
        yield "".join(chr(rng.choice(rng.choice(chosen))) for _ in range(rng.randrange(1, 40)))
    for _ in range(n // 5):
        yield bytes(rng.randrange(256) for _ in range(rng.randrange(1, 60))).decode("utf-8", "replace")


def case(tokenizer, text):
    encoding = tokenizer.encode(text)
    at = [0]
    for character in text:
        at.append(at[-1] + len(character.encode()))
    offsets = [(at[start], at[end]) for start, end in encoding.offsets]
    # A template's tokens have the offsets (0, 0), even after the text; here they get an empty range at their place.
    if len(offsets) > 1 and encoding.special_tokens_mask[-1] and offsets[-1] == (0, 0):
        offsets[-1] = (at[-1], at[-1])
    return {"text": text, "ids": encoding.ids, "offsets": [end for pair in offsets for end in pair]}


def fnv(ids, state=0xCBF29CE484222325):
    for token in ids:
        for byte in token.to_bytes(4, "little"):
            state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


# Letters and numbers that Unicode 17 added; both libraries have Unicode 16, the crate has 17.
UNICODE_17 = """
088F 0C5C 0CDC A7CE-A7CF A7D2 A7D4 A7F1 10940-10959 10EC5-10EC7 11DB0-11DDB 11DE0-11DE9 16EA0-16EB8 16EBB-16ED3 16FF2-16FF6
187F8-187FF 18D09-18D1E 18D80-18DF2 1E6C0-1E6DE 1E6E0-1E6E2 1E6E4-1E6E5 1E6E7-1E6ED 1E6F0-1E6F4 1E6FE-1E6FF 2B73A-2B73F
2CEA2-2CEAD 323B0-33479
"""


def around(character):
    """Puts a character into every context where its class (letter, number, space, other) changes the ids."""
    return f"{character}'s a{character}a 1{character}1 !{character}! {character} {character}x\n{character}"


def every_character(hf, tik):
    """Hashes the ids of `around` for all characters but those of Unicode 17, 4096 at a time."""
    newer = []
    for span in UNICODE_17.split():
        first, _, last = span.partition("-")
        newer.append([int(first, 16), int(last or first, 16)])
    skipped = {c for first, last in newer for c in range(first, last + 1)}
    for c in skipped:
        assert hf.encode(f"{chr(c)}'s").tokens[-1] == "s", f"U+{c:04X} is not a symbol to this version: is it of Unicode 17?"
    state, n_ids = 0xCBF29CE484222325, 0
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c not in skipped]
    for start in range(0, len(characters), 4096):
        text = "".join(map(around, characters[start : start + 4096]))
        ids = hf.encode(text).ids
        assert ids == tik.encode(text), f"U+{ord(characters[start]):04X} and on"
        state, n_ids = fnv(ids, state), n_ids + len(ids)
    return {"unicode_17": newer, "n_characters": len(characters), "n_ids": n_ids, "fnv1a": f"{state:016x}"}


def trained(name, pre_tokenizer, **options):
    """Trains a small tokenizer on the phrases, and encodes them."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=options.get("ignore_merges", False)))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if "normalizer" in options:
        tokenizer.normalizer = options["normalizer"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, special_tokens=[END_OF_TEXT, "<|begin|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["\n".join(PHRASES)] * 3, trainer)
    tokenizer.add_tokens(options.get("added", []))
    if options.get("template"):
        begin = ("<|begin|>", tokenizer.token_to_id("<|begin|>"))
        end = (END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))
        single = f"<|begin|> $A {END_OF_TEXT}"
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[begin, end])
    folder = GOLDEN / "tokenizer"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(tokenizer.to_str(), encoding="utf-8")
    texts = [*PHRASES[::6], *EDGES, *options.get("texts", [])]
    return {"file": f"{name}.json", "cases": [case(tokenizer, text) for text in texts]}


def main():
    hf, tik = gpt2_hf(), gpt2_tiktoken()
    texts = [*PHRASES, *EDGES, *random_texts(200)]
    for text in texts:
        assert hf.encode(text).ids == tik.encode(text, allowed_special="all"), text
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    llama3 = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CL100K), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    added = [
        AddedToken("<strip>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("normal", normalized=True),
        AddedToken("é🤗", normalized=False),
    ]
    with_added = ["a  <strip>  b", "<strip>", " <strip><strip>\n", "word words sword (word)", "word", "normalnormal", "aé🤗é🤗", "NORMAL word", "é<strip>é normal é<|endoftext|>normal"]
    golden = {
        "metadata": {
            "tokenizers": tokenizers.__version__,
            "tiktoken": tiktoken.__version__,
            "python": platform.python_version(),
            "seed": SEED,
            "command": " ".join(["python", "tests/golden/generate_tokenizer.py", *sys.argv[1:]]),
        },
        "gpt2": [case(hf, text) for text in texts],
        "gpt2_as_text": [{"text": text, "ids": tik.encode(text, disallowed_special=())} for text in EDGES],
        "every_character": every_character(hf, tik),
        "trained": [
            trained("byte_level", byte_level, added=added, texts=with_added),
            trained("llama3_style", llama3, ignore_merges=True, template=True),
            trained("lowercase", byte_level, normalizer=normalizers.Lowercase(), added=added, texts=with_added),
        ],
    }
    (GOLDEN / "tokenizer.json").write_text(json.dumps(golden, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    main()
