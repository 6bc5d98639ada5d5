"""Documents as BSON and back, in the way in which every collection reads and writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, cast

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions

CODEC: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    document_class=dict, tz_aware=False, uuid_representation=UuidRepresentation.STANDARD
)
"""The way every collection reads and writes BSON, whatever the application's own client is set
to."""

# They are no functions of Python, which would be a third of the time of a small document. A strict
# checker calls the types of bson's own functions unknown, because they cover every document class.
to_bson: Final[Callable[[Mapping[str, Any]], bytes]] = cast(
    "Any", partial(bson.encode, codec_options=CODEC)
)
"""Return the BSON of a document in stored form."""
from_bson: Final[Callable[[bytes], dict[str, Any]]] = cast(
    "Any", partial(cast("Any", bson).decode, codec_options=CODEC)
)
"""Return the document of such BSON: a new one each time, which shares nothing with others."""
