"""The program: greets, serves greetings by HTTP, and checks that it does."""

import http.server
import os
import platform
import sys
import urllib.request

from hello.greeting import greeting
from hello.version import VERSION

PORT = 8080


class Handler(http.server.BaseHTTPRequestHandler):
    """Greets whoever is named by the path."""

    def do_GET(self) -> None:
        """Answers in plain text."""
        body = (greeting(self.path.strip("/"), VERSION) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """`greet NAME`, `serve` or `check`."""
    match sys.argv[1:]:
        case ["greet", *names]:
            print(greeting(" ".join(names), VERSION))
            print(f"Python {platform.python_version()}, user {os.getuid()}, directory {os.getcwd()}")
            with open("motd") as motd:
                print(motd.read(), end="")
        case ["serve"]:
            http.server.ThreadingHTTPServer(("", PORT), Handler).serve_forever()
        case ["check"]:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/check", timeout=2) as answer:
                sys.exit(answer.status != 200)
        case _:
            sys.exit("usage: hello greet NAME | serve | check")
