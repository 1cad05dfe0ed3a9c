"""What a call that was killed left half written is written again by the same call."""

from pathlib import Path

import pytest
from PIL import Image

from pelap.core.errors import ConfigError
from pelap.measure import run_sampling
from pelap.measure.run_sampling import check_output, save_images


def test_half_a_folder_of_pictures_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = [Image.new("RGB", (4, 4))] * 3
    real = run_sampling.write_whole

    def killed(path: Path, content: bytes) -> None:
        if path.name == "00001.png":
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(run_sampling, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        save_images(images, 2, tmp_path / "s")
    monkeypatch.undo()
    check_output(tmp_path / "s")
    save_images(images, 2, tmp_path / "s")
    names = [path.name for path in sorted((tmp_path / "s").iterdir())]
    assert names == ["00000.png", "00001.png", "00002.png"]
    with pytest.raises(ConfigError, match="exists already"):
        check_output(tmp_path / "s")
