"""From an encoded picture, whatever its colours, to RGB bytes of one size."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pelap.core.errors import DataError

FORMATS = ("WEBP", "PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM")
"""Naming them spares Pillow, and small pictures half of their time, the trial of all others."""
THUMBNAIL = (1, 1)
"""Decoded at an eighth of its side, a JPEG file shows in a quarter of the time whether it is whole:
all of it is read."""
RARER = ("AVIF", "JPEG2000", "TGA", "ICO", "MPO")
"""Tried where none of FORMATS fits, if Pillow was built with them; others run programs."""


class BrokenPictureError(DataError):
    """A picture that cannot be decoded; others can go on without it.

    Args:
        name: What to call the picture.
        place: The same in few words, for records.
        reason: What is wrong with it.
    """

    def __init__(self, name: str, place: str, reason: str):
        super().__init__(f"{name} cannot be read as a picture: {reason}.")
        self.name = name
        self.place = place
        self.reason = reason


@dataclass(frozen=True)
class EncodedPicture:
    """A picture that is not decoded yet.

    Args:
        content: A picture file, or what stands in one, in one of FORMATS or RARER.
        name: What to call the picture in messages.
        place: The same in few words, for records: the name of its file, or its row.
    """

    content: bytes | Path
    name: str
    place: str

    def decode(self, size: int, resize: bool) -> np.ndarray:
        """Decode the picture.

        Args:
            size: Wanted height and width in pixels.
            resize: Scale the shorter side to `size` (Lanczos) and cut out the centre, instead of
                refusing a picture of another size.

        Returns:
            uint8, shape (size, size, 3).

        Raises:
            BrokenPictureError: If it is broken, no file, or too large to be decoded.
            DataError: If it has another size and `resize` is off.
        """
        picture = self._read(as_thumbnail=False)
        if picture.size != (size, size):
            if not resize:
                raise DataError(
                    f"{self.name} is {picture.width}×{picture.height} pixels, wanted "
                    f"{size}×{size}: add --data.resize to resize and crop such pictures."
                )
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
        return np.asarray(picture)

    def check(self, size: int, resize: bool) -> None:
        """Raise what `decode` would, in less time."""
        if resize:
            self._read(as_thumbnail=True)
        else:
            self.decode(size, resize)

    def _read(self, *, as_thumbnail: bool) -> Image.Image:
        """The picture in RGB; as_thumbnail allows any size."""
        try:
            if isinstance(self.content, Path) and not self.content.is_file():
                # opening a pipe or a device would wait for ever
                raise ValueError("it is no file" if self.content.exists() else "there is no file")
            source = BytesIO(self.content) if isinstance(self.content, bytes) else self.content
            with _open(source) as image:
                if as_thumbnail and image.format == "JPEG":
                    image.draft(None, THUMBNAIL)
                return to_rgb(image)
        except MemoryError:
            raise
        except Image.DecompressionBombError as error:
            reason = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
            raise BrokenPictureError(self.name, self.place, reason) from error
        except OSError as error:
            if error.errno is not None:  # the system's word, not the picture's
                raise DataError(f"{self.name} cannot be read: {error.strerror}.") from error
            raise BrokenPictureError(self.name, self.place, one_line(error)) from error
        except Exception as error:  # Pillow raises a dozen kinds for broken files
            raise BrokenPictureError(self.name, self.place, one_line(error)) from error


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
