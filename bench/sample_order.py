"""The order in which Strata takes training samples (runtime/rng.h, trainer/data/token_dataset.h), for programs that train beside it."""
import struct

WORD = 0xFFFFFFFF
TOKEN_TYPE_U16 = 8


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011): four words of a counter of four and a key of two."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q & WORD, (p >> 32) ^ d ^ k1, p & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return a, b, c, d


def stream_id(name):
    found = 0xCBF29CE484222325
    for byte in name.encode():
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return found


def permutation(n, seed, epoch):
    """i -> where it goes, of [0, n): a Feistel network, walked until it is inside."""
    half = ((2 if n <= 2 else (n - 1).bit_length()) + 1) // 2
    mask, stream = (1 << half) - 1, stream_id("permutation") ^ epoch
    words = [word for index in range(3) for word in philox((index, 0, stream & WORD, stream >> 32), (seed & WORD, seed >> 32))]
    keys = list(zip(words[::2], words[1::2]))

    def mapped(i):
        while True:
            left, right = i >> half, i & mask
            for key in keys:
                f = philox((right & WORD, right >> 32, 0, 0), key)
                left, right = right, left ^ ((f[1] << 32 | f[0]) & mask)
            i = left << half | right
            if i < n:
                return i

    return mapped


def first_tokens(tokens, length, seed, count):
    """Where each of the run's first `count` samples begins in a sequence of as many tokens."""
    samples, order = (tokens - 1) // length, {}
    for k in range(count):
        if k // samples not in order:
            order[k // samples] = permutation(samples, seed, k // samples)
    return [order[k // samples](k % samples) * length for k in range(count)]


def token_count(prefix):
    """Tokens of a pair PREFIX.bin, PREFIX.idx (trainer/data/megatron.h) whose tokens have 16 bits."""
    with open(f"{prefix}.idx", "rb") as file:
        magic, version, kind, sequences, _ = struct.unpack("<9sQBQQ", file.read(34))
        if magic != b"MMIDIDX\0\0" or version != 1 or kind != TOKEN_TYPE_U16:
            raise ValueError(f"{prefix}.idx: not the index of 16-bit tokens")
        return sum(struct.unpack(f"<{sequences}i", file.read(4 * sequences)))
