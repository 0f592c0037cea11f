# SPDX-License-Identifier: Apache-2.0

"""Random values, most of them nearly valid."""

import datetime
import json
import random

_NUMBERS = (0, 1, -1, 2, 60, 61, 255, 256, 65535, 65536, 2 ** 31 - 1, 2 ** 31,
            -2 ** 31, 2 ** 32, 2 ** 63, -2 ** 63, 2 ** 64, 10 ** 30, 0.5,
            -0.0, 1e308, -1e308, 5e-324, float('nan'), float('inf'),
            float('-inf'), True, False)
_TEXTS = ('', ' ', '\x00', '\n', '.', '..', '/', '@', '%', '%2F', 'None',
          'null', 'é', 'lone \udc80', 'lone \ud800', '\u202e', '主机',
          'x' * 255, 'x' * 5000, '9' * 5000, "'; DROP TABLE services; --")
_ZONES = (None, datetime.timezone.utc,
          datetime.timezone(datetime.timedelta(hours=14)),
          datetime.timezone(datetime.timedelta(hours=-23, minutes=-59)),
          datetime.timezone(datetime.timedelta(hours=23, microseconds=1)))


class Chaos(random.Random):
    """A source of random values. The same seed gives the same values."""

    def often(self, part):
        """Return True for this part of all calls."""
        return self.random() < part

    def bytes_like(self, corpus, tokens=()):
        """Return bytes: one of the corpus, mutated a few times; or noise.

        :param tokens: bytes that mean something in this format
        """
        if self.often(0.05):
            return self.randbytes(self.randrange(200))
        data = bytearray(self.choice(corpus))
        for _ in range(min(self.randint(0, 4), self.randint(0, 8))):
            self._mutate(data, corpus, tokens)
        return bytes(data)

    def _mutate(self, data, corpus, tokens):
        start = self.randint(0, len(data))
        end = min(len(data), start + self.choice((0, 1, 1, 2, 4, 16, 64)))
        kind = self.randrange(8)
        if kind == 0:
            del data[start:end]
        elif kind == 1:
            data[start:end] *= self.choice((2, 3, 40))
        elif kind == 2:
            data[start:start] = self.randbytes(self.choice((1, 2, 8)))
        elif kind == 3:
            data[start:end] = self.choice(tokens or corpus)
        elif kind == 4:
            data[start:end] = str(self.choice(_NUMBERS)).encode()
        elif kind == 5:
            # The head of one and the tail of another.
            other = self.choice(corpus)
            data[start:] = other[self.randint(0, len(other)):]
        elif kind == 6:
            del data[start:]
        elif data:
            at = self.randrange(len(data))
            data[at] ^= 1 << self.randrange(8)

    def text_like(self, corpus):
        """Return a str: one of the corpus, mutated; or odd in another way."""
        if self.often(0.1):
            return self.choice(_TEXTS)
        if self.often(0.1):
            return ''.join(chr(self.choice((
                self.randrange(128), self.randrange(0x110000))))
                for _ in range(self.randrange(20)))
        data = self.bytes_like([text.encode('utf-8', 'surrogatepass')
                                for text in corpus])
        return data.decode('utf-8', 'surrogateescape')

    def moment(self, around):
        """Return a datetime, most often near a naive UTC one."""
        if self.often(0.1):
            return self.choice((
                datetime.datetime.min, datetime.datetime.max,
                datetime.datetime(1970, 1, 1))).replace(
                    tzinfo=self.choice(_ZONES))
        seconds = self.choice((self.uniform(-1, 1), self.uniform(-90, 90),
                               self.uniform(-1e9, 1e9), 60, -60))
        return (around + datetime.timedelta(seconds=seconds)).replace(
            tzinfo=self.choice(_ZONES), fold=self.randrange(2))

    def thing(self, depth=2):
        """Return any value that JSON knows, or rather doesn't like."""
        kind = self.randrange(8 if depth else 5)
        if kind == 0:
            return None
        if kind < 3:
            return self.choice(_NUMBERS)
        if kind < 5:
            return self.choice(_TEXTS)
        if kind < 7:
            return [self.thing(depth - 1) for _ in range(self.randrange(4))]
        return {self.choice(_TEXTS): self.thing(depth - 1)
                for _ in range(self.randrange(4))}

    def json_like(self, corpus, tokens=()):
        """Return bytes that are, or nearly are, a JSON object.

        :param corpus: dicts
        """
        if self.often(0.3):
            return self.bytes_like(
                [json.dumps(value).encode() for value in corpus], tokens)
        return json.dumps(self.dict_like(corpus)).encode()

    def dict_like(self, corpus):
        """Return one of the dicts with some values replaced."""
        made = dict(self.choice(corpus))
        for _ in range(self.randrange(3)):
            name = self.choice([*made, self.choice(_TEXTS)])
            if self.often(0.2):
                made.pop(name, None)
            else:
                made[name] = self.near(made.get(name))
        return made

    def near(self, value):
        """Return a value of the same type, or anything."""
        if self.often(0.3):
            return self.thing()
        if isinstance(value, str):
            return self.text_like([value])
        if isinstance(value, (int, float)):
            return self.choice((*_NUMBERS, value + 1, -value))
        if isinstance(value, list):
            kept = [v for v in value if self.often(0.8)]
            return kept + [self.near(self.choice(value or [None]))
                           for _ in range(self.randrange(3))]
        if isinstance(value, dict) and value:
            return self.dict_like([value])
        return self.thing()
