"""A rotation measured alone is the one that the whole analysis measures."""

from dataclasses import replace

import pytest
from test_analysis_planted import SETTINGS, make_pictures, to_system, with_duplicate

from pelap.analysis.channel_analysis import analyze
from pelap.analysis.rotation_analysis import analyze_rotation
from pelap.method.latent_map import Rotation


@pytest.mark.parametrize("kind", ["pca", "decoder"])
def test_a_rotation_alone_is_as_in_the_whole_analysis(kind: Rotation):
    settings = replace(SETTINGS, learned_steps=0, effort="exact")
    whole = analyze(to_system(with_duplicate()), make_pictures(), settings, "planted")
    alone = analyze_rotation(to_system(with_duplicate()), make_pictures(), settings, "a", kind, 2)
    (curve,) = [one for one in whole.rotations if one.kind == kind]
    assert alone.moments == whole.moments
    assert alone.rotations[0].psnr_db[0] == pytest.approx(curve.psnr_db[1], abs=1e-4)
    assert alone.psnr_db == pytest.approx(whole.psnr_db, abs=1e-4)
