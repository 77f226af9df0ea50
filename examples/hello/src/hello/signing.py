"""A keyed digest of a file: whoever has the key can tell whether the file is the one that was built."""

import hashlib
import hmac
import sys


def signature(key: bytes, data: bytes) -> str:
    """HMAC-SHA-256, hexadecimal."""
    return hmac.new(key.strip(), data, hashlib.sha256).hexdigest()


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as key, open(sys.argv[2], "rb") as data:
        print(signature(key.read(), data.read()))
