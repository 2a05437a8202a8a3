"""How many SimCLR views a second? simseg against lightly's transform and torchvision's v2 transforms image by image,
and kornia's batch-wise.

Everyone starts from decoded pixels in memory and ends with normalised float tensors. One thread by default, so the
rates are per core; with --device cuda, simseg's and kornia's views are drawn on the GPU and the others on a core.

    python benchmarks/bench_views.py
"""
import time

import kornia.augmentation as K
import torch
from common import alternate, finish, parse, synchronise
from lightly.transforms import SimCLRTransform
from PIL import Image
from torchvision.transforms import v2

from simseg.augmentations import IMAGENET_MEAN, IMAGENET_STD, jitter_colour, two_views
from simseg.core import compile_model, make_accelerator
from simseg.synthetic import draw_synthetic


def torchvision_view(size: int) -> v2.Transform:
    "SimCLR's view of one image."
    return v2.Compose([
        v2.RandomResizedCrop(size, scale=(0.08, 1), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(2 * (size // 20) + 1, (0.1, 2.0))], 0.5),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ])


def kornia_view(size: int) -> torch.nn.Module:
    "SimCLR's view of each image of a batch."
    kernel = 2 * (size // 20) + 1
    return torch.nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.08, 1)),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5),
        K.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)),
    )


def contestants(size: int, batch: int, device: torch.device) -> dict:  # name → function that draws and says how many
    "Every way to draw the views of the same images."
    pixels = torch.from_numpy(draw_synthetic(batch, size).images)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    some = range(max(1, batch // 8))  # for those that draw one image after the other
    on_device = pixels.to(device)
    generator = torch.Generator(device).manual_seed(0)
    jitter = compile_model(jitter_colour, "on", 0, device)
    lightly = SimCLRTransform(input_size=size)
    per_image = torchvision_view(size)
    batched = kornia_view(size)

    def simseg(): return len(two_views(on_device, generator))

    def simseg_compiled(): return len(two_views(on_device, generator, jitter))  # as with compile=on

    def lightlys(): return sum(len(lightly(pictures[i])) for i in some)

    def torchvisions(): return len([per_image(pixels[i]) for i in some for _ in range(2)])

    def kornias(): return len(batched(torch.cat([on_device, on_device]).float() / 255))

    return {"simseg": simseg, "simseg, compiled": simseg_compiled, "lightly": lightlys, "torchvision v2": torchvisions,
            "kornia": kornias}


def rate(draw, seconds: float, device: torch.device):
    """A function that draws for some seconds and gives views per second.

    On a CPU, of the time that this process had it, so that other work on the machine counts less.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def measure():
        synchronise(device)
        start = clock()
        count = 0
        while clock() - start < seconds:
            count += draw()
            synchronise(device)
        return count / (clock() - start)

    draw()
    return measure


if __name__ == "__main__":
    torch.set_num_threads(1)
    args = parse(__doc__, sizes=[32, 64, 128, 224], batch=64, seconds=2.0, rounds=5)
    device = make_accelerator(args.device).device
    rows = []
    for size in args.sizes:
        draws = contestants(size, args.batch, device)
        rates = {name: rate(draw, args.seconds, device) for name, draw in draws.items()}
        rows += alternate({"pixels": size}, rates, "views/s", args.rounds)
    finish("views", rows, args)
