"""Every source on pictures the test writes itself, every mistake a user can make, and batches."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.data.load import load_pictures
from pelap.data.photos import PHOTOGRAPHS
from pelap.data.pictures import DecodedPictures, InMemoryPictures, Pictures, epoch_order, to_batch

SIZE = 8
NOTHING_IN_MEMORY = 0.0


def random_picture(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels))


def everything(pictures: Pictures) -> torch.Tensor:
    return pictures.fetch(torch.arange(len(pictures)))


def as_tensor(pixels: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def write_parquet(
    path: Path,
    seeds: range,
    labels: list | None = None,
    image_column: str = "img",
    label_column: str = "label",
    class_names: list[str] | None = None,
) -> None:
    """A parquet file as `datasets` writes it, with or without the names of the classes."""
    import datasets

    columns: dict = {
        image_column: [{"bytes": encode(random_picture(s)), "path": None} for s in seeds]
    }
    features: dict = {image_column: datasets.Image()}
    if labels is not None:
        columns[label_column] = labels
        kind = "string" if isinstance(labels[0], str) else "int64"
        named = class_names is not None
        features[label_column] = (
            datasets.ClassLabel(names=class_names) if named else datasets.Value(kind)
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)


@pytest.fixture(autouse=True)
def quiet_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, no progress bars, and caches that vanish with the test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Twelve pictures of class a and eight of class b, without splits."""
    for index in range(20):
        name = "a" if index < 12 else "b"
        save(tmp_path / "pictures" / name / f"{index:02}.png", random_picture(index))
    return tmp_path / "pictures"


@pytest.fixture
def parquet_folder(tmp_path: Path) -> Path:
    """Twelve train pictures in two files and six test pictures, classes cat, dog, emu."""
    folder, names = tmp_path / "tables", ["cat", "dog", "emu"]
    labels = [0, 1, 2, 0, 1, 2]
    write_parquet(folder / "train-00000-of-00002.parquet", range(6), labels, class_names=names)
    write_parquet(folder / "train-00001-of-00002.parquet", range(6, 12), labels, class_names=names)
    write_parquet(folder / "test-00000-of-00001.parquet", range(12, 18), labels, class_names=names)
    return folder


def folder_config(path: Path, **values) -> DataConfig:
    return DataConfig(source="folder", path=str(path), size=SIZE, **values)


def dataset_config(path: Path | str, **values) -> DataConfig:
    return DataConfig(source="dataset", path=str(path), size=SIZE, **values)


