"""ML-KEM-768 in plain integers, from FIPS 203: slow, for comparing only."""

import hashlib

Q, N, K = 3329, 256, 3
EKBYTES, CTBYTES = 384 * K + 32, 32 * (10 * K + 4)


def _bit_reversed(value: int) -> int:
    return int(f"{value:07b}"[::-1], 2)


ZETAS = [pow(17, _bit_reversed(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * _bit_reversed(i) + 1, Q) for i in range(128)]


def ntt(poly: list[int]) -> list[int]:
    f, i, length = list(poly), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[i] * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
            i += 1
        length //= 2
    return f


def inverse_ntt(poly: list[int]) -> list[int]:
    f, i, length = list(poly), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = ZETAS[i] * (f[j + length] - t) % Q
            i -= 1
        length *= 2
    return [x * 3303 % Q for x in f]


def product(f: list[int], g: list[int]) -> list[int]:
    out = []
    for i, gamma in enumerate(GAMMAS):
        a, b, c, d = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        out += [(a * c + b * d * gamma) % Q, (a * d + b * c) % Q]
    return out


def plus(*polys: list[int]) -> list[int]:
    return [sum(values) % Q for values in zip(*polys, strict=True)]


def pack(poly: list[int], bits: int) -> bytes:
    value = sum(x << (bits * at) for at, x in enumerate(poly))
    return value.to_bytes(32 * bits, "little")


def unpack(data: bytes, bits: int) -> list[int]:
    value = int.from_bytes(data, "little")
    return [value >> (bits * at) & ((1 << bits) - 1) for at in range(N)]


def compress(poly: list[int], bits: int) -> list[int]:
    return [((x << bits) + Q // 2) // Q % (1 << bits) for x in poly]


def decompress(poly: list[int], bits: int) -> list[int]:
    return [(Q * x + (1 << (bits - 1))) >> bits for x in poly]


def uniform(seed: bytes) -> list[int]:
    stream, out, at = hashlib.shake_128(seed).digest(3 * 1024), [], 0
    while len(out) < N:
        a, b, c = stream[at : at + 3]
        out += [x for x in (a + 256 * (b % 16), b // 16 + 16 * c) if x < Q]
        at += 3
    return out[:N]


def small(seed: bytes, counter: int) -> list[int]:
    value = int.from_bytes(hashlib.shake_256(seed + bytes([counter])).digest(128), "little")
    nibbles = [value >> (4 * at) & 15 for at in range(N)]
    return [((x & 1) + (x >> 1 & 1) - (x >> 2 & 1) - (x >> 3 & 1)) % Q for x in nibbles]


def matrix(rho: bytes) -> list[list[list[int]]]:
    return [[uniform(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


def keys(seed: bytes) -> tuple[bytes, bytes]:
    """Return encapsulation and decapsulation key of d || z."""
    d, z = seed[:32], seed[32:]
    hashed = hashlib.sha3_512(d + bytes([K])).digest()
    rho, sigma = hashed[:32], hashed[32:]
    a = matrix(rho)
    s = [ntt(small(sigma, i)) for i in range(K)]
    e = [ntt(small(sigma, K + i)) for i in range(K)]
    t = [plus(e[i], *(product(a[i][j], s[j]) for j in range(K))) for i in range(K)]
    public = b"".join(pack(one, 12) for one in t) + rho
    private = b"".join(pack(one, 12) for one in s)
    return public, private + public + hashlib.sha3_256(public).digest() + z


def encrypt(public: bytes, message: bytes, coins: bytes) -> bytes:
    t = [unpack(public[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    a = matrix(public[384 * K :])
    y = [ntt(small(coins, i)) for i in range(K)]
    u = [
        plus(inverse_ntt(plus(*(product(a[j][i], y[j]) for j in range(K)))), small(coins, K + i))
        for i in range(K)
    ]
    v = plus(
        inverse_ntt(plus(*(product(t[j], y[j]) for j in range(K)))),
        small(coins, 2 * K),
        decompress(unpack(message, 1), 1),
    )
    return b"".join(pack(compress(one, 10), 10) for one in u) + pack(compress(v, 4), 4)


def encapsulate(public: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Return secret and ciphertext for 32 bytes of randomness."""
    hashed = hashlib.sha3_512(message + hashlib.sha3_256(public).digest()).digest()
    return hashed[:32], encrypt(public, message, hashed[32:])


def decapsulate(private: bytes, ciphertext: bytes) -> bytes:
    """Return the secret; of a ciphertext that was not made for this key, some other one."""
    secret, public = private[: 384 * K], private[384 * K : 384 * K + EKBYTES]
    h, z = private[-64:-32], private[-32:]
    s = [unpack(secret[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    u = [decompress(unpack(ciphertext[320 * i : 320 * (i + 1)], 10), 10) for i in range(K)]
    v = decompress(unpack(ciphertext[320 * K :], 4), 4)
    inner = inverse_ntt(plus(*(product(s[i], ntt(u[i])) for i in range(K))))
    message = pack(compress([(x - w) % Q for x, w in zip(v, inner, strict=True)], 1), 1)
    hashed = hashlib.sha3_512(message + h).digest()
    if encrypt(public, message, hashed[32:]) != ciphertext:
        return hashlib.shake_256(z + ciphertext).digest(32)
    return hashed[:32]
