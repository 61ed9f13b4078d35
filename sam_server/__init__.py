"""Segment Anything over HTTP: pictures to masks, masks to groups. This package reads no environment variable."""

import os

__version__ = "0.1.0"

# ONNX Runtime's own builds, from 1.29 on, report to Microsoft which models run, under an identifier that they keep in
# the home directory, unless this is set before they are loaded (https://github.com/microsoft/onnxruntime/pull/27379).
# It stands here since no module of this package can import them before.
os.putenv("ORT_DISABLE_TELEMETRY", "1")