def error_line(config: DataConfig) -> str:
    """The message of the DataError, which has to be one line that ends as a sentence."""
    with pytest.raises(DataError) as caught:
        load_pictures(config, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


class TestPhotos:
    config = DataConfig(size=16, num_train=80, num_test=40)

    def test_counts_and_balance(self):
        splits = load_pictures(self.config, seed=1)
        assert everything(splits.train).shape == (80, 3, 16, 16)
        assert everything(splits.test).dtype == torch.uint8
        assert splits.train.labels.bincount().tolist() == [10] * len(PHOTOGRAPHS)
        assert splits.test.labels.bincount().tolist() == [5] * len(PHOTOGRAPHS)
        assert splits.train.class_names[:2] == ("astronaut", "chelsea")

    def test_default_counts(self):
        splits = load_pictures(DataConfig(size=8), seed=1)
        assert (len(splits.train), len(splits.test)) == (8192, 1024)

    def test_seed_decides(self):
        first, again, other = (everything(load_pictures(self.config, s).train) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("size", [16, 224])
    def test_splits_share_no_column(self, size: int, monkeypatch: pytest.MonkeyPatch):
        """On photographs whose pixels are their own column number, whatever the crop's size."""
        columns = np.broadcast_to((np.arange(450) // 2)[None, :, None], (300, 450, 3))
        monkeypatch.setattr(
            "pelap.data.photos._read_photograph", lambda name: columns.astype(np.uint8)
        )
        splits = load_pictures(replace(self.config, size=size), seed=3)
        train, test = everything(splits.train), everything(splits.test)
        assert train.max() < test.min()
        assert test.max() <= 449 // 2

    def test_too_large(self):
        assert "at most 225 pixels" in error_line(replace(self.config, size=232))


class TestFolder:
    def test_split_folders(self, tmp_path: Path):
        for split, count in (("train", 3), ("val", 2)):
            for label, name in enumerate("ab"):
                for index in range(count):
                    picture = random_picture(10 * label + index)
                    save(tmp_path / split / name / f"{index}.png", picture)
        splits = load_pictures(folder_config(tmp_path), seed=0)
        assert splits.train.class_names == ("a", "b")
        assert splits.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
        assert splits.test.labels.tolist() == [0, 1, 0, 1]
        expected = [random_picture(seed) for seed in (0, 10, 1, 11, 2, 12)]
        assert torch.equal(everything(splits.train), as_tensor(expected))

    def test_seeded_tenth_is_held_out(self, class_folder: Path):
        config = folder_config(class_folder)
        splits, again = load_pictures(config, seed=5), load_pictures(config, seed=5)
        assert (len(splits.train), len(splits.test)) == (18, 2)
        assert torch.equal(everything(splits.test), everything(again.test))
        together = torch.cat([everything(splits.train), everything(splits.test)])
        assert len(together.flatten(1).unique(dim=0)) == 20

    def test_at_least_one_is_held_out(self, tmp_path: Path):
        for index in range(2):
            save(tmp_path / f"{index}.png", random_picture(index))
        splits = load_pictures(folder_config(tmp_path), seed=0)
        assert (len(splits.train), len(splits.test)) == (1, 1)
        assert splits.train.class_names == ("all",)

    def test_first_so_many_hold_all_classes(self, class_folder: Path):
        splits = load_pictures(folder_config(class_folder, num_train=6, num_test=1), seed=5)
        assert (len(splits.train), len(splits.test)) == (6, 1)
        assert set(splits.train.labels.tolist()) == {0, 1}

    def test_other_files_are_left_out(self, class_folder: Path):
        (class_folder / "a" / "notes.txt").write_text("no picture")
        (class_folder / "a" / "._00.png").write_bytes(b"no picture")
        splits = load_pictures(folder_config(class_folder), seed=0)
        assert len(splits.train) + len(splits.test) == 20


class TestDataset:
    def test_parquet_folder(self, parquet_folder: Path):
        splits = load_pictures(dataset_config(parquet_folder), seed=0)
        assert splits.train.class_names == ("cat", "dog", "emu")
        assert splits.train.labels.tolist() == [0, 1, 2] * 4
        assert torch.equal(
            everything(splits.train), as_tensor([random_picture(s) for s in range(12)])
        )
        assert torch.equal(
            everything(splits.test), as_tensor([random_picture(s) for s in range(12, 18)])
        )

    def test_first_so_many(self, parquet_folder: Path):
        config = dataset_config(parquet_folder, num_train=7, num_test=2)
        splits = load_pictures(config, seed=0)
        assert torch.equal(
            everything(splits.train), as_tensor([random_picture(s) for s in range(7)])
        )
        assert splits.test.labels.tolist() == [0, 1]

    def test_columns_by_name(self, tmp_path: Path):
        file = tmp_path / "one.parquet"
        write_parquet(file, range(10), ["x", "y"] * 5, "photo", "kind")
        config = dataset_config(file, image_column="photo", label_column="kind")
        splits = load_pictures(config, seed=0)
        assert splits.train.class_names == ("x", "y")
        assert (len(splits.train), len(splits.test)) == (9, 1)

    def test_numbers_become_classes(self, tmp_path: Path):
        write_parquet(tmp_path / "train.parquet", range(3), [7, 3, 10])
        write_parquet(tmp_path / "test.parquet", range(2), [3, 11])
        splits = load_pictures(dataset_config(tmp_path), seed=0)
        assert splits.train.class_names == ("3", "7", "10", "11")
        assert splits.train.labels.tolist() == [1, 0, 2]
        assert splits.test.labels.tolist() == [0, 3]

    def test_without_labels(self, tmp_path: Path):
        write_parquet(tmp_path / "train.parquet", range(4))
        splits = load_pictures(dataset_config(tmp_path), seed=0)
        assert splits.train.class_names == ("all",)
        assert splits.train.labels.tolist() == [0, 0, 0]

    def test_plain_bytes_without_metadata(self, tmp_path: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        images = [encode(random_picture(seed)) for seed in range(4)]
        pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), tmp_path / "a.parquet")
        splits = load_pictures(dataset_config(tmp_path), seed=0)
        assert splits.train.class_names == ("0", "1")

    def test_local_folder_through_datasets(self, tmp_path: Path):
        for split in ("train", "test"):
            for index, name in enumerate(("a", "b")):
                save(tmp_path / "set" / split / name / "0.png", random_picture(index))
        splits = load_pictures(dataset_config(tmp_path / "set"), seed=0)
        assert splits.train.class_names == ("a", "b")
        expected = [random_picture(label) for label in splits.train.labels.tolist()]
        assert torch.equal(everything(splits.train), as_tensor(expected))


class TestCifar10:
    def test_names_where_the_file_has_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        for split in ("train", "test"):
            write_parquet(tmp_path / "cifar10" / f"{split}.parquet", range(3), [0, 9, 5])
        monkeypatch.setenv("PELAP_DATA", str(tmp_path))
        splits = load_pictures(DataConfig(source="cifar10", size=SIZE), seed=0)
        assert splits.train.class_names[0] == "airplane"
        assert splits.train.class_names[9] == "truck"
        assert splits.test.labels.tolist() == [0, 9, 5]

    def test_path_comes_first(self, parquet_folder: Path):
        config = DataConfig(source="cifar10", path=str(parquet_folder), size=SIZE)
        assert load_pictures(config, seed=0).train.class_names == ("cat", "dog", "emu")

    def test_the_real_one(self, cifar10: Path):
        config = DataConfig(source="cifar10", path=str(cifar10), memory_gb=NOTHING_IN_MEMORY)
        splits = load_pictures(config, seed=0)
        assert splits.train.labels.bincount().tolist() == [5000] * 10
        assert splits.test.labels.bincount().tolist() == [1000] * 10
        assert splits.train.class_names[:4] == ("airplane", "automobile", "bird", "cat")
        assert splits.train.class_names[4:8] == ("deer", "dog", "frog", "horse")
        assert splits.train.class_names[8:] == ("ship", "truck")
        assert splits.train.fetch(torch.tensor([0, 49_999])).shape == (2, 3, 32, 32)

    @pytest.mark.slow
    def test_the_real_one_decoded(self, cifar10: Path):
        splits = load_pictures(DataConfig(source="cifar10", path=str(cifar10)), seed=0)
        means = everything(splits.train).double().mean((0, 2, 3)) / 255
        published = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.double)
        torch.testing.assert_close(means, published, atol=2e-4, rtol=0)


class TestMemory:
    @pytest.mark.parametrize("source", ["photos", "folder", "dataset"])
    def test_both_ways_give_the_same_pixels(
        self, source: str, class_folder: Path, parquet_folder: Path
    ):
        configs = {
            "photos": DataConfig(size=16, num_train=50, num_test=20),
            "folder": replace(folder_config(class_folder, resize=True), size=16),
            "dataset": dataset_config(parquet_folder),
        }
        kept = load_pictures(configs[source], seed=2)
        again = load_pictures(replace(configs[source], memory_gb=NOTHING_IN_MEMORY), seed=2)
        assert isinstance(kept.train, InMemoryPictures)
        assert isinstance(again.train, DecodedPictures)
        for one, other in ((kept.train, again.train), (kept.test, again.test)):
            some = torch.arange(len(one)).flip(0)
            assert torch.equal(one.fetch(some), other.fetch(some))
            assert torch.equal(one.labels, other.labels)
            assert one.labels.dtype == torch.int64

    def test_room_is_counted_over_both_splits(self, parquet_folder: Path):
        room = 18 * 3 * SIZE * SIZE / 1e9
        fits = load_pictures(dataset_config(parquet_folder, memory_gb=room), seed=0)
        assert isinstance(fits.test, InMemoryPictures)
        short = load_pictures(dataset_config(parquet_folder, memory_gb=room - 1e-9), seed=0)
        assert isinstance(short.test, DecodedPictures)

    def test_wrong_size_shows_at_once(self, class_folder: Path):
        config = replace(folder_config(class_folder, memory_gb=NOTHING_IN_MEMORY), size=16)
        assert "--data.resize" in error_line(config)

    def test_more_pictures_than_a_thread_takes_at_once(self):
        config = DataConfig(size=8, num_train=100, num_test=1, memory_gb=NOTHING_IN_MEMORY)
        train = load_pictures(config, seed=0).train
        one_by_one = torch.cat([train.fetch(torch.tensor([index])) for index in range(100)])
        assert torch.equal(everything(train), one_by_one)


def rgba() -> Image.Image:
    """Left half red, right half fully transparent black."""
    pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
    pixels[:, : SIZE // 2] = (255, 0, 0, 255)
    return Image.fromarray(pixels)


def palette() -> Image.Image:
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


def grey16(value: int) -> Image.Image:
    return Image.fromarray(np.full((SIZE, SIZE), value, np.uint16))


COLOURS: dict[str, tuple[Callable[[], Image.Image], str, tuple, tuple]] = {
    # how to make it, file suffix, expected left and right pixel
    "grey": (lambda: Image.new("L", (SIZE, SIZE), 77), "png", (77,) * 3, (77,) * 3),
    "black and white": (lambda: Image.new("1", (SIZE, SIZE), 1), "png", (255,) * 3, (255,) * 3),
    "RGBA": (rgba, "png", (255, 0, 0), (255, 255, 255)),
    "grey with alpha": (lambda: rgba().convert("LA"), "png", (76,) * 3, (255,) * 3),
    "palette": (palette, "png", (10, 20, 30), (10, 20, 30)),
    "16-bit grey": (lambda: grey16(257 * 100), "png", (100,) * 3, (100,) * 3),
    "16-bit white": (lambda: grey16(65535), "tiff", (255,) * 3, (255,) * 3),
    "CMYK": (lambda: Image.new("CMYK", (SIZE, SIZE)), "tiff", (255,) * 3, (255,) * 3),
}


class TestDecoding:
    @pytest.mark.parametrize("kind", COLOURS)
    def test_colours_become_rgb(self, kind: str, tmp_path: Path):
        make, suffix, left, right = COLOURS[kind]
        for index in range(2):
            make().save(tmp_path / f"{index}.{suffix}")
        picture = load_pictures(folder_config(tmp_path), seed=0).train.fetch(torch.tensor([0]))[0]
        assert tuple(picture[:, 3, 0].tolist()) == left
        assert tuple(picture[:, 3, -1].tolist()) == right

    def test_transparent_palette_is_laid_on_white(self, tmp_path: Path):
        for index in range(2):
            palette().save(tmp_path / f"{index}.png", transparency=1)
        train = load_pictures(folder_config(tmp_path), seed=0).train
        assert (everything(train) == 255).all()

    def test_floats_are_refused(self, tmp_path: Path):
        for index in range(2):
            Image.new("F", (SIZE, SIZE)).save(tmp_path / f"{index}.tiff")
        assert "floating-point" in error_line(folder_config(tmp_path))

    def test_sideways_photographs_are_turned(self, tmp_path: Path):
        exif = Image.Exif()
        exif[0x0112] = 3  # orientation: upside down
        pixels = random_picture(0)
        for index in range(2):
            Image.fromarray(pixels).save(tmp_path / f"{index}.png", exif=exif)
        train = load_pictures(folder_config(tmp_path), seed=0).train
        assert torch.equal(everything(train), as_tensor([pixels[::-1, ::-1]]))

    def test_resize_keeps_the_centre(self, tmp_path: Path):
        """Black, white, black thirds: the centre square is white all over."""
        pixels = np.zeros((24, 72, 3), np.uint8)
        pixels[:, 16:56] = 255
        for index in range(2):
            save(tmp_path / f"{index}.png", pixels)
        train = load_pictures(folder_config(tmp_path, resize=True), seed=0).train
        assert (everything(train) == 255).all()

    def test_resize_is_antialiased(self, tmp_path: Path):
        """A checkerboard of single pixels becomes grey, not black or white."""
        board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
        for index in range(2):
            save(tmp_path / f"{index}.png", np.stack([board.astype(np.uint8)] * 3, -1))
        pixels = everything(load_pictures(folder_config(tmp_path, resize=True), seed=0).train)
        assert (pixels.int() - 127).abs().max() < 10


class TestMistakes:
    @pytest.mark.parametrize("source", ["folder", "dataset"])
    def test_no_path(self, source):
        assert "needs --data.path" in error_line(DataConfig(source=source, size=SIZE))

    @pytest.mark.parametrize("source", ["folder", "dataset", "cifar10"])
    def test_missing_path(self, source, tmp_path: Path):
        path = str(tmp_path / "nowhere")
        message = error_line(DataConfig(source=source, path=path, size=SIZE))
        assert path in message
        assert "no such" in message

    def test_empty_folder(self, tmp_path: Path):
        assert f"{tmp_path} holds no pictures" in error_line(folder_config(tmp_path))

    def test_empty_test_folder(self, tmp_path: Path):
        save(tmp_path / "train" / "a" / "0.png", random_picture(0))
        (tmp_path / "test").mkdir()
        assert f"{tmp_path / 'test'} holds no pictures" in error_line(folder_config(tmp_path))

    def test_loose_pictures(self, class_folder: Path):
        save(class_folder / "stray.png", random_picture(0))
        assert "stray.png" in error_line(folder_config(class_folder))

    def test_one_picture_makes_no_two_splits(self, tmp_path: Path):
        save(tmp_path / "only.png", random_picture(0))
        assert "at least 2" in error_line(folder_config(tmp_path))

    def test_broken_file(self, class_folder: Path):
        whole = (class_folder / "a" / "03.png").read_bytes()
        (class_folder / "a" / "03.png").write_bytes(whole[: len(whole) // 2])
        assert str(class_folder / "a" / "03.png") in error_line(
            folder_config(class_folder, strict=True)
        )

    def test_no_picture_at_all(self, class_folder: Path):
        (class_folder / "b" / "15.png").write_text("<html>\nnot found\n</html>")
        assert str(class_folder / "b" / "15.png") in error_line(
            folder_config(class_folder, strict=True)
        )

    def test_wrong_size(self, class_folder: Path):
        save(class_folder / "b" / "15.png", random_picture(0, (10, 12)))
        message = error_line(folder_config(class_folder))
        assert str(class_folder / "b" / "15.png") in message
        assert "12×10 pixels, wanted 8×8" in message
        assert "--data.resize" in message

    @pytest.mark.parametrize(
        ("row", "complaint"), [(b"broken", "cannot be read"), (None, "no picture")]
    )
    def test_broken_row(self, row: bytes | None, complaint: str, tmp_path: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        images = [encode(random_picture(0)), row]
        for split in ("train", "test"):
            pq.write_table(pa.table({"image": images}), tmp_path / f"{split}.parquet")
        message = error_line(dataset_config(tmp_path, strict=True))
        assert message.startswith(f"Row 1 of {tmp_path} (train)")
        assert complaint in message

    def test_missing_columns_are_listed(self, parquet_folder: Path):
        for values in ({"image_column": "photo"}, {"label_column": "photo"}):
            message = error_line(dataset_config(parquet_folder, **values))
            assert "no column photo: there are img, label" in message

    def test_no_known_image_column(self, tmp_path: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"x": [1], "y": [2]}), tmp_path / "train.parquet")
        message = error_line(dataset_config(tmp_path))
        assert "x, y" in message
        assert "--data.image-column" in message

    def test_label_without_class(self, tmp_path: Path):
        write_parquet(tmp_path / "train.parquet", range(2), [0, -1], class_names=["a", "b"])
        assert "label -1 in column label" in error_line(dataset_config(tmp_path))

    def test_empty_table(self, tmp_path: Path):
        write_parquet(tmp_path / "train.parquet", range(0))
        assert "holds no pictures" in error_line(dataset_config(tmp_path))

    def test_no_train_split(self, tmp_path: Path):
        for split in ("test", "validation"):
            write_parquet(tmp_path / f"{split}.parquet", range(2))
        assert "there are test, validation" in error_line(dataset_config(tmp_path))

    def test_broken_parquet(self, tmp_path: Path):
        (tmp_path / "train.parquet").write_bytes(b"PAR1 no parquet PAR1")
        assert str(tmp_path) in error_line(dataset_config(tmp_path))

    def test_folder_that_is_no_dataset(self, tmp_path: Path):
        (tmp_path / "set").mkdir()
        assert str(tmp_path / "set") in error_line(dataset_config(tmp_path / "set"))

    def test_hub_out_of_reach(self):
        message = error_line(dataset_config("nobody-at-all/no-such-set"))
        assert "nobody-at-all/no-such-set" in message
        assert "--data.path" in message

    def test_cifar10_that_is_nowhere_names_the_variable(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("PELAP_DATA", raising=False)
        assert "set PELAP_DATA" in error_line(DataConfig(source="cifar10"))


class TestEpochOrder:
    def test_is_a_permutation(self):
        assert torch.equal(epoch_order(50, 1, 0).sort().values, torch.arange(50))

    def test_depends_on_seed_and_epoch_only(self):
        first = epoch_order(50, 1, 0).clone()
        torch.rand(3)
        others = [epoch_order(50, 1, 1), epoch_order(50, 2, 0), epoch_order(50, 2, 1)]
        assert torch.equal(first, epoch_order(50, 1, 0))
        assert not any(torch.equal(first, other) for other in others)


class TestToBatch:
    def test_range(self):
        pictures = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
        batch = to_batch(pictures, "cpu", None)
        torch.testing.assert_close(batch.flatten(), torch.tensor([-1.0, -0.6, 1.0]))
        assert batch.dtype == torch.float32

    def test_flips_the_marked_ones(self):
        pictures = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
        before = pictures.clone()
        plain = to_batch(pictures, "cpu", None)
        flipped = to_batch(pictures, "cpu", torch.tensor([True, False, False, True]))
        expected = plain.numpy().copy()
        expected[[0, 3]] = expected[[0, 3], :, :, ::-1]
        assert np.array_equal(flipped.numpy(), expected)
        assert torch.equal(pictures, before)
