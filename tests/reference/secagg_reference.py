"""Secure aggregation a second time, from docs/spec/secagg.md (sections 1 to 6 and 8) alone.

Slow and plain: Python integers, hashlib, hmac, and one primitive from elsewhere, the AES block
cipher, driven block by block for the keystream and for GCM. X25519 is RFC 7748 and ML-KEM-768 is
FIPS 203 (`mlkem768`). Nothing of the product is imported; a test asserts it. Numbers in docstrings
are statements of the page. Members are indexes, names are text, digests are 32 raw bytes.

`tests/reference/REVIEWED` says which text of the page this was last read against.
"""

import functools
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.reference import mlkem768

P = 2**256 - 189
CHUNK_WORDS = 65_536
CIPHERTEXT_BYTES = 1_088
SHARE_BYTES = 112
Field = bytes | str | int

# --- 1: parameters -------------------------------------------------------------------------------


def share_threshold(members: int, colluders: int) -> int:
    """1.1."""
    return (members + colluders) // 2 + 1


def least_survivors(members: int, colluders: int) -> int:
    """1.1, as derived."""
    return max(share_threshold(members, colluders), colluders + 2)


def fast_survivors(members: int, colluders: int, least: int, participants: int) -> int:
    """1.3."""
    t, n, c = share_threshold(members, colluders), participants, colluders
    for u in range(least, n + 1):
        if (n - c) - (n - c) * (n - u) // (t - c) >= least - c:
            return u
    return n + 1


def at_once(
    members: int, colluders: int, least: int, participants: int, survivors: int, *, comes_off: bool
) -> bool:
    """6.6: whether a member answers so many survivors without confirming them first."""
    if comes_off and share_threshold(members, colluders) < participants - 1:
        return False
    return survivors >= fast_survivors(members, colluders, least, participants)


# --- notation of 5 -------------------------------------------------------------------------------


def enc(*fields: Field) -> bytes:
    """Length and bytes of each field."""
    out = b""
    for one in fields:
        data = one if isinstance(one, bytes) else None
        if isinstance(one, str):
            data = one.encode("utf-8")
        elif isinstance(one, int):
            data = one.to_bytes(8, "big")
        assert data is not None
        out += len(data).to_bytes(4, "big") + data
    return out


def hashed(label: str, *fields: Field) -> bytes:
    """H."""
    return hashlib.sha256(enc("cesa/1", label, *fields)).digest()


def extract(salt: bytes, ikm: bytes) -> bytes:
    """EXT."""
    return hmac.new(salt, ikm, hashlib.sha256).digest()


def derive(key: bytes, label: str, *fields: Field) -> bytes:
    """KDF."""
    return hmac.new(key, enc("cesa/1", label, *fields) + b"\x01", hashlib.sha256).digest()


# --- primitives ----------------------------------------------------------------------------------


def block_cipher(key: bytes, blocks: bytes) -> bytes:
    """AES-256 of each block of 16 bytes by itself."""
    ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return ecb.update(blocks)


