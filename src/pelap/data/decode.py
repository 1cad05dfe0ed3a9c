"""From an encoded picture, whatever its colours, to RGB bytes of one size."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pelap.core.errors import DataError

FORMATS = ("WEBP", "PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM")
"""Naming them spares Pillow, and small pictures half of their time, the trial of all others."""
RARER = ("AVIF", "JPEG2000", "TGA", "ICO", "MPO")
"""Tried where none of FORMATS fits, if Pillow was built with them; others run programs."""


def decode_picture(encoded: bytes | Path, name: str, size: int, resize: bool) -> np.ndarray:
    """Decode one picture.

    Args:
        encoded: A picture file, or its content, in one of FORMATS or RARER.
        name: What to call the picture in messages.
        size: Wanted height and width in pixels.
        resize: Scale the shorter side to `size` (Lanczos) and cut out the centre, instead of
            refusing a picture of another size.

    Returns:
        uint8, shape (size, size, 3).

    Raises:
        DataError: If the picture is broken, or has another size and `resize` is off.
    """
    try:
        source = BytesIO(encoded) if isinstance(encoded, bytes) else encoded
        with _open(source) as image:
            picture = to_rgb(image)
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise DataError(f"{name} cannot be read as a picture: {one_line(error)}.") from error
    if picture.size != (size, size):
        if not resize:
            raise DataError(
                f"{name} is {picture.width}×{picture.height} pixels, wanted {size}×{size}: "
                "add --data.resize to resize and crop such pictures."
            )
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _open(source: BytesIO | Path) -> Image.Image:
    try:
        return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        Image.init()
        rarer = [name for name in RARER if name in Image.OPEN]
        if isinstance(source, BytesIO):
            source.seek(0)
        return Image.open(source, formats=rarer)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture upright (which `image` becomes in place) and in mode RGB.

    Transparent pictures are laid on white; 16-bit grey is scaled to 8 bits; the rest (grey,
    palette, CMYK, ...) is converted as Pillow does.

    Raises:
        ValueError: If the pixels are floating-point numbers, whose range nobody can know.
        OSError: If the file is broken.
    """
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image).clip(0, 65535)
        image = Image.fromarray((grey / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def one_line(error: BaseException, limit: int = 200) -> str:
    """The error's message without line breaks or full stop, cut to `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= limit else text[: limit - 1] + "…").rstrip(".")
