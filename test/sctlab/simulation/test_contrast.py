import numpy as np

from sctlab.simulation.contrast import draw_contrast
from sctlab.simulation.fractions import Channel
from sctlab.simulation.tissues import Tissue


def patch():
    maps = np.zeros((6, 3, 48, 64), np.uint8)
    maps[Channel.TEXTURE] = 128
    maps[Channel.HOST], maps[Channel.AIR] = Tissue.AIR, 255
    maps[Channel.HOST, :, 8:40, 8:56], maps[Channel.AIR, :, 8:40, 8:56] = Tissue.MUSCLE, 0
    maps[Channel.FAT, :, 8:40, 8:24] = 250
    maps[Channel.HOST, :, 16:32, 32:48] = Tissue.LIVER
    return maps


def test_the_same_random_numbers_give_the_same_image_and_others_another_contrast():
    images = [draw_contrast(patch(), np.random.default_rng(s)) for s in (1, 1, *range(2, 30))]
    assert np.array_equal(images[0], images[1])
    for image in images:
        assert image.dtype == np.float32
        assert image.shape == (3, 48, 64)
        assert np.isfinite(image).all()
        assert image.min() >= 0
    ratios = [i[1, 20:28, 36:44].mean() / i[1, 12:16, 28:52].mean() for i in images]  # liver to muscle
    assert min(ratios) < 1 < 1.5 < max(ratios)
    fat = [i[1, 12:36, 12:20].mean() / i[1, 12:16, 28:52].mean() for i in images]
    assert min(fat) < 0.6 < 2 < max(fat)


def test_random_contrasts_can_be_had_alone():
    images = [draw_contrast(patch(), np.random.default_rng(s), random_share=1.0) for s in range(30)]
    ratios = [i[1, 20:28, 36:44].mean() / i[1, 12:16, 28:52].mean() for i in images]
    assert min(ratios) < 0.5 < 2 < max(ratios)
