"""Dictionaries, strings, classes, generators, exceptions, regular expressions, JSON: what scripts do."""
import collections
import json
import re


class Account:
    def __init__(self, name):
        self.name = name
        self.balance = 0

    def move(self, amount):
        if self.balance + amount < 0:
            raise ValueError(self.name)
        self.balance += amount


def numbers(n, x=12345):
    for _ in range(n):
        x = (x * 1103515245 + 12345) & 0x7fffffff
        yield x


def words():
    text = " ".join("%s%d" % ("abcdefgh"[x % 8] * (x % 5 + 1), x % 97) for x in numbers(8000))
    count = collections.Counter(re.findall(r"[a-d]+\d", text))
    return sorted(count.items(), key=lambda item: (-item[1], item[0]))[:5]


def accounts():
    bank = {str(i): Account(str(i)) for i in range(100)}
    refused = 0
    for x in numbers(20000):
        try:
            bank[str(x % 100)].move(x % 401 - 200)
        except ValueError:
            refused += 1
    return refused, sum(a.balance for a in bank.values())


def primes(limit):
    sieve = bytearray([1]) * limit
    for n in range(2, int(limit ** 0.5) + 1):
        if sieve[n]:
            sieve[n * n::n] = bytes(len(range(n * n, limit, n)))
    return sum(sieve[2:])


def records():
    data = [{"id": i, "value": x / 7, "tags": ["t%d" % (x % k) for k in (3, 5, 7)]} for i, x in enumerate(numbers(1500))]
    back = json.loads(json.dumps(data))
    return len(json.dumps(back, indent=1)), sum(r["value"] for r in back if "t2" in r["tags"])


def queens(n, row=0, columns=0, left=0, right=0):
    if row == n:
        return 1
    found = 0
    free = ~(columns | left | right) & ((1 << n) - 1)
    while free:
        bit = free & -free
        free ^= bit
        found += queens(n, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return found


print(words(), accounts(), primes(200000), records(), queens(8), pow(3, 10 ** 4) % 10 ** 9)
