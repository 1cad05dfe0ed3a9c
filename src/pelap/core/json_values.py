"""What travels as JSON without a record: configs of diffusers and what a result prints."""

from collections.abc import Mapping
from typing import Any

JsonObject = Mapping[str, Any]
"""An object as `json.loads` gives it, whose fields others decide; nobody writes into it."""
