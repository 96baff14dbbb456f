"""Makes the small tokenizers of this folder and what Hugging Face's tokenizers library encodes and decodes with them.

Needs the package tokenizers (0.23 made what is committed). Run it in this folder: python make.py
"""

import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = (
    "The mill stands by the river, and the river turns the mill. In 1987 it ground 12345 sacks; now it's quiet.\n"
    "They'd say: don't count the sacks, count the stones! Äpfel, naïve café, straße. 水車は川のそばにある。\n"
    "    indented\tline with  double spaces and numbers 3.14159, 2024-01-31.\n\n\nЕщё одна мельница стоит у реки.\n"
) * 4
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FRAME = processors.TemplateProcessing(
    single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
)
SENTENCEPIECE = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def build(vocab_size=330, normalizer=None, pre=None, decoder=None, post=None, added=(), **bpe):
    tokenizer = Tokenizer(models.BPE(**bpe))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    special = ["<unk>", "<s>", "</s>"]
    if bpe.get("byte_fallback"):
        special += [f"<0x{b:02X}>" for b in range(256)]
    alphabet = [] if bpe.get("unk_token") else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(True), trainer)
    if decoder:
        tokenizer.decoder = decoder
    if post:
        tokenizer.post_processor = post
    tokenizer.add_tokens(list(added))
    # The trainer made the byte tokens special; in real files they are ordinary.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content))


TOKENIZERS = {
    "byte_level": build(
        normalizer=normalizers.NFC(),
        pre=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), byte_level()]),
        decoder=decoders.ByteLevel(),
        post=processors.Sequence([processors.ByteLevel(trim_offsets=False), FRAME]),
        ignore_merges=True,
    ),
    "added_tokens": build(
        normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        pre=byte_level(True, True),
        decoder=decoders.ByteLevel(),
        post=processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
        added=[
            AddedToken("<mask>", lstrip=True, special=True, normalized=False),
            AddedToken("[X]", rstrip=True, normalized=False),
            AddedToken("stone", single_word=True),
            AddedToken("Café", normalized=True),
            AddedToken("  ", normalized=False),
        ],
    ),
    "sentencepiece": build(
        vocab_size=400,
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=SENTENCEPIECE,
        post=FRAME,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    ),
    "metaspace": build(
        vocab_size=150,
        pre=pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)]
        ),
        decoder=decoders.Metaspace(prepend_scheme="first"),
        unk_token="<unk>",
        fuse_unk=False,
    ),
    "splits": build(
        pre=pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(" ", "merged_with_next"),
                pre_tokenizers.Punctuation("merged_with_previous"),
                pre_tokenizers.Split(Regex(r"\d+"), "contiguous"),
                byte_level(),
            ]
        ),
        decoder=decoders.ByteLevel(),
    ),
}

PIECES = list("abmrs XYZ \n\t'.,!?059_-") + [
    "the ", "mill", "don't", "THEY'LL", "stone", "stones", "café", "Café", "<mask>", "[X] ", "<s>", "</s>", "<unk>",
    "  ", "   ", "\r\n", "\n\n", "12345", "½", "水車", "か", "Ещё", "👩‍👧", "🤗", "e\u0301", "A\u030a", "\u00a0", "\u3000", "▁",
    "<0x41>", "ß", "\u200d", "\x00",
]


def main():
    rng = random.Random(7)
    for name, tokenizer in TOKENIZERS.items():
        os.makedirs(name, exist_ok=True)
        tokenizer.save(f"{name}/tokenizer.json", pretty=False)
        texts = ["", " ", TEXT[:290]] + ["".join(rng.choices(PIECES, k=rng.randint(1, 25))) for _ in range(60)]
        with open(f"{name}/vectors.jsonl", "w") as out:
            for text in texts:
                special = rng.random() < 0.5
                ids = tokenizer.encode(text, add_special_tokens=special).ids
                row = {"text": text, "add_special_tokens": special, "ids": ids}
                row["decoded_skip_special"] = tokenizer.decode(ids, skip_special_tokens=True)
                row["decoded_with_special"] = tokenizer.decode(ids, skip_special_tokens=False)
                out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