def keystream(key: bytes, first_block: int, size: int) -> bytes:
    """3.1: the cipher over counter blocks, 128-bit big-endian."""
    count = -(-size // 16)
    counters = b"".join((first_block + at).to_bytes(16, "big") for at in range(count))
    return block_cipher(key, counters)[:size]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _times(x: int, y: int) -> int:
    """Product in GF(2^128) with GCM's order of bits."""
    z = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def gcm(key: bytes, text: bytes, associated: bytes, *, opening: bool) -> tuple[bytes, bytes]:
    """AES-256-GCM with a nonce of 12 zero bytes: return output and tag over the ciphertext."""
    h = int.from_bytes(block_cipher(key, bytes(16)), "big")
    out = _xor(text, keystream(key, 2, len(text)))
    sealed = text if opening else out
    blocks = b"".join(part + bytes(-len(part) % 16) for part in (associated, sealed))
    blocks += (8 * len(associated)).to_bytes(8, "big") + (8 * len(sealed)).to_bytes(8, "big")
    y = 0
    for at in range(0, len(blocks), 16):
        y = _times(y ^ int.from_bytes(blocks[at : at + 16], "big"), h)
    tag = _xor(y.to_bytes(16, "big"), keystream(key, 1, 16))
    return out, tag


def seal(key: bytes, text: bytes, associated: bytes) -> bytes:
    """Ciphertext and tag."""
    out, tag = gcm(key, text, associated, opening=False)
    return out + tag


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes | None:
    """The text, or None when it does not open."""
    if len(sealed) < 16:
        return None
    out, tag = gcm(key, sealed[:-16], associated, opening=True)
    return out if tag == sealed[-16:] else None


@functools.lru_cache(maxsize=4096)
def x25519(secret: bytes, public: bytes) -> bytes:
    """RFC 7748, section 5."""
    p = 2**255 - 19
    k = bytearray(secret)
    k[0] &= 248
    k[31] = k[31] & 127 | 64
    scalar = int.from_bytes(k, "little")
    u = int.from_bytes(public, "little") & (1 << 255) - 1
    x1, x2, z2, x3, z3, swap = u, 1, 0, u, 1, 0
    for t in range(254, -1, -1):
        bit = scalar >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb = d * a, c * b
        x3, z3 = (da + cb) ** 2 % p, x1 * (da - cb) ** 2 % p
        aa, bb = a * a, b * b
        e = aa - bb
        x2, z2 = aa * bb % p, e * (aa + 121665 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


BASE = (9).to_bytes(32, "little")


def low_order(public: bytes) -> bool:
    """5.3: a key that agrees with everybody on zero."""
    return x25519(bytes(32), public) == bytes(32)


# --- 3: masks ------------------------------------------------------------------------------------


def mask(key: bytes, bits: int, first: int, count: int) -> list[int]:
    """3.1: words `first` to `first` + `count` of a mask."""
    width = bits // 8
    block, offset = first * width // 16, first * width % 16
    data = keystream(key, block, offset + count * width)[offset:]
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def vector_bytes(words: Sequence[int], bits: int) -> bytes:
    """3.4."""
    return b"".join(word.to_bytes(bits // 8, "little") for word in words)


def root(words: Sequence[int], bits: int) -> bytes:
    """3.2."""

    def tree(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return hashlib.sha256(b"\x00" + leaves[0]).digest()
        half = 1
        while half * 2 < len(leaves):
            half *= 2
        return hashlib.sha256(b"\x01" + tree(leaves[:half]) + tree(leaves[half:])).digest()

    return tree(
        [
            hashlib.sha256(vector_bytes(words[at : at + CHUNK_WORDS], bits)).digest()
            for at in range(0, len(words), CHUNK_WORDS)
        ]
    )


# --- 5: epoch ------------------------------------------------------------------------------------


def draws(key: bytes) -> Iterator[int]:
    """5.1: elements from a keystream, 32 bytes at a time."""
    block = 0
    while True:
        value = int.from_bytes(keystream(key, block, 32), "big")
        block += 2
        if value < P:
            yield value


def element(value: int) -> bytes:
    """An element of F."""
    return value.to_bytes(32, "big")


def share_at(point: int, secret: int, coefficients: Sequence[int]) -> int:
    """5.4: the value of the polynomial, coefficients in rising degree."""
    value, power = secret, 1
    for one in coefficients:
        power = power * point % P
        value = (value + one * power) % P
    return value


def rebuild(shares: dict[int, int]) -> int:
    """8.1: the value at zero of the polynomial through the shares."""
    total = 0
    for i, share in shares.items():
        above = below = 1
        for j in shares:
            if j != i:
                above, below = above * j % P, below * (j - i) % P
        total += share * above * pow(below, P - 2, P)
    return total % P


def round_secret(u: int, charter: bytes, epoch: int, index: int, slot: int) -> bytes:
    """5.2: rsk."""
    return derive(element(u), "rsk", charter, epoch, index, slot)


def self_commitment(z: int, charter: bytes, epoch: int, index: int, slot: int) -> bytes:
    """5.2: com."""
    return hashed("com", charter, epoch, index, slot, element(z))


@dataclass
class Secrets:
    """5.1 and 5.2: everything that one member derives from its seed."""

    seed: bytes
    charter: bytes
    epoch: int
    index: int
    kem: tuple[bytes, bytes] = field(init=False, repr=False, default=(b"", b""))

    def key(self, label: str, *slot: int) -> bytes:
        return derive(self.seed, "epoch-" + label, self.charter, self.epoch, self.index, *slot)

    def transport(self) -> bytes:
        return self.key("transport")

    def kem_keys(self) -> tuple[bytes, bytes]:
        if not self.kem[0]:
            self.kem = mlkem768.keys(self.key("kem-d") + self.key("kem-z"))
        return self.kem

    def u(self, slot: int) -> int:
        return next(draws(self.key("round-seed", slot)))

    def z(self, slot: int) -> int:
        return next(draws(self.key("self-seed", slot)))

    def rsk(self, slot: int) -> bytes:
        return round_secret(self.u(slot), self.charter, self.epoch, self.index, slot)

    def round_key(self, slot: int) -> bytes:
        return x25519(self.rsk(slot), BASE)

    def commitment(self, slot: int) -> bytes:
        return self_commitment(self.z(slot), self.charter, self.epoch, self.index, slot)

    def shares_for(self, point: int, slot: int, threshold: int) -> tuple[int, int]:
        """Return the shares of u and of z at a point."""
        u_coefficients = list(islice(draws(self.key("round-deal", slot)), threshold - 1))
        z_coefficients = list(islice(draws(self.key("self-deal", slot)), threshold - 1))
        return (
            share_at(point, self.u(slot), u_coefficients),
            share_at(point, self.z(slot), z_coefficients),
        )


def epoch_hash(charter: bytes, epoch: int, keys: Sequence[bytes]) -> bytes:
    """5.4."""
    return hashed("epoch", charter, epoch, *keys)


def transport_secret(
    roster: bytes,
    classical: bytes,
    post_quantum: bytes | None = None,
    ciphertext: bytes = b"",
    kem_key: bytes = b"",
    lower: bytes = b"",
    higher: bytes = b"",
) -> bytes:
    """5.4: T. Without a post-quantum secret, the classical suite."""
    shared = classical
    if post_quantum is not None:
        salt = hashed("hybrid", ciphertext, kem_key, lower, higher)
        shared = extract(salt, enc(classical, post_quantum))
    return extract(roster, shared)


def share_key(transport: bytes, dealer: int, recipient: int, slot: int) -> bytes:
    """5.4: k."""
    return derive(transport, "share", dealer, recipient, slot)


def sealed_share(
    transport: bytes, roster: bytes, dealer: int, recipient: int, slot: int, u: int, z: int
) -> bytes:
    """5.4: what a column holds for one slot."""
    key = share_key(transport, dealer, recipient, slot)
    associated = enc(roster, dealer, recipient, slot)
    return hashed("kc", key) + seal(key, element(u) + element(z), associated)


def opened_share(
    key: bytes, part: bytes, roster: bytes, dealer: int, recipient: int, slot: int
) -> tuple[int, int] | None:
    """5.6: both shares, or None for a complaint."""
    if part[:32] != hashed("kc", key):
        return None
    text = unseal(key, part[32:], enc(roster, dealer, recipient, slot))
    if text is None or len(text) != 64:
        return None
    u, z = int.from_bytes(text[:32], "big"), int.from_bytes(text[32:], "big")
    return (u, z) if u < P and z < P else None


def left_out(
    column: bytes,
    key: bytes,
    roster: bytes,
    dealer: int,
    recipient: int,
    slot: int,
    slots: int,
    hybrid: bool,
) -> set[int]:
    """5.6: who is left out after a complaint of `recipient`."""
    head = CIPHERTEXT_BYTES if hybrid else 0
    if len(column) != head + slots * SHARE_BYTES:
        return {dealer}
    if slot >= slots:
        return {recipient}
    part = column[head + slot * SHARE_BYTES :][:SHARE_BYTES]
    if part[:32] != hashed("kc", key):
        return {dealer, recipient}
    opens = opened_share(key, part, roster, dealer, recipient, slot) is not None
    return {recipient} if opens else {dealer}


def pair_seed(lower_to_higher: bytes, higher_to_lower: bytes, slot: int) -> bytes:
    """5.7: q."""
    return derive(extract(lower_to_higher, higher_to_lower), "pq", slot)


def wrap(u: int, roster: bytes, index: int, slot: int, seeds: Sequence[bytes]) -> bytes:
    """5.7: one slot of the blob."""
    return seal(derive(element(u), "wrap", slot), b"".join(seeds), enc(roster, index, slot))


def pair_commitment(roster: bytes, index: int, slot: int, seeds: Sequence[bytes]) -> bytes:
    """5.7."""
    return hashed("pq-com", roster, index, slot, *seeds)


# --- 6: round ------------------------------------------------------------------------------------


@dataclass
class Opening:
    """What a round is opened with (4.2); digests are raw bytes."""

    slot: int
    round: int
    attempt: int
    participants: Sequence[str]
    plan: bytes
    query: bytes
    code: bytes
    model: bytes
    length: int
    bits: int
    previous: bytes

    def context(self, charter: bytes, roster: bytes) -> bytes:
        """6.1."""
        return hashed(
            "round",
            charter,
            roster,
            self.slot,
            self.round,
            self.attempt,
            enc(*self.participants),
            self.plan,
            self.query,
            self.code,
            self.model,
            self.length,
            self.bits,
            self.previous,
        )


def self_key(z: int, context: bytes) -> bytes:
    """6.3."""
    return derive(element(z), "self", context)


def pair_key(
    rsk: bytes, other_key: bytes, q: bytes | None, roster: bytes, context: bytes, i: int, j: int
) -> bytes:
    """6.3."""
    shared = x25519(rsk, other_key)
    if q is not None:
        shared = enc(shared, q)
    return derive(extract(roster, shared), "pair", context, min(i, j), max(i, j))


def masked(
    words: Sequence[int], bits: int, own: bytes, pairs: dict[int, bytes], me: int
) -> list[int]:
    """6.3: the vector with its own mask and one with every other participant."""
    out = [a + b for a, b in zip(words, mask(own, bits, 0, len(words)), strict=True)]
    for other, key in pairs.items():
        sign = 1 if me < other else -1
        out = [a + sign * b for a, b in zip(out, mask(key, bits, 0, len(words)), strict=True)]
    return [word % 2**bits for word in out]


def survivors_digest(context: bytes, survivors: Sequence[tuple[int, bytes]]) -> bytes:
    """6.6."""
    fields: list[Field] = []
    for index, one in survivors:
        fields += [index, one]
    return hashed("survivors", context, *fields)


# --- 8: result -----------------------------------------------------------------------------------


def pair_seed_blob(seeds: dict[str, list[bytes]]) -> bytes | None:
    """8.4: what stands beside the result, None where the seeds stand in it. Names are ASCII."""
    if sum(len(one) for one in seeds.values()) <= 256:
        return None
    lists = ",".join(
        '"' + name + '":[' + ",".join(f'"{one.hex()}"' for one in seeds[name]) + "]"
        for name in sorted(seeds)
    )
    return ('{"format":"treaty.pair-seeds/v1","seeds":{' + lists + "}}").encode("ascii")


def opened_sum(
    inputs: dict[int, Sequence[int]],
    bits: int,
    own: dict[int, bytes],
    pairs: dict[tuple[int, int], bytes],
) -> list[int]:
    """8.2: `inputs` of survivors, their self keys, pair keys of (dropped, survivor)."""
    count = len(next(iter(inputs.values())))
    total = [sum(column) for column in zip(*inputs.values(), strict=True)]
    for key in own.values():
        total = [a - b for a, b in zip(total, mask(key, bits, 0, count), strict=True)]
    for (dropped, survivor), key in pairs.items():
        sign = -1 if survivor < dropped else 1
        total = [a + sign * b for a, b in zip(total, mask(key, bits, 0, count), strict=True)]
    return [word % 2**bits for word in total]
