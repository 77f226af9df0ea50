"""Run by the image's build, in its test stage."""

import unittest

from hello.greeting import greeting
from hello.signing import signature


class Hello(unittest.TestCase):
    """The parts that need no network."""

    def test_a_name(self) -> None:
        """Spaces around a name do not count."""
        self.assertEqual(greeting(" Ada ", "1"), "Hello, Ada! This is hello 1.")

    def test_nobody(self) -> None:
        """There is always somebody to greet."""
        self.assertIn("whoever you are", greeting("", "1"))

    def test_the_signature_depends_on_the_key(self) -> None:
        """And not on the newline after it."""
        self.assertNotEqual(signature(b"a", b"data"), signature(b"b", b"data"))
        self.assertEqual(signature(b"a\n", b"data"), signature(b"a", b"data"))


if __name__ == "__main__":
    unittest.main()
