"""Whether the server in this container is ready, or with `subscriber` the subscriber: the image's HEALTHCHECK.

Of the standard library, so that asking every ten seconds costs little.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

WAIT_S = 3
SERVER = ("MODELMORA_HTTP_PORT", "3000")
SUBSCRIBER = ("MODELMORA_SUBSCRIBER_PORT", "8081")


def main(arguments: list[str]) -> str | None:
    """None, or what is wrong."""
    name, usual = SUBSCRIBER if arguments == ["subscriber"] else SERVER
    url = f"http://127.0.0.1:{os.environ.get(name, usual)}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return None if answer.status == 200 else f"{url} answers {answer.status}"
    except urllib.error.HTTPError as refusal:
        return f"{url} answers {refusal.code}: {refusal.read(500).decode(errors='replace')}"
    except OSError as cause:
        return f"{url} does not answer: {cause}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
