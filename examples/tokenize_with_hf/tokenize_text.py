#!/usr/bin/env python3
"""Tokenizes text with any Hugging Face tokenizer.json and writes Megatron .bin/.idx files for `strata train`.

    pip install tokenizers
    examples/tokenize_with_hf/tokenize_text.py --tokenizer tokenizer.json --input PATH... --output PREFIX

Writes PREFIX_train.{bin,idx} and PREFIX_validation.{bin,idx}. A file called *.jsonl holds one document a line, under --json-key;
any other file is one document. Folders are read recursively, sorted. Every document ends with the end-of-document token.
Memory: the largest document, times the number of documents in a batch.
"""

import argparse
import array
import hashlib
import itertools
import json
import os
import pathlib
import struct
import sys

from tokenizers import Tokenizer

END_TOKENS = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]"]
TYPE_U16, TYPE_I32 = (8, "H"), (4, "i")  # code in the index, code of Python's array


class MegatronWriter:
    """Streams documents to PREFIX.bin, then writes PREFIX.idx; the files get their names when both are complete."""

    def __init__(self, prefix, token_type):
        self.prefix = prefix
        self.code, self.letter = token_type
        self.bin = open(prefix + ".bin.partial", "wb")
        self.lengths = array.array("i")

    def add(self, tokens):
        values = array.array(self.letter, tokens)
        if sys.byteorder == "big":
            values.byteswap()
        values.tofile(self.bin)
        self.lengths.append(len(tokens))

    def commit(self):
        self.bin.close()
        count, width = len(self.lengths), array.array(self.letter).itemsize
        pointers = (width * end for end in itertools.accumulate(self.lengths, initial=0))
        with open(self.prefix + ".idx.partial", "wb") as idx:
            idx.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, self.code, count, count + 1))
            for form, values in (("<i", self.lengths), ("<q", itertools.islice(pointers, count)), ("<q", range(count + 1))):
                for value in values:
                    idx.write(struct.pack(form, value))
        pathlib.Path(self.prefix + ".idx").unlink(missing_ok=True)  # never an old index beside new tokens
        os.replace(self.prefix + ".bin.partial", self.prefix + ".bin")
        os.replace(self.prefix + ".idx.partial", self.prefix + ".idx")


def documents(paths, json_key):
    """(name, text) of every document."""
    for path in map(pathlib.Path, paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.suffix != ".jsonl":
                yield file.name, file.read_text("utf-8", "replace")
                continue
            with open(file, encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{file.name}:{number}", json.loads(line)[json_key]


def pieces(name, text, fraction, split):
    """(text, is_validation): the whole document on one side, or its tail on the other."""
    if split == "tail":
        cut = len(text) - round(len(text) * fraction)
        return [(part, side) for part, side in ((text[:cut], False), (text[cut:], True)) if part]
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return [(text, draw < fraction)] if text else []


def end_token(tokenizer, name):
    for candidate in [name] if name else END_TOKENS:
        if (token := tokenizer.token_to_id(candidate)) is not None:
            return token
    sys.exit("no end-of-document token in the vocabulary; name one with --end-token")


def batches(items, size):
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a tokenizer.json")
    parser.add_argument("--input", required=True, nargs="+", help="text or .jsonl files, or folders")
    parser.add_argument("--output", required=True, metavar="PREFIX")
    parser.add_argument("--validation-fraction", type=float, default=0.05)
    parser.add_argument("--split", choices=["tail", "document"], default="tail",
                        help="validation data: the tail of every document, or whole documents drawn by their names")
    parser.add_argument("--end-token", help="token that ends a document; default: the first known of " + " ".join(END_TOKENS))
    parser.add_argument("--json-key", default="text")
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(args.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end = end_token(tokenizer, args.end_token)
    vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
    token_type = TYPE_U16 if vocab_size <= 65536 else TYPE_I32
    os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    writers = [MegatronWriter(args.output + "_train", token_type)]
    if args.validation_fraction > 0:
        writers.append(MegatronWriter(args.output + "_validation", token_type))

    texts = (piece for name, text in documents(args.input, args.json_key)
             for piece in pieces(name, text, args.validation_fraction, args.split))
    for batch in batches(texts, 64):
        encodings = tokenizer.encode_batch([text for text, _ in batch], add_special_tokens=False)
        for (_, is_validation), encoding in zip(batch, encodings):
            writers[is_validation].add(encoding.ids + [end])
    for writer in writers:
        writer.commit()
        print(f"{writer.prefix}: {len(writer.lengths)} documents, {sum(writer.lengths)} tokens")
    print(f"model.vocab_size: {vocab_size}   end of document: {end}")


if __name__ == "__main__":
    main()
