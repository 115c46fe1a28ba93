"""Runner workers, and the API's side of them."""

import os

# Read once, when onnxruntime is imported, and whoever imports it comes by here first: unless told otherwise it reports
# its use to its maker, by a thread that would not survive the fork of the engine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
