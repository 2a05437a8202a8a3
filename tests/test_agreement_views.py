"Views against torchvision, operation by operation and parameter by parameter."
import shutil
from itertools import permutations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from scipy.stats import binomtest, chisquare, ks_2samp, kstest
from torchvision.transforms import ColorJitter, RandomResizedCrop

from simseg import augmentations
from simseg.augmentations import (blur_kernel, draw_colour, draw_views, gaussian_blur, jitter_colour, normalise, random_crops, random_pairs, random_views,
                                  resized_crop, two_views)
from simseg.core import compile_model

STEPS = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
PLAUSIBLE = 1e-4  # least p-value of a draw from the right distribution; a wrong one gives far less


def images(n, size=64, width=None):
    return torch.rand(n, 3, size, width or size, generator=torch.Generator().manual_seed(0))


def near(found, expected, tolerance=1e-5): torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def torchvision_jitter(image, order, factors, grey):
    for step in order.tolist(): image = STEPS[step](image, float(factors[step]))
    return TF.rgb_to_grayscale(image, 3) if grey else image


@pytest.mark.parametrize("size", [37, 64, 224])
def test_crops_are_torchvisions(size):
    boxes = random_crops(40, size, 0.02, torch.Generator().manual_seed(size))
    pictures = images(40, size)
    plain, flipped = (resized_crop(pictures, *boxes, torch.full((40,), flip)) for flip in (False, True))
    for i, box in enumerate(zip(*(side.int().tolist() for side in boxes))):
        theirs = TF.resized_crop(pictures[i], *box, [size, size], antialias=True)
        near(plain[i], theirs, 3e-5)  # torchvision's positions are float32: one of 200 pixels is exact to 1e-5
        near(flipped[i], TF.horizontal_flip(theirs), 3e-5)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_blur_is_torchvisions(size):
    sigma, kernel = torch.tensor([0.1, 0.5, 1.0, 2.0]), 2 * (size // 20) + 1
    found = gaussian_blur(images(4, size), blur_kernel(sigma, size))
    alone = torch.cat([gaussian_blur(image[None], blur_kernel(one[None], size)) for image, one in zip(images(4, size), sigma)])  # of shorter kernels
    for i in range(4): near(torch.stack([found[i], alone[i]]), TF.gaussian_blur(images(4, size)[i], [kernel, kernel], [float(sigma[i])] * 2).expand(2, -1, -1, -1))
    assert torch.equal(gaussian_blur(images(4, size), blur_kernel(torch.zeros(4), size)), images(4, size))
    assert abs(kernel - size / 10) <= 2  # a tenth of the image, as the paper has it


def jittered_both_ways(pictures, strength):
    "Every order, each image with factors of its own, half of them grey at the end: ours and torchvision's."
    generator, n = torch.Generator().manual_seed(0), len(pictures)
    order = torch.tensor(list(permutations(range(4)))).repeat(n // 24, 1)
    factors = 1 + 0.8 * strength * (2 * torch.rand(3, n, generator=generator) - 1)
    turn, grey = 0.2 * strength * (2 * torch.rand(n, generator=generator) - 1), torch.rand(n, generator=generator) < 0.5
    each = zip(pictures, order, torch.cat([factors, turn[None]]).T, grey)
    return jitter_colour(pictures, order, factors, turn, grey), torch.stack([torchvision_jitter(*one) for one in each])


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile wants a C++ compiler on a CPU")
def test_compiled_views_are_the_same():
    pictures = (255 * images(16, 32)).byte()  # a block of 32 views
    compiled = compile_model(jitter_colour, "on", 0, torch.device("cpu"))
    near(*(two_views(pictures, torch.Generator().manual_seed(0), jitter) for jitter in (compiled, jitter_colour)))


def test_jitter_is_torchvisions_in_every_order():
    near(*jittered_both_ways(0.4 + 0.2 * images(96, 16), 0.5))


@pytest.mark.xfail(strict=True, reason="torchvision and the paper's code clamp to [0, 1] after every step, jitter_colour before and after the hue only")
def test_jitter_is_torchvisions_where_colours_are_clamped():
    near(*jittered_both_ways(images(96, 16), 1.0))


def test_inputs_are_scaled_as_torchvision_does():
    pixels = (images(4) * 255).to(torch.uint8)
    scaled = TF.normalize(pixels / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    near(normalise(pixels), scaled)
    near(normalise(pixels / 255), scaled)


@pytest.fixture
def spy(monkeypatch):
    "Record the arguments and the result of each call of one of the module's functions."
    def record(name):
        calls, function = [], getattr(augmentations, name)
        def recording(*args, **how):
            calls.append((args, function(*args, **how)))
            return calls[-1][1]
        monkeypatch.setattr(augmentations, name, recording)
        return calls
    return record


def boxes(drawn): return zip(*(drawn[side].int().tolist() for side in ("top", "left", "height", "width")))


def test_a_view_is_torchvisions_with_the_parameters_drawn(spy):
    "Crop, flip, jitter, greyscale, blur, in that order, each image by itself."
    calls = spy("draw_views")
    pixels = (102 + 51 * images(64)).to(torch.uint8)  # muted, so that nothing is clamped
    views = random_views(pixels, torch.Generator().manual_seed(0), jitter_strength=0.4)
    order, factors, turn, grey, flip, sigma = (calls[0][1][name] for name in ("order", "factors", "turn", "grey", "flip", "sigma"))
    for i, box in enumerate(boxes(calls[0][1])):
        view = TF.resized_crop(pixels[i] / 255, *box, [64, 64], antialias=True)
        view = torchvision_jitter(TF.horizontal_flip(view) if flip[i] else view, order[i], [*factors[i], turn[i]], grey[i])
        near(views[i], TF.gaussian_blur(view, [7, 7], [float(sigma[i])] * 2) if sigma[i] else view)


def test_a_pair_is_torchvisions_with_the_parameters_drawn(spy):
    "The mask is read at the nearest pixel of the same crop and flip."
    calls = spy("_in_blocks")
    pixels, trimaps = (images(64) * 255).to(torch.uint8), (1 + 3 * images(64)[:, 0]).to(torch.uint8)
    views, masks = random_pairs(pixels, trimaps, torch.Generator().manual_seed(0), jitter_strength=0.0)
    drawn = calls[0][0][2]
    flip = drawn["flip"]
    assert 20 < flip.sum() < 44
    for i, box in enumerate(boxes(drawn)):
        view = TF.resized_crop(pixels[i] / 255, *box, [64, 64], antialias=True)
        mask = TF.resized_crop(trimaps[i : i + 1], *box, [64, 64], interpolation=TF.InterpolationMode.NEAREST_EXACT)[0]
        near(views[i], TF.horizontal_flip(view) if flip[i] else view)
        assert torch.equal(masks[i], TF.horizontal_flip(mask) if flip[i] else mask)


@pytest.mark.parametrize("size, min_scale", [(64, 0.08), (224, 0.08), (224, 0.5)])
def test_crops_are_drawn_as_torchvision_draws_them(size, min_scale):
    torch.manual_seed(0)
    picture = torch.empty(3, size, size)
    theirs = np.array([RandomResizedCrop.get_params(picture, [min_scale, 1.0], [3 / 4, 4 / 3]) for _ in range(10_000)]).T
    ours = torch.stack(random_crops(10_000, size, min_scale, torch.Generator().manual_seed(0))).numpy()
    def features(top, left, height, width):
        return {"area": height * width, "ratio": width / height, "height": height, "width": width, "top": top, "left": left,
                "top of room": (top + 0.5) / (size - height + 1), "left of room": (left + 0.5) / (size - width + 1)}
    for name, values in features(*ours).items(): assert ks_2samp(values, features(*theirs)[name]).pvalue > PLAUSIBLE, name


@pytest.mark.parametrize("strength", [0.4, 1.0, 1.5])
def test_jitter_is_drawn_as_torchvision_draws_it(strength):
    torch.manual_seed(0)
    ranges = [tuple(r) if r else None for r in (lambda j: (j.brightness, j.contrast, j.saturation, j.hue))(ColorJitter(*[0.8 * strength] * 3, 0.2 * strength))]
    theirs = [ColorJitter.get_params(*ranges) for _ in range(10_000)]
    drawn = draw_colour(20_000, torch.Generator().manual_seed(0), strength)
    order, factors, turn, grey = (drawn[name] for name in ("order", "factors", "turn", "grey"))
    factors = factors.T
    jittered = (factors != 1).all(0)
    assert torch.equal(jittered, (factors != 1).any(0)) and torch.equal(jittered, turn != 0)
    for share, expected in ((jittered, 0.8), (grey, 0.2), (grey[jittered], 0.2)): assert binomtest(int(share.sum()), len(share), expected).pvalue > PLAUSIBLE
    for i, ours in enumerate([*factors, turn]): assert ks_2samp(ours[jittered].numpy(), [one[1 + i] for one in theirs]).pvalue > PLAUSIBLE, STEPS[i].__name__
    assert np.abs(np.corrcoef(torch.cat([factors, turn[None]])[:, jittered])[np.triu_indices(4, 1)]).max() < 0.03
    _, orders = np.unique(order[jittered].numpy(), axis=0, return_counts=True)
    assert len(orders) == 24 and chisquare(orders).pvalue > PLAUSIBLE


def test_flip_and_blur_come_for_half_of_the_views():
    flip, sigma = (draw_views(5000, 20, torch.Generator().manual_seed(0))[name] for name in ("flip", "sigma"))
    blurred = sigma > 0
    for some in (flip, blurred, flip[blurred]): assert binomtest(int(some.sum()), len(some)).pvalue > PLAUSIBLE
    assert kstest(sigma[blurred].numpy(), "uniform", (0.1, 1.9)).pvalue > PLAUSIBLE
